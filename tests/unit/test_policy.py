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
    assert policy.load_pii().fail_if.residual_documents == 10
    assert policy.load_pii(str(policy.default_path("pii_strict"))).fail_if.residual_documents == 0


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


def pii(tmp_path: Path, body: str = "labels: {PERSON: {action: replace}}\n", head: str = HEAD) -> Path:
    path = tmp_path / "pii.yaml"
    path.write_text(head + "kind: PiiPolicy\n" + body, encoding="utf-8")
    return path


def pii_refusal(path: Path) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        policy.load_pii(str(path))
    assert caught.value.code == "E_POLICY"
    return caught.value


def test_both_shipped_pii_policies_remove_direct_identifiers_and_the_strict_one_more() -> None:
    default = policy.load_pii()
    strict = policy.load_pii(str(policy.default_path("pii_strict")))
    assert set(default.labels) == set(strict.labels)
    kept = {name for name, label in default.labels.items() if label.action == "keep"}
    assert kept == {"DATE", "DURATION", "MONEY", "QUANTITY", "AGE", "DEMOGRAPHIC", "TITLE", "CODE", "MISC"}
    assert not [name for name, label in strict.labels.items() if label.action == "keep"]
    assert {"PERSON", "EMAIL", "US_SSN", "DATE_OF_BIRTH"} <= set(default.labels) - kept
    assert default.originals == strict.originals == "discard"


def test_a_policy_survives_the_way_to_a_worker() -> None:
    default = policy.load_pii()
    assert policy.PiiPolicy.model_validate_json(default.model_dump_json()) == default


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("labels: {}\n", "labels"),
        ("labels: {PERSON: {threshold: 1.5}}\n", "labels.PERSON.threshold"),
        ("labels: {PERSON: {threshold: .nan}}\n", "labels.PERSON.threshold"),
        ("labels: {PERSON: {action: shift}}\n", "labels.PERSON.action: shift is for DATE and DATE_OF_BIRTH only"),
        ("labels: {PERSON: {action: erase}}\n", "labels.PERSON.action"),
        ("labels: {PERSON: {keep_last: 2}}\n", "keep_last"),
        ("labels: {PERSON: {action: keep, deny: [x]}, EMAIL: {}}\n", "deny"),
        ("labels: {PERSON: {allow_patterns: ['(a+)+']}}\n", "labels.PERSON.allow_patterns.0: value error, column 3: repetition"),
        ("labels: {person: {}}\n", "labels.person"),
        ("labels: {KEY_HASH: {}}\n", "labels.KEY_HASH"),
        ("labels: {PERSON: {}}\ncustom: [{label: CODE, pattern: 'P\\d{2}', hits: ['{P11}'], misses: [Q]}]\n", "custom.0.label"),
        ("labels: {PERSON: {}}\ncustom: [{label: PERSON, pattern: 'P\\d{2}', hits: [P11], misses: [Q]}]\n", "hits.0: put"),
        (
            "labels: {PERSON: {}}\ncustom: [{label: PERSON, pattern: 'P\\d{2}', hits: ['{Q11}'], misses: [Q]}]\n",
            "hits.0: the pattern",
        ),
        ("labels: {PERSON: {}}\ncustom: [{label: PERSON, pattern: 'P\\d{2}', hits: ['{P11}'], misses: [P22]}]\n", "misses.0"),
        ("labels: {PERSON: {}}\ncustom: [{label: PERSON, pattern: 'P\\d{2}', hits: [], misses: []}]\n", "hits"),
        ("labels: {PERSON: {}}\ncustom: [{label: PERSON, pattern: 'P(', hits: ['{P}'], misses: [Q]}]\n", "column 2"),
        ("labels: {PERSON: {}}\nfields: {notes: keep}\n", "fields.notes"),
        ("labels: {PERSON: {}}\nsources: {allow_urls: ['s3://me:secret@bucket/']}\n", "sources.allow_urls.0"),
        ("labels: {PERSON: {}}\nfail_if: {quarantine_share: 2}\n", "fail_if.quarantine_share"),
        ("labels: {PERSON: {}}\nextends: pii\n", "extends: unknown key"),
    ],
)
def test_impossible_pii_policies_are_refused_where_they_are_wrong(tmp_path: Path, body: str, where: str) -> None:
    error = pii_refusal(pii(tmp_path, body))
    assert where.casefold() in error.message.casefold()
    assert "secret" not in error.explain()


def test_a_slow_custom_pattern_is_refused_on_loading(tmp_path: Path) -> None:
    body = "labels: {CODE: {}}\ncustom: [{label: CODE, pattern: '(?:a|aa){1,12}b', hits: ['{aab}'], misses: [c]}]\n"
    assert "custom.0.pattern: column 1: takes too long" in pii_refusal(pii(tmp_path, body)).message


def test_the_owner_cannot_approve(tmp_path: Path) -> None:
    head = HEAD.replace("owner: o", "owner: o, approved_by: O")
    assert "cannot approve" in pii_refusal(pii(tmp_path, head=head)).message
    policy.load_pii(str(pii(tmp_path, head=HEAD.replace("owner: o", "owner: o, approved_by: p"))))


def test_a_policy_finds_what_it_names_itself(tmp_path: Path) -> None:
    body = (
        "labels: {CODE: {threshold: 0.5}, PERSON: {deny: [Blue Heron, Blue], allow: ['the  Chair'], "
        "allow_patterns: ['Team \\w{1,9}']}}\n"
        "custom: [{label: CODE, pattern: 'file (?P<v>P\\d{2})', score: 0.7, hits: ['a file {P11}.'], misses: [P11]}]\n"
    )
    own = policy.load_pii(str(pii(tmp_path, body)))
    text = "Blue Heron, Bluebird and Blue read file P47."
    assert [(text[s.start : s.end], s.entity, s.score) for s in own.find(text)] == [
        ("Blue Heron", "PERSON", 1.0), ("Blue", "PERSON", 1.0), ("P47", "CODE", 0.7),
    ]  # fmt: skip
    person = own.rule("PERSON")
    assert [value for value in ("The Chair", "Team Alpha", "A Team Alpha", "Chair") if person.is_allowed(value)] == [
        "The Chair", "Team Alpha",
    ]  # fmt: skip
    assert own.rule("NEVER_HEARD_OF").action == "replace"


def test_fields_are_carried_only_when_the_policy_says_so(tmp_path: Path) -> None:
    body = "labels: {PERSON: {}}\nfields: {notes: scrub, headers: scrub}\n"
    assert policy.load_pii(str(pii(tmp_path, body))).carried_fields() == ("headers", "notes")
    assert policy.load_pii().carried_fields() == ()


@pytest.mark.parametrize(
    ("prefix", "is_fine"),
    [("s3://docs/legal", True), ("file:///srv/docs", True), ("imaps://mail.example/INBOX", True), ("s3://", False),
     ("file:///", False), ("s3://user@docs/x", False), ("docs/legal", False)],
)  # fmt: skip
def test_allowed_urls_name_a_place_and_hold_no_user(tmp_path: Path, prefix: str, is_fine: bool) -> None:
    text = policy.default_path("pii").read_text(encoding="utf-8")
    path = tmp_path / "pii.yaml"
    path.write_text(f"{text}\nsources: {{allow_urls: ['{prefix}']}}\n", encoding="utf-8")
    if is_fine:
        assert policy.load_pii(str(path)).sources.allow_urls == (prefix,)
    else:
        with pytest.raises(PolicyError, match="allow_urls"):
            policy.load_pii(str(path))
