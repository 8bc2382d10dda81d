"""What the parser child and its parent say to each other, and how each side checks it.

In: on the parent's side, lines and bytes as if an attacker had sent them.
Out: `Parsed`, `Unparsed` and `Contents` values whose every field has the right type, length and form; None for anything else.
Refuses: unknown and missing fields, long texts, odd codes, paths that leave a folder.
Not here: starting, feeding and killing the child (`sandbox.py`).

The parent sends one settings line, then per document a header line and its bytes. The child answers with one JSON line
each; an expanded archive's bytes follow its line, member after member.
"""

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Literal

from spice_enterprise.corpus.plain_text import normalise
from spice_enterprise.corpus.reading import MAX_PAGES, Parsed, ParseOptions
from spice_enterprise.errors import ParseError

Kind = Literal["parse", "expand"]
MAX_TEXT_CHARS: Final = 20 << 20
MAX_LINE_BYTES: Final = 6 * MAX_TEXT_CHARS + (1 << 16)
_MAX_TEXTS: Final = 2 * MAX_PAGES
_MAX_STRUCTURE_BYTES: Final = 1 << 18
"""What an answer may hold besides the texts in it: a few bytes of brackets become an object of fifty."""
MAX_MEMBERS: Final = 2_000
MAX_EXPANDED_BYTES: Final = 200 << 20
_MAX_NAME_CHARS: Final = 1_024
_MAX_ITEMS: Final = 64
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?')
_CODE: Final = re.compile(r"E_[A-Z0-9_]{1,30}")
_PHRASE: Final = re.compile(r"[ -~]{1,200}")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9.+/-]{0,99}")
_PARSER: Final = re.compile(r"[A-Za-z0-9 ._+/-]{0,80}")
_WORD: Final = re.compile(r"[a-z0-9_-]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unparsed:
    """Why a document has no text: a stable code and a fixed phrase."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is asked of the child about the bytes that follow."""

    kind: Kind
    suffix: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The members of an archive whose bytes follow."""

    members: tuple[tuple[str, int], ...] = field(repr=False)
    """(name, size in bytes)"""


def line_of(value: object) -> bytes:
    """Return a dataclass as one JSON line."""
    assert dataclasses.is_dataclass(value)  # noqa: S101 - only this package's own records are sent
    return json.dumps(dataclasses.asdict(value)).encode() + b"\n"  # type: ignore[arg-type]  # an instance, not a class


def read_settings(line: bytes) -> tuple[str, str, ParseOptions]:
    """Return the profile's name, the scratch directory and the options; for the child, which trusts its parent."""
    data = json.loads(line)
    options = data["options"]
    return data["profile"], data["scratch"], ParseOptions(**{**options, "carried": tuple(options["carried"])})


def settings_line(profile: str, scratch: str, options: ParseOptions) -> bytes:
    """Return the first line that a child is sent."""
    return json.dumps({"profile": profile, "scratch": scratch, "options": dataclasses.asdict(options)}).encode() + b"\n"


def read_header(line: bytes) -> Header:
    """Return what the parent asks; for the child."""
    return Header(**json.loads(line))


def check_size(parsed: Parsed) -> Parsed:
    """Return `parsed`. Raises `ParseError` `E_LIMIT` when the parent would not take that much."""
    if len(parsed.pages) > MAX_PAGES or sum(map(len, parsed.pages)) > MAX_TEXT_CHARS:
        raise ParseError("more text than allowed", code="E_LIMIT")
    return parsed


def decode_answer(line: bytes) -> Parsed | Unparsed | None:
    """Return what the child said of a document; None when it is not an answer."""
    data = _object_of(line)
    if data is None:
        return None
    return decode_refusal(data) or _decode_parsed(data)


def decode_contents(line: bytes) -> Contents | Unparsed | None:
    """Return what the child said of an archive; None when it is not an answer, or one that breaks the limits."""
    data = _object_of(line)
    if data is None:
        return None
    if set(data) != {"members"}:
        return decode_refusal(data)
    members = data["members"]
    if not isinstance(members, list) or len(members) > MAX_MEMBERS:
        return None
    if not all(isinstance(m, list) and len(m) == 2 and is_safe_name(m[0]) and _is_count(m[1]) for m in members):
        return None
    if sum(size for _, size in members) > MAX_EXPANDED_BYTES:
        return None
    return Contents(members=tuple((name, size) for name, size in members))


def is_safe_name(name: object) -> bool:
    """True for a relative path that stays inside its folder. Odd characters are left to the source, which cleans names."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS or "\0" in name:
        return False
    is_inside = not {"", ".", ".."} & set(name.split("/"))
    return is_inside and "\\" not in name and not re.match(r"[A-Za-z]:", name)


def decode_refusal(data: dict[str, Any]) -> Unparsed | None:
    """Return the refusal that `data` is, or None."""
    if set(data) != {"code", "reason"} or not _fits(_CODE, data["code"]) or not _fits(_PHRASE, data["reason"]):
        return None
    return Unparsed(code=data["code"], reason=data["reason"])


def _object_of(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n") or not _is_mostly_text(line):
        return None
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _is_mostly_text(line: bytes) -> bool:
    """True for a line that decodes to few objects, whatever it is."""
    if len(line) <= _MAX_STRUCTURE_BYTES:
        return True
    sizes = [text.end() - text.start() for text in islice(_STRING.finditer(line), _MAX_TEXTS + 1)]
    return len(sizes) <= _MAX_TEXTS and len(line) - sum(sizes) <= _MAX_STRUCTURE_BYTES


def _decode_parsed(data: dict[str, Any]) -> Parsed | None:
    if set(data) != {f.name for f in dataclasses.fields(Parsed)} or not _is_text(data["pages"]):
        return None
    if not _fits(_MEDIA_TYPE, data["media_type"]) or not _fits(_PARSER, data["parser"]):
        return None
    if not _is_hidden(data["hidden"]) or not _are_codes(data["flags"]) or not _is_ocr(data["ocr_pages"], data["ocr_confidence"]):
        return None
    return Parsed(
        media_type=data["media_type"],
        pages=tuple(normalise(page) for page in data["pages"]),
        parser=data["parser"],
        hidden=tuple((kind, count) for kind, count in data["hidden"]),
        flags=tuple(data["flags"]),
        ocr_pages=data["ocr_pages"],
        ocr_confidence=data["ocr_confidence"],
    )


def _fits(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_EXPANDED_BYTES


def _is_text(pages: object) -> bool:
    if not isinstance(pages, list) or not 0 < len(pages) <= MAX_PAGES or not all(isinstance(page, str) for page in pages):
        return False
    return sum(len(page) for page in pages) <= MAX_TEXT_CHARS


def _is_hidden(value: object) -> bool:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        return False
    return all(isinstance(pair, list) and len(pair) == 2 and _fits(_WORD, pair[0]) and _is_count(pair[1]) for pair in value)


def _are_codes(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_ITEMS and all(_fits(_CODE, code) for code in value)


def _is_ocr(pages: object, confidence: object) -> bool:
    if not _is_count(pages) or (isinstance(pages, int) and pages > MAX_PAGES):
        return False
    if confidence is None:
        return True
    return isinstance(confidence, float) and math.isfinite(confidence) and 0.0 <= confidence <= 1.0
