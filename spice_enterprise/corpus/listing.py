"""What every source does the same: documents out of whatever a place lists, archives opened, bytes held for one document.

In: what a place lists, one `Found` after the other, and the `Listing` that says how it may be taken.
Out: a `Document` per file (keyed digest, scrubbed name, access label, owner tag), a `Rejection` per file that may not be read.
Refuses: empty and too large files, bombs of nested archives (as rejections); no files, too many files (as errors).
Not here: the places (`sources.py`, `remote.py`, `mailbox.py`, `wiki.py`); what an archive looks like inside (`archives.py`).
"""

import base64
import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final, Protocol

from spice_enterprise.corpus import attachments
from spice_enterprise.corpus.archives import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_EXPANDED_BYTES,
    Member,
    archive_suffix,
    is_mail,
    is_single,
)
from spice_enterprise.errors import SourceError
from spice_enterprise.records import Document, Rejection

MEDIA_TYPES: Final[dict[str, str]] = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".html": "text/html",
    ".htm": "text/html",
    ".eml": "message/rfc822",
    ".msg": "application/vnd.ms-outlook",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".xml": "application/xml",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".log": "text/plain",
    ".rtf": "application/rtf",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".doc": "application/msword",
    ".epub": "application/epub+zip",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
"""What a file claims to be by its name; `parsers.py` checks the claim against the content."""

UNKNOWN_MEDIA_TYPE: Final = "application/octet-stream"
_RESERVED: Final = re.compile(r"(?<![^/])(con|prn|aux|nul|com[1-9]|lpt[1-9])(?=[./]|$)", re.IGNORECASE)
"""File names that mean a device on some systems."""


class Refusal(Protocol):
    """Why something has no content: a stable code and a fixed phrase. `sandbox.Unparsed` is one."""

    @property
    def code(self) -> str:
        """Stable."""
        ...

    @property
    def reason(self) -> str:
        """Without anything from the file."""
        ...


Expand = Callable[[bytes, str], list[Member] | Refusal]
"""Opens an archive by its suffix, in the parser child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """How a source may be taken: the same for every kind of place."""

    key: bytes = field(repr=False)
    """Workspace key of the keyed digests and owner tags."""
    scrub_name: Callable[[str], str]
    """Removes personal data from a relative path or an access label."""
    max_file_bytes: int
    """Larger files are rejected."""
    max_documents: int
    """A place with more documents than this is refused."""
    acl_label: str = ""
    """Access label of documents whose place says nothing."""
    expand: Expand | None = None
    """Without it archives are rejected and attachments stay closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The bytes of one file, with what its place says of it."""

    data: bytes = field(repr=False)
    acl_label: str = field(default="", repr=False)
    owner: str = field(default="", repr=False)
    """The owner's name; only a keyed tag of it leaves the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why one file may not be read."""

    code: str
    reason: str
    size_bytes: int = 0


CHANGED: Final = Refused(code="E_IO", reason="the file changed while it was read")


