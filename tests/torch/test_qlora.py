"""The learner: NF4 base, fp32 adapter, files that others can read and that are checked when read back."""

import json

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load, save
from transformers import AutoModelForCausalLM

from spice_enterprise.errors import ConfigError, IntegrityError
from spice_enterprise.training.qlora import SETTINGS_FILE, UNSAVED, WEIGHTS_FILE, pick_compute_dtype, pick_device

pytestmark = pytest.mark.torch
IDS = torch.tensor([[1, 40, 41, 42, 43, 44, 60, 61]])


def hidden(learner):
    return learner.hidden_states(IDS, use_cache=False).last_hidden_state


def modules(learner):
    return [module for name, module in learner._module.named_modules() if name.endswith("base_layer")]


def test_four_bit_and_written_out_are_the_same_function_with_the_same_gradient(make_learner):
    packed, written = make_learner(dequantise="never", moved=0.05), make_learner(dequantise="auto", moved=0.05)
    assert all(isinstance(module, Linear4bit) for module in modules(packed))
    assert not any(isinstance(module, Linear4bit) for module in modules(written))
    outputs = [hidden(learner) for learner in (packed, written)]
    assert torch.allclose(*outputs, rtol=0, atol=1e-5)
    for learner, output in zip((packed, written), outputs, strict=True):
        output.square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in learner.parameters.values())
    for name, parameter in packed.parameters.items():
        assert torch.allclose(parameter.grad, written.parameters[name].grad, rtol=1e-4, atol=1e-5)


def test_nf4_changes_the_base_and_none_does_not(make_learner, tiny_path):
    plain = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).model(IDS, use_cache=False).last_hidden_state
    assert torch.allclose(hidden(make_learner(quantization="none")), plain, atol=1e-6)
    gap = (hidden(make_learner()) - plain).abs().max().item()
    assert 1e-3 < gap < 5.0


def test_sampling_first_does_not_spoil_training_on_four_bit_layers(make_learner):
    learner = make_learner(dequantise="never", moved=0.05)
    hidden(learner).square().sum().backward()
    before = {name: p.grad.clone() for name, p in learner.parameters.items()}
    with torch.no_grad():
        hidden(learner)
    for parameter in learner.parameters.values():
        parameter.grad = None
    hidden(learner).square().sum().backward()
    assert all(torch.equal(before[name], p.grad) for name, p in learner.parameters.items())


def test_adapters_are_fp32_all_linear_and_drawn_from_the_seed_alone(make_learner):
    torch.manual_seed(1)
    first = make_learner(seed=5, compute_dtype="bfloat16")
    after_first = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after_first, torch.rand(1))  # the global stream was not touched
    second, other = make_learner(seed=5), make_learner(seed=6)
    assert first.compute_dtype == "bfloat16"
    assert {p.dtype for p in first.parameters.values()} == {torch.float32}
    assert len(first.parameters) == 2 * 7 * 2  # two layers, seven maps, A and B
    assert all(torch.equal(p, second.parameters[name]) for name, p in first.parameters.items())
    assert all((p == 0).all() for name, p in first.parameters.items() if "lora_B" in name)
    assert not torch.equal(next(iter(second.parameters.values())), next(iter(other.parameters.values())))
    bound = max(p.abs().max().item() * p.shape[1] ** 0.5 for name, p in first.parameters.items() if "lora_A" in name)
    assert 0.9 < bound <= 1.0


def test_the_bare_base_is_the_base_and_comes_back_with_its_gradient(make_learner):
    fresh, moved = make_learner(), make_learner(moved=0.05)
    with moved.bare():
        assert torch.equal(hidden(moved), hidden(fresh))
    assert (hidden(moved) - hidden(fresh)).abs().max() > 1e-2
    hidden(moved).sum().backward()
    assert all(p.grad is not None for p in moved.parameters.values())


