"""One pass over a step's groups: what the optimiser needs, and what the step reports.

In: rollout groups of one step, the learner's model.
Out: gradients on the adapter, and sums over the scored tokens (`Measured`).
Refuses: a single completion that does not fit into memory; values that are not finite come out as such.
Not here: the optimiser, versions and states (`trainer.py`), the loss itself (`losses.py`).

The divisor of the loss counts every rollout given, so leaving out groups without a signal changes the time, not the loss.
When memory runs out the pass begins again with micro-batches half as large, which add up to the same sums.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from spice_enterprise.config import TrainingConfig
from spice_enterprise.errors import TrainingError
from spice_enterprise.records import Role, RolloutGroup
from spice_enterprise.training.advantages import centre, has_no_signal
from spice_enterprise.training.losses import LossSettings, TokenBatch, k3, policy_loss
from spice_enterprise.training.memory import CPU_BATCH_TOKENS, CPU_ROW_TOKENS
from spice_enterprise.training.packing import PackedBatch, PackedRow, fill_batches, pack_group, to_tensors
from spice_enterprise.training.qlora import LearnerModel
from spice_enterprise.training.scoring import selected_logprobs

NO_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")
"""What allocators without an exception type of their own say."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """What the micro-batches of one step add up to; sums over tokens, in nats."""

    is_trained: bool
    """False: no group carries a signal. Sampler and learner were compared on the first, and there are no gradients."""
    batch_tokens: int
    """Most positions of one forward pass."""
    loss: float = 0.0
    gap: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    tokens: int = 0

    def mean(self, total: float) -> float:
        """Return a per-token mean; NaN when there were no tokens."""
        return total / self.tokens if self.tokens else math.nan

    @property
    def is_finite(self) -> bool:
        """False when a reward, a log-probability or the loss is NaN or infinite."""
        return math.isfinite(self.loss) and math.isfinite(self.gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """The groups of one step, the advantages of their rollouts, and which groups are run."""

    groups: Sequence[RolloutGroup]
    advantages: Sequence[Sequence[float]]
    chosen: Sequence[int]
    is_trained: bool
    is_stale: bool

    @property
    def sequences(self) -> int:
        return sum(len(group.rollouts) for group in self.groups)


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

        Raises `TrainingError` (E_MEMORY) when one completion with its prompt does not fit.
        """
        lesson = _plan_lesson(groups, is_stale=is_stale)
        measured = None
        while measured is None:
            for parameter in self._learner.parameters.values():
                parameter.grad = None
            measured = self._run(lesson)
        return measured

    def _run(self, lesson: _Lesson) -> Measured | None:
        """Go over the lesson once; `None` when memory ran out and the micro-batches were made smaller."""
        measured = Measured(is_trained=lesson.is_trained, batch_tokens=self._row_tokens)
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
        for index in lesson.chosen:
            group = lesson.groups[index]
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
        least = max(_least_tokens(lesson.groups[index]) for index in lesson.chosen)
        self._row_tokens = min(tried - 1, max(tried // 2, least))
        self._shared_tokens = min(self._shared_tokens, self._row_tokens)
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    def _accumulate(self, batch: PackedBatch, lesson: _Lesson, *, measured: Measured) -> None:
        """Forward one micro-batch, add to `measured` and, when there is something to learn, to the gradients."""
        with torch.set_grad_enabled(lesson.is_trained), self._learner.spare_activations(is_on=self._is_sparing):
            states = self._learner.completion_states(batch)
            logps, entropies = selected_logprobs(states, self._learner.head_weight, batch.targets, temperature=self._temperature)
            tokens = self._token_batch(batch, lesson, learner_logps=logps.detach())
            loss = policy_loss(logps, tokens, self._loss)
            if lesson.is_trained:
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        gaps = logps.detach() - tokens.sampler_logps
        measured.loss += loss.item()
        measured.gap += gaps.abs().sum().item()
        measured.kl += k3(logps.detach(), tokens.sampler_logps).sum().item()
        measured.entropy += entropies.sum().item()
        measured.tokens += len(batch.targets)

    def _token_batch(self, batch: PackedBatch, lesson: _Lesson, *, learner_logps: Tensor) -> TokenBatch:
        lengths = torch.tensor(batch.lengths)
        rollouts = [lesson.groups[g].rollouts[r] for g, r in batch.source]
        sampler = torch.tensor([value for rollout in rollouts for value in rollout.logprobs], dtype=torch.float32)
        advantages = torch.tensor([lesson.advantages[g][r] for g, r in batch.source], dtype=torch.float32)
        divisors = torch.tensor([float(self._l_max[r.role] * lesson.sequences) for r in rollouts])
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


def _plan_lesson(groups: Sequence[RolloutGroup], *, is_stale: bool) -> _Lesson:
    rewards = [[rollout.reward for rollout in group.rollouts] for group in groups]
    trained = [index for index, values in enumerate(rewards) if not has_no_signal(values)]
    return _Lesson(
        groups=groups,
        advantages=[centre(values) for values in rewards],
        chosen=trained or range(min(1, len(groups))),
        is_trained=bool(trained),
        is_stale=is_stale,
    )


def _least_tokens(group: RolloutGroup) -> int:
    """Return the positions of the smallest row that any completion of `group` can stand in."""
    return len(group.prompt_token_ids) + max(len(rollout.token_ids) for rollout in group.rollouts)
