"""Adapters laid out for a sampler that reads files: every version under a new name and path, private to this user.

In: the verified files of a version.
Out: a directory `v<number>-<digest>` that holds exactly these bytes; the number is never used twice.
Refuses: bytes that do not read back as the version's own.
Not here: which version is served (`vllm_sampler.py`), where versions are kept for good (`checkpoints.py`).

A path that was used before would let a sampler serve what it remembers of it. The directory lies in memory where there
is some, belongs to one process (it holds a lock on it) and goes with it; what a killed process left is swept.
"""

import fcntl
import os
import secrets
import shutil
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from spice_enterprise.errors import DeliveryError
from spice_enterprise.records import AdapterVersion
from spice_enterprise.sealed import digest_bytes

MEMORY_DIR: Final = Path("/dev/shm")  # noqa: S108 - the names under it are random and private
PREFIX: Final = "spice-"
LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidAdapter:
    """One version on the shelf. Name, number and path are new each time, even for the same version."""

    name: str
    number: int
    path: Path
    digest: str


class AdapterShelf:
    """A private directory of one process for the adapters it serves. Removed by `close` or with the process."""

    def __init__(self, parent: Path) -> None:
        """Sweep what dead processes left under `parent` and make a directory there. Raises `OSError`."""
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        self._root, self._lock = _make_root(parent)
        self._count = 0
        self._finalizer = weakref.finalize(self, _remove, self._root, self._lock)

    def lay(self, version: AdapterVersion, files: Mapping[str, bytes]) -> LaidAdapter:
        """Write `files` and read them back. Raises `DeliveryError` (E_ADAPTER_DIGEST) and leaves nothing when they differ."""
        self._count += 1
        name = f"v{self._count}-{version.digest.removeprefix('sha256:')[:12]}"
        path = self._root / name
        path.mkdir(mode=0o700)
        try:
            for file, data in files.items():
                _write_private(path / file, data)
            if digest_bytes({item.name: item.read_bytes() for item in path.iterdir()}) != version.manifest:
                raise DeliveryError(
                    f"the adapter of step {version.step} does not read back from where it is served",
                    code="E_ADAPTER_DIGEST",
                    record_id=version.adapter_id,
                    hint="check memory and disk; the version before is still served",
                )
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return LaidAdapter(name=name, number=self._count, path=path, digest=version.digest)

    def remove(self, adapter: LaidAdapter) -> None:
        """Remove the files of `adapter`; its number stays used."""
        shutil.rmtree(adapter.path, ignore_errors=True)

    def close(self) -> None:
        """Remove the whole directory. Idempotent."""
        self._finalizer()


def pick_parent(setting: str | None, *, run_dir: Path, needed_bytes: int) -> Path:
    """Return where shelves go: `setting`, else memory that has room for `needed_bytes`, else the run directory."""
    if setting is not None:
        return Path(setting)
    has_memory = MEMORY_DIR.is_dir() and os.access(MEMORY_DIR, os.W_OK)
    return MEMORY_DIR if has_memory and shutil.disk_usage(MEMORY_DIR).free >= needed_bytes else run_dir / "served"


def _make_root(parent: Path) -> tuple[Path, IO[bytes]]:
    """Make the directory under a hidden name and give it its own once it is locked: a sweep never sees it unlocked."""
    name = PREFIX + secrets.token_hex(8)
    hidden = parent / f".{name}"
    hidden.mkdir(mode=0o700)
    lock = (hidden / LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return hidden.rename(parent / name), lock


def _write_private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _sweep(parent: Path) -> None:
    """Remove the shelves of this user that nobody holds any more. What cannot be looked into is left alone."""
    for item in parent.glob(f"{PREFIX}*"):
        # whose it is comes first: the shelf of another user cannot even be looked into
        with suppress(OSError):
            if not item.is_symlink() and item.stat().st_uid == os.getuid() and (item / LOCK).is_file():
                _remove_unless_held(item)


def _remove_unless_held(shelf: Path) -> None:
    with (shelf / LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held: an OSError
        shutil.rmtree(shelf, ignore_errors=True)


def _remove(root: Path, lock: IO[bytes]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    lock.close()
