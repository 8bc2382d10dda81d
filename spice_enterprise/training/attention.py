"""The model's attention: over shared prompts while rows are decoded or learned from, the library's own otherwise.

In: query, keys and values of a layer, as the library hands them over.
Out: the attention output.
Refuses: nothing.
Not here: rows in flight (`group_cache.py`), packed rows (`packed_attention.py`).
"""

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from spice_enterprise.training.group_cache import GroupCache
from spice_enterprise.training.packed_attention import RowLayout, attend_rows

ATTENTION: Final = "spice_shared_prompt"
"""Name under which the learner's model is told to look its attention up."""


def attend(  # noqa: PLR0913 - the library's signature
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    group_cache: GroupCache | None = None,
    packed_rows: Sequence[RowLayout] | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """The model's attention: rows of a `GroupCache`, packed rows, or the library's sdpa when neither is passed along."""
    scaling = rest.get("scaling") or query.shape[-1] ** -0.5
    if packed_rows is not None:
        return attend_rows(query, key, value, packed_rows, scaling=scaling), None
    if group_cache is not None:
        return group_cache.attend(query, (key, value), layer=int(module.layer_idx), scaling=scaling), None  # type: ignore[arg-type]  # set by the library
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    return output


def register() -> None:
    """Make the library know `ATTENTION`. Idempotent."""
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
