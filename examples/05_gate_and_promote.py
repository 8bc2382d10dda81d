"""The gate on its own: measurements and a policy in, a verdict out, and a registry that accepts nothing but a PASS.

In: measurements as `CheckResult`s, the shipped `policies/gate.yaml`.
Out: reports with PASS, INCONCLUSIVE and FAIL; a signed pointer `sandbox` for the first.
Refuses: to promote on anything but a PASS for exactly this digest (`GateNotPassedError`).
Not here: measuring. In a job `release/evaluation.py` and `release/leak_checks.py` do that.
"""

import tempfile
from pathlib import Path

from spice_enterprise import AdapterVersion, GateReport, SpiceError
from spice_enterprise.policy import load_gate
from spice_enterprise.records import CheckResult, digest_of
from spice_enterprise.release import connect
from spice_enterprise.release.gate import Evidence, Subject, decide
from spice_enterprise.testing import FakeTrainer


def measured(metric: str, value: float, *, low: float | None = None, high: float | None = None) -> CheckResult:
    """Return one measurement over 120 questions in 24 documents; its verdict is the gate's business."""
    return CheckResult(
        check="example", metric=metric, verdict="INCONCLUSIVE", value=value, low=low, high=high, limit=0.0, n=120, clusters=24,
        detail="invented for this example",
    )  # fmt: skip


def judge(version: AdapterVersion, gain: float, half_width: float, *, canaries: int = 0) -> GateReport:
    """Judge `version` as if its exam had shown `gain` with an interval of this half width."""
    exam = digest_of("an exam")
    results = (
        measured("transfer_accuracy", gain, low=gain - half_width, high=gain + half_width),
        measured("canaries_emitted", float(canaries)),
        measured("pii_emitted", 0.0),
    )
    subject = Subject(
        adapter_id=version.adapter_id, adapter_digest=version.digest, base=version.base_digest,
        corpus=version.corpus_digest, config=version.config_digest, exam=exam,
    )  # fmt: skip
    return decide(Evidence(adapter_digest=version.digest, exam_digest=exam, results=results), load_gate(), subject)


def main(workspace: Path) -> list[str]:
    """Judge three outcomes and offer each to the registry."""
    version, registry = FakeTrainer().start(), connect(workspace)
    verdicts = []
    for report in (judge(version, 0.15, 0.07), judge(version, 0.05, 0.07), judge(version, 0.15, 0.07, canaries=1)):
        verdicts.append(report.verdict)
        print(report.verdict, *report.reasons, sep="\n  ")
        try:
            move = registry.promote(version, report, "sandbox", record=digest_of)
            print(f"  sandbox -> {move.adapter_id}, generation {move.generation}")
        except SpiceError as error:
            print(f"  {error.explain()}")
    return verdicts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
