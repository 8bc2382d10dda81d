"""What a rollout earns. Pure functions of right and wrong.

In: whether answers were right, and whether a proposal was valid.
Out: the SPICE rewards, the chance-corrected one of the enterprise preset, and four of other works to compare with.
Refuses: an empty list of answers to a valid proposal.
Not here: advantages (`training/advantages.py`). No reward for format or length.

p is the share of right answers. All but `azr` are highest where half of the answers are right; they differ in what they pay
away from there. Sources: `spice` arXiv 2510.24684; `rzero` 2508.05004 (named in SPICE's ablation); `azr` 2505.03335; `spell`
2509.23863. The published texts do not state the band of `threshold`; ours is 1/4 to 3/4.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

from spice_enterprise.records import Task

Family = Literal["chance_corrected", "spice", "rzero", "azr", "spell", "threshold"]
RewardRule = Callable[[Sequence[bool], Task], float]

INVALID: Final = -0.1
BEST_VARIANCE: Final = 0.25
"""Population variance of right and wrong at p = 1/2."""
TAU: Final = 0.01
SPELL_SIGMA: Final = 0.5 / 3.0
BAND: Final = (0.25, 0.75)


def challenger_reward(correct: Sequence[bool], *, valid: bool = True) -> float:
    """Return exp(-(var - 0.25)^2 / (2 * 0.01)) with the population variance of `correct`, or -0.1 when not `valid`.

    Lies in {-0.1} or [0.0439, 1]. Raises `ValueError` when `valid` and nobody answered.
    """
    return gaussian(pass_rate(correct)) if valid else INVALID


def chance_corrected_reward(correct: Sequence[bool], *, chance: float) -> float:
    """Return the same of q = max(0, (p - chance) / (1 - chance)): what blind guessing gets right earns nothing."""
    return gaussian(max(0.0, (pass_rate(correct) - chance) / (1.0 - chance)))


def rzero_reward(correct: Sequence[bool]) -> float:
    """Return 1 - 2 |p - 1/2|."""
    return 1.0 - 2.0 * abs(pass_rate(correct) - 0.5)


def azr_reward(correct: Sequence[bool]) -> float:
    """Return 1 - p, and 0 where all or none are right."""
    p = pass_rate(correct)
    return 1.0 - p if 0.0 < p < 1.0 else 0.0


def spell_reward(correct: Sequence[bool]) -> float:
    """Return a Gaussian of p around 1/2 with deviation 1/6, and 0 where all or none are right."""
    p = pass_rate(correct)
    return math.exp(-((p - 0.5) ** 2) / (2.0 * SPELL_SIGMA**2)) if 0.0 < p < 1.0 else 0.0


def threshold_reward(correct: Sequence[bool]) -> float:
    """Return 1 where p lies within `BAND`, else 0."""
    low, high = BAND
    return 1.0 if low <= pass_rate(correct) <= high else 0.0


def reasoner_reward(correct: bool) -> float:  # noqa: FBT001 - a published signature
    """Return 1.0 for a right answer, else 0.0."""
    return 1.0 if correct else 0.0


def reward_rule(family: Family) -> RewardRule:
    """Return the rule of a family for a task that was answered."""
    if family == "chance_corrected":
        return lambda correct, task: chance_corrected_reward(correct, chance=chance_of(task))
    plain: dict[Family, Callable[[Sequence[bool]], float]] = {
        "spice": challenger_reward,
        "rzero": rzero_reward,
        "azr": azr_reward,
        "spell": spell_reward,
        "threshold": threshold_reward,
    }
    return lambda correct, task: plain[family](correct)


def chance_of(task: Task) -> float:
    """Return how often blind guessing is right: one of the options, one of two, or never."""
    if task.answer_kind == "choice":
        return 1.0 / max(2, len(task.options))
    return 0.5 if task.answer_kind == "boolean" else 0.0


def pass_rate(correct: Sequence[bool]) -> float:
    """Return the share of right answers. Raises `ValueError` when nobody answered."""
    if not correct:
        raise ValueError("a valid proposal needs at least one answer")
    return sum(map(bool, correct)) / len(correct)


def gaussian(p: float) -> float:
    """Return exp(-(p (1 - p) - 0.25)^2 / (2 * 0.01)): 1 at p = 1/2, 0.0439 at 0 and 1."""
    return math.exp(-((p * (1.0 - p) - BEST_VARIANCE) ** 2) / (2.0 * TAU))
