"""Attacks on a bundle: each must give its finding, and a true bundle none."""

import base64
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from spice_enterprise.audit import checkpoints
from spice_enterprise.audit.log import TransparencyLog, leaf_hash, root
from spice_enterprise.audit.verify import Finding, verify
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import AuditEvent, NamedDigest

INSIDER = bytes(range(32))
OTHER_KEY = bytes(32)
ORIGIN = "spice.audit/test"


def rechain(lines: list[bytes]) -> list[bytes]:
    """What somebody does who can compute hashes: number and chain the records anew."""
    leaf, fresh = "sha256:" + root([]).hex(), []
    for seq, line in enumerate(lines):
        raw = {**json.loads(line), "seq": seq, "prev": leaf}
        fresh.append(json.dumps(raw, sort_keys=True, separators=(",", ":")).encode())
        leaf = "sha256:" + leaf_hash(fresh[-1]).hex()
    return fresh


def resign(workspace, key: bytes = INSIDER) -> None:
    """What somebody does who holds the log key: sign every head anew."""
    lines = workspace.lines()
    for note in workspace.notes:
        size = min(int(note.stem), len(lines))
        note.unlink()
        head = checkpoints.Head(origin=ORIGIN, size=size, root=root(lines[:size]))
        note.with_name(f"{size}.note").write_bytes(checkpoints.sign(head, key))


def anchor(workspace) -> dict[str, object]:
    lines = workspace.lines()
    return {"size": len(lines), "root": base64.b64encode(root(lines)).decode()}


def test_a_true_bundle_has_no_findings(workspace) -> None:
    workspace.set_trust(anchors=[anchor(workspace)], policy_digests=["sha256:" + "ab" * 32])
    assert workspace.findings() == []
    assert verify(str(workspace.root / "audit"), str(workspace.trust)) == []


def test_an_exported_audit_folder_alone_has_no_findings(workspace, tmp_path) -> None:
    shutil.copytree(workspace.root / "audit", tmp_path / "bundle" / "audit")
    assert verify(tmp_path / "bundle", workspace.trust) == []


@pytest.mark.parametrize("index", range(9))
def test_an_edit_by_an_outsider(workspace, index: int) -> None:
    lines = workspace.lines()
    lines[index] = lines[index].replace(b"service:test", b"service:tess")
    workspace.write(lines)
    assert {"CHAIN", "ROOT"} <= workspace.kinds() if index < 8 else workspace.kinds() == {"ROOT", "FORK", "CHECKPOINT_SIG"}


def test_an_edit_that_is_no_record_any_more(workspace) -> None:
    lines = workspace.lines()
    lines[4] = lines[4][:-1]
    workspace.write(lines)
    assert Finding(kind="PARSE", name="record 4", detail="audit record: not one canonical JSON value") in workspace.findings()


def test_a_record_dropped(workspace) -> None:
    lines = workspace.lines()
    del lines[4]
    workspace.write(lines)
    assert {"SEQ", "CHAIN", "ROOT", "TRUNCATED"} <= workspace.kinds()
    assert Finding(kind="SEQ", name="record 4", detail="numbered 5, expected 4") in workspace.findings()


def test_a_record_dropped_and_the_rest_chained_anew(workspace) -> None:
    lines = workspace.lines()
    del lines[1]
    workspace.write(rechain(lines))
    assert {"ROOT", "TRUNCATED"} <= workspace.kinds()


def test_records_swapped(workspace) -> None:
    lines = workspace.lines()
    lines[1], lines[4] = lines[4], lines[1]
    workspace.write(lines)
    assert {"SEQ", "CHAIN", "ROOT", "CLOCK"} <= workspace.kinds()


def test_a_record_added_by_an_outsider(workspace) -> None:
    lines = workspace.lines()
    forged = json.loads(lines[6])
    workspace.write(rechain([*lines, json.dumps(forged).encode()]))
    assert "CHECKPOINT_SIG" in workspace.kinds()


