"""What a reader of one format is given and what it hands back, with the limits every format keeps.

In: the options of a run; per document, what its reader drops, flags and recognises.
Out: `Parsed`, the text with what was left out of it; `Notes`, where a reader writes that down; `bad`, a bad file's error.
Refuses: nothing; the readers do.
Not here: any format.
"""

from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from spice_enterprise.errors import ParseError

MAX_PAGES: Final = 10_000
MAX_CELLS: Final = 2_000_000
MAX_ENTRIES: Final = 2_000
MAX_EXPANDED_BYTES: Final = 200 << 20
MAX_RATIO: Final = 100
RATIO_FREE_BYTES: Final = 1 << 20
"""Entries that expand to less than this may have any ratio: a page of spaces compresses 1000 to 1."""
MAX_FIELD_CHARS: Final = 100_000
MAX_IMAGE_PIXELS: Final = 60_000_000
MAX_CARRIED_CHARS: Final = 4_000
"""Longest single note, comment or metadata value that is carried."""

Carried = Literal["headers", "footers", "notes", "comments", "metadata", "hidden", "alt_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseOptions:
    """What a run wants read, and by whom."""

    carried: tuple[str, ...] = ()
    """Kinds of `Carried`; everything beside the body that is not named here is not read."""
    parser: Literal["native", "unstructured", "auto"] = "native"
    ocr: Literal["off", "auto"] = "off"


DEFAULT_OPTIONS: Final = ParseOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The text of one document. Raw: it lives only between the parser and the scrubber."""

    media_type: str
    pages: tuple[str, ...] = field(repr=False)
    parser: str = ""
    """The library that read it, with its version."""
    hidden: tuple[tuple[str, int], ...] = ()
    """(kind, characters dropped) of text that no reader of the document would see."""
    flags: tuple[str, ...] = ()
    """Codes of what is odd about the document, which was read all the same."""
    ocr_pages: int = 0
    ocr_confidence: float | None = None
    """That of the worst recognised page."""


@dataclass(slots=True, kw_only=True)
class Notes:
    """What a reader found out beside the text."""

    options: ParseOptions = DEFAULT_OPTIONS
    parser: str = ""
    hidden: Counter[str] = field(default_factory=Counter)
    flags: set[str] = field(default_factory=set)
    ocr_pages: int = 0
    ocr_confidence: float | None = None

    def carries(self, kind: Carried) -> bool:
        """Say whether this run reads that kind of text."""
        return kind in self.options.carried

    def drop(self, kind: str, text: str) -> None:
        """Count invisible text that is left out."""
        if n := len("".join(text.split())):
            self.hidden[kind] += n

    def recognised(self, confidence: float) -> None:
        """Count one page that was read by OCR."""
        self.ocr_pages += 1
        worst = confidence if self.ocr_confidence is None else min(self.ocr_confidence, confidence)
        self.ocr_confidence = worst


def carried_line(label: str, text: str) -> str:
    """Return a note, comment or metadata value as one labelled line."""
    return f"{label}: {' '.join(text.split())[:MAX_CARRIED_CHARS]}"


def library(name: str) -> str:
    """Return a distribution's name and version, as records name a parser."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def bad(code: str, message: str) -> ParseError:
    """Return the error of one bad file: a stable code and a fixed phrase."""
    return ParseError(message, code=code)
