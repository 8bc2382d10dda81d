"""Every record that crosses a stage border, in the order of the road.

In: values made by a stage.
Out: frozen records whose id is a digest of their content, and their canonical JSON.
Refuses: unknown fields, missing fields and wrong types when decoding (field names only, never values).
Not here: storage (`store.py`), the audit log's own record format (`audit/records.py`).

A record names its parent, so that `trace` can walk from an answer back to a document. None carries raw text:
the only text is scrubbed (`ScrubbedText`) or written by the model from scrubbed text, and it never prints.
"""

import dataclasses
import hashlib
import math
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, NewType, TypedDict, TypeVar, cast

import rfc8785

from spice_enterprise.errors import IntegrityError

ScrubbedText = NewType("ScrubbedText", str)
"""Text that went through `corpus/scrub.py`, the only place that may make one."""

Split = Literal["train", "unseen", "exam"]
Role = Literal["challenger", "reasoner"]
AdapterRole = Literal["shared", "challenger", "reasoner"]
AnswerKind = Literal["choice", "number", "date", "text", "list", "expression", "boolean"]
TaskFormat = Literal["free_form", "choice"]
Regime = Literal["self_contained", "open_book", "closed_book"]
Objective = Literal["policy", "supervised"]
StopReason = Literal["stop", "length"]
Withheld = Literal["", "no_signal", "non_finite"]
Outcome = Literal["valid", "unparsable", "refused", "correct", "wrong"]
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Severity = Literal["info", "warn", "critical"]
Action = Literal["log", "restore", "halt"]
Alias = Literal["sandbox", "staging", "prod"]
ExamFormat = Literal["cloze", "choice"]
Claim = Literal["transfer", "recall"]

JsonValue = Any
"""What JSON can hold; `Any` because the type is recursive and only `canonical_json` reads it."""

NOT_IN_ID: Final = {"in_id": False}
"""Field metadata: wall-clock and machine facts do not change what a record is."""


def encode_json(value: object) -> JsonValue:
    """Return `value` as plain JSON data; non-finite floats become `{"$num": "nan"}` since JSON has none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$num": str(value)}
    return value


def canonical_json(value: object) -> bytes:
    """Return the RFC 8785 bytes of `value`: one value, one byte string."""
    return rfc8785.dumps(encode_json(value))


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: object) -> str:
    """Return `sha256:<hex>` over the canonical JSON of `value`."""
    return "sha256:" + sha256_hex(canonical_json(value))


def _stamp(record: Any, id_field: str, prefix: str) -> None:
    """Set the record's id from its content, leaving out the id itself and facts of the moment."""
    content = {
        f.name: getattr(record, f.name)
        for f in dataclasses.fields(record)
        if f.name != id_field and f.metadata.get("in_id", True)
    }
    object.__setattr__(record, id_field, prefix + sha256_hex(canonical_json(content))[:16])


def _id() -> Any:
    return field(init=False, default="")


# --- corpus -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One source file as it was read. Holds no text; `uri` is the scrubbed relative path."""

    uri: str = field(repr=False)
    media_type: str
    keyed_digest: str
    """HMAC-SHA256 of the raw bytes under the workspace key: short private text cannot be guessed from it."""
    size_bytes: int
    source_kind: str = "folder"
    acl_label: str = field(default="", repr=False)
    """Who may see it, as the source says; travels to every chunk. Scrubbed like a name."""
    owner: str = field(default="", repr=False)
    """A keyed tag of the owner, such as `owner_k3f7abqt`; never the owner's name."""
    parser: str = field(default="", metadata=NOT_IN_ID)
    """What read the bytes, with its version."""
    language: str = field(default="", metadata=NOT_IN_ID)
    """ISO 639-1 code of the main language; empty when the text is too short or mixed to tell."""
    pages: int = field(default=1, metadata=NOT_IN_ID)
    hidden: tuple[tuple[str, int], ...] = field(default=(), metadata=NOT_IN_ID)
    """(kind, characters) of invisible text that was dropped."""
    flags: tuple[str, ...] = field(default=(), metadata=NOT_IN_ID)
    """Codes of what was odd about a file that could be read all the same."""
    ocr_confidence: float | None = field(default=None, metadata=NOT_IN_ID)
    """Of the worst page that was read by OCR; None without such a page."""
    document_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "document_id", "doc_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """Where something was removed (offsets into the scrubbed text) and of what kind. Never the value."""

    start: int
    end: int
    entity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A detected value: `text[start:end]`, with the detector's confidence. Lives only inside `corpus/`."""

    start: int
    end: int
    entity: str
    score: float
    detector: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A scrubbed passage of one document, with what was removed from it and where it may be used."""

    document_id: str
    index: int
    text: ScrubbedText = field(repr=False)
    redactions: tuple[Redaction, ...]
    split: Split
    pii_policy_digest: str
    token_count: int
    page: int | None = None
    section: str | None = field(default=None, repr=False)
    """Headings in force where the chunk begins, outermost first, joined by ` > `."""
    last_page: int | None = None
    acl_label: str = field(default="", repr=False, metadata=NOT_IN_ID)
    """Who may see the document it was cut from."""
    language: str = field(default="", metadata=NOT_IN_ID)
    parser: str = field(default="", metadata=NOT_IN_ID)
    ner_model: str = field(default="", metadata=NOT_IN_ID)
    """Name and digest of the model that looked for names."""
    chunk_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "chunk_id", "chunk_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A file that could not be used, with a stable code. `uri` is the scrubbed relative path."""

    uri: str = field(repr=False)
    code: str
    reason: str
    size_bytes: int = 0


