"""Advantages: how much better than its own group a rollout did.

In: the rewards of one group (rollouts of the same parent, so of the same prompt and role).
Out: each reward minus the group's mean, in the same order.
Refuses: nothing; a reward that is not finite makes the whole group not finite, and the step is withheld downstream.
Not here: division by the deviation. It would weight easy and hard groups alike, which Dr.GRPO shows to be a bias.
"""

import math
from collections.abc import Sequence


def centre(rewards: Sequence[float]) -> list[float]:
    """Return `rewards` minus their mean.

    Equal rewards give exact zeros, so a group without a signal is recognised by comparing with 0. Groups of different
    roles, chunks or tasks never share a baseline: call this once per group.
    """
    if not rewards:
        return []
    if has_no_signal(rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def has_no_signal(rewards: Sequence[float]) -> bool:
    """True when all rewards are equal and finite: every advantage is then zero and there is nothing to learn."""
    return all(reward == rewards[0] for reward in rewards) and math.isfinite(rewards[0])
