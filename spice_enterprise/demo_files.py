"""The file formats of the demo corpus: one draft in, the bytes of one real file out.

In: a `Draft`: title, sections of sentences, perhaps a table, closing lines.
Out: PDF, DOCX, XLSX, PPTX, HTML, EML, CSV, TXT or Markdown; the same bytes on every machine.
Refuses: to write a PDF without the `demo` extra (reportlab), naming it.
Not here: what a document says (`demo.py`), and reading files back (`corpus/parsers.py`).

Three habits keep the bytes stable. Archives and PDF streams are stored, not compressed, because zlib differs between
machines. Office packages are packed again with one date and one order, because their libraries write the time and their
own version. And nothing here draws a random number.
"""

import csv
import html
import importlib
import io
import textwrap
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Final, Literal

from spice_enterprise.errors import MissingExtraError

FileFormat = Literal["pdf", "docx", "xlsx", "pptx", "html", "eml", "csv", "txt", "md"]

COMPANY: Final = "Halden Marsh Group"
TEXT_WIDTH: Final = 92
MAIL_WIDTH: Final = 76
WRITTEN_AT: Final = "2026-01-05T09:00:00Z"
ZIP_DATE: Final = (2026, 1, 5, 9, 0, 0)
MAIL_DATE: Final = "Mon, 05 Jan 2026 09:00:00 +0000"

_CORE_XML: Final = (
    '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties"'
    ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    f"<dc:creator>{COMPANY}</dc:creator>"
    f'<dcterms:created xsi:type="dcterms:W3CDTF">{WRITTEN_AT}</dcterms:created>'
    f'<dcterms:modified xsi:type="dcterms:W3CDTF">{WRITTEN_AT}</dcterms:modified></cp:coreProperties>'
)
_APP_XML: Final = (
    '<Properties xmlns="http://schemas.openxmlformats.org/officeDocument/2006/extended-properties">'
    f"<Company>{COMPANY}</Company></Properties>"
)
_FIXED_PARTS: Final = {"docProps/core.xml": _CORE_XML.encode(), "docProps/app.xml": _APP_XML.encode()}

_UNUSED_STYLES: Final = ("}latentStyles", "}extLst", *(f"}}lvl{level}pPr" for level in range(2, 10)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading (empty in letters and mails) and the sentences under it."""

    heading: str
    sentences: tuple[str, ...]

    @property
    def paragraph(self) -> str:
        """The sentences as running text."""
        return " ".join(self.sentences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A caption, a header and rows of equal length."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a document says, before it has a file format."""

    name: str
    """File name without its ending; also names the message of a mail."""
    title: str
    opening: tuple[str, ...]
    sections: tuple[Section, ...]
    table: Table | None = None
    closing: tuple[str, ...] = ()
    """Contact, signature and reference lines: one short paragraph each."""
    sender: str = ""
    recipient: str = ""


def render(draft: Draft, file_format: FileFormat) -> bytes:
    """Return the bytes of `draft` as a file. Raises `MissingExtraError` when a PDF is asked for without reportlab."""
    return _WRITERS[file_format](draft)


def _load(module: str) -> Any:
    """Import a document library when it is first needed, so that importing this module costs nothing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the demo corpus needs {error.name}", hint="pip install 'spice-enterprise[demo]'") from None


# --- plain text formats -----------------------------------------------------------------------------------------------


def _paragraphs(draft: Draft) -> list[str]:
    """Opening, sections with headings, and closing, in reading order; the table is left out."""
    body = [part for section in draft.sections for part in (section.heading, section.paragraph) if part]
    return [*draft.opening, *body, *draft.closing]


def _text(draft: Draft) -> bytes:
    blocks = [draft.title.upper(), *(textwrap.fill(p, TEXT_WIDTH) for p in _paragraphs(draft))]
    return ("\n\n".join([*blocks, *_text_table(draft.table)]) + "\n").encode()


def _text_table(table: Table | None) -> list[str]:
    if table is None:
        return []
    lines = [table.header, *table.rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        table.caption,
        "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines),
    ]


def _markdown(draft: Draft) -> bytes:
    blocks = [f"# {draft.title}", *draft.opening]
    for section in draft.sections:
        blocks += [f"## {section.heading}"] if section.heading else []
        blocks.append("\n".join(f"- {sentence}" for sentence in section.sentences))
    if draft.table is not None:
        rows = [draft.table.header, ("---",) * len(draft.table.header), *draft.table.rows]
        blocks += [f"## {draft.table.caption}", "\n".join("| " + " | ".join(row) + " |" for row in rows)]
    return ("\n\n".join([*blocks, *draft.closing]) + "\n").encode()


def _html(draft: Draft) -> bytes:
    title = html.escape(draft.title)
    body = [f"<h1>{title}</h1>", *(f"<p>{html.escape(line)}</p>" for line in draft.opening)]
    for section in draft.sections:
        body += [f"<h2>{html.escape(section.heading)}</h2>"] if section.heading else []
        body.append(f"<p>{html.escape(section.paragraph)}</p>")
    body += [*_html_table(draft.table), *(f"<p>{html.escape(line)}</p>" for line in draft.closing)]
    head = f'<head><meta charset="utf-8"><title>{title}</title><style>td, th {{ padding: 0 1em 0 0 }}</style></head>'
    return ("\n".join(["<!DOCTYPE html>", '<html lang="en">', head, "<body>", *body, "</body>", "</html>"]) + "\n").encode()


def _html_table(table: Table | None) -> list[str]:
    if table is None:
        return []
    rows = [("th", table.header), *(("td", row) for row in table.rows)]
    cells = ["<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>" for tag, row in rows]
    return ["<table>", f"<caption>{html.escape(table.caption)}</caption>", *cells, "</table>"]


def _mail(draft: Draft) -> bytes:
    """A mail in plain text with an HTML alternative, as mail programs send it."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = draft.sender, draft.recipient, draft.title
    message["Date"] = MAIL_DATE
    message["Message-ID"] = f"<{draft.name}@halden-marsh.example>"
    message.set_content("\n\n".join(textwrap.fill(p, MAIL_WIDTH) for p in _paragraphs(draft)) + "\n")
    message.add_alternative(_html(draft).decode(), subtype="html", cte="quoted-printable")
    message.set_boundary(f"=_{draft.name}")
    return message.as_bytes()


def _csv(draft: Draft) -> bytes:
    """One row per article; what else the list says stands in the last column, as people do it in spreadsheets."""
    header, rows = _table_rows(draft)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*header, "Note"])
    notes = [*draft.opening, *(s for section in draft.sections for s in section.sentences), *draft.closing]
    for index in range(max(len(rows), len(notes))):
        row = rows[index] if index < len(rows) else ("",) * len(header)
        writer.writerow([*row, notes[index] if index < len(notes) else ""])
    return out.getvalue().encode()


