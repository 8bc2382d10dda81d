"""What a job needs in memory, computed from a model's dimensions before anything is loaded, and how it fits.

In: the fields of a `config.json`, the LoRA rank, dtypes and token budgets, who samples.
Out: bytes per part, the layout that fits, and the arithmetic as text.
Refuses: a plan larger than what the machine has, before a byte of it is spent.
Not here: measuring the machine and reading the settings (`fitting.py`).

Learner and sampler may hold weights of their own, and keys and values are needed only while sampling, activations only
while learning. In order of preference: everything stays; keys and values are given back while learning; smaller
micro-batches; a sampler on 4-bit weights.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from spice_enterprise.errors import ConfigError

WeightForm = Literal["nf4", "bfloat16", "float32"]
ComputeType = Literal["bfloat16", "float32"]

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Four bits, one 8-bit scale per 64 weights, one fp32 scale per 256 scales (double quantisation)."""

BYTES_PER_WEIGHT: Mapping[WeightForm, float] = {"nf4": NF4_BITS / 8, "bfloat16": 2.0, "float32": 4.0}
FLOAT32_BYTES = 4
ADAPTER_COPIES = 4
"""Weights, gradients and Adam's two moments."""

HEAD_TOKENS: Final = 1024
"""Positions whose logits exist at one time."""
HEAD_COPIES: Final = 4
"""Of those logits in fp32: themselves, log-probabilities, probabilities and a product. Seen: 4.0 to 4.2."""
CPU_SPREAD: Final = 2.0
"""Resident memory per live byte of activations on a CPU, whose allocator keeps what was freed. Seen: 1.9."""
SHARE_OF_GPU: Final = 0.9
"""The rest of a GPU is for its runtime, the sampler's workspace and fragmentation."""
LEAST_BATCH_TOKENS: Final = 2048
"""Smaller micro-batches than these cost more time than they save memory."""

