"""What is allowed: numbers that a compliance owner signs.

In: `policies/pii.yaml`, `policies/guardrails.yaml`, `policies/gate.yaml`, or the user's own files.
Out: frozen policies, each with the digest that every chunk, alert and report carries.
Refuses: unknown keys, impossible limits, an empty gate; all problems of a file at once, with their paths.
Not here: how to run (`config.py`). CLI flags cannot change a policy.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import date
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from spice_enterprise.config import Section, read_yaml, validate
from spice_enterprise.errors import PolicyError
from spice_enterprise.records import Alias, Span, digest_of
from spice_enterprise.safe_patterns import check_pattern, is_quick

API_VERSION: Final = "spice.policy/v1"
PiiAction = Literal["replace", "pseudonymise", "hash", "mask", "drop", "keep", "encrypt", "year", "shift"]
PolicyKind = Literal["pii", "pii_strict", "guardrails", "gate"]
DATE_LABELS: Final = frozenset({"DATE", "DATE_OF_BIRTH"})
_CALENDAR_ACTIONS: Final = frozenset({"year", "shift"})


class Metadata(Section):
    """Who answers for a policy."""

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    owner: str = Field(min_length=1)
    approved_on: date
    approved_by: str | None = None
    """Who approved it: somebody else than the owner."""
    valid_until: date | None = None

    @model_validator(mode="after")
    def _two_people(self) -> Self:
        if self.approved_by is not None and _folded(self.approved_by) == _folded(self.owner):
            raise ValueError("approved_by: the owner cannot approve their own policy")
        return self


class Policy(Section):
    """What every policy file has."""

    apiVersion: Literal["spice.policy/v1"]  # noqa: N815 - the published key
    metadata: Metadata

    def digest(self) -> str:
        """`sha256:` over the canonical JSON of the whole policy."""
        return digest_of(self.model_dump(mode="json"))


def _folded(value: str) -> str:
    """Return a value as it is compared: case and spacing do not count."""
    return " ".join(value.split()).casefold()


def _bounded(pattern: str) -> str:
    check_pattern(pattern)
    return pattern


Pattern = Annotated[str, AfterValidator(_bounded)]
"""A regular expression whose running time is bounded."""
LabelName = Annotated[str, Field(pattern=r"^[A-Z][A-Z_]{0,26}[A-Z]$")]
"""What a placeholder can carry: 2 to 28 capitals and underscores."""
NonEmpty = Annotated[str, Field(min_length=1, max_length=1_000)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
FieldRule = Literal["scrub", "drop"]


class PiiLabel(Section):
    """What happens to one kind of value."""

    action: PiiAction = "replace"
    """`replace` by a tagged placeholder; `pseudonymise` by an invented value; `hash` and `encrypt` under the workspace's key;
    `mask` with asterisks; `drop` for a placeholder without a tag; `keep`; for dates also `year` (nothing else is left) and
    `shift` (by a number of days that is the document's own)."""
    threshold: float = Field(default=0.4, ge=0.0, le=1.0)
    """Findings with a lower score are ignored."""
    allow: tuple[NonEmpty, ...] = ()
    """Values of this label that stay: exact, but for case and spacing."""
    allow_patterns: tuple[Pattern, ...] = ()
    """Regular expressions; a value of this label that one of them matches as a whole stays."""
    deny: tuple[NonEmpty, ...] = ()
    """Exact strings that are always this label, whatever the detectors say."""
    keep_last: int = Field(default=0, ge=0, le=8)
    """With `mask`: letters and digits at the end that stay readable, at most half of them."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.keep_last and self.action != "mask":
            raise ValueError("keep_last: only the action mask leaves a part readable")
        if self.deny and self.action == "keep":
            raise ValueError("deny: the action keep removes nothing")
        return self

    def is_allowed(self, value: str) -> bool:
        """True when this label's own lists let a value stand."""
        folded = _folded(value)
        return any(folded == _folded(one) for one in self.allow) or any(re.fullmatch(p, value) for p in self.allow_patterns)


class PiiPattern(Section):
    """A kind of value that only this company has: an expression with the texts it must and must not match."""

    label: LabelName
    """One of `labels`."""
    pattern: Pattern
    """The value is the group named `v`, or else the whole match. Repetition needs an upper limit."""
    score: float = Field(default=0.9, gt=0.0, le=1.0)
    """Compared with the label's threshold."""
    hits: tuple[NonEmpty, ...] = Field(min_length=1)
    """Texts with the value in braces, such as `file {PRJ-4711} of`."""
    misses: tuple[NonEmpty, ...] = Field(min_length=1)
    """Texts in which nothing may be found."""

    @model_validator(mode="after")
    def _keeps_its_promises(self) -> Self:
        for number, hit in enumerate(self.hits):
            before, brace, rest = hit.partition("{")
            value, end, after = rest.partition("}")
            if not (brace and end and value):
                raise ValueError(f"hits.{number}: put the value in braces")
            if (len(before), len(before) + len(value)) not in self.find(before + value + after):
                raise ValueError(f"hits.{number}: the pattern does not find the value in braces")
        for number, miss in enumerate(self.misses):
            if any(True for _ in self.find(miss)):
                raise ValueError(f"misses.{number}: the pattern finds something")
        return self

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where values stand in `text`."""
        compiled = re.compile(self.pattern)
        group = "v" if "v" in compiled.groupindex else 0
        return (match.span(group) for match in compiled.finditer(text) if match.end(group) > match.start(group))


class PiiFields(Section):
    """Text beside the body of a file: read and scrubbed with it, or not carried at all."""

    headers: FieldRule = "drop"
    """Page headers."""
    footers: FieldRule = "drop"
    """Page footers."""
    notes: FieldRule = "drop"
    """Speaker notes, footnotes and endnotes."""
    comments: FieldRule = "drop"
    """Remarks of reviewers."""
    metadata: FieldRule = "drop"
    """Author, title, keywords and the like."""
    hidden: FieldRule = "drop"
    """Hidden rows, sheets, slides and invisible text."""
    alt_text: FieldRule = "drop"
    """Descriptions of pictures."""


class PiiLimits(Section):
    """When ingestion must stop, or leave a document out."""

    residual_documents: int = Field(default=0, ge=0)
    """More documents with values still readable after scrubbing stop the run."""
    quarantine_share: Share = 0.5
    """More quarantined files than this share stop the run."""
    unknown_language_share: Share = 1.0
    """More documents whose language cannot be told than this share stop the run."""
    ocr_confidence_below: Share = 0.6
    """Documents with a scanned page read with less confidence are left out."""


class PiiSources(Section):
    """Where documents may come from, and how their parsers are confined."""

    allow_urls: tuple[
        Annotated[str, Field(pattern=r"^(?:file:///[^\s@]+|[a-z][a-z0-9+]{0,30}://[^/\s@]+(?:/[^\s@]*)?)$")], ...
    ] = ()
    """Beginnings of URLs that may be read, without credentials; none: local folders only."""
    require_isolation: Literal["none", "network"] = "none"
    """`network` refuses to run where the kernel cannot keep the parser child from the network."""


class PiiPolicy(Policy):
    """Which values are removed, what stands in their place, and when ingestion must stop."""

    kind: Literal["PiiPolicy"]
    language: Literal["en"] = "en"
    """Of the documents; others are left out."""
    labels: dict[LabelName, PiiLabel] = Field(min_length=1)
    """Label to what happens: see PiiLabel. A label that is not named is replaced."""
    allow: tuple[NonEmpty, ...] = ()
    """Exact strings that are never personal data (product names, defined terms)."""
    custom: tuple[PiiPattern, ...] = ()
    """Kinds of values that only this company has: see PiiPattern."""
    fields: PiiFields = PiiFields()
    fail_if: PiiLimits = PiiLimits()
    sources: PiiSources = PiiSources()
    originals: Literal["discard", "vault"] = "discard"
    """`vault` keeps what was removed, encrypted, on a path of its own: reading it is an audited call."""
    placeholders: Literal["tenant", "document"] = "tenant"
    """Whether one value has the same placeholder in every document, or another one in each."""

    @model_validator(mode="after")
    def _removes_something(self) -> Self:
        problems = [*self._label_problems(), *self._custom_problems()]
        if all(label.action == "keep" for label in self.labels.values()):
            problems.append("labels: every label is kept, nothing would be scrubbed")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _label_problems(self) -> Iterator[str]:
        for name, label in self.labels.items():
            if label.action in _CALENDAR_ACTIONS and name not in DATE_LABELS:
                yield f"labels.{name}.action: {label.action} is for {' and '.join(sorted(DATE_LABELS))} only"
            if name.endswith(("_HASH", "_ENC")):
                yield f"labels.{name}: a name may not end like a placeholder's kind"

    def _custom_problems(self) -> Iterator[str]:
        for number, custom in enumerate(self.custom):
            if custom.label not in self.labels:
                yield f"custom.{number}.label: not one of labels"

    def rule(self, label: str) -> PiiLabel:
        """Return what happens to a label; one that the policy does not name is replaced."""
        return self.labels.get(label) or PiiLabel()

    def carried_fields(self) -> tuple[str, ...]:
        """Return the fields beside the body that are read, in a fixed order."""
        return tuple(name for name in PiiFields.model_fields if getattr(self.fields, name) == "scrub")

    def find(self, text: str) -> list[Span]:
        """Return what the policy itself finds: its `deny` strings and `custom` patterns. Overlap is free."""
        denied = [
            Span(start=match.start(), end=match.end(), entity=name, score=1.0, detector="policy")
            for name, label in self.labels.items()
            if label.deny
            for match in _any_of(label.deny).finditer(text)
        ]
        matched = [
            Span(start=start, end=end, entity=custom.label, score=custom.score, detector="policy")
            for custom in self.custom
            for start, end in custom.find(text)
        ]
        return denied + matched


@lru_cache(maxsize=256)
def _any_of(values: tuple[str, ...]) -> re.Pattern[str]:
    """Return an expression for any of the values where it stands by itself, the longest first."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


class GuardrailsPolicy(Policy):
    """Hard rules of a run. A breach withholds or undoes training."""

    kind: Literal["GuardrailsPolicy"]
    min_valid_rate: float = Field(ge=0.0, le=1.0)
    """Share of usable proposals below which a run is stuck, averaged over `valid_rate_window` steps."""
    valid_rate_window: int = Field(ge=1)
    max_kl_nats_per_token: float = Field(gt=0.0)
    warn_kl_nats_per_token: float = Field(gt=0.0)
    max_grad_norm: float = Field(gt=0.0)
    reward_range: tuple[float, float]
    max_restores: int = Field(ge=0)
    """Restores after which the run halts."""
    max_steps_without_task: int = Field(default=5, ge=1)
    """Steps in a row without one valid task after which the run halts (`E_NO_TASKS`)."""
    min_open_book_ratio: float = Field(default=0.5, ge=0.0, le=1.0)
    """Least share that the frozen base can answer with the passage, as a part of what it could at the start."""
    open_book_reference_steps: int = Field(default=20, ge=1)
    """Steps that are the start."""
    open_book_window: int = Field(default=10, ge=1)
    """Steps it is compared over."""
    max_zero_advantage_share: float = Field(default=0.6, ge=0.0, le=1.0)
    """Share of groups that teach nothing above which a run is called stalled."""
    zero_advantage_window: int = Field(default=10, ge=1)
    """Steps that share is averaged over."""
    max_flat_measurements: int = Field(default=3, ge=1)
    """Measurements of held-out questions in a row that are no better than the best before; then the run ends early."""
    max_general_loss: float = Field(default=0.03, ge=0.0, le=1.0)
    """Share of general-ability items that may be lost from the first measurement before the run halts."""

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.warn_kl_nats_per_token > self.max_kl_nats_per_token:
            raise ValueError("warn_kl_nats_per_token: above max_kl_nats_per_token")
        if self.reward_range[0] >= self.reward_range[1]:
            raise ValueError("reward_range: the lower end is not below the upper")
        return self


class Superiority(Section):
    """The candidate must be better than the base: interval above 0 and a point gain of at least `min_effect`."""

    id: str
    type: Literal["superiority"]
    metric: str
    alpha: float = Field(gt=0.0, lt=0.5)
    min_effect: float = Field(ge=0.0, lt=1.0)
    min_documents: int = Field(default=2, ge=2)


class NonInferiority(Section):
    """The candidate must not be worse than the base by `margin` or more."""

    id: str
    type: Literal["noninferiority"]
    metric: str
    alpha: float = Field(gt=0.0, lt=0.5)
    margin: float = Field(gt=0.0, lt=1.0)
    min_documents: int = Field(default=2, ge=2)


class Zero(Section):
    """A count that must be 0, over at least `min_n` looks."""

    id: str
    type: Literal["zero"]
    metric: str
    min_n: int = Field(default=1, ge=1)


class NoOpenAlarm(Section):
    """No critical alert may be open."""

    id: str
    type: Literal["no_open_alarm"]


class Complete(Section):
    """Each named digest must be known."""

    id: str
    type: Literal["complete"]
    fields: tuple[Literal["base", "corpus", "config", "exam", "policy"], ...] = Field(min_length=1)


CheckRule = Annotated[Superiority | NonInferiority | Zero | NoOpenAlarm | Complete, Field(discriminator="type")]


class GatePolicy(Policy):
    """What an adapter must show before it may be promoted."""

    kind: Literal["PromotionPolicy"]
    path: tuple[Alias, ...] = ("sandbox", "staging", "prod")
    primary: str
    checks: tuple[CheckRule, ...] = Field(min_length=1)
    max_evidence_age_days: int = Field(default=7, ge=1)

    @model_validator(mode="after")
    def _primary_is_superiority(self) -> Self:
        ids = [check.id for check in self.checks]
        if len(set(ids)) != len(ids):
            raise ValueError("checks: two checks share an id")
        primary = next((c for c in self.checks if c.id == self.primary), None)
        if not isinstance(primary, Superiority):
            raise ValueError("primary: must name a check of type superiority")
        if self.path != ("sandbox", "staging", "prod")[: len(self.path)] or not self.path:
            raise ValueError("path: must run sandbox, staging, prod without skipping")
        return self


P = TypeVar("P", bound=Policy)


def default_path(kind: PolicyKind) -> Path:
    """Return the policy file that ships with the product."""
    packaged = Path(str(resources.files("spice_enterprise") / "policies" / f"{kind}.yaml"))
    return packaged if packaged.exists() else Path(__file__).parents[1] / "policies" / f"{kind}.yaml"


def _load(model: type[P], kind: PolicyKind, path: str | None) -> P:
    file = Path(path) if path else default_path(kind)
    data = read_yaml(file, PolicyError)
    if data.get("apiVersion") not in (None, API_VERSION):
        raise PolicyError(f"{file.name}: apiVersion is not {API_VERSION}", hint="upgrade spice-enterprise or the policy")
    return validate(model, data, file.name, PolicyError)


def load_pii(path: str | None = None) -> PiiPolicy:
    """Read a PII policy; `None` is the shipped one. Raises `PolicyError` with every problem."""
    policy = _load(PiiPolicy, "pii", path)
    slow = _slow_patterns(policy)
    if slow:
        head = "; ".join(slow)
        where = Path(path).name if path else "pii.yaml"
        raise PolicyError(f"{where}: {head}", hint="nest less, or lower the limits of repetition", problems=tuple(slow))
    return policy


def _slow_patterns(policy: PiiPolicy) -> list[str]:
    """Return a problem for each pattern that takes too long on bait."""
    tried: list[tuple[str, str, Sequence[str]]] = [
        (
            f"custom.{number}.pattern",
            custom.pattern,
            (*(hit.replace("{", "").replace("}", "") for hit in custom.hits), *custom.misses),
        )
        for number, custom in enumerate(policy.custom)
    ]
    tried += [
        (f"labels.{name}.allow_patterns.{number}", pattern, ())
        for name, label in policy.labels.items()
        for number, pattern in enumerate(label.allow_patterns)
    ]
    return [f"{where}: column 1: takes too long on bait" for where, pattern, texts in tried if not is_quick(pattern, texts)]


def load_guardrails(path: str | None = None) -> GuardrailsPolicy:
    """Read a guardrails policy; `None` is the shipped one. Raises `PolicyError` with every problem."""
    return _load(GuardrailsPolicy, "guardrails", path)


def load_gate(path: str | None = None) -> GatePolicy:
    """Read a gate policy; `None` is the shipped one. Raises `PolicyError` with every problem."""
    return _load(GatePolicy, "gate", path)