def _table_rows(draft: Draft) -> tuple[tuple[str, ...], Sequence[tuple[str, ...]]]:
    """The table with the document's title before each row, so that a row is understandable alone."""
    if draft.table is None:
        return ("List",), [(draft.title,)]
    return ("List", *draft.table.header), [(draft.title, *row) for row in draft.table.rows]


# --- PDF --------------------------------------------------------------------------------------------------------------


def _pdf(draft: Draft) -> bytes:
    platypus, styles = _load("reportlab.platypus"), _load("reportlab.lib.styles")
    body = styles.ParagraphStyle("body", fontName="Helvetica", fontSize=10, leading=14, spaceAfter=6)
    head = styles.ParagraphStyle("head", parent=body, fontName="Helvetica-Bold", fontSize=12, spaceBefore=8)
    title = styles.ParagraphStyle("title", parent=head, fontSize=16, leading=20, spaceAfter=12)
    story = [platypus.Paragraph(html.escape(draft.title), title)]
    story += [platypus.Paragraph(html.escape(line), body) for line in draft.opening]
    for section in draft.sections:
        story += [platypus.Paragraph(html.escape(section.heading), head)] if section.heading else []
        story.append(platypus.Paragraph(html.escape(section.paragraph), body))
    if draft.table is not None:
        story += [platypus.Paragraph(html.escape(draft.table.caption), head), _pdf_table(platypus, draft.table)]
        story.append(platypus.Spacer(1, 10))
    story += [platypus.Paragraph(html.escape(line), body) for line in draft.closing]
    out = io.BytesIO()
    platypus.SimpleDocTemplate(out, invariant=1, pageCompression=0, title=draft.title, author=COMPANY).build(story)
    return out.getvalue()


def _pdf_table(platypus: Any, table: Table) -> Any:
    rules = [
        ("FONT", (0, 0), (-1, -1), "Helvetica", 9),
        ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", 9),
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, "#888888"),
    ]
    return platypus.Table([table.header, *table.rows], hAlign="LEFT", style=rules)


# --- office packages --------------------------------------------------------------------------------------------------


def _docx(draft: Draft) -> bytes:
    document = _load("docx").Document()
    document.add_heading(draft.title, 1)
    for line in draft.opening:
        document.add_paragraph(line)
    for section in draft.sections:
        if section.heading:
            document.add_heading(section.heading, 2)
        document.add_paragraph(section.paragraph)
    if draft.table is not None:
        document.add_heading(draft.table.caption, 2)
        _fill(document.add_table(1 + len(draft.table.rows), len(draft.table.header), style="Table Grid"), draft.table)
    for line in draft.closing:
        document.add_paragraph(line)
    _drop_unused_styles(document)
    return _repack(document.save, without=("stylesWithEffects", "thumbnail", "customXml", "theme", "numbering", "fontTable"))


