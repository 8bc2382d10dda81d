"""One token per row from the model's logits.

In: logits [rows, V]; a temperature and a number in [0, 1) per row.
Out: the drawn tokens and their log-probabilities.
Refuses: nothing; logits that are not finite give a log-probability that is not finite, which the learner refuses.
Not here: where the numbers come from, when a row ends (`continuous.py`).

Inverse transform in two strides: which block of tokens, then which token in it. Sums over a whole vocabulary would need
float64, which not every device has; sums over a block do not.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK_TOKENS: Final = 256
BELOW_ONE: Final = 1.0 - 2.0**-23


def draw(logits: Tensor, temperatures: Sequence[float], numbers: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return per row the token that its number decides, and its log-probability (nats) at the row's temperature.

    At temperature 0 it is the likeliest token, with its log-probability at temperature 1.
    """
    settings = torch.tensor([temperatures, numbers], dtype=torch.float32, device=logits.device)[..., None]
    is_greedy = settings[0] == 0.0
    weights = logits.float() / torch.where(is_greedy, 1.0, settings[0])
    highest, likeliest = weights.max(dim=-1, keepdim=True)
    weights = weights.sub_(highest).exp_()
    total, drawn = _invert(weights, settings[1])
    chosen = torch.where(is_greedy, likeliest, drawn)
    logps = weights.gather(1, chosen).log() - total.log()
    # one transfer for both: below 2^24 a float32 holds an integer exactly
    tokens, values = torch.cat([chosen.float(), logps], dim=1).T.tolist()
    return [int(token) for token in tokens], values


def _invert(weights: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of weights and the drawn token, both [rows, 1], for numbers [rows, 1]."""
    vocabulary = weights.shape[1]
    blocks = pad(weights, (0, -vocabulary % BLOCK_TOKENS)).view(len(weights), -1, BLOCK_TOKENS)
    sums = blocks.sum(dim=-1)
    upto = sums.cumsum(dim=-1)
    target, block = _stride(upto, numbers * upto[:, -1:])
    before = (upto - sums).gather(1, block)
    within = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].cumsum(dim=-1)
    _, place = _stride(within, target - before)
    return sums.sum(dim=-1, keepdim=True), (block * BLOCK_TOKENS + place).clamp(max=vocabulary - 1)


def _stride(upto: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target, kept within the sums [rows, k], and the first place whose sum exceeds it: never one of weight 0."""
    target = torch.minimum(target.clamp(min=0.0), upto[:, -1:] * BELOW_ONE)
    return target, torch.searchsorted(upto, target, right=True).clamp(max=upto.shape[1] - 1)
