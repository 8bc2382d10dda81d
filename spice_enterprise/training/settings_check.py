"""Settings of the engine that contradict each other, the base model or the machine.

In: a `JobConfig`; the base model's `config.json` when it is known; whether there is a GPU.
Out: every problem, each with the setting, a code and what to do.
Refuses: a job with such settings (`check_engine`); the plan shows the same lines.
Not here: settings that are impossible by themselves (`config.py`), what only loading can show (`qlora.py`).
"""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from spice_enterprise.config import JobConfig
from spice_enterprise.errors import ConfigError
from spice_enterprise.training.fitting import has_gpu, new_tokens, prompt_tokens
from spice_enterprise.training.memory import ModelShape
from spice_enterprise.training.server_token import token_path

SERVED_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves memory for; one in between takes the next larger. The config allows none above."""
ALL_LINEAR: Final = "all-linear"
SEPARATE_MAPS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LINEAR_MAPS: Final[Mapping[str, tuple[str, ...]]] = {
    "llama": SEPARATE_MAPS,
    "mistral": SEPARATE_MAPS,
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "qwen2": SEPARATE_MAPS,
    "qwen3": SEPARATE_MAPS,
}
"""By `model_type`: the linear maps an adapter can be on. vLLM serves an adapter on each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One contradiction, in one line."""

    setting: str
    what: str
    hint: str
    code: str = "E_CONFIG"

    def __str__(self) -> str:
        return f"{self.setting}: {self.what}; {self.hint}"


def check_engine(config: JobConfig, model: Mapping[str, Any] | None = None) -> None:
    """Raise `ConfigError` with every problem, under the code of the first, unless the settings fit together."""
    problems = (*engine_problems(config, model, is_gpu=has_gpu()), *missing_parts(config))
    if problems:
        first, rest = problems[0], len(problems) - 1
        more = f" (and {rest} more)" if rest else ""
        raise ConfigError(
            f"{first.setting}: {first.what}{more}", code=first.code, hint=first.hint, problems=tuple(str(p) for p in problems)
        )


def engine_problems(config: JobConfig, model: Mapping[str, Any] | None, *, is_gpu: bool) -> Iterator[Problem]:
    """Yield what cannot work. `model`: the fields of the base model's `config.json`, None when it is not here yet."""
    yield from _weights(config, is_gpu=is_gpu)
    yield from _overlap(config)
    yield from _roles(config)
    yield from _targets(config, model or {})
    yield from _context(config, model or {})
    yield from _grounding(config.sized(weights_of(model)))


def weights_of(model: Mapping[str, Any] | None) -> int:
    """Return about how many weights a model has, from its `config.json`; 0 when that is not known yet."""
    return ModelShape.from_config(model).weights if model and "hidden_size" in model else 0


def _grounding(config: JobConfig) -> Iterator[Problem]:
    if config.selfplay.grounding == "none" and "open_book" in config.selfplay.regimes:
        what = "none: the Challenger sees no document, and in open_book the Reasoner would"
        yield Problem(setting="selfplay.grounding", what=what, hint="set selfplay.regimes to [self_contained]")


def missing_parts(config: JobConfig) -> Iterator[Problem]:
    """Yield what the sampler needs and this environment does not have."""
    kind = config.sampler.kind
    wanted = ("vllm", *(("vllm_bnb_plugin",) if config.sampler.weights == "nf4" else ())) if kind == "vllm" else ()
    for package in wanted:
        if importlib.util.find_spec(package) is None:
            what = f"vllm: the package {package} is not installed"
            hint = "pip install 'spice-enterprise[vllm]', or set it to hf or server"
            yield Problem(setting="sampler.kind", code="E_MISSING_EXTRA", what=what, hint=hint)
    if kind == "server" and not token_path(config).is_file():
        what = f"no token in {token_path(config).name}"
        hint = "start `spice-enterprise serve-sampler` once, with the same settings"
        yield Problem(setting="sampler.token_file", code="E_SAMPLER_TOKEN", what=what, hint=hint)


def served_rank(rank: int) -> int:
    """Return the rank that vLLM reserves memory for when an adapter has `rank` (1 to 512)."""
    return next(served for served in SERVED_RANKS if served >= rank)


