"""Files and directories that prove their own content.

In: files by name; any value as JSON.
Out: a directory with a `manifest.json` of SHA-256 digests, or a file of one JSON line and the digest of that line: staged,
    fsynced and renamed; read back only when all match.
Refuses: a missing, changed, truncated or added file, a manifest that is not ours (E_STATE_CORRUPT).
Not here: what the bytes mean; files that only grow (`durable.append_lines`).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from spice_enterprise import durable
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import FileDigest, canonical_json, decode, sha256_hex

MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1
BLOCK_BYTES: Final = 1 << 20


def write_value(path: Path, value: object) -> None:
    """Write `value` as one canonical JSON line and the SHA-256 of that line. Raises `OSError` when the disk refuses."""
    line = canonical_json(value)
    durable.write_file(path, line + b"\n" + sha256_hex(line).encode() + b"\n")


def read_value(path: Path) -> Any:
    """Return the JSON value in `path`. Raises `IntegrityError` (E_STATE_CORRUPT) when it is missing or not what was written."""
    try:
        line, digest, rest = path.read_bytes().split(b"\n")
    except OSError:
        raise corrupt(path, "it is missing or unreadable") from None
    except ValueError:
        raise corrupt(path, "it is cut off or torn") from None
    if digest != sha256_hex(line).encode() or rest:
        raise corrupt(path, "it does not match its digest")
    return json.loads(line)


def digest_file(path: Path) -> FileDigest:
    """Return name, SHA-256 and size of one file. Raises `OSError`."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return FileDigest(path=path.name, sha256=hasher.hexdigest(), size_bytes=path.stat().st_size)


def digest_bytes(files: Mapping[str, bytes]) -> tuple[FileDigest, ...]:
    """Return the manifest that `files` will have, sorted by name."""
    return tuple(
        FileDigest(path=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in sorted(files.items())
    )


def write_manifest(directory: Path) -> tuple[FileDigest, ...]:
    """Write `manifest.json` over every file that lies in `directory` now, and return its entries."""
    entries = _digest_directory(directory)
    _write_manifest(directory, entries)
    return entries


def save_directory(path: Path, files: Mapping[str, bytes]) -> tuple[FileDigest, ...]:
    """Write `files` under `path`, crash-safe, read them back, and return the manifest.

    A directory that is already there is kept when it holds exactly these bytes and replaced when it does not: that is
    the torn or rejected remainder of an earlier attempt. Raises `OSError` when the disk refuses.
    """
    wanted = digest_bytes(files)
    if not _holds(path, wanted):
        remove_directory(path)

    def fill(staged: Path) -> None:
        for name, data in files.items():
            durable.write_new(staged / name, data)
        _write_manifest(staged, wanted)

    durable.write_directory(path, fill)
    if verify_directory(path) != wanted:
        raise IntegrityError(f"{path.name}: what was written does not read back", code="E_STATE_CORRUPT", hint="check the disk")
    return wanted


def verify_directory(path: Path) -> tuple[FileDigest, ...]:
    """Recompute every digest in `path` and return the manifest.

    Raises `IntegrityError` (E_STATE_CORRUPT) naming the first file that is missing, extra or changed.
    """
    entries = _read_complete_manifest(path)
    for entry in entries:
        if digest_file(path / entry.path) != entry:
            raise _changed(path, entry.path)
    return entries


def read_verified(path: Path) -> dict[str, bytes]:
    """Return the files of `path` by name, having verified the very bytes returned. Raises `IntegrityError`."""
    files: dict[str, bytes] = {}
    for entry in _read_complete_manifest(path):
        files[entry.path] = (path / entry.path).read_bytes()
        if digest_bytes({entry.path: files[entry.path]}) != (entry,):
            raise _changed(path, entry.path)
    return files


def remove_directory(path: Path) -> None:
    """Remove a saved directory: renamed out of sight first, so that a crash leaves no half of it under its name."""
    if not path.exists():
        return
    hidden = path.with_name(f".{path.name}.gone")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    durable.fsync_directory(path.parent)
    shutil.rmtree(hidden)


def _holds(path: Path, wanted: tuple[FileDigest, ...]) -> bool:
    try:
        return verify_directory(path) == wanted
    except IntegrityError:
        return False


def _write_manifest(directory: Path, entries: tuple[FileDigest, ...]) -> None:
    durable.write_new(directory / MANIFEST, canonical_json({"schema": SCHEMA, "files": entries}))


def _read_complete_manifest(path: Path) -> tuple[FileDigest, ...]:
    """Return the manifest, having seen that exactly its files are there."""
    entries = _read_manifest(path)
    found = {item.name for item in path.iterdir()} - {MANIFEST}
    listed = {entry.path for entry in entries}
    if found != listed:
        name = sorted(found ^ listed)[0]
        raise corrupt(path, f"{name} is {'missing' if name in listed else 'not in the manifest'}")
    return entries


def _changed(path: Path, name: str) -> IntegrityError:
    return corrupt(path, f"{name} does not match its digest")


def _digest_directory(directory: Path) -> tuple[FileDigest, ...]:
    return tuple(digest_file(item) for item in sorted(directory.iterdir()) if item.name != MANIFEST)


def _read_manifest(path: Path) -> tuple[FileDigest, ...]:
    try:
        data = json.loads((path / MANIFEST).read_bytes())
        if data["schema"] != SCHEMA or set(data) != {"schema", "files"}:
            raise corrupt(path, f"{MANIFEST} has another schema")
        return tuple(decode(FileDigest, entry) for entry in data["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise corrupt(path, f"{MANIFEST} is missing or unreadable") from None


def corrupt(path: Path, what: str) -> IntegrityError:
    """Return the error that says what is wrong with a saved file or directory."""
    return IntegrityError(f"{path.name}: {what}", code="E_STATE_CORRUPT", hint="the copy on disk is damaged")
