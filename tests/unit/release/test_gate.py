"""Each rule of the gate, its three verdicts, and what it says."""

import math
import re
from dataclasses import replace
from datetime import date

import pytest

from spice_enterprise.errors import ReleaseError, SpiceError
from spice_enterprise.policy import GatePolicy, load_gate
from spice_enterprise.protocols import Progress
from spice_enterprise.records import AdapterVersion, Alert, CheckResult, Exam, GateReport
from spice_enterprise.release.gate import Evidence, GateJudge, Subject, decide, level_of, worst

SUBJECT = Subject(
    adapter_id="adapter_1", adapter_digest="sha256:a", base="sha256:b", corpus="sha256:c", config="sha256:k", exam="sha256:e"
)  # fmt: skip
VERSION = AdapterVersion(
    role="shared", parent_adapter_id=None, step_id="step_1", step=1, base_model="b", base_digest="sha256:b",
    corpus_digest="sha256:c", config_digest="sha256:k", manifest=(), digest="sha256:a",
)  # fmt: skip
EXAM = Exam(items=(), settings_digest="sha256:s", corpus_digest="sha256:c")


def _result(metric: str = "transfer_accuracy", **changes: object) -> CheckResult:
    base = CheckResult(
        check="exam", metric=metric, verdict="INCONCLUSIVE", value=0.06, low=0.01, high=0.11, limit=0.0, n=600, clusters=120,
        detail="measured",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]  # test data


GAIN = _result()
NO_CANARY = _result("canaries_emitted", value=0.0, low=None, high=None, n=500, clusters=0)
NO_PII = _result("pii_emitted", value=0.0, low=None, high=None, n=500, clusters=0)
GOOD = (GAIN, NO_CANARY, NO_PII)


def _alert(severity: str = "critical") -> Alert:
    return Alert(
        step_id="step_1", step=1, monitor="kl", value=1.0, limit=0.1, severity=severity, action="restore", reason="r"  # type: ignore[arg-type]  # a literal
    )  # fmt: skip


def _decide(
    *results: CheckResult, policy: GatePolicy | None = None, subject: Subject = SUBJECT, alerts: tuple[Alert, ...] = ()
) -> GateReport:
    evidence = Evidence(adapter_digest="sha256:a", exam_digest="sha256:e", results=results)
    return decide(evidence, policy or load_gate(), subject, alerts=alerts)


def _gain(**changes: object) -> CheckResult:
    return _decide(_result(**changes), NO_CANARY, NO_PII).results[0]


def test_everything_good_passes() -> None:
    report = _decide(*GOOD)
    assert report.verdict == "PASS"
    assert report.reasons == ()
    assert {result.check for result in report.results} == {"transfer_gain", "canary", "residue", "run_health", "lineage"}
    assert (report.adapter_digest, report.exam_digest, report.policy_digest) == ("sha256:a", "sha256:e", load_gate().digest())
    assert report == _decide(*GOOD)


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, "PASS", r"gain \+6.0 \[\+1.0, \+11.0\], asked: above 0 and at least \+2.0"),
        ({"value": 0.02, "low": 0.001}, "PASS", "asked"),
        ({"value": 0.0199, "low": 0.001}, "INCONCLUSIVE", "not shown"),
        ({"low": 0.0}, "INCONCLUSIVE", "not shown"),
        (
            {"low": -0.01},
            "INCONCLUSIVE",
            r"600 questions in 120 documents: smallest provable gain \+6.0; add 56 unseen documents to prove \+5.0",
        ),
        ({"value": 0.01, "low": 0.005, "high": 0.019}, "FAIL", "even the best case"),
        ({"value": -0.05, "low": -0.1, "high": 0.0}, "FAIL", "even the best case"),
        ({"clusters": 19, "n": 95}, "INCONCLUSIVE", r"95 questions in 19 documents, 20 documents are asked"),
        ({"clusters": 22, "n": 140, "low": -0.01}, "INCONCLUSIVE", r"smallest provable gain \+13.0; add 130 unseen documents"),
        ({"clusters": 2, "n": 2}, "INCONCLUSIVE", "nothing is provable"),
        ({"clusters": 0, "n": 0}, "INCONCLUSIVE", "add documents"),
        ({"value": math.nan}, "INCONCLUSIVE", "not a number"),
        ({"low": None}, "INCONCLUSIVE", "not shown"),
        ({"low": math.nan}, "INCONCLUSIVE", "not shown"),
        ({"low": None, "high": None}, "INCONCLUSIVE", "not shown"),
    ],
)
def test_superiority(changes: dict[str, object], verdict: str, words: str) -> None:
    result = _gain(**changes)
    assert result.verdict == verdict
    assert re.search(words, result.detail)
    assert result.detail.endswith("measured")


def _with_rules(*checks: dict[str, object]) -> GatePolicy:
    first = {"id": "gain", "type": "superiority", "metric": "transfer_accuracy", "alpha": 0.05, "min_effect": 0.02}
    return GatePolicy.model_validate(
        {
            "apiVersion": "spice.policy/v1",
            "kind": "PromotionPolicy",
            "metadata": {"name": "test", "version": 1, "owner": "me", "approved_on": date(2026, 1, 1)},
            "primary": "gain",
            "checks": (first, *checks),
        }
    )


