"""States of a run: the newest valid one wins, steps are made again and recorded once, and nothing starts afresh over a run."""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from spice_enterprise import store as store_module
from spice_enterprise.errors import ConfigError, IntegrityError, StoreError
from spice_enterprise.loop import LoopParts, LoopResult, LoopSettings, self_play
from spice_enterprise.protocols import Monitor, Played
from spice_enterprise.records import AdapterVersion, Alert, AuditEvent, RolloutGroup, Step, digest_of
from spice_enterprise.run_state import GrowingFiles
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


class Remembering(FakePlayer):
    """A player that is told what was asked before."""

    tasks: tuple[str, ...] = ()

    def entries(self, played: Played, *, step: int) -> tuple[str, ...]:
        return tuple(f"{task.task_id} {step}" for task in played.tasks)

    def remember(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)


class Shelved(FakeTrainer):
    """A learner whose versions can go bad; `resumable` are those that verify."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[int] = set()

    def start(self, standing: Sequence[AdapterVersion] = ()) -> AdapterVersion:
        good = [version for version in standing if version.step not in self.broken]
        if standing and not good:
            raise IntegrityError("none verifies", code="E_STATE_CORRUPT")
        return super().start(good)


class World:
    """One run on fakes; `again()` is a new process over the same files and the same audit log."""

    def __init__(self, folder: Path, *, audit: MemoryAudit | None = None, alarms: tuple[int, ...] = (2,), steps: int = 5) -> None:
        self.folder, self.alarms, self.steps = folder, alarms, steps
        self.store = RunStore(folder)
        self.player, self.trainer = Remembering(), Shelved()
        self.audit = audit or MemoryAudit()
        self.identity = (("config", "a"), ("policy.pii", "b"))
        self.monitors: tuple[Monitor, ...] = (StepMonitor(alarms),)

    def again(self) -> "World":
        return World(self.folder, audit=self.audit, alarms=self.alarms, steps=self.steps)

    def play(self) -> LoopResult:
        parts = LoopParts(
            player=self.player,
            sampler=ScriptedSampler(lambda prompt, random: "x"),
            trainer=self.trainer,
            monitors=self.monitors,
            audit=self.audit,
            window=MemoryWindow(),
        )
        settings = LoopSettings(run="r", steps=self.steps, chunks_per_step=1, seed=0, max_restores=3, identity=self.identity)
        files = {f"{i}.txt": f"fact {i}\n".encode() for i in range(6)}
        chunks = LineIngestor().ingest(MemorySource(files), lambda _: None).train
        return self_play(chunks, parts, self.store, settings, lambda _: None)

    def files(self) -> dict[str, bytes]:
        found = [*self.folder.glob("records/*"), *self.folder.glob("journal/*"), self.folder / "commits.jsonl"]
        states = [path for path in self.folder.glob("run_states/*") if path.name == "step-000005.json"]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in (*found, *states)}


def finished(tmp_path: Path, steps: int = 5) -> World:
    world = World(tmp_path, steps=steps)
    world.play()
    return world


def state_path(folder: Path, step: int) -> Path:
    return folder / "run_states" / f"step-{step:06d}.json"


def test_a_finished_run_keeps_the_newest_states_and_one_of_the_adapter_before(tmp_path: Path) -> None:
    finished(tmp_path)
    assert sorted(path.name for path in (tmp_path / "run_states").glob("s*")) == ["step-000004.json", "step-000005.json"]
    finished(tmp_path / "other", steps=2)  # step 2 went back to the version of step 1
    names = sorted(path.name for path in (tmp_path / "other" / "run_states").glob("s*"))
    assert names == ["step-000000.json", "step-000001.json", "step-000002.json"]


@pytest.mark.parametrize("harm", ["damaged", "cut", "gone", "learner"])
def test_a_bad_newest_state_is_passed_over_and_its_step_made_again_once(tmp_path: Path, harm: str) -> None:
    world = finished(tmp_path)
    before, told = world.files(), list(world.audit.events)
    again, path = world.again(), state_path(tmp_path, 5)
    if harm == "damaged":
        path.write_bytes(path.read_bytes().replace(b'"restores":1', b'"restores":0'))
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif harm == "gone":
        path.unlink()
    else:
        again.trainer.broken = {5}
    assert again.play().version.step == 5
    assert again.player.played == [], "what is journalled is not sampled again"
    assert again.files() == before
    assert again.audit.events == told, "told once"


def test_a_resumed_player_knows_every_task_of_before(tmp_path: Path) -> None:
    first = finished(tmp_path, steps=3)
    second = World(tmp_path, audit=first.audit, steps=5)
    second.play()
    assert len(second.player.tasks) == 3
    assert {entry.split()[1] for entry in second.player.tasks} == {"1", "2", "3"}


def test_a_resumed_run_decodes_no_play_of_a_finished_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = finished(tmp_path, steps=3)
    read: list[str] = []
    original: Callable[[Path], Any] = store_module.sealed.read_value
    monkeypatch.setattr(store_module.sealed, "read_value", lambda path: read.append(path.name) or original(path))
    World(tmp_path, audit=world.audit, steps=4).play()
    assert read == []


def test_without_a_valid_state_nothing_starts_afresh(tmp_path: Path) -> None:
    world = finished(tmp_path)
    for path in (tmp_path / "run_states").iterdir():
        path.write_bytes(b"{}\n")
    with pytest.raises(IntegrityError, match="none of the 2 run states") as caught:
        world.again().play()
    assert caught.value.code == "E_STATE_CORRUPT"
    for path in (tmp_path / "run_states").iterdir():
        path.unlink()
    with pytest.raises(IntegrityError, match="none of the 0 run states"):
        world.again().play()


@pytest.mark.parametrize("name", ["commits.jsonl", "records/steps.jsonl", "records/adapters.jsonl", "records/alerts.jsonl"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_file_that_only_grows_may_not_have_changed(tmp_path: Path, name: str, harm: str) -> None:
    world = finished(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(data[: data.index(b"\n") + 1] if data.count(b"\n") > 1 else b"")
    else:
        path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    with pytest.raises(IntegrityError) as caught:
        world.again().play()
    assert path.name in caught.value.message or "none of" in caught.value.message
    assert caught.value.exit_status() == 5


def test_a_play_that_is_gone_or_changed_is_refused_when_it_is_needed(tmp_path: Path) -> None:
    world = finished(tmp_path)
    play = tmp_path / "journal" / "step-000005.jsonl"
    kept = play.read_bytes()
    state_path(tmp_path, 5).unlink()  # so that step 5 must be made again
    play.unlink()
    with pytest.raises(IntegrityError, match=r"step-000005\.jsonl: it is missing"):
        world.again().play()
    play.write_bytes(kept.replace(b"What", b"Who!"))
    with pytest.raises(IntegrityError, match="does not match its digest"):
        world.again().play()
    play.write_bytes(kept)
    assert world.again().play().version.step == 5


def test_a_play_that_is_gone_is_missed_by_who_reads_them_all(tmp_path: Path) -> None:
    world = finished(tmp_path)
    (tmp_path / "journal" / "step-000002.jsonl").unlink()
    with pytest.raises(IntegrityError, match=r"step-000002\.jsonl"):
        list(world.store.played())


@pytest.mark.parametrize(
    ("identity", "named"), [((("config", "z"), ("policy.pii", "b")), "config"), ((("config", "a"),), "policy.pii")]
)
def test_other_settings_are_refused_by_name(tmp_path: Path, identity: tuple[tuple[str, str], ...], named: str) -> None:
    again = finished(tmp_path).again()
    again.identity = identity
    with pytest.raises(ConfigError, match=f"with another {named}$") as caught:
        again.play()
    assert caught.value.code == "E_STATE_MISMATCH"


class Counting:
    """Remembers how many steps it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def check(self, step: Step, groups: Sequence[RolloutGroup]) -> list[Alert]:
        self.seen += 1
        return []

    def state(self) -> int:
        return self.seen

    def load(self, state: int) -> None:
        self.seen = state


