"""Every task the run has had, so that no exact repeat is trained on again.

In: admitted questions.
Out: whether one was there before; the whole state as digests.
Refuses: nothing.
Not here: similarity, caps and replay of old tasks.

Only digests are kept: the archive can be saved anywhere without carrying text. Where the Reasoner reads the passage a
question belongs to its chunk ("What is the notice period?" is a new task for every contract); elsewhere it stands alone.
"""

from collections.abc import Iterable

from spice_enterprise.records import Regime, digest_of
from spice_enterprise.selfplay.answers import normalise


class Archive:
    """The set of tasks seen, restorable from `state()` or by adding the tasks again."""

    def __init__(self, initial: Iterable[str] = ()) -> None:
        self._digests = set(initial)

    def holds(self, *, chunk_id: str, question: str, regime: Regime) -> bool:
        """True when this very task was added before, but for case and punctuation."""
        return _digest(chunk_id, question, regime) in self._digests

    def add(self, *, chunk_id: str, question: str, regime: Regime) -> None:
        """Remember a task."""
        self._digests.add(_digest(chunk_id, question, regime))

    def state(self) -> tuple[str, ...]:
        """Return the digests, sorted: what to save, and what `Archive(...)` takes."""
        return tuple(sorted(self._digests))


def _digest(chunk_id: str, question: str, regime: Regime) -> str:
    return digest_of((chunk_id if regime == "open_book" else "", normalise(question)))
