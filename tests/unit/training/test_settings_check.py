"""Settings of the engine that contradict each other, the model or the machine: each is one line with a code."""

from typing import Any

import pytest

from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.errors import ConfigError
from spice_enterprise.training import settings_check
from spice_enterprise.training.base_model import ARCHITECTURES, EMBEDDED_CONFIG
from spice_enterprise.training.settings_check import LINEAR_MAPS, check_engine, engine_problems, missing_parts, served_rank


def make_config(**settings: Any) -> JobConfig:
    return build_config({"corpus": "documents", **settings})


def found(model: dict[str, Any] | None = None, *, is_gpu: bool = False, **settings: Any) -> list[tuple[str, str, str]]:
    problems = engine_problems(make_config(**settings), model or dict(EMBEDDED_CONFIG), is_gpu=is_gpu)
    return [(problem.code, problem.setting, problem.what) for problem in problems]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampler": {"kind": "vllm"}},
        {"sampler": {"kind": "server"}},
        {"sampler": {"kind": "vllm", "weights": "twin", "dtype": "bfloat16"}},
        {"sampler": {"kind": "hf", "weights": "twin"}, "training": {"max_staleness": 1}},
        {"sampler": {"kind": "hf", "weights": "twin"}, "training": {"max_staleness": 1, "quantization": "none"}},
        {"sampler": {"kind": "hf", "weights": "twin", "dtype": "bfloat16"}, "training": {"quantization": "none"}},
        {"training": {"lora_targets": ["q_proj", "self_attn.v_proj"]}},
    ],
)
def test_settings_that_fit_together(settings: dict[str, Any]) -> None:
    assert found(**settings) == []


@pytest.mark.parametrize(
    ("settings", "code", "setting", "words"),
    [
        (
            {"sampler": {"kind": "vllm", "weights": "shared"}},
            "E_SAMPLER_WEIGHTS",
            "sampler.weights",
            "vllm has weights of its own",
        ),
        ({"sampler": {"kind": "server", "weights": "shared"}}, "E_SAMPLER_WEIGHTS", "sampler.weights", "server has weights"),
        ({"sampler": {"weights": "nf4"}}, "E_SAMPLER_WEIGHTS", "sampler.weights", "no 4-bit kernels of its own"),
        ({"sampler": {"kind": "vllm", "weights": "nf4"}}, "E_SAMPLER_WEIGHTS", "sampler.weights", "GPUs only"),
        (
            {"sampler": {"kind": "server", "weights": "nf4"}, "training": {"quantization": "none"}},
            "E_SAMPLER_WEIGHTS",
            "sampler.weights",
            "not quantised",
        ),
        (
            {"sampler": {"kind": "vllm", "weights": "twin"}, "training": {"quantization": "none"}},
            "E_SAMPLER_WEIGHTS",
            "sampler.weights",
            "nothing to write out",
        ),
        (
            {"sampler": {"weights": "twin"}, "training": {"quantization": "none"}},
            "E_SAMPLER_WEIGHTS",
            "sampler.weights",
            "gains nothing",
        ),
        ({"sampler": {"dtype": "bfloat16"}}, "E_CONFIG", "sampler.dtype", "the learner's own module samples"),
        ({"training": {"max_staleness": 1}}, "E_CONFIG", "training.max_staleness", "cannot write the next step"),
        (
            {"training": {"max_staleness": 1}, "sampler": {"weights": "twin"}, "selfplay": {"roles": "separate"}},
            "E_CONFIG",
            "selfplay.roles",
            "cannot write and learn at once",
        ),
        ({"training": {"lora_targets": ["lm_head"]}}, "E_LORA_TARGETS", "training.lora_targets", "'lm_head' is no linear map"),
        ({"training": {"lora_targets": ["qkv_proj"]}}, "E_LORA_TARGETS", "training.lora_targets", "'qkv_proj' is no linear map"),
        (
            {"ingest": {"chunk_tokens": 8000}, "selfplay": {"challenger_tokens": 96}},
            "E_CONTEXT",
            "base_model",
            "the prompt of 24200 tokens and 96 new ones exceed 8192",
        ),
        (
            {"ingest": {"chunk_tokens": 512}, "sampler": {"kind": "vllm", "max_context_tokens": 800}},
            "E_CONTEXT",
            "sampler.max_context_tokens",
            "the prompt of 1736 tokens and 96 new ones exceed 800",
        ),
        (
            {"sampler": {"kind": "vllm", "max_context_tokens": 9000}},
            "E_CONTEXT",
            "sampler.max_context_tokens",
            "9000, and the base model takes 8192",
        ),
    ],
)
def test_a_contradiction_is_named(settings: dict[str, Any], code: str, setting: str, words: str) -> None:
    problems = found(**settings)
    assert len(problems) == 1
    assert problems[0][:2] == (code, setting)
    assert words in problems[0][2]


def test_a_challenger_without_documents_leaves_none_to_the_reasoner() -> None:
    [(_, setting, what)] = found(selfplay={"grounding": "none"})
    assert (setting, "open_book" in what) == ("selfplay.grounding", True)
    assert found(selfplay={"grounding": "none", "regimes": ["self_contained"]}) == []


def test_packed_weights_are_for_gpus() -> None:
    assert found(is_gpu=True, sampler={"kind": "vllm", "weights": "nf4"}) == []


def test_a_model_that_is_not_here_yet_is_checked_later() -> None:
    settings = {"training": {"lora_targets": ["qkv_proj"]}, "ingest": {"chunk_tokens": 8192}}
    assert list(engine_problems(make_config(**settings), None, is_gpu=False)) == []
    assert found({"model_type": "phi3"}, training={"lora_targets": ["qkv_proj"]}) == []


def test_a_job_is_refused_with_all_problems_under_the_code_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_check, "has_gpu", lambda: False)
    monkeypatch.setattr(settings_check, "missing_parts", lambda config: ())
    check_engine(make_config(), EMBEDDED_CONFIG)
    with pytest.raises(ConfigError, match=r"shared: vllm has weights of its own \(and 1 more\)") as caught:
        check_engine(make_config(sampler={"kind": "vllm", "weights": "shared"}, training={"lora_targets": ["lm_head"]}))
    assert caught.value.code == "E_SAMPLER_WEIGHTS"
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (16, 16), (24, 32), (257, 320), (512, 512)])
def test_the_rank_that_is_reserved(rank: int, served: int) -> None:
    assert served_rank(rank) == served


@pytest.mark.parametrize("settings", [{"training": {"lora_rank": 513}}, {"sampler": {"url": "http://10.0.0.1:8761"}}])
def test_what_no_job_can_ask_for_is_refused_by_the_config(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_config(**settings)


def test_every_supported_architecture_has_its_maps() -> None:
    assert set(LINEAR_MAPS) == ARCHITECTURES


def test_what_the_sampler_needs_and_is_not_here_is_said_before_anything_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(settings_check.importlib.util, "find_spec", lambda name: None)
    (vllm,) = missing_parts(make_config(sampler={"kind": "vllm"}))
    assert (vllm.code, vllm.setting) == ("E_MISSING_EXTRA", "sampler.kind")
    server = make_config(workspace=str(tmp_path), sampler={"kind": "server"})
    (token,) = missing_parts(server)
    assert (token.code, token.setting) == ("E_SAMPLER_TOKEN", "sampler.token_file")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "sampler.token").write_text("there")
    assert list(missing_parts(server)) == []
    assert list(missing_parts(make_config())) == []
