"""Where recognised pieces stand on a page, and in which order they are read.

In: pieces of text with their boxes; for one piece, where its letters stand and the picture of it.
Out: lines from top to bottom, the left column before the right one; text with the spaces that the picture shows.
Refuses: nothing.
Not here: recognising (`ocr.py`). Tables stay rows: two narrow columns beside each other are read across.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Final

_COLUMN_LINES: Final = 6
"""Fewer lines side by side are a table, not columns."""
_COLUMN_SHARE: Final = 0.22
"""Lines narrower than this share of the page are cells."""
_SPECKS: Final = 1
"""Dark pixels that white space may have from top to bottom: noise of a scan. A hyphen is thicker."""
_SURE_GAP: Final = 0.27
"""White space this wide, in heights of the line, parts words when the line has no other space to compare with."""
_LIKE_OTHERS: Final = 0.75
_LEAST_GAP: Final = 0.2

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One recognised piece of a line."""

    text: str = field(repr=False)
    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0

    @property
    def middle(self) -> float:
        """Height of its middle on the page."""
        return (self.top + self.bottom) / 2


def turned(box: Box, size: tuple[int, int], quarter_turns: int) -> Box:
    """Return a box on the page turned back by so many quarter turns; `size` is the picture's height and width."""
    left, top, right, bottom = box
    height, width = size
    if quarter_turns == 1:
        return top, width - right, bottom, width - left
    if quarter_turns == 2:
        return width - right, height - bottom, width - left, height - top
    return (height - bottom, left, height - top, right) if quarter_turns == 3 else box


def page_lines(pieces: Sequence[Piece]) -> list[str]:
    """Return the text of a page, one string per line."""
    if not pieces:
        return []
    left, right = min(p.left for p in pieces), max(p.right for p in pieces)
    gutter = _gutter(pieces, left, right)
    lines: list[str] = []
    for band in _bands(pieces, gutter):
        sides = [p for p in band if p.right <= gutter], [p for p in band if p.left >= gutter]
        if all(_is_column(side, right - left) for side in sides):
            lines += [*_rows(sides[0]), *_rows(sides[1])]
        else:
            lines += _rows(band)
    return lines


def _gutter(pieces: Sequence[Piece], left: float, right: float) -> float:
    """Return where the fewest pieces are cut by a line down the middle part of the page."""
    steps = [left + (right - left) * share / 100 for share in range(35, 66)]
    crossed = [sum(p.left < x < p.right for p in pieces) for x in steps]
    best = [x for x, count in zip(steps, crossed, strict=True) if count == min(crossed)]
    return best[len(best) // 2]


def _bands(pieces: Sequence[Piece], gutter: float) -> list[list[Piece]]:
    """Part the page at what stands across the gutter, such as a title above two columns."""
    bands: list[list[Piece]] = [[]]
    was_across = False
    for piece in sorted(pieces, key=lambda p: p.middle):
        is_across = piece.left < gutter < piece.right
        if is_across != was_across and bands[-1]:
            bands.append([])
        was_across = is_across
        bands[-1].append(piece)
    return bands


def _is_column(side: Sequence[Piece], page_width: float) -> bool:
    return len(side) >= _COLUMN_LINES and median(p.right - p.left for p in side) >= _COLUMN_SHARE * page_width


def _rows(pieces: Sequence[Piece]) -> list[str]:
    """Return pieces at the same height as one line, from left to right."""
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: p.middle):
        last = rows[-1] if rows else []
        reach = 0.5 * median([p.bottom - p.top for p in (*last, piece)])
        if last and abs(piece.middle - median(p.middle for p in last)) < reach:
            last.append(piece)
        else:
            rows.append([piece])
    return [" ".join(p.text for p in sorted(row, key=lambda p: p.left)) for row in rows]


def missing_spaces(text: str, positions: Sequence[float], crop: Any) -> str:
    """Return `text` with a space wherever the picture has white space as wide as between words.

    Args:
        text: What was recognised.
        positions: Where each of its characters but spaces stands, in pixels from the left.
        crop: The picture of the line, height x width x colours.
    """
    letters = [i for i, char in enumerate(text) if not char.isspace()]
    spaced = [number for number, (i, j) in enumerate(pairwise(letters)) if j > i + 1]
    free = _gaps(crop)
    known = [_width(gap) for number in spaced if (gap := _taken(free, positions, number))]
    height = crop.shape[0]
    least = max(_LEAST_GAP * height, _LIKE_OTHERS * median(known)) if len(known) > 1 else _SURE_GAP * height
    missing = {letters[n] for n, width in _gap_after(free, positions).items() if n not in spaced and width >= least}
    return "".join(f"{char} " if i in missing else char for i, char in enumerate(text))


def _width(gap: tuple[int, int]) -> int:
    return gap[1] - gap[0]


def _taken(free: list[tuple[int, int]], positions: Sequence[float], number: int) -> tuple[int, int] | None:
    """Remove and return the gap of a space that was recognised: the widest near it, as letters' positions are rough."""
    low, high = positions[max(0, number - 1)], positions[min(len(positions) - 1, number + 2)]
    near = [gap for gap in free if low <= sum(gap) / 2 <= high]
    if not near:
        return None
    widest = max(near, key=_width)
    free.remove(widest)
    return widest


def _gaps(crop: Any) -> list[tuple[int, int]]:
    """Return the runs of columns without ink, as (start, end)."""
    grey = crop.mean(axis=2)
    ink = (grey < (grey.min() + grey.max()) / 2).sum(axis=0)
    gaps: list[tuple[int, int]] = []
    start = None
    for i, dark in enumerate([*ink.tolist(), _SPECKS + 1]):
        if dark <= _SPECKS:
            start = i if start is None else start
        elif start is not None:
            gaps.append((start, i))
            start = None
    return gaps


def _gap_after(gaps: Sequence[tuple[int, int]], positions: Sequence[float]) -> dict[int, int]:
    """Return the widest gap after each character, by the character's number; none after the last."""
    widest: dict[int, int] = {}
    for start, end in gaps:
        middle = (start + end) / 2
        before = sum(position <= middle for position in positions) - 1
        if 0 <= before < len(positions) - 1:
            widest[before] = max(widest.get(before, 0), end - start)
    return widest
