"""A folder of private files, listed in a fixed order and read exactly once as they were listed.

In: a local folder and the workspace key.
Out: a `Document` per readable file (keyed digest, scrubbed name), a `Rejection` per file that may not be read.
Refuses: symlinks, devices, FIFOs, empty and too large files (as rejections); URLs, missing and empty folders (as errors).
Not here: what the bytes mean (`parsers.py`). Dotfiles are not documents and are passed over.
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

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
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".log": "text/plain",
}
"""What a file claims to be by its name; `parsers.py` checks the claim against the content."""

UNKNOWN_MEDIA_TYPE: Final = "application/octet-stream"


class FolderSource:
    """Every regular file under one folder, in the order of its path."""

    def __init__(
        self, root: Path, *, key: bytes, max_file_bytes: int, max_documents: int, scrub_name: Callable[[str], str]
    ) -> None:
        """Check the place without reading it.

        Args:
            root: The folder.
            key: Workspace key of the keyed digests.
            max_file_bytes: Larger files are rejected.
            max_documents: A folder with more files than this is refused.
            scrub_name: Removes personal data from a relative path.

        Raises:
            SourceError: `E_URL_DENIED` for a URL, `E_NO_CORPUS` when there is no such folder.
        """
        if "://" in str(root) or str(root).startswith(("http:/", "https:/", "s3:/", "file:/")):
            raise SourceError("the corpus is a URL", code="E_URL_DENIED", hint="copy the files to a local folder first")
        if not root.is_dir():
            raise SourceError("the corpus folder does not exist", code="E_NO_CORPUS", hint="check `corpus:` in the config")
        self._root = root
        self._key = key
        self._max_file_bytes = max_file_bytes
        self._max_documents = max_documents
        self._scrub_name = scrub_name
        self._paths: dict[str, Path] = {}

    def documents(self) -> Iterator[Document | Rejection]:
        """List the folder in path order.

        Raises:
            SourceError: `E_EMPTY_CORPUS` without a single file, `E_LIMIT` with more than `max_documents`.
        """
        listed = self._walk()
        if not listed:
            raise SourceError("the corpus folder holds no files", code="E_EMPTY_CORPUS", hint="put documents into it")
        if len(listed) > self._max_documents:
            raise SourceError(
                f"the corpus folder holds {len(listed)} files, allowed are {self._max_documents}",
                code="E_LIMIT",
                hint="raise ingest.max_documents or split the corpus",
            )
        for path in listed:
            yield self._document(path)

    def read(self, document: Document) -> bytes:
        """Return the bytes that were listed. Raises `SourceError` `E_IO` when the file changed or went away."""
        path = self._paths.get(document.document_id)
        data = None if path is None else self._bytes(path)
        if not isinstance(data, bytes) or self._digest(data) != document.keyed_digest:
            raise SourceError(
                "a file changed while it was read",
                code="E_IO",
                record_id=document.document_id,
                hint="run again when nothing writes to the corpus",
            )
        return data

    def _walk(self) -> list[Path]:
        """Return every entry that is not a folder to descend into, sorted by relative path; links are never followed."""
        found: list[Path] = []
        for folder, names, files in os.walk(self._root, followlinks=False):
            here = Path(folder)
            visible = [name for name in names if not name.startswith(".")]
            found += [here / name for name in visible if (here / name).is_symlink()]
            names[:] = [name for name in visible if not (here / name).is_symlink()]
            found += [here / name for name in files if not name.startswith(".")]
        return sorted(found, key=lambda path: path.relative_to(self._root).parts)

    def _document(self, path: Path) -> Document | Rejection:
        uri = self._scrub_name(_printable(path.relative_to(self._root).as_posix()))
        data = self._bytes(path)
        if not isinstance(data, bytes):
            code, reason, size_bytes = data
            return Rejection(uri=uri, code=code, reason=reason, size_bytes=size_bytes)
        media_type = MEDIA_TYPES.get(path.suffix.lower(), UNKNOWN_MEDIA_TYPE)
        document = Document(uri=uri, media_type=media_type, keyed_digest=self._digest(data), size_bytes=len(data))
        self._paths[document.document_id] = path
        return document

    def _digest(self, data: bytes) -> str:
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()

    def _bytes(self, path: Path) -> bytes | tuple[str, str, int]:
        """Return the content, or (code, reason, size) of why not. The checks are made on the opened file, not its name."""
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            if path.is_symlink():
                return "E_PATH", "symbolic links are not followed", 0
            return "E_IO", "the file cannot be opened", 0
        with os.fdopen(handle, "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                return "E_PATH", "not a regular file", 0
            if facts.st_size > self._max_file_bytes:
                return "E_LIMIT", f"larger than {self._max_file_bytes} bytes", facts.st_size
            try:
                data = file.read(self._max_file_bytes + 1)
            except OSError:
                return "E_IO", "the file cannot be read", facts.st_size
        if len(data) > self._max_file_bytes:
            return "E_LIMIT", f"larger than {self._max_file_bytes} bytes", len(data)
        return data or ("E_EMPTY", "the file has 0 bytes", 0)


def _printable(name: str) -> str:
    """Return a file name without control characters, direction overrides and undecodable bytes, cut to 240 characters."""
    clean = "".join(c if c.isprintable() else "_" for c in name)
    return clean.encode("utf-8", "replace").decode("utf-8")[-240:]
