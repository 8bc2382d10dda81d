"""What lies inside an archive or a mail: its members, taken out in memory and never written anywhere.

In: raw bytes and the suffix that says what they are; normally called inside the child of `sandbox.py`.
Out: `Member`s, a checked relative name and the bytes each, in the order of the archive. Nested archives are left closed.
Refuses: bombs, links, devices, names that leave the folder, encrypted and inconsistent archives (`ParseError`).
Not here: how deep nesting may go and what members are called in the corpus (`listing.py`); mails inside (`attachments.py`).

No declared size is believed: every stream is read up to a limit and then compared with what was declared. Folders,
dotfiles and the `__MACOSX` twins are passed over, but their names are checked like all others.
"""

import bz2
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from spice_enterprise.corpus import attachments
from spice_enterprise.errors import ParseError

MAX_ENTRIES: Final = 2_000
MAX_EXPANDED_BYTES: Final = 200 << 20
MAX_RATIO: Final = 100
MAX_DEPTH: Final = 3
"""Archives within archives, the outermost counted."""
_RATIO_FREE_BYTES: Final = 1 << 20
"""What expands to less than this may have any ratio: a page of spaces compresses 1000 to 1."""
_XZ_MEMORY_BYTES: Final = 128 << 20
_PIECE: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive. `name` is the path inside it, checked but as the archive spells it."""

    name: str = field(repr=False)
    data: bytes = field(repr=False)


def archive_suffix(name: str) -> str | None:
    """Return the suffix by which `name` is an archive or a mail with attachments, in lower case; None for other files."""
    lower = name.lower()
    return next((suffix for suffix in _READERS if lower.endswith(suffix)), None)


def is_mail(suffix: str) -> bool:
    """True for files that are documents themselves and carry others."""
    return suffix in (".eml", ".msg")


def is_single(suffix: str) -> bool:
    """True for files that are one compressed file: its name is the archive's own without the suffix."""
    return suffix in (".gz", ".bz2", ".xz")


def expand(data: bytes, suffix: str) -> list[Member]:
    """Return the members of one archive, or the attachments of one mail.

    Args:
        data: The whole file.
        suffix: One that `archive_suffix` returns, in any case.

    Raises:
        ParseError: `E_UNSUPPORTED`, `E_TYPE_MISMATCH`, `E_ENCRYPTED`, `E_PATH`, `E_PARSE`, `E_LIMIT...`.
    """
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise _bad("E_UNSUPPORTED", "no way to open this kind of archive")
    try:
        return list(_within_limits(reader(data), max(_RATIO_FREE_BYTES, MAX_RATIO * len(data))))
    except ParseError:
        raise
    except (MemoryError, RecursionError):
        raise _bad("E_LIMIT", "the archive needs more memory than allowed") from None
    except Exception as error:  # noqa: BLE001 - readers of foreign bytes raise anything; the type alone is reported
        raise _bad("E_PARSE", f"the archive cannot be opened ({type(error).__name__})") from None


def _bad(code: str, message: str) -> ParseError:
    return ParseError(message, code=code)


def _within_limits(members: Iterable[Member], by_ratio: int) -> Iterator[Member]:
    """Pass members on until all of them together are too many or too large."""
    expanded = 0
    for count, member in enumerate(members, start=1):
        expanded += len(member.data)
        if count > MAX_ENTRIES:
            raise _bad("E_LIMIT_ENTRIES", f"more than {MAX_ENTRIES} members")
        if expanded > min(by_ratio, MAX_EXPANDED_BYTES):
            raise _bad("E_LIMIT_RATIO", "the archive expands to more than allowed")
        yield member


# --- names ------------------------------------------------------------------------------------------------------------


def _checked_name(name: str) -> str:
    """Return a member's path without empty steps. Raises `ParseError` `E_PATH` for one that could leave the folder."""
    if name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise _bad("E_PATH", "a member's name leaves the archive's folder")
    return "/".join(step for step in name.split("/") if step not in ("", "."))


def _is_passed_over(name: str) -> bool:
    return not name or any(step.startswith(".") or step == "__MACOSX" for step in name.split("/"))


# --- compressed streams -----------------------------------------------------------------------------------------------


