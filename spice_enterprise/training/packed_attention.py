"""Attention over rows of one prompt and its completions, without a mask over all pairs of positions.

In: queries, keys and values of padded rows, and where in each row the prompt ends.
Out: the attention output, equal with its gradients to one dense mask over the whole row.
Refuses: nothing.
Not here: how rows are laid out (`packing.py`).

The prompt looks only at itself, causally; completions look at the prompt and at their own tail. Two calls per row cost
P * P / 2 + C * (P + C) scores where a dense mask costs (P + C) ** 2, and no mask as large as the prompt squared exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout:
    """One row: P positions of prompt, then C of completions, then padding."""

    prompt: int
    """P"""
    mask: Tensor
    """bool [C, P + C], true where a position of a completion may look"""


def layout_row(segments: Sequence[int], device: torch.device) -> RowLayout:
    """Return the layout of a row whose prompt is segment 0 and whose completions are segments 1, 2, ..., in order."""
    places = torch.tensor(segments, device=device)
    prompt = int((places == 0).sum())
    own = places[prompt:]
    is_own = (own[:, None] == own[None, :]).tril()
    return RowLayout(prompt=prompt, mask=torch.cat([is_own.new_ones(len(own), prompt), is_own], dim=1))


def attend_rows(query: Tensor, key: Tensor, value: Tensor, rows: Sequence[RowLayout], *, scaling: float) -> Tensor:
    """Return [R, T, heads, width] from the query [R, heads, T, width] and key and value [R, kv heads, T, width].

    Padding gets zeros. Query heads share key heads in order, as everywhere in the supported architectures.
    """
    shared = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(shared, dim=1) if shared > 1 else part for part in (key, value))
    outputs = [
        _attend_row(query[i : i + 1], key[i : i + 1], value[i : i + 1], row, scaling=scaling) for i, row in enumerate(rows)
    ]
    return torch.cat(outputs).transpose(1, 2)


def _attend_row(query: Tensor, key: Tensor, value: Tensor, row: RowLayout, *, scaling: float) -> Tensor:
    start, end = row.prompt, row.mask.shape[1]
    on_prompt = scaled_dot_product_attention(
        query[:, :, :start], key[:, :, :start], value[:, :, :start], is_causal=True, scale=scaling
    )
    on_own = scaled_dot_product_attention(
        query[:, :, start:end], key[:, :, :end], value[:, :, :end], attn_mask=row.mask, scale=scaling
    )
    return pad(torch.cat([on_prompt, on_own], dim=2), (0, 0, 0, query.shape[2] - end))
