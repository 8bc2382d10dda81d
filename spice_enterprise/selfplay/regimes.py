"""What the Reasoner may see beside the question.

In: the regimes of a job, the chunk a task came from, passages of other documents.
Out: the regime of a chunk; in `open_book` alone a `Shelf` of passages.
Refuses: by type, a shelf in any other regime: the checker accepts `shelf` only where the regime is known to be `open_book`.
Not here: which passages are near (`library.py`), and the wording around them (`prompts.py`).

self_contained  the question alone; it restates every fact that is needed, and the answer must be derived
open_book       the question, and the passage among passages of other documents
closed_book     the question alone, about the passage: for facts that the weights may hold
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spice_enterprise.records import Chunk, Regime, ScrubbedText
from spice_enterprise.seeding import stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The passages a Reasoner may read, in the order shown. Made by `shelf` alone."""

    chunks: tuple[Chunk, ...]

    @property
    def passages(self) -> tuple[ScrubbedText, ...]:
        """The texts, in the order shown."""
        return tuple(chunk.text for chunk in self.chunks)


def regime_of(chunk: Chunk, regimes: Sequence[Regime], *, seed: int) -> Regime:
    """Return the chunk's regime: the same in every step of a run."""
    return stream(seed, "regime", chunk.chunk_id).choice(tuple(regimes))


def shelf(regime: Literal["open_book"], source: Chunk, others: Sequence[Chunk], *, seed: int) -> Shelf:
    """Return the source passage among `others`, in an order that does not tell which it is."""
    chunks = [source, *others]
    stream(seed, "shelf", source.chunk_id, *(other.chunk_id for other in others)).shuffle(chunks)
    return Shelf(chunks=tuple(chunks))
