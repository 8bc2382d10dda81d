"""Is this text worth learning from: its language, and chunks that are noise.

In: scrubbed text.
Out: a language tag; the reason why a chunk is left out, as a closed word, or nothing.
Refuses: nothing.
Not here: personal data (`scrub.py`), repetition (`duplicates.py`).
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
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
_LEAST_LINES: Final = 16
"""In a shorter document every line stands near an end, and the lines of a form are what it says."""
_LEAST_LINE_CHARS: Final = 12
_PAGE_NUMBER: Final = re.compile(r"\b(?:page|p\.) ?\d{1,4}(?: ?(?:of|/) ?\d{1,4})?\b", re.IGNORECASE)
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
        top, bottom = _outer_lines(text)
        for shape in {_shape(text[start:end]) for start, end in (*top, *bottom)} - {b""}:
            self._counts[source_kind, shape] += 1

    def in_text(self, source_kind: str, text: str) -> list[tuple[int, int]]:
        """Return (start, end) of the lines at the ends of `text` that stand in more than half of the source's documents."""
        documents = self._documents[source_kind]
        if documents < _LEAST_DOCUMENTS:
            return []

        def is_running(place: tuple[int, int]) -> bool:
            return 2 * self._counts[source_kind, _shape(text[place[0] : place[1]])] > documents

        top, bottom = _outer_lines(text)
        # from each end inwards: what stands behind a line of the document's own is its own too
        return [*takewhile(is_running, top), *reversed(list(takewhile(is_running, reversed(bottom))))]


def _outer_lines(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the places of the first and of the last lines; none of a short document."""
    lines = [m.span() for m in re.finditer(r"[^\n\f]+", text) if m.group().strip()]
    if len(lines) < _LEAST_LINES:
        return [], []
    return lines[:_EDGE_LINES], lines[-_EDGE_LINES:]


def _shape(line: str) -> bytes:
    """Return a line without its page number; a short line has no shape of its own."""
    plain = _PAGE_NUMBER.sub("page", line).strip()
    return plain.encode() if len(plain) >= _LEAST_LINE_CHARS else b""
