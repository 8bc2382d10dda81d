"""The losses, and the numbers a step reports about its tokens.

In: per completion token, the learner's and the sampler's log-probabilities and the advantage of its rollout.
Out: a scalar to minimise; k3 divergence; which ratios were clipped.
Refuses: nothing; values that are not finite come out as such, and the trainer withholds the update.
Not here: which rows are trained and how they are packed (`learning.py`, `packing.py`).

Per token, with r = exp(logp - logp at the start), w = min(exp(logp at the start - logp_sampler), cap) and
clip(x) = x within [1 - low, 1 + high], the gain is

    dr_grpo    w * min(r * A, clip(r) * A)
    gspo       the same with r and w of the whole completion: exp of the mean difference over its tokens
    cispo      w * clip(r) * A * logp, where w * clip(r) carries no gradient, so that no token's gradient is ever cut

and the loss is - sum of gains / (L_max of the role) / sequences. The divisor is a constant: dividing by each rollout's
own length would reward long wrong answers, and dividing by the number of tokens would couple rollouts of different groups.
The start is the policy that played: the learner itself where its own version did, and then r = 1, w corrects rounding alone
and the three have the same gradient; the sampler's numbers where the version before did, or where an earlier update of the
same step moved the learner, and then w = 1 and r can be cut.

The loss of examples is the mean over the examples of an update of their mean negative log-likelihood per target token, in
nats: - sum of logp / tokens of the example / examples. With one mean over all tokens a passage of 150 tokens would weigh
as much as forty answers, and the answers would not be learned.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossKind = Literal["dr_grpo", "gspo", "cispo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """Which loss, the clip range of the ratio and the cap of the importance weight."""

    kind: LossKind = "dr_grpo"
    clip_low: float
    clip_high: float
    importance_cap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """What the loss needs besides the learner's present log-probabilities; each is [N], N completion tokens."""

    start_logps: Tensor
    """float: of the policy that the ratio is to; no gradient."""
    sampler_logps: Tensor
    advantages: Tensor
    divisors: Tensor
    """L_max of the token's role, times the number of sequences in the whole step."""
    completions: Tensor
    """int64: which completion of the batch a token belongs to, counted from 0 without gaps; every one is here whole."""


def policy_loss(logps: Tensor, tokens: TokenBatch, settings: LossSettings) -> Tensor:
    """Return the summed loss of these tokens; sums over micro-batches add up to the step's loss."""
    return -(_gains(logps, tokens, settings) / tokens.divisors).sum()


def supervised_loss(logps: Tensor, lengths: Tensor, examples: float) -> Tensor:
    """Return the summed loss of these tokens [N]; sums over micro-batches add up to the update's loss.

    Args:
        logps: of the target tokens.
        lengths: of the example that each of them belongs to, in tokens.
        examples: how many the whole update has.
    """
    return -(logps / (lengths * examples)).sum()


def clipped_and_weights(logps: Tensor, tokens: TokenBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Return for each token [N] whether its ratio was clipped (bool), and its importance weight (float)."""
    ratios, weights = _ratios_and_weights(logps.detach(), tokens, settings)
    is_above, is_below = ratios > 1.0 + settings.clip_high, ratios < 1.0 - settings.clip_low
    if settings.kind != "cispo":  # the smaller gain is taken: a clip that would raise it does not count
        is_above, is_below = is_above & (tokens.advantages > 0), is_below & (tokens.advantages < 0)
    return is_above | is_below, weights


def _gains(logps: Tensor, tokens: TokenBatch, settings: LossSettings) -> Tensor:
    ratios, weights = _ratios_and_weights(logps, tokens, settings)
    if settings.kind == "cispo":
        return weights * _clip(ratios, settings).detach() * tokens.advantages * logps
    return weights * _clipped_gains(ratios, tokens.advantages, settings)


def _ratios_and_weights(logps: Tensor, tokens: TokenBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    start, sampler = tokens.start_logps, tokens.sampler_logps
    if settings.kind == "gspo":
        logps, start, sampler = (sequence_means(values, tokens.completions) for values in (logps, start, sampler))
    return torch.exp(logps - start), importance_weights(start, sampler, settings.importance_cap)


def _clipped_gains(ratios: Tensor, advantages: Tensor, settings: LossSettings) -> Tensor:
    return torch.minimum(ratios * advantages, _clip(ratios, settings) * advantages)


def _clip(ratios: Tensor, settings: LossSettings) -> Tensor:
    return ratios.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)


def sequence_means(values: Tensor, completions: Tensor) -> Tensor:
    """Return for each token [N] the mean of `values` over its completion."""
    count = int(completions.max()) + 1 if len(completions) else 0
    lengths = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, completions, torch.ones_like(values))
    sums = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, completions, values)
    return (sums / lengths)[completions]


def importance_weights(learner_logps: Tensor, sampler_logps: Tensor, cap: float) -> Tensor:
    """Return min(exp(learner - sampler), cap), without gradient."""
    return torch.exp(learner_logps - sampler_logps).clamp(max=cap).detach()


def k3(learner_logps: Tensor, sampler_logps: Tensor) -> Tensor:
    """Return exp(d) - 1 - d per token, d = learner - sampler, in nats: estimates KL(sampler, learner), never negative."""
    difference = learner_logps - sampler_logps
    return torch.expm1(difference) - difference
