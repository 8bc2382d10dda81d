"""What a play costs, by phase: time and new tokens.

In: waits for groups in flight, and time spent elsewhere.
Out: `Effort`: seconds and tokens by phase.
Refuses: nothing.
Not here: records. Wall-clock never enters one.

Groups of all phases share forward passes, so a wait is split by the rows that are in flight while it lasts.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from spice_enterprise.protocols import Effort, Grade, Grader
from spice_enterprise.records import Completion, Task

Phase = Literal["challenger", "admission", "reasoner", "grading"]


class Meter:
    """Adds up the effort of one play."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: Counter[str] = Counter()

    @contextmanager
    def waiting(self, rows: Mapping[Phase, int]) -> Iterator[None]:
        """Charge the time of this block to the phases of the rows in flight."""
        begun_at = time.monotonic()
        yield
        spent_s, every = time.monotonic() - begun_at, sum(rows.values())
        for phase, count in rows.items():
            self._seconds[phase] += spent_s * count / every

    @contextmanager
    def working(self, phase: Phase) -> Iterator[None]:
        """Charge the time of this block to one phase."""
        begun_at = time.monotonic()
        yield
        self._seconds[phase] += time.monotonic() - begun_at

    def drew(self, phase: Phase, completions: Sequence[Completion]) -> None:
        """Count the tokens of finished completions."""
        self._tokens[phase] += sum(len(completion.token_ids) for completion in completions)

    def effort(self) -> Effort:
        """Return what was added up so far."""
        return Effort(seconds=tuple(sorted(self._seconds.items())), tokens=tuple(sorted(self._tokens.items())))


class MeteredGrader:
    """A `Grader` whose time is charged to `grading`."""

    def __init__(self, grader: Grader, meter: Meter) -> None:
        self._grader = grader
        self._meter = meter

    def grade_all(self, task: Task, answers: Sequence[str]) -> tuple[Grade, ...]:
        """Grade, on the meter."""
        with self._meter.working("grading"):
            return self._grader.grade_all(task, answers)