def test_an_insider_who_edits_chains_and_signs_anew_is_caught_by_an_anchor(workspace) -> None:
    workspace.set_trust(anchors=[anchor(workspace)])
    lines = workspace.lines()
    lines[1] = lines[1].replace(b'"step":1', b'"step":2')
    workspace.write(rechain(lines))
    resign(workspace)
    found = [finding for finding in workspace.findings() if finding.name == "anchor 9"]
    assert [finding.kind for finding in found] == ["ROOT", "FORK"]


def test_the_tail_and_the_last_checkpoint_dropped(workspace) -> None:
    workspace.set_trust(anchors=[anchor(workspace)])
    workspace.write(workspace.lines()[:-2])
    for note in workspace.notes[-2:]:
        note.unlink()
    assert workspace.kinds() == {"TRUNCATED", "POINTER"}
    workspace.set_trust(anchors=[])
    assert workspace.kinds() == {"POINTER"}


def test_an_empty_log(workspace) -> None:
    workspace.write([])
    assert Finding(kind="TRUNCATED", name="record 0", detail="the log is empty") in workspace.findings()


def test_a_torn_last_line(workspace) -> None:
    with workspace.records.open("ab") as file:
        file.write(b"{")
    assert workspace.findings() == [Finding(kind="PARSE", name="record 9", detail="the last line is torn")]


def test_a_fork_under_the_same_key(workspace) -> None:
    other = workspace.open_log(folder="elsewhere")
    for _ in range(3):
        other.append(AuditEvent(event="run.ended", run="other"))
    note = workspace.root / "elsewhere" / "checkpoints" / "3.note"
    shutil.copy(note, workspace.root / "audit" / "checkpoints" / "3-b.note")
    assert [(f.kind, f.name) for f in workspace.findings()] == [
        ("ROOT", "checkpoints/3-b.note"),
        ("FORK", "checkpoints/3-b.note"),
        ("FORK", "checkpoints/3.note"),
    ]


def test_a_whole_foreign_log_under_this_name(workspace) -> None:
    shutil.rmtree(workspace.root / "audit")
    workspace.open_log(OTHER_KEY).append(AuditEvent(event="run.ended", run="job"))
    assert {"CHECKPOINT_SIG", "POINTER"} <= workspace.kinds()


def test_a_record_of_another_log(workspace) -> None:
    foreign = TransparencyLog(workspace.root / "other", origin="spice.audit/other", key=INSIDER, actor="a", clock=workspace.clock)
    foreign.append(AuditEvent(event="heartbeat", run="job"))
    line = (workspace.root / "other" / "records.jsonl").read_bytes().splitlines()[1]
    workspace.write(rechain([*workspace.lines(), line]))
    assert Finding(kind="FOREIGN_RECORD", name="record 9", detail="belongs to another log") in workspace.findings()


def test_a_checkpoint_of_another_log_or_not_one_at_all(workspace) -> None:
    head = checkpoints.Head(origin="spice.audit/other", size=3, root=bytes(32))
    workspace.notes[0].write_bytes(checkpoints.sign(head, INSIDER))
    workspace.notes[1].write_bytes(b"hello")
    assert [(f.kind, f.detail) for f in workspace.findings()] == [
        ("PARSE", "not a checkpoint"),
        ("CHECKPOINT_SIG", "of another log"),
    ]


def test_the_clock_of_one_record_set_back(workspace) -> None:
    lines = workspace.lines()
    lines[4] = lines[4].replace(b"2026-11-21T", b"2026-11-20T")
    workspace.write(rechain(lines))
    resign(workspace)
    assert [(f.kind, f.name) for f in workspace.findings() if f.kind != "POINTER"] == [("CLOCK", "record 4")]


def test_records_of_one_moment_are_in_order(empty) -> None:
    still = empty.open_log(clock=lambda: datetime(2026, 11, 22, tzinfo=UTC))
    still.append(AuditEvent(event="run.ended", run="job"))
    assert empty.findings() == []