def _read_up_to(stream: Any, allowed: int) -> bytes:
    """Return everything a stream holds. Raises `ParseError` `E_LIMIT_RATIO` as soon as it is more than `allowed`."""
    pieces: list[bytes] = []
    size = 0
    while piece := stream.read(_PIECE):
        size += len(piece)
        if size > allowed:
            raise _bad("E_LIMIT_RATIO", f"expands to more than {MAX_RATIO}:1 or {MAX_EXPANDED_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _allowed(compressed: int) -> int:
    return min(MAX_EXPANDED_BYTES, max(_RATIO_FREE_BYTES, MAX_RATIO * compressed))


class _XzStream:
    """Reads xz with a limit on memory, which `lzma.open` does not offer."""

    def __init__(self, data: bytes) -> None:
        self._rest = data
        self._decoder = self._fresh()

    def _fresh(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end."""
        while True:
            if self._decoder.eof:
                self._rest = self._decoder.unused_data.lstrip(b"\0")
                if not self._rest:
                    return b""
                self._decoder = self._fresh()
            piece = self._decoder.decompress(self._rest, size)
            self._rest = b""
            if piece:
                return piece
            if self._decoder.needs_input:
                raise EOFError


def _gunzipped(data: bytes) -> bytes:
    _expect(data, b"\x1f\x8b", "gzip")
    return _read_up_to(gzip.GzipFile(fileobj=io.BytesIO(data)), _allowed(len(data)))


def _bunzipped(data: bytes) -> bytes:
    _expect(data, b"BZh", "bzip2")
    return _read_up_to(bz2.BZ2File(io.BytesIO(data)), _allowed(len(data)))


def _unxzed(data: bytes) -> bytes:
    _expect(data, b"\xfd7zXZ\0", "xz")
    return _read_up_to(_XzStream(data), _allowed(len(data)))


def _expect(data: bytes, magic: bytes, kind: str) -> None:
    if not data:
        raise _bad("E_EMPTY", "the file has 0 bytes")
    if not data.startswith(magic):
        raise _bad("E_TYPE_MISMATCH", f"the content is not {kind}, as the suffix says")


def _one(decompress: Callable[[bytes], bytes]) -> Callable[[bytes], Iterator[Member]]:
    """Return a reader of one compressed file."""

    def read(data: bytes) -> Iterator[Member]:
        yield Member(name="content", data=decompress(data))

    return read


# --- tar --------------------------------------------------------------------------------------------------------------


def _tar_of(decompress: Callable[[bytes], bytes]) -> Callable[[bytes], Iterator[Member]]:
    """Return a reader of a compressed tar archive."""
    return lambda data: _tar(decompress(data))


def _tar(data: bytes) -> Iterator[Member]:
    if not data:
        raise _bad("E_EMPTY", "the file has 0 bytes")
    if data[257:262] != b"ustar" and not _is_old_tar(data):
        raise _bad("E_TYPE_MISMATCH", "the content is not tar, as the suffix says")
    seen: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for count, entry in enumerate(archive, start=1):
            if count > MAX_ENTRIES:
                raise _bad("E_LIMIT_ENTRIES", f"more than {MAX_ENTRIES} entries")
            name = _tar_name(entry, seen)
            if not entry.isdir() and not _is_passed_over(name):
                yield Member(name=name, data=_tar_content(archive, entry))


def _is_old_tar(data: bytes) -> bool:
    """True for a header without the later magic whose checksum is right."""
    try:
        tarfile.TarInfo.frombuf(data[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _tar_name(entry: tarfile.TarInfo, seen: set[str]) -> str:
    if not (entry.isreg() or entry.isdir()):
        raise _bad("E_PATH", "the archive holds a link or a device")
    if entry.issparse():
        raise _bad("E_UNSUPPORTED", "the archive holds a sparse file")
    name = _checked_name(entry.name)
    if name in seen and not entry.isdir():
        raise _bad("E_PARSE", "two members share a name")
    seen.add(name)
    return name


def _tar_content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    data = b"" if file is None else _read_up_to(file, MAX_EXPANDED_BYTES)
    if len(data) != entry.size:
        raise _bad("E_PARSE", "the archive ends within a member")
    return data


# --- zip --------------------------------------------------------------------------------------------------------------

_LOCAL_HEADER: Final = struct.Struct("<4sHHHHHIIIHH")
_HAS_DESCRIPTOR: Final = 0x8
_IS_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_UNKNOWN_SIZE: Final = 0xFFFFFFFF
_OFFICE_PARTS: Final = frozenset({"word/document.xml", "xl/workbook.xml", "ppt/presentation.xml"})


def _zip(data: bytes) -> Iterator[Member]:
    if not data:
        raise _bad("E_EMPTY", "the file has 0 bytes")
    if data.startswith(b"PK\x05\x06"):
        raise _bad("E_PARSE", "the archive has no entries")
    if not data.startswith(b"PK\x03\x04"):
        raise _bad("E_TYPE_MISMATCH", "the content is not zip, as the suffix says")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = _check_entries(archive, data)
            for entry, name in names:
                if not entry.is_dir() and not _is_passed_over(name):
                    yield Member(name=name, data=_zip_content(archive, entry))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, zlib.error):
        raise _bad("E_PARSE", "the archive is damaged") from None
    except NotImplementedError:
        raise _bad("E_UNSUPPORTED", "a member is compressed in an unusual way") from None


def _check_entries(archive: zipfile.ZipFile, data: bytes) -> list[tuple[zipfile.ZipInfo, str]]:
    """Return every entry with its name, after all of them were checked."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise _bad("E_LIMIT_ENTRIES", f"more than {MAX_ENTRIES} entries")
    names = [_zip_name(entry) for entry in entries]
    if len({entry.orig_filename for entry in entries}) != len(entries):
        raise _bad("E_PARSE", "two members share a name")
    if "[Content_Types].xml" in names and not _OFFICE_PARTS.isdisjoint(names):
        raise _bad("E_TYPE_MISMATCH", "the content is an office file, the suffix says archive")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise _bad("E_PARSE", "two members overlap")
        end = _check_local_header(entry, data)
    if end > archive.start_dir:
        raise _bad("E_PARSE", "a member overlaps the directory")
    return list(zip(entries, names, strict=True))


def _zip_name(entry: zipfile.ZipInfo) -> str:
    name = _checked_name(entry.orig_filename)
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _bad("E_PATH", "the archive holds a link or a device")
    if entry.flag_bits & _IS_ENCRYPTED:
        raise _bad("E_ENCRYPTED", "a member is encrypted")
    if entry.compress_type not in _METHODS:
        raise _bad("E_UNSUPPORTED", "a member is compressed in an unusual way")
    return name


def _check_local_header(entry: zipfile.ZipInfo, data: bytes) -> int:
    """Return where an entry ends. Raises `ParseError` unless its own header says what the directory says."""
    start = entry.header_offset + _LOCAL_HEADER.size
    if start > len(data):
        raise _bad("E_PARSE", "a member lies outside the archive")
    magic, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(
        data[entry.header_offset : start]
    )
    is_same = magic == b"PK\x03\x04" and flags & ~_HAS_DESCRIPTOR == entry.flag_bits & ~_HAS_DESCRIPTOR
    is_same = is_same and method == entry.compress_type
    if not flags & _HAS_DESCRIPTOR:
        is_same = is_same and crc == entry.CRC
        is_same = is_same and packed in (entry.compress_size, _UNKNOWN_SIZE) and size in (entry.file_size, _UNKNOWN_SIZE)
    if not is_same:
        raise _bad("E_PARSE", "a member's header contradicts the directory")
    return start + int(name_bytes) + int(extra_bytes) + entry.compress_size


def _zip_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return one member. `zipfile` compares its name and checksum on the way."""
    with archive.open(entry) as stream:
        data = _read_up_to(stream, _allowed(entry.compress_size))
    if len(data) != entry.file_size:
        raise _bad("E_PARSE", "a member is shorter than declared")
    return data


# --- mail -------------------------------------------------------------------------------------------------------------


def _mail(attachments: Callable[[bytes], Iterator[tuple[str, bytes]]]) -> Callable[[bytes], Iterator[Member]]:
    """Return a reader of what is attached to a mail."""
    return lambda data: (Member(name=name, data=content) for name, content in attachments(data))


_READERS: Final[dict[str, Callable[[bytes], Iterator[Member]]]] = {
    ".tar.gz": _tar_of(_gunzipped),
    ".tgz": _tar_of(_gunzipped),
    ".tar.bz2": _tar_of(_bunzipped),
    ".tbz2": _tar_of(_bunzipped),
    ".tar.xz": _tar_of(_unxzed),
    ".txz": _tar_of(_unxzed),
    ".tar": _tar,
    ".zip": _zip,
    ".gz": _one(_gunzipped),
    ".bz2": _one(_bunzipped),
    ".xz": _one(_unxzed),
    ".eml": _mail(attachments.of_eml),
    ".msg": _mail(attachments.of_msg),
}
"""Longer suffixes first: `.tar.gz` is no `.gz`."""