CPU_BATCH_TOKENS: Final = 512
"""On a CPU rows are put together up to this many positions: more costs memory and gains no speed."""
CPU_ROW_TOKENS: Final = 2048
"""On a CPU a group is cut into rows of this many positions at most; each row reads the prompt again."""
SAMPLER_KV_BYTES: Final = 1 << 30
"""What the transformers sampler holds of keys and values at one time; groups beyond wait."""


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

    @property
    def weights(self) -> int:
        """About how many weights the model has: its linear maps and its vocabulary."""
        return self.linear_weights() + self.vocabulary * self.hidden * (1 if self.is_tied else 2)

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

    def layer_bytes_per_token(self, compute: ComputeType, rank: int) -> int:
        """Return what one layer keeps of one trained position for the backward pass.

        Norms and residuals, attention with repeated keys and values, the gated product, LoRA's inner values. In bfloat16
        norms and the inputs of the fp32 adapter are fp32 copies. Seen on the embedded model: 1.40 MB over all layers in
        float32 (computed 1.39), 1.19 MB in bfloat16 (computed 1.24).
        """
        hidden, attention, inner = self.hidden, self.heads * self.head_dim, self.intermediate
        if compute == "float32":
            return FLOAT32_BYTES * (5 * hidden + 4 * attention + 4 * inner + 7 * rank)
        return 2 * (3 * hidden + 4 * attention + 4 * inner) + FLOAT32_BYTES * (5 * hidden + attention + inner + 7 * rank)

    def head_bytes(self, tokens: int) -> int:
        """Return what scoring `tokens` positions holds at one time; the head is run over `HEAD_TOKENS` of them."""
        return HEAD_COPIES * FLOAT32_BYTES * min(tokens, HEAD_TOKENS) * self.vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be held: the learner, one micro-batch, and a sampler with its keys and values."""

    form: WeightForm
    """How the learner holds its linear weights; embeddings, activations and keys are held in `compute`."""
    compute: ComputeType
    rank: int
    batch_tokens: int
    """Packed positions of one micro-batch."""
    head_tokens: int
    """Completion tokens among them."""
    is_checkpointed: bool
    """Layers are recomputed in the backward pass instead of kept."""
    is_gpu: bool
    kv_tokens: int
    """Positions whose keys and values are wanted at one time."""
    least_kv_tokens: int
    """Fewer do not hold one group."""
    sampler: WeightForm | None = None
    """How the sampler holds weights of its own; None when it uses the learner's, or runs in another process."""
    sampler_compute: ComputeType = "float32"
    keeps_kv: bool = False
    """Keys and values stay while the learner works."""
    may_release: bool = False
    """The sampler can give them back instead."""
    may_pack: bool = False
    """The sampler may hold NF4 weights instead of a twin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes per part of one job on one device, and the layout they stand for."""

    base_bytes: int
    adapter_bytes: int
    activation_bytes: int
    sampler_bytes: int
    kv_bytes: int
    work: Workload
    """What was planned for: how the sampler holds its weights, whether keys and values stay, the micro-batch."""

    @property
    def standing_bytes(self) -> int:
        """What is held all the time."""
        return self.base_bytes + self.adapter_bytes + self.sampler_bytes

    @property
    def total_bytes(self) -> int:
        """The most that is held at one time."""
        passing = (self.activation_bytes, self.kv_bytes)
        return self.standing_bytes + (sum(passing) if self.work.keeps_kv else max(passing))

    def explain(self) -> str:
        """Return the sum in GB (10^9 bytes), part by part."""
        parts = [("base", self.base_bytes), ("adapter, gradients and Adam", self.adapter_bytes)]
        if self.sampler_bytes:
            parts.append((f"sampler in {self.work.sampler}", self.sampler_bytes))
        terms = " + ".join(f"{name} {_gb(size)}" for name, size in parts)
        activations = f"activations of {self.work.batch_tokens} tokens {_gb(self.activation_bytes)}"
        keys = f"keys and values {_gb(self.kv_bytes)}"
        passing = f"{activations} + {keys}" if self.work.keeps_kv else f"the larger of {activations} and {keys}"
        return f"{terms} + {passing} = {_gb(self.total_bytes)} GB"

    def describe(self) -> str:
        """Return the layout in words."""
        keys = "keys and values stay" if self.work.keeps_kv else "keys and values are given back while learning"
        sampler = f"sampler in {self.work.sampler}" if self.work.sampler else "one set of weights"
        return f"{sampler}, {keys}, micro-batches of {self.work.batch_tokens}"

    def require(self, available_bytes: int) -> None:
        """Raise `ConfigError` (E_MEMORY) with the arithmetic when the plan is larger than `available_bytes`."""
        usable = _usable(self.work, available_bytes)
        if self.total_bytes > usable:
            raise ConfigError(
                f"the job needs {self.explain()}, and {_gb(usable)} GB can be used",
                code="E_MEMORY",
                hint="lower training.max_batch_tokens or training.lora_rank, or choose a smaller base model",
            )


def plan_memory(shape: ModelShape, work: Workload) -> MemoryPlan:
    """Return what `work` needs with a model of this shape."""
    value_bytes = int(BYTES_PER_WEIGHT[work.compute])
    sampler_bytes = int(BYTES_PER_WEIGHT[work.sampler_compute])
    return MemoryPlan(
        base_bytes=weight_bytes(shape, work.form, work.compute),
        adapter_bytes=shape.lora_parameters(work.rank) * FLOAT32_BYTES * ADAPTER_COPIES,
        activation_bytes=_activation_bytes(shape, work),
        sampler_bytes=0 if work.sampler is None else weight_bytes(shape, work.sampler, work.sampler_compute),
        kv_bytes=shape.kv_bytes_per_token(value_bytes if work.sampler is None else sampler_bytes) * work.kv_tokens,
        work=work,
    )


