"""The training stage: groups of rollouts in, one optimiser step and one saved adapter version out.

In: rollout groups played by the current version, or examples of the warm-up; the training section of the config.
Out: a `Step` with what it measured before any filter or clip; an `AdapterVersion` with its parent, on disk, crash-safe.
Refuses: rollouts of another adapter, a sampler that did not use the adapter, a second update before the first is saved.
    A loss or gradient that is not finite withholds the update: a value in the record, not an exception.
Not here: which version is good (`guardrails/`), the order of the road (`loop.py`).

A step: require current rollouts -> centre rewards per group -> drop groups without a signal -> pack -> forward and
backward per micro-batch -> prove delivery -> check finite -> clip -> AdamW. With more than `train_batch_size` rollouts that
is done several times over parts of the step, and all of them stand or none. Examples have no rewards to centre and no
sampler to compare with, their rate is constant, and the optimiser begins afresh where they end. Everything drawn is
derived from the seed when the learner is loaded, so a saved state needs no generator states, and a resumed run equals an
uninterrupted one bit for bit on a CPU with the same number of threads.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spice_enterprise import durable
from spice_enterprise.config import TrainingConfig, WarmupConfig
from spice_enterprise.errors import ConfigError, TrainingError
from spice_enterprise.records import AdapterVersion, Objective, Role, RolloutGroup, Step, digest_of
from spice_enterprise.sealed import digest_bytes, remove_directory, save_directory
from spice_enterprise.training import checkpoints
from spice_enterprise.training.challenger_adapter import ChallengerAdapter, ChallengerState
from spice_enterprise.training.delivery import gap_limit, require_delivered
from spice_enterprise.training.learning import Measured, PolicyGradient
from spice_enterprise.training.optimiser import AdapterOptimiser
from spice_enterprise.training.qlora import UNSAVED, WEIGHTS_FILE, LearnerModel
from spice_enterprise.training.staleness import staleness_of
from spice_enterprise.training.step_record import Outcome, describe_step, join_outcomes
from spice_enterprise.training.updates import objective_of, require_whole, split_updates


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What every version of one job descends from."""

    base_model: str
    base_digest: str
    corpus_digest: str
    config_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the rollouts are drawn."""

    l_max: Mapping[Role, int]
    """Per role, the most new tokens of a completion: the constant divisor of its loss."""
    temperature: float = 1.0
    """Divides the learner's logits too."""
    dtype: str | None = None
    """The sampler's, `float32` or `bfloat16`; None when it is the learner's: how near the two must be depends on it."""


@dataclass(slots=True)
class _Place:
    """Where training stands."""

    version: AdapterVersion
    is_saved: bool = True
    parent_digest: str | None = None
    """Of the version before; its files may be gone."""
    objective: Objective = "policy"
    """What the updates behind the optimiser's moments were for."""
    kept: tuple[str, ...] = ()
    """Ids of the adapters that are kept for good."""


