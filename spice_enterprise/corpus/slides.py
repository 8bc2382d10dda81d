"""A PPTX file's slides as text.

In: the bytes of a PPTX file and what the run carries.
Out: a page per slide, its title as a heading, tables as facts.
Refuses: what `ooxml.py` refuses, and groups nested too deeply (`E_LIMIT_DEPTH`).
Not here: hidden slides, hidden, tiny and off-slide shapes, which are counted; white text, which dark slides use.
"""

from collections.abc import Iterator
from typing import Any, Final

from spice_enterprise.corpus.ooxml import MAIN_PARTS, Package
from spice_enterprise.corpus.reading import MAX_PAGES, Notes, bad, carried_line, library
from spice_enterprise.corpus.tables import rows_as_text

_A: Final = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P: Final = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_MC: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_REL_ID: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_MAX_NESTING: Final = 20
_TINY_CENTIPOINTS: Final = 400
_FOOTERS: Final = frozenset({"ftr", "sldNum", "dt"})


def read_pptx(data: bytes, notes: Notes) -> list[str]:
    """Return one page per visible slide."""
    notes.parser = library("lxml")
    package = Package(data, MAIN_PARTS["pptx"])
    main = MAIN_PARTS["pptx"]
    deck = package.tree(main)
    relations = package.relations(main)
    size = _slide_size(deck)
    parts = [relations[i][1] for e in deck.iter(f"{_P}sldId") if (i := e.get(_REL_ID) or "") in relations]
    if len(parts) > MAX_PAGES:
        raise bad("E_LIMIT", f"more than {MAX_PAGES} slides")
    pages = [page for part in parts if (page := _slide(package, part, size, notes)) is not None]
    if pages and (properties := package.properties(notes)):
        pages[0] = "\n".join([pages[0], *properties])
    return pages


def _slide_size(deck: Any) -> tuple[int, int]:
    size = deck.find(f"{_P}sldSz")
    return (_number(size.get("cx")), _number(size.get("cy"))) if size is not None else (0, 0)


def _slide(package: Package, part: str, size: tuple[int, int], notes: Notes) -> str | None:
    """Return a slide's text; None for a hidden one that is not carried."""
    root = package.tree(part)
    is_hidden = root.get("show") in ("0", "false")
    own = Notes(options=notes.options) if is_hidden else notes
    shapes = root.find(f"{_P}cSld/{_P}spTree")
    lines = list(_shapes(shapes, size, own, 0)) if shapes is not None else []
    if is_hidden:
        notes.drop("hidden_slide", "".join(lines))
        if not notes.carries("hidden"):
            return None
    return "\n".join([*lines, *_beside(package, part, notes)])


def _beside(package: Package, part: str, notes: Notes) -> Iterator[str]:
    kinds = (("notes", "notesSlide", "Notes"), ("comments", "comments", "Comment"), ("comments", "comment", "Comment"))
    for kind, relation, label in kinds:
        for name in package.related(part, relation) if notes.carries(kind) else ():  # type: ignore[arg-type]
            for text in _side_texts(package.tree(name), relation):
                if text.strip():
                    yield carried_line(label, text)


def _side_texts(root: Any, relation: str) -> Iterator[str]:
    """Yield the texts of a notes page, or of its comments in the old or the new form."""
    if relation == "notesSlide":
        for shape in root.iter(f"{_P}sp"):
            if _placeholder(shape) not in (*_FOOTERS, "sldImg", "hdr"):
                yield _frame_text(shape.find(f"{_P}txBody"))
        return
    for element in root.iter():
        name = str(element.tag).rsplit("}", 1)[-1]
        if name == "text":
            yield element.text or ""
        elif name == "txBody":
            yield _frame_text(element)


def _shapes(tree: Any, size: tuple[int, int], notes: Notes, depth: int) -> Iterator[str]:
    if depth > _MAX_NESTING:
        raise bad("E_LIMIT_DEPTH", "groups nested too deeply")
    for shape in tree:
        if shape.tag == f"{_MC}AlternateContent":
            choice = shape.find(f"{_MC}Choice")
            yield from _shapes(choice if choice is not None else shape, size, notes, depth + 1)
        elif shape.tag in (f"{_P}sp", f"{_P}grpSp", f"{_P}graphicFrame", f"{_P}pic", f"{_P}cxnSp"):
            yield from _shape(shape, size, notes, depth)


