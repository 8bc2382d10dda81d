"""The whole job on fakes: pass, refuse, inconclusive, alarm, stop and continue, and every refusal to begin."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from spice_enterprise import JobResult, Parts, SpiceAdapterJob
from spice_enterprise.errors import ConfigError, GateNotPassedError, ReleaseError, SpiceError, StoreError
from spice_enterprise.protocols import Played, Progress
from spice_enterprise.records import AdapterVersion, Chunk
from spice_enterprise.testing import (
    FakePlayer,
    FakeTrainer,
    FixedExaminer,
    FixedJudge,
    LineIngestor,
    MemoryAudit,
    MemoryRegistry,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
    StepMonitor,
)

FILES = {f"{i}.txt": f"fact {i} stands\nfact {i} b stands\n".encode() for i in range(10)}


class World:
    """A workspace whose audit log, registry and trainer outlive a job."""

    def __init__(self, workspace: Path, verdict: str = "PASS", alarms: tuple[int, ...] = ()) -> None:
        self.workspace = workspace
        self.audit, self.window, self.registry = MemoryAudit(), MemoryWindow(), MemoryRegistry()
        self.trainer, self.player = FakeTrainer(), FakePlayer()
        self.source = MemorySource(FILES)
        self.verdict, self.alarms = verdict, alarms
        self.progress: list[Progress] = []

    def job(self, **settings: object) -> SpiceAdapterJob:
        parts = Parts(
            source=self.source,
            ingestor=LineIngestor(),
            player=self.player,
            sampler=ScriptedSampler(lambda prompt, random: "x"),
            base_sampler=ScriptedSampler(lambda prompt, random: "x", is_base=True),
            trainer=self.trainer,
            monitors=(StepMonitor(self.alarms),),
            examiner=FixedExaminer(),
            judge=FixedJudge(self.verdict),
            audit=self.audit,
            window=self.window,
            registry=self.registry,
        )
        chosen = {"selfplay": {"steps": 4, "chunks_per_step": 2}, "workspace": str(self.workspace), **settings}
        return SpiceAdapterJob("memory", parts=parts, on_progress=self.progress.append, **chosen)

    def run(self, **settings: object) -> JobResult:
        return self.job(**settings).run()


def test_a_pass_reaches_the_sandbox_and_every_arrow_is_logged(tmp_path: Path) -> None:
    world = World(tmp_path)
    result = world.run()
    assert result.verdict == "PASS"
    assert result.promotion is not None
    assert result.version is not None
    assert world.registry.current("sandbox") == result.promotion
    names = world.audit.names()
    assert names["checkpoint.saved"] == 5
    for event in ("run.started", "corpus.snapshotted", "redaction.applied", "dataset.generated", "eval.completed"):
        assert names[event] == 1, event
    for event in ("gate.decided", "promotion.executed", "adapter.registered", "run.ended"):
        assert names[event] == 1, event
    assert [p.stage for p in world.progress if p.message == "begin"] == ["corpus", "exam", "self-play", "gate", "registry"]


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_anything_but_a_pass_promotes_nothing(tmp_path: Path, verdict: str) -> None:
    world = World(tmp_path, verdict)
    result = world.run()
    assert result.verdict == verdict
    assert result.promotion is None
    assert world.registry.current("sandbox") is None
    with pytest.raises(GateNotPassedError):
        world.job().promote(result.version.adapter_id, "sandbox")  # type: ignore[union-attr]


def test_nothing_learned_is_not_judged(tmp_path: Path) -> None:
    result = World(tmp_path).run(selfplay={"steps": 0})
    assert (result.version, result.report, result.promotion) == (None, None, None)


def test_a_warm_up_with_nothing_to_learn_is_refused_before_a_step_is_made(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(SpiceError) as caught:
        world.run(warmup="facts")
    assert caught.value.code == "E_NO_EXAMPLES"
    assert "stands" not in caught.value.explain()
    assert world.player.played == []


def test_an_open_alarm_reaches_the_gate(tmp_path: Path) -> None:
    result = World(tmp_path, alarms=(2, 3, 4)).run(selfplay={"steps": 9, "chunks_per_step": 2})
    assert result.verdict == "PASS", "three restores are within the policy"
    halted = World(tmp_path / "b", alarms=(2, 3, 4, 5)).run(selfplay={"steps": 9, "chunks_per_step": 2})
    assert halted.verdict == "FAIL"


def test_the_same_job_twice_does_nothing_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    first, second = world.run(), world.run()
    assert second.version == first.version
    assert second.report == first.report
    assert len(world.player.played) == 4
    assert world.audit.names()["gate.decided"] == 1


class StoppingPlayer(FakePlayer):
    """Is interrupted in one step, once."""

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        if step == 3 and not any(s == 3 for s, _ in self.played):
            self.played.append((3, ()))
            raise KeyboardInterrupt
        return super().play(chunks, version, step=step)


def test_a_stopped_job_continues(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.player = StoppingPlayer()
    with pytest.raises(StoreError) as caught:
        world.run()
    assert (caught.value.code, caught.value.exit_status()) == ("E_STOPPED", 75)
    assert world.audit.events[-1].event == "run.ended"
    expected = World(tmp_path / "whole").run()
    assert world.run().version == expected.version


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run()
    with pytest.raises(ConfigError) as caught:
        world.run(selfplay={"steps": 5, "chunks_per_step": 2})
    assert caught.value.code == "E_RUN_CONFIG"
    assert "selfplay.steps" in caught.value.message


def test_changed_documents_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run()
    world.source.files["3.txt"] = b"something else\n"
    with pytest.raises(ConfigError) as caught:
        world.run()
    assert caught.value.code == "E_CORPUS_CHANGED"


def test_a_second_job_on_the_directory_is_refused(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from spice_enterprise.store import RunStore\n"
        "with RunStore(Path(sys.argv[1])).lock():\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path / "job")], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(StoreError) as caught:
                World(tmp_path).run()
        finally:
            process.kill()
    assert (caught.value.code, caught.value.exit_status()) == ("E_LOCKED", 75)


def test_a_window_that_is_down_stops_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.window = MemoryWindow(is_down=True)
    assert world.run().verdict == "PASS"


def test_promote_and_roll_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.run()
    second = world.run(name="second", seed=1)
    assert world.registry.current("sandbox") == second.promotion
    back = world.job(name="second", seed=1).rollback("sandbox")
    assert back.adapter_id == first.version.adapter_id  # type: ignore[union-attr]
    assert back.generation == 3
    assert world.audit.events[-1].event == "rollback.executed"


def test_an_adapter_never_judged_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    version = world.job().train()
    with pytest.raises(ReleaseError) as caught:
        world.job().promote(version.adapter_id, "sandbox")
    assert caught.value.code == "E_NOT_JUDGED"


def test_the_road_of_one_record_in_both_directions(tmp_path: Path) -> None:
    world = World(tmp_path)
    result = world.run()
    store = world.job()._store
    lineage = store.lineage(result.version.adapter_id)  # type: ignore[union-attr]
    prefixes = {record_id.split("_")[0] for record_id in map(_id_of, lineage.ancestors)}
    assert prefixes == {"step", "adapter", "roll", "task", "chunk", "doc"}
    below = {record_id.split("_")[0] for record_id in map(_id_of, lineage.descendants)}
    assert below == {"gate", "promo"}
    document = next(r for r in lineage.ancestors if _id_of(r).startswith("doc_"))
    assert any(_id_of(r) == _id_of(result.promotion) for r in store.lineage(_id_of(document)).descendants)
    with pytest.raises(StoreError) as caught:
        store.lineage("chunk_0")
    assert caught.value.code == "E_UNKNOWN_ID"


def _id_of(record: object) -> str:
    from spice_enterprise.records import id_of

    return id_of(record)


def test_bad_settings_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SpiceAdapterJob("docs", selfplay={"stpes": 3}, seed=-1)
    assert len(caught.value.problems) == 2


def test_a_machine_failure_is_classified_and_logged(tmp_path: Path) -> None:
    world = World(tmp_path)

    class Broken(FakePlayer):
        def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
            raise RuntimeError("private words")

    world.player = Broken()
    with pytest.raises(SpiceError) as caught:
        world.run()
    assert caught.value.code == "E_INTERNAL"
    assert "private" not in caught.value.explain()
    assert dict(world.audit.events[-1].data)["status"] == "E_INTERNAL"


def test_the_report_and_its_json_hold_the_figures(tmp_path: Path) -> None:
    result = World(tmp_path).run()
    data = json.loads((result.run_dir / "report.json").read_bytes())
    assert data["verdict"] == "PASS"
    assert data["documents"] == 10
    assert data["connections_attempted"] == 0
    assert (result.run_dir / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
