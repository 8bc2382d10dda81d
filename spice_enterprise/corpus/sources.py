"""Documents on this machine: a folder of private files, or whatever another program's loader yields.

In: a local folder, or an iterable of names and bytes; the `Listing` that says how they may be taken.
Out: documents and rejections in a fixed order, streamed (`listing.py`).
Refuses: symlinks, devices, FIFOs, files that change while read (as rejections); URLs and missing folders (as errors).
Not here: what the bytes mean (`parsers.py`); places on other machines. Dotfiles are not documents and are passed over.
"""

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Final

from spice_enterprise.corpus.listing import CHANGED, Found, ListedSource, Listing, Opened, Refused, too_large, too_many
from spice_enterprise.corpus.listing import MEDIA_TYPES as MEDIA_TYPES
from spice_enterprise.corpus.listing import UNKNOWN_MEDIA_TYPE as UNKNOWN_MEDIA_TYPE
from spice_enterprise.errors import SourceError

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderSource(ListedSource):
    """Every regular file under one folder, in the order of its path. No link is followed on the way to a file."""

    def __init__(self, root: Path, listing: Listing) -> None:
        """Check the place without reading it.

        Args:
            root: The folder.
            listing: A label set here wins over the files' own group and mode.

        Raises:
            SourceError: `E_URL_DENIED` for a URL, `E_NO_CORPUS` when there is no such folder.
        """
        super().__init__(listing, kind="folder")
        if "://" in str(root) or str(root).startswith(("http:/", "https:/", "s3:/", "file:/")):
            raise SourceError("the corpus is a URL", code="E_URL_DENIED", hint="copy the files to a local folder first")
        if not root.is_dir():
            raise SourceError("the corpus folder does not exist", code="E_NO_CORPUS", hint="check `corpus:` in the config")
        self._root = root

    def _found(self) -> Iterator[Found]:
        # a count alone is quick, and tells before the first file is read
        if sum(1 for _ in self._names()) > self._listing.max_documents:
            raise too_many(self._listing.max_documents)
        for name in self._names():
            yield Found(name=name, open=partial(self._open, name))

    def _names(self) -> Iterator[str]:
        """Yield the path of every entry that is no folder to descend into, in order.

        One folder's names are held at a time. A folder that cannot be listed is yielded itself, to be rejected when opened.
        """
        waiting = [iter(self._entries(""))]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif entry.endswith("/"):
                waiting.append(iter(self._entries(entry)))
            else:
                yield entry

    def _entries(self, folder: str) -> list[str]:
        """Return the sorted entries of a folder, those to descend into with a `/`; the folder alone when it cannot be listed."""
        try:
            handle = self._handle(folder.rstrip("/"), os.O_DIRECTORY)
        except OSError:
            return [folder.rstrip("/")]
        try:
            with os.scandir(handle) as entries:
                visible = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.name.startswith("."))
        finally:
            os.close(handle)
        return [f"{folder}{name}/" if is_folder else folder + name for name, is_folder in visible]

    def _handle(self, name: str, flags: int) -> int:
        """Open a path below the root, step by step, so that no folder on the way can be a link."""
        # the root itself may be one: the user named it
        handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        *folders, last = name.split("/")
        try:
            for folder in folders:
                inner = os.open(folder, _OPEN | os.O_DIRECTORY, dir_fd=handle)
                os.close(handle)
                handle = inner
            # O_NONBLOCK: opening a FIFO must not wait for a writer
            return os.open(last or ".", _OPEN | os.O_NONBLOCK | flags, dir_fd=handle)
        finally:
            os.close(handle)

    def _open(self, name: str) -> Opened | Refused:
        """Return the content. The checks are made on the opened file, not on its name."""
        try:
            handle = self._handle(name, 0)
        except OSError as error:
            if error.errno == errno.ELOOP:
                return Refused(code="E_PATH", reason="symbolic links are not followed")
            return Refused(code="E_IO", reason="the file cannot be opened")
        try:
            return self._content(handle)
        except OSError:
            return Refused(code="E_IO", reason="the file cannot be read")
        finally:
            os.close(handle)

    def _content(self, handle: int) -> Opened | Refused:
        facts = os.fstat(handle)
        limit = self._listing.max_file_bytes
        if stat.S_ISDIR(facts.st_mode):
            return Refused(code="E_IO", reason="the folder cannot be listed")
        if not stat.S_ISREG(facts.st_mode):
            return Refused(code="E_PATH", reason="not a regular file")
        if facts.st_size > limit:
            return too_large(limit, facts.st_size)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(limit + 1)
        after = os.fstat(handle)
        if (after.st_size, after.st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
            return CHANGED
        label = "" if self._listing.acl_label else posix_label(facts)
        return Opened(data=data, acl_label=label, owner=_user(facts.st_uid))


class FileSource(FolderSource):
    """One local file, such as an archive or a mail with its attachments."""

    def __init__(self, path: Path, listing: Listing) -> None:
        super().__init__(path.parent, listing)
        self._only = path.name

    def _names(self) -> Iterator[str]:
        yield self._only


def posix_label(facts: os.stat_result) -> str:
    """Return who may see a file, as its group and mode say: `posix:legal:0640`."""
    return f"posix:{_group(facts.st_gid)}:{stat.S_IMODE(facts.st_mode):04o}"


@lru_cache(maxsize=1024)
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@lru_cache(maxsize=1024)
def _group(number: int) -> str:
    """Return a group's name; its number when it has none, or when it is a group of one that carries a user's name."""
    try:
        name = grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
    return str(number) if _is_user(name) else name


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One document of a loader: of langchain, llama-index, unstructured-ingest, or a script of your own."""

    name: str = field(repr=False)
    """Relative path with the suffix of its format."""
    data: bytes = field(repr=False)
    acl_label: str = field(default="", repr=False)
    owner: str = field(default="", repr=False)


class IterableSource(ListedSource):
    """Whatever an iterable yields, in its order. A generator can be gone through once: then only the current document reads."""

    def __init__(self, items: Iterable[Item], listing: Listing) -> None:
        """Take the items without drawing one."""
        super().__init__(listing, kind="iterable")
        self._items = items
        self._current: tuple[int, Item] | None = None

    def _found(self) -> Iterator[Found]:
        for number, item in enumerate(self._items):
            self._current = (number, item)
            yield Found(name=item.name, open=partial(self._open, number))
        self._current = None

    def _open(self, number: int) -> Opened | Refused:
        item = self._item(number)
        if item is None:
            return CHANGED
        return Opened(data=item.data, acl_label=item.acl_label, owner=item.owner)

    def _item(self, number: int) -> Item | None:
        if self._current is not None and self._current[0] == number:
            return self._current[1]
        again = iter(self._items)
        # drawing from a generator here would take documents from whoever goes through it
        return None if again is self._items else next(islice(again, number, None), None)
