"""The parts of decoding: what is drawn, attention put together from parts, products by oneDNN."""

import pytest
import torch

from spice_enterprise.training import cpu_linear
from spice_enterprise.training.drawing import BLOCK_TOKENS, draw
from spice_enterprise.training.group_cache import Cohort, GroupCache
from spice_enterprise.training.prefill import families, passes

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("vocabulary", [5, BLOCK_TOKENS, BLOCK_TOKENS + 1, 5000])
def test_the_number_decides_by_inverse_transform(vocabulary):
    generator = torch.Generator().manual_seed(1)
    logits = 3.0 * torch.randn(64, vocabulary, generator=generator)
    numbers = torch.rand(64, generator=generator, dtype=torch.float64).tolist()
    temperatures = [0.5, 1.0] * 32
    tokens, logps = draw(logits, temperatures, numbers)
    exact = torch.log_softmax(logits.double() / torch.tensor(temperatures)[:, None], dim=-1)
    upto = torch.cat([torch.zeros(64, 1), exact.exp().cumsum(-1)], dim=1)
    for i, (token, logp, number) in enumerate(zip(tokens, logps, numbers, strict=True)):
        assert logp == pytest.approx(exact[i, token].item(), abs=1e-5)
        assert upto[i, token] - 1e-5 <= number <= upto[i, token + 1] + 1e-5


def test_at_temperature_zero_the_likeliest_is_taken():
    logits = torch.randn(8, 700, generator=torch.Generator().manual_seed(2))
    tokens, logps = draw(logits, [0.0] * 8, [0.99] * 8)
    assert tokens == logits.argmax(-1).tolist()
    assert logps == pytest.approx(torch.log_softmax(logits, -1).amax(-1).tolist(), abs=1e-5)


@pytest.mark.parametrize("number", [0.0, 0.5, 1.0 - 2**-53, 1.0])
def test_a_token_without_probability_is_never_drawn(number):
    logits = torch.full((1, 3 * BLOCK_TOKENS + 7), float("-inf"))
    logits[0, [3, BLOCK_TOKENS - 1, 2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS + 9]] = 0.0
    (token,), (logp,) = draw(logits, [1.0], [number])
    assert logits[0, token] == 0.0
    assert logp == pytest.approx(-1.3862943611)


def test_logits_that_are_not_finite_show_in_the_log_probability():
    _, logps = draw(torch.full((2, 600), float("nan")), [1.0, 0.0], [0.5, 0.5])
    assert all(logp != logp for logp in logps)


@pytest.mark.parametrize("group_of_row", [[0, 0, 1, 1], [0, 1, 1, 1], [1, 0]])
def test_attention_in_parts_equals_attention_over_each_rows_own_keys(group_of_row):
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    kv_heads, heads, width, lengths = 2, 6, 8, [5, 3]
    prompt = (normal(2, kv_heads, 5, width), normal(2, kv_heads, 5, width))
    cohort = Cohort([prompt], lengths, group_of_row)
    rows = [([prompt[0][group, :, : lengths[group]]], [prompt[1][group, :, : lengths[group]]], group) for group in group_of_row]
    for position in range(70):  # beyond one growth of the tails
        query, key, value = (normal(len(rows), count, 1, width) for count in (heads, kv_heads, kv_heads))
        output = GroupCache([cohort]).attend(query, (key, value), layer=0, scaling=0.3)
        cohort.advance()
        for i, (keys, values, _) in enumerate(rows):
            keys.append(key[i])
            values.append(value[i])
            own_keys, own_values = (torch.cat(part, dim=1).repeat_interleave(heads // kv_heads, 0) for part in (keys, values))
            weights = torch.softmax(0.3 * query[i] @ own_keys.transpose(-1, -2), -1)
            assert torch.allclose(output[i, 0], (weights @ own_values)[:, 0], atol=1e-5)
        if position in (4, 66) and len(rows) > 1:
            cohort.retire(0)
            rows[0] = rows[-1]
            rows.pop()
            cohort.settle()
            assert cohort.rows == len(rows)


def test_prompts_of_very_different_length_are_read_apart():
    encoded = [(1,) * 10, (1,) * 100, (1,) * 60, (1,) * 9]
    assert list(passes(encoded)) == [[1, 2], [0, 3]]
    assert list(passes([(1,) * 3000] * 2)) == [[0], [1]]
    assert list(passes([])) == []


@pytest.mark.parametrize("shape", [(7,), (2, 5), (1, 1)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_products_with_frozen_weights_are_the_librarys_with_the_same_gradient(shape, has_bias):
    generator = torch.Generator().manual_seed(4)
    plain = torch.nn.Linear(24, 16, bias=has_bias).requires_grad_(False)
    model = torch.nn.Sequential(torch.nn.Linear(24, 16, bias=has_bias)).requires_grad_(False)
    model.load_state_dict({f"0.{name}": value for name, value in plain.state_dict().items()})
    cpu_linear.use_frozen_linears(model)
    assert type(model[0]) is cpu_linear.FrozenLinear
    first = torch.randn(*shape, 24, generator=generator, requires_grad=True)
    second = first.detach().clone().requires_grad_()
    outputs = plain(first), model(second)
    assert torch.allclose(*outputs, atol=1e-5)
    for output in outputs:
        output.square().sum().backward()
    assert torch.allclose(first.grad, second.grad, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(model(second), outputs[1])
    half = second.detach().bfloat16()
    assert torch.equal(model.bfloat16()(half), plain.bfloat16()(half))


def test_a_rows_product_does_not_depend_on_its_neighbours():
    weight, x = torch.randn(33, 20), torch.randn(40, 20)
    if cpu_linear._IS_FASTER:
        assert torch.equal(cpu_linear.frozen_linear(x, weight)[:3], cpu_linear.frozen_linear(x[:3], weight))


def test_prompts_that_begin_alike_are_a_family():
    one, two = tuple(range(100, 140)), tuple(range(200, 240))
    encoded = [(*one, 1), (*two, 1), (9, 9, 9), (*one, 2, 3), (*two, 4), (8,), (*one[:10], 5, 6, 7)]
    assert sorted(map(sorted, families(encoded))) == [[0, 3], [1, 4], [2, 5, 6]]
    assert sorted(place for family in families(encoded) for place in family) == list(range(7))
    assert list(families([])) == []
    assert list(families([(1,), (1,)])) == [[0, 1]]
