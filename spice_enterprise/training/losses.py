"""The Dr.GRPO loss, and the numbers a step reports about its tokens.

In: per completion token, the learner's and the sampler's log-probabilities and the advantage of its rollout.
Out: a scalar to minimise; k3 divergence.
Refuses: nothing; values that are not finite come out as such, and the trainer withholds the update.
Not here: which rows are trained and how they are packed (`trainer.py`, `packing.py`).

    loss = - sum over tokens of  weight * min(ratio * A, clip(ratio, 1 - low, 1 + high) * A) / (L_max of the role) / sequences
    weight = min(exp(logp_learner - logp_sampler), cap), detached;  ratio = exp(logp - logp at the start of the step)

The divisor is a constant: dividing by each rollout's own length would reward long wrong answers, and dividing by the
number of tokens would couple rollouts of different groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossLimits:
    """Clip range of the ratio and cap of the importance weight."""

    clip_low: float
    clip_high: float
    importance_cap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """What the loss needs besides the learner's present log-probabilities; each is float [N], N completion tokens."""

    start_logps: Tensor
    """The learner's log-probabilities before the first update on this batch; no gradient."""
    sampler_logps: Tensor
    advantages: Tensor
    divisors: Tensor
    """L_max of the token's role, times the number of sequences in the whole step."""


def policy_loss(logps: Tensor, tokens: TokenBatch, limits: LossLimits) -> Tensor:
    """Return the summed loss of these tokens; sums over micro-batches add up to the step's loss."""
    weights = importance_weights(tokens.start_logps, tokens.sampler_logps, limits.importance_cap)
    ratios = torch.exp(logps - tokens.start_logps)
    clipped = ratios.clamp(1.0 - limits.clip_low, 1.0 + limits.clip_high)
    gains = torch.minimum(ratios * tokens.advantages, clipped * tokens.advantages)
    return -(weights * gains / tokens.divisors).sum()


def importance_weights(learner_logps: Tensor, sampler_logps: Tensor, cap: float) -> Tensor:
    """Return min(exp(learner - sampler), cap) per token, without gradient."""
    return torch.exp(learner_logps - sampler_logps).clamp(max=cap).detach()


def k3(learner_logps: Tensor, sampler_logps: Tensor) -> Tensor:
    """Return exp(d) - 1 - d per token, d = learner - sampler, in nats: estimates KL(sampler, learner), never negative."""
    difference = learner_logps - sampler_logps
    return torch.expm1(difference) - difference