# --- self-play --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat turn."""

    speaker: Literal["system", "user", "assistant"]
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a sampler is asked, with the decoding settings that belong to it.

    `temperature` 0 is greedy. Generation ends at the end-of-turn token, at any `stop` string or at `max_new_tokens`.
    """

    messages: tuple[Message, ...]
    template_id: str
    max_new_tokens: int
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    prefill: str = field(default="", repr=False)
    """Text the assistant's turn begins with; it is part of the prompt, not of the completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer of a sampler.

    `logprobs` has one entry per token, in nats, of the processed distribution the token was drawn from.
    The end-of-turn token is part of `token_ids` when the model produced it.
    """

    prompt_token_ids: tuple[int, ...] = field(repr=False)
    token_ids: tuple[int, ...] = field(repr=False)
    logprobs: tuple[float, ...] = field(repr=False)
    text: str = field(repr=False)
    stop_reason: StopReason
    adapter_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question with its reference answer. The passage is not here: asymmetry by construction."""

    chunk_id: str
    rollout_id: str
    """The challenger rollout that proposed it."""
    question: str = field(repr=False)
    answer: str = field(repr=False)
    answer_kind: AnswerKind
    task_format: TaskFormat
    regime: Regime
    options: tuple[str, ...] = field(default=(), repr=False)
    """Choice tasks: the options in the order shown; `answer` is then the letter."""
    aliases: tuple[str, ...] = field(default=(), repr=False)
    """Other spellings of a text answer that are right as well."""
    option_sources: tuple[str, ...] = ()
    """Ids of the other chunks whose values stand among the options: the task descends from them too."""
    task_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "task_id", "task_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion with its reward. Challenger rollouts hang on a chunk, reasoner rollouts on a task."""

    role: Role
    parent_id: str
    adapter_id: str
    adapter_digest: str
    template_id: str
    step: int
    index: int
    token_ids: tuple[int, ...] = field(repr=False)
    logprobs: tuple[float, ...] = field(repr=False)
    text: str = field(repr=False)
    stop_reason: StopReason
    outcome: Outcome
    reason: str
    """A code: why a proposal was refused or unparsable, or why an answer could not be graded; for an example: its source."""
    reward: float
    rollout_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "rollout_id", "roll_")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """Rollouts that share a parent, a prompt and a reward baseline. The prompt is stored once.

    A `supervised` group is learned word for word, whatever its rewards: its rollouts are examples of the warm-up.
    """

    role: Role
    parent_id: str
    prompt_token_ids: tuple[int, ...] = field(repr=False)
    rollouts: tuple[Rollout, ...]
    objective: Objective = "policy"
    passages: tuple[str, ...] = ()
    """Ids of the chunks whose text the prompt shows a reasoner, in the order shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The verdict on one proposal, made without a vote of the model in training."""

    rollout_id: str
    chunk_id: str
    code: str
    """Why it was refused (`selfplay.admission`); empty when it was admitted."""
    task_id: str = ""
    """The task that came of it; empty when none was attempted."""
    similarity: float = 0.0
    """Cosine to the nearest question of the archive, -1 to 1."""
    is_near_copy: bool = False
    """True when it is so near to an archived question that the challenger pays for it."""
    open_book: float | None = None
    """Share of the frozen base's answers with the passage that agree with the reference answer; None when not asked."""
    closed_book: float | None = None
    """The same without the passage."""
    task_format: TaskFormat | None = None
    answer_kind: AnswerKind | None = None
    question: str = field(default="", repr=False)
    """As it was read, so that people can see what is refused."""
    answer: str = field(default="", repr=False)
    admission_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "admission_id", "adm_")


# --- training ---------------------------------------------------------------------------------------------------------


