from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.detectors import ALL_RULES, PatternDetector
from spice_enterprise.corpus.finding import MODEL, find_all, settled
from spice_enterprise.records import Span


class Fixed:
    """Finds the given words."""

    def __init__(self, *wanted):
        self._wanted = wanted

    def detect(self, text):
        return [
            Span(start=text.index(word), end=text.index(word) + len(word), entity=entity, score=0.85, detector=MODEL)
            for word, entity in self._wanted
            if word in text
        ]


def found(text, *wanted):
    return [(text[s.start : s.end], s.entity) for s in find_all(text, Fixed(*wanted)).spans]


def test_other_mentions_are_found_and_named_alike():
    text = "Anna Weiss came. Weiss's report, by A. Weiss and WEISS, is late."
    findings = find_all(text, Fixed(("Anna Weiss", "PERSON")))
    assert next(text[s.start : s.end] for s in findings.spans) == "Anna Weiss"
    assert sum("eiss" in text[s.start : s.end] or "WEISS" in text[s.start : s.end] for s in findings.spans) == 4
    assert {findings.mentions.canonical(text[s.start : s.end], "PERSON") for s in findings.spans} == {"anna weiss"}


def test_indirect_values_have_no_other_mentions():
    assert found("Due in May 2001. May 2001 was long.", ("May 2001", "DATE")) == [("May 2001", "DATE")]


def test_a_term_that_is_written_small_elsewhere_is_no_organisation():
    assert found("the Combination Sprayer and a combination of any sprayer", ("Combination Sprayer", "ORGANIZATION")) == []
    assert found("the Brightwater Sprayer and any sprayer", ("Brightwater Sprayer", "ORGANIZATION")) != []


def test_direct_values_win_over_indirect_ones():
    spans = [
        Span(start=0, end=10, entity="DATE", score=1.0, detector="x"),
        Span(start=2, end=6, entity="PHONE", score=0.5, detector="y"),
    ]
    assert ("PHONE", 2, 6) in [(s.entity, s.start, s.end) for s in settled(spans, "ab1234cdef")]


@given(st.text(alphabet="Anna Weis.,\n01-[]_@", max_size=120))
def test_findings_lie_in_order_without_overlap(text):
    spans = find_all(text, PatternDetector(ALL_RULES)).spans
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))


def test_placeholders_are_passed_over():
    assert found("[PERSON_abc234] and Anna", ("Anna", "PERSON")) == [("Anna", "PERSON")]
