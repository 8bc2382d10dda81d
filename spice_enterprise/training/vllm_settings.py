"""What vLLM is started with for a job.

In: the base model's directory, the training and sampler sections of the config, the bytes for keys and values.
Out: `EngineSettings`, with the twin of an NF4 base written where one is served.
Refuses: keys and values that do not hold one context.
Not here: starting it (`vllm_engine.py`); ranks, targets, contexts and weights it cannot serve (`settings_check.py`).
"""

from pathlib import Path
from typing import Literal

import torch

from spice_enterprise.config import SamplerConfig, TrainingConfig
from spice_enterprise.errors import ConfigError
from spice_enterprise.training.base_model import BaseModel, read_model_config
from spice_enterprise.training.fitting import CPU_KV_BYTES
from spice_enterprise.training.memory import BYTES_PER_WEIGHT, FLOAT32_BYTES, ModelShape
from spice_enterprise.training.qlora import pick_compute_dtype
from spice_enterprise.training.settings_check import served_rank
from spice_enterprise.training.twin import write_twin
from spice_enterprise.training.vllm_engine import HELD_ADAPTERS, EngineSettings

Dtype = Literal["bfloat16", "float32"]


def engine_settings(
    base: BaseModel, *, training: TrainingConfig, sampler: SamplerConfig, cache_dir: Path, kv_bytes: int
) -> EngineSettings:
    """Return what to start vLLM with.

    Args:
        base: the base model, checked.
        training: the learner's section: rank, targets, how it holds the base.
        sampler: the sampler's section.
        cache_dir: where a twin is kept.
        kv_bytes: memory for keys and values, besides the weights.

    Raises:
        ConfigError: E_MEMORY.
    """
    is_nf4 = sampler.weights == "nf4"
    learner_dtype = _name(pick_compute_dtype(training.compute_dtype))
    dtype: Dtype = learner_dtype if sampler.dtype == "auto" else sampler.dtype
    per_token = ModelShape.from_config(read_model_config(base.path)).kv_bytes_per_token(int(BYTES_PER_WEIGHT[dtype]))
    require_kv_room(kv_bytes, needed_bytes=per_token * sampler.max_context_tokens)
    path = base.path
    if training.quantization == "nf4" and not is_nf4:
        path = write_twin(base, cache_dir=cache_dir, learner_dtype=getattr(torch, learner_dtype), dtype=getattr(torch, dtype))
    return EngineSettings(
        model_path=path,
        dtype=dtype,
        max_context_tokens=sampler.max_context_tokens,
        kv_bytes=kv_bytes,
        max_rank=served_rank(training.lora_rank),
        is_nf4=is_nf4,
    )


def adapter_bytes(base: BaseModel, rank: int) -> int:
    """Return what one adapter takes."""
    return FLOAT32_BYTES * ModelShape.from_config(read_model_config(base.path)).lora_parameters(rank)


def shelf_bytes(base: BaseModel, rank: int) -> int:
    """Return what the adapters take that lie ready at one time."""
    return HELD_ADAPTERS * adapter_bytes(base, rank)


def pick_kv_bytes(kv_cache_mib: int | None, *, free_bytes: int) -> int:
    """Return the bytes of keys and values: as configured, else half of what is free, at most 4 GiB on a CPU."""
    if kv_cache_mib is not None:
        return kv_cache_mib << 20
    half = free_bytes // 2
    return half if torch.cuda.is_available() else min(half, CPU_KV_BYTES)


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
