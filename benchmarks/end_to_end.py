"""One step of reinforcement learning with a reward stub, beside TRL's GRPOTrainer.

`python -m benchmarks.end_to_end [--rival-python PYTHON] [--case long|short|mixed|silent|all] [--checkpointing] [--small]`

In: the base model; an interpreter that has TRL.
Out: useful tokens per second (completion tokens of rows with an advantage / wall seconds of generation, learning and
    delivery), peak memory of each side, seconds of each phase.
Refuses: what `learning.py` and `arms.py` refuse.
Not here: the learner alone (`learner_replay.py`).
"""

from dataclasses import replace
from typing import Final

from benchmarks import learning
from benchmarks.learning import Contest
from benchmarks.step_cases import Case, uniform

LEARNING_RATE: Final = 2e-5
RIVAL_ROWS: Final = 1
"""Rows of one of TRL's forward passes: as fast as more on a CPU, in the least memory. Its default is 8."""


def _contest(case: Case, small: Case, *, speed: float | None = None) -> Contest:
    return Contest(case=case, small=small, rival_rows=RIVAL_ROWS, function="end_to_end", learning_rate=LEARNING_RATE, speed=speed)


CONTESTS: Final = {
    "long": _contest(uniform(512, 64, groups=1), uniform(256, 16, groups=1), speed=6.0),
    "short": _contest(uniform(64, 128, groups=1), uniform(64, 32, groups=1), speed=3.0),
    "silent": _contest(
        replace(uniform(64, 64, groups=4, n=4), silent_share=0.3), replace(uniform(64, 8, groups=2, n=4), silent_share=0.3)
    ),
    # a challenger reads a passage, reasoners a question: what one step of self-play holds
    "mixed": _contest(
        Case(prompts=(700, 150, 150, 150), tails=(96, 32, 32, 32), n=4), Case(prompts=(200, 64), tails=(16, 8), n=4)
    ),
}


if __name__ == "__main__":
    learning.main(__doc__, CONTESTS)
