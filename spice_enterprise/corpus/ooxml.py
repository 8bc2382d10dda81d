"""The package around a DOCX, XLSX or PPTX: a zip of XML parts, checked before anything in it is expanded.

In: the bytes of an office file and the part that must be there.
Out: parts as XML trees, the relations between them, and the document's properties.
Refuses: zip bombs, encrypted parts, macros, DTDs, deep XML, parts hidden from the directory, paths that leave the package.
Not here: what the parts say (`word.py`, `excel.py`, `slides.py`). External relations are never followed.
"""

import io
import posixpath
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final
from urllib.parse import unquote

from spice_enterprise.corpus.reading import (
    MAX_ENTRIES,
    MAX_EXPANDED_BYTES,
    MAX_RATIO,
    RATIO_FREE_BYTES,
    Notes,
    bad,
    carried_line,
)

MAIN_PARTS: Final = {"docx": "word/document.xml", "xlsx": "xl/workbook.xml", "pptx": "ppt/presentation.xml"}
_REL: Final = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_DTD: Final = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_ENCODING: Final = re.compile(rb"<\?xml[^>]{0,200}encoding\s*=\s*[\"']([\w.-]+)", re.IGNORECASE)
_ENCODINGS: Final = (b"utf-8", b"utf-16", b"us-ascii", b"ascii", b"iso-8859-1")
_XML_SUFFIXES: Final = (".xml", ".rels", ".vml")
_LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")
_IS_STREAMED: Final = 0x8
_TRAILING_BYTES: Final = 1024


class Package:
    """An office file whose directory and XML have been checked."""

    def __init__(self, data: bytes, main_part: str) -> None:
        """Check the whole package. Raises `ParseError` with the code of what is wrong."""
        self.data = data
        try:
            self._archive = checked_zip(data)
            self._names = {entry.filename for entry in self._archive.infolist()}
            _check_kind(self._names, main_part)
            for name in sorted(self._names):
                if name.lower().endswith(_XML_SUFFIXES):
                    check_xml(self._archive.read(name))
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, struct.error):
            raise bad("E_PARSE", "the office file is damaged") from None

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def open(self, name: str) -> Any:
        """Return a part as a stream of bytes."""
        return self._archive.open(name)

    def tree(self, name: str) -> Any:
        """Return the root element of an XML part."""
        return xml_tree(self._archive.read(name))

    def related(self, name: str, kind: str) -> list[str]:
        """Return the parts that `name` points to by relations of one kind, in the order they are listed."""
        return [target for found, target in self.relations(name).values() if found == kind]

    def relations(self, name: str) -> dict[str, tuple[str, str]]:
        """Return relation id to (kind, part) for what is inside the package.

        Raises:
            ParseError: `E_PARSE` when a relation points out of the package.
        """
        folder, base = posixpath.split(name)
        rels = f"{folder}/_rels/{base}.rels"
        if rels not in self:
            return {}
        inside = {}
        for relation in self.tree(rels).iter(_REL):
            if relation.get("TargetMode") == "External":
                continue
            target = _resolved(folder, unquote(relation.get("Target") or ""))
            if target in self:
                inside[relation.get("Id") or ""] = ((relation.get("Type") or "").rsplit("/", 1)[-1], target)
        return inside

    def properties(self, notes: Notes) -> list[str]:
        """Return author, title and the like as lines, when metadata is carried."""
        if not notes.carries("metadata"):
            return []
        return [
            line for part in ("docProps/core.xml", "docProps/app.xml") if part in self for line in _properties(self.tree(part))
        ]


_PROPERTIES: Final = {
    "creator": "Author", "lastModifiedBy": "Last author", "title": "Title", "subject": "Subject", "keywords": "Keywords",
    "description": "Description", "category": "Category", "Company": "Company", "Manager": "Manager",
}  # fmt: skip


def _properties(root: Any) -> Iterator[str]:
    for element in root:
        label = _PROPERTIES.get(str(element.tag).rsplit("}", 1)[-1])
        if label and (element.text or "").strip():
            yield carried_line(label, element.text)


