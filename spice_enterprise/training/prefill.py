"""Prompts read together, each once.

In: prompts as token ids.
Out: the state that predicts each prompt's next token, and the keys and values that rows continue from.
Refuses: nothing.
Not here: the rows (`continuous.py`).
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor
from transformers import DynamicCache

from spice_enterprise.training.group_cache import LayerCache
from spice_enterprise.training.qlora import LearnerModel

MAX_PREFILL_TOKENS: Final = 4096
"""Padded prompt positions in one forward pass."""
MIN_SHARED_TOKENS: Final = 16
"""A shorter common beginning is not worth a pass of its own."""

TokenIds = tuple[int, ...]


def passes(encoded: Sequence[TokenIds]) -> Iterator[list[int]]:
    """Yield places of prompts to read in one pass, longest first: of similar length, and within `MAX_PREFILL_TOKENS`."""
    part: list[int] = []
    for place in sorted(range(len(encoded)), key=lambda place: -len(encoded[place])):
        longest = len(encoded[part[0]]) if part else 0
        if part and ((len(part) + 1) * longest > MAX_PREFILL_TOKENS or 2 * len(encoded[place]) < longest):
            yield part
            part = []
        part.append(place)
    if part:
        yield part


def families(encoded: Sequence[TokenIds]) -> Iterator[list[int]]:
    """Yield places of prompts that begin alike for at least half of their length, such as questions about one passage.

    Prompts without such a relative are one family together.
    """
    alone: list[int] = []
    family: list[int] = []
    for place in sorted(range(len(encoded)), key=lambda place: (encoded[place], place)):
        if family and 2 * _same(encoded[family[0]], encoded[place]) < len(encoded[place]):
            yield from [family] if len(family) > 1 else []
            alone += family if len(family) == 1 else []
            family = []
        family.append(place)
    yield from [family] if len(family) > 1 else []
    alone += family if len(family) == 1 else []
    if alone:
        yield sorted(alone)


def _same(first: TokenIds, second: TokenIds) -> int:
    """Return how many tokens two prompts begin with alike."""
    differing = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return min(len(first), len(second)) if differing is None else differing


def shared_length(encoded: Sequence[TokenIds]) -> int:
    """Return how many tokens all prompts begin with, leaving each at least one of its own; 0 when it is not worth it."""
    if len(encoded) < 2:
        return 0
    # in dictionary order the outermost two differ earliest
    shared = min(_same(min(encoded), max(encoded)), min(map(len, encoded)) - 1)
    return shared if shared >= MIN_SHARED_TOKENS else 0


def read_beginning(learner: LearnerModel, ids: TokenIds) -> list[LayerCache]:
    """Return per layer the keys and values [1, heads, tokens, width] of what all prompts begin with; nothing for nothing."""
    if not ids:
        return []
    tokens = torch.tensor([list(ids)], device=learner.device)
    output = learner.hidden_states(tokens, past_key_values=DynamicCache(), use_cache=True)
    return [(layer.keys, layer.values) for layer in output.past_key_values.layers]


def read_prompts(
    learner: LearnerModel, encoded: Sequence[TokenIds], beginning: Sequence[LayerCache]
) -> tuple[Tensor, list[LayerCache]]:
    """Read prompts that all start with `beginning`, in one pass.

    Returns the last hidden state of each prompt [G, H], and per layer keys and values [G, heads, P, width], right-padded.
    """
    device, shared = learner.device, int(beginning[0][0].shape[2]) if beginning else 0
    rows = [ids[shared:] for ids in encoded]
    width = max(map(len, rows))
    # padded on the right: with a causal mask no real position sees the padding, so no mask is needed here
    padded = torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows], device=device)
    places = torch.arange(shared, shared + width, device=device).expand(len(rows), -1)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(beginning):
        cache.update(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1), layer)
    output = learner.hidden_states(padded, position_ids=places, past_key_values=cache, use_cache=True)
    ends = torch.tensor([len(row) - 1 for row in rows], device=device)
    hidden: Tensor = output.last_hidden_state[torch.arange(len(rows), device=device), ends]
    return hidden, [(layer.keys, layer.values) for layer in output.past_key_values.layers]
