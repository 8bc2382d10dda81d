"""What vLLM cannot serve is refused before anything is loaded; the written-out base is the learner's, value by value."""

import pytest
import torch
from safetensors import safe_open

from spice_enterprise.config import SamplerConfig, TrainingConfig
from spice_enterprise.errors import ConfigError, IntegrityError, MissingExtraError, SamplerError
from spice_enterprise.training import twin, vllm_engine, vllm_settings
from spice_enterprise.training.twin import write_twin
from spice_enterprise.training.vllm_engine import EngineSettings, VllmEngine
from spice_enterprise.training.vllm_sampler import require_room
from spice_enterprise.training.vllm_settings import engine_settings, pick_kv_bytes

pytestmark = pytest.mark.torch

F32 = torch.float32


def settings(base, tmp_path, training=None, **sampler):
    wanted = {"kind": "vllm", "max_context_tokens": 256, "kv_cache_mib": 16, **sampler}
    return engine_settings(
        base, training=training or TrainingConfig(quantization="none"), sampler=SamplerConfig(**wanted), cache_dir=tmp_path,
        kv_bytes=16 << 20,
    )  # fmt: skip


def test_keys_and_values_must_hold_one_context(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_kv_bytes(None, free_bytes=1 << 30) == 1 << 29
    assert pick_kv_bytes(None, free_bytes=1 << 40) == 4 << 30
    assert pick_kv_bytes(16, free_bytes=0) == 16 << 20
    with pytest.raises(ConfigError, match="have 16 MiB, and one context needs 32 MiB") as caught:
        vllm_settings.require_kv_room(16 << 20, needed_bytes=32 << 20)
    assert caught.value.code == "E_MEMORY"


def test_a_prompt_must_leave_room_for_its_completion():
    require_room(100, 28, 128)
    with pytest.raises(SamplerError, match="100 tokens and 29 new ones do not fit 128") as caught:
        require_room(100, 29, 128)
    assert caught.value.code == "E_CONTEXT"


def test_without_vllm_the_package_is_named(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="package vllm is not installed") as caught:
        VllmEngine(EngineSettings(model_path=tmp_path, dtype="float32", max_context_tokens=64, kv_bytes=1, max_rank=8))
    assert caught.value.code == "E_MISSING_EXTRA"
    assert "spice-enterprise[vllm]" in caught.value.hint


def read(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_twin_holds_the_learners_values(dtype, tiny_base, tmp_path, make_learner):
    folder = write_twin(tiny_base, cache_dir=tmp_path, learner_dtype=F32, dtype=dtype)
    learner = make_learner(quantization="nf4", dequantise="always")._causal.state_dict()
    for name, tensor in read(folder).items():
        ours = learner.get(name, learner.get(name.replace(".weight", ".base_layer.weight")))
        assert tensor.dtype == dtype
        assert torch.equal(tensor, ours.to(dtype)), name
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (tiny_base.path / name).read_bytes()


def test_a_twin_is_written_once_verified_and_never_half(tiny_base, tmp_path, monkeypatch):
    original, cache = twin._write, tmp_path / "models"

    def killed(*args):
        original(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(twin, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        write_twin(tiny_base, cache_dir=cache, learner_dtype=F32, dtype=F32)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(twin, "_write", original)
    folder = write_twin(tiny_base, cache_dir=cache, learner_dtype=F32, dtype=F32)
    assert tiny_base.digest[:12] in folder.name
    monkeypatch.setattr(twin, "_write", killed)
    assert write_twin(tiny_base, cache_dir=cache, learner_dtype=F32, dtype=F32) == folder
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="written-out base was changed") as caught:
        write_twin(tiny_base, cache_dir=cache, learner_dtype=F32, dtype=F32)
    assert caught.value.code == "E_MODEL_DIGEST"