def choose_layout(shape: ModelShape, work: Workload, *, available_bytes: int) -> MemoryPlan:
    """Return the first layout that fits into `available_bytes` of the device, in the order of preference above.

    Its `work` says what to do: micro-batch, form of the sampler's weights, keys and values kept or given back, and how many.
    Raises `ConfigError` (E_MEMORY) with the arithmetic of the smallest layout when none fits.
    """
    smallest = plan_memory(shape, work)
    for candidate in _layouts(work):
        plan = _with_room_for_keys(shape, candidate, available_bytes)
        if plan.total_bytes <= _usable(work, available_bytes):
            return plan
        smallest = min(smallest, plan, key=lambda plan: plan.total_bytes)
    smallest.require(available_bytes)
    return smallest


def smallest_devices(shape: ModelShape, work: Workload) -> Iterator[tuple[int, MemoryPlan]]:
    """Yield each layout with the smallest device it fits into, in order, where that is smaller than for those before."""
    best: int | None = None
    for candidate in _layouts(work):
        plan = _with_room_for_keys(shape, candidate, 0)
        least = math.ceil(plan.total_bytes / (SHARE_OF_GPU if work.is_gpu else 1.0))
        if best is None or least < best:
            best = least
            yield least, plan


def _layouts(work: Workload) -> Iterator[Workload]:
    yield work
    released = replace(work, keeps_kv=work.keeps_kv and not work.may_release)
    if not work.is_gpu:  # on a CPU micro-batches are small already, and their size must not depend on what is free
        return
    for form in (work.sampler, "nf4") if work.may_pack else (work.sampler,):
        tokens = work.batch_tokens
        while True:
            yield replace(released, sampler=form, batch_tokens=tokens, head_tokens=min(work.head_tokens, tokens))
            if tokens <= LEAST_BATCH_TOKENS:
                break
            tokens = max(tokens // 2, LEAST_BATCH_TOKENS)


def _with_room_for_keys(shape: ModelShape, work: Workload, available_bytes: int) -> MemoryPlan:
    """Return the plan with as many keys and values as there is room for; all of them where they could be given back instead."""
    plan = plan_memory(shape, work)
    least = work.kv_tokens if work.keeps_kv and work.may_release else min(work.least_kv_tokens, work.kv_tokens)
    per_token = plan.kv_bytes // work.kv_tokens if work.kv_tokens else 0
    held = plan.standing_bytes + (plan.activation_bytes if work.keeps_kv else 0)
    room = (_usable(work, available_bytes) - held) // per_token if per_token else 0
    return plan_memory(shape, replace(work, kv_tokens=max(least, min(work.kv_tokens, room))))


def weight_bytes(shape: ModelShape, form: WeightForm, compute: ComputeType) -> int:
    """Return the bytes of a model whose linear maps are held in `form` and the rest in `compute`."""
    return round(shape.linear_weights() * BYTES_PER_WEIGHT[form] + shape.embedding_weights() * BYTES_PER_WEIGHT[compute])


def _activation_bytes(shape: ModelShape, work: Workload) -> int:
    """Return the peak while learning: what layers keep, and the head or one recomputed layer, whichever is larger."""
    value_bytes = int(BYTES_PER_WEIGHT[work.compute])
    layer = shape.layer_bytes_per_token(work.compute, work.rank) * work.batch_tokens
    head = shape.head_bytes(work.head_tokens)
    spread = 1.0 if work.is_gpu else CPU_SPREAD
    if not work.is_checkpointed:
        return round(shape.layers * layer * spread) + head
    gradients = 2 * shape.intermediate * value_bytes * work.batch_tokens
    kept = shape.layers * shape.hidden * value_bytes * work.batch_tokens
    return round(kept * spread) + max(round((layer + gradients) * spread), head)


def _usable(work: Workload, available_bytes: int) -> int:
    return round(available_bytes * SHARE_OF_GPU) if work.is_gpu else available_bytes


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}"
