"""What a step's record says about its rollouts, before any filter or clip.

In: the groups of a step and what the passes over them measured.
Out: the outcome of all updates of a step as one; a `Step`.
Refuses: nothing; values that are not finite are recorded as they are.
Not here: which updates are applied (`trainer.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spice_enterprise.records import Rollout, RolloutGroup, Step, Withheld
from spice_enterprise.training.advantages import has_no_signal
from spice_enterprise.training.learning import Measured, joined
from spice_enterprise.training.updates import objective_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one update: its sums, the gradient's norm, and why nothing was applied (empty when it was)."""

    measured: Measured
    grad_norm: float
    withheld: Withheld = ""


def join_outcomes(updates: Sequence[Outcome]) -> Outcome:
    """Return the updates of one step as one, with the largest norm. One that is not finite withholds them all."""
    broken = [update for update in updates if update.withheld == "non_finite"]
    if broken:
        return broken[0]
    return Outcome(
        measured=joined([update.measured for update in updates]),
        grad_norm=max(update.grad_norm for update in updates),
        withheld="no_signal" if all(update.withheld for update in updates) else "",
    )


def describe_step(
    groups: Sequence[RolloutGroup], outcome: Outcome, *, number: int, adapter_id: str, staleness: int, duration_s: float
) -> Step:
    """Return the record of step `number`, whose rollouts `adapter_id` was updated with."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [rollout.reward for rollout in rollouts]
    measured, objective = outcome.measured, objective_of(groups)
    lost = [has_no_signal([r.reward for r in group.rollouts]) for group in groups if group.objective == "policy"]
    return Step(
        number=number,
        adapter_id=adapter_id,
        rollout_ids=tuple(rollout.rollout_id for rollout in rollouts),
        is_applied=not outcome.withheld,
        withheld=outcome.withheld,
        reward_mean=_mean(rewards),
        reward_std=_deviation(rewards),
        challenger_reward_mean=_mean([r.reward for r in rollouts if r.role == "challenger"]),
        reasoner_reward_mean=_mean([r.reward for r in rollouts if r.role == "reasoner"]),
        frac_zero_std=_mean([float(is_lost) for is_lost in lost]) if objective == "policy" else 0.0,
        loss=measured.loss,
        grad_norm=outcome.grad_norm,
        kl_nats_per_token=measured.mean(measured.kl),
        gap_nats_per_token=measured.mean(measured.gap),
        entropy_nats_per_token=measured.mean(measured.entropy),
        length_mean_tokens=_mean([float(len(r.token_ids)) for r in rollouts]),
        invalid_rate=_invalid_rate(rollouts),
        trained_tokens=measured.tokens if measured.is_trained else 0,
        staleness=staleness,
        objective=objective,
        clip_share=measured.clipped / max(measured.tokens, 1),
        weight_mean=measured.mean(measured.weights) if measured.tokens else 1.0,
        weight_max=measured.weight_max if measured.tokens else 1.0,
        batch_tokens=measured.batch_tokens,
        duration_s=duration_s,
    )


def _mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of nothing; NaN and infinity pass through."""
    return sum(values) / len(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    """Return the population standard deviation, NaN of nothing."""
    mean = _mean(values)
    return math.sqrt(_mean([(value - mean) ** 2 for value in values])) if values else math.nan


def _invalid_rate(rollouts: Sequence[Rollout]) -> float:
    """Return the share of proposals that could not be used; 0 when there were none."""
    proposals = [rollout for rollout in rollouts if rollout.role == "challenger"]
    return _mean([float(rollout.outcome != "valid") for rollout in proposals]) if proposals else 0.0
