"""How far an address goes around the one part of it that can be recognised: lines of a block, or words of a sentence.

In: text, and where a unit, a box, a street with its number or a postcode stands.
Out: the whole address.
Refuses: nothing; a look of bounded length to both sides.
Not here: what can be recognised in the first place (`place_rules.py`).
"""

import re
from typing import Final

from spice_enterprise.corpus.checks import NOT_NAMES
from spice_enterprise.corpus.rule import UPPER

_LOOK_CHARS: Final = 120
_MAX_LINES: Final = 4
_MARGIN: Final = r"[ \t?>*|\-]{0,6}"
_PARTICLES: Final = frozenset(
    ("de", "da", "do", "das", "dos", "del", "della", "di", "du", "la", "le", "el", "los", "las", "les", "van", "der", "den",
     "und", "u", "nad", "ul", "ul.", "am", "im", "og", "i", "na", "al", "y", "e", "zu", "of", "and", "the")
)  # fmt: skip
_PIECE: Final = rf"(?:[{UPPER}][\w.'’ß/\-]{{0,30}}|\d{{1,6}}[A-Za-z]?(?:[\-/]\d{{1,4}})?|[a-z]{{1,5}}\.?)"
_BEFORE: Final = re.compile(rf"(?:(?<![\w.@/])|(?<=\d\.)){_PIECE}(?:,? |, ?\n ?|\n ?)(?=\Z)")
_AFTER: Final = re.compile(rf"(?:,? |, ?\n ?|\n ?)(?P<piece>{_PIECE})(?![\w@:=])")
_LINE_AFTER: Final = re.compile(
    rf"[ ,]{{0,2}}\n(?:[ \t?]{{0,6}}\n)?{_MARGIN},?[ ]?(?P<piece>[^\n:@|;=!]{{2,48}}?)(?=[ ,]{{0,2}}(?:\n|\Z))"
)
_LINE_BEFORE: Final = re.compile(rf"(?:\n|\A){_MARGIN}(?P<piece>[^\n:@|;=!?]{{2,48}}),?[ ]{{0,2}}\n{_MARGIN}\Z")
_SENTENCE: Final = re.compile(
    r"[.!?]\s|[.!?]$|\b(?:is|are|was|shall|will|has|have|the|regards|sincerely|thanks)\b", re.IGNORECASE
)


def whole_address(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the address that has `text[start:end]` in it."""
    before = _lines_before(text, start) if _begins_line(text, start) else start
    if before == start:
        before = _words_before(text, start)
    return before, _lines_after(text, _words_after(text, end))


def _begins_line(text: str, start: int) -> bool:
    return re.search(rf"(?:\n|\A){_MARGIN}\Z", text[max(0, start - 8) : start]) is not None


def _lines_before(text: str, start: int) -> int:
    """Take in the street above a unit, and a line that is only a number above that."""
    for is_first in (True, False):
        low = max(0, start - _LOOK_CHARS)
        match = _LINE_BEFORE.search(text[low:start])
        if match is None:
            break
        piece = match["piece"]
        is_part = piece.strip().isdigit() or (is_first and _is_place(piece) and any(c.isdigit() for c in piece))
        if not is_part:
            break
        start = low + match.start("piece")
    return start


def _words_before(text: str, start: int) -> int:
    """Take in numbers and capitalised words to the left, as far as no ordinary word stands between."""
    low = max(0, start - _LOOK_CHARS)
    left = start
    for _ in range(9):
        match = _BEFORE.search(text[low:left])
        if match is None:
            break
        word = match.group().strip(" ,\n")
        if not _is_address_word(word):
            break
        left = low + match.start()
    while left < start and text[left].islower():
        left += len(re.match(r"\S+\s*", text[left:start])[0])  # type: ignore[index]  # there is a word
    return left


def _words_after(text: str, end: int) -> int:
    """Take in capitalised words, numbers and codes to the right, as far as the sentence goes."""
    right = end
    for _ in range(10):
        match = _AFTER.match(text, right)
        if match is None or not _is_address_word(match["piece"].strip(".")):
            break
        right = match.end()
        if match["piece"][0].isupper() or match["piece"][0].isdigit():
            end = right - match["piece"].endswith(".")
        if match["piece"].endswith(".") and len(match["piece"]) > 5:
            break
    return end


def _lines_after(text: str, end: int) -> int:
    """Take in the short lines below: town, postcode, country."""
    for _ in range(_MAX_LINES):
        match = _LINE_AFTER.match(text, end)
        if match is None or not _is_place(match["piece"]):
            break
        end = match.end("piece")
    return end


def _is_place(line: str) -> bool:
    words = line.split()
    ordinary = sum(word.strip(".,").casefold() in NOT_NAMES for word in words)
    return len(words) <= 7 and ordinary * 2 < len(words) and not _SENTENCE.search(line)


def _is_address_word(word: str) -> bool:
    folded = word.casefold()
    if word[0].islower():
        return folded in _PARTICLES
    return folded not in NOT_NAMES or word.isdigit() or (len(word) <= 3 and word.isupper())