def _resolved(folder: str, target: str) -> str:
    path = posixpath.normpath(target if target.startswith("/") else posixpath.join("/", folder, target))
    depth = 0 if target.startswith("/") else len([step for step in folder.split("/") if step])
    for step in target.replace("\\", "/").split("/"):
        depth += -1 if step == ".." else 0 if step in ("", ".") else 1
        if depth < 0:
            raise bad("E_PARSE", "a relation points out of the package")
    return path.lstrip("/")


# --- the zip ----------------------------------------------------------------------------------------------------------


def checked_zip(data: bytes) -> zipfile.ZipFile:
    """Return an archive, checked from its directory before anything is expanded.

    Raises:
        ParseError: `E_LIMIT_ENTRIES`, `E_LIMIT_RATIO`, `E_ENCRYPTED`, `E_POLYGLOT` or `E_PARSE`.
        zipfile.BadZipFile: When there is no archive.
    """
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise bad("E_LIMIT_ENTRIES", f"more than {MAX_ENTRIES} parts")
    if len({entry.filename for entry in entries}) != len(entries):
        raise bad("E_PARSE", "two parts share a name")
    _check_sizes(entries)
    _check_places(data, entries)
    return archive


def _check_sizes(entries: Sequence[zipfile.ZipInfo]) -> None:
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise bad("E_ENCRYPTED", "a part is encrypted")
    if any(e.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * e.compress_size) for e in entries):
        raise bad("E_LIMIT_RATIO", f"a part expands more than {MAX_RATIO}:1")
    if sum(entry.file_size for entry in entries) > MAX_EXPANDED_BYTES:
        raise bad("E_LIMIT_RATIO", f"expands to more than {MAX_EXPANDED_BYTES} bytes")


def _check_places(data: bytes, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse a file that other programs would read otherwise: local headers that differ, bytes before or behind."""
    for entry in entries:
        header = data[entry.header_offset : entry.header_offset + _LOCAL_HEADER.size]
        magic, _, flags, method, _, _, crc, packed, size, name_bytes, _ = _LOCAL_HEADER.unpack(header)
        start = entry.header_offset + _LOCAL_HEADER.size
        name = data[start : start + name_bytes].decode("utf-8" if flags & 0x800 else "cp437", "replace")
        is_same = magic == b"PK\x03\x04" and name == entry.orig_filename and method == entry.compress_type
        facts = (crc, packed, size)
        is_open = bool(flags & _IS_STREAMED) or 0xFFFFFFFF in facts
        if not is_same or (not is_open and facts != (entry.CRC, entry.compress_size, entry.file_size)):
            raise bad("E_PARSE", "a part's own header differs from the directory")
    end = data.rfind(b"PK\x05\x06")
    if min((entry.header_offset for entry in entries), default=0) > 0 or len(data) - end - 22 > _TRAILING_BYTES:
        raise bad("E_POLYGLOT", "bytes before or behind the archive")


def _check_kind(names: set[str], main_part: str) -> None:
    if any(name.lower().endswith("vbaproject.bin") for name in names):
        raise bad("E_ACTIVE_CONTENT", "the file holds macros")
    if main_part not in names:
        is_other = not names.isdisjoint(MAIN_PARTS.values())
        raise bad("E_TYPE_MISMATCH" if is_other else "E_PARSE", "the main part is missing")


# --- the XML ----------------------------------------------------------------------------------------------------------


def check_xml(part: bytes) -> None:
    """Refuse DTDs, also in UTF-16, and encodings in which one could hide."""
    plain = part.replace(b"\0", b"")
    declared = _ENCODING.search(plain[:400])
    if declared and declared.group(1).lower() not in _ENCODINGS:
        raise bad("E_PARSE", "a part has an unusual encoding")
    if _DTD.search(plain):
        raise bad("E_XML_DTD", "a part declares a DTD")


def xml_tree(part: bytes) -> Any:
    """Return the root element of checked XML. Raises `ParseError` `E_LIMIT_DEPTH` or `E_PARSE`."""
    etree = import_module("lxml.etree")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        return etree.fromstring(part, parser)
    except etree.XMLSyntaxError as error:
        if "depth" in str(error).lower():
            raise bad("E_LIMIT_DEPTH", "elements nested too deeply") from None
        raise bad("E_PARSE", "a part is not well-formed XML") from None
