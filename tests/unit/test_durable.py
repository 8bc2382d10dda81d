"""Files are wholly there or not at all."""

import os
import stat
from pathlib import Path

import pytest

from spice_enterprise import durable


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    durable.write_file(path, b"old")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        durable.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "one").write_bytes(b"1")
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        durable.write_directory(tmp_path / "versions" / "v1", half)
    assert list((tmp_path / "versions").iterdir()) == []


def test_a_published_directory_is_immutable(tmp_path: Path) -> None:
    durable.write_directory(tmp_path / "v1", lambda folder: (folder / "one").write_bytes(b"1") and None)
    durable.write_directory(tmp_path / "v1", lambda folder: (folder / "one").write_bytes(b"2") and None)
    assert (tmp_path / "v1" / "one").read_bytes() == b"1"


def test_a_torn_tail_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    durable.append_lines(path, [b"one", b"two"])
    with path.open("ab") as file:
        file.write(b"thr")
    assert durable.read_lines(path) == [b"one", b"two"]
    assert durable.drop_torn_tail(path) == 3
    durable.append_lines(path, [b"three"])
    assert durable.read_lines(path) == [b"one", b"two", b"three"]


def test_a_secret_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "k"
    first = durable.load_or_create_secret(path)
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert durable.load_or_create_secret(path) == first
