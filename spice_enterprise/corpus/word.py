"""A DOCX file's body as text.

In: the bytes of a DOCX file and what the run carries.
Out: its text with headings as `# ` lines, tables as facts, text boxes, content controls and insertions in their place.
Refuses: what `ooxml.py` refuses, and tables nested too deeply (`E_LIMIT_DEPTH`).
Not here: hidden, white and tiny runs, which are counted, and tracked deletions.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from spice_enterprise.corpus.ooxml import MAIN_PARTS, Package
from spice_enterprise.corpus.reading import Notes, bad, carried_line, library
from spice_enterprise.corpus.tables import rows_as_text, squared

W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH_TEXT: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_MC: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_DOC_PR: Final = "{http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing}docPr"
_MAX_NESTING: Final = 20
_TINY_HALF_POINTS: Final = 8
_OFF: Final = ("0", "false", "off", "none")
_UNKNOWN_BACKGROUND: Final = "?"
_WHITES: Final = frozenset({"", "auto", "clear", "ffffff"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """How a run looks, as far as that hides it."""

    is_vanished: bool = False
    half_points: int = 22
    colour: str = ""
    background: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    name: str = ""
    look: tuple[Any, ...] = ()
    """The `rPr` elements of the style and those it is based on, the base first."""
    level: int = 0
    is_list: bool = False
    is_shading: bool = False


@dataclass(slots=True, kw_only=True)
class _Reader:
    """What is known about the document while it is walked."""

    notes: Notes
    styles: dict[str, _Style]
    depth: int = 0
    boxes: list[Any] = field(default_factory=list)


def read_docx(data: bytes, notes: Notes) -> list[str]:
    """Return the whole document as one page."""
    notes.parser = library("lxml")
    package = Package(data, MAIN_PARTS["docx"])
    main = MAIN_PARTS["docx"]
    root = package.tree(main)
    styles = _styles(package, main)
    base = _Look(background=_UNKNOWN_BACKGROUND if root.find(f"{W}background") is not None else "")
    reader = _Reader(notes=notes, styles=styles)
    body = root.find(f"{W}body")
    lines = list(_blocks(body, reader, base)) if body is not None else []
    return ["\n".join([*lines, *_beside(package, main, reader), *package.properties(notes)])]


def _beside(package: Package, main: str, reader: _Reader) -> Iterator[str]:
    """Yield what stands beside the body, by kind, as far as it is carried."""
    kinds = (
        ("headers", "header", "Header"), ("footers", "footer", "Footer"), ("notes", "footnotes", "Footnote"),
        ("notes", "endnotes", "Endnote"), ("comments", "comments", "Comment"),
    )  # fmt: skip
    for kind, relation, label in kinds:
        if not reader.notes.carries(kind):  # type: ignore[arg-type]
            continue
        for part in dict.fromkeys(package.related(main, relation)):
            root = package.tree(part)
            items = list(root) if relation in ("footnotes", "endnotes", "comments") else [root]
            for item in items:
                text = " ".join(_blocks(item, reader, _Look()))
                if text.strip():
                    yield carried_line(label, text)


# --- styles -----------------------------------------------------------------------------------------------------------


def _styles(package: Package, main: str) -> dict[str, _Style]:
    """Return style id to what matters of it, what it is based on included."""
    parts = package.related(main, "styles")
    elements = {e.get(f"{W}styleId") or "": e for e in package.tree(parts[0]).iter(f"{W}style")} if parts else {}
    return {name: _style(name, elements) for name in elements}


def _style(style_id: str, elements: dict[str, Any]) -> _Style:
    chain: list[Any] = []
    while (element := elements.get(style_id)) is not None and element not in chain and len(chain) < 20:
        chain.append(element)
        style_id = _value(element.find(f"{W}basedOn"))
    names = [_value(element.find(f"{W}name")) for element in chain]
    return _Style(
        name=names[0] if names else "",
        look=tuple(rpr for e in reversed(chain) if (rpr := e.find(f"{W}rPr")) is not None),
        level=next((level for e, name in zip(chain, names, strict=True) if (level := _level(e, name))), 0),
        is_list=any(
            name.startswith("List") or e.find(f"{W}pPr/{W}numPr") is not None for e, name in zip(chain, names, strict=True)
        ),
        is_shading=any(e.find(f".//{W}tblStylePr//{W}shd") is not None or e.find(f"{W}tcPr/{W}shd") is not None for e in chain),
    )


def _level(element: Any, name: str) -> int:
    if name.lower() == "title":
        return 1
    if match := re.fullmatch(r"heading (\d)", name.lower()):
        return int(match.group(1))
    outline = _value(element.find(f"{W}pPr/{W}outlineLvl"))
    return int(outline) + 1 if outline.isdigit() and int(outline) < 6 else 0


def _value(element: Any) -> str:
    return "" if element is None else str(element.get(f"{W}val") or "")


def _is_on(element: Any) -> bool:
    return element is not None and _value(element).lower() not in _OFF


# --- blocks -----------------------------------------------------------------------------------------------------------


def _blocks(container: Any, reader: _Reader, look: _Look) -> Iterator[str]:
    """Yield the paragraphs and tables of a body, cell or text box in reading order."""
    for block in container:
        if block.tag == f"{W}p":
            yield from _paragraph(block, reader, look)
        elif block.tag == f"{W}tbl":
            yield from ["", *_table(block, reader, look), ""]
        elif block.tag in _DELETED:
            _drop_deleted(block, reader)
        elif block.tag not in _PROPERTIES:
            yield from _blocks(block, reader, look)


_PROPERTIES: Final = frozenset(f"{W}{name}" for name in ("sdtPr", "sdtEndPr", "tcPr", "sectPr", "tblPr", "rPr", "pPr"))
_DELETED: Final = frozenset(f"{W}{name}" for name in ("del", "moveFrom"))


def _drop_deleted(block: Any, reader: _Reader) -> None:
    reader.notes.drop("deleted", "".join(e.text or "" for e in block.iter(f"{W}delText", f"{W}t")))


def _paragraph(paragraph: Any, reader: _Reader, look: _Look) -> Iterator[str]:
    properties = paragraph.find(f"{W}pPr")
    style = _Style()
    if properties is not None:
        style = reader.styles.get(_value(properties.find(f"{W}pStyle")), style)
        shading = properties.find(f"{W}shd")
        look = replace(look, background=str(shading.get(f"{W}fill") or "").lower()) if shading is not None else look
    for rpr in style.look:
        look = _looking(look, rpr)
    outer, reader.boxes = reader.boxes, []
    text = "".join(_inline(paragraph, reader, look))
    boxes, reader.boxes = reader.boxes, outer
    yield _marked(text, style, properties)
    for box in boxes:
        yield from _nested(box, reader, _Look(background=_UNKNOWN_BACKGROUND))


def _marked(text: str, style: _Style, properties: Any) -> str:
    level = style.level or (_level(properties.getparent(), "") if properties is not None else 0)
    if level and text.strip():
        return f"\n{'#' * min(level, 6)} {' '.join(text.split())}\n"
    is_list = style.is_list or (properties is not None and properties.find(f"{W}numPr") is not None)
    return f"- {text.strip()}" if is_list and text.strip() else text


def _nested(container: Any, reader: _Reader, look: _Look) -> list[str]:
    reader.depth += 1
    if reader.depth > _MAX_NESTING:
        raise bad("E_LIMIT_DEPTH", "tables nested too deeply")
    lines = list(_blocks(container, reader, look))
    reader.depth -= 1
    return lines


def _table(table: Any, reader: _Reader, look: _Look) -> list[str]:
    style = reader.styles.get(_value(table.find(f"{W}tblPr/{W}tblStyle")))
    if style is not None and style.is_shading:
        look = replace(look, background=_UNKNOWN_BACKGROUND)
    rows = [_row(row, reader, look) for row in _within(table, f"{W}tr") if not _is_row_deleted(row)]
    return rows_as_text(squared(rows))


def _is_row_deleted(row: Any) -> bool:
    properties = row.find(f"{W}trPr")
    return properties is not None and properties.find(f"{W}del") is not None


def _row(row: Any, reader: _Reader, look: _Look) -> list[str]:
    cells = []
    for cell in _within(row, f"{W}tc"):
        properties = cell.find(f"{W}tcPr")
        merge = properties.find(f"{W}vMerge") if properties is not None else None
        shading = properties.find(f"{W}shd") if properties is not None else None
        own = replace(look, background=str(shading.get(f"{W}fill") or "").lower()) if shading is not None else look
        text = " ".join(_nested(cell, reader, own))
        cells.append("" if merge is not None and _value(merge) != "restart" else text)
    return cells


def _within(container: Any, tag: str) -> Iterator[Any]:
    """Yield the rows of a table or cells of a row, also those inside a content control."""
    for child in container:
        if child.tag == tag:
            yield child
        elif child.tag in (f"{W}sdt", f"{W}sdtContent", f"{W}customXml", f"{W}ins"):
            yield from _within(child, tag)


# --- runs -------------------------------------------------------------------------------------------------------------

_TEXT: Final = {f"{W}tab": " ", f"{W}br": "\n", f"{W}cr": "\n", f"{W}noBreakHyphen": "-", f"{W}ptab": " "}


def _inline(container: Any, reader: _Reader, look: _Look) -> Iterator[str]:
    """Yield the visible text of a paragraph's runs, links, insertions and content controls; collect its text boxes."""
    for child in container:
        tag = child.tag
        if tag == f"{W}r":
            yield _run(child, reader, look)
        elif tag in _DELETED:
            _drop_deleted(child, reader)
        elif tag == _MATH_TEXT:
            yield child.text or ""
        elif tag not in _PROPERTIES:
            yield from _inline(child, reader, look)


