"""Text as text: characters made plain and counted, bytes decoded, wrapped lines joined.

In: the bytes of a text file, or text from any reader.
Out: normalised text, with counts of the invisible characters that were taken out.
Refuses: bytes that are no text (`E_TYPE_MISMATCH`).
Not here: tables (`tables.py`) and marked-up text (`markup.py`).
"""

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from spice_enterprise.corpus.reading import Notes, bad

WRAP_WIDTH: Final = 100
"""Longest line of text that was wrapped for reading."""


def normalise(text: str) -> str:
    """Return text without control, format and tag characters, with compatibility letters folded and white space plain.

    Superscripts and fractions stay: folding them would change numbers.
    """
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", _ODD.sub(lambda match: _fold(match.group()), text))
    text = re.sub(r"(?<![ \t])[ \t]++\n", "\n", text)
    # columns set with spaces: a name in them must read as a name
    text = re.sub(r"^[ \t]{4,}+(?![\-*\d])", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=[^ \t\n])[ \t]{2,}+", " ", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


_ODD: Final = re.compile(r"[^\n\t\x20-\x7e]")
_FOLDED: Final = ("<compat>", "<font>", "<wide>", "<narrow>", "<noBreak>")


@lru_cache(maxsize=4096)
def _fold(char: str) -> str:
    category = unicodedata.category(char)
    if category in ("Zl", "Zp"):
        return "\n"
    if category in ("Cc", "Cf", "Cs", "Co") or _kind_of(char):
        return ""
    if category == "Zs":
        return " "
    if unicodedata.decomposition(char).startswith(_FOLDED):
        return unicodedata.normalize("NFKC", char)
    return char


_INVISIBLE: Final = {
    "tag": ((0xE0000, 0xE007F), (0xE0100, 0xE01EF)),
    "zero_width": ((0x200B, 0x200D), (0x2060, 0x2064), (0xFEFF, 0xFEFF), (0x115F, 0x1160), (0x3164, 0x3164), (0xFFA0, 0xFFA0)),
    "bidi": ((0x200E, 0x200F), (0x202A, 0x202E), (0x2066, 0x2069), (0x061C, 0x061C)),
    "soft_hyphen": ((0xAD, 0xAD),),
    "variation": ((0xFE00, 0xFE0F),),
}
_FLAGGED: Final = frozenset({"tag", "zero_width"})
_OVERRIDES: Final = re.compile("[\u202d\u202e]")
_SOUGHT: Final = re.compile(
    "[" + "".join(f"{chr(first)}-{chr(last)}" for ranges in _INVISIBLE.values() for first, last in ranges) + "]"
)


@lru_cache(maxsize=512)
def _kind_of(char: str) -> str:
    point = ord(char)
    for kind, ranges in _INVISIBLE.items():
        if any(first <= point <= last for first, last in ranges):
            return kind
    return ""


_LOOKALIKE: Final = (
    "[\u0391\u0392\u0395-\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bd\u03bf\u03c1\u0400-\u04ff]"
)
"""Greek letters that look Latin, and Cyrillic ones."""
_LETTER_MIX: Final = re.compile(f"[A-Za-z]{_LOOKALIKE}|{_LOOKALIKE}[A-Za-z]")


def note_invisible(text: str, notes: Notes) -> None:
    """Count the invisible characters of raw text, and flag them and words that mix two alphabets."""
    if text.isascii():
        return
    found = Counter(map(_kind_of, _SOUGHT.findall(text.removeprefix("\ufeff"))))
    notes.hidden.update(found)
    if not _FLAGGED.isdisjoint(found) or _OVERRIDES.search(text):
        notes.flags.add("E_FLAG_HIDDEN_TEXT")
    if _LETTER_MIX.search(text):
        notes.flags.add("E_MIXED_SCRIPT")


# --- bytes to text ----------------------------------------------------------------------------------------------------

UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32_MARKS: Final = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_BINARY_SHARE: Final = 0.02


def decode(data: bytes, notes: Notes) -> str:
    """Return text bytes as text: a byte-order mark decides, then UTF-8, then UTF-16 by its zeros, then Windows-1252.

    Raises:
        ParseError: `E_TYPE_MISMATCH` when the bytes are no text.
    """
    if data.startswith(_UTF32_MARKS):
        return _replaced(data, "utf-32", notes)
    if data.startswith(UTF16_MARKS):
        return _replaced(data, "utf-16", notes)
    if silent := _utf16_without_mark(data[:4096]):
        notes.flags.add("E_CHARSET")
        return _replaced(data, silent, notes)
    if _control_share(data[:65536]) > _BINARY_SHARE:
        raise bad("E_TYPE_MISMATCH", "the content is binary, the suffix says text")
    if b"\0" in data:
        notes.flags.add("E_CHARSET")
        data = data.replace(b"\0", b"")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        notes.flags.add("E_CHARSET")
    return _not_utf8(data)


def _not_utf8(data: bytes) -> str:
    """Return text of which some bytes are no UTF-8: damaged UTF-8 when most of it is, else Windows-1252."""
    text = data.decode("utf-8-sig", "replace")
    broken = text.count("\ufffd")
    intact = sum(1 for char in text if char > "\x7f") - broken
    return text if intact > broken else data.decode("cp1252", "replace")


def _replaced(data: bytes, charset: str, notes: Notes) -> str:
    text = data.decode(charset, "replace")
    if "\ufffd" in text or "\0" in text:
        notes.flags.add("E_CHARSET")
    return text.replace("\0", "")


def _utf16_without_mark(head: bytes) -> str:
    pairs = len(head) // 2
    if pairs < 4:
        return ""
    even, odd = head[0 : 2 * pairs : 2].count(0) / pairs, head[1 : 2 * pairs : 2].count(0) / pairs
    if odd > 0.6 and even < 0.1:
        return "utf-16-le"
    return "utf-16-be" if even > 0.6 and odd < 0.1 else ""


_CONTROLS: Final = bytes(set(range(32)) - set(b"\t\n\r\f\v\x1b\x1a")) + b"\x7f"


def _control_share(head: bytes) -> float:
    return 1 - len(head.translate(None, _CONTROLS)) / len(head) if head else 0.0


def read_text(data: bytes, notes: Notes) -> list[str]:
    """Return a text file as one page, its wrapped lines joined."""
    notes.parser = "plain text"
    return [unwrapped(decode(data, notes))]


# --- lines ------------------------------------------------------------------------------------------------------------


def unwrapped(text: str) -> str:
    """Join the lines of text that was wrapped at a fixed width; text whose lines are paragraphs stays."""
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(joined_lines(lines)) if max(map(len, lines), default=0) <= WRAP_WIDTH else text


_NEW_BLOCK: Final = re.compile(r"(?:[-*•▪–]\s|\(?\d{1,3}[.)]\s|\(?[a-z][.)]\s|[#|>])")


def joined_lines(lines: Sequence[str], width: int | None = None) -> Iterator[str]:
    """Join lines that a page's width broke, so that a name or a sentence is on one line again.

    `width` is how long the longest of them may be; the longest of these lines when not given.
    """
    width = max(map(len, lines), default=0) if width is None else width
    full = max(40, 0.7 * width)
    open_line = ""
    for line in lines:
        is_continued = len(open_line) >= full and line and not _NEW_BLOCK.match(line)
        if open_line and not is_continued:
            yield open_line
            open_line = ""
        if not line:
            yield ""
            continue
        # a wrapped line may be short itself, so what decides next is the length of the last piece
        open_line, tail = (f"{open_line} {line}" if open_line else line), line
        if len(tail) < full:
            yield open_line
            open_line = ""
    if open_line:
        yield open_line
