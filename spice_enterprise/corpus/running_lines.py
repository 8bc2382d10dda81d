"""Which lines of a document are its running headers and footers.

In: the lines of every page.
Out: per page, the running lines by their number, each a header or a footer.
Refuses: nothing.
Not here: how lines are read.

A running line stands in the margin and comes back on the pages around it, but for its digits and for letters that OCR
took for others. On a page alone, one that is set apart from the text and smaller is one too.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

from spice_enterprise.corpus.pdf_lines import Line, body_points, is_apart, usual_gap

_MARGIN: Final = 0.15
_NUMBER_MARGIN: Final = 0.25
_OUTER_MARGIN: Final = 0.085
_EDGE_LINES: Final = 4
_WINDOW: Final = 4
_SHARE: Final = 0.4
_MIN_PAGES: Final = 3
_SIMILARITY: Final = 0.7
"""Share of the letter pairs that two lines have in common; one misread letter spoils two pairs."""
_MIN_LIKE_CHARS: Final = 8
_SMALLER_POINTS: Final = 0.4
_APART_IN_SIZES: Final = 0.5
_SAME_PLACE: Final = 1e-3
_PAGE_NUMBER: Final = re.compile(r"\W*(?:page|seite|p\.)?\s*(?:#|[ivxl]{1,5})\s*(?:(?:of|von|/|-)\s*#)?\W*", re.IGNORECASE)
_COUNT: Final = re.compile(r"(?:[Pp]age )?[-–—]?\s?(\d{1,4})\s?[-–—]?")
_Margins = dict[int, tuple[str, str]]
"""Line number to (kind, shape)."""


def margin_lines(pages: Sequence[Sequence[Line]]) -> list[dict[int, str]]:
    """Return the numbers of each page's running lines: `headers` or `footers`."""
    margins = [_margin(page) for page in pages]
    usual_points = body_points(pages)
    found: list[dict[int, str]] = []
    for number, margin in enumerate(margins):
        around = [margins[i] for i in range(max(0, number - _WINDOW), min(len(pages), number + _WINDOW + 1)) if i != number]
        found.append(
            {
                i: kind
                for i, (kind, shape) in margin.items()
                if _is_page_number(pages[number], i, shape)
                or _is_set_apart(pages[number], i, usual_points)
                or _comes_back(kind, shape, around)
            }
        )
    rest = [[i for i in range(len(page)) if i not in margin] for page, margin in zip(pages, found, strict=True)]
    for place, kind in ((-1, "footers"), (0, "headers")):
        counts = [_count(page[left[place]]) if left else None for page, left in zip(pages, rest, strict=True)]
        for number in _counting(counts):
            found[number][rest[number][place]] = kind
    return found


def _counting(counts: Sequence[int | None]) -> list[int]:
    """Return the pages whose number is one off that of the page before or behind."""
    pairs = [(n, n + 1) for n, (here, following) in enumerate(pairwise(counts)) if here is not None and following == here + 1]
    return sorted({number for pair in pairs for number in pair})


def _count(line: Line) -> int | None:
    match = _COUNT.fullmatch(line.text)
    return int(match.group(1)) if match else None


def _margin(page: Sequence[Line]) -> _Margins:
    """Return the lines that stand in the upper or lower margin."""
    found: dict[str, list[tuple[float, int, str]]] = {"headers": [], "footers": []}
    for i, line in enumerate(page):
        shape = shape_of(line.text)
        margin = _NUMBER_MARGIN if _PAGE_NUMBER.fullmatch(shape) else _MARGIN
        is_placed = line.page_points > 0
        if line.bottom <= margin if is_placed else i < _EDGE_LINES:
            found["headers"].append((line.top, i, shape))
        elif line.top >= 1 - margin if is_placed else i >= len(page) - _EDGE_LINES:
            found["footers"].append((-line.bottom, i, shape))
    return {i: (kind, shape) for kind, lines in found.items() for i, shape in _edge(page, sorted(lines))}