class StepMetrics(TypedDict):
    """What a drift monitor sees of one step: closed keys, values unfiltered (may be NaN or infinite)."""

    step: float
    reward_mean: float
    reward_std: float
    frac_zero_std: float
    loss: float
    grad_norm: float
    kl: float
    heldout: float | None
    heldout_se: float | None
    entropy: float
    length_mean: float
    n_rollouts: float
    invalid_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimiser update, and what it measured before any filter or clip."""

    number: int
    adapter_id: str
    """The version that played the rollouts and was updated."""
    rollout_ids: tuple[str, ...] = field(repr=False)
    is_applied: bool
    """False: the update was withheld, and `withheld` says why."""
    reward_mean: float
    reward_std: float
    challenger_reward_mean: float
    reasoner_reward_mean: float
    frac_zero_std: float
    loss: float
    grad_norm: float
    kl_nats_per_token: float
    entropy_nats_per_token: float
    length_mean_tokens: float
    invalid_rate: float
    trained_tokens: int
    withheld: Withheld = ""
    gap_nats_per_token: float = 0.0
    """Mean |log-probability of the learner - of the sampler| over the scored tokens."""
    staleness: int = 0
    """How many versions the rollouts were behind the one that was updated: 0 or 1."""
    objective: Objective = "policy"
    """`supervised`: a step of the warm-up."""
    clip_share: float = 0.0
    """Share of scored tokens whose ratio was clipped."""
    weight_mean: float = 1.0
    """Mean importance weight (learner over sampler, capped) of the scored tokens."""
    weight_max: float = 1.0
    heldout: float | None = None
    heldout_se: float | None = None
    batch_tokens: int = field(default=0, metadata=NOT_IN_ID)
    """Most positions of one forward pass; lower than asked for when memory ran out."""
    duration_s: float = field(default=0.0, metadata=NOT_IN_ID)
    step_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "step_id", "step_")

    def metrics(self) -> StepMetrics:
        """Return the monitor's view of this step; the only place that makes one."""
        return StepMetrics(
            step=float(self.number),
            reward_mean=self.reward_mean,
            reward_std=self.reward_std,
            frac_zero_std=self.frac_zero_std,
            loss=self.loss,
            grad_norm=self.grad_norm,
            kl=self.kl_nats_per_token,
            heldout=self.heldout,
            heldout_se=self.heldout_se,
            entropy=self.entropy_nats_per_token,
            length_mean=self.length_mean_tokens,
            n_rollouts=float(len(self.rollout_ids)),
            invalid_rate=self.invalid_rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A monitor's finding about one step."""

    step_id: str
    step: int
    monitor: str
    value: float
    limit: float
    severity: Severity
    action: Action
    reason: str
    alert_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "alert_id", "alert_")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """One file of a manifest: path relative to it, SHA-256 in hex, size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterVersion:
    """An immutable saved state of the LoRA weights. Version 0 has no step: it is the untrained start."""

    role: AdapterRole
    parent_adapter_id: str | None
    step_id: str | None
    step: int
    base_model: str
    base_digest: str
    """SHA-256 over the base model's own manifest: which weights this adapter belongs to."""
    corpus_digest: str
    config_digest: str
    manifest: tuple[FileDigest, ...] = field(repr=False)
    digest: str
    """SHA-256 of the canonical manifest: what the gate judges, an approval signs and a pointer names."""
    adapter_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "adapter_id", "adapter_")


# --- release ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamItem:
    """One frozen question. Made by code from a verbatim fact of `chunk_id`, never by a model."""

    document_id: str
    chunk_id: str
    claim: Claim
    item_format: ExamFormat
    passage: ScrubbedText = field(repr=False)
    question: str = field(repr=False)
    answer: str = field(repr=False)
    answer_kind: AnswerKind
    options: tuple[str, ...] = field(default=(), repr=False)
    item_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "item_id", "item_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """The questions, frozen before the first step, under one digest."""

    items: tuple[ExamItem, ...] = field(repr=False)
    settings_digest: str
    corpus_digest: str
    exam_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "exam_id", "exam_")

    @property
    def digest(self) -> str:
        """`sha256:` over everything above: it moves when one character of one question moves."""
        return digest_of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one check of the gate found. `low`/`high` bound `value` at the check's confidence."""

    check: str
    metric: str
    verdict: Verdict
    value: float
    low: float | None
    high: float | None
    limit: float
    n: int
    clusters: int
    detail: str
    """Numbers and advice in words, never document text."""
    baseline: float | None = None
    candidate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """The judgement of one adapter under one policy. No checks means FAIL; there is no override field."""

    adapter_id: str
    adapter_digest: str
    policy_digest: str
    exam_digest: str
    primary: str
    results: tuple[CheckResult, ...]
    verdict: Verdict
    reasons: tuple[str, ...]
    gate_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "gate_id", "gate_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A pointer move: `alias` now names `adapter_digest`, as the `generation`-th value it has had."""

    gate_id: str
    adapter_id: str
    adapter_digest: str
    alias: Alias
    generation: int
    replaces: str | None
    """Digest the alias named before; None for the first."""
    kind: Literal["promote", "rollback"]
    approvals: tuple[str, ...] = ()
    at: str = field(default="", metadata=NOT_IN_ID)
    promotion_id: str = _id()

    def __post_init__(self) -> None:
        _stamp(self, "promotion_id", "promo_")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedDigest:
    """A thing an audit event is about or drew on: what it is, its name (an id), its digest."""

    role: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """What happened, for the log: ids, digests and numbers. Text values are ids, codes or closed words only."""

    event: str
    run: str
    subject: tuple[NamedDigest, ...] = ()
    inputs: tuple[NamedDigest, ...] = ()
    data: tuple[tuple[str, str | int | float | bool | None], ...] = ()