def test_files_are_readable_by_peft(make_learner, tiny_path, tmp_path):
    learner = make_learner(quantization="none", moved=0.05)
    for name, data in learner.adapter_files().items():
        (tmp_path / name).write_bytes(data)
    base = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
    other = PeftModel.from_pretrained(base, str(tmp_path)).get_base_model().model(IDS, use_cache=False).last_hidden_state
    assert torch.allclose(hidden(learner), other, atol=1e-6)


def test_files_round_trip_and_are_the_same_bytes_each_time(make_learner):
    source, target = make_learner(moved=0.05), make_learner(seed=99)
    assert source.adapter_files() == source.adapter_files()
    target.load_adapter(source.adapter_files(), digest="sha256:d")
    assert target.adapter_files() == source.adapter_files()
    assert target.adapter_digest == "sha256:d"


def broken(files, kind):
    tensors = load(files[WEIGHTS_FILE])
    name = sorted(tensors)[0]
    if kind == "missing":
        del tensors[name]
    elif kind == "foreign":
        tensors["base_model.model.lm_head.weight"] = torch.zeros(2)
    elif kind == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif kind == "dtype":
        tensors[name] = tensors[name].bfloat16()
    elif kind == "nan":
        tensors[name][0, 0] = float("nan")
    else:
        settings = {**json.loads(files[SETTINGS_FILE]), "lora_alpha": 999}
        return {**files, SETTINGS_FILE: json.dumps(settings).encode()}
    return {**files, WEIGHTS_FILE: save(tensors)}


@pytest.mark.parametrize("kind", ["missing", "foreign", "shape", "dtype", "nan", "settings"])
def test_unfit_adapter_files_are_refused_and_change_nothing(make_learner, kind):
    learner = make_learner(moved=0.05)
    before = learner.adapter_files()
    with pytest.raises(IntegrityError, match="adapter refused: ") as caught:
        learner.load_adapter(broken(before, kind), digest="sha256:d")
    assert caught.value.code == "E_ADAPTER"
    assert learner.adapter_files() == before
    assert learner.adapter_digest == UNSAVED


def test_sparing_activations_changes_memory_not_gradients(make_learner):
    learner = make_learner(moved=0.05)
    gradients = []
    for is_on in (False, True):
        for parameter in learner.parameters.values():
            parameter.grad = None
        with learner.spare_activations(is_on=is_on):
            hidden(learner).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters.values()]))
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_compute_dtype_is_what_was_asked_for():
    assert pick_compute_dtype("bfloat16") is torch.bfloat16
    assert pick_compute_dtype("float32") is torch.float32
    assert pick_compute_dtype("auto") in (torch.bfloat16, torch.float32)


def test_without_an_accelerator_the_cpu_is_taken():
    has_none = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    assert (pick_device().type == "cpu") == has_none
    assert (pick_compute_dtype("auto") is torch.float32) == has_none


def test_named_targets_alone_get_an_adapter_and_stand_in_the_settings(make_learner):
    learner = make_learner(lora_targets=("v_proj", "q_proj"))
    assert {name.split(".")[-3] for name in learner.parameters} == {"q_proj", "v_proj"}
    assert len(learner.parameters) == 2 * 2 * 2  # two layers, two maps, A and B
    assert json.loads(learner.adapter_files()[SETTINGS_FILE])["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "targets",
    [("nonsense",), ("q_proj", "lm_head"), ("embed_tokens",), (), ("all-linear", "q_proj"), ("norm",), ("model.layers.0",)],
)
def test_targets_that_cannot_be_adapted_are_refused_with_those_that_can(make_learner, targets):
    with pytest.raises(ConfigError, match=r"training\.lora_targets names ") as caught:
        make_learner(lora_targets=targets)
    assert caught.value.code == "E_LORA_TARGETS"
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in caught.value.hint


def test_what_is_written_is_what_vllm_can_serve(make_learner):
    settings = json.loads(make_learner().adapter_files()[SETTINGS_FILE])
    assert (settings["use_dora"], settings["bias"], settings["modules_to_save"]) == (False, "none", None)
    assert settings["init_lora_weights"] is True
    assert not {"lm_head", "embed_tokens"} & set(settings["target_modules"])
