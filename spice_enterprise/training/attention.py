"""Attention that keeps a prompt's keys and values once for all the rows that continue it.

In: the prompts' keys and values, and one new position per living row.
Out: the attention output of those rows, equal to ordinary attention over prompt and own tail.
Refuses: nothing.
Not here: sampling (`hf_sampler.py`). Everything but such decoding goes through the library's own sdpa.

A group of n rows reads its prompt's keys once instead of n times and nothing is copied as rows grow, which is where
decoding on a CPU spends its time. All rows of a `GroupCache` start together, so their own tails have one length.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION: Final = "spice_shared_prompt"
"""Name under which the learner's model is told to look its attention up."""


class GroupCache:
    """Keys and values of G prompts and of the rows that continue them; stands in for the library's cache.

    Row r continues prompt r // n. Only living rows are kept: `keep` drops the others, and prompts without any row.
    """

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, *, n: int, max_new: int) -> None:
        """Take per layer the prompts' (keys, values), each [G, heads, P, width], right-padded; `lengths` int [G]."""
        self._prompts = prompts
        self._n = n
        self._used = 0
        rows = lengths.shape[0] * n
        self._slots = torch.arange(rows, device=lengths.device)
        places = torch.arange(prompts[0][0].shape[2], device=lengths.device)
        self._hidden = places[None, :] >= lengths[:, None]
        self._tails = [tuple(part.new_zeros(rows, part.shape[1], max_new, part.shape[3]) for part in pair) for pair in prompts]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Write this position's [B, heads, 1, width] and return each row's own tail so far (called by the model)."""
        keys, values = self._tails[layer]
        keys[:, :, self._used : self._used + 1] = key
        values[:, :, self._used : self._used + 1] = value
        return keys[:, :, : self._used + 1], values[:, :, : self._used + 1]

    def advance(self) -> None:
        """Count the position just written by all layers."""
        self._used += 1

    def keep(self, rows: Tensor) -> None:
        """Keep the living rows `rows` (places among those kept so far), and the prompts that still have one."""
        self._slots = self._slots[rows]
        used = self._used
        for layer, (keys, values) in enumerate(self._tails):
            # only the written part is worth copying
            fresh = keys.new_zeros(len(rows), *keys.shape[1:]), values.new_zeros(len(rows), *values.shape[1:])
            fresh[0][:, :, :used], fresh[1][:, :, :used] = keys[rows, :, :used], values[rows, :, :used]
            self._tails[layer] = fresh
        self._drop_idle_prompts()

    def _drop_idle_prompts(self) -> None:
        groups = self._slots // self._n
        alive = torch.unique(groups)
        if len(alive) > 0.75 * len(self._hidden):  # copying costs as much as reading: only when it pays
            return
        self._prompts = [(keys[alive], values[alive]) for keys, values in self._prompts]
        self._hidden = self._hidden[alive]
        self._slots = torch.searchsorted(alive, groups) * self._n + self._slots % self._n

    def attend(self, query: Tensor, tail: tuple[Tensor, Tensor], *, layer: int, scaling: float) -> Tensor:
        """Return [B, 1, heads, width] for the query [B, heads, 1, width] over prompt and own tail [B, kv heads, t, width]."""
        keys, values = self._prompts[layer]
        groups, kv_heads, length, width = keys.shape
        shared = query.shape[1] // kv_heads
        own_query = query.view(query.shape[0], kv_heads, shared, width) * scaling
        on_prompt = self._to_groups(own_query, groups) @ keys.transpose(-1, -2)
        on_prompt = on_prompt.masked_fill(self._hidden[:, None, None, :], float("-inf"))
        on_tail = own_query @ tail[0].transpose(-1, -2)
        scores = torch.cat([self._to_rows(on_prompt, shared), on_tail], dim=-1)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        from_prompt = self._to_groups(weights[..., :length], groups) @ values
        output = self._to_rows(from_prompt, shared) + weights[..., length:] @ tail[1]
        return output.reshape(query.shape[0], 1, kv_heads * shared, width)

    def _to_groups(self, rows: Tensor, groups: int) -> Tensor:
        """[B, kv heads, s, x] of living rows -> [G, kv heads, n * s, x], zeros where a row has ended."""
        _, kv_heads, shared, last = rows.shape
        slots = rows.new_zeros(groups * self._n, kv_heads, shared, last).index_copy_(0, self._slots, rows)
        return slots.view(groups, self._n, kv_heads, shared, last).transpose(1, 2).reshape(groups, kv_heads, -1, last)

    def _to_rows(self, slots: Tensor, shared: int) -> Tensor:
        """[G, kv heads, n * s, x] -> [B, kv heads, s, x]."""
        groups, kv_heads, _, last = slots.shape
        rows = slots.view(groups, kv_heads, self._n, shared, last).transpose(1, 2).reshape(-1, kv_heads, shared, last)
        return rows[self._slots]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    group_cache: GroupCache | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """The model's attention: shared prompts when a `GroupCache` is passed along, the library's sdpa otherwise."""
    if group_cache is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
        return output
    scaling = rest.get("scaling") or query.shape[-1] ** -0.5
    return group_cache.attend(query, (key, value), layer=int(module.layer_idx), scaling=scaling), None  # type: ignore[arg-type]  # set by the library


def register() -> None:
    """Make the library know `ATTENTION`. Idempotent."""
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
