"""The Challenger's own adapter, where the roles are separate: trained beside the Reasoner's, and never released.

In: the learner's model, which holds the adapter of one role at a time.
Out: the weights and the optimiser state of the Challenger, as bytes for the learner's state.
Refuses: weights that do not fit the learner (`IntegrityError`).
Not here: when it learns (`trainer.py`), speaking as it (`challenger_sampler.py`).

A version of the run is the Reasoner's adapter alone: it is what the gate judges and what is promoted. The Challenger's is
part of the state that goes with it, so a run resumes and goes back with both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.records import Objective, digest_of
from spice_enterprise.sealed import digest_bytes
from spice_enterprise.training.qlora import SETTINGS_FILE, WEIGHTS_FILE, LearnerModel

CHALLENGER_FILE: Final = "challenger.safetensors"
MOMENTS_FILE: Final = "challenger_optimiser.safetensors"
OBJECTIVE_FILE: Final = "challenger_objective.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengerState:
    """What the Challenger is after a step."""

    weights: bytes = field(repr=False)
    optimiser: bytes | None = field(default=None, repr=False)
    """None: it has not learned yet."""
    objective: Objective = "policy"
    """What the updates behind the optimiser's moments were for."""

    def files(self) -> dict[str, bytes]:
        """Return what stands in the learner's state beside the Reasoner's optimiser."""
        moments = {} if self.optimiser is None else {MOMENTS_FILE: self.optimiser}
        return {CHALLENGER_FILE: self.weights, OBJECTIVE_FILE: self.objective.encode(), **moments}

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> "ChallengerState | None":
        """Return what `files` hold; None for a state of shared roles. Raises `ValueError` when they are not what was saved."""
        if CHALLENGER_FILE not in files:
            return None
        said = files.get(OBJECTIVE_FILE, b"").decode()
        objective: Objective = "supervised" if said == "supervised" else "policy"
        if said != objective:
            raise ValueError("unknown objective")
        return cls(weights=files[CHALLENGER_FILE], optimiser=files.get(MOMENTS_FILE), objective=objective)


class ChallengerAdapter:
    """Holds the Challenger's state for the trainer, which moves it, and for the sampler, which speaks as it."""

    def __init__(self, learner: LearnerModel) -> None:
        """Begin where the fresh learner stands, which is the bare base."""
        files = learner.adapter_files()
        self._settings = files[SETTINGS_FILE]
        self.state = ChallengerState(weights=files[WEIGHTS_FILE])

    @property
    def state(self) -> ChallengerState:
        """What stands."""
        return self._state

    @state.setter
    def state(self, state: ChallengerState) -> None:
        self._state = state
        self.digest = digest_of(digest_bytes(self._files))

    @property
    def _files(self) -> dict[str, bytes]:
        return {WEIGHTS_FILE: self._state.weights, SETTINGS_FILE: self._settings}

    def lend(self, learner: LearnerModel) -> None:
        """Make the learner hold these weights. Raises `IntegrityError` (E_ADAPTER) when they do not fit."""
        if learner.adapter_digest != self.digest:
            learner.load_adapter(self._files, digest=self.digest)
