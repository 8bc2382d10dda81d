"""From the bytes of one file to its text: what kind of file it is, and which reader knows that kind.

In: raw bytes, a file suffix and the options of the run; normally called inside the child of `sandbox.py`.
Out: `Parsed`, pages of normalised text. Headings are kept as `# ` lines; table rows read as `header: value; header: value`.
Refuses: content that contradicts the suffix, DTDs, bombs, encrypted, active, corrupt and textless files (`ParseError`).
Not here: the formats. What stands beside the body (headers, notes, comments, metadata, hidden parts) is read where
`ParseOptions.carried` names it, and then the scrubber sees it.

A format's library is imported when its first file arrives, so a child loads only what its batch needs.
"""

import io
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from spice_enterprise.corpus.excel import read_xlsx
from spice_enterprise.corpus.listing import MEDIA_TYPES
from spice_enterprise.corpus.mail import read_eml, read_msg
from spice_enterprise.corpus.markup import read_html, read_xml
from spice_enterprise.corpus.ooxml import checked_zip
from spice_enterprise.corpus.pdf import read_pdf
from spice_enterprise.corpus.plain_text import normalise, note_invisible, read_text
from spice_enterprise.corpus.reading import (
    DEFAULT_OPTIONS,
    MAX_IMAGE_PIXELS,
    MAX_PAGES,
    Notes,
    Parsed,
    ParseOptions,
    bad,
    library,
)
from spice_enterprise.corpus.slides import read_pptx
from spice_enterprise.corpus.tables import read_csv
from spice_enterprise.corpus.unstructured_backend import FOREIGN_SUFFIXES, READABLE_SUFFIXES
from spice_enterprise.corpus.unstructured_backend import MEDIA_TYPES as FOREIGN_MEDIA_TYPES
from spice_enterprise.corpus.unstructured_backend import read as read_foreign
from spice_enterprise.corpus.word import read_docx
from spice_enterprise.errors import SpiceError

__all__ = ["NATIVE_SUFFIXES", "ParseOptions", "Parsed", "normalise", "parse"]

_UNKNOWN_MEDIA_TYPE: Final = "application/octet-stream"


def parse(data: bytes, suffix: str, options: ParseOptions = DEFAULT_OPTIONS) -> Parsed:
    """Return the text of a file.

    Args:
        data: The whole file.
        suffix: Its file name suffix with the dot, in any case.
        options: What the run wants read, and by whom.

    Raises:
        ParseError: With a stable code: `E_UNSUPPORTED`, `E_TYPE_MISMATCH`, `E_POLYGLOT`, `E_ENCRYPTED`, `E_PARSE`,
            `E_EMPTY`, `E_LIMIT...`, `E_XML_DTD`, `E_ACTIVE_CONTENT`.
        MissingExtraError: When the parser or OCR that the options ask for is not installed.
    """
    suffix = suffix.lower()
    reader = _reader(suffix, options)
    _check_content(data, suffix)
    notes = Notes(options=options)
    try:
        raw = reader(data, notes)
        for page in raw:
            note_invisible(page, notes)
        pages = tuple(normalise(page) for page in raw)
    except SpiceError:
        raise
    except (MemoryError, RecursionError):
        raise bad("E_LIMIT", "the file needs more memory than allowed") from None
    except Exception as error:  # noqa: BLE001 - parsers of foreign bytes raise anything; the type alone is reported
        raise bad("E_PARSE", f"the file cannot be parsed ({type(error).__name__})") from None
    return _result(pages, suffix, notes)


def _result(pages: tuple[str, ...], suffix: str, notes: Notes) -> Parsed:
    if not any(page.strip() for page in pages):
        if "E_OCR_NEEDED" in notes.flags:
            raise bad("E_EMPTY", "no text in the file but scanned pages; switch OCR on")
        raise bad("E_EMPTY", "no text in the file")
    if not _SILENT_KINDS.issuperset(notes.hidden):
        notes.flags.add("E_FLAG_HIDDEN_TEXT")
    return Parsed(
        media_type={**FOREIGN_MEDIA_TYPES, **MEDIA_TYPES}.get(suffix, _UNKNOWN_MEDIA_TYPE),
        pages=pages,
        parser=notes.parser,
        hidden=tuple(sorted(notes.hidden.items())),
        flags=tuple(sorted(notes.flags)),
        ocr_pages=notes.ocr_pages,
        ocr_confidence=notes.ocr_confidence,
    )


