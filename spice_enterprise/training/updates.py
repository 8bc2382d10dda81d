"""What the groups of a step are to the learner: whole, of one objective, and cut into updates.

In: rollout groups of one step.
Out: their objective; the groups of each optimiser update, in order.
Refuses: a rollout without tokens or with another number of log-probabilities, a mix of objectives (E_ROLLOUT).
Not here: which version made them (`staleness.py`), the updates themselves (`trainer.py`).
"""

from collections.abc import Sequence

from spice_enterprise.errors import TrainingError
from spice_enterprise.records import Objective, RolloutGroup

Groups = Sequence[RolloutGroup]


def objective_of(groups: Groups) -> Objective:
    """Return what all groups are learned for, `policy` when there are none. Raises `TrainingError` E_ROLLOUT for a mix."""
    found = {group.objective for group in groups}
    if len(found) > 1:
        raise TrainingError(
            "a step learns from rewards or from examples, never from both",
            code="E_ROLLOUT",
            hint="give all groups of a step the same objective",
        )
    return found.pop() if found else "policy"


def require_whole(groups: Groups) -> None:
    """Raise `TrainingError` E_ROLLOUT unless every rollout has tokens and a log-probability of each; examples may have none."""
    for group in groups:
        for rollout in group.rollouts:
            is_scored = len(rollout.token_ids) == len(rollout.logprobs)
            is_example = group.objective == "supervised" and not rollout.logprobs
            if not rollout.token_ids or not (is_scored or is_example):
                raise TrainingError(
                    "a rollout needs one log-probability per token and at least one token",
                    code="E_ROLLOUT",
                    record_id=rollout.rollout_id,
                )


def split_updates(groups: Groups, *, most: int) -> list[Groups]:
    """Return the groups of each update: at most `most` rollouts, of about equal size, never a part of a group.

    A reasoner group stays with the challenger group before it where both fit. A group that is larger by itself is an
    update of its own. No groups are one update of none.
    """
    total = _rollouts(groups)
    if total <= most:
        return [groups]
    fair = total / -(-total // most)  # a rest of a few rollouts would move the adapter as far as all the others together
    updates: list[list[RolloutGroup]] = []
    for unit in _units(groups, most=most):
        size = _rollouts(updates[-1]) if updates else most
        if size < fair and size + _rollouts(unit) <= most:
            updates[-1] += unit
        else:
            updates.append(list(unit))
    return list(updates)


def _units(groups: Groups, *, most: int) -> list[list[RolloutGroup]]:
    """Return what belongs together: a challenger group and the reasoner group after it."""
    units: list[list[RolloutGroup]] = []
    for group in groups:
        is_answered = bool(units) and group.role == "reasoner" and [g.role for g in units[-1]] == ["challenger"]
        if is_answered and _rollouts(units[-1]) + len(group.rollouts) <= most:
            units[-1].append(group)
        else:
            units.append([group])
    return units


def _rollouts(groups: Groups) -> int:
    return sum(len(group.rollouts) for group in groups)
