"""Is this text worth learning from: its language, and chunks that are noise.

In: scrubbed text.
Out: a language tag; the reason why a chunk is left out, as a closed word, or nothing.
Refuses: nothing.
Not here: personal data (`scrub.py`), repetition (`duplicates.py`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import pycld2

from spice_enterprise.corpus.surrogates import PLACEHOLDER

Reason = Literal["short", "numbers_only", "garbled", "all_removed"]
_LANGUAGE_CHARS: Final = 20_000
"""Enough to tell a language; the rest of a long document says the same."""
_LEAST_LETTERS: Final = 60
_LEAST_SHARE_PERCENT: Final = 60
_WORDS: Final = re.compile(r"[^\W\d_]+")
_EDGE_LINES: Final = 4
_LEAST_LINE_CHARS: Final = 12
_LEAST_DOCUMENTS: Final = 8


def language_of(text: str) -> str:
    """Return the ISO 639-1 code of the main language; empty for text that is too short or too mixed to tell."""
    sample = PLACEHOLDER.sub(" ", text[:_LANGUAGE_CHARS])
    if sum(map(len, _WORDS.findall(sample))) < _LEAST_LETTERS:
        return ""
    try:
        is_reliable, _, found = pycld2.detect(sample, bestEffort=True)
    except pycld2.error:
        return ""
    _, code, percent, _ = found[0]
    return str(code) if is_reliable and percent >= _LEAST_SHARE_PERCENT and code != "un" else ""


def unfit(text: str, token_count: int, least_tokens: int) -> Reason | None:
    """Return why a chunk is left out, or None when it is fit."""
    words = _WORDS.findall(PLACEHOLDER.sub(" ", text))
    letters = sum(map(len, words))
    solid = sum(not c.isspace() for c in PLACEHOLDER.sub("", text))
    if letters == 0 and PLACEHOLDER.search(text):
        return "all_removed"
    if token_count < least_tokens:
        return "short"
    if letters < 0.15 * solid:
        return "numbers_only"
    return "garbled" if _is_garbled(text, words) else None


def _is_garbled(text: str, words: Sequence[str]) -> bool:
    """True for what a broken font or a bad scan gives: signs instead of letters, or words of one letter."""
    odd = sum(not (c.isalnum() or c.isspace() or c in ".,;:!?'\"()[]{}<>/-–—_%$€£&+*=#@|·•’‘“”§°\\^~`") for c in text)
    mean = sum(map(len, words)) / max(len(words), 1)
    return odd > 0.1 * len(text) or mean < 1.8 or mean > 20


class RunningLines:
    """Lines that open or close most documents of a source, such as letterheads and disclaimers."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, bytes]] = Counter()
        self._documents: Counter[str] = Counter()

    def add(self, source_kind: str, text: str) -> None:
        """Count the outer lines of one document."""
        self._documents[source_kind] += 1
        for shape in {_shape(text[start:end]) for start, end in _outer_lines(text)}:
            self._counts[source_kind, shape] += 1

    def in_text(self, source_kind: str, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of the outer lines of `text` that stand in more than half of the source's documents."""
        documents = self._documents[source_kind]
        if documents < _LEAST_DOCUMENTS:
            return []
        return [(a, b) for a, b in _outer_lines(text) if 2 * self._counts[source_kind, _shape(text[a:b])] > documents]


def _outer_lines(text: str) -> Iterable[tuple[int, int]]:
    """Return the places of the first and last lines that are long enough to be told apart."""
    lines = [m.span() for m in re.finditer(r"[^\n]+", text) if len(m.group().strip()) >= _LEAST_LINE_CHARS]
    return lines if len(lines) <= 2 * _EDGE_LINES else [*lines[:_EDGE_LINES], *lines[-_EDGE_LINES:]]


def _shape(line: str) -> bytes:
    """Return a line without its numbers: page 3 of 7 is the same line on every page."""
    return re.sub(r"\d+", "#", line).strip().encode()
