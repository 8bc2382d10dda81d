"""A group's prompt stored once: what a forward pass sees of prompts that share completions.

In: groups of (prompt tokens, completions), each completion with numbers per token.
Out: micro-batches of padded rows, one row per group, with positions and the places the head must look at.
Refuses: nothing; a group that is larger than the token budget is cut into several rows that repeat its prompt.
Not here: attention over such rows (`packed_attention.py`), the loss (`losses.py`) and the model (`qlora.py`).

A row is `prompt, completion 1, completion 2, ...`. Segment 0 is the prompt, segment k the k-th completion. A position
sees the prompt and its own segment, never another completion, and positions restart after the prompt:

    tokens     p0 p1 p2 a0 a1 b0      a0 and b0 are predicted from p2, a1 from a0; b0 from a1 would be the bug
    position    0  1  2  3  4  3
    segment     0  0  0  1  1  2
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spice_enterprise.training.packed_attention import RowLayout, layout_row


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRow:
    """One prompt with some of its completions, as plain numbers."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    segments: tuple[int, ...]
    heads: tuple[int, ...]
    """For each completion token, in order, the place in the row that predicts it."""
    targets: tuple[int, ...]
    """The completion tokens, in the order of `heads`."""
    source: tuple[tuple[int, int], ...]
    """(group, completion) of each completion in the row, in order."""
    lengths: tuple[int, ...]
    """Tokens of each completion, in the order of `source`."""


def pack_row(prompt: Sequence[int], completions: Sequence[Sequence[int]], source: Sequence[tuple[int, int]]) -> PackedRow:
    """Lay one prompt and its completions out in one row. The prompt and every completion hold at least one token."""
    token_ids, positions, segments = list(prompt), list(range(len(prompt))), [0] * len(prompt)
    heads: list[int] = []
    for segment, completion in enumerate(completions, start=1):
        start = len(token_ids)
        heads += [len(prompt) - 1, *range(start, start + len(completion) - 1)]
        token_ids += completion
        positions += range(len(prompt), len(prompt) + len(completion))
        segments += [segment] * len(completion)
    return PackedRow(
        token_ids=tuple(token_ids),
        positions=tuple(positions),
        segments=tuple(segments),
        heads=tuple(heads),
        targets=tuple(token for completion in completions for token in completion),
        source=tuple(source),
        lengths=tuple(len(completion) for completion in completions),
    )


def pack_group(prompt: Sequence[int], completions: Sequence[Sequence[int]], *, group: int, max_tokens: int) -> list[PackedRow]:
    """Lay a group out in rows of at most `max_tokens` positions, in order; a row holds at least one completion."""
    rows: list[PackedRow] = []
    start, used = 0, len(prompt)
    for end, completion in enumerate(completions):
        if end > start and used + len(completion) > max_tokens:
            rows.append(_cut(prompt, completions, group=group, span=(start, end)))
            start, used = end, len(prompt)
        used += len(completion)
    rows.append(_cut(prompt, completions, group=group, span=(start, len(completions))))
    return rows


def _cut(prompt: Sequence[int], completions: Sequence[Sequence[int]], *, group: int, span: tuple[int, int]) -> PackedRow:
    return pack_row(prompt, completions[slice(*span)], [(group, index) for index in range(*span)])


def fill_batches(rows: Sequence[PackedRow], *, max_tokens: int) -> list[list[PackedRow]]:
    """Put rows of similar length together so that rows x longest stays within `max_tokens`.

    Longest first, ties in the order given: the same rows always make the same batches.
    """
    batches: list[list[PackedRow]] = []
    for row in sorted(rows, key=lambda row: -len(row.token_ids)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].token_ids) <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """Rows as tensors. R rows of T positions hold N completion tokens."""

    token_ids: Tensor
    """int64 [R, T]"""
    positions: Tensor
    """int64 [R, T]"""
    rows: tuple[RowLayout, ...]
    """Where a position of each row may look."""
    heads: Tensor
    """int64 [N], places in the flattened [R * T]"""
    targets: Tensor
    """int64 [N]"""
    source: tuple[tuple[int, int], ...]
    """(group, completion) per completion, in the order of the tokens."""
    lengths: tuple[int, ...]

    def split(self, per_token: Sequence[float]) -> list[tuple[tuple[int, int], Sequence[float]]]:
        """Return ((group, completion), its values) from one value per completion token."""
        parts, start = [], 0
        for place, length in zip(self.source, self.lengths, strict=True):
            parts.append((place, per_token[start : start + length]))
            start += length
        return parts


def to_tensors(rows: Sequence[PackedRow], device: torch.device) -> PackedBatch:
    """Pad `rows` on the right to the longest and make their tensors on `device`."""
    width = max(len(row.token_ids) for row in rows)
    return PackedBatch(
        token_ids=torch.tensor([_pad(row.token_ids, width) for row in rows], device=device),
        positions=torch.tensor([_pad(row.positions, width) for row in rows], device=device),
        rows=tuple(layout_row(row.segments, device) for row in rows),
        heads=torch.tensor([index * width + head for index, row in enumerate(rows) for head in row.heads], device=device),
        targets=torch.tensor([token for row in rows for token in row.targets], device=device),
        source=tuple(place for row in rows for place in row.source),
        lengths=tuple(length for row in rows for length in row.lengths),
    )


def _pad(values: tuple[int, ...], width: int) -> list[int]:
    return [*values, *([0] * (width - len(values)))]
