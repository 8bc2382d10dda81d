"""Directories that prove their own content: adapters, learner states, the converted base model.

In: files by name.
Out: a directory with a `manifest.json` of SHA-256 digests, staged, fsynced and renamed; read back only when all match.
Refuses: a missing, changed, truncated or added file, a manifest that is not ours, an adapter that is not its record's.
Not here: what the bytes mean (`qlora.py`, `trainer.py`).

Layout under a run directory: `adapters/<adapter_id>/` and `states/step-000012/`. The newest valid state wins by its
number, never by the clock; one that does not verify is passed over for the one before it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from spice_enterprise import durable
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import AdapterVersion, FileDigest, canonical_json, decode, digest_of

MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1
BLOCK_BYTES: Final = 1 << 20
STATE_PREFIX: Final = "step-"


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
    (directory / MANIFEST).write_bytes(canonical_json({"schema": SCHEMA, "files": entries}))
    return entries


def save_directory(path: Path, files: Mapping[str, bytes]) -> tuple[FileDigest, ...]:
    """Write `files` under `path`, crash-safe, read them back, and return the manifest.

    A directory that is already there is kept when it holds exactly these bytes and replaced when it does not: that is
    the torn or rejected remainder of an earlier attempt. Raises `OSError` when the disk refuses.
    """
    wanted = digest_bytes(files)
    if path.exists() and not _holds(path, wanted):
        shutil.rmtree(path)

    def fill(staged: Path) -> None:
        for name, data in files.items():
            (staged / name).write_bytes(data)
        write_manifest(staged)

    durable.write_directory(path, fill)
    if verify_directory(path) != wanted:
        raise IntegrityError(f"{path.name}: what was written does not read back", code="E_STATE_CORRUPT", hint="check the disk")
    return wanted


def verify_directory(path: Path) -> tuple[FileDigest, ...]:
    """Recompute every digest in `path` and return the manifest.

    Raises `IntegrityError` (E_STATE_CORRUPT) naming the first file that is missing, extra or changed.
    """
    entries = _read_manifest(path)
    found = {item.name for item in path.iterdir()} - {MANIFEST}
    listed = {entry.path for entry in entries}
    if found != listed:
        name = sorted(found ^ listed)[0]
        raise _corrupt(path, f"{name} is {'missing' if name in listed else 'not in the manifest'}")
    for entry in entries:
        if digest_file(path / entry.path) != entry:
            raise _corrupt(path, f"{entry.path} does not match its digest")
    return entries


def read_verified(path: Path) -> dict[str, bytes]:
    """Return the files of `path` by name, having verified the very bytes returned. Raises `IntegrityError`."""
    entries = _read_manifest(path)
    verify_directory(path)
    files = {entry.path: (path / entry.path).read_bytes() for entry in entries}
    if digest_bytes(files) != tuple(sorted(entries, key=lambda entry: entry.path)):
        raise _corrupt(path, "it changed while being read")
    return files


def adapter_dir(run_dir: Path, adapter_id: str) -> Path:
    """Return where the version `adapter_id` lies: each version has a path of its own, never used twice."""
    return run_dir / "adapters" / adapter_id


def read_adapter(run_dir: Path, version: AdapterVersion) -> dict[str, bytes]:
    """Return the files of `version`. Raises `IntegrityError` (E_ADAPTER_DIGEST) unless they are what the record names."""
    try:
        files = read_verified(adapter_dir(run_dir, version.adapter_id))
    except IntegrityError as error:
        raise _wrong_adapter(version, error.message) from None
    if digest_bytes(files) != version.manifest:
        raise _wrong_adapter(version, "its files are not those of the record")
    if digest_of(version.manifest) != version.digest:
        raise _wrong_adapter(version, "the record's digest is not that of its manifest")
    return files


def state_dir(run_dir: Path, step: int) -> Path:
    """Return where the learner state after step `step` lies."""
    return run_dir / "states" / f"{STATE_PREFIX}{step:06d}"


def state_steps(run_dir: Path) -> list[int]:
    """Return the step numbers that have a state directory, newest first, valid or not."""
    parent = run_dir / "states"
    if not parent.is_dir():
        return []
    names = (item.name.removeprefix(STATE_PREFIX) for item in parent.iterdir() if item.name.startswith(STATE_PREFIX))
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def valid_states(run_dir: Path) -> Iterator[tuple[int, AdapterVersion, dict[str, bytes]]]:
    """Yield (step, adapter version, state files) of every state that verifies together with its adapter, newest first."""
    for step in state_steps(run_dir):
        try:
            files = read_verified(state_dir(run_dir, step))
            version = decode(AdapterVersion, json.loads(files["version.json"]))
            read_adapter(run_dir, version)
        except (IntegrityError, KeyError, ValueError):
            continue
        yield step, version, files


def newest_valid_state(run_dir: Path) -> tuple[int, AdapterVersion, dict[str, bytes]] | None:
    """Return the newest state that verifies, or None when the run has none at all.

    Raises `IntegrityError` (E_STATE_CORRUPT) when there are states and not one of them verifies: starting afresh
    without a word would throw the run away.
    """
    steps = state_steps(run_dir)
    if not steps:
        return None
    for found in valid_states(run_dir):
        return found
    raise IntegrityError(
        f"none of the {len(steps)} learner states under {run_dir.name}/states verifies (newest: step {steps[0]})",
        code="E_STATE_CORRUPT",
        hint="restore the run directory from a backup, or start a run under another name",
    )


def read_names(path: Path) -> list[str]:
    """Return a JSON list of names. Raises `IntegrityError` (E_STATE_CORRUPT)."""
    try:
        names = json.loads(path.read_bytes())
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _corrupt(path, "not a list of names")
    return names


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


def _digest_directory(directory: Path) -> tuple[FileDigest, ...]:
    return tuple(digest_file(item) for item in sorted(directory.iterdir()) if item.name != MANIFEST)


def _read_manifest(path: Path) -> tuple[FileDigest, ...]:
    try:
        data = json.loads((path / MANIFEST).read_bytes())
        if data["schema"] != SCHEMA or set(data) != {"schema", "files"}:
            raise _corrupt(path, f"{MANIFEST} has another schema")
        return tuple(decode(FileDigest, entry) for entry in data["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise _corrupt(path, f"{MANIFEST} is missing or unreadable") from None


def _corrupt(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{path.name}: {what}", code="E_STATE_CORRUPT", hint="the copy on disk is damaged")


def _wrong_adapter(version: AdapterVersion, what: str) -> IntegrityError:
    return IntegrityError(
        f"adapter of step {version.step} refused: {what}",
        code="E_ADAPTER_DIGEST",
        record_id=version.adapter_id,
        hint="the files were changed after they were saved; restore them or use another version",
    )