def _weights(config: JobConfig, *, is_gpu: bool) -> Iterator[Problem]:
    sampler, is_nf4 = config.sampler, config.training.quantization == "nf4"
    name, code = "sampler.weights", "E_SAMPLER_WEIGHTS"
    if sampler.weights == "shared" and sampler.kind != "hf":
        yield Problem(setting=name, code=code, what=f"shared: {sampler.kind} has weights of its own", hint="set it to auto")
    if sampler.weights == "nf4":
        yield from _packed(config, is_gpu=is_gpu)
    if sampler.weights == "twin" and not is_nf4 and sampler.kind != "hf":
        what = "twin: there is nothing to write out, because training.quantization is none"
        yield Problem(setting=name, code=code, what=what, hint="set it to auto: the base's own files are served")
    if sampler.kind == "hf" and sampler.weights != "twin" and sampler.dtype != "auto":
        what = f"{sampler.dtype}: the learner's own module samples, in training.compute_dtype"
        yield Problem(setting="sampler.dtype", what=what, hint="set it to auto, or sampler.weights to twin")
    if sampler.kind == "hf" and sampler.weights == "twin" and not is_nf4 and _gains_nothing(config):
        what = "twin: a second copy of weights that are not quantised, in the same type, gains nothing"
        yield Problem(setting=name, code=code, what=what, hint="set it to auto, or use it with training.max_staleness 1")


def _gains_nothing(config: JobConfig) -> bool:
    return config.training.max_staleness == 0 and config.sampler.dtype in ("auto", config.training.compute_dtype)


def _packed(config: JobConfig, *, is_gpu: bool) -> Iterator[Problem]:
    """Yield why the sampler cannot hold 4-bit weights."""
    whys = (
        (config.sampler.kind == "hf", "transformers has no 4-bit kernels of its own here; the shared module serves NF4"),
        (config.training.quantization != "nf4", "the learner's base is not quantised"),
        (config.sampler.kind == "vllm" and not is_gpu, "vLLM has 4-bit kernels for GPUs only, and there is none"),
    )
    for is_wrong, why in whys:
        if is_wrong:
            yield Problem(setting="sampler.weights", code="E_SAMPLER_WEIGHTS", what=f"nf4: {why}", hint="set it to auto")


def _overlap(config: JobConfig) -> Iterator[Problem]:
    if config.training.max_staleness and config.sampler.kind == "hf" and config.sampler.weights != "twin":
        what = "1: the learner's own module cannot write the next step while it learns this one"
        yield Problem(setting="training.max_staleness", what=what, hint="set sampler.weights: twin, or another sampler.kind")


def _roles(config: JobConfig) -> Iterator[Problem]:
    if config.selfplay.roles == "separate" and config.training.max_staleness:
        what = "separate: the Challenger proposes on the learner's own module, which cannot write and learn at once"
        yield Problem(setting="selfplay.roles", what=what, hint="set training.max_staleness: 0, or selfplay.roles: shared")


def _targets(config: JobConfig, model: Mapping[str, Any]) -> Iterator[Problem]:
    known = LINEAR_MAPS.get(str(model.get("model_type")), tuple(sorted({m for maps in LINEAR_MAPS.values() for m in maps})))
    for target in config.training.lora_targets:
        if target != ALL_LINEAR and target.rpartition(".")[2] not in known:
            yield Problem(
                setting="training.lora_targets",
                code="E_LORA_TARGETS",
                what=f"{target[:40]!r} is no linear map that an adapter can be on",
                hint=f"choose from {', '.join((ALL_LINEAR, *known))}",
            )


def _context(config: JobConfig, model: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield limits that the longest prompt with its completion exceeds, and a reservation beyond the model's own limit."""
    config = config.sized(weights_of(model))
    prompt, new = prompt_tokens(config), new_tokens(config)
    limit = model.get("max_position_embeddings")
    is_vllm, reserved = config.sampler.kind == "vllm", config.sampler.max_context_tokens
    places = [("base_model", limit, "choose a model with a longer context, or lower ingest.chunk_tokens")] if limit else []
    if is_vllm:
        places.append(("sampler.max_context_tokens", reserved, "raise it, or lower ingest.chunk_tokens"))
    for setting, most, hint in places:
        if prompt + new > most:
            what = f"the prompt of {prompt} tokens and {new} new ones exceed {most}"
            yield Problem(setting=setting, code="E_CONTEXT", what=what, hint=hint)
    if is_vllm and limit and reserved > limit:
        what = f"{reserved}, and the base model takes {limit}"
        yield Problem(setting="sampler.max_context_tokens", code="E_CONTEXT", what=what, hint=f"set it to {limit} or less")