def _edge(page: Sequence[Line], lines: Sequence[tuple[float, int, str]]) -> list[tuple[int, str]]:
    """Return the lines at the edge that are set apart from the text, or the outermost where no places are known.

    Lines that the text goes on from without a gap are the text's own, like the form of a letter that many pages share.
    """
    if not lines or page[lines[0][1]].page_points <= 0:
        return [(i, shape) for _, i, shape in lines[:_EDGE_LINES]]
    order = sorted(range(len(page)), key=lambda i: page[i].top, reverse=lines[0][0] < 0)
    gap = usual_gap(page)
    for n, (outer, inner) in enumerate(pairwise(order), start=1):
        if n > _EDGE_LINES:
            break
        pair = sorted((page[outer], page[inner]), key=lambda line: line.top)
        if is_apart(pair[0], pair[1], gap) or abs(pair[0].size_points - pair[1].size_points) >= _SMALLER_POINTS:
            return [(i, shape) for _, i, shape in lines if i in order[:n] or _PAGE_NUMBER.fullmatch(shape)]
    return [(i, shape) for _, i, shape in lines if _PAGE_NUMBER.fullmatch(shape)]


def shape_of(text: str) -> str:
    """Return a line without what differs from page to page."""
    return re.sub(r"\d+", "#", " ".join(text.lower().split()))


def _comes_back(kind: str, shape: str, around: Sequence[_Margins]) -> bool:
    needed = max(_MIN_PAGES - 1, _SHARE * len(around))
    if len(around) < _MIN_PAGES - 1 or len(shape) < 2:
        return False
    seen = sum(any(k == kind and s == shape for k, s in margin.values()) for margin in around)
    if seen >= needed:
        return True
    seen = sum(any(k == kind and _is_like(shape, s) for k, s in margin.values()) for margin in around)
    return seen >= needed


def _is_like(shape: str, other: str) -> bool:
    """Say whether two lines are the same but for a few letters, as OCR reads them."""
    longest = max(len(shape), len(other))
    if longest < _MIN_LIKE_CHARS or abs(len(shape) - len(other)) > 0.2 * longest:
        return False
    pairs, other_pairs = _pairs(shape), _pairs(other)
    return 2 * len(pairs & other_pairs) >= _SIMILARITY * (len(pairs) + len(other_pairs))


@lru_cache(maxsize=4096)
def _pairs(shape: str) -> frozenset[str]:
    return frozenset(shape[i : i + 2] for i in range(len(shape) - 1))


def _is_set_apart(page: Sequence[Line], i: int, usual_points: float) -> bool:
    """Say whether a line stands alone in the outer margin and is smaller than the text."""
    line = page[i]
    if line.page_points <= 0 or usual_points - line.size_points < _SMALLER_POINTS:
        return False
    others = [other for other in page if abs(other.top - line.top) > _SAME_PLACE]
    if line.bottom <= _OUTER_MARGIN:
        gap, beside = min(((other.top - line.bottom, other.size_points) for other in others), default=(1.0, 0.0), key=_first)
    elif line.top >= 1 - _OUTER_MARGIN:
        gap, beside = min(((line.top - other.bottom, other.size_points) for other in others), default=(1.0, 0.0), key=_first)
    else:
        return False
    # the last line of a footnote has another one of its size above it
    return abs(beside - line.size_points) >= _SMALLER_POINTS and gap * line.page_points > _APART_IN_SIZES * line.size_points


def _is_page_number(page: Sequence[Line], i: int, shape: str) -> bool:
    """Say whether a line at the edge of the text is nothing but a page number."""
    line = page[i]
    if not _PAGE_NUMBER.fullmatch(shape):
        return False
    return all(line.bottom <= other.top for other in page if other is not line) or all(
        line.top >= other.bottom for other in page if other is not line
    )


def _first(pair: tuple[float, float]) -> float:
    return pair[0]
