"""Pointers: what moves them, what does not, and what a crash or a tamperer leaves."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spice_enterprise import durable
from spice_enterprise.errors import AliasMovedError, GateNotPassedError, IntegrityError, NoSafeVersionError, ReleaseError
from spice_enterprise.policy import load_gate
from spice_enterprise.records import AdapterVersion, CheckResult, GateReport, Promotion
from spice_enterprise.release import connect
from spice_enterprise.release.registry import FileRegistry

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = bytes(range(32))
POLICY = load_gate()
RESULT = CheckResult(
    check="transfer_gain", metric="transfer_accuracy", verdict="PASS", value=0.1, low=0.05, high=0.2, limit=0.02, n=600,
    clusters=120, detail="",
)  # fmt: skip


def _version(name: str) -> AdapterVersion:
    return AdapterVersion(
        role="shared", parent_adapter_id=None, step_id=f"step_{name}", step=1, base_model="b", base_digest="sha256:b",
        corpus_digest="sha256:c", config_digest="sha256:k", manifest=(), digest=f"sha256:{name}",
    )  # fmt: skip


def _report(version: AdapterVersion, **changes: object) -> GateReport:
    report = GateReport(
        adapter_id=version.adapter_id, adapter_digest=version.digest, policy_digest=POLICY.digest(), exam_digest="sha256:e",
        primary="transfer_gain", results=(RESULT,), verdict="PASS", reasons=(),
    )  # fmt: skip
    return replace(report, **changes)  # type: ignore[arg-type]  # test data


def _registry(folder: Path, decided_at: Callable[[str], datetime | None] | None = None, key: bytes = KEY) -> FileRegistry:
    return FileRegistry(folder, key=key, policy=POLICY, clock=lambda: NOW, decided_at=decided_at)


def _leaf(promotion: Promotion) -> str:
    return f"sha256:leaf-{promotion.generation}"


def _promote(registry: FileRegistry, name: str, alias: str = "sandbox") -> Promotion:
    return registry.promote(_version(name), _report(_version(name)), alias, record=_leaf)  # type: ignore[arg-type]  # an alias


A, B = _version("a"), _version("b")


def test_promote_points_and_signs(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    assert registry.current("sandbox") is None
    made = _promote(registry, "a")
    assert registry.current("sandbox") == made
    assert (made.generation, made.replaces, made.kind, made.adapter_digest) == (1, None, "promote", "sha256:a")
    second = _promote(registry, "b")
    assert (second.generation, second.replaces) == (2, "sha256:a")
    content = json.loads((tmp_path / "sandbox.json").read_text())
    assert set(content) == {
        "alias", "generation", "digest", "previous", "adapter_id", "gate_id", "kind", "log_leaf", "at", "signature",
    }  # fmt: skip
    assert content["log_leaf"] == "sha256:leaf-2"
    assert content["at"] == NOW.isoformat()
    assert [move.adapter_digest for move in registry.history("sandbox")] == ["sha256:a", "sha256:b"]


def test_the_move_is_logged_before_it_is_made(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    _promote(registry, "a")

    def look(promotion: Promotion) -> str:
        current = registry.current("sandbox")
        assert current is not None
        assert (current.generation, promotion.generation) == (1, 2)
        return "sha256:leaf"

    registry.promote(B, _report(B), "sandbox", record=look)


def test_a_log_that_cannot_be_written_stops_the_move(tmp_path: Path) -> None:
    registry = _registry(tmp_path)

    def fail(promotion: Promotion) -> str:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        registry.promote(A, _report(A), "sandbox", record=fail)
    assert registry.current("sandbox") is None
    assert _promote(registry, "a").generation == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "FAIL"}, "the gate said FAIL"),
        ({"verdict": "INCONCLUSIVE"}, "the gate said INCONCLUSIVE"),
        ({"adapter_digest": "sha256:b"}, "another adapter"),
        ({"adapter_id": "adapter_b"}, "another adapter"),
        ({"policy_digest": "sha256:p"}, "another policy"),
        ({"results": ()}, "not all of its results do"),
        ({"results": (RESULT, replace(RESULT, verdict="FAIL"))}, "not all of its results do"),
    ],
)
def test_anything_but_a_pass_for_this_digest_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    logged: list[Promotion] = []
    with pytest.raises(GateNotPassedError, match=message) as caught:
        _registry(tmp_path).promote(A, _report(A, **changes), "sandbox", record=lambda p: logged.append(p) or "")  # type: ignore[func-returns-value]  # records the call
    assert caught.value.code == "E_GATE_NOT_PASSED"
    assert caught.value.record_id == A.adapter_id
    assert logged == []
    assert not (tmp_path / "sandbox.json").exists()


@pytest.mark.parametrize("age", [timedelta(days=7, seconds=1), None])
def test_stale_evidence_is_refused(tmp_path: Path, age: timedelta | None) -> None:
    registry = _registry(tmp_path, lambda _: NOW - age if age else None)
    with pytest.raises(GateNotPassedError, match=r"unknown or older than 7 day\(s\)") as caught:
        _promote(registry, "a")
    assert caught.value.code == "E_GATE_STALE"
    asked: list[str] = []
    _promote(_registry(tmp_path, lambda gate_id: asked.append(gate_id) or NOW - timedelta(days=7)), "a")  # type: ignore[func-returns-value]  # records the call
    assert asked == [_report(A).gate_id]


def test_no_alias_is_skipped(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    with pytest.raises(ReleaseError, match="staging comes after sandbox") as caught:
        _promote(registry, "a", "staging")
    assert caught.value.code == "E_PATH"
    _promote(registry, "a")
    with pytest.raises(ReleaseError, match="prod comes after staging"):
        _promote(registry, "a", "prod")
    _promote(registry, "b")
    _promote(registry, "a", "staging")
    assert _promote(registry, "a", "prod").alias == "prod"


def test_what_was_rolled_back_does_not_move_on(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    _promote(registry, "a")
    _promote(registry, "b")
    registry.rollback("sandbox", record=_leaf)
    with pytest.raises(ReleaseError, match="does not stand"):
        _promote(registry, "b", "staging")
    assert _promote(registry, "a", "staging").adapter_digest == "sha256:a"


def test_an_alias_off_the_path_is_refused(tmp_path: Path) -> None:
    policy = POLICY.model_copy(update={"path": ("sandbox",)})
    registry = FileRegistry(tmp_path, key=KEY, policy=policy, clock=lambda: NOW)
    with pytest.raises(ReleaseError, match="staging is not on the policy's path"):
        registry.promote(A, _report(A, policy_digest=policy.digest()), "staging", record=_leaf)


def test_the_same_adapter_twice_is_refused(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    _promote(registry, "a")
    with pytest.raises(ReleaseError, match="names this adapter already") as caught:
        _promote(registry, "a")
    assert caught.value.code == "E_ALREADY_THERE"


def test_a_lost_race_is_told(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    registry.promote(A, _report(A), "sandbox", record=_leaf, expected_generation=0)
    with pytest.raises(AliasMovedError, match="sandbox is at generation 1, expected 0") as caught:
        registry.promote(B, _report(B), "sandbox", record=_leaf, expected_generation=0)
    assert caught.value.exit_status() == 75
    with pytest.raises(AliasMovedError):
        registry.rollback("sandbox", record=_leaf, expected_generation=7)
    assert registry.promote(B, _report(B), "sandbox", record=_leaf, expected_generation=1).generation == 2


def test_rollback_undoes_promotions_one_by_one(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    for name in "abc":
        _promote(registry, name)
    back = registry.rollback("sandbox", record=_leaf)
    assert (back.adapter_digest, back.generation, back.replaces, back.kind) == ("sha256:b", 4, "sha256:c", "rollback")
    assert back.gate_id == _report(B).gate_id
    _promote(registry, "d")
    assert [registry.rollback("sandbox", record=_leaf).adapter_digest for _ in range(2)] == ["sha256:b", "sha256:a"]
    with pytest.raises(NoSafeVersionError, match="no earlier adapter"):
        registry.rollback("sandbox", record=_leaf)
    current = registry.current("sandbox")
    assert current is not None
    assert (current.adapter_digest, current.generation) == ("sha256:a", 7)


def test_rollback_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoSafeVersionError):
        _registry(tmp_path).rollback("prod", record=_leaf)


# --- crashes and tampering --------------------------------------------------------------------------------------------


def test_a_crash_between_pointer_and_history_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = _registry(tmp_path)
    _promote(registry, "a")

    def crash(path: Path, lines: list[bytes]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("spice_enterprise.release.registry.append_lines", crash)
        with pytest.raises(KeyboardInterrupt):
            _promote(registry, "b")
    current = registry.current("sandbox")
    assert current is not None
    assert current.adapter_digest == "sha256:b"
    assert len(durable.read_lines(tmp_path / "sandbox.history.jsonl")) == 1
    assert registry.rollback("sandbox", record=_leaf).adapter_digest == "sha256:a"
    assert [move.generation for move in registry.history("sandbox")] == [1, 2, 3]
    assert len(durable.read_lines(tmp_path / "sandbox.history.jsonl")) == 3


def test_a_crash_before_the_pointer_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = _registry(tmp_path)
    _promote(registry, "a")

    def crash(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("spice_enterprise.release.registry.write_file", crash)
        with pytest.raises(KeyboardInterrupt):
            _promote(registry, "b")
    current = registry.current("sandbox")
    assert current is not None
    assert current.adapter_digest == "sha256:a"
    assert _promote(registry, "b").generation == 2


def test_a_torn_history_line_is_dropped(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    _promote(registry, "a")
    with (tmp_path / "sandbox.history.jsonl").open("ab") as file:
        file.write(b'{"alias": "sand')
    assert _promote(registry, "b").generation == 2
    assert len(registry.history("sandbox")) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d | {"digest": "sha256:evil"},
        lambda d: d | {"generation": 9},
        lambda d: d | {"generation": "2"},
        lambda d: d | {"extra": 1},
        lambda d: {k: v for k, v in d.items() if k != "signature"},
        lambda d: d | {"signature": "00" * 64},
        lambda d: d | {"signature": "zz"},
        lambda d: [d],
    ],
)
def test_an_edited_pointer_is_refused(tmp_path: Path, change: Callable[[dict[str, object]], object]) -> None:
    registry = _registry(tmp_path)
    _promote(registry, "a")
    path = tmp_path / "sandbox.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    for act in (
        lambda: registry.current("sandbox"),
        lambda: _promote(registry, "b"),
        lambda: registry.rollback("sandbox", record=_leaf),
    ):
        with pytest.raises(IntegrityError, match="the pointer sandbox is not what this registry wrote") as caught:
            act()
        assert caught.value.code == "E_POINTER"
        assert caught.value.exit_status() == 5


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 5_000, b'{"alias":"sandbox","alias":"prod"}'])
def test_an_unreadable_pointer_is_refused(tmp_path: Path, content: bytes) -> None:
    registry = _registry(tmp_path)
    (tmp_path / "sandbox.json").write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        registry.current("sandbox")
    assert caught.value.code == "E_POINTER"


def test_a_replayed_a_moved_and_a_lost_pointer_are_refused(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    _promote(registry, "a")
    old = (tmp_path / "sandbox.json").read_bytes()
    _promote(registry, "b")
    (tmp_path / "sandbox.json").write_bytes(old)
    with pytest.raises(IntegrityError, match="older than its own history"):
        registry.current("sandbox")
    (tmp_path / "prod.json").write_bytes(old)
    with pytest.raises(IntegrityError, match="the pointer of another alias"):
        registry.current("prod")
    (tmp_path / "sandbox.json").unlink()
    with pytest.raises(IntegrityError, match="gone, but it has a history"):
        registry.current("sandbox")


def test_a_pointer_of_another_key_is_refused(tmp_path: Path) -> None:
    _promote(_registry(tmp_path), "a")
    with pytest.raises(IntegrityError):
        _registry(tmp_path, key=bytes(32)).current("sandbox")


def test_a_shortened_history_is_refused(tmp_path: Path) -> None:
    registry = _registry(tmp_path)
    for name in "abc":
        _promote(registry, name)
    path = tmp_path / "sandbox.history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (lines[1:], lines[:1], [lines[0], lines[2]], [], [lines[1], lines[0], lines[2]]):
        path.write_bytes(b"".join(kept))
        with pytest.raises(IntegrityError, match="at odds with its history"):
            registry.rollback("sandbox", record=_leaf)


def test_a_bad_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="must be 32 bytes") as caught:
        _registry(tmp_path, key=b"short")
    assert caught.value.code == "E_KEY"


# --- races ------------------------------------------------------------------------------------------------------------


def _race(tmp_path: Path, promoters: int, act: Callable[[FileRegistry, int], object]) -> list[object]:
    outcomes: list[object] = [None] * promoters
    start = threading.Barrier(promoters)

    def run(i: int) -> None:
        registry = _registry(tmp_path)
        start.wait()
        try:
            outcomes[i] = act(registry, i)
        except AliasMovedError as error:
            outcomes[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(promoters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_two_who_saw_the_same_generation_exactly_one_wins(tmp_path: Path) -> None:
    for generation in range(5):
        outcomes = _race(
            tmp_path,
            2,
            lambda registry, i, seen=generation: registry.promote(  # type: ignore[misc]  # a default binds the loop variable
                _version(f"{seen}-{i}"), _report(_version(f"{seen}-{i}")), "sandbox", record=_leaf, expected_generation=seen
            ),
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AliasMovedError", "Promotion"]


def test_no_update_is_lost(tmp_path: Path) -> None:
    made = _race(tmp_path, 8, lambda registry, i: [_promote(registry, f"{i}-{turn}").generation for turn in range(4)])
    assert sorted(generation for row in made for generation in row) == list(range(1, 33))  # type: ignore[attr-defined]  # rows of ints
    history = _registry(tmp_path).history("sandbox")
    assert [move.generation for move in history] == list(range(1, 33))
    assert len({move.adapter_digest for move in history}) == 32


# --- the door ---------------------------------------------------------------------------------------------------------


def test_connect_makes_one_private_key_per_workspace(tmp_path: Path) -> None:
    made = connect(tmp_path).promote(A, _report(A), "sandbox", record=_leaf)
    assert connect(str(tmp_path)).current("sandbox") == made
    key = tmp_path / "keys" / "log.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert datetime.fromisoformat(made.at).tzinfo is not None