def _drop_unused_styles(document: Any) -> None:
    """Delete what the library's template brings and this document does not use: 350 KB of styles."""
    used = {"Normal", "Heading 1", "Heading 2", "Table Grid", "Normal Table", "Default Paragraph Font"}
    for style in [s for s in document.styles if s.name not in used]:
        style.delete()


def _fill(grid: Any, table: Table) -> None:
    """Write header and rows into a table of python-docx or python-pptx."""
    for row, cells in enumerate([table.header, *table.rows]):
        for column, cell in enumerate(cells):
            grid.cell(row, column).text = cell


def _pptx(draft: Draft) -> bytes:
    pptx = _load("pptx")
    deck = pptx.Presentation()
    text_slide, title_only = deck.slide_layouts[1], deck.slide_layouts[5]
    for layout in [item for item in deck.slide_layouts if item not in (text_slide, title_only)]:
        deck.slide_layouts.remove(layout)
    _add_slide(deck, text_slide, draft.title, [*draft.opening, *draft.closing])
    for section in draft.sections:
        _add_slide(deck, text_slide, section.heading, section.sentences)
    if draft.table is not None:
        slide = deck.slides.add_slide(title_only)
        slide.shapes.title.text = draft.table.caption
        rows, columns = 1 + len(draft.table.rows), len(draft.table.header)
        inch = pptx.util.Inches
        _fill(slide.shapes.add_table(rows, columns, inch(0.5), inch(1.8), inch(9), inch(0.4 * rows)).table, draft.table)
    return _repack(deck.save, without=("printerSettings", "thumbnail", "viewProps", "presProps"))


def _add_slide(deck: Any, layout: Any, title: str, lines: Iterable[str]) -> None:
    slide = deck.slides.add_slide(layout)
    slide.shapes.title.text = title
    slide.placeholders[1].text = "\n".join(lines)


def _xlsx(draft: Draft) -> bytes:
    openpyxl = _load("openpyxl")
    book = openpyxl.Workbook()
    figures = book.active
    figures.title = "Figures"
    header, rows = _table_rows(draft)
    for row in (header, *rows):
        figures.append(row)
    notes = book.create_sheet("Notes")
    for line in (draft.title, *draft.opening):
        notes.append([line])
    for section in draft.sections:
        for sentence in section.sentences:
            notes.append([section.heading, sentence])
    for line in draft.closing:
        notes.append([line])
    return _repack(book.save)


def _repack(save: Callable[[io.BytesIO], None], *, without: tuple[str, ...] = ()) -> bytes:
    """Save an office package and pack it again: stored, one date, one order, without some parts."""
    saved, out = io.BytesIO(), io.BytesIO()
    save(saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        # the content types come first: readers that sniff a package look there
        for name in sorted(source.namelist(), key=lambda n: (n != "[Content_Types].xml", n)):
            if any(word in name for word in without):
                continue
            info = zipfile.ZipInfo(name, ZIP_DATE)
            info.create_system = 3  # else it tells the operating system
            target.writestr(info, _FIXED_PARTS.get(name) or _stable_part(name, source.read(name), without))
    return out.getvalue()


def _stable_part(name: str, data: bytes, without: tuple[str, ...]) -> bytes:
    """Return an XML part written anew, without ballast and links to parts left out; other parts as they are."""
    if not name.endswith((".xml", ".rels")):
        return data
    etree = _load("lxml.etree")
    tree = etree.fromstring(data)
    for element in [e for e in tree.iter() if _is_ballast(e, without)]:
        element.getparent().remove(element)
    return bytes(etree.tostring(tree, encoding="UTF-8", standalone=True))


def _is_ballast(element: Any, without: tuple[str, ...]) -> bool:
    """True for links to parts left out, and for the styles of scripts and outline levels that no draft uses."""
    target = element.get("Target") or element.get("PartName") or ""
    is_dead_link = any(word in target for word in without)
    return is_dead_link or element.get("script") is not None or element.tag.endswith(_UNUSED_STYLES)


_WRITERS: Final[dict[FileFormat, Callable[[Draft], bytes]]] = {
    "pdf": _pdf,
    "docx": _docx,
    "xlsx": _xlsx,
    "pptx": _pptx,
    "html": _html,
    "eml": _mail,
    "csv": _csv,
    "txt": _text,
    "md": _markdown,
}