_SILENT_KINDS: Final = frozenset(
    {"soft_hyphen", "variation", "bidi", "zero_width", "deleted", "hidden_sheet", "hidden_row", "hidden_column", "hidden_slide"}
)
"""Kinds that honest documents are full of; of characters, `note_invisible` flags the rest itself."""


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
    (b"7z\xbc\xaf", "archive"),
    (b"Rar!", "archive"),
    (b"\x7fELF", "program"),
    (b"{\\rtf", "rtf"),
)
_ZIPS: Final = (".docx", ".docm", ".xlsx", ".xlsm", ".pptx", ".pptm", ".odt", ".epub")
_IMAGES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif")
_EXPECTED: Final = {
    ".pdf": "pdf",
    ".rtf": "rtf",
    **dict.fromkeys(_ZIPS, "zip"),
    **dict.fromkeys((".msg", ".doc", ".xls", ".ppt"), "ole"),
    **dict.fromkeys(_IMAGES, "image"),
}
_ENCRYPTED_OLE: Final = ("EncryptedPackage".encode("utf-16-le"), "EncryptionInfo".encode("utf-16-le"))


def _check_content(data: bytes, suffix: str) -> None:
    """Raise `ParseError` unless the first bytes agree with the suffix."""
    if not data:
        raise bad("E_EMPTY", "the file has 0 bytes")
    found = _kind_of(data)
    expected = _EXPECTED.get(suffix, "text")
    if found == "ole" and (expected == "zip" or any(name in data for name in _ENCRYPTED_OLE)):
        raise bad("E_ENCRYPTED", "the office file is encrypted or in the old binary format")
    if found == expected or (expected == "text" and found == "html"):
        return
    if found == "text" and expected != "text":
        raise bad("E_PARSE", f"the content is not {expected}")
    raise bad("E_TYPE_MISMATCH", f"the content is {found}, the suffix says {expected}")


def _kind_of(data: bytes) -> str:
    for magic, kind in _MAGICS:
        if data.startswith(magic):
            return "polyglot" if kind == "image" and b"%PDF-" in data[:1024] else kind
    head = data[:1024]
    if b"%PDF-" in head:
        return "pdf"
    return "html" if re.match(rb"\s*<(?:!doctype html|html)", head.lstrip(b"\xef\xbb\xbf"), re.IGNORECASE) else "text"


# --- who reads it -----------------------------------------------------------------------------------------------------

_Reader = Callable[[bytes, Notes], list[str]]


def _reader(suffix: str, options: ParseOptions) -> _Reader:
    """Return the reader of a suffix. Raises `ParseError` `E_UNSUPPORTED`."""
    native = _READERS.get(suffix)
    if options.parser == "unstructured" and suffix in READABLE_SUFFIXES:
        return _unstructured(suffix)
    if native is not None:
        return native
    if options.parser == "auto" and suffix in FOREIGN_SUFFIXES:
        return _unstructured(suffix)
    raise bad("E_UNSUPPORTED", "no parser for this kind of file")


def _unstructured(suffix: str) -> _Reader:
    def read(data: bytes, notes: Notes) -> list[str]:
        if suffix in _ZIPS:
            checked_zip(data).close()
        notes.parser = library("unstructured")
        return read_foreign(data, suffix)

    return read


def _read_image(data: bytes, notes: Notes) -> list[str]:
    """Return the text of a picture's frames, by OCR only."""
    if notes.options.ocr == "off":
        raise bad("E_EMPTY", "no text in a picture; switch OCR on")
    ocr = import_module("spice_enterprise.corpus.ocr")
    notes.parser = "ocr"
    pages = []
    for frame in _frames(data):
        found = ocr.read_image(frame)
        notes.recognised(found.confidence)
        pages.append(found.text)
    return pages


def _frames(data: bytes) -> list[Any]:
    """Return a picture's frames as arrays, after a look at their sizes."""
    numpy, image_module = import_module("numpy"), import_module("PIL.Image")
    image = image_module.open(io.BytesIO(data))
    frames = min(getattr(image, "n_frames", 1), MAX_PAGES)
    if image.width * image.height * frames > MAX_IMAGE_PIXELS:
        raise bad("E_LIMIT", f"more than {MAX_IMAGE_PIXELS} pixels")
    arrays = []
    for number in range(frames):
        image.seek(number)
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise bad("E_LIMIT", f"more than {MAX_IMAGE_PIXELS} pixels")
        arrays.append(numpy.asarray(image.convert("RGB")))
    return arrays


_READERS: Final[dict[str, _Reader]] = {
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".docm": read_docx,
    ".xlsx": read_xlsx,
    ".xlsm": read_xlsx,
    ".pptx": read_pptx,
    ".pptm": read_pptx,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".xml": read_xml,
    ".eml": read_eml,
    ".msg": read_msg,
    ".csv": read_csv,
    ".tsv": read_csv,
    **dict.fromkeys((".md", ".markdown", ".txt", ".text", ".log"), read_text),
    **dict.fromkeys(_IMAGES, _read_image),
}
NATIVE_SUFFIXES: Final = frozenset(_READERS)