def too_large(limit: int, size_bytes: int) -> Refused:
    """Return the refusal of a file above the limit."""
    return Refused(code="E_LIMIT", reason=f"larger than {limit} bytes", size_bytes=size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file that a place lists: its relative name, and how to open it, now or again."""

    name: str = field(repr=False)
    open: Callable[[], Opened | Refused] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """A file that was opened: one that a place lists, or a member of an archive in it."""

    found: Found = field(repr=False)
    steps: tuple[int, ...]
    """Which member of each archive on the way; none for what the place lists."""
    name: str = field(repr=False)
    uri: str = field(repr=False)
    kind: str
    opened: Opened


@dataclass(slots=True)
class _Spent:
    """What the archives within one listed file have expanded to, all levels together."""

    entries: int = 0
    size_bytes: int = 0


class ListedSource(ABC):
    """A `Source` over whatever a place lists. It keeps one short record per document, and the bytes of one."""

    def __init__(self, listing: Listing, *, kind: str) -> None:
        """`kind` is what documents say they come from."""
        self._listing = listing
        self._kind = kind
        self._places: dict[str, tuple[Found, tuple[int, ...]]] = {}
        self._held: tuple[str, bytes] | None = None
        self._scrub_label = lru_cache(maxsize=1024)(listing.scrub_name)

    @abstractmethod
    def _found(self) -> Iterator[Found]:
        """List the place in a fixed order. Raises `SourceError` when it cannot be listed."""

    def hosts(self) -> tuple[str, ...]:
        """Return the hosts that have to be reachable; none for a local place."""
        return ()

    def documents(self) -> Iterator[Document | Rejection]:
        """List, open, hash. The bytes of the document just yielded are held until the next one.

        Raises:
            SourceError: `E_EMPTY_CORPUS` without a single file, `E_LIMIT` with more than `max_documents`.
        """
        self._places.clear()
        count = 0
        for found in self._found():
            for item in self._opened(found):
                count += 1
                if count > self._listing.max_documents:
                    raise too_many(self._listing.max_documents)
                yield item
        self._held = None
        if not count:
            raise SourceError("the corpus holds no files", code="E_EMPTY_CORPUS", hint="put documents into it")

    def read(self, document: Document) -> bytes:
        """Return the bytes that were listed. Raises `SourceError` `E_IO` when the file changed or went away."""
        if self._held is not None and self._held[0] == document.document_id:
            return self._held[1]
        data = self._again(document)
        if data is None or self._digest(data) != document.keyed_digest:
            raise SourceError(
                "a file changed while it was read",
                code="E_IO",
                record_id=document.document_id,
                hint="run again when nothing writes to the corpus",
            )
        return data

    def _again(self, document: Document) -> bytes | None:
        """Open a document once more that is no longer held."""
        if document.document_id not in self._places:
            return None
        found, steps = self._places[document.document_id]
        opened = found.open()
        if isinstance(opened, Refused):
            return None
        name, data = found.name, opened.data
        for step in steps:
            members = self._expanded(data, archive_suffix(name) or "")
            if isinstance(members, Refused) or step >= len(members):
                return None
            name, data = _member_name(name, members[step]), members[step].data
        return data

    def _opened(self, found: Found) -> Iterator[Document | Rejection]:
        """Yield what one listed file gives: itself, or what lies in it."""
        uri = self._listing.scrub_name(printable(found.name))
        opened = found.open()
        if isinstance(opened, Refused):
            yield Rejection(uri=uri, code=opened.code, reason=opened.reason, size_bytes=opened.size_bytes)
            return
        box = _Box(found=found, steps=(), name=found.name, uri=uri, kind=self._kind, opened=opened)
        yield from self._unpacked(box, _Spent())

    def _unpacked(self, box: _Box, spent: _Spent) -> Iterator[Document | Rejection]:
        suffix = archive_suffix(box.name)
        if suffix is None or (is_mail(suffix) and self._listing.expand is None):
            yield self._document(box)
            return
        members = self._members(box, suffix, spent)
        if isinstance(members, Refused):
            yield _rejection(box, members)
            return
        if is_mail(suffix):
            yield self._document(box)
        for step, member in enumerate(members):
            yield from self._unpacked(self._inner(box, suffix, step, member), spent)

    def _members(self, box: _Box, suffix: str, spent: _Spent) -> list[Member] | Refused:
        """Return what lies in an archive, while all levels together stay within the limits."""
        refused = self._refused(box)
        if refused is not None:
            return refused
        if len(box.steps) >= MAX_DEPTH:
            return Refused(code="E_LIMIT_DEPTH", reason=f"archives nested deeper than {MAX_DEPTH}")
        if suffix == ".eml" and not attachments.may_carry(box.opened.data):
            return []
        members = self._expanded(box.opened.data, suffix)
        if isinstance(members, Refused):
            return members
        spent.entries += len(members)
        spent.size_bytes += sum(len(member.data) for member in members)
        if spent.entries > MAX_ENTRIES:
            return Refused(code="E_LIMIT_ENTRIES", reason=f"more than {MAX_ENTRIES} members in all levels")
        if spent.size_bytes > MAX_EXPANDED_BYTES:
            return Refused(code="E_LIMIT_RATIO", reason=f"expands to more than {MAX_EXPANDED_BYTES} bytes in all levels")
        return members

    def _expanded(self, data: bytes, suffix: str) -> list[Member] | Refused:
        if self._listing.expand is None:
            return Refused(code="E_UNSUPPORTED", reason="archives are not opened here")
        members = self._listing.expand(data, suffix)
        return members if isinstance(members, list) else Refused(code=members.code, reason=members.reason)

    def _inner(self, box: _Box, suffix: str, step: int, member: Member) -> _Box:
        """Return a member as a file of its own, with the access label and owner of the archive."""
        name = _member_name(box.name, member)
        return _Box(
            found=box.found,
            steps=(*box.steps, step),
            name=name,
            uri=f"{box.uri}!/{self._listing.scrub_name(printable(name))}",
            kind="attachment" if is_mail(suffix) else "archive",
            opened=Opened(data=member.data, acl_label=box.opened.acl_label, owner=box.opened.owner),
        )

    def _document(self, box: _Box) -> Document | Rejection:
        """Return a document and hold its bytes."""
        refused = self._refused(box)
        if refused is not None:
            return _rejection(box, refused)
        data = box.opened.data
        document = Document(
            uri=box.uri,
            media_type=MEDIA_TYPES.get(PurePosixPath(box.name).suffix.lower(), UNKNOWN_MEDIA_TYPE),
            keyed_digest=self._digest(data),
            size_bytes=len(data),
            source_kind=box.kind,
            acl_label=self._label(box.opened.acl_label),
            owner=self._owner_tag(box.opened.owner),
        )
        self._places[document.document_id] = (box.found, box.steps)
        self._held = (document.document_id, data)
        return document

    def _refused(self, box: _Box) -> Refused | None:
        size_bytes = len(box.opened.data)
        if not size_bytes:
            return Refused(code="E_EMPTY", reason="the file has 0 bytes")
        limit = self._listing.max_file_bytes
        return too_large(limit, size_bytes) if size_bytes > limit else None

    def _digest(self, data: bytes) -> str:
        return hmac.new(self._listing.key, data, hashlib.sha256).hexdigest()

    def _label(self, label: str) -> str:
        label = printable(label or self._listing.acl_label)
        return self._scrub_label(label) if label else ""

    def _owner_tag(self, name: str) -> str:
        if not name:
            return ""
        tag = hmac.new(self._listing.key, b"owner|" + name.encode("utf-8", "replace"), hashlib.sha256).digest()
        return "owner_" + base64.b32encode(tag).decode().lower()[:8]


def too_many(allowed: int) -> SourceError:
    """Return the error of a place with too many documents."""
    return SourceError(
        f"the corpus holds more than {allowed} documents", code="E_LIMIT", hint="raise ingest.max_documents or split the corpus"
    )


def printable(name: str) -> str:
    """Return a name of at most 240 characters, without control and direction characters, undecodable bytes and device names."""
    clean = "".join(c if c.isprintable() else "_" for c in name)
    clean = _RESERVED.sub(r"_\1", clean.encode("utf-8", "replace").decode("utf-8"))
    return clean[-240:] or "_"


def _member_name(outer: str, member: Member) -> str:
    """Return a member's name; a file compressed by itself is called as its archive, without the suffix."""
    suffix = archive_suffix(outer) or ""
    return PurePosixPath(outer).name[: -len(suffix)] if is_single(suffix) else member.name


def _rejection(box: _Box, refused: Refused) -> Rejection:
    return Rejection(uri=box.uri, code=refused.code, reason=refused.reason, size_bytes=len(box.opened.data))
