"""What a PDF's bytes show before any PDF library reads them.

In: the bytes of a PDF.
Out: whether it can act (scripts, programs, embedded files).
Refuses: bombs (`E_LIMIT`), towers of brackets (`E_LIMIT_DEPTH`) and files that are two formats at once (`E_POLYGLOT`).
Not here: the pages (`pdf.py`).
"""

import re
import zlib
from typing import Final

from spice_enterprise.corpus.reading import MAX_EXPANDED_BYTES, bad

_TRAILING_BYTES: Final = 1024
_FOREIGN: Final = re.compile(
    rb"PK\x03\x04|PK\x05\x06|<html|<script|<\?php|\x7fELF|\x89PNG|\xff\xd8\xff|GIF8|Rar!|7z\xbc\xaf", re.IGNORECASE
)
_TOWER: Final = re.compile(rb"(?:\[\s{0,4}){500}|(?:<<\s{0,4}/\w{0,20}\s{0,4}){500}")
_STREAM: Final = re.compile(rb"stream\r?\n")
_DICTIONARY_BYTES: Final = 2_000
_CHAIN: Final = re.compile(rb"/Filter\s*\[([^\]]{0,400})\]")
_PACKING: Final = re.compile(rb"/(?:Fl(?:ateDecode)?|RunLengthDecode|RL|LZW(?:Decode)?)\b")
_MAX_PACKINGS: Final = 1
_SUSPICIOUS_PACKED_BYTES: Final = 8 << 10
_MAX_STREAM_BYTES: Final = 64 << 20
_MAX_STREAM_RATIO: Final = 200
_ACTIVE: Final = re.compile(rb"/(?:JavaScript|JS|Launch|EmbeddedFiles?|RichMedia|XFA|ImportData|SubmitForm)\b")


def check_structure(data: bytes) -> None:
    """Raise `ParseError` for bombs, towers and polyglots."""
    if _TOWER.search(data):
        raise bad("E_LIMIT_DEPTH", "arrays nested too deeply")
    _check_ends(data)
    expanded = 0
    for match in _STREAM.finditer(data):
        head = data[max(0, match.start() - _DICTIONARY_BYTES) : match.start()]
        head = head[head.rfind(b"obj") :]
        _check_chain(head)
        expanded += _expanded_bytes(data, match.end(), head)
        if expanded > MAX_EXPANDED_BYTES:
            raise bad("E_LIMIT", f"expands to more than {MAX_EXPANDED_BYTES} bytes")


def _check_ends(data: bytes) -> None:
    """Refuse another format before the PDF's head or behind its end."""
    if _FOREIGN.search(data[: data.find(b"%PDF-")]):
        raise bad("E_POLYGLOT", "another format stands before the PDF")
    end = data.rfind(b"%%EOF")
    if end >= 0 and (_FOREIGN.search(data, end) or _is_other_data(data[end + 5 :])):
        raise bad("E_POLYGLOT", "another format stands behind the PDF")
    archive_end = data.rfind(b"PK\x05\x06")
    if archive_end >= 0 and archive_end + 22 + int.from_bytes(data[archive_end + 20 : archive_end + 22], "little") == len(data):
        raise bad("E_POLYGLOT", "the file is an archive too")


def _is_other_data(tail: bytes) -> bool:
    """Say whether what follows the end mark is data: padding and a cut-off update are not."""
    return len(tail.strip(b"\0\r\n\t ")) > _TRAILING_BYTES and b" obj" not in tail


def _check_chain(head: bytes) -> None:
    for match in _CHAIN.finditer(head):
        if len(_PACKING.findall(match.group(1))) > _MAX_PACKINGS:
            raise bad("E_LIMIT", "a stream is packed several times over")


def _expanded_bytes(data: bytes, start: int, head: bytes) -> int:
    """Return to how much a stream expands, when it may be a bomb; 0 for those that cannot be."""
    end = data.find(b"endstream", start)
    packed = (end if end >= 0 else len(data)) - start
    if (
        packed < _SUSPICIOUS_PACKED_BYTES
        or not re.search(rb"/Fl(?:ateDecode)?\b", head)
        or b"/Subtype/Image" in head.replace(b" ", b"")
    ):
        return 0
    return _inflated(data[start : start + packed])


def _inflated(packed: bytes) -> int:
    """Count what deflated bytes expand to, and stop when it is too much. Damaged streams are the library's to judge."""
    total = 0
    inflater = zlib.decompressobj()
    try:
        while packed and not inflater.eof:
            total += len(inflater.decompress(packed, 1 << 20))
            packed = inflater.unconsumed_tail
            if total > _MAX_STREAM_BYTES:
                raise bad("E_LIMIT", f"a stream expands to more than {_MAX_STREAM_BYTES} bytes")
    except zlib.error:
        return total
    return total


# --- what can act -----------------------------------------------------------------------------------------------------

_OBJECT_STREAM: Final = re.compile(rb"/ObjStm\b")
_MAX_OBJECT_STREAMS: Final = 2_000
_MAX_OBJECT_BYTES: Final = 1 << 20


def is_active(data: bytes) -> bool:
    """Say whether the file holds scripts, programs to launch or embedded files, also inside packed objects."""
    plain = _unescaped(data)
    if _ACTIVE.search(plain):
        return True
    for number, match in enumerate(_OBJECT_STREAM.finditer(data)):
        start = _STREAM.search(data, match.end(), match.end() + _DICTIONARY_BYTES)
        if number >= _MAX_OBJECT_STREAMS or start is None:
            continue
        try:
            objects = zlib.decompressobj().decompress(data[start.end() :], _MAX_OBJECT_BYTES)
        except zlib.error:
            continue
        if _ACTIVE.search(_unescaped(objects)):
            return True
    return False


def _unescaped(data: bytes) -> bytes:
    """Return bytes whose names are spelled out: `/J#61vaScript` is `/JavaScript`."""
    if b"#" not in data:
        return data
    return re.sub(rb"#([2-7][0-9A-Fa-f])", lambda match: bytes.fromhex(match.group(1).decode()), data)
