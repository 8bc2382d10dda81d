"""The tree against the vectors of the certificate-transparency project; the file against crashes and other processes."""

import hashlib
import json
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spice_enterprise import durable
from spice_enterprise.audit import checkpoints, log
from spice_enterprise.audit.log import TransparencyLog, Tree, leaf_hash, root
from spice_enterprise.audit.records import parse
from spice_enterprise.errors import IntegrityError, StoreError
from spice_enterprise.records import AuditEvent

LEAVES = [
    bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {
    (1, 1): [],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
STEP = AuditEvent(event="guardrail.step", run="job", data=(("step", 1),))
ENDED = AuditEvent(event="run.ended", run="job")


@pytest.mark.parametrize("size", range(9))
def test_roots_of_the_reference_tree(size: int) -> None:
    assert root(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_of_the_reference_tree(index: int, size: int) -> None:
    proof = log.inclusion_proof(LEAVES[:size], index)
    assert [item.hex() for item in proof] == INCLUSION[index, size]
    assert log.verify_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_consistency_proofs_of_the_reference_tree(old: int, new: int) -> None:
    proof = log.consistency_proof(LEAVES[:new], old)
    assert [item.hex() for item in proof] == CONSISTENCY[old, new]
    assert log.verify_consistency((old, bytes.fromhex(ROOTS[old])), (new, bytes.fromhex(ROOTS[new])), proof)


def test_proofs_are_asked_for_inside_the_tree_only() -> None:
    for wrong in (-1, 8):
        with pytest.raises(IndexError):
            log.inclusion_proof(LEAVES, wrong)
    for wrong in (0, 9):
        with pytest.raises(IndexError):
            log.consistency_proof(LEAVES, wrong)
    assert not log.verify_inclusion(LEAVES[0], 8, 8, [], root(LEAVES))
    assert not log.verify_consistency((0, root([])), (8, root(LEAVES)), [])


def test_a_tree_keeps_only_a_logarithm_of_hashes() -> None:
    tree = Tree()
    for number in range(1000):
        tree.append(leaf_hash(b"%d" % number))
    assert tree.root() == root([b"%d" % number for number in range(1000)])
    assert len(tree._peaks) == (1000).bit_count()


# --- the file ---------------------------------------------------------------------------------------------------------


def lines_of(workspace) -> list:
    return [parse(line) for line in workspace.lines()]


def test_the_first_record_opens_the_log_and_each_names_the_leaf_before(empty) -> None:
    leaf = empty.log.append(STEP)
    empty.log.append(STEP)
    opened, first, second = lines_of(empty)
    assert (opened.event, opened.seq, opened.prev) == ("log.opened", 0, "sha256:" + hashlib.sha256(b"").hexdigest())
    assert (first.seq, second.seq, second.prev) == (1, 2, leaf)
    assert leaf == "sha256:" + leaf_hash(empty.lines()[1]).hex()


def test_a_refused_event_leaves_no_trace(empty) -> None:
    with pytest.raises(StoreError):
        empty.log.append(AuditEvent(event="guardrail.step", run="job", data=(("why", "some words"),)))
    assert not empty.records.exists()


def test_it_is_on_disk_before_append_returns(empty, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(durable.os, "fsync", lambda handle: synced.append(handle))
    empty.log.append(STEP)
    assert synced


def test_another_log_object_goes_on_where_the_first_stands(empty) -> None:
    other = empty.open_log()
    for turn in range(4):
        (empty.log if turn % 2 else other).append(STEP)
    assert [record.seq for record in lines_of(empty)] == [0, 1, 2, 3, 4]
    assert empty.findings() == []


def _append_many(folder: Path, count: int) -> None:
    mine = TransparencyLog(folder, origin="spice.audit/test", key=bytes(range(32)), actor="a", clock=lambda: datetime.now(UTC))
    for _ in range(count):
        mine.append(ENDED)


def test_processes_take_turns(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(tmp_path / "audit", 10)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    records = [parse(line) for line in (tmp_path / "audit" / "records.jsonl").read_bytes().splitlines()]
    assert [record.seq for record in records] == list(range(31))


def test_a_torn_tail_is_cut_off_and_reported(empty) -> None:
    empty.log.append(STEP)
    with empty.records.open("ab") as file:
        file.write(b'{"actor":{"auth"')
    for writer in (empty.open_log(), empty.log):
        writer.append(STEP)
    events = [(record.event, dict(record.data)) for record in lines_of(empty)]
    assert events[2] == ("incident.opened", {"kind": "torn_tail", "dropped_bytes": 16})
    assert [name for name, _ in events] == ["log.opened", "guardrail.step", "incident.opened", "guardrail.step", "guardrail.step"]
    assert empty.findings() == []


def test_a_file_with_nothing_but_a_torn_line_opens_as_new(empty) -> None:
    empty.records.parent.mkdir()
    empty.records.write_bytes(b"half")
    empty.log.append(STEP)
    assert [record.event for record in lines_of(empty)] == ["log.opened", "incident.opened", "guardrail.step"]


def test_a_write_that_fails_half_way_is_made_good(empty, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.log.append(STEP)

    def half(path: Path, lines: list[bytes]) -> None:
        with path.open("ab") as file:
            file.write(lines[0][:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "append_lines", half)
        with pytest.raises(OSError, match="No space"):
            empty.log.append(STEP)
    empty.log.append(STEP)
    assert [record.event for record in lines_of(empty)][2:] == ["incident.opened", "guardrail.step"]
    assert empty.findings() == []


def test_a_clock_that_goes_back_does_not_take_the_log_along(empty) -> None:
    empty.log.append(STEP)
    empty.clock.now -= timedelta(hours=1)
    empty.log.append(STEP)
    times = [record.ts for record in lines_of(empty)]
    assert times == sorted(times)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_decision_is_signed_for_at_once(empty) -> None:
    empty.log.append(STEP)
    assert empty.notes == []
    empty.log.append(ENDED)
    (note,) = empty.notes
    head = checkpoints.parse(note.read_bytes()).head
    assert (note.name, head.size, head.root) == ("3.note", 3, root(empty.lines()))


def test_256_records_are_signed_for(empty) -> None:
    log_at_rest = empty.open_log(clock=lambda: datetime(2026, 11, 22, tzinfo=UTC))
    for _ in range(256):
        log_at_rest.append(STEP)
    assert [note.name for note in empty.notes] == ["256.note"]


def test_a_minute_is_signed_for_and_not_less(empty) -> None:
    moments = iter([0, 0, 0, 59.999, 59.999, 60, 60])  # each append looks more than once
    still = empty.open_log(clock=lambda: datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=next(moments)))
    still.append(STEP)
    still.append(STEP)
    assert empty.notes == []
    still.append(STEP)
    assert [note.name for note in empty.notes] == ["4.note"]


def test_a_decision_that_a_crash_left_unsigned_is_signed_for_later(empty, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "sign", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            empty.log.append(ENDED)
    assert empty.kinds() == {"CHECKPOINT_SIG"}
    empty.open_log().append(STEP)
    assert [note.name for note in empty.notes] == ["3.note"]
    assert empty.findings() == []


@pytest.mark.parametrize("attack", ["edit", "truncate", "empty", "other_key"])
def test_it_does_not_go_on_from_a_file_that_was_changed(workspace, attack: str) -> None:
    lines = workspace.lines()
    key = bytes(32) if attack == "other_key" else bytes(range(32))
    if attack == "edit":
        lines[1] = lines[1].replace(b'"step":1', b'"step":2')
    workspace.write({"truncate": lines[:-1], "empty": []}.get(attack, lines))
    with pytest.raises(IntegrityError) as caught:
        workspace.open_log(key).append(STEP)
    assert caught.value.code == "E_AUDIT_CHAIN"
    assert "does not extend the head signed in 9.note" in caught.value.message


def test_it_notices_when_the_file_shrinks_or_is_rewritten_under_it(empty) -> None:
    for _ in range(3):
        empty.log.append(STEP)
    lines = empty.lines()
    empty.write(lines[:2])
    with pytest.raises(IntegrityError, match="shorter"):
        empty.log.append(STEP)
    empty.write([*lines, lines[-1]])
    with pytest.raises(IntegrityError, match="record 4 does not continue the log"):
        empty.log.append(STEP)
    assert json.loads(lines[-1])["seq"] == 3
