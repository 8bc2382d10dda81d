"""What a rollout earns. Pure functions of right and wrong.

In: whether answers were right, and whether a proposal was valid.
Out: the SPICE rewards: the Challenger's is highest when half of the answers are right, the Reasoner's is being right.
Refuses: an empty list of answers to a valid proposal.
Not here: advantages (`training/advantages.py`). No reward for format or length.
"""

import math
from collections.abc import Sequence
from typing import Final

INVALID: Final = -0.1
BEST_VARIANCE: Final = 0.25
"""Population variance of right and wrong at p = 1/2."""
TAU: Final = 0.01


def challenger_reward(correct: Sequence[bool], *, valid: bool = True) -> float:
    """Return exp(-(var - 0.25)^2 / (2 * 0.01)) with the population variance of `correct`, or -0.1 when not `valid`.

    Lies in {-0.1} or [0.0439, 1]. Raises `ValueError` when `valid` and nobody answered.
    """
    if not valid:
        return INVALID
    if not correct:
        raise ValueError("a valid proposal needs at least one answer")
    p = sum(map(bool, correct)) / len(correct)
    return math.exp(-((p * (1.0 - p) - BEST_VARIANCE) ** 2) / (2.0 * TAU))


def reasoner_reward(correct: bool) -> float:  # noqa: FBT001 - a published signature
    """Return 1.0 for a right answer, else 0.0."""
    return 1.0 if correct else 0.0
