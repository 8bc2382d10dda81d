"""One optimiser step on completions that are given, beside TRL's training step on the same rows.

`python -m benchmarks.learner_replay [--rival-python PYTHON] [--case long|short|all] [--checkpointing] [--small]`

In: the base model; an interpreter that has TRL.
Out: completion tokens learned from per second and peak memory of each side.
Refuses: what `learning.py` and `arms.py` refuse.
Not here: generation and delivery (`end_to_end.py`).
"""

from typing import Final

from benchmarks import learning
from benchmarks.learning import Contest
from benchmarks.step_cases import Case, uniform

LEARNING_RATE: Final = 1e-9
"""The rows are given, so what is learned must not move what they were scored with."""
RIVAL_ROWS: Final = 1
"""Rows of one of TRL's forward passes: as fast as more on a CPU, in the least memory. Its default is 8."""


def _contest(case: Case, small: Case, *, speed: float | None = None) -> Contest:
    return Contest(case=case, small=small, rival_rows=RIVAL_ROWS, function="replay", learning_rate=LEARNING_RATE, speed=speed)


CONTESTS: Final = {
    "long": _contest(uniform(1024, 64, groups=1), uniform(512, 16, groups=1), speed=4.0),
    "short": _contest(uniform(250, 128, groups=1), uniform(128, 64, groups=1), speed=1.3),
}


if __name__ == "__main__":
    learning.main(__doc__, CONTESTS)
