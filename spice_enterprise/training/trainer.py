"""The training stage: groups of rollouts in, one optimiser step and one saved adapter version out.

In: rollout groups played by the current version; the training section of the config.
Out: a `Step` with what it measured before any filter or clip; an `AdapterVersion` with its parent, on disk, crash-safe.
Refuses: rollouts of another adapter, a sampler that did not use the adapter, a second update before the first is saved.
    A loss or gradient that is not finite withholds the update: a value in the record, not an exception.
Not here: which version is good (`guardrails/`), the order of the road (`loop.py`).

A step: require current rollouts -> centre rewards per group -> drop groups without a signal -> pack -> forward and
backward per micro-batch -> prove delivery -> check finite -> clip -> AdamW. Everything drawn is derived from the seed
when the learner is loaded, so a saved state needs no generator states, and a resumed run equals an uninterrupted one
bit for bit on a CPU with the same number of threads.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from spice_enterprise import durable
from spice_enterprise.config import TrainingConfig
from spice_enterprise.errors import ConfigError, TrainingError
from spice_enterprise.records import AdapterVersion, Role, Rollout, RolloutGroup, Step, canonical_json, digest_of, encode_json
from spice_enterprise.training import checkpoints
from spice_enterprise.training.advantages import centre, has_no_signal
from spice_enterprise.training.delivery import require_current, require_delivered
from spice_enterprise.training.losses import LossLimits, TokenBatch, k3, policy_loss
from spice_enterprise.training.memory import CPU_BATCH_TOKENS, CPU_ROW_TOKENS
from spice_enterprise.training.optimiser import AdapterOptimiser
from spice_enterprise.training.packing import PackedBatch, PackedRow, fill_batches, pack_group, to_tensors
from spice_enterprise.training.qlora import UNSAVED, LearnerModel
from spice_enterprise.training.scoring import selected_logprobs

PROTECTED_FILE: Final = "protected.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What every version of one job descends from."""

    base_model: str
    base_digest: str
    corpus_digest: str
    config_digest: str


