"""The memory plan's arithmetic against sizes computed by hand from published dimensions."""

import pytest

from spice_enterprise.errors import ConfigError
from spice_enterprise.training.memory import NF4_BITS, ModelShape, plan_memory

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


def test_plan_sums_its_parts_and_says_so():
    plan = plan_memory(
        ModelShape.from_config(SMOLLM2), form="float32", compute="float32", rank=16, batch_tokens=2048, kv_tokens=10_000
    )
    assert plan.adapter_bytes == 4_884_480 * 16
    assert plan.kv_bytes == 46_080 * 10_000
    assert plan.total_bytes == plan.base_bytes + plan.adapter_bytes + plan.activation_bytes + plan.kv_bytes
    plan.require(plan.total_bytes)
    with pytest.raises(ConfigError, match="the job needs base 513 \\+ adapter, gradients and Adam 75 \\+ ") as caught:
        plan.require(plan.total_bytes - 1)
    assert caught.value.code == "E_MEMORY"


def test_activations_are_near_what_was_measured():
    per_token = ModelShape.from_config(SMOLLM2).activation_bytes_per_token(4)
    assert 2.6e6 < per_token < 3.1e6


def test_a_missing_dimension_is_named():
    with pytest.raises(ConfigError, match="num_hidden_layers is missing"):
        ModelShape.from_config({key: value for key, value in SMOLLM2.items() if key != "num_hidden_layers"})
