"""Cut a scrubbed document into chunks at section, paragraph and sentence borders.

In: scrubbed text, a token counter, the least and most tokens of a chunk.
Out: cuts that cover the text from end to end, apart from white space at their borders.
Refuses: to cut inside a placeholder, or to make a chunk above the most tokens.
Not here: scrubbing, which comes first so that nothing personal is split in two; where a chunk may be used (`splits.py`).
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.corpus.scrub import excerpt
from spice_enterprise.records import ScrubbedText

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One future chunk: `text` is the document's `[start:end]`."""

    start: int
    end: int
    text: ScrubbedText = field(repr=False)
    token_count: int
    section: str | None = field(repr=False)
    """The headings in force where the cut starts, outermost first, joined by ` > `."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence or line with the white space after it; `rank` says how good a place to cut is in front of it."""

    start: int
    end: int
    tokens: int
    rank: int


_SECTION, _PARAGRAPH, _SENTENCE, _WORD = 3, 2, 1, 0
_HEADING: Final = re.compile(
    r"^(?:#{1,6} [^\n]+|(?i:article|section|chapter|part|annex|appendix|schedule|exhibit) [\dA-Z]{1,4}\b[^\n]{0,80}"
    r"|\d{1,2}(?:\.\d{1,2}){0,3}\.? [A-Z][^\n.:;]{2,60}|[A-Z][A-Z &/,'\-]{4,60})$",
    re.MULTILINE,
)
_PARAGRAPH_BORDER: Final = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_BORDER: Final = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]’”]))[ \t]+(?=[\"'(\[“‘]?[A-Z0-9À-Þ])|\n")
_ABBREVIATION: Final = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|Nos|Art|Sec|cf|vs|approx|Inc|Ltd|Co|Corp|e\.g|i\.e|tel|Fig)|\b[A-Z]|(?:^|\n)\s*\d{1,2})\.$"
)


def cut_document(
    text: ScrubbedText, count_tokens: CountTokens, *, most: int, least: int, protected: Sequence[tuple[int, int]]
) -> list[Cut]:
    """Return the cuts of one document, in order.

    Args:
        text: The whole scrubbed document.
        count_tokens: Tokens of a string in the base model.
        most: Most tokens of a cut; never exceeded.
        least: A shorter cut is joined to its neighbour where both fit, else evened out with it. Only a document that is
            shorter as a whole gives a shorter cut.
        protected: (start, end) of what was put in the place of removed values, in order: no cut inside.
    """
    units = list(_units(text, count_tokens, most, protected))
    if not units:
        return []
    borders = _evened(_packed(text, units, count_tokens, most), units, text, count_tokens, most=most, least=least)
    sections = list(_sections(text))
    return [_cut(text, units[a].start, units[b - 1].end, count_tokens, sections) for a, b in borders]


def _sections(text: str) -> Iterator[tuple[int, str]]:
    """Yield (offset, path of headings in force from there on)."""
    path: list[tuple[int, str]] = []
    for match in _HEADING.finditer(text):
        heading = match.group()
        level = _level(heading)
        path = [(above, name) for above, name in path if above < level] + [(level, heading.lstrip("# ").strip())]
        yield match.start(), " > ".join(name for _, name in path)


def _level(heading: str) -> int:
    """Return how deep a heading stands: by its marks, by its number, or 1."""
    marks = len(heading) - len(heading.lstrip("#"))
    number = re.match(r"\d{1,2}(?:\.\d{1,2})*", heading)
    return marks or (1 + number.group().count(".") if number else 1)


def page_of(start: int, page_starts: Sequence[int]) -> int | None:
    """Return the page (from 1) that offset `start` lies on; None for a document of one page."""
    return bisect_right(page_starts, start) if len(page_starts) > 1 else None


def _cut(text: ScrubbedText, start: int, end: int, count_tokens: CountTokens, sections: Sequence[tuple[int, str]]) -> Cut:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    section = next((path for offset, path in reversed(sections) if offset <= start), None)
    part = excerpt(text, start, end)
    return Cut(start=start, end=end, text=part, token_count=count_tokens(part), section=section)


