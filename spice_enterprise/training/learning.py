"""One pass over a step's groups: what the optimiser needs, and what the step reports.

In: rollout groups of one step, the learner's model.
Out: gradients on the adapter, and sums over the scored tokens (`Measured`).
Refuses: a single completion that does not fit into memory; values that are not finite come out as such.
Not here: the optimiser, versions and states (`trainer.py`), the loss itself (`losses.py`).

The divisor of the loss counts every rollout given, so leaving out groups without a signal, and completions that were cut
off at their limit, changes the time, not the loss. Groups of examples are all learned, whatever their rewards.
When memory runs out the pass begins again with micro-batches half as large, which add up to the same sums.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from spice_enterprise.config import TrainingConfig
from spice_enterprise.errors import TrainingError
from spice_enterprise.records import Objective, Role, RolloutGroup
from spice_enterprise.training.advantages import centre
from spice_enterprise.training.losses import (
    LossSettings,
    TokenBatch,
    clipped_and_weights,
    k3,
    policy_loss,
    supervised_loss,
)
from spice_enterprise.training.memory import CPU_BATCH_TOKENS, CPU_ROW_TOKENS
from spice_enterprise.training.packing import PackedBatch, PackedRow, fill_batches, pack_group, to_tensors
from spice_enterprise.training.qlora import LearnerModel
from spice_enterprise.training.scoring import selected_logprobs

NO_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")
"""What allocators without an exception type of their own say."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """What the micro-batches of one update add up to; sums over tokens, in nats."""

    is_trained: bool
    """False: no group carries a signal. Sampler and learner were compared on the first, and there are no gradients."""
    batch_tokens: int
    """Most positions of one forward pass."""
    scale: float = 1.0
    """What the loss was divided by besides lengths: the rollouts of the update."""
    loss: float = 0.0
    gap: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    tokens: int = 0
    clipped: float = 0.0
    weights: float = 0.0
    weight_max: float = 0.0

    def mean(self, total: float) -> float:
        """Return a per-token mean; NaN when there were no tokens."""
        return total / self.tokens if self.tokens else math.nan

    @property
    def is_finite(self) -> bool:
        """False when a reward, a log-probability or the loss is NaN or infinite."""
        return math.isfinite(self.loss) and math.isfinite(self.gap)


def joined(parts: Sequence[Measured]) -> Measured:
    """Return the updates of one step as one: sums over those that learned something, and their mean loss."""
    trained = [part for part in parts if part.is_trained] or parts[:1]
    if len(trained) == 1:
        return trained[0]
    scale = sum(part.scale for part in trained)
    return Measured(
        is_trained=True,
        batch_tokens=min(part.batch_tokens for part in trained),
        scale=scale,
        loss=sum(part.loss * part.scale for part in trained) / scale,
        gap=sum(part.gap for part in trained),
        kl=sum(part.kl for part in trained),
        entropy=sum(part.entropy for part in trained),
        tokens=sum(part.tokens for part in trained),
        clipped=sum(part.clipped for part in trained),
        weights=sum(part.weights for part in trained),
        weight_max=max(part.weight_max for part in trained),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What of an update's groups is run, and the advantages of those rollouts."""

    groups: Sequence[RolloutGroup]
    advantages: Sequence[Sequence[float]]
    scale: float
    is_trained: bool
    is_stale: bool
    objective: Objective


