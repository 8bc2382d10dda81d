"""From settings to a workload, and from a workload to a layout or a refusal."""

from typing import Any

import pytest

from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.errors import ConfigError
from spice_enterprise.training import fitting
from spice_enterprise.training.base_model import EMBEDDED_CONFIG
from spice_enterprise.training.fitting import free_host_bytes, require_memory, workload_of
from spice_enterprise.training.memory import ModelShape, Workload, plan_memory

SHAPE = ModelShape.from_config(EMBEDDED_CONFIG)


def make_config(**settings: Any) -> JobConfig:
    return build_config({"corpus": "documents", **settings})


def work(*, is_gpu: bool = False, **settings: Any) -> Workload:
    return workload_of(make_config(**settings), SHAPE, is_gpu=is_gpu)


def test_the_learners_own_module_samples_in_turns() -> None:
    found = work()
    assert (found.form, found.compute, found.sampler, found.keeps_kv) == ("float32", "float32", None, False)
    assert found.kv_tokens * SHAPE.kv_bytes_per_token(4) <= 1 << 30
    assert not found.is_checkpointed


def test_a_twin_has_weights_of_its_own_and_beside_a_learning_one_its_keys_stay() -> None:
    found = work(sampler={"weights": "twin", "dtype": "bfloat16"}, training={"max_staleness": 1})
    assert (found.sampler, found.sampler_compute, found.keeps_kv, found.may_release) == ("bfloat16", "bfloat16", True, False)


def test_vllm_on_a_cpu_keeps_at_most_what_is_configured() -> None:
    usual, small = work(sampler={"kind": "vllm"}), work(sampler={"kind": "vllm", "kv_cache_mib": 256})
    assert plan_memory(SHAPE, usual).kv_bytes == pytest.approx(4 << 30, rel=1e-3)
    assert plan_memory(SHAPE, small).kv_bytes == pytest.approx(256 << 20, rel=1e-3)
    assert usual.keeps_kv
    assert not usual.may_release


def test_vllm_on_a_gpu_may_give_back_and_pack() -> None:
    found = work(is_gpu=True, sampler={"kind": "vllm"})
    assert (found.form, found.sampler, found.keeps_kv, found.may_release, found.may_pack) == ("nf4", "bfloat16", True, True, True)
    assert found.is_checkpointed
    told = work(is_gpu=True, sampler={"kind": "vllm", "weights": "twin"}, training={"max_staleness": 1})
    assert (told.may_release, told.may_pack) == (False, False)


def test_a_server_takes_nothing_of_this_process() -> None:
    found = work(sampler={"kind": "server"})
    assert (found.sampler, found.kv_tokens) == (None, 0)


def test_a_machine_too_small_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda: (False, 8 << 30))
    assert require_memory(make_config(), SHAPE).work.sampler is None
    with pytest.raises(ConfigError, match="the job needs base") as caught:
        require_memory(make_config(), SHAPE, available_bytes=1 << 30)
    assert caught.value.code == "E_MEMORY"


def test_free_memory_is_read_where_linux_says_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 4096 kB\nMemAvailable: 2048 kB\n")
    monkeypatch.setattr(fitting, "MEMORY_FILE", tmp_path / "meminfo")
    assert free_host_bytes() == 2 << 20
    monkeypatch.setattr(fitting, "MEMORY_FILE", tmp_path / "none")
    assert free_host_bytes() == 1 << 62


@pytest.mark.parametrize(("limit", "left"), [("1000000", 400_000), ("max", 3 << 20)])
def test_a_containers_limit_counts(tmp_path, monkeypatch, limit, left) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:    3072 kB\n")
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text("600000\n")
    monkeypatch.setattr(fitting, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(fitting, "CONTROL_GROUP", tmp_path)
    assert free_host_bytes() == left


def test_a_second_model_takes_room_from_the_first() -> None:
    config = make_config()
    alone = require_memory(config, SHAPE, available_bytes=64 << 30)
    with pytest.raises(ConfigError) as caught:
        require_memory(config, SHAPE, available_bytes=alone.total_bytes + 1, beside=SHAPE)
    assert caught.value.code == "E_MEMORY"
    assert require_memory(config, SHAPE, available_bytes=64 << 30, beside=SHAPE) == alone
