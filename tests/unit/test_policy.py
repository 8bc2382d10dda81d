"""Policies: the shipped ones are valid; impossible ones are refused, all problems at once."""

from pathlib import Path

import pytest

from spice_enterprise import policy
from spice_enterprise.errors import PolicyError

HEAD = "apiVersion: spice.policy/v1\nmetadata: {name: n, version: 1, owner: o, approved_on: 2026-11-20}\n"


def gate(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "gate.yaml"
    path.write_text(HEAD + "kind: PromotionPolicy\n" + body, encoding="utf-8")
    return path


def refusal(path: Path) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        policy.load_gate(str(path))
    assert caught.value.exit_status() == 2
    return caught.value


def test_the_shipped_policies_are_valid() -> None:
    assert policy.load_gate().primary == "transfer_gain"
    assert policy.load_guardrails().max_restores == 3
    assert policy.load_pii().max_residual_findings == 0


def test_an_empty_gate_is_refused(tmp_path: Path) -> None:
    assert "checks" in refusal(gate(tmp_path, "primary: x\nchecks: []\n")).message


def test_the_primary_must_be_a_superiority_check(tmp_path: Path) -> None:
    body = "primary: a\nchecks: [{id: a, type: no_open_alarm}]\n"
    assert "primary" in refusal(gate(tmp_path, body)).message


def test_two_checks_may_not_share_an_id(tmp_path: Path) -> None:
    check = "{id: a, type: superiority, metric: m, alpha: 0.05, min_effect: 0.02}"
    assert "share an id" in refusal(gate(tmp_path, f"primary: a\nchecks: [{check}, {check}]\n")).message


def test_all_problems_with_their_paths(tmp_path: Path) -> None:
    check = "{id: a, type: superiority, metric: m, alpha: 0.9, min_effect: -1, colour: red}"
    error = refusal(gate(tmp_path, f"primary: a\nchecks: [{check}]\nsurprise: 1\n"))
    named = [problem.split(":")[0].rsplit(".", 1)[-1] for problem in error.problems]
    assert {"alpha", "min_effect", "colour", "surprise"} <= set(named)


def test_a_future_version_asks_for_an_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("apiVersion: spice.policy/v9\n", encoding="utf-8")
    assert "upgrade" in refusal(path).explain()


def test_a_policy_that_keeps_everything_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pii.yaml"
    path.write_text(HEAD + "kind: PiiPolicy\nlabels: {PERSON: {action: keep}}\n", encoding="utf-8")
    with pytest.raises(PolicyError, match="nothing would be scrubbed"):
        policy.load_pii(str(path))


def test_the_digest_moves_with_any_number(tmp_path: Path) -> None:
    check = "{{id: a, type: superiority, metric: m, alpha: {alpha}, min_effect: 0.02}}"
    one = policy.load_gate(str(gate(tmp_path, f"primary: a\nchecks: [{check.format(alpha=0.05)}]\n")))
    two = policy.load_gate(str(gate(tmp_path, f"primary: a\nchecks: [{check.format(alpha=0.04)}]\n")))
    assert one.digest() != two.digest()