def test_other_monitors_are_refused_and_the_same_remember(tmp_path: Path) -> None:
    first = World(tmp_path, steps=3)
    first.monitors = (Counting(),)
    first.play()
    second = World(tmp_path, audit=first.audit, steps=5)
    counting = Counting()
    second.monitors = (StepMonitor(()), counting)
    second.play()
    assert counting.seen == 5
    with pytest.raises(ConfigError, match="other monitors"):
        World(tmp_path, audit=first.audit, steps=5).play()


def test_a_kill_before_the_first_commit_tells_the_start_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunStore, "commit", crash)
    with pytest.raises(KeyboardInterrupt):
        world.play()
    state_path(tmp_path, 0).unlink()
    monkeypatch.undo()
    assert world.again().play().version.step == 5
    assert world.audit.names()["checkpoint.saved"] == len(
        {e.subject for e in world.audit.events if e.event == "checkpoint.saved"}
    )


def test_growing_files_read_only_what_was_added(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\n")
    growing = GrowingFiles(tmp_path, ["a", "b"])
    first = growing.digests()
    with (tmp_path / "a").open("ab") as file:
        file.write(b"two\n")
    second = growing.digests()
    assert second == GrowingFiles(tmp_path, ["a", "b"]).digests()
    fresh = GrowingFiles(tmp_path, ["a", "b"])
    fresh.require(first)
    assert fresh.digests() == second
    (tmp_path / "a").write_bytes(b"0ne\ntwo\n")
    with pytest.raises(IntegrityError, match="a: it is not what it was"):
        GrowingFiles(tmp_path, ["a", "b"]).require(first)


def hold(folder: Path, begin: Any, said: Any, enough: Any) -> None:
    begin.wait()
    try:
        with RunStore(folder).lock():
            said.put("won")
            enough.wait()
    except StoreError as error:
        said.put(f"{error.code} {error.exit_status()}")


def test_of_eight_starts_at_once_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begin, enough, said = context.Barrier(8), context.Event(), context.Queue()
    processes = [context.Process(target=hold, args=(tmp_path, begin, said, enough)) for _ in range(8)]
    for process in processes:
        process.start()
    answers = sorted(said.get(timeout=30) for _ in processes)
    enough.set()
    for process in processes:
        process.join()
    assert answers == ["E_LOCKED 75"] * 7 + ["won"]


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    line = (
        f"36 35 {store_module.os.major(device)}:{store_module.os.minor(device)} / /data rw,noatime shared:1 - {{}} host:/x rw\n"
    )
    mounts.write_text(line.format("ext4"))
    store_module._refuse_network_disk(tmp_path, mounts)
    mounts.write_text(line.format("nfs4"))
    with pytest.raises(StoreError, match="nfs4") as caught:
        store_module._refuse_network_disk(tmp_path, mounts)
    assert caught.value.code == "E_NETWORK_DISK"


def test_a_state_carries_no_text(tmp_path: Path) -> None:
    finished(tmp_path)
    text = state_path(tmp_path, 5).read_text()
    assert "What is it?" not in text
    assert json.loads(text.splitlines()[0])["commit"]["number"] == 5


class Unrepeatable(FakeTrainer):
    """A step that another process makes again gives another version, as on a GPU; may be killed while it learns."""

    def __init__(self, salt: int, *, killed_at: int = 0, max_staleness: int = 0) -> None:
        self._salt, self._killed_at = salt, killed_at
        super().__init__(max_staleness=max_staleness)

    def _version(self, parent: AdapterVersion | None, step: Step | None) -> AdapterVersion:
        version = super()._version(parent, step)
        return version if step is None else replace(version, digest=digest_of([version.digest, self._salt]))

    def update(self, groups: Sequence[RolloutGroup], *, number: int) -> Step:
        if number == self._killed_at:
            raise KeyboardInterrupt
        return super().update(groups, number=number)


def unrepeatable_run(folder: Path, audit: MemoryAudit, trainer: FakeTrainer, *, max_staleness: int) -> AdapterVersion:
    world = World(folder, audit=audit, alarms=(3,))
    parts = LoopParts(
        player=world.player,
        sampler=ScriptedSampler(lambda prompt, random: "x"),
        trainer=trainer,
        monitors=world.monitors,
        audit=audit,
        window=MemoryWindow(),
    )
    settings = LoopSettings(run="r", steps=6, chunks_per_step=1, seed=0, max_restores=3, max_staleness=max_staleness)
    files = {f"{i}.txt": f"fact {i}\n".encode() for i in range(6)}
    chunks = LineIngestor().ingest(MemorySource(files), lambda _: None).train
    return self_play(chunks, parts, world.store, settings, lambda _: None).version


@pytest.mark.parametrize("max_staleness", [0, 1])
@pytest.mark.parametrize(("killed_at", "bad"), [(5, ()), (5, (4,)), (4, (3,)), (4, (3, 2))])
def test_a_step_that_comes_out_another_way_when_made_again_does_not_end_the_run(
    tmp_path: Path, max_staleness: int, killed_at: int, bad: tuple[int, ...]
) -> None:
    audit = MemoryAudit()
    first = Unrepeatable(1, killed_at=killed_at, max_staleness=max_staleness)
    with pytest.raises(KeyboardInterrupt):
        unrepeatable_run(tmp_path, audit, first, max_staleness=max_staleness)
    for step in bad:
        state_path(tmp_path, step).write_bytes(b"x")
    second = Unrepeatable(2, max_staleness=max_staleness)
    version = unrepeatable_run(tmp_path, audit, second, max_staleness=max_staleness)
    assert version.step == 6
    made = {version.adapter_id for version in RunStore(tmp_path).all(AdapterVersion)}
    for played in RunStore(tmp_path).played():
        makers = {rollout.adapter_id for item in played.rollouts for rollout in item.group.rollouts}
        assert len(makers) == 1
        assert makers <= made
    assert unrepeatable_run(tmp_path, audit, Unrepeatable(3, max_staleness=max_staleness), max_staleness=max_staleness) == version


def test_a_run_begun_anew_under_the_name_of_a_deleted_one_is_logged_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "run")
    world.play()
    told = len(world.audit.events)
    shutil.rmtree(tmp_path / "run")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ScriptedSampler, "publish", crash)
    second = world.again()
    with pytest.raises(KeyboardInterrupt):
        second.play()
    monkeypatch.undo()
    second.again().play()
    assert world.audit.events[told:] == world.audit.events[:told]


