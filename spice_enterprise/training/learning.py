"""One pass over a step's groups: what the optimiser needs, and what the step reports.

In: rollout groups of one step, the learner's model.
Out: gradients on the adapter, and sums over the scored tokens (`Measured`).
Refuses: nothing; values that are not finite come out as such, and the trainer withholds the update.
Not here: the optimiser, versions and states (`trainer.py`), the loss itself (`losses.py`).

The divisor of the loss counts every rollout given, so leaving out groups without a signal changes the time, not the loss.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spice_enterprise.config import TrainingConfig
from spice_enterprise.records import Role, RolloutGroup
from spice_enterprise.training.advantages import centre, has_no_signal
from spice_enterprise.training.losses import LossLimits, TokenBatch, k3, policy_loss
from spice_enterprise.training.memory import CPU_BATCH_TOKENS, CPU_ROW_TOKENS
from spice_enterprise.training.packing import PackedBatch, PackedRow, fill_batches, pack_group, to_tensors
from spice_enterprise.training.qlora import LearnerModel
from spice_enterprise.training.scoring import selected_logprobs


@dataclass(slots=True, kw_only=True)
class Measured:
    """What the micro-batches of one step add up to; sums over tokens, in nats."""

    is_trained: bool
    """False: no group carries a signal. Sampler and learner were compared on the first, and there are no gradients."""
    loss: float = 0.0
    gap: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    tokens: int = 0

    def mean(self, total: float) -> float:
        """Return a per-token mean; NaN when there were no tokens."""
        return total / self.tokens if self.tokens else math.nan


class PolicyGradient:
    """Forward and backward over packed groups."""

    def __init__(self, learner: LearnerModel, *, config: TrainingConfig, l_max: Mapping[Role, int], temperature: float) -> None:
        """Take what stays the same for a run; `l_max` is per role the most new tokens of a completion."""
        self._learner = learner
        self._config = config
        self._l_max = l_max
        self._temperature = temperature
        self._limits = LossLimits(clip_low=config.clip_low, clip_high=config.clip_high, importance_cap=config.importance_cap)

    def forward_backward(self, groups: Sequence[RolloutGroup]) -> Measured:
        """Add the gradients of `groups` to the adapter's, and return what was seen."""
        advantages = [centre([rollout.reward for rollout in group.rollouts]) for group in groups]
        trained = [i for i, group in enumerate(groups) if not has_no_signal([rollout.reward for rollout in group.rollouts])]
        measured = Measured(is_trained=bool(trained))
        for batch in self._batches(groups, trained or range(min(1, len(groups)))):
            self._accumulate(batch, groups, advantages, measured=measured)
        if not trained:
            measured.loss = 0.0
        return measured

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
        self, batch: PackedBatch, groups: Sequence[RolloutGroup], advantages: Sequence[Sequence[float]], *, measured: Measured
    ) -> None:
        """Forward one micro-batch, add to `measured` and, when there is something to learn, to the gradients."""
        is_sparing = self._learner.device.type != "cpu"
        with torch.set_grad_enabled(measured.is_trained), self._learner.spare_activations(is_on=is_sparing):
            logps, entropies = self._score(batch)
            tokens = self._token_batch(batch, groups, advantages, start_logps=logps.detach())
            loss = policy_loss(logps, tokens, self._limits)
            if measured.is_trained:
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        gaps = tokens.start_logps - tokens.sampler_logps
        measured.loss += loss.item()
        measured.gap += gaps.abs().sum().item()
        measured.kl += k3(tokens.start_logps, tokens.sampler_logps).sum().item()
        measured.entropy += entropies.sum().item()
        measured.tokens += len(batch.targets)

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
