"""HTML and XML as the text a reader of the page sees. Nothing is fetched.

In: the bytes of a page, or the HTML body of a mail.
Out: its visible text, headings as `# ` lines, tables as facts; what is hidden is counted.
Refuses: elements nested too deeply (`E_LIMIT_DEPTH`), and XML with a DTD (`E_XML_DTD`).
Not here: scripts, styles, forms' state. Comments and alternative texts come only where the run carries them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from spice_enterprise.corpus.ooxml import check_xml, xml_tree
from spice_enterprise.corpus.plain_text import decode
from spice_enterprise.corpus.reading import Notes, bad, carried_line, library
from spice_enterprise.corpus.tables import rows_as_text, squared

_SILENT: Final = frozenset({"script", "style", "noscript", "template", "head", "nav", "iframe", "object", "svg", "datalist"})
_BLOCKS: Final = frozenset(
    {"p", "div", "section", "article", "ul", "ol", "table", "tr", "br", "pre", "blockquote", "main", "dl", "dt", "dd", "hr"}
    | {"header", "footer", "address", "figure", "figcaption", "fieldset", "form"}
)
_HEADING: Final = re.compile(r"h[1-6]")
_CHARSET: Final = re.compile(rb"charset\s*=\s*[\"']?\s*([\w-]{2,40})", re.IGNORECASE)


@dataclass(slots=True, kw_only=True)
class _Page:
    notes: Notes
    hiding: frozenset[str]
    """Simple selectors (`.x`, `#x`, `tag`) whose style hides."""
    has_sheets: bool
    """A style sheet may paint elements: then white text on an element with a class is no proof of hiding."""
    beside: list[str] = field(default_factory=list)


def read_html(data: bytes, notes: Notes) -> list[str]:
    """Return a page's visible text as one page."""
    notes.parser = library("lxml")
    text = decode(data, notes)
    if "E_CHARSET" not in notes.flags and _is_charset_lie(data):
        notes.flags.add("E_CHARSET")
    return [html_text(text, notes)]


def read_xml(data: bytes, notes: Notes) -> list[str]:
    """Return the text of every element, one line each."""
    notes.parser = library("lxml")
    check_xml(data)
    lines = (" ".join(piece.split()) for piece in xml_tree(data).itertext())
    return ["\n".join(line for line in lines if line)]


def _is_charset_lie(data: bytes) -> bool:
    declared = _CHARSET.search(data[:2048])
    if declared is None or data.isascii():
        return False
    try:
        data.decode(declared.group(1).decode("ascii"))
    except (LookupError, UnicodeDecodeError):
        return True
    # bytes that are valid UTF-8 by chance are rare: another declared charset is the lie
    return declared.group(1).lower() not in (b"utf-8", b"utf8") and _is_utf8(data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def html_text(source: str, notes: Notes) -> str:
    """Return the visible text of an HTML page, and behind it what the run carries of the rest."""
    html = import_module("lxml.html")
    parser = html.HTMLParser(no_network=True, remove_pis=True, huge_tree=False, encoding="utf-8")
    root = html.document_fromstring(source.encode("utf-8", "replace"), parser=parser)
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        # libxml2 cuts the tree off there and goes on: the text below would be lost without a word
        raise bad("E_LIMIT_DEPTH", "elements nested too deeply")
    has_sheets = root.find(".//style") is not None or root.find(".//link") is not None
    page = _Page(notes=notes, hiding=_hiding_selectors(root), has_sheets=has_sheets)
    page.beside += _metadata(root, notes)
    pieces: list[str] = []
    _walk(root, pieces, page)
    lines = (" ".join(line.split(" ")).strip() for line in "".join(pieces).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, "", *page.beside]).rstrip())


def _metadata(root: Any, notes: Notes) -> Iterator[str]:
    if not notes.carries("metadata"):
        return
    title = root.find(".//title")
    if title is not None and (title.text or "").strip():
        yield carried_line("Title", title.text)
    for meta in root.iter("meta"):
        name, content = str(meta.get("name") or meta.get("property") or ""), str(meta.get("content") or "")
        if name and content.strip() and name.lower() not in ("viewport", "generator", "robots"):
            yield carried_line(name.capitalize(), content)


def _walk(node: Any, pieces: list[str], page: _Page) -> None:
    """Append the text of `node` and what it holds; block elements become lines, headings `# ` lines, rows facts."""
    if not isinstance(node.tag, str):
        _comment(node, page)
        return
    tag = node.tag
    if tag in _SILENT or _is_left_out(node, page):
        return
    if tag == "img":
        _picture(node, page)
    elif tag == "table":
        pieces.append(_table(node, page))
    else:
        _open_element(node, pieces, page)


def _open_element(node: Any, pieces: list[str], page: _Page) -> None:
    tag = node.tag
    pieces.append(_opening(tag))
    is_literal = tag in ("pre", "textarea")
    pieces.append(_spaced(node.text, is_literal=is_literal))
    for child in node:
        _walk(child, pieces, page)
        pieces.append(_spaced(child.tail, is_literal=is_literal))
    pieces.append("\n\n" if _HEADING.fullmatch(tag) else "\n" if tag in _BLOCKS or tag == "li" else "")


def _table(table: Any, page: _Page) -> str:
    own = [row for row in table.iter("tr") if next(row.iterancestors("table")) is table and not _is_left_out(row, page)]
    rows = [[_cell(cell, page) for cell in row if cell.tag in ("td", "th")] for row in own]
    captions = [_cell(caption, page) for caption in table.findall("caption")]
    return "\n\n" + "\n".join([*captions, *_table_lines(rows, table)]) + "\n\n"