class QloraTrainer:
    """Implements `protocols.Trainer` on a `LearnerModel` with one adapter for both roles, or one for each."""

    def __init__(  # noqa: PLR0913 - what stays the same for a run
        self,
        learner: LearnerModel,
        *,
        run_dir: Path,
        config: TrainingConfig,
        lineage: Lineage,
        sampling: Sampling,
        warmup: WarmupConfig | None = None,
        challenger: ChallengerAdapter | None = None,
    ) -> None:
        """Take the learner as it was loaded; nothing is read or written before `start`.

        Args:
            learner: the model with its fresh adapter.
            run_dir: where adapters and states are kept.
            config: the training section.
            lineage: what every version descends from.
            sampling: lengths, temperature and precision of the sampler.
            warmup: how fast examples are learned; `None`: at the default rate.
            challenger: what learns from proposals, where the roles are separate; versions are then the Reasoner's alone.
        """
        self._learner = learner
        self._run_dir = run_dir
        self._config = config
        self._lineage = lineage
        self._sampling = sampling
        self._warmup = warmup or WarmupConfig()
        self._gradient = PolicyGradient(learner, config=config, l_max=sampling.l_max, temperature=sampling.temperature)
        self._optimiser = AdapterOptimiser(learner.parameters, config)
        self._challenger = challenger
        self._next_challenger: ChallengerState | None = None
        """What the Challenger became in an update that is not saved yet."""
        self._place: _Place | None = None

    @property
    def version(self) -> AdapterVersion:
        """The version that plays and is updated next. Raises `TrainingError` before `start`."""
        return self._started().version

    def start(self, standing: Sequence[AdapterVersion] = ()) -> AdapterVersion:
        """Resume from the first of `standing` whose adapter and learner state verify.

        Without any the newest valid state is taken, and version 0 is saved where there is none at all.

        Raises:
            IntegrityError: E_STATE_CORRUPT when there are states and none verifies or fits.
            ConfigError: E_STATE_MISMATCH when the state belongs to another base, corpus or config.
        """
        for folder in ("adapters", "states"):
            durable.sweep(self._run_dir / folder)
        found = checkpoints.state_to_resume(self._run_dir, standing)
        if found is None:
            self._place = _Place(self._write_version(parent=None, step=None))
            self._save_state(self.version)
        else:
            self._require_same_lineage(found.version)
            self._place = _Place(found.version)
            self._load(found)
        return self.version

    def update(self, groups: Sequence[RolloutGroup], *, number: int) -> Step:
        """Make one step over `groups`: one optimiser update, or several where there are more than `train_batch_size` rollouts.

        The divisor counts every rollout given, so leaving out groups without a signal changes the time, not the loss.
        When no group carries a signal, or a number is not finite, nothing is applied and `is_applied` is False; sampler
        and learner are compared even then.

        Raises:
            StaleRolloutError: a rollout was made by another version.
            DeliveryError: the sampler's log-probabilities are not the current version's.
            TrainingError: the previous update was not saved, a rollout's tokens and log-probabilities differ in number, or
                some groups are examples and some are not.
        """
        started = time.monotonic()
        place = self._started()
        if not place.is_saved:
            raise TrainingError(
                "the previous update was not saved", code="E_UNSAVED", hint="call save(step) before the next update"
            )
        parent_digest = place.parent_digest if self._config.max_staleness else None
        apart = self._challenger.digest if self._challenger else None
        staleness = staleness_of(groups, place.version, parent_digest=parent_digest, challenger_digest=apart)
        require_whole(groups)
        objective = objective_of(groups)
        self._hold(place.version)
        limits = self._gradient.limits
        if self._challenger is None:
            outcome = self._learn(groups, objective=objective, staleness=staleness)
        else:
            outcome = self._learn_apart(groups, self._challenger, objective=objective)
        place.is_saved = bool(outcome.withheld)
        if outcome.withheld:
            self._gradient.limits = limits  # a step that leaves no state leaves no trace, so that a resumed run is the same
        return describe_step(
            groups,
            outcome,
            number=number,
            adapter_id=place.version.adapter_id,
            staleness=staleness,
            duration_s=time.monotonic() - started,
        )

    def save(self, step: Step) -> AdapterVersion:
        """Write the adapter and the learner state of `step`; states that are rejected or beyond `keep_states` go.

        A step that was not applied changed nothing: the current version is returned again.
        """
        place = self._started()
        if not step.is_applied:
            return place.version
        if self._challenger is not None and self._next_challenger is not None:
            self._challenger.state, self._next_challenger = self._next_challenger, None
        parent = place.version
        if self._stood_at_a_kept_step(parent, before=step.number):
            place.kept = (*place.kept, parent.adapter_id)
        version = self._write_version(parent=parent, step=step)
        place.version, place.parent_digest, place.is_saved = version, parent.digest, True
        self._save_state(version)
        self._prune(parent)
        return version

    def restore(self, version: AdapterVersion) -> None:
        """Go back to `version`: weights, and the optimiser state that was saved with it (zeroed when that was pruned).

        Newer states stay until the next `save`: a crash before the step is committed must find what stood before it.
        Raises `IntegrityError` (E_ADAPTER_DIGEST) and changes nothing when the files are not the record's.
        """
        checkpoints.read_adapter(self._run_dir, version)
        self._next_challenger = None
        kept = next((state for state in checkpoints.valid_states(self._run_dir) if state.version == version), None)
        place = self._started()
        place.version, place.is_saved, place.parent_digest = version, True, None
        if kept is not None:
            self._load(kept)
        else:
            self._hold(version)
            self._optimiser.load(None)
            self._save_state(version)

    def _learn(self, groups: Sequence[RolloutGroup], *, objective: Objective, staleness: int) -> Outcome:
        """Make every update of a step, or none: one that is refused or not finite takes back those before it."""
        is_whole = False
        try:
            outcome = self._make_updates(groups, objective=objective, staleness=staleness)
            is_whole = outcome.withheld != "non_finite"
            return outcome
        finally:
            self._optimiser.clear()
            if self._has_moved and not is_whole:
                self.restore(self.version)

    def _learn_apart(self, groups: Sequence[RolloutGroup], challenger: ChallengerAdapter, *, objective: Objective) -> Outcome:
        """Let each role's adapter learn from its own groups; a number that is not finite withholds both."""
        proposals = [group for group in groups if group.role == "challenger"]
        answers = [group for group in groups if group.role == "reasoner"]
        outcomes = [self._learn_to_ask(proposals, challenger, objective=objective)] if proposals else []
        if not any(outcome.withheld == "non_finite" for outcome in outcomes) and (answers or not proposals):
            outcomes.append(self._learn(answers, objective=objective, staleness=0))
        outcome = join_outcomes(outcomes)
        if outcome.withheld:
            self._next_challenger = None
        return outcome

    def _learn_to_ask(self, groups: Sequence[RolloutGroup], challenger: ChallengerAdapter, *, objective: Objective) -> Outcome:
        """Make the Challenger's updates and note what it became; the learner holds the Reasoner again at the end."""
        place = self._started()
        answering, stood = self._optimiser.save(), place.objective
        challenger.lend(self._learner)
        self._optimiser.load(challenger.state.optimiser)
        place.objective = challenger.state.objective
        try:
            outcome = self._make_updates(groups, objective=objective, staleness=0)
            if not outcome.withheld:
                weights = self._learner.adapter_files()[WEIGHTS_FILE]
                self._next_challenger = ChallengerState(
                    weights=weights, optimiser=self._optimiser.save(), objective=place.objective
                )
            return outcome
        finally:
            self._optimiser.clear()
            self._hold(place.version)
            self._optimiser.load(answering)
            place.objective = stood

    def _make_updates(self, groups: Sequence[RolloutGroup], *, objective: Objective, staleness: int) -> Outcome:
        updates: list[Outcome] = []
        for part in split_updates(groups, most=self._config.train_batch_size):
            # once an update has moved the learner, the sampler's numbers are those of the policy that played
            is_stale = staleness > 0 or self._has_moved
            measured = self._gradient.forward_backward(part, is_stale=is_stale)
            if objective == "policy" and not is_stale:  # else the gap is the policy's own movement
                limit = gap_limit(self._learner.compute_dtype, self._sampling.dtype or self._learner.compute_dtype)
                require_delivered(measured.mean(measured.gap), limit_nats=limit, version=self.version)
            updates.append(self._apply(measured, objective))
            if updates[-1].withheld == "non_finite":
                break
        return join_outcomes(updates)

    @property
    def _has_moved(self) -> bool:
        return self._learner.adapter_digest == UNSAVED

    def _apply(self, measured: Measured, objective: Objective) -> Outcome:
        """Clip and step, unless there is nothing to learn or a number is not finite."""
        grad_norm = self._optimiser.grad_norm()
        if not (measured.is_finite and math.isfinite(grad_norm)):
            return Outcome(measured=measured, grad_norm=grad_norm, withheld="non_finite")
        if not measured.is_trained:
            return Outcome(measured=measured, grad_norm=0.0, withheld="no_signal")
        self._learn_for(objective)
        rate = self._warmup.learning_rate if objective == "supervised" else None
        self._optimiser.step(grad_norm, learning_rate=rate)
        self._learner.adapter_digest = UNSAVED
        return Outcome(measured=measured, grad_norm=grad_norm)

    def _learn_for(self, objective: Objective) -> None:
        """Begin with a fresh optimiser where examples end: their moments are of other, larger gradients."""
        place = self._started()
        if place.objective != objective:
            self._optimiser.load(None)
            place.objective = objective

    # --- versions and states ------------------------------------------------------------------------------------------

    def _started(self) -> _Place:
        if self._place is None:
            raise TrainingError("the trainer was not started", hint="call start() first")
        return self._place

    def _hold(self, version: AdapterVersion) -> None:
        """Make the learner hold `version`: a sampler on the same module may have loaded another one to be measured."""
        if self._learner.adapter_digest != version.digest:
            self._learner.load_adapter(checkpoints.read_adapter(self._run_dir, version), digest=version.digest)

    def _load(self, state: checkpoints.LearnerState) -> None:
        version = state.version
        self._learner.load_adapter(checkpoints.read_adapter(self._run_dir, version), digest=version.digest)
        self._optimiser.load(state.optimiser)
        self._gradient.limits = state.progress.limits
        if self._challenger is not None and state.challenger is not None:
            self._challenger.state = state.challenger
        place, progress = self._started(), state.progress
        place.parent_digest, place.objective, place.kept = progress.parent_digest, progress.objective, progress.kept

    def _write_version(self, *, parent: AdapterVersion | None, step: Step | None) -> AdapterVersion:
        files = self._learner.adapter_files()
        manifest = digest_bytes(files)
        version = AdapterVersion(
            role="shared",
            parent_adapter_id=None if parent is None else parent.adapter_id,
            step_id=None if step is None else step.step_id,
            step=0 if step is None else step.number,
            base_model=self._lineage.base_model,
            base_digest=self._lineage.base_digest,
            corpus_digest=self._lineage.corpus_digest,
            config_digest=self._lineage.config_digest,
            manifest=manifest,
            digest=digest_of(manifest),
        )
        save_directory(checkpoints.adapter_dir(self._run_dir, version.adapter_id), files)
        self._learner.adapter_digest = version.digest
        return version

    def _save_state(self, version: AdapterVersion) -> None:
        place = self._started()
        progress = checkpoints.Progress(
            limits=self._gradient.limits, parent_digest=place.parent_digest, objective=place.objective, kept=place.kept
        )
        asking = self._challenger.state if self._challenger else None
        state = checkpoints.LearnerState(version=version, optimiser=self._optimiser.save(), progress=progress, challenger=asking)
        save_directory(checkpoints.state_dir(self._run_dir, version.step), state.files())

    def _prune(self, parent: AdapterVersion) -> None:
        """Drop every state but the current one and the newest up to its parent's, then versions that nothing names.

        States between the parent's and the current one are rejected work. The current one was read back when it was saved.
        """
        place = self._started()
        states = [
            s for s in checkpoints.valid_states(self._run_dir) if s.version == place.version or s.version.step <= parent.step
        ]
        kept = {state.version.step: state.version for state in states[: self._config.keep_states]}
        for step in checkpoints.state_steps(self._run_dir):
            if step not in kept:
                remove_directory(checkpoints.state_dir(self._run_dir, step))
        wanted = {version.adapter_id for version in kept.values()} | set(place.kept)
        for item in (self._run_dir / "adapters").iterdir():
            if item.is_dir() and item.name not in wanted and not item.name.startswith("."):
                remove_directory(item)

    def _stood_at_a_kept_step(self, version: AdapterVersion, *, before: int) -> bool:
        """True when `version` is what a step stood at, up to the one before `before`, whose adapter is kept for good."""
        every = self._config.keep_adapters_every
        return every > 0 and (before - 1) // every * every >= version.step

    def _require_same_lineage(self, version: AdapterVersion) -> None:
        for key in ("base_model", "base_digest", "corpus_digest", "config_digest"):
            if getattr(version, key) != getattr(self._lineage, key):
                raise ConfigError(
                    f"the saved state of step {version.step} has another {key}",
                    code="E_STATE_MISMATCH",
                    record_id=version.adapter_id,
                    hint="resume with the settings and files the run began with, or give the run another name",
                )
