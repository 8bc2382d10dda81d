"""Adapters on the shelf are private, whole, never under a name twice, and gone with their process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spice_enterprise.errors import DeliveryError
from spice_enterprise.records import AdapterVersion, digest_of
from spice_enterprise.sealed import digest_bytes
from spice_enterprise.training import adapter_shelf
from spice_enterprise.training.adapter_shelf import AdapterShelf, pick_parent

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


def version_of(files):
    manifest = digest_bytes(files)
    return AdapterVersion(
        role="shared", parent_adapter_id=None, step_id=None, step=4, base_model="b", base_digest="b", corpus_digest="c",
        config_digest="k", manifest=manifest, digest=digest_of(manifest),
    )  # fmt: skip


@pytest.fixture
def parent(tmp_path):
    folder = tmp_path / "shelves"
    folder.mkdir()
    return folder


def test_each_time_another_name_number_and_path_and_private(parent):
    shelf, version = AdapterShelf(parent), version_of(FILES)
    first, second = shelf.lay(version, FILES), shelf.lay(version, FILES)
    assert (first.number, second.number) == (1, 2)
    assert first.name == f"v1-{version.digest[7:19]}"
    assert first.path != second.path
    assert first.digest == version.digest
    assert {item.name: item.read_bytes() for item in second.path.iterdir()} == FILES
    for path, mode in ((first.path.parent, 0o700), (first.path, 0o700), (first.path / "adapter_config.json", 0o600)):
        assert path.stat().st_mode & 0o777 == mode
    shelf.remove(first)
    assert not first.path.exists()
    assert shelf.lay(version, FILES).number == 3
    shelf.close()
    shelf.close()
    assert list(parent.iterdir()) == []


def test_bytes_that_are_not_the_versions_are_refused_and_leave_nothing(parent):
    shelf = AdapterShelf(parent)
    with pytest.raises(DeliveryError, match="step 4 does not read back") as caught:
        shelf.lay(version_of(FILES), {**FILES, "adapter_model.safetensors": b"Weights"})
    assert caught.value.code == "E_ADAPTER_DIGEST"
    (root,) = parent.iterdir()
    assert [item.name for item in root.iterdir()] == [adapter_shelf.LOCK]
    shelf.close()


def test_a_full_disk_leaves_nothing(parent, monkeypatch):
    shelf = AdapterShelf(parent)

    def full(path, data):
        raise OSError(28, "no space")

    monkeypatch.setattr(adapter_shelf, "_write_private", full)
    with pytest.raises(OSError, match="no space"):
        shelf.lay(version_of(FILES), FILES)
    (root,) = parent.iterdir()
    assert [item.name for item in root.iterdir()] == [adapter_shelf.LOCK]
    shelf.close()


def test_shelves_of_dead_processes_are_swept_and_those_of_living_ones_are_not(parent):
    living = AdapterShelf(parent)
    code = (
        "import os, sys; from pathlib import Path; from spice_enterprise.training.adapter_shelf import AdapterShelf; "
        "shelf = AdapterShelf(Path(sys.argv[1])); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(parent)], check=True, timeout=60)
    (parent / "other").mkdir()
    assert len(list(parent.iterdir())) == 3
    fresh = AdapterShelf(parent)
    assert {item.name for item in parent.iterdir()} == {"other", living._root.name, fresh._root.name}
    living.close()
    fresh.close()


def test_a_link_is_not_followed_when_sweeping(parent):
    target = parent / "target"
    target.mkdir()
    (target / adapter_shelf.LOCK).write_bytes(b"")
    shelves = parent / "shelves"
    shelves.mkdir()
    (shelves / "spice-link").symlink_to(target)
    AdapterShelf(shelves).close()
    assert target.is_dir()


def test_the_shelf_goes_with_its_process(parent):
    code = (
        "import sys; from pathlib import Path; from spice_enterprise.training.adapter_shelf import AdapterShelf; "
        "shelf = AdapterShelf(Path(sys.argv[1])); print(len(list(Path(sys.argv[1]).iterdir())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(parent)], check=True, timeout=60, capture_output=True, env={**os.environ}
    )  # fmt: skip
    assert done.stdout.strip() == b"1"
    assert list(parent.iterdir()) == []


def test_memory_is_taken_where_there_is_room(parent, monkeypatch):
    monkeypatch.setattr(adapter_shelf, "MEMORY_DIR", parent)
    run_dir = Path("run")
    assert pick_parent("given", run_dir=run_dir, needed_bytes=1) == Path("given")
    assert pick_parent(None, run_dir=run_dir, needed_bytes=1) == parent
    assert pick_parent(None, run_dir=run_dir, needed_bytes=1 << 60) == run_dir / "served"
    monkeypatch.setattr(adapter_shelf, "MEMORY_DIR", parent / "missing")
    assert pick_parent(None, run_dir=run_dir, needed_bytes=1) == run_dir / "served"


def test_a_shelf_of_another_user_is_not_looked_into_and_harms_nobody(parent, monkeypatch):
    theirs = parent / "spice-theirs"
    theirs.mkdir()
    (theirs / adapter_shelf.LOCK).write_bytes(b"")
    is_file = Path.is_file

    def refused(path):
        if path.parent == theirs:
            raise PermissionError(13, "not yours")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    AdapterShelf(parent).close()
    assert theirs.is_dir()
    monkeypatch.setattr(os, "getuid", lambda: theirs.stat().st_uid + 1)
    monkeypatch.setattr(Path, "is_file", lambda path: pytest.fail("looked into") if path.parent == theirs else is_file(path))
    AdapterShelf(parent).close()
    assert theirs.is_dir()