@dataclass
class Asked(MemoryAudit):
    """Counts how often it is asked whether it holds an event."""

    asked: list[str] = field(default_factory=list)

    def since(self, size: int, root: str) -> Any:
        return Held(super().since(size, root), self.asked)


class Held:
    def __init__(self, events: list[AuditEvent], asked: list[str]) -> None:
        self._events, self._asked = events, asked

    def __contains__(self, event: object) -> bool:
        assert isinstance(event, AuditEvent)
        self._asked.append(event.event)
        return event in self._events


def test_the_log_is_asked_only_about_steps_that_are_made_again(tmp_path: Path) -> None:
    audit = Asked()
    World(tmp_path, audit=audit, steps=3).play()
    assert audit.asked == ["checkpoint.saved"], "the start: it may have been killed before"
    state_path(tmp_path, 3).unlink()
    World(tmp_path, audit=audit, steps=5).play()
    assert audit.asked[1:] == ["guardrail.step", "checkpoint.saved"], "step 3, and not 4 or 5"
    assert audit.names()["guardrail.step"] == 5


def test_a_learner_that_stands_further_than_any_record_is_no_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = finished(tmp_path)
    for name in ("run_states", "records"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "commits.jsonl").unlink()
    again = world.again()
    monkeypatch.setattr(Shelved, "start", lambda trainer, standing=(): world.trainer.current)
    with pytest.raises(IntegrityError, match="the learner stands at step 5") as caught:
        again.play()
    assert caught.value.code == "E_STATE_CORRUPT"


