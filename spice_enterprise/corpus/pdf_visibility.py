"""Which of a PDF page's text a reader can see.

In: an open page and its text layer.
Out: the visible text with the index of every character, and counts of what was dropped; whether the page is a scan.
Refuses: nothing.
Not here: lines and tables (`pdf_lines.py`).

Objects are looked at, not characters: a page has hundreds of the former and thousands of the latter. Only a page with a
suspicious object is read character by character.
"""

import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from spice_enterprise.corpus.reading import Notes

Box = tuple[float, float, float, float]
"""Left, bottom, right, top in points."""
Colour = tuple[int, int, int, int]
_Matrix = tuple[float, float, float, float, float, float]

_TINY_POINTS: Final = 4.0
_MAX_OBJECTS: Final = 50_000
_MAX_OBJECT_BYTES: Final = 4_000
_MAX_FORM_DEPTH: Final = 8
_INVISIBLE_MODES: Final = (3, 7)
_STROKED_MODES: Final = (1, 2, 5, 6)
_COLOUR_DISTANCE: Final = 12
_SCAN_SHARE: Final = 0.5
_COVER_HEIGHTS: Final = 4.0
_WHITE: Final[Colour] = (255, 255, 255, 255)
_IDENTITY: Final[_Matrix] = (1, 0, 0, 1, 0, 0)
_TEXT, _PATH, _IMAGE, _SHADING, _FORM = 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class _Object:
    """A thing on the page, in paint order."""

    handle: Any
    kind: int
    box: Box
    matrix: _Matrix


def visible_text(page: Any, textpage: Any, notes: Notes) -> tuple[str, Sequence[int]]:
    """Return the page's visible text and, per character of it, its index in the text layer."""
    raw = import_module("pypdfium2.raw")
    hidden = _hidden_objects(raw, page, textpage)
    text = str(textpage.get_text_range())
    if not hidden and len(text) == textpage.count_chars():
        return text, range(len(text))
    return _by_character(raw, textpage, hidden, notes)