def test_too_many_records_under_no_checkpoint(empty) -> None:
    still = empty.open_log(clock=lambda: datetime(2026, 11, 22, tzinfo=UTC))
    for _ in range(256):
        still.append(AuditEvent(event="guardrail.step", run="job"))
    assert empty.findings() == []
    empty.notes[0].unlink()
    assert only(empty, "CHECKPOINT_SIG") == "no good checkpoint covers 257 records"


def test_a_key_outside_its_window(workspace) -> None:
    keys = json.loads(workspace.trust.read_bytes())["log_keys"]
    workspace.set_trust(log_keys=[{**keys[0], "valid_until": "2026-11-21T00:00:00.000000Z"}])
    assert "signed by a key that was not valid then" in {finding.detail for finding in workspace.findings()}


# --- the state machine ------------------------------------------------------------------------------------------------


def only(workspace, kind: str) -> str:
    """Return the detail of the one finding, which must be of this kind."""
    (finding,) = workspace.findings()
    assert finding.kind == kind
    return finding.detail


def test_a_promotion_without_a_gate(empty) -> None:
    empty.move("adapter_one")
    assert only(empty, "GATE") == "adapter_one: no gate decided on this digest"


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE", "pass", ""])
def test_a_promotion_of_what_the_gate_did_not_pass(empty, verdict: str) -> None:
    empty.gate("adapter_one", verdict)
    empty.move("adapter_one")
    assert only(empty, "GATE") == f"adapter_one: the gate said {verdict}"


def test_a_pass_for_another_adapter_or_after_the_fact_does_not_count(empty) -> None:
    empty.gate("adapter_two")
    empty.move("adapter_one", gate_id="gate_adapter_two")
    empty.gate("adapter_one")
    assert only(empty, "GATE") == "adapter_one: no gate decided on this digest"


def test_a_later_fail_outweighs_the_pass_that_a_promotion_names(empty) -> None:
    empty.gate("adapter_one", "PASS", "gate_1")
    empty.gate("adapter_one", "FAIL", "gate_2")
    empty.move("adapter_one", gate_id="gate_1")
    assert only(empty, "GATE") == "adapter_one: the gate said FAIL"


def test_a_gate_under_a_policy_nobody_trusts(workspace) -> None:
    workspace.set_trust(policy_digests=["sha256:" + "cd" * 32])
    assert {f.detail for f in workspace.findings()} == {
        f"adapter_{n}: the gate decided under a policy that is not trusted" for n in ("one", "two")
    }


def test_a_hidden_promotion(empty) -> None:
    empty.gate("adapter_one")
    empty.move("adapter_one", generation=2)
    assert only(empty, "POINTER_SEQ") == "prod: generation 2 is not the next"


def test_a_promotion_that_replaces_what_was_not_there(empty) -> None:
    empty.gate("adapter_one")
    empty.move("adapter_one", replaces="sha256:" + "e" * 64)
    assert "POINTER_SEQ" in empty.kinds()


def test_a_move_that_does_not_say_what_it_moves(empty) -> None:
    empty.log.append(AuditEvent(event="promotion.executed", run="job", data=(("alias", "prod"),)))
    assert only(empty, "PARSE") == "promotion.executed does not say which alias moves, to what"


def test_a_rollback_to_what_was_never_promoted(workspace) -> None:
    workspace.gate("adapter_three")
    workspace.move("adapter_three", "rollback.executed")
    assert only(workspace, "ROLLBACK_TARGET") == "adapter_three: was never promoted to prod"


def test_a_rollback_to_what_was_withdrawn(workspace) -> None:
    workspace.log.append(AuditEvent(event="adapter.retired", run="job", subject=(workspace.adapter("adapter_two"),)))
    workspace.move("adapter_two", "rollback.executed")
    assert only(workspace, "ROLLBACK_TARGET") == "adapter_two: was withdrawn"


# --- pointers and files -----------------------------------------------------------------------------------------------


def test_a_pointer_moved_by_hand(workspace) -> None:
    two = workspace.adapter("adapter_two")
    workspace.write_pointer("prod", digest=two.digest, adapter_id="adapter_two")
    assert [(f.kind, f.detail) for f in workspace.findings()] == [
        ("POINTER", "digest is not what the log says"),
        ("POINTER", "adapter_id is not what the log says"),
    ]


