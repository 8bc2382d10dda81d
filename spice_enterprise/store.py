"""The run directory: one lock, write-once records, the rollout journal, and the road of any record.

In: records as stages make them.
Out: the same records after a crash, in the same order; `lineage(id)` in both directions.
Refuses: a second job on the directory (E_LOCKED), another config or corpus than it was begun with, a changed record.
Not here: adapters and learner states (`training/checkpoints.py`), the audit log, pointers.

    run_dir/
      lock              held while a job runs
      run.json          the settings the run was begun with
      corpus.json       documents, chunks, rejections, counts
      exam.json         the frozen questions
      records/*.jsonl   steps, alerts, adapters, gates, promotions: one canonical JSON line each
      journal/*.jsonl   what was played in a step and the digest of it, written before the optimiser moves
      run_states/       what else stands after a step (`run_state.py`)
      commits.jsonl     one line per finished step: which adapter stands after it
      tasks.jsonl       every proposal and task of the finished steps, for people; made from the journal, read by nothing here
      measured.jsonl    what the probe measured from time to time
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeVar

from spice_enterprise import durable, sealed
from spice_enterprise.config import NOT_IN_RESULT, JobConfig
from spice_enterprise.errors import EXIT_USAGE, ConfigError, IntegrityError, StoreError
from spice_enterprise.protocols import Corpus, Played
from spice_enterprise.records import (
    AdapterVersion,
    Alert,
    Chunk,
    Document,
    GateReport,
    Promotion,
    Rollout,
    Step,
    Task,
    canonical_json,
    decode,
    id_of,
)

T = TypeVar("T")
R = TypeVar("R", Step, Alert, AdapterVersion, GateReport, Promotion)
Stored = Step | Alert | AdapterVersion | GateReport | Promotion
AnyRecord = Document | Chunk | Task | Rollout | Stored

FILES: Final[dict[type[Stored], str]] = {
    Step: "steps",
    Alert: "alerts",
    AdapterVersion: "adapters",
    GateReport: "gates",
    Promotion: "promotions",
}

COMMITS: Final = "commits.jsonl"
TASKS: Final = "tasks.jsonl"
MEASURED: Final = "measured.jsonl"
OWN_FOLDERS: Final = ("records", "journal", "run_states")
NETWORK_DISKS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A finished step: what stands after it, and how often the run has gone back so far."""

    number: int
    step_id: str
    adapter_id: str
    restores: int
    is_halted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A record's road: what it came from (nearest first) and what came from it."""

    record: AnyRecord
    ancestors: tuple[AnyRecord, ...]
    descendants: tuple[AnyRecord, ...]