def _run(run: Any, reader: _Reader, look: _Look) -> str:
    properties = run.find(f"{W}rPr")
    if properties is not None:
        style = reader.styles.get(_value(properties.find(f"{W}rStyle")))
        for rpr in style.look if style is not None else ():
            look = _looking(look, rpr)
        look = _looking(look, properties)
    text = "".join(_pieces(run, reader))
    kind = _hidden_kind(look)
    if not kind or not text.strip():
        return text
    reader.notes.drop(kind, text)
    return text if reader.notes.carries("hidden") else ""


def _pieces(run: Any, reader: _Reader) -> Iterator[str]:
    for child in run:
        if child.tag == f"{W}t":
            yield child.text or ""
        elif child.tag in _TEXT:
            yield _TEXT[child.tag]
        elif child.tag in (f"{W}drawing", f"{W}pict", f"{W}object", f"{_MC}AlternateContent"):
            yield from _drawing(child, reader)


def _drawing(drawing: Any, reader: _Reader) -> Iterator[str]:
    """Collect the text boxes of a drawing once, though it is stored in two versions; yield its description if carried."""
    reader.boxes += [box for box in drawing.iter(f"{W}txbxContent") if not _is_in_box(box, drawing)]
    if reader.notes.carries("alt_text"):
        for element in drawing.iter(_DOC_PR):
            if description := (element.get("descr") or "").strip():
                yield f" ({carried_line('Picture', description)})"


