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
from pathlib import Path

PRIVATE = 0o600


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


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` under `path` atomically and durably. Raises `OSError`; the old file stays on any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a staged directory, fsync all of it, then rename it to `path`.

    An existing `path` is kept and the staged copy dropped: versions are immutable. Raises whatever `fill` raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Append whole lines and fsync. A crash can leave only a torn last line, which `read_lines` drops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
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
        with path.open("r+b") as file:
            file.truncate(len(data) - torn)
            file.flush()
            os.fsync(file.fileno())
    return torn


def load_or_create_secret(path: Path, size_bytes: int = 32) -> bytes:
    """Return the secret in `path`, making a random one (mode 0600) the first time."""
    if not path.exists():
        write_file(path, secrets.token_bytes(size_bytes), mode=PRIVATE)
    return path.read_bytes()
