"""The train chunks of a run: which document each is of, and which are near a question.

In: chunks, an embedder.
Out: a chunk by its id; the passages of other documents that are nearest to a question.
Refuses: nothing.
Not here: what is shown of them (`regimes.py`), which chunks are played (`chunk_sampler.py`).

Chunks are embedded when a neighbour is first asked for: outside `open_book` nobody asks.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from spice_enterprise.protocols import Embedder
from spice_enterprise.records import Chunk


class Library:
    """Chunks to play and to choose distractor passages from."""

    def __init__(self, chunks: Sequence[Chunk], embedder: Embedder) -> None:
        self.chunks = tuple(chunks)
        self._embedder = embedder
        self._by_id = {chunk.chunk_id: chunk for chunk in chunks}

    @property
    def documents(self) -> dict[str, str]:
        """The document of each chunk, by their ids."""
        return {chunk_id: chunk.document_id for chunk_id, chunk in self._by_id.items()}

    def find(self, chunk_id: str) -> Chunk | None:
        """Return a chunk by its id, or None when it is not a train chunk of this run."""
        return self._by_id.get(chunk_id)

    def near(self, question: str, source: Chunk, *, n: int) -> tuple[Chunk, ...]:
        """Return the `n` chunks of other documents that are nearest to `question`; fewer where there are fewer."""
        if n == 0 or not self.chunks:
            return ()
        scores = self._vectors @ np.asarray(self._embedder.embed([question])[0])
        order = sorted(range(len(self.chunks)), key=lambda i: (-round(float(scores[i]), 9), self.chunks[i].chunk_id))
        others = [self.chunks[i] for i in order if self.chunks[i].document_id != source.document_id]
        return tuple(others[:n])

    @cached_property
    def _vectors(self) -> Any:
        return np.asarray(self._embedder.embed([chunk.text for chunk in self.chunks]))
