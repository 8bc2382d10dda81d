"""Runs with nothing to learn, and the list of tasks across crashes, on fakes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from spice_enterprise.guardrails.play_rules import GENERAL, PlayMonitor
from spice_enterprise.loop import LoopParts, LoopResult, LoopSettings, self_play
from spice_enterprise.policy import load_guardrails
from spice_enterprise.protocols import VERIFIER_FAILURES, Played, PlayedRollout, Probe, Progress
from spice_enterprise.records import AdapterVersion, Chunk, Outcome, RolloutGroup, Step
from spice_enterprise.store import RunStore
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

POLICY = load_guardrails()


def chunks() -> tuple[Chunk, ...]:
    files = {f"{i}.txt": f"fact {i}\nfact {i} b\n".encode() for i in range(5)}
    return LineIngestor().ingest(MemorySource(files), lambda _: None).train


class Marked(FakePlayer):
    """Plays as the fake does, with every rollout of a role marked alike."""

    def __init__(self, role: str, outcome: Outcome, reason: str) -> None:
        super().__init__()
        self._role, self._outcome, self._reason = role, outcome, reason

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        played = super().play(chunks, version, step=step)
        groups = [self._marked(item.group) for item in played.rollouts]
        is_playable = self._role == "reasoner"
        kept = [group for group in groups if is_playable or group.role == "challenger"]
        return Played(
            groups=tuple(kept) if is_playable else (),
            tasks=played.tasks if is_playable else (),
            rollouts=tuple(PlayedRollout(group=group, is_trained=is_playable) for group in kept),
        )

    def _marked(self, group: RolloutGroup) -> RolloutGroup:
        if group.role != self._role:
            return group
        rows = tuple(replace(r, outcome=self._outcome, reason=self._reason, reward=0.0) for r in group.rollouts)
        return replace(group, rollouts=rows)


class Measuring:
    """A probe that measures before every second step, and says how often."""

    def __init__(self, values: Mapping[int, Mapping[str, float]]) -> None:
        self.values, self.asked = values, list[int]()

    def is_due(self, step: int) -> bool:
        return step in self.values

    def measure(self, version: AdapterVersion, played: Played, *, step: int) -> dict[str, float]:
        self.asked.append(step)
        return dict(self.values[step])


class World:
    """One run on fakes, whose files outlive a crash."""

    def __init__(self, folder: Path, *, steps: int = 6, player: FakePlayer | None = None, probe: Probe | None = None) -> None:
        self.store = RunStore(folder)
        self.player, self.trainer = player or FakePlayer(), FakeTrainer()
        self.audit, self.window, self.probe = MemoryAudit(), MemoryWindow(), probe
        self.sampler = ScriptedSampler(lambda prompt, random: "x")
        self.settings = LoopSettings(run="r", steps=steps, chunks_per_step=2, seed=0, max_restores=3)
        self.monitors = (PlayMonitor(POLICY), StepMonitor(()))
        self.lines: list[Progress] = []

    def play(self) -> LoopResult:
        parts = LoopParts(
            player=self.player,
            sampler=self.sampler,
            trainer=self.trainer,
            monitors=self.monitors,
            audit=self.audit,
            window=self.window,
            probe=self.probe,
        )
        return self_play(chunks(), parts, self.store, self.settings, self.lines.append)

    def listed(self) -> bytes:
        return (self.store.run_dir / "tasks.jsonl").read_bytes()


def test_a_model_that_never_yields_a_valid_task_is_stopped_and_told_what_to_try(tmp_path: Path) -> None:
    world = World(tmp_path, steps=200, player=Marked("challenger", "unparsable", "unparsable"))
    result = world.play()
    (alert,) = [alert for alert in result.open_alerts if alert.monitor == "no_tasks"]
    assert alert.step == POLICY.max_steps_without_task
    assert len(world.player.played) == POLICY.max_steps_without_task, "no step was played after it"
    assert result.version.step_id is None
    assert world.lines[-1].message.startswith("E_NO_TASKS: ")
    assert {line["verdict"] for line in world.store.tasks()} == {"unparsable"}
    assert world.play().open_alerts == result.open_alerts, "a halted run stays halted"


@pytest.mark.parametrize("code", VERIFIER_FAILURES)
def test_a_verifier_that_fails_for_every_answer_halts_at_the_first_step(tmp_path: Path, code: str) -> None:
    world = World(tmp_path, player=Marked("reasoner", "wrong", code))
    (alert,) = world.play().open_alerts
    assert (alert.step, alert.monitor, alert.action) == (1, "verifier", "halt")
    assert world.lines[-1].message.startswith("E_VERIFIER_FAILED: ")
    assert len(world.player.played) == 1


def test_each_step_is_listed_and_shown(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.play()
    lines = list(world.store.tasks())
    assert [line["step"] for line in lines] == [n for n in range(1, 7) for _ in range(4)]
    assert {(line["verdict"], line["pass_rate"], line["is_trained"]) for line in lines} == {
        ("admitted", 0.5, True),
        ("unparsable", None, False),
    }
    assert {line["document_id"] for line in lines} <= {chunk.document_id for chunk in chunks()}
    shown = [json.loads(data) for what, data in world.window.shown if what == "step"]
    assert all(step["valid_rate"] == 0.5 and step["p_frontier"] == 1.0 for step in shown)
    assert not [step for step in shown if any(isinstance(value, str) for value in step.values())]


class Crash(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


@pytest.mark.parametrize("point", ["journal", "put", "list_tasks", "commit", "keep_measured"])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("is_before", [True, False])
def test_each_finished_step_is_listed_once_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, number: int, is_before: bool
) -> None:
    values = {1: {"heldout": 0.3}, 3: {"heldout": 0.4}, 5: {"heldout": 0.5}}
    reference = World(tmp_path / "whole", probe=Measuring(values))
    expected = reference.play()
    world = World(tmp_path / "crashed", probe=Measuring(values))
    original, seen = getattr(RunStore, point), []

    def crash(store: RunStore, *args: object) -> object:
        seen.append(1)
        if len(seen) != number:
            return original(store, *args)
        if not is_before:
            original(store, *args)
        raise Crash

    monkeypatch.setattr(RunStore, point, crash)
    with pytest.raises(Crash):
        world.play()
    monkeypatch.setattr(RunStore, point, original)
    again = World(tmp_path / "crashed", probe=Measuring(values))
    again.trainer = world.trainer
    assert again.play().version == expected.version
    assert again.store.all(Step) == reference.store.all(Step)
    assert again.listed() == reference.listed()


@pytest.mark.parametrize("damage", [b"", b"{torn", b"[1]\n", b'{"step": 9}\n{"step": 1}\n', b"\xff\n", None])
def test_a_list_that_is_gone_or_damaged_is_written_again(tmp_path: Path, damage: bytes | None) -> None:
    reference = World(tmp_path / "whole")
    reference.play()
    first = World(tmp_path / "damaged", steps=4)
    first.play()
    path = first.store.run_dir / "tasks.jsonl"
    path.unlink() if damage is None else path.write_bytes(damage)
    again = World(tmp_path / "damaged")
    again.trainer = first.trainer
    again.play()
    assert again.listed() == reference.listed()


def test_measurements_become_the_steps_own_and_are_made_once(tmp_path: Path) -> None:
    probe = Measuring({1: {"heldout": 0.3, "heldout_se": 0.1, GENERAL: 0.9}, 4: {"heldout": 0.4, GENERAL: 0.5}})
    world = World(tmp_path, probe=probe)
    result = world.play()
    assert probe.asked == [1, 4]
    assert [step.heldout for step in world.store.all(Step)] == [0.3, None, None, 0.4]
    assert [step.heldout_se for step in world.store.all(Step)] == [0.1, None, None, None]
    assert [(alert.monitor, alert.step) for alert in result.open_alerts] == [("general", 4)]
    shown = [json.loads(data) for what, data in world.window.shown if what == "step"]
    assert [step.get(GENERAL) for step in shown] == [0.9, None, None, 0.5]


def test_a_run_that_no_longer_improves_ends_early_and_may_still_pass(tmp_path: Path) -> None:
    flat = {number: {"heldout": 0.5} for number in range(1, 100, 2)}
    world = World(tmp_path, steps=100, probe=Measuring(flat))
    result = world.play()
    assert result.open_alerts == ()
    assert result.version.step == 1 + 2 * POLICY.max_flat_measurements
    assert [alert.monitor for alert in result.alerts] == ["heldout_flat"]
    assert world.lines[-1].message.startswith("E_HELDOUT_FLAT: ")
