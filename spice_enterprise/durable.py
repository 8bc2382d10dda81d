"""Files that are either wholly there or not there at all.

In: bytes and a path.
Out: a file or directory that survives a crash: staged, fsynced, renamed, parent fsynced.
Refuses: to leave a half-written file under its final name. A failed fsync is never retried: pages may be gone.
Not here: what the bytes mean.
"""

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
LEFTOVERS = (".tmp", ".gone")


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make the content of `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make `path` and what is missing above it, each entry durable in its parent."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_directory(folder.parent)


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` under `path` atomically and durably. Raises `OSError`; the old file stays on any failure."""
    make_folder(path.parent)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_new(staged, data, mode=mode)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` durably into a file that is not there yet. Not atomic: for what is renamed afterwards."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _write_all(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    """Write straight to the file: a buffer would try again behind our back when it is closed on a full disk."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a staged directory, fsync all of it, then rename it to `path`.

    An existing `path` is kept and the staged copy dropped: versions are immutable. Raises whatever `fill` raises.
    """
    make_folder(path.parent)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    staged.mkdir()
    try:
        fill(staged)
        for item in sorted(staged.rglob("*")):
            fsync_directory(item) if item.is_dir() else fsync_file(item)
        fsync_directory(staged)
        if not path.exists():
            staged.rename(path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    fsync_directory(path.parent)


def append_lines(path: Path, lines: list[bytes]) -> None:
    """Append whole lines and fsync. A crash can leave only a torn last line, which `read_lines` drops.

    Raises `OSError`; what was appended is cut off again then, so that the next line does not continue half of this one.
    """
    make_folder(path.parent)
    is_new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        try:
            _write_all(handle, b"".join(line + b"\n" for line in lines))
            os.fsync(handle)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    if is_new:
        fsync_directory(path.parent)


def read_lines(path: Path) -> list[bytes]:
    """Return the complete lines of `path` (none when it does not exist), without a torn tail."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].splitlines()


def drop_torn_tail(path: Path) -> int:
    """Cut an incomplete last line off and return how many bytes went."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    torn = len(data) - (data.rfind(b"\n") + 1)
    if torn:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(handle, len(data) - torn)
            os.fsync(handle)
        finally:
            os.close(handle)
    return torn


def sweep(folder: Path) -> None:
    """Remove what a killed process left staged or half removed in `folder`. Call it with the folder to yourself."""
    for item in folder.glob(".*"):
        if item.suffix in LEFTOVERS:
            shutil.rmtree(item) if item.is_dir() else item.unlink()


def load_or_create_secret(path: Path, size_bytes: int = 32) -> bytes:
    """Return the secret in `path`, making a random one (mode 0600) the first time."""
    if not path.exists():
        write_file(path, secrets.token_bytes(size_bytes), mode=PRIVATE)
    return path.read_bytes()