def _table_lines(rows: list[list[str]], table: Any) -> list[str]:
    """Return facts, or plain text where a table only lays out a page."""
    is_layout = next(table.iterdescendants("table"), None) is not None
    if is_layout or max(map(len, rows), default=0) < 2:
        return [cell for row in rows for cell in row if cell.strip()]
    return rows_as_text(squared(rows))


def _cell(cell: Any, page: _Page) -> str:
    pieces: list[str] = []
    _walk(cell, pieces, page)
    text = "".join(pieces)
    return text if next(cell.iterdescendants("table"), None) is not None else " ".join(text.split())


def _opening(tag: str) -> str:
    if _HEADING.fullmatch(tag):
        return f"\n\n{'#' * int(tag[1])} "
    if tag in ("p", "section", "article", "blockquote"):
        return "\n\n"
    return "\n- " if tag == "li" else "\n" if tag in _BLOCKS else ""


def _spaced(text: str | None, *, is_literal: bool) -> str:
    return (text or "") if is_literal else re.sub(r"\s+", " ", text or "")


# --- what is not seen -------------------------------------------------------------------------------------------------


def _comment(node: Any, page: _Page) -> None:
    if page.notes.carries("comments") and "Comment" in repr(node.tag) and (node.text or "").strip():
        page.beside.append(carried_line("Comment", node.text))


def _picture(node: Any, page: _Page) -> None:
    text = str(node.get("alt") or "").strip()
    if text and page.notes.carries("alt_text"):
        page.beside.append(carried_line("Picture", text))


_HIDING: Final = re.compile(
    r"(?:^|[;{\s])(?:(display:none)|(visibility:(?:hidden|collapse))|(opacity:0(?:\.0+)?(?![.\d]))|(font-size:[0-3](?:\.\d+)?(?:px|pt)?(?![.\d%a-z]))"
    r"|((?:text-indent|left|top|margin-left):-\d{4,}|left:-[5-9]\d\d)|(clip:rect\(0))"
)
_KINDS: Final = ("display_none", "visibility", "opacity", "size", "off_page", "clip")
_COLOUR: Final = re.compile(r"(?:^|;)color:([^;!]+)")
_BACKGROUND: Final = re.compile(r"background(?:-color|-image)?:([^;!]+)")
_WHITES: Final = frozenset({"white", "#fff", "#ffffff", "rgb(255,255,255)", "transparent", "rgba(0,0,0,0)"})
_RULE: Final = re.compile(r"([^{}@]{1,500})\{([^{}]{0,2000})\}")
_SIMPLE: Final = re.compile(r"[a-z0-9]*[.#][\w-]+|[a-z][a-z0-9]*", re.IGNORECASE)


def _is_left_out(node: Any, page: _Page) -> bool:
    """Say whether a reader does not see the element; what it holds is counted."""
    kind = _hidden_kind(node, page)
    if not kind:
        return False
    page.notes.drop(kind, "".join(_raw_text(node)))
    return not page.notes.carries("hidden")


def _raw_text(node: Any) -> Iterator[str]:
    yield from (piece for piece in node.itertext() if isinstance(piece, str))


def _hidden_kind(node: Any, page: _Page) -> str:
    if node.get("hidden") is not None or (node.tag == "input" and node.get("type") == "hidden"):
        return "hidden_attribute"
    if page.hiding and not page.hiding.isdisjoint(_selectors(node)):
        return "css"
    style = re.sub(r"\s+", "", str(node.get("style") or "")).lower()
    if not style:
        return ""
    if match := _HIDING.search(style):
        return _KINDS[(match.lastindex or 1) - 1]
    colour = _COLOUR.search(style)
    return "colour" if colour and _is_unseen(colour.group(1), node, page) else ""


def _is_unseen(colour: str, node: Any, page: _Page) -> bool:
    """Say whether a colour is that of the background: white or see-through, or the same as named behind it."""
    behind = _background(node, page)
    return colour in _WHITES if not behind else colour == behind


def _background(node: Any, page: _Page) -> str:
    for element in (node, *node.iterancestors()):
        style = re.sub(r"\s+", "", str(element.get("style") or "")).lower()
        if match := _BACKGROUND.search(style):
            return match.group(1)
        if element.get("bgcolor"):
            return str(element.get("bgcolor")).lower()
        if element.get("class") and page.has_sheets:
            return "?"
    return ""


def _selectors(node: Any) -> Iterator[str]:
    tag = node.tag
    yield tag
    for name in str(node.get("class") or "").split():
        yield f".{name}"
        yield f"{tag}.{name}"
    if node.get("id"):
        yield f"#{node.get('id')}"
        yield f"{tag}#{node.get('id')}"


def _hiding_selectors(root: Any) -> frozenset[str]:
    found: set[str] = set()
    for sheet in root.iter("style"):
        text = re.sub(r"/\*.*?\*/", "", sheet.text or "", flags=re.DOTALL)
        for names, body in _RULE.findall(_without_print(text)):
            if _HIDING.search(re.sub(r"\s+", "", body).lower()):
                found.update(name.strip() for name in names.split(",") if _SIMPLE.fullmatch(name.strip()))
    return frozenset(found)


def _without_print(text: str) -> str:
    """Return a style sheet without its conditional blocks: what they hide is shown elsewhere."""
    return re.sub(r"@media[^{]*+\{(?:[^{}]*+\{[^{}]*+\})*+[^{}]*+\}", "", text)