def _is_in_box(box: Any, top: Any) -> bool:
    parent = box.getparent()
    while parent is not None and parent is not top:
        if parent.tag in (f"{W}txbxContent", f"{_MC}Fallback"):
            return True
        parent = parent.getparent()
    return False


def _looking(look: _Look, rpr: Any) -> _Look:
    vanish = rpr.find(f"{W}vanish")
    size, colour, shading = rpr.find(f"{W}sz"), rpr.find(f"{W}color"), rpr.find(f"{W}shd")
    highlight = rpr.find(f"{W}highlight")
    if shading is not None:
        look = replace(look, background=str(shading.get(f"{W}fill") or "").lower())
    if highlight is not None:
        look = replace(look, background=_UNKNOWN_BACKGROUND)
    return replace(
        look,
        is_vanished=_is_on(vanish) if vanish is not None else look.is_vanished,
        half_points=int(_value(size)) if size is not None and _value(size).isdigit() else look.half_points,
        colour=_value(colour).lower() if colour is not None else look.colour,
    )


def _hidden_kind(look: _Look) -> str:
    if look.is_vanished:
        return "vanish"
    if look.half_points < _TINY_HALF_POINTS:
        return "size"
    is_paper = look.background in _WHITES and look.colour == "ffffff"
    is_same = bool(look.colour) and look.colour not in _WHITES and look.colour == look.background
    return "colour" if is_paper or is_same else ""
