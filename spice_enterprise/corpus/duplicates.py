"""The same thing twice: exact copies and near copies of texts.

In: scrubbed texts, one after the other, and the similarity from which two are the same.
Out: for each text the earlier one it repeats, if any; families of documents that must stay on one side of a split.
Refuses: nothing.
Not here: copies of a file's bytes and of raw text, which `ingest.py` knows by their keyed digests.

Near copies are found by rensa: MinHash over shingles of five words, looked up by locality-sensitive hashing.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from rensa import RMinHash, RMinHashLSH

SHINGLE_WORDS: Final = 5
_PERMUTATIONS: Final = 128
_SEED: Final = 42
_BANDS: Final = ((0.9, 8), (0.7, 16), (0.5, 32), (0.0, 64))
"""(threshold from, bands): few long bands find only very similar texts, many short ones also less similar ones."""


class Duplicates:
    """Remembers signatures of 128 numbers per text, never the texts."""

    def __init__(self, threshold: float) -> None:
        """Call two texts the same from this Jaccard similarity of their shingles; 1.0 means exact copies only."""
        self._threshold = threshold
        self._by_digest: dict[bytes, int] = {}
        self._signatures: list[RMinHash] = []
        bands = next(bands for least, bands in _BANDS if threshold >= least)
        self._lsh = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=bands)

    def add(self, text: str) -> int | None:
        """Remember a text and return the number (from 0, in order of adding) of the first one that it repeats.

        What repeats another text is not compared with later ones: a thousand copies cost no more than two.
        """
        number, signature, earlier = self._signed(text)
        near = [earlier] if earlier is not None else self._near(signature)
        if not near:
            self._lsh.insert(number, signature)
        return near[0] if near else None

    def relatives(self, text: str) -> list[int]:
        """Remember a text and return the numbers of all that it repeats."""
        number, signature, earlier = self._signed(text)
        near = [earlier] if earlier is not None else self._near(signature)
        if earlier is None:
            self._lsh.insert(number, signature)
        return near

    def _signed(self, text: str) -> tuple[int, RMinHash, int | None]:
        """Return a new number, the text's signature, and the number of an exact copy."""
        number = len(self._signatures)
        words = text.casefold().split()
        signature = RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
        signature.update(_shingles(words))
        self._signatures.append(signature)
        earlier = self._by_digest.setdefault(hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest(), number)
        return number, signature, earlier if earlier != number else None

    def _near(self, signature: RMinHash) -> list[int]:
        if self._threshold >= 1.0:
            return []
        return sorted(n for n in self._lsh.query(signature) if self._signatures[n].jaccard(signature) >= self._threshold)


def _shingles(words: list[str]) -> list[str]:
    """Return every run of five words; a shorter text is one shingle."""
    return [" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))]


class Families:
    """Which of `n` numbered things belong together."""

    def __init__(self) -> None:
        self._parents: list[int] = []

    def add(self, relatives: Sequence[int]) -> None:
        """Add the next thing, and join it with the families of its relatives."""
        number = len(self._parents)
        self._parents.append(number)
        for family in {self.of(relative) for relative in relatives}:
            first, second = sorted((family, self.of(number)))
            self._parents[second] = first

    def of(self, number: int) -> int:
        """Return the first member of the family of `number`."""
        while self._parents[number] != number:
            number = self._parents[number]
        return number
