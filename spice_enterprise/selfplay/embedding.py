"""A question as a vector of hashed words and letters, so that near-copies are found without a model.

In: short texts.
Out: one vector of length 1 per text (`HashedEmbedder`, the default `Embedder`), the same on every machine.
Refuses: nothing; a text without letters and digits is one feature of its own, and only the first 4,000 characters are read.
Not here: vectors that know what words mean (`training/encoder.py`), and what counts as too near (`selfplay.near_copy`).

Words and pairs of words say what is asked; runs of three to five letters see the same word in another form ("lease's").
Features are hashed with a sign into a fixed number of places (Weinberger et al. 2009, arXiv:0902.2206): two that fall on
one place cancel as often as they add up, so the cosine stays right on average.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from spice_enterprise.selfplay.answers import normalise

DIMENSIONS: Final = 256
_LETTER_RUNS: Final = (3, 4, 5)
_WORD_RUNS: Final = (1, 2)


class HashedEmbedder:
    """Hashed n-grams of words and letters; needs no files."""

    def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """Return one vector of `DIMENSIONS` numbers and length 1 per text. Case, articles and punctuation do not count."""
        return [_vector(text) for text in texts]


def _vector(text: str) -> tuple[float, ...]:
    plain = normalise(text)
    sums = [0.0] * DIMENSIONS
    for grams in (Counter(_word_grams(plain)), Counter(_letter_grams(plain))):
        # each kind has the same say, however many grams it has; a gram that is repeated counts less each time
        weight = 1.0 / math.sqrt(sum(grams.values()) or 1)
        for gram, count in grams.items():
            place, sign = _place(gram)
            sums[place] += sign * weight * math.sqrt(count)
    length = math.sqrt(math.fsum(value * value for value in sums))
    if not length:  # nothing to read, or all of it cancelled
        place, sign = _place(f"={plain}")
        return tuple(sign if i == place else 0.0 for i in range(DIMENSIONS))
    return tuple(value / length for value in sums)


def _word_grams(plain: str) -> Iterator[str]:
    words = plain.split()
    for size in _WORD_RUNS:
        for i in range(len(words) - size + 1):
            yield "w" + " ".join(words[i : i + size])


def _letter_grams(plain: str) -> Iterator[str]:
    for word in plain.split():
        marked = f" {word} "
        for size in _LETTER_RUNS:
            for i in range(len(marked) - size + 1):
                yield "l" + marked[i : i + size]


@lru_cache(maxsize=1 << 16)
def _place(gram: str) -> tuple[int, float]:
    """Return where a gram is counted, and with which sign."""
    number = int.from_bytes(blake2b(gram.encode(), digest_size=8).digest(), "big")
    return (number >> 1) % DIMENSIONS, 1.0 if number & 1 else -1.0
