"""Whether a job fits this machine, and how: settings and free memory in, a layout out.

In: a `JobConfig`, the base model's dimensions; what is free, measured here unless given.
Out: the workload that the settings mean; the layout to run with.
Refuses: a machine too small, with the arithmetic, before anything is loaded.
Not here: the arithmetic itself (`memory.py`), contradictions between settings (`settings_check.py`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

from spice_enterprise.config import JobConfig
from spice_enterprise.training.memory import (
    BYTES_PER_WEIGHT,
    CPU_BATCH_TOKENS,
    CPU_ROW_TOKENS,
    SAMPLER_KV_BYTES,
    ComputeType,
    MemoryPlan,
    ModelShape,
    WeightForm,
    Workload,
    choose_layout,
    weight_bytes,
)

TEMPLATE_TOKENS: Final = {"short": 200, "full": 1200}
"""What a prompt of a contract holds besides its passages, roughly."""
CPU_KV_BYTES: Final = 4 << 30
"""Most that vLLM holds on a CPU unless the config says otherwise."""
GPU_KV_TOKENS: Final = 250_000
"""Positions that keep vLLM busy on one GPU; fewer make it slower, not wrong."""
GPU_DRIVER: Final = Path("/proc/driver/nvidia/version")
CONTROL_GROUP: Final = Path("/sys/fs/cgroup")
MEMORY_FILE: Final = Path("/proc/meminfo")


def require_memory(
    config: JobConfig, shape: ModelShape, *, available_bytes: int | None = None, beside: ModelShape | None = None
) -> MemoryPlan:
    """Return the layout to run with. Raises `ConfigError` (E_MEMORY) with the arithmetic when there is none.

    `available_bytes`: of the device; None measures what is free now. `beside`: a second model held next to the learner; what
    it takes is not available.
    """
    is_gpu, free = free_memory()
    work = workload_of(config, shape, is_gpu=is_gpu)
    taken = 0 if beside is None else weight_bytes(beside, work.form, work.compute)
    return choose_layout(shape, work, available_bytes=(available_bytes or free) - taken)


def workload_of(config: JobConfig, shape: ModelShape, *, is_gpu: bool) -> Workload:
    """Return what the settings ask of a device."""
    config = config.sized(shape.weights)
    training = config.training
    compute = _compute(training.compute_dtype, is_gpu=is_gpu)
    is_packed = training.dequantise == "never" or (training.dequantise == "auto" and is_gpu)
    asked, answered = _group_tokens(config)
    step = config.selfplay.chunks_per_step * (asked + config.selfplay.max_tasks * answered)
    on_cpu = max(CPU_BATCH_TOKENS, min(CPU_ROW_TOKENS, max(asked, answered)))
    batch = min(training.max_batch_tokens if is_gpu else on_cpu, step)
    learner = Workload(
        form="nf4" if training.quantization == "nf4" and is_packed else compute,
        compute=compute,
        rank=training.lora_rank,
        batch_tokens=batch,
        head_tokens=batch if is_gpu else min(batch, _most_written(config)),
        is_checkpointed=training.activation_checkpointing == "always" or (training.activation_checkpointing == "auto" and is_gpu),
        is_gpu=is_gpu,
        kv_tokens=0,
        least_kv_tokens=max(asked, answered),
    )
    return learner if config.sampler.kind == "server" else _with_sampler(learner, config, shape)


def _with_sampler(learner: Workload, config: JobConfig, shape: ModelShape) -> Workload:
    """Return the workload of learner and sampler in one process."""
    sampler, is_vllm = config.sampler, config.sampler.kind == "vllm"
    compute = learner.compute if sampler.dtype == "auto" else sampler.dtype
    has_own = is_vllm or sampler.weights == "twin"
    form: WeightForm = "nf4" if sampler.weights == "nf4" else compute
    per_token = shape.kv_bytes_per_token(int(BYTES_PER_WEIGHT[compute]))
    return replace(
        learner,
        sampler=form if has_own else None,
        sampler_compute=compute,
        kv_tokens=_vllm_kv_tokens(config, per_token, is_gpu=learner.is_gpu) if is_vllm else SAMPLER_KV_BYTES // per_token,
        least_kv_tokens=max(learner.least_kv_tokens, sampler.max_context_tokens) if is_vllm else learner.least_kv_tokens,
        keeps_kv=is_vllm or config.training.max_staleness > 0,
        may_release=is_vllm and learner.is_gpu and config.training.max_staleness == 0,
        may_pack=is_vllm and learner.is_gpu and sampler.weights == "auto" and learner.form == "nf4",
    )


def _vllm_kv_tokens(config: JobConfig, per_token: int, *, is_gpu: bool) -> int:
    if config.sampler.kv_cache_mib is not None:
        return (config.sampler.kv_cache_mib << 20) // per_token
    return GPU_KV_TOKENS if is_gpu else CPU_KV_BYTES // per_token


def prompt_tokens(config: JobConfig) -> int:
    """Return about how long the longest prompt of a sized config is: its passages in their template."""
    play = config.selfplay
    passages = 1 + (play.distractor_passages if "open_book" in play.regimes else 0)
    return passages * config.ingest.chunk_tokens + TEMPLATE_TOKENS["full" if play.contract == "full" else "short"]


def new_tokens(config: JobConfig) -> int:
    """Return the most tokens of a sized config that are written after one prompt."""
    return max(config.selfplay.challenger_tokens, config.selfplay.reasoner_tokens, config.exam.answer_tokens)


def free_memory() -> tuple[bool, int]:
    """Return (is there a GPU, bytes free on it or else in memory)."""
    if has_gpu():
        import torch  # noqa: PLC0415 - seconds to import, and needed for this alone

        if torch.cuda.is_available():
            return True, int(torch.cuda.mem_get_info()[0])
    return False, free_host_bytes()


def free_host_bytes() -> int:
    """Return what `MemAvailable` says, or what a container's limit leaves; a very large number where neither is known."""
    try:
        lines = MEMORY_FILE.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 1 << 62)
    return min(free, _left_in_container())


def _left_in_container() -> int:
    """Return what the limit of the control group (v2) leaves; a very large number without one."""
    try:
        limit, used = ((CONTROL_GROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return 1 << 62
    return max(0, int(limit) - int(used)) if limit.isdecimal() else 1 << 62


def has_gpu() -> bool:
    """True when an NVIDIA driver is loaded; no library is."""
    return GPU_DRIVER.exists()


def _group_tokens(config: JobConfig) -> tuple[int, int]:
    """Return the packed positions of a challenger group and of a reasoner group."""
    play, prompt = config.selfplay, prompt_tokens(config)
    return prompt + play.challenger_group * play.challenger_tokens, prompt + play.reasoner_group * play.reasoner_tokens


def _most_written(config: JobConfig) -> int:
    """Return the completion tokens of the larger group."""
    play = config.selfplay
    return max(play.challenger_group * play.challenger_tokens, play.reasoner_group * play.reasoner_tokens)


def _compute(setting: str, *, is_gpu: bool) -> ComputeType:
    return "bfloat16" if setting == "bfloat16" or (setting == "auto" and is_gpu) else "float32"
