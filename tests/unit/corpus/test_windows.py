from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.windows import as_prose, as_titles, small_paragraphs, windows

TEXTS = st.text(alphabet="aAbZ ß\u0130.,\n\f!9é@-", max_size=400)


@given(TEXTS, st.integers(min_value=1, max_value=60))
def test_windows_tile_the_text_and_keep_the_limit(text, limit):
    pieces = list(windows(text, limit))
    assert "".join(piece for _, piece in pieces) == text
    assert all(text[start : start + len(piece)] == piece and len(piece) <= limit for start, piece in pieces)


@given(TEXTS)
def test_prose_and_titles_are_as_long_as_the_text(text):
    assert len(as_prose(text)) == len(text)
    assert len(as_titles(text)) == len(text)


def test_a_window_ends_with_a_paragraph_or_a_sentence():
    text = "Alpha beta gamma. Delta epsilon zeta.\n\nEta theta iota kappa lambda."
    assert [piece for _, piece in windows(text, 45)] == [
        "Alpha beta gamma. Delta epsilon zeta.\n\n",
        "Eta theta iota kappa lambda.",
    ]
    assert next(piece for _, piece in windows(text, 30)) == "Alpha beta gamma. "


def test_capitals_and_small_paragraphs_become_titles():
    assert as_prose("KAREN CANNON (CEO)\nsaid SO to Anna") == "Karen Cannon (ceo)\nsaid SO to Anna"
    assert as_prose("please call karen cannon today") == "please call Karen Cannon today"
    assert as_prose("Please call karen cannon today") == "Please call karen cannon today"


def test_small_paragraphs_are_whole_paragraphs_of_some_words():
    text = "all small here\nand here\n\nOne Capital\nthen small words here\n\nok"
    assert [text[a:b] for a, b in small_paragraphs(text)] == ["all small here\nand here\n"]
    assert as_titles("mail anna.weiss@x.org about tovah") == "Mail anna.weiss@x.org about Tovah"
