"""The memory plan's arithmetic against sizes computed by hand from published dimensions."""

from dataclasses import replace

import pytest

from spice_enterprise.errors import ConfigError
from spice_enterprise.training.memory import NF4_BITS, ModelShape, Workload, choose_layout, plan_memory, smallest_devices

SMOLLM2 = {
    "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
QWEN25_1B = {
    "num_hidden_layers": 28, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_8B = {
    "num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "rank16", "kv_bytes"),
    [(SMOLLM2, 4_884_480, 23_040), (QWEN25_1B, 18_464_768, 28_672), (QWEN3_8B, 43_646_976, 147_456)],
)
def test_adapter_and_key_value_sizes(config, rank16, kv_bytes):
    shape = ModelShape.from_config(config)
    assert shape.lora_parameters(16) == rank16
    assert shape.lora_parameters(32) == 2 * rank16
    assert shape.kv_bytes_per_token(2) == kv_bytes


def test_nf4_size_of_an_8b_model():
    shape = ModelShape.from_config(QWEN3_8B)
    assert pytest.approx(4.126953, abs=1e-6) == NF4_BITS
    assert shape.linear_weights() == 6_945_767_424
    assert shape.linear_weights() * NF4_BITS / 8 == pytest.approx(3.583e9, rel=1e-3)
    assert shape.embedding_weights() * 2 == pytest.approx(2.489e9, rel=1e-3)


def make_work(**changes):
    """An 8B job on one GPU with vLLM in the same process."""
    usual = {
        "form": "nf4", "compute": "bfloat16", "rank": 16, "batch_tokens": 16_384, "head_tokens": 8_192, "is_checkpointed": True,
        "is_gpu": True, "kv_tokens": 250_000, "least_kv_tokens": 4_096, "sampler": "bfloat16", "sampler_compute": "bfloat16",
        "keeps_kv": True, "may_release": True, "may_pack": True,
    }  # fmt: skip
    return Workload(**{**usual, **changes})


ON_CPU = make_work(
    form="float32", compute="float32", batch_tokens=512, head_tokens=64, is_checkpointed=False, is_gpu=False, kv_tokens=10_000,
    sampler=None, keeps_kv=False, may_release=False, may_pack=False,
)  # fmt: skip


def test_the_parts_of_an_8b_job():
    plan = plan_memory(ModelShape.from_config(QWEN3_8B), make_work())
    parts = (plan.base_bytes, plan.adapter_bytes, plan.sampler_bytes, plan.kv_bytes)
    assert [round(part / 1e9, 2) for part in parts] == [6.07, 0.70, 16.38, 36.86]
    assert (sum(parts) + 9e9) / 1e9 == pytest.approx(69.0, abs=0.05)  # with 8 + 1 GB guessed for activations and head
    assert plan.activation_bytes / 1e9 == pytest.approx(10.6, abs=0.1)  # with what was measured per layer instead
    assert plan.total_bytes == sum(parts) + plan.activation_bytes


@pytest.mark.parametrize(
    ("gigabytes", "sampler", "keeps_kv", "batch_tokens", "kv_tokens"),
    [
        (80, "bfloat16", True, 16_384, range(250_000, 250_001)),
        (48, "bfloat16", False, 16_384, range(130_000, 140_000)),
        (24, "nf4", False, 8_192, range(55_000, 65_000)),
        (20, "nf4", False, 4_096, range(30_000, 40_000)),
    ],
)
def test_how_an_8b_job_fits(gigabytes, sampler, keeps_kv, batch_tokens, kv_tokens):
    plan = choose_layout(ModelShape.from_config(QWEN3_8B), make_work(), available_bytes=gigabytes * 10**9)
    assert (plan.work.sampler, plan.work.keeps_kv, plan.work.batch_tokens) == (sampler, keeps_kv, batch_tokens)
    assert plan.work.kv_tokens in kv_tokens
    assert plan.total_bytes <= 0.9 * gigabytes * 1e9


def test_a_gpu_too_small_is_refused_with_the_arithmetic():
    shape = ModelShape.from_config(QWEN3_8B)
    with pytest.raises(ConfigError) as caught:
        choose_layout(shape, make_work(), available_bytes=12 * 10**9)
    assert caught.value.code == "E_MEMORY"
    assert "base 6.07 + adapter, gradients and Adam 0.70 + sampler in nf4 6.07 + the larger of" in caught.value.message
    assert "and 10.80 GB can be used" in caught.value.message
    with pytest.raises(ConfigError, match=r"sampler in bfloat16 16\.38"):
        choose_layout(shape, make_work(may_pack=False), available_bytes=24 * 10**9)


def test_the_smallest_devices_shrink_layout_by_layout():
    found = list(smallest_devices(ModelShape.from_config(QWEN3_8B), make_work()))
    sizes = [least for least, _ in found]
    assert sizes == sorted(sizes, reverse=True)
    assert (found[0][1].work.keeps_kv, found[-1][1].work.sampler) == (True, "nf4")
    for least, plan in found:
        chosen = choose_layout(ModelShape.from_config(QWEN3_8B), make_work(), available_bytes=least + 1)
        assert chosen.total_bytes <= (least + 1) * 0.9
        assert chosen.work.sampler == plan.work.sampler


def test_on_a_cpu_the_micro_batch_never_depends_on_what_is_free():
    shape = ModelShape.from_config(SMOLLM2)
    wanted = plan_memory(shape, ON_CPU)
    assert choose_layout(shape, ON_CPU, available_bytes=wanted.total_bytes) == wanted
    with pytest.raises(ConfigError, match="activations of 512 tokens"):
        choose_layout(shape, ON_CPU, available_bytes=wanted.total_bytes // 2)


def test_keys_and_values_take_turns_with_activations_unless_they_stay():
    shape = ModelShape.from_config(SMOLLM2)
    turns, stays = plan_memory(shape, ON_CPU), plan_memory(shape, replace(ON_CPU, keeps_kv=True))
    assert stays.total_bytes - turns.total_bytes == min(turns.activation_bytes, turns.kv_bytes)
    assert turns.sampler_bytes == 0


@pytest.mark.parametrize(("tokens", "written", "seen"), [(256, 128, 794e6), (512, 64, 1431e6), (704, 256, 1966e6)])
def test_activations_on_a_cpu_are_near_what_was_measured(tokens, written, seen):
    """Growth of resident memory in one forward and backward pass of the embedded model in float32, one thread, rank 32."""
    plan = plan_memory(ModelShape.from_config(SMOLLM2), replace(ON_CPU, rank=32, batch_tokens=tokens, head_tokens=written))
    assert plan.activation_bytes == pytest.approx(seen, rel=0.10)


@pytest.mark.parametrize(("tokens", "written", "seen"), [(128, 16, 22e6), (512, 64, 87.5e6), (704, 256, 253e6)])
def test_live_bytes_with_recomputed_layers_are_near_what_was_measured(tokens, written, seen):
    """Peak of live tensors in the same pass with checkpointing, by the profiler: what a GPU's allocator would hold."""
    work = make_work(form="float32", compute="float32", rank=32, batch_tokens=tokens, head_tokens=written)
    plan = plan_memory(ModelShape.from_config(SMOLLM2), work)
    assert plan.activation_bytes == pytest.approx(seen, rel=0.10)


def test_a_missing_dimension_is_named():
    with pytest.raises(ConfigError, match="num_hidden_layers is missing"):
        ModelShape.from_config({key: value for key, value in SMOLLM2.items() if key != "num_hidden_layers"})
