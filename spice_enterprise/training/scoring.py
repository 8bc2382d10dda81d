"""Log-probabilities of chosen tokens without ever holding all logits.

In: hidden states, the frozen head's weight, the tokens to score.
Out: log-probability and entropy per token; gradients flow back to the hidden states.
Refuses: nothing.
Not here: where the hidden states come from (`qlora.py`).

The head is frozen, so the gradient of a token's log-probability with respect to its hidden state is known while the
logits are at hand: `(W[token] - probabilities @ W) / temperature`. It is kept instead of the logits, which would be
vocabulary / hidden size (85 for the embedded model) times larger.
"""

from typing import Any

import torch
from torch import Tensor

from spice_enterprise.training.cpu_linear import frozen_linear

CHUNK_TOKENS = 256
"""Positions whose logits exist at one time."""


class _SelectedLogProbs(torch.autograd.Function):
    """logp [N] and entropy [N] of `targets` under softmax(hidden @ weight.T / temperature)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        needs_gradient = ctx.needs_input_grad[0]
        parts = [
            _score_chunk(part, weight, chosen, temperature=temperature, needs_gradient=needs_gradient)
            for part, chosen in zip(torch.split(hidden, CHUNK_TOKENS), torch.split(targets, CHUNK_TOKENS), strict=True)
        ]
        logps, entropies, directions = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(directions)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (directions,) = ctx.saved_tensors
        return (gradients[0][:, None] * directions).to(directions.dtype), None, None, None


def _score_chunk(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float, needs_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    logits = frozen_linear(hidden, weight).float().div_(temperature)
    all_logps = torch.log_softmax(logits, dim=-1)
    logps = all_logps.gather(1, targets[:, None])[:, 0]
    probabilities = all_logps.exp()
    entropies = -(probabilities * all_logps).sum(dim=-1)
    if not needs_gradient:
        return logps, entropies, hidden.new_empty(len(targets), 0)
    directions = (weight[targets] - frozen_linear(probabilities.to(weight.dtype), weight.t())) / temperature
    return logps, entropies, directions


def selected_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return (log-probabilities, entropies), both float32 [N], in nats.

    Args:
        hidden: [N, H], the states that predict the targets.
        weight: [V, H] of the head; frozen, without bias.
        targets: int64 [N].
        temperature: divides the logits, as it did when the tokens were drawn.
    """
    logps, entropies = _SelectedLogProbs.apply(hidden, weight, targets, temperature)  # type: ignore[no-untyped-call]  # torch's own
    return logps, entropies
