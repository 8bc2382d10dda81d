"""Saved directories: any change is found, the newest valid state wins, nothing starts afresh over a damaged run."""

import pytest

from spice_enterprise import sealed
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import AdapterVersion, digest_of
from spice_enterprise.training import checkpoints

FILES = {"adapter_model.safetensors": bytes(range(256)) * 4, "adapter_config.json": b"{}"}


def make_version(step, files=FILES):
    manifest = sealed.digest_bytes(files)
    return AdapterVersion(
        role="shared", parent_adapter_id=None, step_id=None, step=step, base_model="m", base_digest="b",
        corpus_digest="c", config_digest="k", manifest=manifest, digest=digest_of(manifest),
    )  # fmt: skip


def save_state(run_dir, step):
    version = make_version(step)
    sealed.save_directory(checkpoints.adapter_dir(run_dir, version.adapter_id), FILES)
    progress = checkpoints.Progress(limits=(64, 128), parent_digest=None)
    state = checkpoints.LearnerState(version=version, optimiser=b"o" * 100, progress=progress)
    sealed.save_directory(checkpoints.state_dir(run_dir, step), state.files())
    return version


def test_what_is_saved_reads_back(tmp_path):
    manifest = sealed.save_directory(tmp_path / "a", FILES)
    assert sealed.read_verified(tmp_path / "a") == FILES
    assert sealed.verify_directory(tmp_path / "a") == manifest
    assert [entry.path for entry in manifest] == sorted(FILES)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "zero", "delete"])
def test_every_kind_of_damage_is_found(tmp_path, name, damage):
    sealed.save_directory(tmp_path / "a", FILES)
    file = tmp_path / "a" / name
    data = file.read_bytes()
    if damage == "flip":
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "truncate":
        file.write_bytes(data[:-1])
    elif damage == "zero":
        file.write_bytes(bytes(len(data)))
    else:
        file.unlink()
    with pytest.raises(IntegrityError) as caught:
        sealed.read_verified(tmp_path / "a")
    assert caught.value.code in ("E_STATE_CORRUPT", "E_RECORD")


def test_a_file_nobody_listed_is_found(tmp_path):
    sealed.save_directory(tmp_path / "a", FILES)
    (tmp_path / "a" / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"adapter_model\.bin is not in the manifest"):
        sealed.read_verified(tmp_path / "a")


def test_saving_again_replaces_a_damaged_copy_and_keeps_a_good_one(tmp_path):
    sealed.save_directory(tmp_path / "a", FILES)
    before = (tmp_path / "a").stat().st_ino
    sealed.save_directory(tmp_path / "a", FILES)
    assert (tmp_path / "a").stat().st_ino == before
    (tmp_path / "a" / "adapter_config.json").write_bytes(b"[]")
    sealed.save_directory(tmp_path / "a", FILES)
    assert sealed.read_verified(tmp_path / "a") == FILES


def test_the_newest_valid_state_wins_by_number(tmp_path):
    for step in (9, 10, 2):
        save_state(tmp_path, step)
    assert checkpoints.state_steps(tmp_path) == [10, 9, 2]
    assert checkpoints.state_to_resume(tmp_path).version.step == 10
    (checkpoints.state_dir(tmp_path, 10) / "optimiser.safetensors").write_bytes(b"p" * 100)
    assert checkpoints.state_to_resume(tmp_path).version.step == 9


def test_a_state_whose_adapter_is_damaged_is_passed_over(tmp_path):
    save_state(tmp_path, 1)
    newest = save_state(tmp_path, 2)
    (checkpoints.adapter_dir(tmp_path, newest.adapter_id) / "adapter_config.json").unlink()
    assert checkpoints.state_to_resume(tmp_path).version.step == 1


def test_only_damaged_states_are_an_error_and_none_at_all_is_not(tmp_path):
    assert checkpoints.state_to_resume(tmp_path) is None
    for step in (1, 2):
        save_state(tmp_path, step)
        (checkpoints.state_dir(tmp_path, step) / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match=r"none of the 2 learner states .*; newest: step 2") as caught:
        checkpoints.state_to_resume(tmp_path)
    assert caught.value.code == "E_STATE_CORRUPT"


def test_an_adapter_must_be_its_records(tmp_path):
    version = save_state(tmp_path, 1)
    assert checkpoints.read_adapter(tmp_path, version) == FILES
    other = {**FILES, "adapter_config.json": b"[]"}
    sealed.remove_directory(checkpoints.adapter_dir(tmp_path, version.adapter_id))
    sealed.save_directory(checkpoints.adapter_dir(tmp_path, version.adapter_id), other)  # valid, but another's
    with pytest.raises(IntegrityError, match="its files are not those of the record") as caught:
        checkpoints.read_adapter(tmp_path, version)
    assert caught.value.code == "E_ADAPTER_DIGEST"
    assert caught.value.record_id == version.adapter_id
