"""From the bytes of one file to its text, one native parser per format.

In: raw bytes and a file suffix; normally called inside the child of `sandbox.py`.
Out: `Parsed`, pages of normalised text. Headings are kept as `# ` lines; table rows read as `header: value; header: value`.
Refuses: content that contradicts the suffix, DTDs, zip bombs, encrypted, active, corrupt and textless files (`ParseError`).
Not here: metadata. Authors, comments, notes, headers, scripts, hidden sheets and attachments are never carried.

A format's library is imported when its first file arrives, so a child loads only what its batch needs.
"""

import codecs
import csv
import io
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from email import message_from_bytes, policy
from email.errors import MessageError
from email.message import EmailMessage
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

from spice_enterprise.corpus.sources import MEDIA_TYPES
from spice_enterprise.errors import ParseError

MAX_PAGES: Final = 10_000
MAX_CELLS: Final = 2_000_000
MAX_DEPTH: Final = 400
MAX_ENTRIES: Final = 2_000
MAX_EXPANDED_BYTES: Final = 200 << 20
MAX_RATIO: Final = 100
_RATIO_FREE_BYTES: Final = 1 << 20
"""Entries that expand to less than this may have any ratio: a page of spaces compresses 1000 to 1."""
MAX_FIELD_CHARS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The text of one document. Raw: it lives only between the parser and the scrubber."""

    media_type: str
    pages: tuple[str, ...] = field(repr=False)


def parse(data: bytes, suffix: str) -> Parsed:
    """Return the text of a file.

    Args:
        data: The whole file.
        suffix: Its file name suffix with the dot, in any case.

    Raises:
        ParseError: With a stable code: `E_UNSUPPORTED`, `E_TYPE_MISMATCH`, `E_ENCRYPTED`, `E_PARSE`, `E_EMPTY`,
            `E_LIMIT...`, `E_XML_DTD`, `E_ACTIVE_CONTENT`.
    """
    suffix = suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise _bad("E_UNSUPPORTED", "no parser for this kind of file")
    _check_content(data, suffix)
    try:
        pages = tuple(normalise(page) for page in reader(data))
    except ParseError:
        raise
    except (MemoryError, RecursionError):
        raise _bad("E_LIMIT", "the file needs more memory than allowed") from None
    except Exception as error:  # noqa: BLE001 - parsers of foreign bytes raise anything; the type alone is reported
        raise _bad("E_PARSE", f"the file cannot be parsed ({type(error).__name__})") from None
    if not any(page.strip() for page in pages):
        raise _bad("E_EMPTY", "no text in the file")
    return Parsed(media_type=MEDIA_TYPES[suffix], pages=pages)


def _bad(code: str, message: str) -> ParseError:
    return ParseError(message, code=code)


# --- what is it -------------------------------------------------------------------------------------------------------

_MAGICS: Final = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"\x1f\x8b", "archive"),
    (b"\x7fELF", "program"),
    (b"{\\rtf", "rtf"),
)
_EXPECTED: Final = {".pdf": "pdf", ".docx": "zip", ".xlsx": "zip", ".pptx": "zip"}
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _check_content(data: bytes, suffix: str) -> None:
    """Raise `ParseError` unless the first bytes agree with the suffix."""
    if not data:
        raise _bad("E_EMPTY", "the file has 0 bytes")
    found = _kind_of(data)
    expected = _EXPECTED.get(suffix, "text")
    if found == "ole" and expected == "zip":
        raise _bad("E_ENCRYPTED", "the office file is encrypted or in the old binary format")
    if (found == "pdf" and expected != "pdf") or found not in (expected, "text", "html"):
        raise _bad("E_TYPE_MISMATCH", f"the content is {found}, the suffix says {expected}")
    if expected != "text" and found != expected:
        raise _bad("E_TYPE_MISMATCH" if found == "html" else "E_PARSE", f"the content is not {expected}")


def _kind_of(data: bytes) -> str:
    if b"%PDF-" in data[:1024]:
        return "pdf"
    for magic, kind in _MAGICS:
        if data.startswith(magic):
            return kind
    head = data[:4096]
    if b"\0" in head and not data.startswith(_UTF16):
        return "binary"
    return "html" if re.match(rb"\s*<(?:!doctype html|html)", head, re.IGNORECASE) else "text"


# --- text -------------------------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Return text without control, format and tag characters, with compatibility letters folded and white space plain.

    Superscripts and fractions stay: folding them would change numbers.
    """
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", _ODD.sub(lambda match: _fold(match.group()), text))
    text = re.sub(r"[ \t]+\n", "\n", text)
    # columns set with spaces: a name in them must read as a name
    text = re.sub(r"^[ \t]{4,}(?![ \t\-*\d])", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=[^ \t\n])[ \t]{2,}", " ", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