@pytest.mark.parametrize(
    ("low", "high", "clusters", "verdict"),
    [
        (-0.019, 0.01, 50, "PASS"),
        (-0.02, 0.01, 50, "INCONCLUSIVE"),
        (-0.1, -0.021, 50, "FAIL"),
        (-0.1, -0.02, 50, "FAIL"),
        (-0.019, 0.01, 1, "INCONCLUSIVE"),
        (None, None, 50, "INCONCLUSIVE"),
    ],
)
def test_noninferiority(low: float | None, high: float | None, clusters: int, verdict: str) -> None:
    policy = _with_rules({"id": "general", "type": "noninferiority", "metric": "general", "alpha": 0.05, "margin": 0.02})
    general = _result("general", value=-0.01, low=low, high=high, clusters=clusters)
    report = _decide(GAIN, general, policy=policy)
    assert report.verdict == report.results[1].verdict == verdict


@pytest.mark.parametrize(
    ("value", "n", "verdict"),
    [(0, 20, "PASS"), (0, 19, "INCONCLUSIVE"), (1, 500, "FAIL"), (1, 1, "FAIL"), (-1, 500, "INCONCLUSIVE")],
)
def test_zero(value: float, n: int, verdict: str) -> None:
    assert _decide(GAIN, replace(NO_CANARY, value=float(value), n=n), NO_PII).verdict == verdict


def test_a_missing_metric_is_inconclusive_and_named() -> None:
    report = _decide(GAIN, NO_CANARY)
    assert report.verdict == "INCONCLUSIVE"
    assert report.reasons == ("residue: not measured: no check reported this metric",)


def test_no_checks_fail() -> None:
    report = _decide()
    assert report.verdict == "FAIL"
    assert report.reasons[0] == "no check measured anything"


def test_a_metric_measured_twice_counts_by_its_worse_result() -> None:
    assert _decide(*GOOD, replace(NO_CANARY, value=1.0)).verdict == "FAIL"
    assert _decide(replace(NO_CANARY, value=1.0), *GOOD).verdict == "FAIL"


def test_critical_alerts_fail_and_others_do_not() -> None:
    report = _decide(*GOOD, alerts=(_alert(),))
    assert report.verdict == "FAIL"
    assert report.reasons == ("run_health: 1 critical alert(s) open: kl",)
    assert _decide(*GOOD, alerts=(_alert("warn"), _alert("info"))).verdict == "PASS"


def test_an_unknown_digest_fails() -> None:
    report = _decide(*GOOD, subject=replace(SUBJECT, config=" "))
    assert report.verdict == "FAIL"
    assert report.reasons == ("lineage: unknown: config",)


def test_the_worst_check_decides() -> None:
    assert _decide(replace(GAIN, low=-0.01), replace(NO_CANARY, value=2.0), NO_PII).verdict == "FAIL"
    assert worst(["PASS", "INCONCLUSIVE", "PASS"]) == "INCONCLUSIVE"
    assert worst([]) == "FAIL"


def test_unnamed_measurements_are_shown_and_cannot_refuse() -> None:
    report = _decide(*GOOD, _result("accuracy_without_passage", value=-1.0, low=-1.0, high=-1.0))
    assert report.verdict == "PASS"
    assert report.results[-1].check == "informative"
    assert report.results[-1].detail == "reported, not judged. measured"


@pytest.mark.parametrize("changes", [{"adapter_digest": "sha256:z"}, {"exam": "sha256:z"}])
def test_foreign_evidence_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ReleaseError, match="another adapter or another exam") as caught:
        _decide(*GOOD, subject=replace(SUBJECT, **changes))
    assert (caught.value.code, caught.value.record_id) == ("E_FOREIGN_EVIDENCE", "adapter_1")


def test_level_of_follows_alpha() -> None:
    policy = _with_rules({"id": "general", "type": "noninferiority", "metric": "general", "alpha": 0.05, "margin": 0.02})
    assert level_of(policy, "transfer_accuracy") == pytest.approx(0.95)
    assert level_of(policy, "general") == pytest.approx(0.90)
    assert level_of(policy, "other") == 0.95


class Fixed:
    """A check with given results."""

    def __init__(self, *results: CheckResult) -> None:
        self.results = results

    def run(self, version: AdapterVersion, exam: Exam) -> list[CheckResult]:
        return list(self.results)


class Broken:
    """A check whose machinery fails."""

    def run(self, version: AdapterVersion, exam: Exam) -> list[CheckResult]:
        raise SpiceError("the sampler is gone", code="E_SAMPLER")


def test_the_judge_runs_every_check_and_reports_progress() -> None:
    seen: list[Progress] = []
    judge = GateJudge(checks=(Fixed(GAIN), Fixed(NO_CANARY, NO_PII)), policy=load_gate())
    report = judge.judge(VERSION, EXAM, (), seen.append)
    assert report.verdict == "PASS"
    assert (report.adapter_id, report.exam_digest) == (VERSION.adapter_id, EXAM.digest)
    assert [(p.stage, p.message, p.done, p.total) for p in seen] == [("gate", "Fixed", 0, 2), ("gate", "Fixed", 1, 2)]


def test_a_judge_without_checks_fails() -> None:
    assert GateJudge(checks=(), policy=load_gate()).judge(VERSION, EXAM, (), lambda _: None).verdict == "FAIL"


def test_broken_machinery_is_no_verdict() -> None:
    with pytest.raises(SpiceError, match="the sampler is gone"):
        GateJudge(checks=(Fixed(*GOOD), Broken()), policy=load_gate()).judge(VERSION, EXAM, (), lambda _: None)


def test_the_exam_of_another_corpus_is_refused() -> None:
    with pytest.raises(ReleaseError, match="another corpus") as caught:
        GateJudge(checks=(Fixed(*GOOD),), policy=load_gate()).judge(
            VERSION, replace(EXAM, corpus_digest="sha256:z"), (), lambda _: None
        )
    assert caught.value.code == "E_FOREIGN_EVIDENCE"
