"""Every task the run has had, so that no exact repeat is trained on again.

In: admitted questions, and the step that asked them.
Out: whether one was there before; the whole state as digests.
Refuses: nothing.
Not here: similarity, caps and replay of old tasks.

Only digests are kept: the archive can be saved anywhere without carrying text. Where the Reasoner reads the passage a
question belongs to its chunk ("What is the notice period?" is a new task for every contract); elsewhere it stands alone.
A task is kept with the step that had it first, so that a step which is played again does not meet its own tasks.
"""

from collections.abc import Iterable

from spice_enterprise.records import Regime, digest_of
from spice_enterprise.selfplay.answers import normalise


class Archive:
    """The set of tasks seen, restorable from `state()` or by adding the tasks again."""

    def __init__(self, initial: Iterable[str] = ()) -> None:
        entries = (entry.split() for entry in initial)
        self._steps = {digest: int(step) for digest, step in entries}

    def holds(self, *, chunk_id: str, question: str, regime: Regime) -> bool:
        """True when this very task was added before, but for case and punctuation."""
        return _digest(chunk_id, question, regime) in self._steps

    def add(self, *, chunk_id: str, question: str, regime: Regime, step: int = 0) -> None:
        """Remember a task of a step; one that is there already keeps the step that had it first."""
        self._steps.setdefault(_digest(chunk_id, question, regime), step)

    def before(self, step: int) -> "Archive":
        """Return a copy with the tasks of earlier steps only."""
        earlier = Archive()
        earlier._steps = {digest: first for digest, first in self._steps.items() if first < step}
        return earlier

    def state(self) -> tuple[str, ...]:
        """Return `<digest> <step>` for every task, sorted: what to save, and what `Archive(...)` takes."""
        return tuple(f"{digest} {step}" for digest, step in sorted(self._steps.items()))


def _digest(chunk_id: str, question: str, regime: Regime) -> str:
    return digest_of((chunk_id if regime == "open_book" else "", normalise(question)))
