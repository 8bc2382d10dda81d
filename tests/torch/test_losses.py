"""The loss against closed values; the wrong divisors give other numbers, and each is named."""

import pytest
import torch

from spice_enterprise.training.losses import LossLimits, TokenBatch, importance_weights, k3, policy_loss

pytestmark = pytest.mark.torch
LIMITS = LossLimits(clip_low=0.2, clip_high=0.28, importance_cap=2.0)


def loss_of(lengths, advantages, *, l_max, sequences, ratio=1.0):
    weights = torch.tensor([a for a, n in zip(advantages, lengths, strict=True) for _ in range(n)])
    start = torch.zeros(len(weights))
    tokens = TokenBatch(
        start_logps=start, sampler_logps=start, advantages=weights, divisors=torch.full_like(weights, l_max * sequences)
    )
    return policy_loss(start + torch.log(torch.tensor(ratio)), tokens, LIMITS).item()


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


def test_the_gradient_is_weight_times_advantage_over_the_divisor():
    logps = torch.tensor([-1.0, -2.0], requires_grad=True)
    tokens = TokenBatch(
        start_logps=logps.detach(), sampler_logps=torch.tensor([-1.5, -4.0]), advantages=torch.tensor([1.0, -1.0]),
        divisors=torch.tensor([4.0, 4.0]),
    )  # fmt: skip
    policy_loss(logps, tokens, LIMITS).backward()
    assert logps.grad.tolist() == pytest.approx([-1.648721 / 4, 2.0 / 4], abs=1e-6)