# --- decoding ---------------------------------------------------------------------------------------------------------

Record = (
    Document | Chunk | Task | Rollout | Step | Alert | AdapterVersion | GateReport | Promotion
)  # fmt: skip
T = TypeVar("T")


@lru_cache(maxsize=256)
def _hints(cls: Any) -> dict[str, Any]:
    """Return the resolved annotations of a record class; resolving them costs more than decoding a record."""
    return typing.get_type_hints(cls)


def decode(cls: type[T], data: object, path: str = "") -> T:
    """Build `cls` from JSON data, strictly.

    Raises `IntegrityError` naming the path of the first problem, never a value. The id is recomputed and must match.
    """
    if not isinstance(data, Mapping):
        raise IntegrityError(f"{path or cls.__name__}: expected an object", code="E_RECORD")
    hints = _hints(cast("Hashable", cls))
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # every caller passes a record class
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise IntegrityError(f"{path or cls.__name__}: {len(unknown)} unknown field(s)", code="E_RECORD")
    values = {
        name: _decode_value(hints[name], data[name], f"{path or cls.__name__}.{name}")
        for name, f in fields.items()
        if f.init and name in data
    }
    missing = [
        n
        for n, f in fields.items()
        if f.init and n not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise IntegrityError(f"{path or cls.__name__}: missing {', '.join(missing)}", code="E_RECORD")
    record = cls(**values)
    for name, f in fields.items():
        if not f.init and name in data and data[name] != getattr(record, name):
            raise IntegrityError(f"{path or cls.__name__}.{name}: the id does not match the content", code="E_RECORD_ID")
    return record


def _decode_value(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, NewType):
        hint = hint.__supertype__
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(hint), value, path)
    if origin is Literal:
        return _expect(value in typing.get_args(hint), value, path)
    if origin is tuple:
        return _decode_tuple(typing.get_args(hint), value, path)
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast("type", hint), value, path)
    if hint is float:
        return _decode_float(value, path)
    if hint is int:
        return _expect(isinstance(value, int) and not isinstance(value, bool), value, path)
    return _expect(isinstance(value, hint), value, path)


def _decode_float(value: Any, path: str) -> float:
    if isinstance(value, Mapping) and set(value) == {"$num"} and value["$num"] in ("nan", "inf", "-inf"):
        return float(value["$num"])
    _expect(isinstance(value, (int, float)) and not isinstance(value, bool), value, path)
    return float(value)


def _decode_union(options: Sequence[Any], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    problem: IntegrityError | None = None
    # bool before int before float, so that `true` stays a bool and 3 stays an int
    for option in sorted((o for o in options if o is not type(None)), key=lambda o: {bool: 0, int: 1, float: 2}.get(o, 3)):
        try:
            return _decode_value(option, value, path)
        except IntegrityError as error:
            problem = error
    raise problem or IntegrityError(f"{path}: null is not allowed", code="E_RECORD")


def _decode_tuple(args: Sequence[Any], value: Any, path: str) -> tuple[Any, ...]:
    _expect(isinstance(value, (list, tuple)), value, path)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode_value(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    _expect(len(value) == len(args), value, path)
    return tuple(_decode_value(a, item, f"{path}[{i}]") for i, (a, item) in enumerate(zip(args, value, strict=True)))


def _expect(is_good: object, value: Any, path: str) -> Any:
    if not is_good:
        raise IntegrityError(f"{path}: wrong type or value ({type(value).__name__})", code="E_RECORD")
    return value


def id_of(record: object) -> str:
    """Return the id of any record that has one."""
    for f in dataclasses.fields(record):  # type: ignore[arg-type]  # records are dataclasses
        if not f.init and f.name.endswith("_id"):
            return str(getattr(record, f.name))
    raise TypeError(f"{type(record).__name__} has no id")
