"""A PDF page's lines: where they stand, how large they are, which of them are headings and table rows.

In: the text layer of a page and its visible text.
Out: `Line`s with their place and cells; blocks of text with headings, tables as facts and paragraphs apart.
Refuses: nothing.
Not here: which lines repeat from page to page (`running_lines.py`).
"""

import ctypes
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any, Final

from spice_enterprise.corpus.plain_text import joined_lines
from spice_enterprise.corpus.tables import rows_as_text

_GAP_IN_SIZES: Final = 1.5
"""White space wider than this many font sizes separates two cells; justified text stays below it."""
_PARAGRAPH_GAP_IN_SIZES: Final = 0.4
"""How much wider than the page's usual gap between lines one between paragraphs is."""
_HEADING_RATIOS: Final = ((1.6, 1), (1.3, 2), (1.12, 3))
_BOLD_LEVEL: Final = 3
_MAX_HEADING_CHARS: Final = 120
_MIN_PROSE_CHARS: Final = 25
_MIN_PROSE_ROWS: Final = 4
_MIN_ROWS: Final = 2
_SHARED_GAP_IN_SIZES: Final = 0.3
_STRIP_IN_SIZES: Final = 0.5
_MEAN_CHAR_IN_SIZES: Final = 0.5
_SOUGHT_GAP_IN_SIZES: Final = 1.0
_USUAL_SHARE: Final = 0.9
"""A page's width in characters is that of all but its longest lines: one of them may be several that were glued."""
_WORD: Final = re.compile(r"[^ \t\u00a0]+")
_BOLD: Final = re.compile(rb"bold|black|heavy|semibold|-bd", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of a line with white space around it."""

    left: float
    right: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a page. Places are shares of the page's height from its top; 0 where they are not known."""

    text: str
    words: tuple[Cell, ...] = ()
    cells: tuple[Cell, ...] = ()
    """The words joined where no wide space is between them; none of either where the line has no wide space."""
    top: float = 0.0
    bottom: float = 0.0
    size_points: float = 0.0
    page_points: float = 0.0
    is_bold: bool = False
    is_recognised: bool = False


def page_lines(page: Any, textpage: Any, text: str, indexes: Sequence[int]) -> list[Line]:
    """Return the lines of a page's visible text.

    Args:
        page: The open page.
        textpage: Its text layer.
        text: The visible text of the layer.
        indexes: Per character of the text, its index in the layer.
    """
    measure = _Measure(page, textpage, indexes)
    lines = []
    start = 0
    for raw_line in text.split("\n"):
        stripped = raw_line.strip("\r \t\0")
        if stripped:
            begin = start + raw_line.index(stripped)
            lines.append(measure.line(stripped, begin))
        start += len(raw_line) + 1
    return lines


class _Measure:
    """Asks pdfium where characters stand."""

    def __init__(self, page: Any, textpage: Any, indexes: Sequence[int]) -> None:
        self._raw = import_module("pypdfium2.raw")
        self._layer = textpage.raw
        self._indexes = indexes
        left, bottom, right, top = page.get_bbox()
        self._turn = page.get_rotation() // 90 % 4
        self._page = (left, bottom, right, top)
        self._page_points = max(right - left if self._turn % 2 else top - bottom, 1.0)
        self._sides = tuple(ctypes.c_double() for _ in range(4))
        self._side_refs = tuple(ctypes.byref(side) for side in self._sides)
        self._matrix = self._raw.FS_MATRIX()

    def line(self, text: str, begin: int) -> Line:
        """Return the line that begins at a place in the page's text."""
        middle = begin + len(text) // 2
        size, is_level = self._size(middle if not text[len(text) // 2].isspace() else begin)
        _, _, low, high = self._box(begin)
        _, _, last_low, last_high = self._box(begin + len(text) - 1)
        words = self._words(text, begin) if is_level and self._has_gap(text, begin, size) else ()
        return Line(
            text=text.replace("\0", ""),
            words=words,
            cells=_joined(words, size * _GAP_IN_SIZES),
            top=1 - max(high, last_high) / self._page_points,
            bottom=1 - min(low, last_low) / self._page_points,
            size_points=size,
            page_points=self._page_points,
            is_bold=self._is_bold(begin) and self._is_bold(middle) and self._is_bold(begin + len(text) - 1),
        )

    def _has_gap(self, text: str, begin: int, size: float) -> bool:
        """Say whether white space is wide somewhere. Where the words begin tells where that may be: one question each."""
        if self._turn:
            return True
        x = self._sides[0]
        end, reach = 0, math.inf
        for match in _WORD.finditer(text):
            first = begin + match.start()
            self._raw.FPDFText_GetCharOrigin(self._layer, self._indexes[first], *self._side_refs[:2])
            here = x.value
            if here > reach and self._box(first)[0] - self._box(end)[1] > _GAP_IN_SIZES * size:
                return True
            end = begin + match.end() - 1
            reach = here + (_MEAN_CHAR_IN_SIZES * (end - first + 2) + _SOUGHT_GAP_IN_SIZES) * size
        return False

    def _words(self, text: str, begin: int) -> tuple[Cell, ...]:
        words = []
        for match in _WORD.finditer(text):
            first = self._box(begin + match.start())
            last = self._box(begin + match.end() - 1) if match.end() - match.start() > 1 else first
            words.append(Cell(first[0], last[1], match.group()))
        return tuple(words)

    def _box(self, place: int) -> tuple[float, float, float, float]:
        """Return left, right, bottom and top of a character as the page is shown, from its lower left corner."""
        self._raw.FPDFText_GetCharBox(self._layer, self._indexes[place], *self._side_refs)
        a, b, c, d = self._sides
        left, right, low, high = a.value, b.value, c.value, d.value
        page_left, page_low, page_right, page_high = self._page
        if self._turn == 0:
            return left - page_left, right - page_left, low - page_low, high - page_low
        if self._turn == 1:
            return low - page_low, high - page_low, page_right - right, page_right - left
        if self._turn == 2:
            return page_right - right, page_right - left, page_high - high, page_high - low
        return page_high - high, page_high - low, left - page_left, right - page_left

    def _size(self, place: int) -> tuple[float, bool]:
        """Return a character's size in points, and whether it stands upright."""
        index = self._indexes[place]
        points = self._raw.FPDFText_GetFontSize(self._layer, index)
        if not self._raw.FPDFText_GetMatrix(self._layer, index, self._matrix):
            return points, True
        matrix = self._matrix
        is_along_x = abs(matrix.b) <= abs(matrix.a)
        return abs(points) * math.hypot(matrix.c, matrix.d), is_along_x == (self._turn % 2 == 0)

    def _is_bold(self, place: int) -> bool:
        buffer = ctypes.create_string_buffer(80)
        flags = ctypes.c_int()
        size = self._raw.FPDFText_GetFontInfo(self._layer, self._indexes[place], buffer, 80, flags)
        return 0 < size <= 80 and bool(_BOLD.search(buffer.value))


def _joined(words: Sequence[Cell], gap: float) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    for word in words:
        if cells and word.left - cells[-1].right <= gap:
            cells[-1] = Cell(cells[-1].left, word.right, f"{cells[-1].text} {word.text}")
        else:
            cells.append(word)
    return tuple(cells)


def body_points(pages: Sequence[Sequence[Line]]) -> float:
    """Return the size that most of the document's characters have."""
    counts: Counter[float] = Counter()
    for page in pages:
        for line in page:
            counts[round(line.size_points, 1)] += len(line.text)
    return max(counts.items(), key=lambda item: (item[1], -item[0]), default=(0.0, 0))[0]


# --- blocks -----------------------------------------------------------------------------------------------------------


def page_blocks(lines: Sequence[Line], usual_points: float) -> Iterator[str]:
    """Yield a page's text: prose with its wrapped lines joined, headings, tables as facts."""
    lengths = sorted(len(line.text) for line in lines if len(line.cells) < 2)
    width = lengths[int(_USUAL_SHARE * (len(lengths) - 1))] if lengths else 0
    is_mostly_bold = sum(line.is_bold for line in lines) > len(lines) / 2
    gap = usual_gap(lines)
    prose: list[str] = []
    place = 0
    while place < len(lines):
        end = _table_end(lines, place)
        level = 0 if end > place else _level(lines[place], usual_points, is_bold_odd=not is_mostly_bold)
        if end == place and not level:
            prose += [""] if place and is_apart(lines[place - 1], lines[place], gap) else []
            prose.append(lines[place].text)
            place += 1
            continue
        yield from joined_lines(prose, width)
        prose = []
        if level:
            end = _heading_end(lines, place, level, usual_points)
            yield from ["", f"{'#' * level} {' '.join(line.text for line in lines[place:end])}", ""]
        else:
            yield from _rows(lines[place:end], width)
        place = end
    yield from joined_lines(prose, width)


def _gap_points(above: Line, line: Line) -> float:
    return (line.top - above.bottom) * line.page_points


def usual_gap(lines: Sequence[Line]) -> float:
    """Return the space between most lines of a page and the next ones, in points."""
    gaps = sorted(gap for above, line in pairwise(lines) if (gap := _gap_points(above, line)) > 0)
    return gaps[len(gaps) // 2] if gaps else 0.0


def is_apart(above: Line, line: Line, usual_points: float) -> bool:
    """Say whether the space between two lines is that between paragraphs."""
    size = max(line.size_points, above.size_points)
    return above.size_points > 0 and _gap_points(above, line) > usual_points + _PARAGRAPH_GAP_IN_SIZES * size


def _level(line: Line, usual_points: float, *, is_bold_odd: bool) -> int:
    text = line.text
    is_titled = len(text) <= _MAX_HEADING_CHARS and any(char.isalpha() for char in text) and text[-1] not in ".,;"
    if not is_titled or usual_points <= 0 or len(line.cells) > 1 or len(text) < 3:
        return 0
    for ratio, level in _HEADING_RATIOS:
        if line.size_points >= ratio * usual_points:
            return level
    is_bold_heading = line.is_bold and is_bold_odd and line.size_points >= 0.97 * usual_points and not text.endswith(":")
    return _BOLD_LEVEL if is_bold_heading else 0


def _heading_end(lines: Sequence[Line], place: int, level: int, usual_points: float) -> int:
    """Return where a heading of several lines ends."""
    end = place + 1
    first = lines[place]
    while end < len(lines) and end - place < 4:
        line = lines[end]
        is_same = abs(line.size_points - first.size_points) < 0.2 and _gap_points(lines[end - 1], line) < line.size_points
        if not is_same or first.size_points < 1.12 * usual_points or _level(line, usual_points, is_bold_odd=False) != level:
            break
        end += 1
    return end


# --- tables -----------------------------------------------------------------------------------------------------------


def _table_end(lines: Sequence[Line], place: int) -> int:
    """Return the end of the table rows that begin at a line; the line itself when it begins none."""
    end = place
    while end < len(lines) and len(lines[end].cells) > 1 and (end == place or _shares_gap(lines[end], lines[end - 1])):
        end += 1
    return end if end - place >= _MIN_ROWS else place


def _shares_gap(line: Line, above: Line) -> bool:
    """Say whether two rows have white space one above the other: in justified text it is here and there."""
    least = _SHARED_GAP_IN_SIZES * line.size_points
    return any(
        min(right, other_right) - max(left, other_left) > least
        for left, right in _gaps(line.cells)
        for other_left, other_right in _gaps(above.cells)
    )


def _gaps(cells: Sequence[Cell]) -> list[tuple[float, float]]:
    return [(cell.right, following.left) for cell, following in pairwise(cells)]


def _rows(lines: Sequence[Line], width: int) -> Iterator[str]:
    grid = _grid(lines)
    if _is_prose(grid):
        for side in (0, 1):
            yield from joined_lines([row[side] for row in grid], width // 2)
        return
    yield from ["", *rows_as_text(grid), ""]


def _is_prose(grid: Sequence[Sequence[str]]) -> bool:
    """Say whether rows of two cells are two columns of prose that stand side by side."""
    if len(grid) < _MIN_PROSE_ROWS or len(grid[0]) != 2:
        return False
    return all(sum(len(row[side]) for row in grid) / len(grid) >= _MIN_PROSE_CHARS for side in (0, 1))


def _grid(lines: Sequence[Line]) -> list[list[str]]:
    """Return the rows' cells under columns, which are what lies between the white strips through all rows."""
    words = sorted((word.left, word.right) for line in lines for word in line.words)
    strip = _STRIP_IN_SIZES * max(line.size_points for line in lines)
    starts: list[float] = []
    reach = -math.inf
    for left, right in words:
        if left - reach > strip:
            starts.append(left)
        reach = max(reach, right)
    rows = []
    for line in lines:
        row = [""] * len(starts)
        for word in line.words:
            column = max(bisect_right(starts, word.left) - 1, 0)
            row[column] = f"{row[column]} {word.text}".strip()
        rows.append(row)
    return rows
