"""A run that begins with a warm-up: its order, its records, and a kill in the middle of it."""

from pathlib import Path

import pytest

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.guardrails.drift import HardRuleMonitor
from spice_enterprise.loop import LoopParts, LoopResult, LoopSettings, self_play
from spice_enterprise.policy import load_guardrails
from spice_enterprise.protocols import Progress
from spice_enterprise.records import AdapterVersion, Chunk, Prompt, Step
from spice_enterprise.selfplay.warmup import FactsWarmup, WarmedPlayer
from spice_enterprise.store import RunStore
from spice_enterprise.testing import (
    FakePlayer,
    FakeTrainer,
    LineIngestor,
    MemoryAudit,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
)

WARM, STEPS = 3, 6
CONFIG = SelfplayConfig(contract="short", challenger_tokens=96, reasoner_tokens=32)


def encode(prompt: Prompt, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(prompt.messages[-1].content.encode()), (*text.encode(), 0)


def chunks() -> tuple[Chunk, ...]:
    line = "The fee of site {} is {} euros per month. The term of the lease ends on {} March 2031."
    files = {f"{i}.txt": f"{line.format(i, 40 + i, 1 + i)}\n".encode() for i in range(5)}
    return LineIngestor().ingest(MemorySource(files), lambda _: None).train


class World:
    """One run on fakes, whose files outlive a crash."""

    def __init__(self, folder: Path, trainer: FakeTrainer | None = None, *, max_staleness: int = 0) -> None:
        self.store = RunStore(folder)
        self.fake, self.trainer = FakePlayer(), trainer or FakeTrainer(max_staleness=max_staleness)
        self.audit, self.window = MemoryAudit(), MemoryWindow()
        self.lines: list[Progress] = []
        warmup = FactsWarmup(encode=encode, config=CONFIG, examples=8, seed=0)
        self.player = WarmedPlayer(warmup, self.fake, steps=WARM)
        self.settings = LoopSettings(run="r", steps=STEPS, chunks_per_step=2, seed=0, max_restores=3, max_staleness=max_staleness)

    def play(self) -> LoopResult:
        parts = LoopParts(
            player=self.player,
            sampler=ScriptedSampler(lambda prompt, random: "x"),
            trainer=self.trainer,
            monitors=(HardRuleMonitor(load_guardrails()),),
            audit=self.audit,
            window=self.window,
        )
        return self_play(chunks(), parts, self.store, self.settings, self.lines.append)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_the_first_steps_learn_examples_and_the_others_play(tmp_path: Path, max_staleness: int) -> None:
    world = World(tmp_path, max_staleness=max_staleness)
    result = world.play()
    assert [step.objective for step in world.store.all(Step)] == ["supervised"] * WARM + ["policy"] * (STEPS - WARM)
    assert [number for number, _ in world.fake.played] == [4, 5, 6]
    assert result.version.step == STEPS
    assert result.alerts == (), "rules about rewards say nothing about examples"
    assert world.audit.names() == {"checkpoint.saved": STEPS + 1, "guardrail.step": STEPS, "warmup.made": WARM}
    assert [line.message for line in world.lines] == ["warm-up"] * WARM + ["step"] * (STEPS - WARM)


def test_the_audit_trail_counts_examples_by_source_and_says_nothing_else(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.play()
    made = [event for event in world.audit.events if event.event == "warmup.made"]
    for number, event in enumerate(made, start=1):
        data = dict(event.data)
        assert data["step"] == number
        assert data["examples"] == sum(v for name, v in data.items() if name.startswith("examples."))  # type: ignore[misc]  # counts
        assert event.subject[0].name == f"step-{number}"
    played = list(world.store.played())
    assert [len(play.groups) for play in played[:WARM]] == [dict(event.data)["examples"] for event in made]


def test_every_example_can_be_traced_to_its_chunk(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.play()
    train = {chunk.chunk_id for chunk in chunks()}
    for play in list(world.store.played())[:WARM]:
        for group in play.groups:
            assert group.parent_id in train


class Crash(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


@pytest.mark.parametrize("max_staleness", [0, 1])
@pytest.mark.parametrize("point", ["journal", "put", "commit"])
@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_a_kill_in_the_warm_up_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, number: int, max_staleness: int
) -> None:
    reference = World(tmp_path / "whole", max_staleness=max_staleness)
    expected = reference.play()
    world = World(tmp_path / "crashed", max_staleness=max_staleness)
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
    again = World(tmp_path / "crashed", world.trainer, max_staleness=max_staleness)
    again.audit = world.audit
    assert again.play().version == expected.version
    assert again.store.all(Step) == reference.store.all(Step)
    assert again.store.all(AdapterVersion) == reference.store.all(AdapterVersion)
    assert again.audit.names()["warmup.made"] == WARM
