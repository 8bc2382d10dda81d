"""The pieces in which a text goes through a model: cut at paragraphs and sentences, each character in exactly one.

In: text of any length and shape.
Out: windows with their offsets; the same text as prose of the same length, which is what a model reads best.
Refuses: nothing.
Not here: the model (`presidio.py`).
"""

import re
from collections.abc import Iterator
from typing import Final

from spice_enterprise.corpus.checks import ALSO_NAMES, NEVER_NAMES

WINDOW_CHARS: Final = 4_000
_BLOCK_END: Final = re.compile(r"\n[ \t]*\n|\f")
_SENTENCE_END: Final = re.compile(r"[.!?]\s")
_WRAPPED: Final = re.compile(r"(?<=[^\n]{50}[\w,;])\n(?=[^\W\d_])")
_BILL_TO: Final = re.compile(r"\bBill to\b", re.IGNORECASE)
_CAPS_LINE: Final = re.compile(r"^[^a-z\n]*[^\W\d_a-z]{2}[^a-z\n]*$", re.MULTILINE)
_CAPS_WORD: Final = re.compile(r"(?<![\w])[^\W\d_][^\W\d_]{2,}")


_NEVER: Final = NEVER_NAMES - ALSO_NAMES
_PARAGRAPH: Final = re.compile(r"(?:[^\n]*\S[^\n]*(?:\n|\Z))+")
_THREE_WORDS: Final = re.compile(r"(?<![^\W\d_])[^\W\d_]{2,}+[\W\d_]++[^\W\d_]{2,}+[\W\d_]++[^\W\d_]{2}")
_SMALL_WORD: Final = re.compile(r"(?<![\w'’@./])[^\W\d_]{2,}(?![@/\w]|\.\w)")


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


def small_paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Yield where paragraphs without any capital stand: what is typed so has names that look like words."""
    for match in _PARAGRAPH.finditer(text):
        if match.group().islower() and _THREE_WORDS.search(match.group()):
            yield match.span()


def as_titles(text: str) -> str:
    """Return the text with a capital on each word that can be a name, as long as before."""
    return _SMALL_WORD.sub(lambda word: word.group() if word.group() in NEVER_NAMES else _capital(word.group()), text)


def _capital(word: str) -> str:
    raised = word[0].upper()
    return raised + word[1:] if len(raised) == 1 else word


def as_prose(window: str) -> str:
    """Return the window as prose of the same length: wrapped lines joined, lines in capitals and all-small paragraphs as titles.

    A name may stand across a line end, and a model that learned from prose does not know one in capitals.
    """
    for start, end in small_paragraphs(window):
        window = window[:start] + as_titles(window[start:end]) + window[end:]
    joined = _WRAPPED.sub(" ", window)
    return _BILL_TO.sub(lambda match: match.group().lower(), _CAPS_LINE.sub(_as_title, joined))


def _as_title(line: re.Match[str]) -> str:
    return _CAPS_WORD.sub(_title_word, line.group())


def _title_word(match: re.Match[str]) -> str:
    word = _lower(match.group())
    return word if word in _NEVER else match.group()[0] + word[1:]


def _lower(word: str) -> str:
    # some capitals have no single lower-case character: the length must not change
    lowered = word.lower()
    return lowered if len(lowered) == len(word) else word
