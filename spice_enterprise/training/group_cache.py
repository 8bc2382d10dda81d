"""Keys and values of prompts, held once for all the rows that continue them.

In: the keys and values of prompts read together; one new position per row in flight.
Out: the attention output of those rows, equal to ordinary attention over prompt and own tail.
Refuses: nothing.
Not here: which rows are in flight (`continuous.py`), how the model is led here (`attention.py`).

A group of n rows reads its prompt's keys once instead of n times and nothing is copied as rows grow, which is where
decoding on a CPU spends its time. Rows that start together are a cohort: their own tails have one length, so nothing in
them is padded. A forward pass runs the rows of all cohorts at once; only attention looks at one cohort after another.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

GROWTH_TOKENS: Final = 64
"""Positions by which a cohort's tails grow."""

LayerCache = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, heads, tokens, width]."""


class Cohort:
    """G prompts and the rows that continue them, all at the same position of their own.

    Rows stay packed: when one ends the last one takes its place, so an end costs one row's copy.
    """

    def __init__(self, prompts: list[LayerCache], lengths: Sequence[int], group_of_row: Sequence[int]) -> None:
        """Take per layer the prompts' keys and values, each [G, heads, P, width], right-padded to P.

        Args:
            prompts: one pair per layer.
            lengths: real tokens of each prompt.
            group_of_row: which prompt each row continues.
        """
        self._prompts = prompts
        self._lengths = list(lengths)
        self._groups = list(group_of_row)
        self._used = 0
        self._tails = [
            tuple(part.new_empty(len(group_of_row), part.shape[1], 0, part.shape[3]) for part in pair) for pair in prompts
        ]
        self._place_rows()

    @property
    def rows(self) -> int:
        """Rows that continue."""
        return len(self._groups)

    def kv_tokens(self, longest_tail: int) -> int:
        """Positions whose keys and values this cohort may come to hold, when no row outgrows `longest_tail`."""
        return len(self._lengths) * int(self._prompts[0][0].shape[2]) + int(self._tails[0][0].shape[0]) * longest_tail

    def attend(self, query: Tensor, new: tuple[Tensor, Tensor], *, layer: int, scaling: float) -> Tensor:
        """Return [B, heads, width] for the query [B, heads, 1, width] and new keys and values, each [B, kv heads, 1, width].

        The softmax over prompt and tail is put together from its two parts, so that neither is copied.
        """
        tail_keys, tail_values = self._write(layer, new)
        keys, values = self._prompts[layer]
        rows, kv_heads, width = len(query), keys.shape[1], keys.shape[3]
        own = query.view(rows, kv_heads, -1, width) * scaling
        on_prompt = self._to_slots(own) @ keys.transpose(-1, -2)
        if self._padding is not None:
            on_prompt = on_prompt.masked_fill_(self._padding, float("-inf"))
        highest, total, found = (self._to_rows(part, own.shape[2]) for part in _weigh(on_prompt, values))
        own_highest, own_total, own_found = _weigh(own @ tail_keys.transpose(-1, -2), tail_values)
        top = torch.maximum(highest, own_highest)
        share, own_share = (highest - top).exp(), (own_highest - top).exp()
        output = (found * share + own_found * own_share) / (total * share + own_total * own_share)
        return output.to(query.dtype).reshape(rows, -1, width)

    def advance(self) -> None:
        """Count the position that all layers have written."""
        self._used += 1

    def retire(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self._groups) - 1
        if row != last:
            for part in (part for pair in self._tails for part in pair):
                part[row, :, : self._used] = part[last, :, : self._used]
        self._groups[row] = self._groups[last]
        self._groups.pop()

    def settle(self) -> None:
        """Make up for the rows dropped since the last position: free what half the rows no longer need."""
        if not self._groups:
            return
        if 2 * len(self._groups) <= self._tails[0][0].shape[0]:
            self._tails = [tuple(part[: len(self._groups)].clone() for part in pair) for pair in self._tails]
        alive = sorted(set(self._groups))
        if len(alive) <= 0.75 * len(self._lengths):  # copying costs as much as reading: only when it pays
            self._prompts = [(keys[alive], values[alive]) for keys, values in self._prompts]
            self._lengths = [self._lengths[group] for group in alive]
            self._groups = [alive.index(group) for group in self._groups]
        self._place_rows()

    def _place_rows(self) -> None:
        """Give each row a slot of its prompt, and say what of the prompts is padding."""
        device = self._prompts[0][0].device
        taken = [0] * len(self._lengths)
        places: list[tuple[int, int]] = []
        for group in self._groups:
            places.append((group, taken[group]))
            taken[group] += 1
        self._n = max(taken)
        slots = [group * self._n + place for group, place in places]
        is_full = slots == list(range(len(self._lengths) * self._n))
        self._slots = None if is_full else torch.tensor(slots, device=device)
        width = self._prompts[0][0].shape[2]
        self._padding: Tensor | None = None
        if min(self._lengths) < width:
            lengths = torch.tensor(self._lengths, device=device)
            self._padding = (torch.arange(width, device=device)[None, :] >= lengths[:, None])[:, None, None, :]

    def _write(self, layer: int, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Append this position to the tails and return them, each [B, kv heads, tokens, width]."""
        used, rows = self._used, len(self._groups)
        if used == self._tails[layer][0].shape[2]:
            more = ((*part.shape[:2], GROWTH_TOKENS, part.shape[3]) for part in self._tails[layer])
            self._tails[layer] = tuple(
                torch.cat([part, part.new_empty(shape)], dim=2) for part, shape in zip(self._tails[layer], more, strict=True)
            )
        keys, values = self._tails[layer]
        keys[:rows, :, used : used + 1], values[:rows, :, used : used + 1] = new
        return keys[:rows, :, : used + 1], values[:rows, :, : used + 1]

    def _to_slots(self, rows: Tensor) -> Tensor:
        """[B, kv heads, s, x] of rows -> [G, kv heads, n * s, x], zeros where a prompt has fewer rows than others."""
        _, kv_heads, shared, last = rows.shape
        if self._slots is not None:
            empty = rows.new_zeros(len(self._lengths) * self._n, kv_heads, shared, last)
            rows = empty.index_copy_(0, self._slots, rows)
        slots = rows.view(-1, self._n, kv_heads, shared, last).transpose(1, 2)
        return slots.reshape(len(self._lengths), kv_heads, -1, last)

    def _to_rows(self, slots: Tensor, shared: int) -> Tensor:
        """[G, kv heads, n * s, x] -> [B, kv heads, s, x]."""
        groups, kv_heads, _, last = slots.shape
        rows = slots.view(groups, kv_heads, self._n, shared, last).transpose(1, 2).reshape(-1, kv_heads, shared, last)
        return rows if self._slots is None else rows[self._slots]


class GroupCache:
    """The cohorts of one forward pass; the rows of the batch are theirs, one cohort after another."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        self._cohorts = cohorts

    def attend(self, query: Tensor, new: tuple[Tensor, Tensor], *, layer: int, scaling: float) -> Tensor:
        """Return [B, 1, heads, width] for the query [B, heads, 1, width] and this position's keys and values."""
        sizes = [cohort.rows for cohort in self._cohorts]
        parts = zip(self._cohorts, *(torch.split(part, sizes) for part in (query, *new)), strict=True)
        outputs = [cohort.attend(own, (keys, values), layer=layer, scaling=scaling) for cohort, own, keys, values in parts]
        return torch.cat(outputs)[:, None]


def _weigh(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the highest score, the sum of weights relative to it, and the weighted sum of values, in float32."""
    scores = scores.float()
    highest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    return highest, weights.sum(dim=-1, keepdim=True), (weights.to(values.dtype) @ values).float()
