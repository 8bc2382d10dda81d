"""The loop on fakes: learn, alarm, go back, halt, crash and continue."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from spice_enterprise.loop import LoopParts, LoopResult, LoopSettings, chunks_of_step, self_play
from spice_enterprise.protocols import DeliveryProof, Monitor, Progress
from spice_enterprise.records import AdapterVersion, Alert, Chunk, RolloutGroup, Step
from spice_enterprise.store import Commit, RunStore
from spice_enterprise.testing import (
    FakePlayer,
    FakeTrainer,
    LineIngestor,
    MemoryAudit,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
    StepMonitor,
)


class World:
    """One run on fakes, whose files outlive a crash."""

    def __init__(
        self,
        folder: Path,
        *,
        alarms: tuple[int, ...] = (),
        max_restores: int = 3,
        steps: int = 6,
        monitors: Callable[[], tuple[Monitor, ...]] | None = None,
    ) -> None:
        self.store = RunStore(folder)
        self.player, self.trainer = FakePlayer(), FakeTrainer()
        self.audit, self.window = MemoryAudit(), MemoryWindow()
        self.sampler = ScriptedSampler(lambda prompt, random: "x")
        self.settings = LoopSettings(run="r", steps=steps, chunks_per_step=2, seed=0, max_restores=max_restores)
        self.monitors = monitors or (lambda: (StepMonitor(alarms),))
        self.lines: list[Progress] = []

    def play(self) -> LoopResult:
        parts = LoopParts(
            player=self.player,
            sampler=self.sampler,
            trainer=self.trainer,
            monitors=self.monitors(),
            audit=self.audit,
            window=self.window,
        )
        return self_play(chunks(), parts, self.store, self.settings, self.lines.append)


def chunks() -> tuple[Chunk, ...]:
    files = {f"{i}.txt": f"fact {i}\nfact {i} b\n".encode() for i in range(5)}
    return LineIngestor().ingest(MemorySource(files), lambda _: None).train


def test_a_healthy_run_saves_a_version_per_step(tmp_path: Path) -> None:
    world = World(tmp_path)
    result = world.play()
    assert result.version.step == 6
    assert result.alerts == ()
    assert [v.step for v in world.store.all(AdapterVersion)] == [0, 1, 2, 3, 4, 5, 6]
    assert world.sampler.adapter_digest == result.version.digest
    assert world.audit.names() == {"checkpoint.saved": 7, "guardrail.step": 6}
    assert world.lines[-1].done == world.lines[-1].total == 6


def test_each_version_names_its_parent_and_its_step(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.play()
    versions = world.store.all(AdapterVersion)
    steps = {s.step_id: s.number for s in world.store.all(Step)}
    for before, after in pairwise(versions):
        assert after.parent_adapter_id == before.adapter_id
        assert steps[after.step_id or ""] == after.step


def test_an_alarm_goes_back_and_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, alarms=(3,))
    result = world.play()
    assert [a.step for a in result.alerts] == [3]
    assert result.open_alerts == ()
    assert len(world.trainer.restored) == 1
    assert 3 not in {v.step for v in world.store.all(AdapterVersion)}
    assert result.version.step == 6
    assert world.store.last_commit().restores == 1  # type: ignore[union-attr]  # just played


def test_too_many_alarms_halt_with_the_alarm_open(tmp_path: Path) -> None:
    world = World(tmp_path, alarms=(2, 3, 4), max_restores=1)
    result = world.play()
    assert [a.step for a in result.open_alerts] == [3]
    assert world.store.last_commit().is_halted  # type: ignore[union-attr]
    assert result.version.step == 1
    assert world.play().version == result.version, "a halted run stays halted"


class Counting:
    """Alarms at the fifth step it has seen, and then asks for a halt."""

    def __init__(self) -> None:
        self.seen = 0

    def check(self, step: Step, groups: Sequence[RolloutGroup]) -> list[Alert]:
        self.seen += 1
        if self.seen != 5:
            return []
        (alert,) = StepMonitor([step.number]).check(step, groups)
        return [replace(alert, action="halt")]

    def state(self) -> int:
        return self.seen

    def load(self, state: int) -> None:
        self.seen = state


def test_a_monitor_over_many_steps_remembers_them_across_a_restart(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole", monitors=lambda: (Counting(),), steps=8)
    expected = whole.play()
    assert [a.step for a in expected.open_alerts] == [5], "an alert that asks for a halt halts at once"
    first = World(tmp_path / "parts", monitors=lambda: (Counting(),), steps=3)
    first.play()
    second = World(tmp_path / "parts", monitors=lambda: (Counting(),), steps=8)
    second.trainer = first.trainer
    assert [a.step for a in second.play().open_alerts] == [5]


def test_an_alarm_in_the_first_step_leaves_the_untrained_start(tmp_path: Path) -> None:
    result = World(tmp_path, alarms=(1,), max_restores=0).play()
    assert result.version.step_id is None


class Crash(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


@pytest.mark.parametrize("point", ["journal", "put", "commit"])
@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_crash_at_any_file_of_any_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, number: int
) -> None:
    reference = World(tmp_path / "whole")
    expected = reference.play()
    world = World(tmp_path / "crashed")
    original, seen = getattr(RunStore, point), []

    def crash(store: RunStore, *args: object) -> object:
        seen.append(1)
        if store is world.store and len(seen) == number:
            raise Crash
        return original(store, *args)

    monkeypatch.setattr(RunStore, point, crash)
    with pytest.raises(Crash):
        world.play()
    monkeypatch.setattr(RunStore, point, original)
    again = World(tmp_path / "crashed")
    again.trainer = world.trainer
    assert again.play().version == expected.version
    assert again.store.all(Step) == reference.store.all(Step)
    assert again.store.all(AdapterVersion) == reference.store.all(AdapterVersion)


def crash_after_start(original: Callable[[RunStore, Commit], None], store: RunStore, commit: Commit) -> None:
    if commit.number:
        raise Crash
    original(store, commit)


def test_a_resumed_step_is_not_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, steps=2)
    original = RunStore.commit
    monkeypatch.setattr(RunStore, "commit", lambda store, commit: crash_after_start(original, store, commit))
    with pytest.raises(Crash):
        world.play()
    monkeypatch.setattr(RunStore, "commit", original)
    again = World(tmp_path, steps=2)
    again.play()
    assert [step for step, _ in again.player.played] == [2]


def test_every_chunk_once_per_pass() -> None:
    pool = chunks()
    played = [c.chunk_id for n in range(1, 5) for c in chunks_of_step(pool, n, 2, 0)]
    assert len(set(played)) == len(pool) == 8
    assert played != [c.chunk_id for n in range(1, 5) for c in chunks_of_step(pool, n, 2, 1)]
    assert chunks_of_step(pool, 3, 20, 0)[:8] != []


class Proving(ScriptedSampler):
    """Measures a version when it serves another one than before."""

    proof: DeliveryProof | None = None

    def publish(self, version: AdapterVersion | None) -> None:
        before = self.adapter_digest
        super().publish(version)
        if self.adapter_digest != before:
            self.proof = DeliveryProof(
                adapter_digest=self.adapter_digest, gap_nats=0.0, limit_nats=1.0, moved_nats=0.0, followed=None
            )


def test_a_version_that_is_served_already_is_not_logged_as_delivered_again(tmp_path: Path) -> None:
    world = World(tmp_path, steps=4, alarms=(3,))
    world.sampler = Proving(lambda prompt, random: "x")
    world.trainer = FakeTrainer(losses={2: float("nan")})
    world.play()
    assert [step.is_applied for step in world.store.all(Step)] == [True, False, True, True]
    delivered = [dict(event.data)["step"] for event in world.audit.events if event.event == "adapter.delivered"]
    assert delivered == [0, 1, 4], "step 2 was withheld, step 3 went back to what was served"