def test_a_pointer_signed_by_another_key(workspace) -> None:
    workspace.write_pointer("prod", key=OTHER_KEY)
    assert only(workspace, "POINTER") == "is not signed by a trusted log key"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"alias":"prod"}', b"[" * 100_000])
def test_a_pointer_that_is_none(workspace, content: bytes) -> None:
    (workspace.root / "registry" / "prod.json").write_bytes(content)
    assert only(workspace, "POINTER") == "is not a pointer"


def test_a_pointer_with_a_signature_of_the_wrong_kind(workspace) -> None:
    path = workspace.root / "registry" / "prod.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "signature": 7}), encoding="utf-8")
    assert only(workspace, "POINTER") == "is not signed by a trusted log key"


def test_a_pointer_missing_and_one_too_many(workspace) -> None:
    (workspace.root / "registry" / "prod.json").rename(workspace.root / "registry" / "staging.json")
    assert [(f.name, f.detail) for f in workspace.findings()] == [
        ("registry/prod.json", "is missing, though the log moved it"),
        ("registry/staging.json", "points, though the log never moved it"),
    ]


@pytest.mark.parametrize("attack", ["change", "grow", "remove", "link"])
def test_an_adapter_file_swapped(workspace, attack: str, tmp_path) -> None:
    path = workspace.root / "job" / "adapters" / "adapter_one" / "adapter.safetensors"
    data = path.read_bytes()
    path.unlink()
    if attack == "link":
        (tmp_path / "same").write_bytes(data)
        path.symlink_to(tmp_path / "same")
    elif attack != "remove":
        path.write_bytes(data[:-1] + b"?" if attack == "change" else data + b"?")
    assert only(workspace, "FILE_DIGEST") == "adapter.safetensors is missing or changed"


def test_an_adapter_swapped_together_with_its_manifest(workspace) -> None:
    folders = workspace.root / "job" / "adapters"
    shutil.rmtree(folders / "adapter_one")
    shutil.copytree(folders / "adapter_two", folders / "adapter_one")
    assert only(workspace, "FILE_DIGEST") == "manifest.json is not the one the log names"


def test_a_file_added_to_an_adapter(workspace) -> None:
    (workspace.root / "job" / "adapters" / "adapter_one" / "extra.py").write_text("", encoding="utf-8")
    assert only(workspace, "FILE_DIGEST") == "extra.py is not in the manifest"


@pytest.mark.parametrize("path", ["../../../../trust.json", "/etc/passwd", "..", ""])
def test_a_manifest_cannot_make_us_read_elsewhere(workspace, path: str) -> None:
    manifest = workspace.root / "job" / "adapters" / "adapter_one" / "manifest.json"
    manifest.write_text(json.dumps({"schema": 1, "files": [{"path": path, "sha256": "", "size_bytes": 0}]}), encoding="utf-8")
    assert only(workspace, "FILE_DIGEST") == "manifest.json is missing or unreadable"


def test_one_adapter_id_with_two_digests(workspace) -> None:
    other = NamedDigest(role="adapter", name="adapter_one", digest="sha256:" + "9" * 64)
    workspace.log.append(AuditEvent(event="adapter.registered", run="job", subject=(other,)))
    assert only(workspace, "FILE_DIGEST") == "adapter_one had another digest before"


# --- what cannot be read ----------------------------------------------------------------------------------------------


def test_an_unreadable_bundle_or_trust_file(workspace, tmp_path) -> None:
    for bundle, trust in ((tmp_path / "home", workspace.trust), (workspace.root, tmp_path / "none.json")):
        with pytest.raises(IntegrityError) as caught:
            verify(bundle, trust)
        assert caught.value.code == "E_BUNDLE"


def test_verification_needs_no_heavy_library() -> None:
    code = (
        "import sys, spice_enterprise.audit.verify, spice_enterprise.audit as a; a.open_trail;"
        "print([m for m in ('mlflow', 'torch', 'transformers', 'spacy', 'sqlalchemy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