def _by_character(raw: Any, textpage: Any, hidden: dict[int, str], notes: Notes) -> tuple[str, list[int]]:
    chars: list[str] = []
    indexes: list[int] = []
    dropped: dict[str, list[str]] = {}
    for index in range(textpage.count_chars()):
        point = raw.FPDFText_GetUnicode(textpage.raw, index)
        char = chr(point) if 0 < point < 0x110000 else ""
        kind = hidden.get(_address(raw.FPDFText_GetTextObject(textpage.raw, index))) if hidden else None
        if kind:
            dropped.setdefault(kind, []).append(char)
        if char and (not kind or notes.carries("hidden")):
            chars.append(char)
            indexes.append(index)
    for kind, lost in dropped.items():
        notes.drop(kind, "".join(lost).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return _with_pairs(chars, indexes)


def _with_pairs(chars: list[str], indexes: list[int]) -> tuple[str, list[int]]:
    """Join surrogate pairs, which pdfium counts as two characters."""
    text: list[str] = []
    kept: list[int] = []
    for char, index in zip(chars, indexes, strict=True):
        if "\udc00" <= char <= "\udfff" and text and "\ud800" <= text[-1] <= "\udbff":
            text[-1] = (text[-1] + char).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        else:
            text.append(char)
            kept.append(index)
    return "".join(text), kept


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0 if handle else 0


# --- objects ----------------------------------------------------------------------------------------------------------


def _hidden_objects(raw: Any, page: Any, textpage: Any) -> dict[int, str]:
    """Return the address of every text object that cannot be seen, and why."""
    objects = _objects(raw, page)
    page_box: Box = tuple(page.get_bbox())
    painted: list[tuple[int, Box, Colour | None, bool]] = []
    hidden: dict[int, str] = {}
    texts: list[tuple[int, _Object]] = []
    for place, found in enumerate(objects):
        if found.kind == _TEXT:
            texts.append((place, found))
        elif found.kind in (_IMAGE, _SHADING):
            painted.append((place, found.box, None, False))
        elif found.kind == _PATH and _is_filled(raw, found):
            painted.append((place, found.box, _fill(raw, found.handle), _is_bar(raw, found)))
    for place, found in texts:
        kind = _hidden_kind(raw, place, found, page_box, painted)
        if kind and _has_ink(raw, found.handle, textpage):
            hidden[_address(found.handle)] = kind
    return hidden


def _has_ink(raw: Any, handle: Any, textpage: Any) -> bool:
    """Say whether a text object is more than spaces, which have no size and no colour."""
    size_bytes = min(raw.FPDFTextObj_GetText(handle, textpage.raw, None, 0), _MAX_OBJECT_BYTES)
    buffer = (ctypes.c_ushort * (size_bytes // 2 + 1))()
    raw.FPDFTextObj_GetText(handle, textpage.raw, buffer, size_bytes)
    return bool(bytes(buffer).decode("utf-16-le", "replace").strip("\0 \t\r\n\u00a0"))


def _objects(raw: Any, page: Any) -> list[_Object]:
    """Return what is on the page in paint order, the contents of forms included."""
    found: list[_Object] = []
    handle = page.raw
    tops = (raw.FPDFPage_GetObject(handle, i) for i in range(min(raw.FPDFPage_CountObjects(handle), _MAX_OBJECTS)))
    _collect(raw, tops, _IDENTITY, 0, found)
    return found


def _collect(raw: Any, handles: Iterator[Any], outer: _Matrix, depth: int, found: list[_Object]) -> None:
    for handle in handles:
        if len(found) >= _MAX_OBJECTS:
            return
        kind = raw.FPDFPageObj_GetType(handle)
        if kind == _FORM and depth < _MAX_FORM_DEPTH:
            inner = _times(_matrix(raw, handle), outer)
            children = (raw.FPDFFormObj_GetObject(handle, i) for i in range(raw.FPDFFormObj_CountObjects(handle)))
            _collect(raw, children, inner, depth + 1, found)
        else:
            found.append(_Object(handle, kind, _box(raw, handle, outer), outer))


def _matrix(raw: Any, handle: Any) -> _Matrix:
    matrix = raw.FS_MATRIX()
    if not raw.FPDFPageObj_GetMatrix(handle, matrix):
        return _IDENTITY
    return matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f


def _times(m: _Matrix, n: _Matrix) -> _Matrix:
    return (
        m[0] * n[0] + m[1] * n[2], m[0] * n[1] + m[1] * n[3], m[2] * n[0] + m[3] * n[2], m[2] * n[1] + m[3] * n[3],
        m[4] * n[0] + m[5] * n[2] + n[4], m[4] * n[1] + m[5] * n[3] + n[5],
    )  # fmt: skip


_SIDES: Final = tuple(ctypes.c_float() for _ in range(4))
_SIDE_REFS: Final = tuple(ctypes.byref(side) for side in _SIDES)


def _box(raw: Any, handle: Any, outer: _Matrix) -> Box:
    raw.FPDFPageObj_GetBounds(handle, *_SIDE_REFS)
    left, bottom, right, top = (side.value for side in _SIDES)
    if outer is _IDENTITY:
        return left, bottom, right, top
    corners = [
        (x * outer[0] + y * outer[2] + outer[4], x * outer[1] + y * outer[3] + outer[5])
        for x in (left, right)
        for y in (bottom, top)
    ]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


_CHANNELS: Final = tuple(ctypes.c_uint() for _ in range(4))
_CHANNEL_REFS: Final = tuple(ctypes.byref(channel) for channel in _CHANNELS)


def _fill(raw: Any, handle: Any) -> Colour | None:
    if not raw.FPDFPageObj_GetFillColor(handle, *_CHANNEL_REFS):
        return None
    red, green, blue, alpha = (channel.value for channel in _CHANNELS)
    return red, green, blue, alpha


def _is_filled(raw: Any, found: _Object) -> bool:
    mode, stroke = ctypes.c_int(), ctypes.c_int()
    raw.FPDFPath_GetDrawMode(found.handle, mode, stroke)
    return bool(mode.value)


def _is_bar(raw: Any, found: _Object) -> bool:
    """Say whether a filled path is a plain opaque rectangle, as one drawn to black text out."""
    return raw.FPDFPath_CountSegments(found.handle) <= 6 and not raw.FPDFPageObj_HasTransparency(found.handle)


# --- is it seen -------------------------------------------------------------------------------------------------------


def _hidden_kind(
    raw: Any, place: int, text: _Object, page_box: Box, painted: Sequence[tuple[int, Box, Colour | None, bool]]
) -> str:
    """Return why a text object cannot be seen, or nothing."""
    if _is_apart(text.box, page_box):
        return "off_page"
    mode = raw.FPDFTextObj_GetTextRenderMode(text.handle)
    if mode in _INVISIBLE_MODES:
        # the text layer over a scan is the scan's text
        is_layer = any(colour is None and _covers(box, text.box) for _, box, colour, _ in painted)
        return "" if is_layer else "render_mode"
    if _is_tiny(raw, text):
        return "size"
    if any(later > place and is_bar and _blacks_out(box, text.box) for later, box, _, is_bar in painted):
        return "covered"
    if mode in _STROKED_MODES:
        return ""
    return _colour_kind(_fill(raw, text.handle), place, text.box, painted)


def _colour_kind(colour: Colour | None, place: int, box: Box, painted: Sequence[tuple[int, Box, Colour | None, bool]]) -> str:
    if colour is None:
        return ""
    if colour[3] == 0:
        return "transparent"
    behind: Colour | None = _WHITE
    for earlier, area, fill, _ in painted:
        if earlier < place and _covers(area, box):
            behind = fill
    if behind is None:
        return ""
    return "colour" if max(abs(colour[i] - behind[i]) for i in range(3)) <= _COLOUR_DISTANCE else ""


def _is_tiny(raw: Any, text: _Object) -> bool:
    if min(text.box[3] - text.box[1], text.box[2] - text.box[0]) >= _TINY_POINTS:
        return False
    size = ctypes.c_float()
    raw.FPDFTextObj_GetFontSize(text.handle, size)
    own = _times(_matrix(raw, text.handle), text.matrix)
    points = abs(size.value) * math.hypot(own[2], own[3])
    return points < _TINY_POINTS


def _is_apart(box: Box, page: Box) -> bool:
    return box[2] <= page[0] or box[0] >= page[2] or box[3] <= page[1] or box[1] >= page[3]


def _covers(area: Box, box: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return area[0] <= x <= area[2] and area[1] <= y <= area[3]


def _blacks_out(bar: Box, box: Box) -> bool:
    slack = 1.0
    is_inside = bar[0] - slack <= box[0] and box[2] <= bar[2] + slack and bar[1] - slack <= box[1] and box[3] <= bar[3] + slack
    return is_inside and bar[3] - bar[1] <= _COVER_HEIGHTS * max(box[3] - box[1], 1)


def is_scan(page: Any) -> bool:
    """Say whether an image covers more than half of the page."""
    raw = import_module("pypdfium2.raw")
    left, bottom, right, top = page.get_bbox()
    whole = max((right - left) * (top - bottom), 1)
    for found in _objects(raw, page):
        box = found.box
        width, height = min(box[2], right) - max(box[0], left), min(box[3], top) - max(box[1], bottom)
        if found.kind == _IMAGE and width > 0 and height > 0 and width * height / whole > _SCAN_SHARE:
            return True
    return False