_ODD: Final = re.compile(r"[^\n\t\x20-\x7e]")
_FOLDED: Final = ("<compat>", "<font>", "<wide>", "<narrow>", "<noBreak>")


@lru_cache(maxsize=4096)
def _fold(char: str) -> str:
    category = unicodedata.category(char)
    if category in ("Zl", "Zp"):
        return "\n"
    if category in ("Cc", "Cf", "Cs", "Co"):
        return ""
    if category == "Zs":
        return " "
    if unicodedata.decomposition(char).startswith(_FOLDED):
        return unicodedata.normalize("NFKC", char)
    return char


def decode(data: bytes) -> str:
    """Return text bytes as text: a byte-order mark decides, then UTF-8, then Windows-1252."""
    if data.startswith(_UTF16):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _text(data: bytes) -> list[str]:
    return [_unwrapped(decode(data))]


def _unwrapped(text: str) -> str:
    """Join the lines of text that was wrapped at a fixed width; text whose lines are paragraphs stays."""
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(_unwrap(lines)) if max(map(len, lines), default=0) <= WRAP_WIDTH else text


def rows_as_text(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per table row that reads as facts.

    A first row of short texts without numbers is the header of tables with three or more columns, and of two-column tables
    whose values are numbers; other two-column rows read as `name: value`.
    """
    squeezed = _without_empty_columns([[" ".join(cell.split()) for cell in row] for row in rows])
    filled = [row for row in squeezed if any(row)]
    titles = 0
    while titles < len(filled) and sum(map(bool, filled[titles])) == 1:
        titles += 1
    above, body = filled[:titles], filled[titles:]
    lines = [_plain_row(row) for row in above]
    if not _has_header(body):
        return lines + [_plain_row(row) for row in body]
    names = [name.rstrip(":") for name in body[0]]
    return lines + [_fact_row(names, row) for row in body[1:]]


def _without_empty_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    width = max((len(row) for row in rows), default=0)
    used = [i for i in range(width) if any(i < len(row) and row[i] for row in rows)]
    return [[row[i] if i < len(row) else "" for i in used] for row in rows]


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    first = rows[0] if len(rows) > 1 else []
    if len(first) < 2 or not all(first) or any(re.search(r"\d", c) or len(c) > 60 for c in first):
        return False
    return len(first) > 2 or all(re.fullmatch(r"[-+$€£(]?\d[\d.,]*[%)]?", row[1]) for row in rows[1:])


def _fact_row(names: Sequence[str], row: Sequence[str]) -> str:
    cells = [(names[i] if i < len(names) else "", value) for i, value in enumerate(row) if value]
    return "; ".join(f"{name}: {value}" if name else value for name, value in cells)


def _plain_row(row: Sequence[str]) -> str:
    values = [value for value in row if value]
    if len(row) == 2 and len(values) == 2:
        return f"{values[0].rstrip(':')}: {values[1]}"
    return "; ".join(values)


def _csv(data: bytes) -> list[str]:
    text = decode(data).replace("\0", "")
    csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:8192], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), dialect, strict=True))
    except csv.Error:
        raise _bad("E_PARSE", "a row of the table cannot be read") from None
    if sum(len(row) for row in rows) > MAX_CELLS:
        raise _bad("E_LIMIT", f"more than {MAX_CELLS} cells")
    return ["\n".join(rows_as_text(rows))]


# --- PDF --------------------------------------------------------------------------------------------------------------

_PDF_PASSWORD_ERROR: Final = 4


def _pdf(data: bytes) -> list[str]:
    pdfium = import_module("pypdfium2")
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == _PDF_PASSWORD_ERROR:
            raise _bad("E_ENCRYPTED", "the PDF needs a password") from None
        raise _bad("E_PARSE", "the PDF cannot be opened") from None
    if len(document) > MAX_PAGES:
        raise _bad("E_LIMIT", f"more than {MAX_PAGES} pages")
    pages = [_pdf_page(document, number) for number in range(len(document))]
    document.close()
    whole = "\n".join(pages)
    return ["\n".join(_unwrap(lines)) for lines in _without_running_lines([_join_hyphens(page, whole) for page in pages])]


def _pdf_page(document: Any, number: int) -> str:
    page = document[number]
    textpage = page.get_textpage()
    text = str(textpage.get_text_range()).replace("\r\n", "\n").replace("\r", "\n")
    textpage.close()
    page.close()
    return text


_HYPHEN: Final = re.compile(r"(\w+)(?:\x02|\ufffe)\n?(\w+)")


def _join_hyphens(page: str, whole: str) -> str:
    """Join a word that was broken at a line end, unless the document spells it with the hyphen elsewhere."""

    def joined(match: re.Match[str]) -> str:
        left, right = match.groups()
        keeps = right[0].isupper() or f"{left}-{right}" in whole
        return f"{left}-{right}" if keeps else left + right

    return _HYPHEN.sub(joined, page)


def _without_running_lines(pages: Sequence[str]) -> list[list[str]]:
    """Return the lines of each page without headers and footers: lines that stand on most pages but for their digits."""
    lines = [[line.strip() for line in page.split("\n")] for page in pages]
    counts = Counter(shape for page in lines for shape in {_shape(line) for line in page if line})
    running = {shape for shape, n in counts.items() if len(pages) >= 4 and n > len(pages) / 2}
    return [[line for line in page if _shape(line) not in running] for page in lines]


def _shape(line: str) -> str:
    return re.sub(r"\d+", "#", line)


_NEW_BLOCK: Final = re.compile(r"(?:[-*•▪–]\s|\(?\d{1,3}[.)]\s|\(?[a-z][.)]\s|[#|>])")
WRAP_WIDTH: Final = 100
"""Longest line of text that was wrapped for reading."""


def _unwrap(lines: Sequence[str]) -> Iterator[str]:
    """Join lines that a page's width broke, so that a name or a sentence is on one line again."""
    width = max((len(line) for line in lines), default=0)
    open_line = ""
    for line in lines:
        is_continued = len(open_line) >= max(40, 0.7 * width) and line and not _NEW_BLOCK.match(line)
        if open_line and not is_continued:
            yield open_line
            open_line = ""
        if not line:
            yield ""
            continue
        # a wrapped line may be short itself, so what decides next is the length of the last piece
        open_line, tail = (f"{open_line} {line}" if open_line else line), line
        if len(tail) < max(40, 0.7 * width):
            yield open_line
            open_line = ""
    if open_line:
        yield open_line


# --- office files: zips of XML ----------------------------------------------------------------------------------------

_MAIN_PART: Final = {".docx": "word/document.xml", ".xlsx": "xl/workbook.xml", ".pptx": "ppt/presentation.xml"}
_DTD: Final = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_ENCODING: Final = re.compile(rb"<\?xml[^>]{0,200}encoding\s*=\s*[\"']([\w.-]+)", re.IGNORECASE)


def _checked_zip(data: bytes, main_part: str) -> io.BytesIO:
    """Return the archive, checked from its directory before anything is expanded."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries, main_part)
            for entry in entries:
                if entry.filename.lower().endswith((".xml", ".rels", ".vml")):
                    _check_xml(archive.read(entry))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError):
        raise _bad("E_PARSE", "the office file is damaged") from None
    return io.BytesIO(data)


def _check_entries(entries: Sequence[zipfile.ZipInfo], main_part: str) -> None:
    names = [entry.filename for entry in entries]
    if len(names) > MAX_ENTRIES:
        raise _bad("E_LIMIT_ENTRIES", f"more than {MAX_ENTRIES} parts")
    if len(set(names)) != len(names):
        raise _bad("E_PARSE", "two parts share a name")
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise _bad("E_ENCRYPTED", "a part is encrypted")
    if any(e.file_size > max(_RATIO_FREE_BYTES, MAX_RATIO * e.compress_size) for e in entries):
        raise _bad("E_LIMIT_RATIO", f"a part expands more than {MAX_RATIO}:1")
    if sum(entry.file_size for entry in entries) > MAX_EXPANDED_BYTES:
        raise _bad("E_LIMIT_RATIO", f"expands to more than {MAX_EXPANDED_BYTES} bytes")
    if any(name.lower().endswith("vbaproject.bin") for name in names):
        raise _bad("E_ACTIVE_CONTENT", "the file holds macros")
    if main_part not in names:
        is_other = not set(names).isdisjoint(_MAIN_PART.values())
        raise _bad("E_TYPE_MISMATCH" if is_other else "E_PARSE", "the main part is missing")


def _check_xml(part: bytes) -> None:
    """Refuse DTDs, also in UTF-16, and encodings in which one could hide."""
    plain = part.replace(b"\0", b"")
    declared = _ENCODING.search(plain[:400])
    if declared and declared.group(1).lower() not in (b"utf-8", b"utf-16", b"us-ascii", b"ascii", b"iso-8859-1"):
        raise _bad("E_PARSE", "a part has an unusual encoding")
    if _DTD.search(plain):
        raise _bad("E_XML_DTD", "a part declares a DTD")


def _docx(data: bytes) -> list[str]:
    document = import_module("docx").Document(_checked_zip(data, _MAIN_PART[".docx"]))
    return ["\n".join(_docx_blocks(document, 0))]


def _docx_blocks(container: Any, depth: int) -> Iterator[str]:
    """Yield the paragraphs and tables of a body or cell in reading order."""
    if depth > 20:
        raise _bad("E_LIMIT_DEPTH", "tables nested too deeply")
    for block in container.iter_inner_content():
        if hasattr(block, "rows"):
            yield from ["", *rows_as_text(_docx_rows(block, depth)), ""]
        else:
            yield _docx_paragraph(block)


def _docx_paragraph(paragraph: Any) -> str:
    text = " ".join(str(paragraph.text).split(" "))
    style = str(paragraph.style.name) if paragraph.style is not None else ""
    level = 1 if style == "Title" else int(style[8:]) if re.fullmatch(r"Heading \d", style) else 0
    if level and text.strip():
        return f"\n{'#' * min(level, 6)} {text.strip()}\n"
    return f"- {text.strip()}" if style.startswith("List") and text.strip() else text


def _docx_rows(table: Any, depth: int) -> list[list[str]]:
    """Return the texts of a table's cells; a merged cell counts once."""
    rows = []
    for row in table.rows:
        cells = []
        seen: list[Any] = []
        for cell in row.cells:
            if not any(cell._tc is known for known in seen):
                seen.append(cell._tc)
                cells.append(" ".join(_docx_blocks(cell, depth + 1)))
        rows.append(cells)
    return rows


def _xlsx(data: bytes) -> list[str]:
    workbook = import_module("openpyxl").load_workbook(
        _checked_zip(data, _MAIN_PART[".xlsx"]), read_only=True, data_only=True, keep_links=False
    )
    sheets = [sheet for sheet in workbook.worksheets if sheet.sheet_state == "visible"]
    return [f"# {sheet.title}\n\n" + "\n".join(_sheet_lines(sheet)) for sheet in sheets]


def _sheet_lines(sheet: Any) -> Iterator[str]:
    """Yield a sheet's rows; an empty row ends one table and begins the next."""
    sheet.reset_dimensions()  # the declared size may lie
    table: list[list[str]] = []
    cells = 0
    for row in sheet.iter_rows():
        values = [_cell_text(cell) for cell in row]
        cells += len(values)
        if cells > MAX_CELLS:
            raise _bad("E_LIMIT", f"more than {MAX_CELLS} cells")
        while values and not values[-1]:
            values.pop()
        if values:
            table.append(values)
            continue
        yield from [*rows_as_text(_squared(table)), ""]
        table = []
    yield from rows_as_text(_squared(table))


def _squared(rows: Sequence[list[str]]) -> list[list[str]]:
    width = max((len(row) for row in rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _cell_text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "minutes")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (int, float)):
        return _number_text(value, str(getattr(cell, "number_format", "")))
    return str(value)


def _number_text(value: float, number_format: str) -> str:
    if number_format.endswith("%"):
        return f"{value * 100:.10g}%"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _pptx(data: bytes) -> list[str]:
    deck = import_module("pptx").Presentation(_checked_zip(data, _MAIN_PART[".pptx"]))
    return ["\n".join(_shape_lines(slide.shapes, slide.shapes.title, 0)) for slide in deck.slides]


def _shape_lines(shapes: Iterable[Any], title: Any, depth: int) -> Iterator[str]:
    if depth > 20:
        raise _bad("E_LIMIT_DEPTH", "groups nested too deeply")
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _shape_lines(shape.shapes, title, depth + 1)
        elif getattr(shape, "has_table", False):
            yield from ["", *rows_as_text([[cell.text for cell in row.cells] for row in shape.table.rows]), ""]
        elif getattr(shape, "has_text_frame", False):
            text = "\n".join(paragraph.text.replace("\v", "\n") for paragraph in shape.text_frame.paragraphs)
            is_title = title is not None and shape.shape_id == title.shape_id and text.strip()
            yield f"# {' '.join(text.split())}\n" if is_title else text


# --- HTML and mail ----------------------------------------------------------------------------------------------------

_SILENT: Final = frozenset({"script", "style", "noscript", "template", "head", "title", "nav", "iframe", "object", "svg"})
_BLOCKS: Final = frozenset(
    {"p", "div", "section", "article", "ul", "ol", "table", "tr", "br", "pre", "blockquote", "header", "footer", "main", "dl"}
)


def _html(data: bytes) -> list[str]:
    return [html_text(decode(data))]


def html_text(source: str) -> str:
    """Return the visible text of an HTML page. Nothing is fetched; scripts, comments, alt texts and hidden parts are left out."""
    html = import_module("lxml.html")
    parser = html.HTMLParser(no_network=True, remove_comments=True, remove_pis=True, huge_tree=False, encoding="utf-8")
    root = html.document_fromstring(source.encode("utf-8"), parser=parser)
    pieces: list[str] = []
    _walk_html(root, pieces, 0)
    lines = (" ".join(line.split(" ")).strip() for line in "".join(pieces).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _walk_html(node: Any, pieces: list[str], depth: int) -> None:
    """Append the text of `node` and what it holds; block elements become lines, headings `# ` lines, rows facts."""
    if depth > MAX_DEPTH:
        raise _bad("E_LIMIT_DEPTH", f"elements nested deeper than {MAX_DEPTH}")
    tag = node.tag if isinstance(node.tag, str) else ""
    if tag in _SILENT or not tag or _is_hidden(node):
        return
    if tag == "table":
        rows = [[_cell_html(cell, depth) for cell in row.xpath("./td|./th")] for row in node.xpath(".//tr")]
        pieces.append("\n\n" + "\n".join(rows_as_text(_squared(rows))) + "\n\n")
        return
    pieces.append(_opening(tag))
    is_literal = tag == "pre"
    pieces.append(_spaced(node.text, is_literal=is_literal))
    for child in node:
        _walk_html(child, pieces, depth + 1)
        pieces.append(_spaced(child.tail, is_literal=is_literal))
    pieces.append("\n\n" if re.fullmatch(r"h[1-6]", tag) else "\n" if tag in _BLOCKS or tag == "li" else "")


def _opening(tag: str) -> str:
    if re.fullmatch(r"h[1-6]", tag):
        return f"\n\n{'#' * int(tag[1])} "
    if tag in ("p", "section", "article", "blockquote"):
        return "\n\n"
    return "\n- " if tag == "li" else "\n" if tag in _BLOCKS else ""


def _cell_html(cell: Any, depth: int) -> str:
    pieces: list[str] = []
    _walk_html(cell, pieces, depth + 1)
    return " ".join("".join(pieces).split())


def _spaced(text: str | None, *, is_literal: bool) -> str:
    return (text or "") if is_literal else re.sub(r"\s+", " ", text or "")


def _is_hidden(node: Any) -> bool:
    style = str(node.get("style") or "").replace(" ", "").lower()
    return node.get("hidden") is not None or "display:none" in style or "visibility:hidden" in style


_MAIL_FIELDS: Final = ("From", "To", "Cc", "Subject")
"""What a mail says of itself that is carried: names to look for in its text, and what it is about."""


def _eml(data: bytes) -> list[str]:
    if not re.match(rb"(?:From [^\n]+\n)?[A-Za-z][A-Za-z0-9-]{0,70}:", data.lstrip(b"\xef\xbb\xbf\r\n")):
        raise _bad("E_PARSE", "no mail header at the beginning")
    _check_mail_depth(data)
    message = message_from_bytes(data, policy=policy.default)
    if message.get_content_type() in ("application/pkcs7-mime", "application/x-pkcs7-mime", "multipart/encrypted"):
        raise _bad("E_ENCRYPTED", "the mail is encrypted")
    head = [f"{name}: {' '.join(str(message[name]).split())}" for name in _MAIL_FIELDS if message[name]]
    bodies = [text for part in _bodies(message) if (text := _body_text(part)).strip()]
    return ["\n".join(head) + "\n\n" + "\n\n".join(bodies)] if bodies else []


def _check_mail_depth(data: bytes) -> None:
    """Count boundaries before parsing: the standard library recurses once per nested part."""
    if data.lower().count(b"boundary=") > 50:
        raise _bad("E_LIMIT_DEPTH", "more than 50 nested parts")


def _bodies(message: EmailMessage) -> list[EmailMessage]:
    """Return the readable body parts: plain text where there is some, else HTML. Attachments are not read."""
    parts = [part for part in message.walk() if not part.is_multipart() and part.get_content_disposition() != "attachment"]
    plain = [part for part in parts if part.get_content_type() == "text/plain"]
    return plain or [part for part in parts if part.get_content_type() == "text/html"]


def _body_text(part: EmailMessage) -> str:
    try:
        text = str(part.get_content())
    except (LookupError, ValueError, MessageError):
        # unknown charset or broken encoding
        payload = part.get_payload(decode=True)
        text = decode(payload) if isinstance(payload, bytes) else ""
    return html_text(text) if part.get_content_type() == "text/html" and text.strip() else _unwrapped(text)


_READERS: Final[dict[str, Callable[[bytes], list[str]]]] = {
    ".pdf": _pdf,
    ".docx": _docx,
    ".xlsx": _xlsx,
    ".pptx": _pptx,
    ".html": _html,
    ".htm": _html,
    ".eml": _eml,
    ".csv": _csv,
    ".md": _text,
    ".markdown": _text,
    ".txt": _text,
    ".text": _text,
    ".log": _text,
}
