"""Chunks cover the text, fit the budget and never cut a placeholder."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.chunking import cut_document
from spice_enterprise.corpus.scrub import excerpt, redactions_in
from spice_enterprise.corpus.surrogates import PLACEHOLDER

PIECES = st.sampled_from(
    [
        "word",
        "Sentence.",
        "[PERSON_abcdef]",
        "[PASSWORD]",
        "# Heading\n",
        "\n\n",
        "\n",
        "ARTICLE 4 TERMS\n",
        "x" * 40,
        "Dr.",
        "12,5",
    ]
)
TEXTS = st.lists(PIECES, max_size=60).map(" ".join)


def words(text):
    """A counter that is additive over pieces, like a byte-level tokeniser, and makes long words expensive."""
    return sum(1 + len(word) // 20 for word in text.split())


def cuts_of(text, most, least):
    scrubbed = excerpt(text, 0, len(text))
    protected = [(r.start, r.end) for r in redactions_in(scrubbed)]
    return cut_document(scrubbed, words, most=most, least=least, protected=protected)


@given(TEXTS, st.integers(8, 40), st.integers(1, 8))
def test_cuts_cover_the_text_in_order(text, most, least):
    cuts = cuts_of(text, most, least)
    assert "".join("".join(c.text for c in cuts).split()) == "".join(text.split())
    assert all(text[c.start : c.end] == c.text for c in cuts)
    assert all(a.end <= b.start for a, b in pairwise(cuts))


@given(TEXTS, st.integers(8, 40), st.integers(1, 8))
def test_no_cut_is_too_long_or_empty(text, most, least):
    for cut in cuts_of(text, most, least):
        assert 0 < cut.token_count == words(cut.text) <= most


@given(TEXTS, st.integers(8, 40), st.integers(1, 8))
def test_placeholders_stay_whole(text, most, least):
    whole = PLACEHOLDER.findall(text)
    assert [p for c in cuts_of(text, most, least) for p in PLACEHOLDER.findall(c.text)] == whole