def _units(text: str, count_tokens: CountTokens, most: int, protected: Sequence[tuple[int, int]]) -> Iterator[_Unit]:
    """Yield units that cover the text and never exceed `most` tokens."""
    inside = {i for start, end in protected for i in range(start + 1, end)}
    ranks = _borders(text, inside)
    starts = sorted({0, *ranks})
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if not text[start:end].strip():
            continue
        tokens = count_tokens(text[start:end])
        if tokens <= most:
            yield _Unit(start, end, tokens, ranks.get(start, _SECTION))
        else:
            yield from _broken(text, (start, end), count_tokens, most, inside)


def _borders(text: str, inside: set[int]) -> dict[int, int]:
    """Return offset to rank of every place a unit may start, the best rank of each; none inside what is protected."""
    ranks: dict[int, int] = {}
    for match in _SENTENCE_BORDER.finditer(text):
        if match.group() == "\n" or not _ABBREVIATION.search(text, max(0, match.start() - 12), match.start()):
            ranks[match.end()] = _SENTENCE
    ranks |= {match.end(): _PARAGRAPH for match in _PARAGRAPH_BORDER.finditer(text)}
    ranks |= {match.start(): _SECTION for match in _HEADING.finditer(text)}
    return {offset: rank for offset, rank in ranks.items() if offset not in inside and offset < len(text)}


_PIECE: Final = re.compile(r"\S{1,24}\s*|\s+")


def _broken(text: str, span: tuple[int, int], count_tokens: CountTokens, most: int, inside: set[int]) -> Iterator[_Unit]:
    """Yield a sentence that is too long in parts, cut between words, or inside a word that is too long itself."""
    begin, end = span
    border = begin
    for match in _PIECE.finditer(text, begin, end):
        if match.end() in inside:
            continue
        if border > begin and count_tokens(text[begin : match.end()]) > most:
            yield _Unit(begin, border, count_tokens(text[begin:border]), _WORD)
            begin = border
        border = match.end()
    yield _Unit(begin, end, count_tokens(text[begin:end]), _WORD)


def _packed(text: str, units: Sequence[_Unit], count_tokens: CountTokens, most: int) -> list[tuple[int, int]]:
    """Return unit ranges, each filled up to `most` tokens and ended at the best border of its second half."""
    ranges = []
    first = 0
    while first < len(units):
        last = first + 1
        total = units[first].tokens
        while last < len(units) and total + units[last].tokens <= most:
            total += units[last].tokens
            last += 1
        while last > first + 1 and count_tokens(text[units[first].start : units[last - 1].end]) > most:
            last -= 1
        if last < len(units):
            last = _best_end(units, first, last, most)
        ranges.append((first, last))
        first = last
    return ranges


def _best_end(units: Sequence[_Unit], first: int, last: int, most: int) -> int:
    """Return the end in `(first, last]` with the best border behind it among those that leave the chunk half full."""
    best, total = last, 0
    for end in range(first + 1, last + 1):
        total += units[end - 1].tokens
        if 2 * total >= most and units[end].rank >= units[best].rank:
            best = end
    return best


def _evened(
    ranges: Sequence[tuple[int, int]], units: Sequence[_Unit], text: str, count_tokens: CountTokens, *, most: int, least: int
) -> list[tuple[int, int]]:
    """Join a short range to the one before it, or move the border between them to the middle."""

    def size(a: int, b: int) -> int:
        return count_tokens(text[units[a].start : units[b - 1].end])

    done: list[tuple[int, int]] = []
    for a, b in ranges:
        if not done or size(a, b) >= least:
            done.append((a, b))
            continue
        start, _ = done.pop()
        if size(start, b) <= most:
            done.append((start, b))
            continue
        middle = min(range(start + 1, b), key=lambda m: abs(size(start, m) - size(m, b)))
        fits = size(start, middle) <= most and size(middle, b) <= most
        done += [(start, middle), (middle, b)] if fits else [(start, a), (a, b)]
    return done
