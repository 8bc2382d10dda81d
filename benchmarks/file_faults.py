"""Every file operation of a run, counted, and what would be left on the disk if the machine stopped just before it.

In: a folder and a function that works in it.
Out: per operation the image of the folder after a kill, a torn write, or the loss of everything that was not fsynced.
Refuses: nothing; operations outside the folder pass uncounted.
Not here: what a run makes of such an image (`kill_points.py`).

The loss model is the strictest that POSIX allows: a file keeps the bytes of its last fsync, a folder the names of its last
fsync, and whatever was never fsynced is not there.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

COUNTED: Final = ("open", "write", "fsync", "ftruncate", "rename", "replace", "unlink", "mkdir", "rmdir")
TAKES_SPACE: Final = frozenset({"open", "write", "fsync", "rename", "replace", "mkdir"})

Before = Callable[[int, str, tuple[Any, ...]], None]
"""Called with the number of the operation (from 0), its name and its arguments, before it is done."""


class FileOperations:
    """Counts the writing operations of this process below `root`."""

    def __init__(self, root: Path, before: Before | None = None, after: Before | None = None) -> None:
        self.root = str(root)
        self.count = 0
        self._before, self._after = before, after
        self._real = {name: getattr(os, name) for name in COUNTED}

    @contextmanager
    def watched(self) -> Iterator["FileOperations"]:
        """Count while the context is open."""
        for name in COUNTED:
            setattr(os, name, self._counting(name))
        try:
            yield self
        finally:
            for name, real in self._real.items():
                setattr(os, name, real)

    def _counting(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not self._is_ours(name, args, options):
                return self._real[name](*args, **options)
            number, self.count = self.count, self.count + 1
            if self._before:
                self._before(number, name, args)
            result = self._real[name](*args, **options)
            if self._after:
                self._after(number, name, (*args, result))
            return result

        return call

    def _is_ours(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if name in ("write", "fsync", "ftruncate"):
            return path_of(args[0]).startswith(self.root)
        if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
        if options.get("dir_fd") is not None:
            return path_of(options["dir_fd"]).startswith(self.root)
        return str(os.fspath(args[0])).startswith(self.root)


def path_of(handle: int) -> str:
    """Return what an open file or folder is called now."""
    return os.readlink(f"/proc/self/fd/{handle}")


class Disk:
    """What of a folder would survive a power cut."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, tuple[int, bool]]] = {}
        for folder in (root, *(item for item in root.rglob("*") if item.is_dir())):
            self._take_folder(folder)
        for file in (item for item in root.rglob("*") if item.is_file()):
            self._files[file.stat().st_ino] = file.read_bytes()

    def after(self, _number: int, name: str, args: tuple[Any, ...]) -> None:
        """Take in one operation that was done."""
        if name == "open" and args[1] & os.O_EXCL:
            self._files.pop(os.fstat(args[-1]).st_ino, None)
        elif name == "mkdir":
            self._folders.pop(os.stat(args[0]).st_ino, None)
        elif name == "fsync":
            path = Path(path_of(args[0]))
            if path.is_dir():
                self._take_folder(path)
            elif path.exists():
                self._files[path.stat().st_ino] = path.read_bytes()

    def write_image(self, target: Path) -> None:
        """Write what survives into `target`."""
        self._write(self._root.stat().st_ino, target)

    def _take_folder(self, folder: Path) -> None:
        entries = {item.name: (item.stat().st_ino, item.is_dir()) for item in folder.iterdir()}
        self._folders[folder.stat().st_ino] = entries

    def _write(self, inode: int, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for name, (child, is_folder) in self._folders.get(inode, {}).items():
            if is_folder:
                self._write(child, target / name)
            else:
                (target / name).write_bytes(self._files.get(child, b""))


class Images:
    """Takes the images of a run, each different one once."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._disk = Disk(root)
        self.found: dict[str, list[tuple[str, int]]] = {}
        """By name of the image folder: every (fault, operation) that leaves it."""

    def before(self, number: int, name: str, args: tuple[Any, ...]) -> None:
        """Take what a stop just before this operation leaves."""
        self._add("kill", number, lambda target: shutil.copytree(self._root, target))
        self._add("lost", number, self._disk.write_image)
        if name == "write":
            half = bytes(args[1])[: len(args[1]) // 2]
            self._add("torn", number, lambda target: self._torn(target, path_of(args[0]), half))

    def after(self, number: int, name: str, args: tuple[Any, ...]) -> None:
        """Take in what was done."""
        self._disk.after(number, name, args)

    def _torn(self, target: Path, path: str, half: bytes) -> None:
        shutil.copytree(self._root, target)
        with (target / Path(path).relative_to(self._root)).open("ab") as file:
            file.write(half)

    def _add(self, fault: str, number: int, write: Callable[[Path], Any]) -> None:
        staged = self._folder / "staged"
        write(staged)
        name = digest_of_tree(staged)
        if name in self.found:
            shutil.rmtree(staged)
        else:
            staged.rename(self._folder / name)
        self.found.setdefault(name, []).append((fault, number))


def digest_of_tree(root: Path) -> str:
    """Return a digest over all names and bytes below `root`."""
    hasher = hashlib.sha256()
    for item in sorted(root.rglob("*")):
        hasher.update(f"{item.relative_to(root)}|{item.is_dir()}|".encode())
        hasher.update(hashlib.sha256(item.read_bytes() if item.is_file() else b"").digest())
    return hasher.hexdigest()[:24]


def failing(first: int, code: int, *, is_lasting: bool, names: frozenset[str] = TAKES_SPACE) -> Before:
    """Return a `before` that raises `OSError(code)` at the first such operation from number `first` on, once or ever after."""
    has_failed: list[int] = []

    def before(number: int, name: str, _args: tuple[Any, ...]) -> None:
        if number >= first and name in names and (is_lasting or not has_failed):
            has_failed.append(number)
            raise OSError(code, errno.errorcode[code])

    return before