def _shape(shape: Any, size: tuple[int, int], notes: Notes, depth: int) -> Iterator[str]:
    lines = list(_contents(shape, size, notes, depth))
    # a group's children count from the group's own corner, so only the outermost place is compared
    kind = _hidden_kind(shape, size if depth == 0 else (0, 0))
    if kind:
        notes.drop(kind, "".join(lines))
    if not kind or notes.carries("hidden"):
        yield from lines
    properties = next(shape.iter(f"{_P}cNvPr"), None)
    if properties is not None and notes.carries("alt_text") and (properties.get("descr") or "").strip():
        yield carried_line("Picture", properties.get("descr"))


def _contents(shape: Any, size: tuple[int, int], notes: Notes, depth: int) -> Iterator[str]:
    if shape.tag == f"{_P}grpSp":
        yield from _shapes(shape, size, notes, depth + 1)
    elif shape.tag == f"{_P}graphicFrame":
        for table in shape.iter(f"{_A}tbl"):
            yield from ["", *rows_as_text([_cells(row) for row in table.iter(f"{_A}tr")]), ""]
    elif (frame := shape.find(f"{_P}txBody")) is not None:
        placeholder = _placeholder(shape)
        if placeholder in _FOOTERS:
            if notes.carries("footers") and (text := _frame_text(frame)).strip():
                yield carried_line("Footer", text)
            return
        text = _visible_text(frame, notes)
        is_title = placeholder in ("title", "ctrTitle") and text.strip()
        yield f"# {' '.join(text.split())}\n" if is_title else text


def _cells(row: Any) -> list[str]:
    merged = ("1", "true")
    return ["" if c.get("hMerge") in merged or c.get("vMerge") in merged else _frame_text(c) for c in row.iter(f"{_A}tc")]


def _placeholder(shape: Any) -> str:
    element = shape.find(f"{_P}nvSpPr/{_P}nvPr/{_P}ph")
    return "" if element is None else str(element.get("type") or "body")


def _hidden_kind(shape: Any, size: tuple[int, int]) -> str:
    properties = shape[0].find(f"{_P}cNvPr") if len(shape) else None
    if properties is not None and properties.get("hidden") in ("1", "true"):
        return "hidden_shape"
    place = next(shape.iter(f"{_A}xfrm", f"{_P}xfrm"), None)
    if place is None or size == (0, 0):
        return ""
    offset, extent = place.find(f"{_A}off"), place.find(f"{_A}ext")
    if offset is None or extent is None:
        return ""
    left, top = _number(offset.get("x")), _number(offset.get("y"))
    right, bottom = left + _number(extent.get("cx")), top + _number(extent.get("cy"))
    return "off_page" if left >= size[0] or top >= size[1] or right <= 0 or bottom <= 0 else ""


def _number(value: str | None) -> int:
    return int(value) if value is not None and value.lstrip("-").isdigit() else 0


def _frame_text(frame: Any) -> str:
    if frame is None:
        return ""
    paragraphs = frame.iter(f"{_A}p")
    return "\n".join("".join(_piece(e) for e in p.iter(f"{_A}t", f"{_A}br")) for p in paragraphs)


def _visible_text(frame: Any, notes: Notes) -> str:
    lines = []
    for paragraph in frame.iter(f"{_A}p"):
        pieces = []
        for element in paragraph.iter(f"{_A}t", f"{_A}br"):
            text = _piece(element)
            if _is_tiny(element):
                notes.drop("size", text)
                text = text if notes.carries("hidden") else ""
            pieces.append(text)
        lines.append("".join(pieces))
    return "\n".join(lines)


def _piece(element: Any) -> str:
    return "\n" if element.tag == f"{_A}br" else (element.text or "")


def _is_tiny(element: Any) -> bool:
    properties = element.getparent().find(f"{_A}rPr")
    size = "" if properties is None else str(properties.get("sz") or "")
    return size.isdigit() and int(size) < _TINY_CENTIPOINTS