class PolicyGradient:
    """Forward and backward over packed groups."""

    def __init__(self, learner: LearnerModel, *, config: TrainingConfig, l_max: Mapping[Role, int], temperature: float) -> None:
        """Take what stays the same for a run; `l_max` is per role the most new tokens of a completion."""
        self._learner = learner
        self._l_max = l_max
        self._temperature = temperature
        self._loss = LossSettings(
            kind=config.loss, clip_low=config.clip_low, clip_high=config.clip_high, importance_cap=config.importance_cap
        )
        self._is_masked = config.mask_truncated
        is_cpu = learner.device.type == "cpu"
        self._is_sparing = config.activation_checkpointing == "always" or (
            config.activation_checkpointing == "auto" and not is_cpu
        )
        most = config.max_batch_tokens
        self._most = (min(most, CPU_ROW_TOKENS), min(most, CPU_BATCH_TOKENS)) if is_cpu else (most, most)
        self._row_tokens, self._shared_tokens = self._most

    @property
    def limits(self) -> tuple[int, ...]:
        """Most positions of one row and of rows run together: less than configured once memory has run out."""
        return self._row_tokens, self._shared_tokens

    @limits.setter
    def limits(self, saved: tuple[int, ...]) -> None:
        # another session may have had more memory than this one
        self._row_tokens, self._shared_tokens = map(min, saved, self._most)

    def forward_backward(self, groups: Sequence[RolloutGroup], *, is_stale: bool = False) -> Measured:
        """Replace the adapter's gradients by those of `groups`, and return what was seen.

        The ratio of the loss is to the policy that played. Rollouts of the learner's own version have ratio 1, and only
        rounding lies between sampler and learner; of rollouts that are `is_stale` the sampler's numbers are that policy.
        All groups have the same objective.

        Raises `TrainingError` (E_MEMORY) when one completion with its prompt does not fit.
        """
        lesson = _plan_lesson(groups, is_stale=is_stale, is_masked=self._is_masked)
        measured = None
        while measured is None:
            for parameter in self._learner.parameters.values():
                parameter.grad = None
            measured = self._run(lesson)
        return measured

    def _run(self, lesson: _Lesson) -> Measured | None:
        """Go over the lesson once; `None` when memory ran out and the micro-batches were made smaller."""
        measured = Measured(is_trained=lesson.is_trained, batch_tokens=self._row_tokens, scale=lesson.scale)
        for rows in self._batches(lesson):
            try:
                self._accumulate(to_tensors(rows, self._learner.device), lesson, measured=measured)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                continue
            self._shrink(rows, lesson)  # out of the handler: the error holds on to what must be freed
            return None
        if not lesson.is_trained:
            measured.loss = 0.0
        return measured

    def _batches(self, lesson: _Lesson) -> list[list[PackedRow]]:
        rows: list[PackedRow] = []
        for index, group in enumerate(lesson.groups):
            completions = [rollout.token_ids for rollout in group.rollouts]
            rows += pack_group(group.prompt_token_ids, completions, group=index, max_tokens=self._row_tokens)
        return fill_batches(rows, max_tokens=self._shared_tokens)

    def _shrink(self, rows: Sequence[PackedRow], lesson: _Lesson) -> None:
        """Halve the limits below what `rows` took. Raises `TrainingError` (E_MEMORY) when they hold one completion."""
        tried = len(rows) * max(len(row.token_ids) for row in rows)
        if sum(len(row.source) for row in rows) == 1:
            raise TrainingError(
                f"memory ran out in a forward and backward pass over one completion with its prompt: {tried} positions,"
                f" micro-batches of at most {self._row_tokens} tried",
                code="E_MEMORY",
                hint="set training.activation_checkpointing: always, shorten chunks or completions, or use a smaller base model",
            )
        least = max(map(_least_tokens, lesson.groups))
        self._row_tokens = min(tried - 1, max(tried // 2, least))
        self._shared_tokens = min(self._shared_tokens, self._row_tokens)
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    def _accumulate(self, batch: PackedBatch, lesson: _Lesson, *, measured: Measured) -> None:
        """Forward one micro-batch, add to `measured` and, when there is something to learn, to the gradients."""
        is_policy = lesson.objective == "policy"
        temperature = self._temperature if is_policy else 1.0
        tokens = None
        with torch.set_grad_enabled(lesson.is_trained), self._learner.spare_activations(is_on=self._is_sparing):
            states = self._learner.completion_states(batch)
            logps, entropies = selected_logprobs(states, self._learner.head_weight, batch.targets, temperature=temperature)
            if is_policy:
                tokens = self._token_batch(batch, lesson, learner_logps=logps.detach())
                loss = policy_loss(logps, tokens, self._loss)
            else:
                lengths = torch.tensor(batch.lengths, device=logps.device)
                loss = supervised_loss(logps, lengths.repeat_interleave(lengths), lesson.scale)
            if lesson.is_trained:
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        measured.loss += loss.item()
        measured.entropy += entropies.sum().item()
        measured.tokens += len(batch.targets)
        self._compare(logps.detach(), tokens, measured)

    def _compare(self, logps: Tensor, tokens: TokenBatch | None, measured: Measured) -> None:
        """Add how far the learner is from the sampler; nobody sampled examples, so they count as equal."""
        if tokens is None:
            measured.weights, measured.weight_max = float(measured.tokens), 1.0
            return
        gaps = logps - tokens.sampler_logps
        is_clipped, weights = clipped_and_weights(logps, tokens, self._loss)
        measured.gap += gaps.abs().sum().item()
        measured.kl += k3(logps, tokens.sampler_logps).sum().item()
        measured.clipped += is_clipped.sum().item()
        measured.weights += weights.sum().item()
        measured.weight_max = max(measured.weight_max, weights.max().item())

    def _token_batch(self, batch: PackedBatch, lesson: _Lesson, *, learner_logps: Tensor) -> TokenBatch:
        lengths = torch.tensor(batch.lengths)
        rollouts = [lesson.groups[g].rollouts[r] for g, r in batch.source]
        sampler = torch.tensor([value for rollout in rollouts for value in rollout.logprobs], dtype=torch.float32)
        advantages = torch.tensor([lesson.advantages[g][r] for g, r in batch.source], dtype=torch.float32)
        divisors = torch.tensor([self._l_max[r.role] * lesson.scale for r in rollouts])
        device = self._learner.device
        return TokenBatch(
            start_logps=sampler.to(device) if lesson.is_stale else learner_logps,
            sampler_logps=sampler.to(device),
            advantages=advantages.repeat_interleave(lengths).to(device),
            divisors=divisors.repeat_interleave(lengths).to(device),
            completions=torch.arange(len(lengths)).repeat_interleave(lengths).to(device),
        )


def is_out_of_memory(error: BaseException) -> bool:
    """True when an allocator, and nothing else, gave up."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


def _plan_lesson(groups: Sequence[RolloutGroup], *, is_stale: bool, is_masked: bool) -> _Lesson:
    objective: Objective = groups[0].objective if groups else "policy"
    if objective == "supervised":
        kept = [(group, [1.0] * len(group.rollouts)) for group in groups]
    else:
        kept = [taught for group in groups if (taught := _taught(group, is_masked=is_masked)) is not None]
    rest = [(group, [0.0] * len(group.rollouts)) for group in groups[:1]]
    return _Lesson(
        groups=[group for group, _ in kept or rest],
        advantages=[advantages for _, advantages in kept or rest],
        scale=float(sum(len(group.rollouts) for group in groups)),
        is_trained=bool(kept),
        is_stale=is_stale,
        objective=objective,
    )


def _taught(group: RolloutGroup, *, is_masked: bool) -> tuple[RolloutGroup, list[float]] | None:
    """Return what is learned of a group, with advantages over the whole of it; None when that is nothing.

    `is_masked`: not the completions that ended at their token limit: how they would have ended, nobody knows.
    """
    advantages = centre([rollout.reward for rollout in group.rollouts])
    places = [i for i, rollout in enumerate(group.rollouts) if not (is_masked and rollout.stop_reason == "length")]
    if all(advantages[i] == 0.0 for i in places):
        return None
    return replace(group, rollouts=tuple(group.rollouts[i] for i in places)), [advantages[i] for i in places]


def _least_tokens(group: RolloutGroup) -> int:
    """Return the positions of the smallest row that any completion of `group` can stand in."""
    return len(group.prompt_token_ids) + max(len(rollout.token_ids) for rollout in group.rollouts)
