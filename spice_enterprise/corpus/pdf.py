"""A PDF's pages as text, read by pdfium.

In: the bytes of a PDF and what the run carries.
Out: a page of text per page, headings as `# ` lines, table rows as facts, running headers and footers taken out.
Refuses: encrypted and damaged files, and what `pdf_structure.py` refuses.
Not here: invisible text (`pdf_visibility.py`), lines (`pdf_lines.py`), repetition (`running_lines.py`).
"""

import ctypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Final

from spice_enterprise.corpus.pdf_lines import Line, body_points, page_blocks, page_lines
from spice_enterprise.corpus.pdf_structure import check_structure, is_active
from spice_enterprise.corpus.pdf_visibility import is_scan, visible_text
from spice_enterprise.corpus.reading import MAX_PAGES, Notes, bad, carried_line, library
from spice_enterprise.corpus.running_lines import margin_lines

_PASSWORD_ERROR: Final = 4
_SECURITY_ERROR: Final = 5
_SCAN_CHARS: Final = 20
_OCR_DPI: Final = 200
_MAX_OCR_SIDE: Final = 4_000
_HYPHENATED: Final = re.compile(r"(\w+)(?:\x02|\ufffe)\n?(\w+)")


def read_pdf(data: bytes, notes: Notes) -> list[str]:
    """Return the text of every page."""
    notes.parser = library("pypdfium2")
    check_structure(data)
    document = _opened(data)
    try:
        if len(document) > MAX_PAGES:
            raise bad("E_LIMIT", f"more than {MAX_PAGES} pages")
        if is_active(data) or document.count_attachments():
            notes.flags.add("E_ACTIVE_CONTENT")
        beside: list[list[str]] = [[] for _ in range(len(document))]
        lines = [_page(document, number, notes, beside[number]) for number in range(len(document))]
        beside[:1] = [[*_properties(document, notes), *beside[0]]] if beside else []
    finally:
        document.close()
    usual_points = body_points(lines)
    finished = list(_finished(lines, notes, beside))
    return ["\n".join([*page_blocks(page, usual_points), *more]) for page, more in zip(finished, beside, strict=True)]


def _opened(data: bytes) -> Any:
    pdfium = import_module("pypdfium2")
    try:
        return pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        is_locked = getattr(error, "err_code", None) in (_PASSWORD_ERROR, _SECURITY_ERROR)
        if is_locked or re.search(rb"/Encrypt\s{0,4}(?:\d|<<)", data):
            raise bad("E_ENCRYPTED", "the PDF needs a password") from None
        raise bad("E_PARSE", "the PDF cannot be opened") from None


def _page(document: Any, number: int, notes: Notes, beside: list[str]) -> list[Line]:
    """Return a page's lines, recognised ones where it is a scan; forms and comments go to `beside`."""
    page = document[number]
    try:
        textpage = page.get_textpage()
        text, indexes = visible_text(page, textpage, notes)
        lines = page_lines(page, textpage, text, indexes)
        textpage.close()
        if len("".join(text.split())) < _SCAN_CHARS and is_scan(page):
            lines = _recognised(page, notes) or lines
        beside += _annotations(page, notes)
        return lines
    finally:
        page.close()


def _recognised(page: Any, notes: Notes) -> list[Line]:
    if notes.options.ocr == "off":
        notes.flags.add("E_OCR_NEEDED")
        return []
    scale = min(_OCR_DPI / 72, _MAX_OCR_SIDE / max(page.get_width(), page.get_height(), 1))
    image = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False, grayscale=False).to_numpy()
    found = import_module("spice_enterprise.corpus.ocr").read_image(image[:, :, :3].copy())
    notes.recognised(found.confidence)
    return [Line(text=line, is_recognised=True) for line in found.text.split("\n")]


def _finished(pages: Sequence[list[Line]], notes: Notes, beside: list[list[str]]) -> Iterator[list[Line]]:
    """Yield the pages' lines without running headers and footers, broken words joined as the document spells them."""
    whole = "\n".join(line.text for page in pages for line in page)
    margins = margin_lines(pages)
    for number, (page, margin) in enumerate(zip(pages, margins, strict=True)):
        for kind, label in (("headers", "Header"), ("footers", "Footer")):
            if notes.carries(kind):  # type: ignore[arg-type]
                beside[number] += [carried_line(label, page[i].text) for i, found in margin.items() if found == kind]
        yield [_unbroken(line, whole) for i, line in enumerate(page) if i not in margin]


def _unbroken(line: Line, whole: str) -> Line:
    """Return a line in which words that were broken at a line end are joined, unless they are spelled with the hyphen."""
    if "\x02" not in line.text and "\ufffe" not in line.text:
        return line

    def joined(match: re.Match[str]) -> str:
        left, right = match.groups()
        keeps = right[0].isupper() or f"{left}-{right}" in whole
        return f"{left}-{right}" if keeps else left + right

    return replace(line, text=_HYPHENATED.sub(joined, line.text), words=(), cells=())


# --- beside the text --------------------------------------------------------------------------------------------------


def _properties(document: Any, notes: Notes) -> Iterator[str]:
    if notes.carries("metadata"):
        for name in ("Author", "Title", "Subject", "Keywords"):
            if (value := str(document.get_metadata_value(name))).strip():
                yield carried_line(name, value)


_SUBTYPES: Final = {3: "FreeText", 20: "Widget", 1: "Comment", 9: "Comment", 10: "Comment", 11: "Comment", 12: "Comment",
                    13: "Comment", 14: "Comment", 5: "Comment", 6: "Comment"}  # fmt: skip
_MAX_ANNOTATIONS: Final = 5_000


def _annotations(page: Any, notes: Notes) -> Iterator[str]:
    """Yield filled form fields and text written onto the page, which a reader sees, and comments where they are carried."""
    raw = import_module("pypdfium2.raw")
    for index in range(min(raw.FPDFPage_GetAnnotCount(page.raw), _MAX_ANNOTATIONS)):
        annotation = raw.FPDFPage_GetAnnot(page.raw, index)
        kind = _SUBTYPES.get(raw.FPDFAnnot_GetSubtype(annotation), "")
        is_hidden = bool(raw.FPDFAnnot_GetFlags(annotation) & 0b100010)
        if kind == "Widget" and not is_hidden and (value := _string(raw, annotation, b"V")) not in ("", "Off"):
            yield carried_line(_string(raw, annotation, b"T") or "Field", value)
        elif kind == "FreeText" and not is_hidden and (value := _string(raw, annotation, b"Contents")):
            yield value
        elif kind == "Comment" and notes.carries("comments") and (value := _string(raw, annotation, b"Contents")):
            yield carried_line("Comment", value)
        raw.FPDFPage_CloseAnnot(annotation)


def _string(raw: Any, annotation: Any, key: bytes) -> str:
    size_bytes = raw.FPDFAnnot_GetStringValue(annotation, key, None, 0)
    if size_bytes <= 2:
        return ""
    buffer = (ctypes.c_ushort * (size_bytes // 2 + 1))()
    raw.FPDFAnnot_GetStringValue(annotation, key, buffer, size_bytes)
    return bytes(buffer)[: size_bytes - 2].decode("utf-16-le", "replace").strip()
