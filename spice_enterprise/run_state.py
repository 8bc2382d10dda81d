"""What stands after a finished step, in one file per step that proves its own content.

In: the commit of a step, and everything a later process needs besides the learner: tasks, monitors, heads of logs.
Out: `run_states/step-000012.json`, newest valid first; the files that only grow, checked against what they were;
    `run_states/begun.json`, where the audit log stood before the run said anything.
Refuses: a run none of whose states verifies, and a growing file that was changed before its end (E_STATE_CORRUPT); a run
    whose config, policies, corpus or base are not those it was begun with (E_STATE_MISMATCH).
Not here: adapters and optimiser states (`training/checkpoints.py`), the order of a step (`loop.py`).

There is no cursor of the sampler and no generator state to save: every draw is derived from the run's seed and the number
of the step, the role, the parent and the place. The number of the step is the cursor.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from spice_enterprise.errors import ConfigError, IntegrityError
from spice_enterprise.protocols import Monitor, StatefulMonitor
from spice_enterprise.records import AdapterVersion, FileDigest, Step, canonical_json, decode
from spice_enterprise.sealed import BLOCK_BYTES, corrupt, read_value, write_value
from spice_enterprise.store import COMMITS, Commit, RunStore

PREFIX: Final = "step-"
KEPT: Final = 2
"""So many newest states stay, and the newest of each of so many adapters: a damaged adapter needs one from before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands after a step."""

    commit: Commit
    version: AdapterVersion
    identity: tuple[tuple[str, str], ...]
    """(name, digest) of what must not change under the run: config, policies, corpus."""
    audit_size: int
    audit_root: str
    """The head of the audit log; 0 and empty when the log cannot tell."""
    files: tuple[FileDigest, ...]
    """How far each growing file went, and the digest up to there."""
    tasks: tuple[str, ...] = field(repr=False)
    """What the player remembers of all plays so far (`selfplay.archive`)."""
    monitors: tuple[tuple[str, str], ...] = field(repr=False)
    """(class, state as JSON) of every monitor that remembers steps, in their order."""


class GrowingFiles:
    """Running digests of files that are only ever appended to, so that a step costs what it added."""

    def __init__(self, run_dir: Path, paths: Sequence[str]) -> None:
        self._run_dir = run_dir
        self._sizes = dict.fromkeys(paths, 0)
        self._hashes = {path: hashlib.sha256() for path in paths}

    def digests(self, limits: Mapping[str, int] | None = None) -> tuple[FileDigest, ...]:
        """Take in what was appended, up to a file's limit if it has one; return how far each goes and its digest up to there."""
        for path in self._sizes:
            file = self._run_dir / path
            size = file.stat().st_size if file.exists() else 0
            self._advance(path, min(size, (limits or {}).get(path, size)))
        return tuple(self._digest(path) for path in self._sizes)

    def require(self, expected: Sequence[FileDigest]) -> None:
        """Read each file as far as it went, once, before `digests`. Raises `IntegrityError` naming one that was changed."""
        for entry in expected:
            if entry.path in self._sizes:
                self._advance(entry.path, entry.size_bytes)
                if self._digest(entry.path) != entry:
                    raise corrupt(self._run_dir / entry.path, "it is not what it was when the last finished step was saved")

    def _advance(self, path: str, size: int) -> None:
        if size <= self._sizes[path] or not (self._run_dir / path).exists():
            return
        with (self._run_dir / path).open("rb") as file:
            file.seek(self._sizes[path])
            while block := file.read(min(BLOCK_BYTES, size - self._sizes[path])):
                self._hashes[path].update(block)
                self._sizes[path] += len(block)

    def _digest(self, path: str) -> FileDigest:
        return FileDigest(path=path, sha256=self._hashes[path].hexdigest(), size_bytes=self._sizes[path])


