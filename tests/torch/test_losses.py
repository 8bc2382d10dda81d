"""The losses against closed values; the wrong divisors give other numbers, and each is named."""

import dataclasses
import math

import pytest
import torch

from spice_enterprise.training.losses import LossSettings, TokenBatch, importance_weights, k3, policy_loss, sequence_means

pytestmark = pytest.mark.torch
SETTINGS = LossSettings(clip_low=0.2, clip_high=0.28, importance_cap=2.0)


KINDS = ["dr_grpo", "gspo", "cispo"]


def settings_of(kind, **changes):
    return dataclasses.replace(SETTINGS, kind=kind, **changes)


def batch_of(lengths, advantages, *, divisor=1.0, start=None, sampler=None):
    weights = torch.tensor([a for a, n in zip(advantages, lengths, strict=True) for _ in range(n)])
    start = torch.zeros(len(weights)) if start is None else start
    return TokenBatch(
        start_logps=start, sampler_logps=start if sampler is None else sampler, advantages=weights,
        divisors=torch.full_like(weights, divisor),
        completions=torch.tensor([i for i, n in enumerate(lengths) for _ in range(n)]),
    )  # fmt: skip


def loss_of(lengths, advantages, *, l_max, sequences, ratio=1.0, kind="dr_grpo"):
    tokens = batch_of(lengths, advantages, divisor=l_max * sequences)
    return policy_loss(tokens.start_logps + torch.log(torch.tensor(ratio)), tokens, settings_of(kind)).item()


def test_constant_divisor():
    # dividing by each rollout's own length gives 0 here, by the number of tokens 0.125
    assert loss_of([3, 5], [0.5, -0.5], l_max=10, sequences=2) == pytest.approx(0.05, abs=1e-6)


def test_sums_over_workers_add_up():
    parts = [loss_of([3, 5], [0.5, -0.5], l_max=10, sequences=3), loss_of([4], [0.5], l_max=10, sequences=3)]
    assert sum(parts) == pytest.approx(-0.033333, abs=1e-6)  # a mean of means gives -0.075


@pytest.mark.parametrize(("ratio", "advantage", "expected"), [(1.5, 1, -1.28), (1.5, -1, 1.5), (0.5, 1, -0.5), (0.5, -1, 0.8)])
def test_clip(ratio, advantage, expected):
    assert loss_of([1], [float(advantage)], l_max=1, sequences=1, ratio=ratio) == pytest.approx(expected, abs=1e-6)


def test_importance_weight_is_truncated_and_carries_no_gradient():
    learner = torch.tensor([-1.0, 0.0, 0.5, 1.0], requires_grad=True)
    weights = importance_weights(learner, torch.zeros(4), 2.0)
    assert weights.tolist() == pytest.approx([0.367879, 1.0, 1.648721, 2.0], abs=1e-6)
    assert not weights.requires_grad


def test_k3():
    difference = torch.tensor([-0.5, -0.1, 0.0, 0.1, 0.5], dtype=torch.float64)
    assert k3(difference, torch.zeros(5)).tolist() == pytest.approx([0.106531, 0.004837, 0.0, 0.005171, 0.148721], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_on_policy_every_loss_has_the_gradient_of_minus_advantage_over_the_divisor(kind):
    logps = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    tokens = batch_of([1, 2], [1.0, -0.5], divisor=4.0, start=logps.detach())
    policy_loss(logps, tokens, settings_of(kind)).backward()
    assert logps.grad.tolist() == pytest.approx([-0.25, 0.125, 0.125], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_importance_weight_multiplies_the_gradient(kind):
    logps = torch.tensor([-1.0, -2.0], requires_grad=True)
    sampler = torch.tensor([-1.5, -4.0])
    policy_loss(
        logps, batch_of([1, 1], [1.0, -1.0], divisor=4.0, start=logps.detach(), sampler=sampler), settings_of(kind)
    ).backward()
    assert logps.grad.tolist() == pytest.approx([-1.648721 / 4, 2.0 / 4], abs=1e-6)


def test_the_weight_of_gspo_is_one_per_completion():
    logps = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    sampler = torch.tensor([-1.5, -1.7, -3.4])  # mean differences 0.1 and 0.4
    policy_loss(logps, batch_of([2, 1], [1.0, 1.0], start=logps.detach(), sampler=sampler), settings_of("gspo")).backward()
    assert logps.grad.tolist() == pytest.approx([-math.exp(0.1), -math.exp(0.1), -math.exp(0.4)], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "advantage", "loss", "slope"),
    [
        # the mean change of two tokens is the sequence's log-ratio: ln 1.1, within the clip
        ((math.log(1.21), 0.0), 1.0, -2.2, -1.1),
        # one token far off and one back: the sequence's ratio is 1, where clipping by token would cut the first
        ((math.log(2.0), -math.log(2.0)), 1.0, -2.0, -1.0),
        # ratio 1.5: cut above for a good completion, not for a bad one
        ((math.log(1.5), math.log(1.5)), 1.0, -2.56, 0.0),
        ((math.log(1.5), math.log(1.5)), -1.0, 3.0, 1.5),
        # ratio 0.5: cut below for a bad completion
        ((math.log(0.5), math.log(0.5)), -1.0, 1.6, 0.0),
    ],
)
def test_gspo_clips_the_ratio_of_the_whole_completion(change, advantage, loss, slope):
    logps = torch.tensor(change, requires_grad=True)
    found = policy_loss(logps, batch_of([2], [advantage]), settings_of("gspo"))
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-5)
    assert logps.grad.tolist() == pytest.approx([slope, slope], abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"), [(1.5, 1, 1.28), (1.5, -1, 1.28), (0.5, 1, 0.8), (0.5, -1, 0.8), (1.1, 1, 1.1)]
)
def test_cispo_clips_the_weight_and_never_the_gradient(ratio, advantage, weight):
    start = torch.tensor([-2.0])
    logps = (start + math.log(ratio)).requires_grad_()
    found = policy_loss(logps, batch_of([1], [float(advantage)], start=start), settings_of("cispo"))
    found.backward()
    assert found.item() == pytest.approx(-weight * advantage * (-2.0 + math.log(ratio)), abs=1e-5)
    assert logps.grad.item() == pytest.approx(-weight * advantage, abs=1e-5)


@pytest.mark.parametrize("kind", ["dr_grpo", "gspo"])
def test_the_clip_is_asymmetric(kind):
    wide = settings_of(kind, clip_low=0.4, clip_high=0.6)
    for ratio, advantage, expected in ((1.9, 1.0, -1.6), (0.3, -1.0, 0.6)):
        found = policy_loss(torch.tensor([math.log(ratio)]), batch_of([1], [advantage]), wide)
        assert found.item() == pytest.approx(expected, abs=1e-6)


def test_means_over_completions():
    found = sequence_means(torch.tensor([1.0, 2.0, 6.0, -1.0]), torch.tensor([0, 0, 0, 1]))
    assert found.tolist() == [3.0, 3.0, 3.0, -1.0]
    assert sequence_means(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_comes_out_so(kind, bad):
    logps = torch.tensor([-1.0, -2.0])
    assert not math.isfinite(policy_loss(logps, batch_of([1, 1], [bad, 1.0], start=logps), settings_of(kind)).item())
