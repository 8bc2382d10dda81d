"""How alike the questions of a step are, and how their answers are spread. Pure functions of text.

In: questions, answers, letters.
Out: finite numbers; None where there is too little to tell.
Refuses: nothing.
Not here: nearness to what was asked before (`archive.py`), which questions are looked at (`metrics.py`).
"""

import math
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

import numpy as np

from spice_enterprise.selfplay.answers import LETTERS, normalise
from spice_enterprise.selfplay.embedding import HashedEmbedder

NGRAM: Final = 4
CLUSTER_COSINE: Final = 0.5
"""From which cosine two questions are of one cluster: they share about half of their words."""
MAX_CLUSTERED: Final = 1_024
"""Most questions of a step that are compared with each other."""
MAX_ZLIB_BYTES: Final = 1 << 20


def self_bleu(texts: Sequence[str]) -> float | None:
    """Return the mean BLEU-4 of each text against all others: 1 when they are copies, near 0 when they share no words.

    Sentence BLEU after Papineni et al. (2002), with the closest reference length and one added to both counts of n-grams of
    two and more words (Lin and Och, 2004). Linear in the length of the texts. None for fewer than two texts.
    """
    words = [normalise(text).split() for text in texts]
    if len(words) < 2:
        return None
    counts = [[_ngrams(one, size) for one in words] for size in range(1, NGRAM + 1)]
    tops = [_two_highest(of_size) for of_size in counts]
    lengths = Counter(map(len, words))
    return sum(_bleu(i, counts, tops, lengths) for i in range(len(words))) / len(words)


Tops = dict[tuple[str, ...], tuple[int, int]]
"""n-gram to its highest and second highest count in one text."""


def _ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def _two_highest(counts: Iterable[Counter[tuple[str, ...]]]) -> Tops:
    """With the two highest counts, the highest among all *other* texts is known for every text."""
    tops: Tops = {}
    for of_text in counts:
        for gram, count in of_text.items():
            first, second = tops.get(gram, (0, 0))
            tops[gram] = (count, first) if count > first else (first, max(second, count))
    return tops


def _bleu(i: int, counts: Sequence[Sequence[Counter[tuple[str, ...]]]], tops: Sequence[Tops], lengths: Counter[int]) -> float:
    logs = 0.0
    for size, (of_size, top) in enumerate(zip(counts, tops, strict=True), start=1):
        own = of_size[i]
        hits = sum(min(count, _highest_elsewhere(count, top[gram])) for gram, count in own.items())
        smooth = int(size > 1)
        if hits + smooth == 0:
            return 0.0
        logs += math.log((hits + smooth) / (sum(own.values()) + smooth)) / NGRAM
    length = sum(counts[0][i].values())
    return math.exp(logs + _brevity(length, lengths))


def _highest_elsewhere(own: int, top: tuple[int, int]) -> int:
    first, second = top
    return second if own == first else first


def _brevity(length: int, lengths: Counter[int]) -> float:
    """Return the logarithm of the brevity penalty against the closest length of another text; the shorter at a tie."""
    others = lengths - Counter([length])
    closest = min(others, key=lambda other: (abs(other - length), other))
    return min(0.0, 1.0 - closest / length) if length else 0.0


def word_entropy(texts: Iterable[str]) -> float | None:
    """Return the entropy in bits of the words of all texts together; None without words."""
    words = Counter(word for text in texts for word in normalise(text).split())
    total = sum(words.values())
    return -sum(n / total * math.log2(n / total) for n in words.values()) if total else None


def cluster_entropy(texts: Sequence[str]) -> float | None:
    """Return the entropy in bits of the clusters that texts fall into: 0 when all are alike, log2(n) when all differ.

    Two texts are of one cluster when hashed n-grams put them, or a chain of texts between them, `CLUSTER_COSINE` apart at
    least (single linkage): the order of the texts does not matter. None for fewer than two texts.
    """
    if len(texts) < 2:
        return None
    vectors = np.asarray(HashedEmbedder().embed(texts[:MAX_CLUSTERED]))
    is_near = vectors @ vectors.T >= CLUSTER_COSINE
    left, sizes = set(range(len(vectors))), []
    while left:
        reached, edge = set(), {left.pop()}
        while edge:
            reached |= edge
            edge = {int(j) for i in edge for j in np.flatnonzero(is_near[i])} - reached
        left -= reached
        sizes.append(len(reached))
    return -sum(n / len(vectors) * math.log2(n / len(vectors)) for n in sizes) + 0.0


def zlib_ratio(texts: Sequence[str]) -> float | None:
    """Return compressed by raw bytes of the texts together, at most the first MiB; low when they repeat themselves."""
    raw = "\n".join(texts).encode()[:MAX_ZLIB_BYTES]
    return len(zlib.compress(raw, 6)) / len(raw) if raw else None


def top_share(values: Iterable[Hashable]) -> float | None:
    """Return the share of the most frequent value; None without values."""
    counts = Counter(values)
    return max(counts.values()) / sum(counts.values()) if counts else None


def letter_shares(letters: Sequence[str], *, options: int = 4) -> tuple[dict[str, float], float]:
    """Return the share of each letter, and chi-square of their counts against an even spread (`options` - 1 degrees of freedom).

    At 3 degrees of freedom it is above 7.81 in one of twenty even spreads. `letters` is not empty.
    """
    counts, expected = Counter(letters), len(letters) / options
    every = LETTERS[:options]
    return (
        {letter: counts[letter] / len(letters) for letter in every},
        sum((counts[letter] - expected) ** 2 for letter in every) / expected,
    )
