"""What vLLM is started with for a job, and what it cannot serve: decided before anything is loaded.

In: the base model's directory, the training and sampler sections of the config, the bytes that are free.
Out: `EngineSettings`, with the twin of an NF4 base written where one is served.
Refuses: ranks and targets vLLM has no kernels for, a context longer than the model's, keys and values that do not hold
    one context, 4-bit kernels on a CPU.
Not here: starting it (`vllm_engine.py`).
"""

import json
import os
import re
from pathlib import Path
from typing import Final, Literal

import torch

from spice_enterprise.config import SamplerConfig, TrainingConfig
from spice_enterprise.errors import ConfigError
from spice_enterprise.training.base_model import BaseModel
from spice_enterprise.training.memory import BYTES_PER_WEIGHT, FLOAT32_BYTES, ModelShape
from spice_enterprise.training.qlora import pick_compute_dtype
from spice_enterprise.training.twin import write_twin
from spice_enterprise.training.vllm_engine import HELD_ADAPTERS, LAYERS, EngineSettings

RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves memory for; one in between takes the next larger."""
MEMINFO: Final = Path("/proc/meminfo")
CPU_KV_BYTES: Final = 4 << 30
"""Most bytes of keys and values on a CPU unless the config says otherwise."""

Dtype = Literal["bfloat16", "float32"]


def engine_settings(
    base: BaseModel, *, training: TrainingConfig, sampler: SamplerConfig, cache_dir: Path, free_bytes: int
) -> EngineSettings:
    """Return what to start vLLM with.

    Args:
        base: the base model, checked.
        training: the learner's section: rank, targets, how it holds the base.
        sampler: the sampler's section.
        cache_dir: where a twin is kept.
        free_bytes: memory that the engine may take for keys and values besides its weights.

    Raises:
        ConfigError: E_LORA_RANK, E_LORA_TARGETS, E_CONTEXT, E_MEMORY, E_SAMPLER_WEIGHTS.
    """
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    rank = served_rank(training.lora_rank)
    require_servable_targets(training.lora_targets)
    require_context(sampler.max_context_tokens, config.get("max_position_embeddings"))
    is_nf4 = wants_nf4(training, sampler)
    learner_dtype = _name(pick_compute_dtype(training.compute_dtype))
    dtype: Dtype = learner_dtype if sampler.dtype == "auto" else sampler.dtype
    per_token = ModelShape.from_config(config).kv_bytes_per_token(int(BYTES_PER_WEIGHT[dtype]))
    kv_bytes = pick_kv_bytes(sampler.kv_cache_mib, free_bytes=free_bytes)
    require_kv_room(kv_bytes, needed_bytes=per_token * sampler.max_context_tokens)
    path = base.path
    if training.quantization == "nf4" and not is_nf4:
        path = write_twin(base, cache_dir=cache_dir, learner_dtype=getattr(torch, learner_dtype), dtype=getattr(torch, dtype))
    return EngineSettings(
        model_path=path,
        dtype=dtype,
        max_context_tokens=sampler.max_context_tokens,
        kv_bytes=kv_bytes,
        max_rank=rank,
        is_nf4=is_nf4,
    )


def shelf_bytes(base: BaseModel, rank: int) -> int:
    """Return what the adapters take that lie ready at one time."""
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    return HELD_ADAPTERS * FLOAT32_BYTES * ModelShape.from_config(config).lora_parameters(rank)


def served_rank(rank: int) -> int:
    """Return the rank that vLLM reserves for an adapter of `rank`. Raises `ConfigError` (E_LORA_RANK)."""
    fitting = [served for served in RANKS if served >= rank]
    if not fitting:
        raise ConfigError(
            f"training.lora_rank: vLLM serves no rank above {RANKS[-1]}",
            code="E_LORA_RANK",
            hint="lower it, or set sampler.kind: hf",
        )
    return fitting[0]


def require_servable_targets(targets: tuple[str, ...]) -> None:
    """Raise `ConfigError` (E_LORA_TARGETS) naming the first map that vLLM serves no adapter of."""
    wrong = [name for name in targets if name != "all-linear" and name.rpartition(".")[2] not in LAYERS]
    if wrong:
        raise ConfigError(
            f"training.lora_targets: vLLM serves no adapter of {wrong[0]!r}",
            code="E_LORA_TARGETS",
            hint=f"choose from all-linear, {', '.join(LAYERS)}, or set sampler.kind: hf",
        )


def require_context(max_context_tokens: int, model_tokens: int | None) -> None:
    """Raise `ConfigError` (E_CONTEXT) when the model was not made for so long a context."""
    if model_tokens is not None and max_context_tokens > model_tokens:
        raise ConfigError(
            f"sampler.max_context_tokens: {max_context_tokens}, and the base model takes {model_tokens}",
            code="E_CONTEXT",
            hint=f"set it to {model_tokens} or less",
        )


def wants_nf4(training: TrainingConfig, sampler: SamplerConfig) -> bool:
    """True when vLLM holds the base in 4 bits. Raises `ConfigError` (E_SAMPLER_WEIGHTS) where that cannot be."""
    if sampler.weights == "shared":
        raise _weights("shared", "vLLM has weights of its own", "set sampler.weights: twin")
    if sampler.weights != "nf4":
        return False
    if training.quantization != "nf4":
        raise _weights("nf4", "the learner's base is not quantised", "set sampler.weights: auto")
    if not torch.cuda.is_available():
        raise _weights("nf4", "vLLM has 4-bit kernels for CUDA only", "set sampler.weights: twin")
    return True


def pick_kv_bytes(kv_cache_mib: int | None, *, free_bytes: int) -> int:
    """Return the bytes of keys and values: as configured, else half of what is free, at most 4 GiB on a CPU."""
    if kv_cache_mib is not None:
        return kv_cache_mib << 20
    half = free_bytes // 2
    return half if torch.cuda.is_available() else min(half, CPU_KV_BYTES)


def free_bytes() -> int:
    """Return the memory that is free for an engine: the accelerator's, else the machine's."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    found = re.search(r"^MemAvailable: +(\d+) kB$", MEMINFO.read_text(), re.MULTILINE) if MEMINFO.is_file() else None
    return int(found[1]) << 10 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_kv_room(kv_bytes: int, *, needed_bytes: int) -> None:
    """Raise `ConfigError` (E_MEMORY) when keys and values do not hold one longest context."""
    if kv_bytes < needed_bytes:
        raise ConfigError(
            f"keys and values have {kv_bytes / 2**20:.0f} MiB, and one context needs {needed_bytes / 2**20:.0f} MiB",
            code="E_MEMORY",
            hint="raise sampler.kv_cache_mib or lower sampler.max_context_tokens",
        )


def _name(dtype: torch.dtype) -> Dtype:
    return "bfloat16" if dtype == torch.bfloat16 else "float32"


def _weights(setting: str, why: str, hint: str) -> ConfigError:
    return ConfigError(f"sampler.weights: {setting}: {why}", code="E_SAMPLER_WEIGHTS", hint=hint)
