"""Hard rules over step metrics: what no healthy run does.

In: the metrics of one step (`StepMetrics`), unfiltered: values may be NaN, infinite, missing or no number at all.
Out: `DriftMonitor.update`: a reason to alarm, or None. `HardRuleMonitor`: the same as `Alert`s.
Refuses: to raise, whatever it is given.
Not here: charts of slow change; rules over self-play itself (`play_rules.py`); which version to go back to (`rollback.py`).

The rules (limits from the guardrails policy):
1. reward, its spread, KL or entropy not finite: at once.
2. loss or gradient norm not finite in 2 of the last 20 steps; a single one is tolerated, its update was withheld.
3. reward mean outside its declared range, or a spread that such a range cannot have: at once.
4. KL between sampler and learner above `max_kl_nats_per_token`: at once.
5. gradient norm above `max_grad_norm` in two steps in a row.
6. three identical reward means without any spread: the grader is stuck.
7. share of usable proposals below `min_valid_rate`, averaged over a full window.

A key that is missing or None was not measured and breaks no rule; a value that is no number counts as NaN. After an alarm
the windows start empty: the caller goes back to an earlier version, whose steps these no longer are.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from spice_enterprise.policy import GuardrailsPolicy, load_guardrails
from spice_enterprise.records import Action, Alert, JsonValue, RolloutGroup, Severity, Step

NON_FINITE_WINDOW: Final = 20
NON_FINITE_LIMIT: Final = 2
GRAD_NORM_RUN: Final = 2
FROZEN_RUN: Final = 3
ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Breach:
    """One rule broken: which, by what value, against what limit."""

    rule: str
    value: float
    limit: float
    reason: str


def make() -> "DriftMonitor":
    """Return a fresh monitor with the shipped limits; one per run."""
    return DriftMonitor(load_guardrails())


@dataclass(slots=True)
class DriftMonitor:
    """The hard rules with their memory of the last steps."""

    policy: GuardrailsPolicy
    _non_finite: deque[bool] = field(init=False, repr=False)
    _valid_rates: deque[float] = field(init=False, repr=False)
    _grad_norm_run: int = field(init=False, default=0, repr=False)
    _frozen_mean: float = field(init=False, default=math.nan, repr=False)
    _frozen_run: int = field(init=False, default=0, repr=False)

    def __post_init__(self) -> None:
        self._forget()

    def update(self, obs: Mapping[str, float | None]) -> str | None:
        """Take in one step and return why to alarm, or None. Never raises."""
        breaches = self.breaches(obs)
        return "; ".join(breach.reason for breach in breaches) or None

    def breaches(self, obs: Mapping[str, float | None]) -> list[Breach]:
        """Take in one step and return every rule it broke. Never raises."""
        found = [
            *self._not_finite(obs),
            *self._unstable(obs),
            *self._out_of_range(obs),
            *self._far_from_the_sampler(obs),
            *self._steep(obs),
            *self._frozen(obs),
            *self._stuck(obs),
        ]
        if found:
            self._forget()
        return found

    def _forget(self) -> None:
        self._non_finite = deque(maxlen=NON_FINITE_WINDOW)
        self._valid_rates = deque(maxlen=self.policy.valid_rate_window)
        self._grad_norm_run = self._frozen_run = 0
        self._frozen_mean = math.nan

    def state(self) -> dict[str, JsonValue]:
        """Return the memory of the last steps as JSON."""
        return {
            "non_finite": list(self._non_finite),
            "valid_rates": list(self._valid_rates),
            "grad_norm_run": self._grad_norm_run,
            "frozen_mean": self._frozen_mean if self._frozen_run else None,
            "frozen_run": self._frozen_run,
        }

    def load(self, state: Mapping[str, JsonValue]) -> None:
        """Take over such a memory."""
        self._forget()
        self._non_finite.extend(state["non_finite"])
        self._valid_rates.extend(state["valid_rates"])
        self._grad_norm_run, self._frozen_run = state["grad_norm_run"], state["frozen_run"]
        self._frozen_mean = math.nan if state["frozen_mean"] is None else float(state["frozen_mean"])

    def _not_finite(self, obs: Mapping[str, float | None]) -> list[Breach]:  # 1
        return [
            Breach("non_finite", value, 0.0, f"{key} is not finite")
            for key in ("reward_mean", "reward_std", "kl", "entropy")
            if (value := number(obs, key)) is not None and not math.isfinite(value)
        ]

    def _unstable(self, obs: Mapping[str, float | None]) -> list[Breach]:  # 2
        values = (number(obs, "loss"), number(obs, "grad_norm"))
        self._non_finite.append(any(value is not None and not math.isfinite(value) for value in values))
        count = sum(self._non_finite)
        if not (self._non_finite[-1] and count >= NON_FINITE_LIMIT):
            return []
        reason = f"loss or grad_norm was not finite in {count} of the last {len(self._non_finite)} steps"
        return [Breach("non_finite_updates", float(count), float(NON_FINITE_LIMIT - 1), reason)]

    def _out_of_range(self, obs: Mapping[str, float | None]) -> list[Breach]:  # 3
        low, high = self.policy.reward_range
        mean, std = number(obs, "reward_mean"), number(obs, "reward_std")
        found = []
        if mean is not None and math.isfinite(mean) and not low - ROUNDING <= mean <= high + ROUNDING:
            limit = low if mean < low else high
            found.append(Breach("reward_range", mean, limit, f"reward_mean {mean:.4g} is outside [{low:g}, {high:g}]"))
        if std is not None and math.isfinite(std) and not -ROUNDING <= std <= high - low + ROUNDING:
            found.append(Breach("reward_range", std, high - low, f"reward_std {std:.4g} is impossible in [{low:g}, {high:g}]"))
        return found

    def _far_from_the_sampler(self, obs: Mapping[str, float | None]) -> list[Breach]:  # 4
        kl, limit = number(obs, "kl"), self.policy.max_kl_nats_per_token
        if kl is None or not math.isfinite(kl) or kl <= limit:
            return []
        return [Breach("kl", kl, limit, f"kl {kl:.4g} nats per token is above {limit:g}")]

    def _steep(self, obs: Mapping[str, float | None]) -> list[Breach]:  # 5
        norm, limit = number(obs, "grad_norm"), self.policy.max_grad_norm
        self._grad_norm_run = self._grad_norm_run + 1 if norm is not None and norm > limit else 0
        if norm is None or self._grad_norm_run < GRAD_NORM_RUN:
            return []
        return [Breach("grad_norm", norm, limit, f"grad_norm was above {limit:g} in {self._grad_norm_run} steps in a row")]

    def _frozen(self, obs: Mapping[str, float | None]) -> list[Breach]:  # 6
        mean, std = number(obs, "reward_mean"), number(obs, "reward_std")
        if mean is None or std is None or not abs(std) <= ROUNDING:
            self._frozen_run, self._frozen_mean = 0, math.nan
            return []
        self._frozen_run = self._frozen_run + 1 if mean == self._frozen_mean else 1
        self._frozen_mean = mean
        if self._frozen_run < FROZEN_RUN:
            return []
        reason = f"{self._frozen_run} identical reward means in a row without any spread"
        return [Breach("frozen_grader", float(self._frozen_run), float(FROZEN_RUN - 1), reason)]

    def _stuck(self, obs: Mapping[str, float | None]) -> list[Breach]:  # 7
        invalid, window = number(obs, "invalid_rate"), self.policy.valid_rate_window
        if invalid is None:
            return []
        self._valid_rates.append(1.0 - invalid if math.isfinite(invalid) else 0.0)
        rate = sum(self._valid_rates) / len(self._valid_rates)
        if len(self._valid_rates) < window or rate >= self.policy.min_valid_rate - ROUNDING:
            return []
        reason = f"{rate:.1%} of proposals usable over {window} steps, at least {self.policy.min_valid_rate:.1%} are asked"
        return [Breach("valid_rate", rate, self.policy.min_valid_rate, reason)]


def number(obs: Any, key: str) -> float | None:
    """Return `obs[key]` as a float: None when it is missing or None, NaN when it is no number. Never raises."""
    try:
        value = obs[key]
    except Exception:  # noqa: BLE001 - a mapping may be anything, a monitor must not raise
        return None
    if value is None:
        return None
    try:
        return float(value) if not isinstance(value, (str, bytes, bytearray)) else math.nan
    except Exception:  # noqa: BLE001 - neither may a value
        return math.nan


class HardRuleMonitor:
    """The default drift `Monitor`: the hard rules as critical alerts, and two milder signs as warnings.

    `least_reward` is the lowest reward of the family that is played; where it is below the policy's range it extends it.
    """

    def __init__(self, policy: GuardrailsPolicy, *, least_reward: float = 0.0) -> None:
        low, high = policy.reward_range
        self._policy = policy.model_copy(update={"reward_range": (min(low, least_reward), high)})
        self._drift = DriftMonitor(self._policy)

    def check(self, step: Step, groups: Sequence[RolloutGroup]) -> list[Alert]:
        """Return what is wrong with `step`; `groups` are all that were played, trained on or not. Does not raise."""
        breaches = self._drift.breaches(observed(step, groups))
        alerts = [_alert(step, breach, "critical", "restore") for breach in breaches]
        return alerts + [_alert(step, breach, "warn", "log") for breach in self._signs(step, breaches)]

    def state(self) -> JsonValue:
        """Return what the rules remember, as JSON."""
        return self._drift.state()

    def load(self, state: JsonValue) -> None:
        """Remember exactly this instead."""
        self._drift.load(state)

    def _signs(self, step: Step, breaches: Sequence[Breach]) -> list[Breach]:
        """Return what deserves a look but no restore."""
        kl, limit, signs = step.kl_nats_per_token, self._policy.warn_kl_nats_per_token, []
        if step.objective == "policy" and kl > limit and all(breach.rule != "kl" for breach in breaches):
            signs.append(Breach("kl", kl, limit, f"kl {kl:.4g} nats per token is above the warning limit {limit:g}"))
        if not step.is_applied:
            signs.append(Breach("withheld", 1.0, 0.0, "the update was withheld: not finite, or no group carried a signal"))
        return signs


def observed(step: Step, groups: Sequence[RolloutGroup]) -> dict[str, float | None]:
    """Return the step's metrics as the rules should see them.

    Means over no rollouts say nothing, so they are left out; and the share of unusable proposals is that of everything
    played, since a chunk without one usable proposal never reaches the learner. A step of the warm-up learns examples: it has
    no rewards, and no sampler to be compared with.
    """
    seen = dict[str, float | None](step.metrics())  # type: ignore[arg-type]  # a TypedDict of these values
    if not step.rollout_ids:
        seen |= dict.fromkeys(("reward_mean", "reward_std", "kl", "entropy", "length_mean", "frac_zero_std"))
    if step.objective == "supervised":
        return seen | dict.fromkeys(("reward_mean", "reward_std", "kl", "frac_zero_std", "invalid_rate"))
    proposals = [
        rollout
        for group in groups
        if group.role == "challenger"
        for rollout in group.rollouts
        if rollout.reason != "format_choice"
    ]
    if proposals:
        seen["invalid_rate"] = sum(rollout.outcome != "valid" for rollout in proposals) / len(proposals)
    return seen


def _alert(step: Step, breach: Breach, severity: Severity, action: Action) -> Alert:
    return Alert(
        step_id=step.step_id,
        step=step.number,
        monitor=breach.rule,
        value=breach.value,
        limit=breach.limit,
        severity=severity,
        action=action,
        reason=breach.reason,
    )
