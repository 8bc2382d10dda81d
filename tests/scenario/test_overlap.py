"""One step ahead: the next play runs beside the update, is journalled before use, and nothing depends on when it ends."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.errors import SamplerError, StaleRolloutError
from spice_enterprise.loop import LoopParts, LoopResult, LoopSettings, self_play
from spice_enterprise.protocols import Monitor, Played, Player
from spice_enterprise.records import AdapterVersion, Alert, Chunk, RolloutGroup, Step, canonical_json
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.episode import SelfplayStage, Speakers
from spice_enterprise.store import Commit, RunStore
from spice_enterprise.testing import (
    DirectGrader,
    FakePlayer,
    FakeTrainer,
    LineIngestor,
    MemoryAudit,
    MemorySource,
    MemoryWindow,
    StepMonitor,
    StreamingScriptedSampler,
)

WAIT_S = 20.0
TEXT = "The notice period is {i} days. The pump delivers {i}20 litres. The tank holds {i}5 barrels."
QUESTIONS = [" is the notice period?", " does the pump deliver?", " does the tank hold?", " whales?"]


def chunks() -> tuple[Chunk, ...]:
    files = {f"{i}.txt": TEXT.format(i=i + 2).encode() for i in range(6)}
    return LineIngestor().ingest(MemorySource(files), lambda _: None).train


class World:
    """One run, whose files, audit log and trainer outlive a crash; what plays is made anew, as a new process would."""

    def __init__(
        self,
        folder: Path,
        *,
        max_staleness: int = 1,
        steps: int = 6,
        monitors: tuple[Monitor, ...] = (),
        before: "World | None" = None,
    ) -> None:
        self.store = RunStore(folder)
        self.trainer = before.trainer if before else FakeTrainer(max_staleness=max_staleness)
        self.audit = before.audit if before else MemoryAudit()
        self.sampler = StreamingScriptedSampler(
            lambda prompt, draws: draws.choice(QUESTIONS) if prompt.template_id.startswith("challenger.") else " 2 days"
        )
        self.player: Player = SelfplayStage(
            Speakers(player=self.sampler),
            grader=DirectGrader(KindVerifier()),
            config=SelfplayConfig(
                challenger_group=2,
                reasoner_group=2,
                refill_rounds=1,
                regimes=("open_book",),
                contract="short",
                challenger_tokens=96,
                reasoner_tokens=32,
                temperature=1.0,
                open_book_samples=0,
            ),
            seed=5,
        )
        self.monitors = monitors
        self.settings = LoopSettings(run="r", steps=steps, chunks_per_step=2, seed=0, max_restores=9, max_staleness=max_staleness)

    def play(self) -> LoopResult:
        parts = LoopParts(
            player=self.player,
            sampler=self.sampler,
            trainer=self.trainer,
            monitors=self.monitors,
            audit=self.audit,
            window=MemoryWindow(),
        )
        return self_play(chunks(), parts, self.store, self.settings, lambda _: None)

    def files(self) -> dict[str, bytes]:
        """What the run wrote, but for the lock."""
        return {
            str(path.relative_to(self.store.run_dir)): path.read_bytes() for path in sorted(self.store.run_dir.rglob("*.jsonl"))
        }


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("play-")]


def makers(store: RunStore) -> list[int]:
    """The step that made the version which played steps 1, 2, ..."""
    made_at = {version.adapter_id: version.step for version in store.all(AdapterVersion)}
    return [made_at[played.rollouts[0].group.rollouts[0].adapter_id] for played in store.played()]


def test_each_step_but_the_first_is_played_by_the_version_before(tmp_path: Path) -> None:
    world = World(tmp_path)
    result = world.play()
    assert makers(world.store) == [0, 0, 1, 2, 3, 4]
    assert [step.staleness for step in world.store.all(Step)] == [0, 1, 1, 1, 1, 1]
    assert result.version.step == 6
    assert world.sampler.adapter_digest == result.version.digest
    assert threads() == []


def test_without_overlap_every_step_is_played_by_the_version_that_stands(tmp_path: Path) -> None:
    world = World(tmp_path, max_staleness=0)
    world.play()
    assert makers(world.store) == [0, 1, 2, 3, 4, 5]
    assert {step.staleness for step in world.store.all(Step)} == {0}


def test_a_trainer_without_staleness_refuses_the_overlapped_play(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.trainer = FakeTrainer()
    with pytest.raises(StaleRolloutError):
        world.play()
    assert threads() == []
    last = world.store.last_commit()
    assert last is not None
    assert last.number == 1


class Gated(FakePlayer):
    """The play of step 2 ends only once step 1 is being learned, and says that it has begun."""

    def __init__(self, begun: threading.Event, learning: threading.Event) -> None:
        super().__init__()
        self.begun, self.learning = begun, learning

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        if step == 2:
            self.begun.set()
            assert self.learning.wait(WAIT_S)
        return super().play(chunks, version, step=step)


class Learning(FakeTrainer):
    """Learns step 1 only once the play of step 2 has begun."""

    def __init__(self, begun: threading.Event, learning: threading.Event) -> None:
        super().__init__(max_staleness=1)
        self.begun, self.learning = begun, learning

    def update(self, groups: Sequence[RolloutGroup], *, number: int) -> Step:
        assert self.begun.wait(WAIT_S)
        self.learning.set()
        return super().update(groups, number=number)


def test_nothing_is_published_while_a_play_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = StreamingScriptedSampler.publish

    def publish(sampler: StreamingScriptedSampler, version: AdapterVersion | None) -> None:
        assert threads() == []
        original(sampler, version)

    monkeypatch.setattr(StreamingScriptedSampler, "publish", publish)
    world = World(tmp_path, steps=3)
    pause = threading.Event()
    world.sampler._finish = lambda keys: (pause.wait(0.005), keys[:1])[1]
    world.play()
    assert makers(world.store) == [0, 0, 1]


def test_playing_and_learning_happen_at_once(tmp_path: Path) -> None:
    begun, learning = threading.Event(), threading.Event()
    world = World(tmp_path, steps=2)
    world.player, world.trainer = Gated(begun, learning), Learning(begun, learning)
    assert world.play().version.step == 2


class Bystander:
    """Alarms once, and names the step before: the version that step made is bad, and so is what descends from it."""

    def __init__(self, at: int, store: Callable[[], RunStore]) -> None:
        self.at, self.store = at, store

    def check(self, step: Step, groups: Sequence[RolloutGroup]) -> list[Alert]:
        if step.number != self.at:
            return []
        (before,) = (old for old in self.store().all(Step) if old.number == self.at - 1)
        return StepMonitor([before.number]).check(before, groups)


def test_an_alarm_that_leaves_the_playing_version_standing_keeps_the_play(tmp_path: Path) -> None:
    world = World(tmp_path, monitors=(StepMonitor([3]),))
    result = world.play()
    assert makers(world.store) == [0, 0, 1, 2, 2, 4]
    assert [step.staleness for step in world.store.all(Step)] == [0, 1, 1, 0, 1, 1]
    assert result.version.step == 6


def test_a_play_by_a_version_that_is_neither_standing_nor_its_parent_is_played_again(tmp_path: Path) -> None:
    world = with_bystander(World(tmp_path / "back"))
    world.play()
    # step 4 goes back to version 2; step 5 was played ahead by version 3, and is played again by version 2
    assert makers(world.store) == [0, 0, 1, 2, 2, 2]
    assert [step.staleness for step in world.store.all(Step)] == [0, 1, 1, 1, 0, 1]
    puts = [key for event, key in world.sampler.events if event == "put" and key in ("0/0", "1/0")]
    assert len(puts) == 2 * (6 + 1), "one step was played twice"
    plain = World(tmp_path / "plain")
    plain.play()
    assert outcomes(world.store, 5) == outcomes(plain.store, 5), "it did not meet the tasks of the play thrown away"


def outcomes(store: RunStore, step: int) -> list[tuple[str, str, str, float]]:
    """What happened in a step, whoever played it."""
    played = store.journalled(step)
    assert played is not None
    return [(r.text, r.outcome, r.reason, r.reward) for item in played.rollouts for r in item.group.rollouts]


class Crash(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


def crash_at(store: RunStore, original: Callable[..., object], nth: int) -> Callable[..., object]:
    seen: list[int] = []

    def crash(this: RunStore, *args: object) -> object:
        if this is store:
            seen.append(1)
            if len(seen) == nth:
                raise Crash
        return original(this, *args)

    return crash


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[AdapterVersion, dict[str, bytes]]]:
    """What uninterrupted runs end with and write, without and with a play that is thrown away."""
    made = {}
    for is_bystander in (False, True):
        world = (
            with_bystander(World(tmp_path_factory.mktemp("whole"))) if is_bystander else World(tmp_path_factory.mktemp("whole"))
        )
        made[is_bystander] = (world.play().version, world.files())
    return made


def with_bystander(world: World) -> World:
    world.monitors = (Bystander(4, lambda: world.store),)
    return world


CRASHES = [
    *((point, nth, False) for point in ("journal", "put", "commit") for nth in (1, 3)),
    *(("journal", nth, True) for nth in (5, 6, 7)),
    *(("put", nth, True) for nth in (8, 9, 10, 11)),
    *(("commit", nth, True) for nth in (5, 6)),
]


@pytest.mark.parametrize(("point", "nth", "is_bystander"), CRASHES)
def test_a_crash_at_any_file_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    references: dict[bool, tuple[AdapterVersion, dict[str, bytes]]],
    point: str,
    nth: int,
    is_bystander: bool,
) -> None:
    def make(before: World | None = None) -> World:
        world = World(tmp_path, before=before)
        return with_bystander(world) if is_bystander else world

    world, original = make(), getattr(RunStore, point)
    monkeypatch.setattr(RunStore, point, crash_at(world.store, original, nth))
    with pytest.raises(Crash):
        world.play()
    assert threads() == []
    monkeypatch.setattr(RunStore, point, original)
    again = make(before=world)
    assert (again.play().version, again.files()) == references[is_bystander]


def test_after_a_commit_the_next_play_is_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, original = World(tmp_path), RunStore.commit

    def commit(store: RunStore, commit: Commit) -> None:
        assert commit.number in (0, 6) or store.journalled(commit.number + 1) is not None
        original(store, commit)

    monkeypatch.setattr(RunStore, "commit", commit)
    world.play()


def test_what_goes_wrong_in_the_background_is_raised_and_nothing_is_committed(tmp_path: Path) -> None:
    class Failing(FakePlayer):
        def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
            if step == 3:
                raise SamplerError("the sampler broke")
            return super().play(chunks, version, step=step)

    world = World(tmp_path)
    world.player = Failing()
    with pytest.raises(SamplerError, match="broke"):
        world.play()
    last = world.store.last_commit()
    assert last is not None
    assert last.number == 1
    assert world.store.journalled(3) is None
    assert threads() == []
    again = World(tmp_path, before=world)
    again.player = FakePlayer()
    assert again.play().version.step == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_stops_the_background_play_and_leaves_no_thread(tmp_path: Path, error: type[BaseException]) -> None:
    begun = threading.Event()
    was_stopped: list[bool] = []

    def finish(keys: Sequence[str]) -> Sequence[str]:
        if world.trainer.current.step == 1 and not was_stopped:
            begun.set()
            was_stopped.append(stopping.wait(WAIT_S))
        return keys[:1]

    class Interrupted(FakeTrainer):
        def update(self, groups: Sequence[RolloutGroup], *, number: int) -> Step:
            if number == 2:
                assert begun.wait(WAIT_S)
                raise error
            return super().update(groups, number=number)

    reference = World(tmp_path / "whole")
    reference.play()
    world, stopping = World(tmp_path / "cut"), threading.Event()
    world.sampler._finish = finish
    world.trainer = Interrupted(max_staleness=1)
    player = world.player
    assert isinstance(player, SelfplayStage)
    original = player.stop
    player.stop = lambda: (original(), stopping.set())[0]  # type: ignore[method-assign]
    with pytest.raises(error):
        world.play()
    assert threads() == []
    assert world.store.journalled(3) is None
    assert was_stopped == [True], "the player was told, and asked for no further group"
    again = World(tmp_path / "cut", before=world)
    again.trainer = FakeTrainer(max_staleness=1)
    again.trainer.current = world.trainer.current
    again.play()
    assert again.files() == reference.files()


def test_an_interrupt_while_waiting_for_the_play_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = threading.Thread.join, []

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        calls.append(thread.name)
        if len(calls) == 1:
            raise KeyboardInterrupt
        original(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    world = World(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        world.play()
    assert calls == ["play-2", "play-2"]
    assert threads() == []


def test_a_run_that_is_done_or_short_plays_nothing_ahead(tmp_path: Path) -> None:
    world = World(tmp_path, steps=1)
    world.play()
    assert len(makers(world.store)) == 1
    again = World(tmp_path, steps=1, before=world)
    again.play()
    assert again.sampler.events == []


def test_records_say_the_same_however_long_the_background_takes(tmp_path: Path) -> None:
    first, second = World(tmp_path / "a"), World(tmp_path / "b")
    pause = threading.Event()
    second.sampler._finish = lambda keys: (pause.wait(0.001), keys[-1:])[1]
    first.play()
    second.play()
    assert canonical_json(first.store.all(Step)) == canonical_json(second.store.all(Step))
    assert first.files() == second.files()
