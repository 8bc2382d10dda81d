"""Promotions on the real log and the real registry: what verifies, and what a crash in the middle leaves behind."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from spice_enterprise import JobResult, Parts, SpiceAdapterJob
from spice_enterprise.audit import open_trail
from spice_enterprise.audit.verify import verify
from spice_enterprise.errors import ConfigError, PolicyError, ReleaseError
from spice_enterprise.policy import load_gate
from spice_enterprise.protocols import OnProgress
from spice_enterprise.records import AdapterVersion, Alert, CheckResult, Exam, GateReport
from spice_enterprise.release import registry as registry_module
from spice_enterprise.testing import (
    FakePlayer,
    FakeTrainer,
    FixedExaminer,
    LineIngestor,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
)

FILES = {f"{i}.txt": f"fact {i} stands\nfact {i} b stands\n".encode() for i in range(10)}


class PassingJudge:
    """A PASS under the shipped policy, with one result."""

    def judge(self, version: AdapterVersion, exam: Exam, alerts: Sequence[Alert], on_progress: OnProgress) -> GateReport:
        result = CheckResult(
            check="transfer_gain", metric="transfer_accuracy", verdict="PASS", value=0.1, low=0.05, high=0.15,
            limit=0.02, n=100, clusters=30, detail="",
        )  # fmt: skip
        return GateReport(
            adapter_id=version.adapter_id,
            adapter_digest=version.digest,
            policy_digest=load_gate().digest(),
            exam_digest=exam.digest,
            primary="transfer_gain",
            results=(result,),
            verdict="PASS",
            reasons=(),
        )


class World:
    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.trainer = FakeTrainer()

    def job(self, name: str = "first", **settings: object) -> SpiceAdapterJob:
        parts = Parts(
            source=MemorySource(FILES),
            ingestor=LineIngestor(),
            player=FakePlayer(),
            sampler=ScriptedSampler(lambda prompt, random: "x"),
            base_sampler=ScriptedSampler(lambda prompt, random: "x", is_base=True),
            trainer=self.trainer,
            monitors=(),
            examiner=FixedExaminer(),
            judge=PassingJudge(),
            window=MemoryWindow(),
        )
        chosen = {"selfplay": {"steps": 2, "chunks_per_step": 2}, "workspace": str(self.workspace), "name": name, **settings}
        return SpiceAdapterJob("memory", parts=parts, **chosen)  # type: ignore[arg-type]  # plain settings

    def findings(self) -> list[str]:
        return [f"{f.kind} {f.name} {f.detail}" for f in verify(self.workspace, self.workspace / "trust.json")]


def adapter_of(result: JobResult) -> str:
    assert result.version is not None
    return result.version.adapter_id


def test_a_promoted_workspace_verifies_clean(tmp_path: Path) -> None:
    world = World(tmp_path / "ws")
    first = world.job().run()
    world.job().promote(adapter_of(first), "staging")
    world.job().promote(adapter_of(first), "prod")
    second = world.job("second").run()
    assert adapter_of(second) != adapter_of(first)
    back = world.job("second").rollback("sandbox")
    assert back.adapter_id == adapter_of(first)
    assert world.findings() == []
    assert len(open_trail(world.workspace).events("promotion.executed")) == 4


def test_staging_is_not_skipped(tmp_path: Path) -> None:
    world = World(tmp_path / "ws")
    first = world.job().run()
    with pytest.raises(ReleaseError) as caught:
        world.job().promote(adapter_of(first), "prod")
    assert caught.value.exit_status() == 2


class Crash(BaseException):
    """Stands for a kill."""


def test_a_crash_between_the_record_and_the_pointer_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "ws")
    original = registry_module.write_file

    def crash(path: Path, data: bytes) -> None:
        raise Crash

    monkeypatch.setattr(registry_module, "write_file", crash)
    with pytest.raises(Crash):
        world.job().run()
    monkeypatch.setattr(registry_module, "write_file", original)
    result = world.job().run()
    assert result.promotion is not None
    assert len(open_trail(world.workspace).events("promotion.executed")) == 1
    assert world.findings() == []


def test_a_crash_after_the_pointer_keeps_the_record(tmp_path: Path) -> None:
    world = World(tmp_path / "ws")
    result = world.job().run()
    (world.workspace / "first" / "records" / "promotions.jsonl").unlink()
    world.job().run()
    assert world.job()._store.lineage(adapter_of(result)).descendants[-1] == result.promotion


def test_an_expired_policy_begins_nothing(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "policies" / "gate.yaml").read_text(encoding="utf-8")
    old = tmp_path / "gate.yaml"
    old.write_text(text.replace("approved_on: 2026-11-20", "approved_on: 2020-01-01, valid_until: 2020-12-31"), encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        World(tmp_path / "ws").job(policies={"gate": str(old)}).run()
    assert caught.value.code == "E_POLICY_EXPIRED"


def test_an_override_below_a_scalar_is_one_clear_line(tmp_path: Path) -> None:
    from spice_enterprise.config import load_config

    path = tmp_path / "c.yaml"
    path.write_text("corpus: docs\nselfplay: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="selfplay: expected keys and values"):
        load_config(path, {"selfplay.steps": 2})
