"""The gate: evidence and policy in, PASS, FAIL or INCONCLUSIVE out.

In: what the checks measured (`Evidence`), a `GatePolicy`, the adapter (`Subject`) and the alerts that are open.
Out: a `GateReport` whose verdict is that of its worst rule; `GateJudge` also runs the checks.
Refuses: evidence about another adapter or another exam (`ReleaseError`, `E_FOREIGN_EVIDENCE`). Nothing can override a rule.
Not here: approvals, pointers (`registry.py`), measuring.

The obligation, in order; each number is repeated where it is met:
1. The evidence is about exactly this adapter digest and this exam digest.
2. No measurement at all is a FAIL.
3. Every rule of the policy is judged; a rule whose metric is missing or not a number is INCONCLUSIVE.
4. superiority: fewer documents than `min_documents` is INCONCLUSIVE. FAIL when the interval ends below `min_effect` or at
   or below 0: even its best case is not enough. PASS when it begins above 0 and the point gain reaches `min_effect`.
   Otherwise INCONCLUSIVE, with the smallest gain such an exam could prove.
5. noninferiority: the same with FAIL when the interval ends at or below -margin, PASS when it begins above -margin.
6. zero: any hit is a FAIL; none in fewer than `min_n` looks is INCONCLUSIVE.
7. no_open_alarm: any critical alert is a FAIL. complete: any unknown digest is a FAIL.
8. The worst rule decides. Worsening a measurement can therefore never turn a refusal into a PASS.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from spice_enterprise.errors import ReleaseError
from spice_enterprise.policy import CheckRule, Complete, GatePolicy, NonInferiority, NoOpenAlarm, Superiority, Zero
from spice_enterprise.protocols import Check, OnProgress, Progress
from spice_enterprise.records import AdapterVersion, Alert, CheckResult, Exam, GateReport, Verdict
from spice_enterprise.release.statistics import documents_needed, smallest_provable_gain

_RANK: Final[dict[Verdict, int]] = {"PASS": 0, "INCONCLUSIVE": 1, "FAIL": 2}
INFORMATIVE: Final = "informative"
ADVICE_GAIN: Final = 0.05
"""When the exam is too small, advice is given for proving 5 points (or the policy's `min_effect`, when that is more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is being judged, with the digests that the rule `complete` may ask for (empty when not known)."""

    adapter_id: str
    adapter_digest: str
    base: str
    corpus: str
    config: str
    exam: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the checks measured, and on which adapter and exam they measured it."""

    adapter_digest: str
    exam_digest: str
    results: tuple[CheckResult, ...]


def decide(evidence: Evidence, policy: GatePolicy, subject: Subject, *, alerts: Sequence[Alert] = ()) -> GateReport:
    """Judge `evidence` under `policy`. Pure: the same arguments give the same report.

    `alerts` are those still open: a critical alert that was answered by going back to an earlier version, which is the
    one judged here, is closed. Raises `ReleaseError` (`E_FOREIGN_EVIDENCE`) for evidence about something else.
    """
    if (evidence.adapter_digest, evidence.exam_digest) != (subject.adapter_digest, subject.exam):  # 1
        raise ReleaseError(
            "the evidence was measured on another adapter or another exam",
            code="E_FOREIGN_EVIDENCE",
            record_id=subject.adapter_id,
            hint="run the checks on exactly the version that is to be promoted",
        )
    judged = tuple(_judge(rule, evidence, policy, subject, alerts) for rule in policy.checks)  # 3
    reasons = tuple(f"{r.check}: {r.detail}" for r in judged if r.verdict != "PASS")
    verdict = worst(r.verdict for r in judged)  # 8
    if not evidence.results:  # 2
        verdict, reasons = "FAIL", ("no check measured anything", *reasons)
    return GateReport(
        adapter_id=subject.adapter_id,
        adapter_digest=subject.adapter_digest,
        policy_digest=policy.digest(),
        exam_digest=subject.exam,
        primary=policy.primary,
        results=judged + _informative(evidence, policy),
        verdict=verdict,
        reasons=reasons,
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst verdict; FAIL when there is none."""
    return max(verdicts, key=lambda verdict: _RANK[verdict], default="FAIL")


def level_of(policy: GatePolicy, metric: str) -> float:
    """Return the two-sided confidence at which `metric` must be measured for the rules that name it.

    Superiority spends alpha on two sides, non-inferiority on one. Several rules: the strictest.
    """
    levels = [1 - rule.alpha for rule in policy.checks if isinstance(rule, Superiority) and rule.metric == metric]
    levels += [1 - 2 * rule.alpha for rule in policy.checks if isinstance(rule, NonInferiority) and rule.metric == metric]
    return max(levels, default=0.95)


# --- one rule ---------------------------------------------------------------------------------------------------------


def _judge(rule: CheckRule, evidence: Evidence, policy: GatePolicy, subject: Subject, alerts: Sequence[Alert]) -> CheckResult:
    if isinstance(rule, NoOpenAlarm):
        return _no_open_alarm(rule, alerts)
    if isinstance(rule, Complete):
        return _complete(rule, subject, policy)
    measured = [result for result in evidence.results if result.metric == rule.metric]
    if not measured:
        return _plain(rule.id, rule.metric, "INCONCLUSIVE", "not measured: no check reported this metric")
    return max((_judge_measured(rule, result) for result in measured), key=lambda result: _RANK[result.verdict])


def _judge_measured(rule: Superiority | NonInferiority | Zero, result: CheckResult) -> CheckResult:
    if math.isnan(result.value):
        verdict, reason, limit = _not_a_number()
    elif isinstance(rule, Zero):
        verdict, reason, limit = _zero(rule, result)
    elif isinstance(rule, Superiority):
        verdict, reason, limit = _superiority(rule, result)
    else:
        verdict, reason, limit = _noninferiority(rule, result)
    return replace(result, check=rule.id, verdict=verdict, limit=limit, detail=f"{reason}. {result.detail}")


def _not_a_number() -> tuple[Verdict, str, float]:
    return "INCONCLUSIVE", "the measurement is not a number", 0.0


def _superiority(rule: Superiority, result: CheckResult) -> tuple[Verdict, str, float]:
    low, high = _bounds(result)
    gain = (
        f"gain {_points(result.value)} [{_points(low)}, {_points(high)}], asked: above 0 and at least {_points(rule.min_effect)}"
    )
    if result.clusters < rule.min_documents:  # 4
        return "INCONCLUSIVE", f"{_too_small(result, rule.min_documents, rule.min_effect)}; {gain}", rule.min_effect
    if high <= 0 or high < rule.min_effect:
        return "FAIL", f"even the best case is not enough: {gain}", rule.min_effect
    if low > 0 and result.value >= rule.min_effect:
        return "PASS", gain, rule.min_effect
    return "INCONCLUSIVE", f"not shown: {gain}; {_provable(result, rule.min_effect)}", rule.min_effect


def _noninferiority(rule: NonInferiority, result: CheckResult) -> tuple[Verdict, str, float]:
    low, high = _bounds(result)
    change = f"change {_points(result.value)} [{_points(low)}, {_points(high)}], allowed: above {_points(-rule.margin)}"
    if result.clusters < rule.min_documents:  # 5
        return "INCONCLUSIVE", f"{_too_small(result, rule.min_documents, rule.margin)}; {change}", -rule.margin
    if high <= -rule.margin:
        return "FAIL", f"worse: {change}", -rule.margin
    if low > -rule.margin:
        return "PASS", change, -rule.margin
    return "INCONCLUSIVE", f"not shown: {change}", -rule.margin


def _zero(rule: Zero, result: CheckResult) -> tuple[Verdict, str, float]:
    if result.value > 0:  # 6
        return "FAIL", f"{result.value:g} found, none allowed", 0.0
    if result.n < rule.min_n or result.value < 0:
        return "INCONCLUSIVE", f"none found, but in {result.n} look(s) only; {rule.min_n} are asked", 0.0
    return "PASS", f"none found in {result.n} look(s)", 0.0


def _no_open_alarm(rule: NoOpenAlarm, alerts: Sequence[Alert]) -> CheckResult:
    critical = [alert for alert in alerts if alert.severity == "critical"]  # 7
    names = ", ".join(sorted({alert.monitor for alert in critical}))
    detail = f"{len(critical)} critical alert(s) open: {names}" if critical else "no critical alert is open"
    return _plain(rule.id, "open_alarms", "FAIL" if critical else "PASS", detail, float(len(critical)))


def _complete(rule: Complete, subject: Subject, policy: GatePolicy) -> CheckResult:
    known = {
        "base": subject.base,
        "corpus": subject.corpus,
        "config": subject.config,
        "exam": subject.exam,
        "policy": policy.digest(),
    }
    missing = [name for name in rule.fields if not known[name].strip()]
    detail = f"unknown: {', '.join(missing)}" if missing else f"known: {', '.join(rule.fields)}"
    return _plain(rule.id, "unknown_digests", "FAIL" if missing else "PASS", detail, float(len(missing)))


# --- words ------------------------------------------------------------------------------------------------------------


def _plain(check: str, metric: str, verdict: Verdict, detail: str, value: float = math.nan) -> CheckResult:
    """A result without an interval."""
    return CheckResult(
        check=check, metric=metric, verdict=verdict, value=value, low=None, high=None, limit=0.0, n=0, clusters=0, detail=detail
    )  # fmt: skip


def _bounds(result: CheckResult) -> tuple[float, float]:
    """Return (low, high); what is missing or not a number is as wide as can be."""
    low = -math.inf if result.low is None or math.isnan(result.low) else result.low
    high = math.inf if result.high is None or math.isnan(result.high) else result.high
    return low, high


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _too_small(result: CheckResult, min_documents: int, target: float) -> str:
    asked = f"{result.n} questions in {result.clusters} documents, {min_documents} documents are asked"
    return f"{asked}; {_provable(result, target)}"


def _provable(result: CheckResult, target: float) -> str:
    """Say what an exam of this size could show, and what would make it large enough."""
    if not 1 <= result.clusters <= result.n:
        return "no question was asked: add documents"
    gain = smallest_provable_gain(result.n, result.clusters)
    shown = "nothing is provable" if math.isinf(gain) else f"smallest provable gain {_points(gain)}"
    target = min(max(target, ADVICE_GAIN), 1.0)
    needed = documents_needed(target, result.n / result.clusters)
    if gain <= target:
        return f"{result.n} questions in {result.clusters} documents: {shown}"
    more = f"add {max(1, needed - result.clusters)} unseen documents to prove {_points(target)}"
    return f"{result.n} questions in {result.clusters} documents: {shown}; {more}"


def _informative(evidence: Evidence, policy: GatePolicy) -> tuple[CheckResult, ...]:
    """Return the measurements that no rule names. They have no limit, so they cannot refuse; they are shown."""
    named = {rule.metric for rule in policy.checks if isinstance(rule, (Superiority, NonInferiority, Zero))}
    return tuple(
        replace(result, check=INFORMATIVE, verdict="PASS", detail=f"reported, not judged. {result.detail}")
        for result in evidence.results
        if result.metric not in named
    )


# --- the judge --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GateJudge:
    """The default `Judge`: runs every check on one version and decides."""

    checks: Sequence[Check]
    policy: GatePolicy

    def judge(self, version: AdapterVersion, exam: Exam, alerts: Sequence[Alert], on_progress: OnProgress) -> GateReport:
        """Return the report. Raises what a check raises: broken machinery is no verdict.

        Raises `ReleaseError` (`E_FOREIGN_EVIDENCE`) when the exam was set on another corpus than the version learned from.
        """
        if exam.corpus_digest != version.corpus_digest:
            raise ReleaseError(
                "the exam was set on another corpus than the adapter was trained on",
                code="E_FOREIGN_EVIDENCE",
                record_id=version.adapter_id,
                hint="judge a version with the exam of its own run",
            )
        results: list[CheckResult] = []
        for done, check in enumerate(self.checks):
            on_progress(Progress(stage="gate", message=type(check).__name__, done=done, total=len(self.checks)))
            results += check.run(version, exam)
        evidence = Evidence(adapter_digest=version.digest, exam_digest=exam.digest, results=tuple(results))
        return decide(evidence, self.policy, subject_of(version, exam), alerts=alerts)


def subject_of(version: AdapterVersion, exam: Exam) -> Subject:
    """Return what `decide` must know of a version."""
    return Subject(
        adapter_id=version.adapter_id,
        adapter_digest=version.digest,
        base=version.base_digest,
        corpus=version.corpus_digest,
        config=version.config_digest,
        exam=exam.digest,
    )
