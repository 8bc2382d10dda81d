import pytest

from spice_enterprise.corpus.checks import is_name, is_vin, passes_luhn, passes_mod97
from spice_enterprise.corpus.detectors import ALL_RULES, LABELS, PatternDetector
from spice_enterprise.policy import load_pii


def shown(text):
    """Split `before{value}after` into the text and the value's place."""
    start, end = text.index("{"), text.rindex("}")
    return text[:start] + text[start + 1 : end] + text[end + 1 :], (start, end - 1)


HITS = [(rule, hit) for rule in ALL_RULES for hit in rule.hits]
MISSES = [(rule, miss) for rule in ALL_RULES for miss in rule.misses]


@pytest.mark.parametrize(("rule", "hit"), HITS, ids=[f"{r.rule_id}-{i}" for i, (r, _) in enumerate(HITS)])
def test_a_rule_finds_exactly_the_value(rule, hit):
    text, place = shown(hit)
    found = [(s.start, s.end) for s in rule.spans(text)]
    assert found == [place]


@pytest.mark.parametrize(("rule", "miss"), MISSES, ids=[f"{r.rule_id}-{i}" for i, (r, _) in enumerate(MISSES)])
def test_a_rule_leaves_other_things_alone(rule, miss):
    assert list(rule.spans(miss)) == []


def test_every_rule_has_both_kinds_of_examples_and_its_own_id():
    assert all(rule.hits and rule.misses for rule in ALL_RULES)
    assert len({rule.rule_id for rule in ALL_RULES}) == len(ALL_RULES)


def test_every_label_is_in_the_shipped_policy():
    assert set(load_pii().labels) >= LABELS


def test_facts_are_left_alone():
    text = (
        "The fee of 12,500.00 EUR falls due Net 45, on 17 March 2024, and rises by 3.5% per year under Section 4.2 and clause "
        "17(b)(iii) of Exhibit B-3. Part No. 7741902-A (SKU 88213-004) follows ISO/IEC 27001:2022, RFC 5322 and version 4.11.2."
    )
    assert PatternDetector().detect(text) == []


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (passes_luhn, "4111 1111 1111 1111", "4111 1111 1111 1112"),
        (passes_luhn, "378282246310005", "0000000000000000"),
        (passes_mod97, "GB82 WEST 1234 5698 7654 32", "GB83 WEST 1234 5698 7654 32"),
        (is_vin, "1M8GDM9AXKP042788", "1M8GDM9A1KP042788"),
        (is_name, "Anna Weiss", "Dear Customer"),
        (is_name, "June Cox", "June"),
    ],
)
def test_checksums_and_checks(check, good, bad):
    assert check(good)
    assert not check(bad)


@pytest.mark.parametrize("bait", ["a" * 50_000, "A" * 50_000, "1 " * 25_000, "A. " * 16_000, "Aa-" * 16_000, "x@" * 25_000,
                                  "(" * 50_000, "Aa, " * 12_000, "password " * 5_000, "12:" * 16_000, "Suite 1\n" * 6_000,
                                  "12 Aa Street " * 4_000, "Aa Aa 1 " * 6_000, "Calle de la " * 4_000])  # fmt: skip
def test_time_stays_linear_on_bait(bait, is_linear):
    assert is_linear(PatternDetector(ALL_RULES).detect, bait)