class RunStore:
    """One run's directory. Cheap to open; nothing is read before it is asked for."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._known: dict[type[Stored], dict[str, Stored]] = {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory, without what a killed process left half written in it: that is text of documents too.

        Raises `StoreError` E_LOCKED (exit 75) when another job has it, E_NETWORK_DISK where locks may not hold.
        """
        durable.make_folder(self.run_dir)
        _refuse_network_disk(self.run_dir)
        with (self.run_dir / "lock").open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(
                    f"{self.run_dir}: another job is using this run directory",
                    code="E_LOCKED",
                    hint="wait for it, or choose another --name",
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for folder in (self.run_dir, *(self.run_dir / name for name in OWN_FOLDERS)):
                durable.sweep(folder)
            yield

    def begin(self, config: JobConfig, policy_digests: Mapping[str, str]) -> bool:
        """Record the settings of a new run (True), or check that this is the same run again (False).

        Raises `ConfigError` E_RUN_CONFIG naming the settings and policies that differ.
        """
        path = self.run_dir / "run.json"
        dumped = config.model_dump(mode="json", exclude={"workspace"})
        tracking = dumped.pop("tracking")
        settings = {"config": dumped, "policies": policy_digests}
        if not path.exists():
            durable.write_file(path, canonical_json({**settings, "tracking": tracking}))
            return True
        before = json.loads(path.read_bytes())
        differing = set(_differing({name: before[name] for name in settings}, json.loads(canonical_json(settings))))
        differing -= {f"config.sampler.{key}" for key in NOT_IN_RESULT}
        if differing:
            raise ConfigError(
                f"{self.run_dir}: begun with other settings: {', '.join(sorted(differing))}",
                code="E_RUN_CONFIG",
                hint="restore them, or choose another --name",
            )
        return False

    def settings(self) -> dict[str, Any]:
        """Return the config this run was begun with. Raises `StoreError` E_NO_RUN when there is none."""
        path = self.run_dir / "run.json"
        if not path.exists():
            error = StoreError(f"{self.run_dir}: no run here", code="E_NO_RUN", hint="check --workspace and --name")
            error.exit_code = EXIT_USAGE
            raise error
        stored = json.loads(path.read_bytes())
        return {**stored["config"], "tracking": stored["tracking"]}

    def save(self, name: str, value: object) -> None:
        """Write one named value (`corpus`, `exam`) atomically."""
        durable.write_file(self.run_dir / f"{name}.json", canonical_json(value))

    def load(self, name: str, cls: type[T]) -> T | None:
        """Read one named value back, or None. Raises `IntegrityError` when it does not decode."""
        path = self.run_dir / f"{name}.json"
        return decode(cls, _parse(path.read_bytes(), path)) if path.exists() else None

    def put(self, record: R) -> R:
        """Write a record once and return it as it stands: one that was there keeps its facts of the moment (`NOT_IN_ID`).

        Raises `OSError` when the disk refuses.
        """
        cls, path = type(record), self._records_path(type(record))
        if cls not in self._known:
            durable.drop_torn_tail(path)
            self._known[cls] = {id_of(old): old for old in self.all(cls)}
        known = self._known[cls]
        if id_of(record) not in known:
            durable.append_lines(path, [canonical_json(record)])
            known[id_of(record)] = record
        return known[id_of(record)]  # type: ignore[return-value]  # filed under its class

    def all(self, cls: type[T]) -> tuple[T, ...]:
        """Return every stored record of a class, oldest first."""
        path = self._records_path(cls)
        return tuple(decode(cls, _parse(line, path)) for line in durable.read_lines(path))

    def adapter(self, adapter_id: str) -> AdapterVersion:
        """Return one adapter version. Raises `StoreError` E_UNKNOWN_ID."""
        for version in self.all(AdapterVersion):
            if version.adapter_id == adapter_id:
                return version
        raise _unknown(adapter_id)

    def _records_path(self, cls: type[object]) -> Path:
        return self.run_dir / "records" / f"{FILES[cls]}.jsonl"  # type: ignore[index]  # KeyError: not a stored record

    def growing_files(self) -> tuple[str, ...]:
        """Return the files that are only ever appended to, without the torn line that a crash may have left."""
        paths = (COMMITS, *(f"records/{name}.jsonl" for name in FILES.values()))
        for path in paths:
            durable.drop_torn_tail(self.run_dir / path)
        return paths

    def journal(self, number: int, played: Played) -> None:
        """Make what was played in step `number` durable; call it before the optimiser moves."""
        sealed.write_value(self._journal_path(number), played)

    def journalled(self, number: int) -> Played | None:
        """Return what was played in step `number`, or None when it was not played yet, or is damaged and not yet finished.

        Raises `IntegrityError` (E_STATE_CORRUPT) when it was changed or is gone though the step was finished: something
        that stands came from it.
        """
        path = self._journal_path(number)
        if not path.exists() and number > self._finished():
            return None
        try:
            return decode(Played, sealed.read_value(path))
        except IntegrityError:
            if number <= self._finished():
                raise
            return None

    def played(self) -> Iterator[Played]:
        """Return everything that was ever played in this run, step by step. Raises `IntegrityError` when some is gone."""
        there = {int(path.stem.removeprefix("step-")) for path in (self.run_dir / "journal").glob("step-*.jsonl")}
        for number in sorted(there | set(range(1, self._finished() + 1))):
            yield decode(Played, sealed.read_value(self._journal_path(number)))

    def _finished(self) -> int:
        return max((commit.number for commit in self.commits()), default=0)

    def _journal_path(self, number: int) -> Path:
        return self.run_dir / "journal" / f"step-{number:06d}.jsonl"

    def commit(self, commit: Commit) -> None:
        """Finish a step: from now on a resumed run begins after it. The same line again is not written twice."""
        standing = {old.number: old for old in self.commits()}
        if standing.get(commit.number) != commit:
            path = self.run_dir / COMMITS
            durable.drop_torn_tail(path)
            durable.append_lines(path, [canonical_json(commit)])

    def commits(self) -> list[Commit]:
        """Return every commit line, oldest first. Raises `IntegrityError` at a line that is none."""
        path = self.run_dir / COMMITS
        return [decode(Commit, _parse(line, path)) for line in durable.read_lines(path)]

    def committed_bytes(self, *, before: int) -> int:
        """Return how many bytes the commit lines of earlier steps take; later ones are there when a step is made again."""
        lines = durable.read_lines(self.run_dir / COMMITS)
        earlier = takewhile(lambda pair: pair[1].number < before, zip(lines, self.commits(), strict=True))
        return sum(len(line) + 1 for line, _ in earlier)

    def last_commit(self) -> Commit | None:
        """Return the newest finished step, or None."""
        commits = self.commits()
        return commits[-1] if commits else None

    def list_tasks(self, lines: Sequence[object]) -> None:
        """Append one step's lines to `tasks.jsonl`; call it before the step's state is saved. Each has a `step`."""
        durable.append_lines(self.run_dir / TASKS, [canonical_json(line) for line in lines])

    def trim_tasks(self, last_step: int) -> bool:
        """Drop the lines of steps after `last_step`. False, and no file, when it is damaged or does not reach so far."""
        path = self.run_dir / TASKS
        lines = durable.read_lines(path)
        try:
            steps = [int(json.loads(line)["step"]) for line in lines]
        except (ValueError, TypeError, KeyError):
            steps = []
        kept = lines[: sum(step <= last_step for step in steps)]
        if steps != sorted(steps) or (steps[: len(kept)] or [0])[-1] != last_step:
            path.unlink(missing_ok=True)
            return False
        durable.write_file(path, b"".join(line + b"\n" for line in kept))
        return True

    def tasks(self) -> Iterator[Mapping[str, Any]]:
        """Return the lines of `tasks.jsonl`, oldest first."""
        path = self.run_dir / TASKS
        return (_mapping(_parse(line, path), path) for line in durable.read_lines(path))

    def keep_measured(self, number: int, adapter_id: str, values: Mapping[str, float]) -> None:
        """Keep what a probe measured of an adapter before step `number`."""
        path = self.run_dir / MEASURED
        durable.drop_torn_tail(path)
        durable.append_lines(path, [canonical_json({"step": number, "adapter_id": adapter_id, "values": values})])

    def measured(self, number: int, adapter_id: str) -> dict[str, float] | None:
        """Return what was measured of an adapter before step `number`, or None."""
        path = self.run_dir / MEASURED
        lines = (_mapping(_parse(line, path), path) for line in durable.read_lines(path))
        found = (line["values"] for line in lines if (line["step"], line["adapter_id"]) == (number, adapter_id))
        return next((dict(values) for values in found), None)

    def lineage(self, record_id: str) -> Lineage:
        """Return the road of one record, in both directions. Raises `StoreError` E_UNKNOWN_ID."""
        index: dict[str, AnyRecord] = {}
        named: dict[str, tuple[str, ...]] = {}
        for record, shown in self._records():
            key = id_of(record)
            index[key], named[key] = record, (*parents_of(record), *shown)
        if record_id not in index:
            raise _unknown(record_id)
        parents = {key: [p for p in dict.fromkeys(above) if p in index] for key, above in named.items()}
        children: dict[str, list[str]] = {}
        for key, above in parents.items():
            for parent in above:
                children.setdefault(parent, []).append(key)
        return Lineage(
            record=index[record_id],
            ancestors=tuple(index[key] for key in _reach(record_id, lambda k: parents.get(k, []))),
            descendants=tuple(index[key] for key in _reach(record_id, lambda k: children.get(k, []))),
        )

    def _records(self) -> Iterator[tuple[AnyRecord, tuple[str, ...]]]:
        """Yield every record with what it came from besides what it names itself: the passages that its prompt showed."""
        corpus = self.load("corpus", Corpus)
        if corpus is not None:
            yield from ((document, ()) for document in corpus.documents)
            yield from ((chunk, ()) for chunk in corpus.chunks)
        for played in self.played():
            yield from ((task, ()) for task in played.tasks)
            for item in played.rollouts:
                yield from ((rollout, item.group.passages) for rollout in item.group.rollouts)
        for cls in FILES:
            yield from ((stored, ()) for stored in self.all(cls))


def parents_of(record: AnyRecord) -> tuple[str, ...]:
    """Return the ids a record names as what it came from."""
    rule = _PARENTS.get(type(record))
    return tuple(key for key in rule(record) if key) if rule else ()


_PARENTS: Final[dict[type, Callable[[Any], tuple[str | None, ...]]]] = {
    Chunk: lambda r: (r.document_id,),
    Task: lambda r: (r.rollout_id, r.chunk_id, *r.option_sources),
    Rollout: lambda r: (r.parent_id, r.adapter_id),
    Step: lambda r: (*r.rollout_ids, r.adapter_id),
    Alert: lambda r: (r.step_id,),
    AdapterVersion: lambda r: (r.step_id, r.parent_adapter_id),
    GateReport: lambda r: (r.adapter_id,),
    Promotion: lambda r: (r.gate_id, r.adapter_id),
}


def find_run(workspace: Path, record_id: str) -> RunStore:
    """Return the run of a workspace that holds an adapter, gate or promotion. Raises `StoreError` E_UNKNOWN_ID."""
    for path in sorted(workspace.glob("*/run.json")):
        store = RunStore(path.parent)
        if any(record_id == id_of(record) for cls in (AdapterVersion, GateReport, Promotion) for record in store.all(cls)):
            return store
    raise _unknown(record_id)


def _reach(start: str, neighbours: Callable[[str], Sequence[str]]) -> list[str]:
    """Breadth-first from `start`, without it, each id once."""
    seen, queue, order = {start}, [start], []
    while queue:
        for key in neighbours(queue.pop(0)):
            if key not in seen:
                seen.add(key)
                order.append(key)
                queue.append(key)
    return order


def _differing(old: Mapping[str, object], new: Mapping[str, object], path: str = "") -> list[str]:
    """Return the dotted names of settings that differ."""
    names: list[str] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            names += _differing(before, after, f"{path}{key}.")
        elif before != after:
            names.append(f"{path}{key}")
    return names


def _parse(line: bytes, path: Path) -> object:
    try:
        return json.loads(line)
    except ValueError:
        raise IntegrityError(f"{path.name}: not valid JSON", code="E_RECORD", hint="restore the file from a backup") from None


def _mapping(value: object, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise IntegrityError(f"{path.name}: a line is no object", code="E_RECORD", hint="delete the file")
    return value


def _refuse_network_disk(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Locks and renames of a network file system may not hold when the network does not."""
    if not mounts.exists():
        return
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text("utf-8", "replace").splitlines():
        place, _, source = line.partition(" - ")
        if place.split()[2] == wanted and source.split()[0] in NETWORK_DISKS:
            raise StoreError(
                f"{folder}: on a network file system ({source.split()[0]}), where locks may not hold",
                code="E_NETWORK_DISK",
                hint="put --workspace on a local disk",
            )


def _unknown(record_id: str) -> StoreError:
    hint = "check the id and the run"
    error = StoreError("no record with this id in the run", code="E_UNKNOWN_ID", record_id=record_id, hint=hint)
    error.exit_code = EXIT_USAGE
    return error
