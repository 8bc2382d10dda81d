"""The pieces in which a text goes through a model: cut at paragraphs and sentences, each character in exactly one.

In: text of any length and shape.
Out: windows with their offsets; the same text as prose of the same length, which is what a model reads best.
Refuses: nothing.
Not here: the model (`presidio.py`).
"""

import re
from collections.abc import Iterator
from typing import Final

WINDOW_CHARS: Final = 4_000
_BLOCK_END: Final = re.compile(r"\n[ \t]*\n|\f")
_SENTENCE_END: Final = re.compile(r"[.!?]\s")
_WRAPPED: Final = re.compile(r"(?<=[^\n]{50}[\w,;])\n(?=[^\W\d_])")
_BILL_TO: Final = re.compile(r"\bBill to\b", re.IGNORECASE)
_CAPS_LINE: Final = re.compile(r"^[^a-z\n]*[^\W\d_a-z]{2}[^a-z\n]*$", re.MULTILINE)
_CAPS_WORD: Final = re.compile(r"(?<![\w])[^\W\d_][^\W\d_]{2,}")


def windows(text: str, limit: int = WINDOW_CHARS) -> Iterator[tuple[int, str]]:
    """Yield (offset, piece): whole paragraphs while they fit, long ones cut at sentences, lines or words."""
    start = end = 0
    for border in [match.end() for match in _BLOCK_END.finditer(text)] + [len(text)]:
        if border - start > limit and end > start:
            yield start, text[start:end]
            start = end
        while border - start > limit:
            cut = _cut(text, start, start + limit)
            yield start, text[start:cut]
            start = cut
        end = border
    if end > start:
        yield start, text[start:end]


def _cut(text: str, start: int, limit: int) -> int:
    """Return where to end a window: after the last sentence, else line, else word before `limit`."""
    sentences = [match.end() for match in _SENTENCE_END.finditer(text, (start + limit) // 2, limit)]
    if sentences:
        return sentences[-1]
    border = max(text.rfind("\n", start, limit), text.rfind(" ", start, limit))
    return border + 1 if border > start else limit


def as_prose(window: str) -> str:
    """Return the window as prose of the same length: wrapped lines joined, lines in capitals as titles.

    A name may stand across a line end, and a model that learned from prose does not know one in capitals.
    """
    joined = _WRAPPED.sub(" ", window)
    return _BILL_TO.sub(lambda match: match.group().lower(), _CAPS_LINE.sub(_as_title, joined))


def _as_title(line: re.Match[str]) -> str:
    return _CAPS_WORD.sub(lambda word: word.group()[0] + _lower(word.group()[1:]), line.group())


def _lower(word: str) -> str:
    # some capitals have no single lower-case character: the length must not change
    lowered = word.lower()
    return lowered if len(lowered) == len(word) else word
