"""Where adapters and learner states lie, and which of them verify.

In: a run directory; a version's record.
Out: the files of an adapter or a state, verified; the states there are, newest first.
Refuses: an adapter that is not its record's (E_ADAPTER_DIGEST), a run none of whose states verifies (E_STATE_CORRUPT).
Not here: how a directory proves its content (`sealed.py`), what the bytes mean (`qlora.py`, `trainer.py`).

Layout under a run directory: `adapters/<adapter_id>/` and `states/step-000012/`. The newest valid state wins by its
number, never by the clock; one that does not verify is passed over for the one before it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import AdapterVersion, Objective, canonical_json, decode, digest_of
from spice_enterprise.sealed import digest_bytes, read_verified
from spice_enterprise.training.challenger_adapter import ChallengerState

STATE_PREFIX: Final = "step-"
VERSION_FILE: Final = "version.json"
OPTIMISER_FILE: Final = "optimiser.safetensors"
PROGRESS_FILE: Final = "progress.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a step that is made again depends on besides weights and optimiser."""

    limits: tuple[int, ...]
    """How far micro-batches were made smaller (`learning.PolicyGradient.limits`)."""
    parent_digest: str | None
    """Of the version before, whose files may be gone."""
    objective: Objective = "policy"
    """What the updates behind the optimiser's moments were for."""
    kept: tuple[str, ...] = ()
    """Ids of the adapters that are kept for good (`training.keep_adapters_every`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """The state that goes with an adapter version."""

    version: AdapterVersion
    optimiser: bytes
    progress: Progress
    challenger: ChallengerState | None = None
    """Where the roles are separate."""

    def files(self) -> dict[str, bytes]:
        """Return the files it is saved as."""
        return {
            VERSION_FILE: canonical_json(self.version),
            OPTIMISER_FILE: self.optimiser,
            PROGRESS_FILE: canonical_json(self.progress),
            **(self.challenger.files() if self.challenger else {}),
        }


def adapter_dir(run_dir: Path, adapter_id: str) -> Path:
    """Return where the version `adapter_id` lies: each version has a path of its own, never used twice."""
    return run_dir / "adapters" / adapter_id


def read_adapter(run_dir: Path, version: AdapterVersion) -> dict[str, bytes]:
    """Return the files of `version`. Raises `IntegrityError` (E_ADAPTER_DIGEST) unless they are what the record names."""
    try:
        files = read_verified(adapter_dir(run_dir, version.adapter_id))
    except IntegrityError as error:
        raise _wrong_adapter(version, error.message) from None
    if digest_bytes(files) != version.manifest:
        raise _wrong_adapter(version, "its files are not those of the record")
    if digest_of(version.manifest) != version.digest:
        raise _wrong_adapter(version, "the record's digest is not that of its manifest")
    return files


def state_dir(run_dir: Path, step: int) -> Path:
    """Return where the learner state after step `step` lies."""
    return run_dir / "states" / f"{STATE_PREFIX}{step:06d}"


def state_steps(run_dir: Path) -> list[int]:
    """Return the step numbers that have a state directory, newest first, valid or not."""
    parent = run_dir / "states"
    if not parent.is_dir():
        return []
    names = (item.name.removeprefix(STATE_PREFIX) for item in parent.iterdir() if item.name.startswith(STATE_PREFIX))
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def valid_states(run_dir: Path) -> Iterator[LearnerState]:
    """Yield every state that verifies together with its adapter, newest first."""
    for step in state_steps(run_dir):
        try:
            files = read_verified(state_dir(run_dir, step))
            version = decode(AdapterVersion, json.loads(files[VERSION_FILE]))
            progress = decode(Progress, json.loads(files[PROGRESS_FILE]))
            state = LearnerState(
                version=version,
                optimiser=files[OPTIMISER_FILE],
                progress=progress,
                challenger=ChallengerState.of(files),
            )
            read_adapter(run_dir, version)
        except (IntegrityError, KeyError, ValueError):
            continue
        yield state


def state_to_resume(run_dir: Path, wanted: Sequence[AdapterVersion] = ()) -> LearnerState | None:
    """Return the state of the first version of `wanted` that has a valid one; without `wanted` the newest valid state.

    None when nothing is wanted and there are no states at all. Raises `IntegrityError` (E_STATE_CORRUPT) when states are
    there or wanted and none will do: starting afresh without a word would throw the run away.
    """
    steps = state_steps(run_dir)
    if not steps and not wanted:
        return None
    valid = list(valid_states(run_dir))
    chosen = [state for version in wanted for state in valid if state.version == version] if wanted else valid
    if chosen:
        return chosen[0]
    newest = f"; newest: step {steps[0]}" if steps else ""
    raise IntegrityError(
        f"none of the {len(steps)} learner states under {run_dir.name}/states verifies and fits the run{newest}",
        code="E_STATE_CORRUPT",
        hint="restore the run directory from a backup, or start a run under another name",
    )


def _wrong_adapter(version: AdapterVersion, what: str) -> IntegrityError:
    return IntegrityError(
        f"adapter of step {version.step} refused: {what}",
        code="E_ADAPTER_DIGEST",
        record_id=version.adapter_id,
        hint="the files were changed after they were saved; restore them or use another version",
    )
