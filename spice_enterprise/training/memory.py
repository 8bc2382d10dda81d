"""What a job needs in memory, computed from a model's dimensions before anything is loaded.

In: the fields of a `config.json`, the LoRA rank, dtypes and token budgets.
Out: bytes per part, and the arithmetic as text.
Refuses: a plan larger than what the machine has, before a byte of it is spent.
Not here: measuring the machine; whoever asks passes the bytes that are free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from spice_enterprise.errors import ConfigError

WeightForm = Literal["nf4", "bfloat16", "float32"]

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Four bits, one 8-bit scale per 64 weights, one fp32 scale per 256 scales (double quantisation)."""

BYTES_PER_WEIGHT: Mapping[WeightForm, float] = {"nf4": NF4_BITS / 8, "bfloat16": 2.0, "float32": 4.0}
FLOAT32_BYTES = 4
ADAPTER_COPIES = 4
"""Weights, gradients and Adam's two moments."""

CPU_BATCH_TOKENS: Final = 512
"""On a CPU rows are put together up to this many positions: more costs memory and gains no speed."""
CPU_ROW_TOKENS: Final = 2048
"""On a CPU a group is cut into rows of this many positions at most; each row reads the prompt again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The dimensions of a dense decoder-only model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    is_tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Read the dimensions from the fields of a `config.json`. Raises `ConfigError` naming a missing field."""
        try:
            heads = int(config["num_attention_heads"])
            hidden = int(config["hidden_size"])
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                intermediate=int(config["intermediate_size"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                vocabulary=int(config["vocab_size"]),
                is_tied=bool(config.get("tie_word_embeddings", False)),
            )
        except KeyError as error:
            raise ConfigError(f"config.json: {error.args[0]} is missing", code="E_MODEL_ARCHITECTURE") from None

    def linears(self) -> tuple[tuple[int, int], ...]:
        """Return (inputs, outputs) of one layer's linear maps: q, k, v, o, gate, up, down."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            (self.hidden, queries),
            (self.hidden, keys),
            (self.hidden, keys),
            (queries, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        )

    def linear_weights(self) -> int:
        """Return the number of weights that are quantised: every linear map of every layer, not the head."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears())

    def embedding_weights(self) -> int:
        """Return the number of weights of the embeddings and, when not tied, the head."""
        return self.vocabulary * self.hidden * (1 if self.is_tied else 2)

    def lora_parameters(self, rank: int) -> int:
        """Return the number of LoRA parameters at `rank` on all linear maps."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears())

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Return the bytes that the keys and values of one position take over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value

    def activation_bytes_per_token(self, bytes_per_value: int) -> int:
        """Return what one trained position keeps for the backward pass, without checkpointing.

        Per layer: norms and residuals (12 x hidden), queries and repeated keys and values with their rotations
        (8 x heads x head_dim), the gated product (8 x intermediate). Measured on the embedded model in fp32: 2.7-2.9 MB.
        """
        per_layer = 12 * self.hidden + 8 * self.heads * self.head_dim + 8 * self.intermediate
        return self.layers * per_layer * bytes_per_value


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes per part of one job on one device."""

    base_bytes: int
    adapter_bytes: int
    activation_bytes: int
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return self.base_bytes + self.adapter_bytes + self.activation_bytes + self.kv_bytes

    def explain(self) -> str:
        """Return the sum in MiB, part by part."""
        parts = (
            ("base", self.base_bytes),
            ("adapter, gradients and Adam", self.adapter_bytes),
            ("activations", self.activation_bytes),
            ("keys and values", self.kv_bytes),
        )
        terms = " + ".join(f"{name} {size / 2**20:.0f}" for name, size in parts)
        return f"{terms} = {self.total_bytes / 2**20:.0f} MiB"

    def require(self, available_bytes: int) -> None:
        """Raise `ConfigError` (E_MEMORY) with the arithmetic when the plan is larger than `available_bytes`."""
        if self.total_bytes > available_bytes:
            raise ConfigError(
                f"the job needs {self.explain()}, and {available_bytes / 2**20:.0f} MiB are free",
                code="E_MEMORY",
                hint="lower training.max_batch_tokens or training.lora_rank, or choose a smaller base model",
            )


def plan_memory(
    shape: ModelShape,
    *,
    form: WeightForm,
    compute: Literal["bfloat16", "float32"],
    rank: int,
    batch_tokens: int,
    kv_tokens: int,
) -> MemoryPlan:
    """Return what training with `batch_tokens` packed positions and sampling over `kv_tokens` positions needs.

    `form` is how the linear weights are held; embeddings, activations and keys are held in `compute`.
    """
    value_bytes = int(BYTES_PER_WEIGHT[compute])
    return MemoryPlan(
        base_bytes=round(shape.linear_weights() * BYTES_PER_WEIGHT[form]) + shape.embedding_weights() * value_bytes,
        adapter_bytes=shape.lora_parameters(rank) * FLOAT32_BYTES * ADAPTER_COPIES,
        activation_bytes=shape.activation_bytes_per_token(value_bytes) * batch_tokens,
        kv_bytes=shape.kv_bytes_per_token(value_bytes) * kv_tokens,
    )
