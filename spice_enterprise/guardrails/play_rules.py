"""Rules over self-play itself: when playing on teaches nothing, or the wrong thing.

In: steps with all that was played in them, and what the probe measured from time to time.
Out: `PlayMonitor`: alerts with stable codes at the head of their reasons.
Refuses: nothing; it does not raise.
Not here: rules over the numbers of an update (`drift.py`), the probe (`probes.py`).

The rules (limits from the guardrails policy; steps of the warm-up are skipped by 1 to 5):
1. E_NO_TASKS: no valid task in `max_steps_without_task` steps in a row. Halt.
2. E_VERIFIER_FAILED: the verifier raised, hung or gave no verdict for every answer of a step. Halt.
3. E_OPEN_BOOK_FELL: of the proposals that reach the frozen base, the share that it can answer with the passage is, over the
   last `open_book_window` steps, below `min_open_book_ratio` times that of the first `open_book_reference_steps`. Halt.
4. E_STALLED: more than `max_zero_advantage_share` of the groups teach nothing, over `zero_advantage_window` steps. A warning.
5. E_HELDOUT_FLAT: `max_flat_measurements` measurements in a row of held-out questions are no better than the best before.
   A warning that ends the run early: what stands is judged by the gate as usual.
6. E_GENERAL_FELL: general-ability items fell by more than `max_general_loss` from the first measurement. Halt.

Every halt but the fifth leaves its alert open, so the gate fails.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from spice_enterprise.policy import GuardrailsPolicy
from spice_enterprise.protocols import VERIFIER_FAILURES
from spice_enterprise.records import Action, Alert, JsonValue, Rollout, RolloutGroup, Severity, Step

BASE_REFUSALS: Final = frozenset({"base_open_book", "base_closed_book"})
CODES: Final = {
    "no_tasks": "E_NO_TASKS",
    "verifier": "E_VERIFIER_FAILED",
    "open_book": "E_OPEN_BOOK_FELL",
    "stalled": "E_STALLED",
    "heldout_flat": "E_HELDOUT_FLAT",
    "general": "E_GENERAL_FELL",
}
"""Monitor of an alert to the code its reason begins with."""
GENERAL: Final = "probe/general"
"""Name of the general-ability share among what a probe measures."""
ROUNDING: Final = 1e-9


@dataclass(slots=True)
class _Memory:
    """What the rules remember of earlier steps."""

    without_task: int = 0
    open_book_first: list[float] = field(default_factory=list)
    open_book_last: list[float] = field(default_factory=list)
    flat_shares: list[float] = field(default_factory=list)
    best_heldout: float | None = None
    flat_measurements: int = 0
    first_general: float | None = None


class PlayMonitor:
    """The rules with their memory; a `StatefulMonitor` and a `MeasureMonitor`."""

    def __init__(self, policy: GuardrailsPolicy, *, warmup_steps: int = 0) -> None:
        """Take the limits, and how many steps are warm-up: one that had no example to learn does not say so itself."""
        self._policy = policy
        self._warmup_steps = warmup_steps
        self._memory = _Memory()

    def check(self, step: Step, groups: Sequence[RolloutGroup]) -> list[Alert]:
        """Return what is wrong with what `step` played; `groups` are all of them, trained on or not. Does not raise."""
        if step.objective == "supervised" or step.number <= self._warmup_steps:
            return []
        played = [rollout for group in groups if group.objective == "policy" for rollout in group.rollouts]
        proposals = [r for r in played if r.role == "challenger" and r.reason != "format_choice"]
        answers = [r for r in played if r.role == "reasoner"]
        return [
            *self._without_task(step, proposals),
            *self._ungraded(step, answers, proposals),
            *self._unfounded(step, proposals),
            *self._stalled(step),
            *self._flat(step),
        ]

    def check_measured(self, step: Step, measured: Mapping[str, float]) -> list[Alert]:
        """Return what is wrong with what a probe measured at `step`. Does not raise."""
        value, memory, limit = measured.get(GENERAL), self._memory, self._policy.max_general_loss
        if value is None:
            return []
        if memory.first_general is None:
            memory.first_general = value
        loss = memory.first_general - value
        if loss <= limit + ROUNDING:
            return []
        reason = f"general-ability items fell from {memory.first_general:.1%} to {value:.1%}"
        return [_alert(step, "general", (loss, limit), reason, halts=True)]

    def state(self) -> JsonValue:
        """Return what is remembered, as JSON."""
        return {name: getattr(self._memory, name) for name in _Memory.__slots__}

    def load(self, state: JsonValue) -> None:
        """Remember exactly this instead."""
        self._memory = _Memory(**state)

    def _without_task(self, step: Step, proposals: Sequence[Rollout]) -> list[Alert]:  # 1
        has_task = any(rollout.outcome == "valid" for rollout in proposals)
        self._memory.without_task = 0 if has_task else self._memory.without_task + 1
        count, limit = self._memory.without_task, self._policy.max_steps_without_task
        if count < limit:
            return []
        reason = (
            f"no valid task in {count} steps in a row; try `warmup: format`, "
            "`hint: span` or a larger model, and see tasks.jsonl for what was refused and why"
        )
        return [_alert(step, "no_tasks", (float(count), float(limit)), reason, halts=True)]

    def _ungraded(self, step: Step, answers: Sequence[Rollout], proposals: Sequence[Rollout]) -> list[Alert]:  # 2
        """Halt when the verifier failed wherever it was asked: on answers, and on the votes about proposals."""
        failed = [r for r in answers if r.reason in VERIFIER_FAILURES] + [r for r in proposals if r.reason == "ungraded"]
        graded = [r for r in answers if r.reason not in (*VERIFIER_FAILURES, "no_answer")]
        if not failed or graded or any(r.reason in BASE_REFUSALS for r in proposals):
            return []
        reason = (
            f"the verifier raised, hung or gave no verdict on all {len(failed)} answers and proposals; "
            "try it on a golden file with `job.test_verifier`"
        )
        return [_alert(step, "verifier", (1.0, 1.0), reason, halts=True)]

    def _unfounded(self, step: Step, proposals: Sequence[Rollout]) -> list[Alert]:  # 3
        policy, memory = self._policy, self._memory
        asked = [r for r in proposals if r.outcome == "valid" or r.reason in BASE_REFUSALS]
        if asked:
            share = sum(r.reason != "base_open_book" for r in asked) / len(asked)
            if len(memory.open_book_first) < policy.open_book_reference_steps:
                memory.open_book_first = [*memory.open_book_first, share]
                return []
            memory.open_book_last = [*memory.open_book_last, share][-policy.open_book_window :]
        if not asked or len(memory.open_book_last) < policy.open_book_window:
            return []
        now, limit = fmean(memory.open_book_last), policy.min_open_book_ratio * fmean(memory.open_book_first)
        if now >= limit - ROUNDING:
            return []
        reason = (
            f"the base answers {now:.1%} of what it is asked with the passage, "
            f"{fmean(memory.open_book_first):.1%} at the start: questions or reference answers get worse"
        )
        return [_alert(step, "open_book", (now, limit), reason, halts=True)]

    def _stalled(self, step: Step) -> list[Alert]:  # 4
        if not step.rollout_ids:
            return []
        recent = deque((*self._memory.flat_shares, step.frac_zero_std), maxlen=self._policy.zero_advantage_window)
        share, limit = fmean(recent), self._policy.max_zero_advantage_share
        is_stalled = len(recent) == recent.maxlen and share > limit + ROUNDING
        self._memory.flat_shares = [] if is_stalled else list(recent)  # told once per window, not in every step
        reason = f"{share:.1%} of the groups taught nothing over {len(recent)} steps: tasks are too easy or too hard"
        return [_alert(step, "stalled", (share, limit), reason)] if is_stalled else []

    def _flat(self, step: Step) -> list[Alert]:  # 5
        memory, limit = self._memory, self._policy.max_flat_measurements
        if step.heldout is None:
            return []
        if memory.best_heldout is None or step.heldout > memory.best_heldout + ROUNDING:
            memory.best_heldout, memory.flat_measurements = step.heldout, 0
            return []
        memory.flat_measurements += 1
        if memory.flat_measurements < limit:
            return []
        reason = f"{memory.flat_measurements} measurements no better than {memory.best_heldout:.1%}: stopped early"
        return [_alert(step, "heldout_flat", (step.heldout, memory.best_heldout), reason, severity="warn", halts=True)]


def _alert(
    step: Step,
    rule: str,
    found: tuple[float, float],
    reason: str,
    *,
    severity: Severity | None = None,
    halts: bool = False,
) -> Alert:
    """Return an alert about (value, limit); what halts is critical unless said otherwise."""
    action: Action = "halt" if halts else "log"
    return Alert(
        step_id=step.step_id,
        step=step.number,
        monitor=rule,
        value=found[0],
        limit=found[1],
        severity=severity or ("critical" if halts else "warn"),
        action=action,
        reason=f"{CODES[rule]}: {reason}",
    )
