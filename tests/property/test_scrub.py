"""Scrubbing removes what it is told to, changes nothing the second time, and links equal values."""

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.corpus.plain_text import normalise
from spice_enterprise.corpus.scrub import Scrubber, redactions_in
from spice_enterprise.corpus.surrogates import PLACEHOLDER
from spice_enterprise.policy import load_pii

POLICY = load_pii()
WORDS = st.lists(
    st.sampled_from(["the", "fee", "Dear", "is", "17", "EUR", "Net", "\n", "\n\n", ",", "No.", ":", "from", "Ms."]), max_size=12
)
VALUES = st.sampled_from(
    ["anna.weiss@x.org", "DE89370400440532013000", "4111 1111 1111 1111", "219.241.76.123", "+49 30 1234567", "E-90184",
     "Hans Weiss", "CANARY-0123456789abcdef", "sk-Uc4mlADxXxz8mNkgG0au7f13", "9a:bd:6c:2c:01:f7"]
)  # fmt: skip


def scrubber():
    return Scrubber(POLICY, PatternDetector(), b"k" * 32)


@given(st.lists(st.tuples(WORDS, VALUES), max_size=5), WORDS)
def test_values_with_a_shape_never_survive(parts, tail):
    text = " ".join([*(" ".join([*words, value]) for words, value in parts), *tail])
    out = scrubber().scrub_document(text).text
    for _, value in parts:
        if value != "Hans Weiss":
            assert value not in out


@given(st.text(max_size=300) | st.lists(st.tuples(WORDS, VALUES), max_size=5).map(str))
def test_in_the_result_nothing_more_is_found(text):
    once = scrubber().scrub_document(normalise(text)).text
    assert scrubber().detect(once) == []


@given(st.text(max_size=300))
def test_text_outside_placeholders_is_never_invented(text):
    scrubbed = scrubber().scrub_document(text)
    kept = PLACEHOLDER.split(scrubbed.text)[::2]
    position = 0
    for piece in kept:
        position = text.index(piece, position) + len(piece)
    assert len(redactions_in(scrubbed.text)) == len(kept) - 1


@given(VALUES, WORDS, WORDS)
def test_a_value_has_one_placeholder_wherever_it_stands(value, before, after):
    alone = scrubber().scrub_document(f"x {value} y").text
    if not PLACEHOLDER.search(alone) or value.startswith(("+", "4111", "Hans")):
        return
    placeholder = PLACEHOLDER.search(alone).group()
    assert placeholder in scrubber().scrub_document(" ".join([*before, "x", value, "y", *after])).text