def test_steps_without_a_state_are_no_beginning(tmp_path: Path) -> None:
    world = finished(tmp_path)
    shutil.rmtree(tmp_path / "run_states")
    (tmp_path / "commits.jsonl").unlink()
    with pytest.raises(IntegrityError, match="none of the 0 run states"):
        world.again().play()


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\x00" * 90])
def test_a_damaged_play_of_a_step_that_was_not_finished_is_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    reference = finished(tmp_path / "whole")
    world = World(tmp_path / "cut")
    original = Shelved.update

    def update(trainer: Shelved, groups: Sequence[RolloutGroup], *, number: int) -> Step:
        if number == 4:
            raise KeyboardInterrupt
        return original(trainer, groups, number=number)

    monkeypatch.setattr(Shelved, "update", update)
    with pytest.raises(KeyboardInterrupt):
        world.play()
    monkeypatch.undo()
    (tmp_path / "cut" / "journal" / "step-000004.jsonl").write_bytes(damage)
    again = world.again()
    again.play()
    assert [step for step, _ in again.player.played] == [4, 5]
    assert again.files() == reference.files()


def test_what_a_kill_left_half_written_goes_when_the_run_is_held_again(tmp_path: Path) -> None:
    finished(tmp_path)
    left = [
        tmp_path / ".corpus.json.0123abcd.tmp",
        tmp_path / "journal" / ".step-000003.jsonl.0123abcd.tmp",
        tmp_path / "records" / ".x.gone",
        tmp_path / "run_states" / ".step-000003.json.0123abcd.tmp",
    ]
    for path in left:
        path.write_bytes(b"text of a document")
    with RunStore(tmp_path).lock():
        assert list(tmp_path.rglob(".*")) == []
