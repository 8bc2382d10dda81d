"""A group packed with its prompt once is the same function as its rows one by one, for every architecture allowed."""

import dataclasses

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from spice_enterprise.training.base_model import ARCHITECTURES
from spice_enterprise.training.packed_attention import attend_rows, layout_row
from spice_enterprise.training.packing import fill_batches, pack_group, pack_row, to_tensors
from spice_enterprise.training.scoring import selected_logprobs

pytestmark = pytest.mark.torch
GROUPS = [
    ([5, 6, 7, 8, 9], [[10, 11, 12], [13], [14, 15]]),
    ([20, 21], [[22, 23, 24, 25], [26, 27]]),
]


def test_golden_layout():
    row = pack_row([1, 2, 3], [[4, 5], [6]], [(0, 0), (0, 1)])
    assert row.positions == (0, 1, 2, 3, 4, 3)
    assert row.heads == (2, 3, 2)  # b0 from row 4 would be the bug
    assert row.targets == (4, 5, 6)
    layout = layout_row(row.segments, torch.device("cpu"))
    assert layout.prompt == 3
    assert ["".join(map(str, line)) for line in layout.mask.int().tolist()] == ["111100", "111110", "111001"]


def test_position_count():
    (row,) = pack_group(list(range(512)), [[1] * 64] * 8, group=0, max_tokens=4096)
    assert len(row.token_ids) == 1024  # 4,608 as separate rows


def test_a_group_over_the_budget_repeats_its_prompt_and_loses_nothing():
    rows = pack_group([1, 2, 3], [[4] * 3, [5] * 3, [6] * 9, [7]], group=5, max_tokens=9)
    assert [len(row.token_ids) for row in rows] == [9, 12, 4]
    assert [place for row in rows for place in row.source] == [(5, 0), (5, 1), (5, 2), (5, 3)]
    assert all(row.token_ids[:3] == (1, 2, 3) for row in rows)


def test_batches_keep_to_the_budget_and_to_one_order():
    rows = [pack_row([1] * n, [[2]], [(n, 0)]) for n in (3, 9, 4, 8, 30)]
    batches = fill_batches(rows, max_tokens=20)
    assert [[len(row.token_ids) for row in batch] for batch in batches] == [[31], [10, 9], [5, 4]]


def naive(learner, prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    output = learner.hidden_states(ids, use_cache=False).last_hidden_state[0]
    logits = (output @ learner.head_weight.T)[len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)[torch.arange(len(completion)), torch.tensor(completion)]


def packed(learner, *, max_tokens):
    rows = [row for g, (prompt, parts) in enumerate(GROUPS) for row in pack_group(prompt, parts, group=g, max_tokens=max_tokens)]
    for batch_rows in fill_batches(rows, max_tokens=max_tokens):
        batch = to_tensors(batch_rows, learner.device)
        logps, _ = selected_logprobs(learner.completion_states(batch), learner.head_weight, batch.targets)
        start = 0
        for place, length in zip(batch.source, batch.lengths, strict=True):
            yield place, logps[start : start + length]
            start += length


def gradient_of(learner, loss):
    for parameter in learner.parameters.values():
        parameter.grad = None
    loss.backward()
    return torch.cat([p.grad.flatten() for p in learner.parameters.values()])


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
@pytest.mark.parametrize("max_tokens", [1000, 8])
def test_packed_equals_row_by_row(kind, max_tokens, make_base, make_learner):
    learner = make_learner(make_base(kind), moved=0.05)
    expected = {(g, r): naive(learner, prompt, part) for g, (prompt, parts) in enumerate(GROUPS) for r, part in enumerate(parts)}
    found = dict(packed(learner, max_tokens=max_tokens))
    assert set(found) == set(expected)
    for place, values in expected.items():
        assert torch.allclose(found[place], values, rtol=0, atol=2e-6)
    weights = {place: 0.3 * place[0] + 0.7 * place[1] - 0.5 for place in expected}
    sums = [sum(w * part[place].sum() for place, w in weights.items()) / 20 for part in (expected, found)]
    assert sums[0].item() == pytest.approx(sums[1].item(), abs=1e-6)
    first, second = (gradient_of(learner, loss) for loss in sums)
    assert ((first - second).norm() / first.norm()).item() < 2e-6


def test_a_completion_that_saw_its_neighbour_would_be_noticed(make_learner):
    learner = make_learner(moved=0.05)
    prompt, parts = GROUPS[0]
    batch = to_tensors(pack_group(prompt, parts, group=0, max_tokens=99), learner.device)
    open_mask = dataclasses.replace(batch.rows[0], mask=torch.ones_like(batch.rows[0].mask).tril(len(prompt)))
    states = learner.completion_states(dataclasses.replace(batch, rows=(open_mask,)))
    logps, _ = selected_logprobs(states, learner.head_weight, batch.targets)
    assert (logps[-1] - naive(learner, prompt, parts[2])[-1]).abs().item() > 1e-3


def dense_mask(rows, width):
    """One mask over all pairs of positions; padding sees itself."""
    mask = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1, 1)
    for index, row in enumerate(rows):
        end = row.mask.shape[1]
        mask[index, 0, : row.prompt, : row.prompt] = torch.ones(row.prompt, row.prompt).tril()
        mask[index, 0, row.prompt : end, :end] = row.mask
    return mask


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_attention_in_parts_equals_one_dense_mask_with_its_gradients(heads):
    generator = torch.Generator().manual_seed(2)
    segments = [[0, 0, 0, 1, 1, 2, 3, 3, 3], [0, 1, 2], [0, 0, 0, 0, 0, 1]]
    rows = [layout_row(row, torch.device("cpu")) for row in segments]
    query, key, value = (torch.randn(3, n, 9, 8, generator=generator, requires_grad=True) for n in (heads[0], heads[1], heads[1]))
    is_real = torch.tensor([[place < len(row) for place in range(9)] for row in segments])[:, :, None, None]
    shared = heads[0] // heads[1]
    dense = scaled_dot_product_attention(
        query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1), attn_mask=dense_mask(rows, 9), scale=0.3
    ).transpose(1, 2) * is_real  # fmt: skip
    parts = attend_rows(query, key, value, rows, scaling=0.3)
    assert torch.allclose(parts, dense, atol=1e-6)
    pull = torch.randn(parts.shape, generator=generator)
    expected, found = (torch.autograd.grad((output * pull).sum(), (query, key, value)) for output in (dense, parts))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_entropies_and_gradients_equal_the_plain_head(temperature, monkeypatch):
    monkeypatch.setattr("spice_enterprise.training.scoring.CHUNK_TOKENS", 3)  # more than one chunk
    generator = torch.Generator().manual_seed(1)
    weight, targets = torch.randn(50, 8, generator=generator), torch.randint(0, 50, (7,), generator=generator)
    hidden = torch.randn(7, 8, generator=generator, requires_grad=True)
    plain = torch.log_softmax(hidden @ weight.T / temperature, -1)
    scale = torch.randn(7, generator=generator)
    (expected,) = torch.autograd.grad((plain[torch.arange(7), targets] * scale).sum(), hidden)
    logps, entropies = selected_logprobs(hidden, weight, targets, temperature=temperature)
    (found,) = torch.autograd.grad((logps * scale).sum(), hidden)
    assert torch.allclose(logps, plain[torch.arange(7), targets], atol=1e-6)
    assert torch.allclose(entropies, -(plain.exp() * plain).sum(-1), atol=1e-5)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not entropies.requires_grad
