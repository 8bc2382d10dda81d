"""What is allowed: numbers that a compliance owner signs.

In: `policies/pii.yaml`, `policies/guardrails.yaml`, `policies/gate.yaml`, or the user's own files.
Out: frozen policies, each with the digest that every chunk, alert and report carries.
Refuses: unknown keys, impossible limits, an empty gate; all problems of a file at once, with their paths.
Not here: how to run (`config.py`). CLI flags cannot change a policy.
"""

from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import Field, model_validator

from spice_enterprise.config import Section, read_yaml, validate
from spice_enterprise.errors import PolicyError
from spice_enterprise.records import Alias, digest_of

API_VERSION: Final = "spice.policy/v1"
PiiAction = Literal["replace", "keep", "drop"]
PolicyKind = Literal["pii", "guardrails", "gate"]


class Metadata(Section):
    """Who answers for a policy."""

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    owner: str = Field(min_length=1)
    approved_on: date
    valid_until: date | None = None


class Policy(Section):
    """What every policy file has."""

    apiVersion: Literal["spice.policy/v1"]  # noqa: N815 - the published key
    metadata: Metadata

    def digest(self) -> str:
        """`sha256:` over the canonical JSON of the whole policy."""
        return digest_of(self.model_dump(mode="json"))


class PiiLabel(Section):
    """What happens to one kind of value."""

    action: PiiAction = "replace"
    threshold: float = Field(default=0.4, ge=0.0, le=1.0)


class PiiPolicy(Policy):
    """Which values are removed, and when ingestion must stop."""

    kind: Literal["PiiPolicy"]
    language: Literal["en"] = "en"
    labels: dict[str, PiiLabel] = Field(min_length=1)
    allow: tuple[str, ...] = ()
    """Exact strings that are never personal data (product names, defined terms)."""
    max_residual_findings: int = Field(default=0, ge=0)
    max_quarantine_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """More quarantined files than this share stops the run."""

    @model_validator(mode="after")
    def _removes_something(self) -> Self:
        if all(label.action == "keep" for label in self.labels.values()):
            raise ValueError("labels: every label is kept, nothing would be scrubbed")
        return self


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
    return _load(PiiPolicy, "pii", path)


def load_guardrails(path: str | None = None) -> GuardrailsPolicy:
    """Read a guardrails policy; `None` is the shipped one. Raises `PolicyError` with every problem."""
    return _load(GuardrailsPolicy, "guardrails", path)


def load_gate(path: str | None = None) -> GatePolicy:
    """Read a gate policy; `None` is the shipped one. Raises `PolicyError` with every problem."""
    return _load(GatePolicy, "gate", path)