class RunStates:
    """The states of one run directory."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._folder = store.run_dir / "run_states"
        self._growing = GrowingFiles(store.run_dir, store.growing_files())

    def steps(self) -> list[int]:
        """Return the numbers of all states, newest first, valid or not."""
        names = (path.stem.removeprefix(PREFIX) for path in self._folder.glob(f"{PREFIX}*.json"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def valid(self) -> list[RunState]:
        """Return every state that verifies, newest first.

        Raises `IntegrityError` (E_STATE_CORRUPT) when the run has begun and not one does: nothing starts afresh over it.
        """
        numbers = self.steps()
        states = [state for number in numbers if (state := self._read(number)) is not None]
        if not states and (numbers or self._store.last_commit() is not None or self._store.all(Step)):
            raise IntegrityError(
                f"none of the {len(numbers)} run states under {self._store.run_dir.name}/run_states verifies",
                code="E_STATE_CORRUPT",
                hint="restore the run directory from a backup, or start a run under another name",
            )
        return states

    def begin(self, audit_size: int, audit_root: str) -> tuple[int, str]:
        """Keep the head that the audit log had before this run said anything, and return the one that was kept first."""
        path = self._folder / "begun.json"
        if not path.exists():
            write_value(path, [audit_size, audit_root])
        size, root = read_value(path)
        return size, root

    def save(self, state: RunState) -> None:
        """Write a state, read it back, then let go of those that nothing needs any more."""
        path = self._path(state.commit.number)
        write_value(path, state)
        if self._read(state.commit.number) != state:
            raise corrupt(path, "what was written does not read back")
        self._prune()

    def files(self, number: int) -> tuple[FileDigest, ...]:
        """Return how far each growing file goes when step `number` is to be committed."""
        return self._growing.digests({COMMITS: self._store.committed_bytes(before=number)})

    def resume(self, state: RunState) -> None:
        """Go on from `state`: check the growing files, drop the states after it, and see that its commit line is there."""
        self._growing.require(state.files)
        for number in self.steps():
            if number > state.commit.number:
                self._path(number).unlink()
        self._store.commit(state.commit)

    def _path(self, number: int) -> Path:
        return self._folder / f"{PREFIX}{number:06d}.json"

    def _read(self, number: int) -> RunState | None:
        try:
            state = decode(RunState, read_value(self._path(number)))
        except IntegrityError:
            return None
        return state if state.commit.number == number else None

    def _prune(self) -> None:
        states = [state for number in self.steps() if (state := self._read(number)) is not None]
        newest_of = {state.version.adapter_id: state.commit.number for state in reversed(states)}
        wanted = {state.commit.number for state in states[:KEPT]} | set(sorted(newest_of.values())[-KEPT:])
        for number in self.steps():
            if number not in wanted:
                self._path(number).unlink()


def require_same(state: RunState, identity: Sequence[tuple[str, str]]) -> None:
    """Raise `ConfigError` (E_STATE_MISMATCH) naming what is not as it was when the state was saved."""
    before, now = dict(state.identity), dict(identity)
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if differing:
        raise ConfigError(
            f"the run stands at step {state.commit.number} with another {', '.join(differing)}",
            code="E_STATE_MISMATCH",
            hint="resume with the settings and files the run began with, or give the run another name",
        )


def monitor_states(monitors: Sequence[Monitor]) -> tuple[tuple[str, str], ...]:
    """Return what each monitor remembers; one without `state` remembers nothing."""
    stateful = [monitor for monitor in monitors if isinstance(monitor, StatefulMonitor)]
    return tuple((type(monitor).__name__, canonical_json(monitor.state()).decode()) for monitor in stateful)


def load_monitors(monitors: Sequence[Monitor], saved: Sequence[tuple[str, str]]) -> None:
    """Give every monitor back what it remembered. Raises `ConfigError` (E_STATE_MISMATCH) when they are other monitors."""
    stateful = [monitor for monitor in monitors if isinstance(monitor, StatefulMonitor)]
    if [type(monitor).__name__ for monitor in stateful] != [name for name, _ in saved]:
        raise ConfigError(
            "the run was begun with other monitors",
            code="E_STATE_MISMATCH",
            hint="resume with the monitors the run began with, or give the run another name",
        )
    for monitor, (_, state) in zip(stateful, saved, strict=True):
        monitor.load(json.loads(state))