@dataclass(slots=True)
class _Tally:
    """What the micro-batches of one step add up to."""

    loss: float = 0.0
    gap: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    tokens: int = 0

    def mean(self, total: float) -> float:
        """Return a per-token mean; NaN when there were no tokens."""
        return total / self.tokens if self.tokens else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What one pass over the trained rows found."""

    tally: _Tally
    grad_norm: float
    is_applied: bool


@dataclass(slots=True)
class _Place:
    """Where training stands."""

    version: AdapterVersion
    is_saved: bool = True
    protected: set[str] = field(default_factory=set)


class QloraTrainer:
    """Implements `protocols.Trainer` on a `LearnerModel` with one adapter for both roles."""

    def __init__(
        self,
        learner: LearnerModel,
        *,
        run_dir: Path,
        config: TrainingConfig,
        l_max: Mapping[Role, int],
        lineage: Lineage,
        temperature: float = 1.0,
    ) -> None:
        """Take the learner as it was loaded; nothing is read or written before `start`.

        Args:
            learner: the model with its fresh adapter.
            run_dir: where adapters and states are kept.
            config: the training section.
            l_max: per role, the most new tokens of a completion: the constant divisor of its loss.
            lineage: what every version descends from.
            temperature: the one the rollouts are drawn at; it divides the learner's logits too.
        """
        self._learner = learner
        self._run_dir = run_dir
        self._config = config
        self._l_max = l_max
        self._lineage = lineage
        self._temperature = temperature
        self._limits = LossLimits(clip_low=config.clip_low, clip_high=config.clip_high, importance_cap=config.importance_cap)
        self._optimiser = AdapterOptimiser(learner.parameters, config)
        self._place: _Place | None = None

    @property
    def version(self) -> AdapterVersion:
        """The version that plays and is updated next. Raises `TrainingError` before `start`."""
        return self._started().version

    def start(self) -> AdapterVersion:
        """Resume from the newest valid state, or save version 0.

        Raises:
            IntegrityError: E_STATE_CORRUPT when there are states and none verifies.
            ConfigError: E_STATE_MISMATCH when the state belongs to another base, corpus or config.
        """
        found = checkpoints.newest_valid_state(self._run_dir)
        if found is None:
            self._place = _Place(self._write_version(parent=None, step=None))
            self._save_state(self.version)
        else:
            _, version, files = found
            self._require_same_lineage(version)
            self._place = _Place(version, protected=self._read_protected())
            self._load(version, files["optimiser.safetensors"])
        return self.version

    def update(self, groups: Sequence[RolloutGroup], *, number: int) -> Step:
        """Make one optimiser step over `groups`.

        The divisor counts every rollout given, so leaving out groups without a signal changes the time, not the loss.
        When no group carries a signal, or a number is not finite, nothing is applied and `is_applied` is False; sampler
        and learner are compared even then.

        Raises:
            StaleRolloutError: a rollout was made by another version.
            DeliveryError: the sampler's log-probabilities are not the current version's.
            TrainingError: the previous update was not saved, or a rollout's tokens and log-probabilities differ in number.
        """
        started = time.monotonic()
        place = self._started()
        if not place.is_saved:
            raise TrainingError(
                "the previous update was not saved", code="E_UNSAVED", hint="call save(step) before the next update"
            )
        require_current(tuple(groups), place.version)
        _require_whole(groups)
        self._hold(place.version)
        advantages = [centre([rollout.reward for rollout in group.rollouts]) for group in groups]
        measured = self._learn(groups, advantages)
        place.is_saved = not measured.is_applied
        return self._step(groups, measured, number=number, duration_s=time.monotonic() - started)

    def save(self, step: Step) -> AdapterVersion:
        """Write the adapter and the learner state of `step`; older states beyond `keep_states` go.

        A step that was not applied changed nothing: the current version is returned again.
        """
        place = self._started()
        if not step.is_applied:
            return place.version
        version = self._write_version(parent=place.version, step=step)
        place.version, place.is_saved = version, True
        self._save_state(version)
        self._prune()
        return version

    def restore(self, version: AdapterVersion) -> None:
        """Go back to `version`: weights, and the optimiser state that was saved with it (zeroed when that was pruned).

        States newer than `version` are rejected work and are removed, so that a crash after this resumes here.
        Raises `IntegrityError` (E_ADAPTER_DIGEST) and changes nothing when the files are not the record's.
        """
        checkpoints.read_adapter(self._run_dir, version)
        kept = [files for _, found, files in checkpoints.valid_states(self._run_dir) if found.adapter_id == version.adapter_id]
        place = self._started()
        self._load(version, kept[0]["optimiser.safetensors"] if kept else None)
        place.version, place.is_saved = version, True
        if not kept:
            self._save_state(version)
        for step in checkpoints.state_steps(self._run_dir):
            if step > version.step:
                checkpoints.remove_directory(checkpoints.state_dir(self._run_dir, step))

    def protect(self, adapter_id: str) -> None:
        """Never prune this version: something points to it as good. Remembered across restarts."""
        place = self._started()
        place.protected.add(adapter_id)
        durable.write_file(self._run_dir / "adapters" / PROTECTED_FILE, canonical_json(sorted(place.protected)))

    # --- learning -----------------------------------------------------------------------------------------------------

    def _learn(self, groups: Sequence[RolloutGroup], advantages: Sequence[Sequence[float]]) -> _Measured:
        has_signal = [not has_no_signal([rollout.reward for rollout in group.rollouts]) for group in groups]
        trained = [index for index, is_useful in enumerate(has_signal) if is_useful]
        tally = _Tally()
        self._optimiser.clear()
        try:
            for batch in self._batches(groups, trained or range(min(1, len(groups)))):
                self._accumulate(batch, groups, advantages, tally=tally, is_trained=bool(trained))
            require_delivered(tally.mean(tally.gap), compute_dtype=self._learner.compute_dtype, version=self.version)
            return self._apply(tally) if trained else _Measured(tally=_still(tally), grad_norm=0.0, is_applied=False)
        finally:
            self._optimiser.clear()

    def _apply(self, tally: _Tally) -> _Measured:
        """Clip and step, unless the loss or the gradient is not finite."""
        grad_norm = self._optimiser.grad_norm()
        is_finite = math.isfinite(tally.loss) and math.isfinite(grad_norm)
        if is_finite:
            self._optimiser.step(grad_norm)
            self._learner.adapter_digest = UNSAVED
        return _Measured(tally=tally, grad_norm=grad_norm, is_applied=is_finite)

    def _batches(self, groups: Sequence[RolloutGroup], chosen: Iterable[int]) -> Iterable[PackedBatch]:
        row_limit = batch_limit = self._config.max_batch_tokens
        if self._learner.device.type == "cpu":
            row_limit, batch_limit = min(row_limit, CPU_ROW_TOKENS), min(batch_limit, CPU_BATCH_TOKENS)
        rows: list[PackedRow] = []
        for index in chosen:
            completions = [rollout.token_ids for rollout in groups[index].rollouts]
            rows += pack_group(groups[index].prompt_token_ids, completions, group=index, max_tokens=row_limit)
        return (to_tensors(batch, self._learner.device) for batch in fill_batches(rows, max_tokens=batch_limit))

    def _accumulate(
        self,
        batch: PackedBatch,
        groups: Sequence[RolloutGroup],
        advantages: Sequence[Sequence[float]],
        *,
        tally: _Tally,
        is_trained: bool,
    ) -> None:
        """Forward one micro-batch, add to the tally and, when there is something to learn, to the gradients."""
        with torch.set_grad_enabled(is_trained), self._learner.spare_activations(is_on=self._learner.device.type != "cpu"):
            logps, entropies = self._score(batch)
            tokens = self._token_batch(batch, groups, advantages, start_logps=logps.detach())
            loss = policy_loss(logps, tokens, self._limits)
            if is_trained:
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        gaps = tokens.start_logps - tokens.sampler_logps
        tally.loss += loss.item()
        tally.gap += gaps.abs().sum().item()
        tally.kl += k3(tokens.start_logps, tokens.sampler_logps).sum().item()
        tally.entropy += entropies.sum().item()
        tally.tokens += len(batch.targets)

    def _score(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        output = self._learner.hidden_states(
            batch.token_ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        )
        hidden = output.last_hidden_state.flatten(0, 1)[batch.heads]
        return selected_logprobs(hidden, self._learner.head_weight, batch.targets, temperature=self._temperature)

    def _token_batch(
        self, batch: PackedBatch, groups: Sequence[RolloutGroup], advantages: Sequence[Sequence[float]], *, start_logps: Tensor
    ) -> TokenBatch:
        sequences = sum(len(group.rollouts) for group in groups)
        places = list(zip(batch.source, batch.lengths, strict=True))
        sampler = [value for (g, r), _ in places for value in groups[g].rollouts[r].logprobs]
        weights = [advantages[g][r] for (g, r), length in places for _ in range(length)]
        divisors = [float(self._l_max[groups[g].role] * sequences) for (g, _), length in places for _ in range(length)]
        device = self._learner.device
        return TokenBatch(
            start_logps=start_logps,
            sampler_logps=torch.tensor(sampler, dtype=torch.float32, device=device),
            advantages=torch.tensor(weights, dtype=torch.float32, device=device),
            divisors=torch.tensor(divisors, dtype=torch.float32, device=device),
        )

    def _step(self, groups: Sequence[RolloutGroup], measured: _Measured, *, number: int, duration_s: float) -> Step:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        rewards = [rollout.reward for rollout in rollouts]
        tally = measured.tally
        return Step(
            number=number,
            adapter_id=self.version.adapter_id,
            rollout_ids=tuple(rollout.rollout_id for rollout in rollouts),
            is_applied=measured.is_applied,
            reward_mean=_mean(rewards),
            reward_std=_deviation(rewards),
            challenger_reward_mean=_mean([r.reward for r in rollouts if r.role == "challenger"]),
            reasoner_reward_mean=_mean([r.reward for r in rollouts if r.role == "reasoner"]),
            frac_zero_std=_mean([float(has_no_signal([r.reward for r in group.rollouts])) for group in groups]),
            loss=tally.loss,
            grad_norm=measured.grad_norm,
            kl_nats_per_token=tally.mean(tally.kl),
            entropy_nats_per_token=tally.mean(tally.entropy),
            length_mean_tokens=_mean([float(len(r.token_ids)) for r in rollouts]),
            invalid_rate=_invalid_rate(rollouts),
            trained_tokens=tally.tokens if measured.grad_norm != 0.0 else 0,
            duration_s=duration_s,
        )

    # --- versions and states ------------------------------------------------------------------------------------------

    def _started(self) -> _Place:
        if self._place is None:
            raise TrainingError("the trainer was not started", hint="call start() first")
        return self._place

    def _hold(self, version: AdapterVersion) -> None:
        """Make the learner hold `version`: a sampler on the same module may have loaded another one to be measured."""
        if self._learner.adapter_digest != version.digest:
            self._learner.load_adapter(checkpoints.read_adapter(self._run_dir, version), digest=version.digest)

    def _load(self, version: AdapterVersion, optimiser: bytes | None) -> None:
        self._learner.load_adapter(checkpoints.read_adapter(self._run_dir, version), digest=version.digest)
        self._optimiser.load(optimiser)

    def _write_version(self, *, parent: AdapterVersion | None, step: Step | None) -> AdapterVersion:
        files = self._learner.adapter_files()
        manifest = checkpoints.digest_bytes(files)
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
        checkpoints.save_directory(checkpoints.adapter_dir(self._run_dir, version.adapter_id), files)
        self._learner.adapter_digest = version.digest
        return version

    def _save_state(self, version: AdapterVersion) -> None:
        files = {"version.json": canonical_json(encode_json(version)), "optimiser.safetensors": self._optimiser.save()}
        checkpoints.save_directory(checkpoints.state_dir(self._run_dir, version.step), files)

    def _prune(self) -> None:
        """Drop states beyond `keep_states`, then versions that no kept state and no protection names."""
        states = list(checkpoints.valid_states(self._run_dir))
        kept = {step: version for step, version, _ in states[: self._config.keep_states]}
        for step in checkpoints.state_steps(self._run_dir):
            if step not in kept:
                checkpoints.remove_directory(checkpoints.state_dir(self._run_dir, step))
        wanted = {version.adapter_id for version in kept.values()} | self._started().protected
        for item in (self._run_dir / "adapters").iterdir():
            if item.is_dir() and item.name not in wanted and not item.name.startswith("."):
                checkpoints.remove_directory(item)

    def _read_protected(self) -> set[str]:
        file = self._run_dir / "adapters" / PROTECTED_FILE
        return set(checkpoints.read_names(file)) if file.is_file() else set()

    def _require_same_lineage(self, version: AdapterVersion) -> None:
        for key in ("base_model", "base_digest", "corpus_digest", "config_digest"):
            if getattr(version, key) != getattr(self._lineage, key):
                raise ConfigError(
                    f"the saved state of step {version.step} has another {key}",
                    code="E_STATE_MISMATCH",
                    record_id=version.adapter_id,
                    hint="resume with the settings and files the run began with, or give the run another name",
                )


def _require_whole(groups: Sequence[RolloutGroup]) -> None:
    for group in groups:
        for rollout in group.rollouts:
            if not rollout.token_ids or len(rollout.token_ids) != len(rollout.logprobs):
                raise TrainingError(
                    "a rollout needs one log-probability per token and at least one token",
                    code="E_ROLLOUT",
                    record_id=rollout.rollout_id,
                )


def _still(tally: _Tally) -> _Tally:
    """Return the tally of a step that learned nothing: its loss is exactly 0."""
    tally.loss = 0.0
    return tally


def _mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of nothing; NaN and infinity pass through."""
    return sum(values) / len(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    """Return the population standard deviation, NaN of nothing."""
    mean = _mean(values)
    return math.sqrt(_mean([(value - mean) ** 2 for value in values])) if values else math.nan


def _invalid_rate(rollouts: Sequence[Rollout]) -> float:
    """Return the share of proposals that could not be used; 0 when there were none."""
    proposals = [rollout for rollout in rollouts if rollout.role == "challenger"]
    return _mean([float(rollout.outcome != "valid") for rollout in proposals]) if proposals else 0.0
