from spice_enterprise.corpus.chunking import cut_document, page_of
from spice_enterprise.corpus.scrub import excerpt, redactions_in


def words(text):
    return len(text.split())


def scrubbed(text):
    return excerpt(text, 0, len(text))


def cut(text, most=20, least=5):
    protected = [(r.start, r.end) for r in redactions_in(scrubbed(text))]
    return cut_document(scrubbed(text), words, most=most, least=least, protected=protected)


def test_a_short_document_is_one_chunk():
    (only,) = cut("  One sentence here.  ")
    assert (only.text, only.token_count, only.section) == ("One sentence here.", 3, None)


def test_sections_are_the_first_choice_then_paragraphs_then_sentences():
    text = "# First\n\n" + "a " * 9 + "b.\n\n# Second\n\n" + "c " * 9 + "d."
    first, second = cut(text)
    assert first.text.startswith("# First")
    assert second.text.startswith("# Second")
    assert (first.section, second.section) == ("First", "Second")
    paragraphs = cut("a " * 11 + "b.\n\n" + "c " * 5 + "d. E " + "e " * 9 + "f.")
    assert paragraphs[0].text.endswith("b.")
    sentences = cut("A " * 11 + "b. " + "C " * 11 + "d.")
    assert [c.text[-2:] for c in sentences] == ["b.", "d."]


def test_abbreviations_and_numbers_do_not_end_a_sentence():
    text = "We met Dr. Weiss of Acme Inc. Berlin at No. 12 and J. Doe. " + "Then " * 12 + "end."
    assert cut(text)[0].text.endswith("Doe.")


def test_a_long_sentence_is_cut_between_words_and_never_in_a_placeholder():
    text = "word " * 30 + "[PERSON_abcdef] " + "word " * 30
    cuts = cut(text)
    assert all(c.token_count <= 20 for c in cuts)
    assert sum(c.text.count("[PERSON_abcdef]") for c in cuts) == 1


def test_a_word_longer_than_a_chunk_is_cut_too():
    cuts = cut_document(scrubbed("x" * 500), len, most=100, least=5, protected=[])
    assert [c.token_count <= 100 for c in cuts] == [True] * len(cuts)
    assert "".join(c.text for c in cuts) == "x" * 500


def test_a_short_tail_is_joined_or_evened_out():
    joined = cut("A " * 11 + "b. C d.", most=20)
    assert len(joined) == 1
    evened = cut(". ".join(["Aa bb cc dd"] * 5) + ". E f.", most=20, least=5)
    assert [c.token_count >= 5 for c in evened] == [True, True]


def test_no_text_no_chunks():
    assert cut(" \n\n ") == []


def test_pages():
    assert page_of(3, (0,)) is None
    assert [page_of(i, (0, 10, 20)) for i in (0, 9, 10, 25)] == [1, 1, 2, 3]


def test_a_border_is_not_worth_a_chunk_that_is_not_half_full():
    text = "# A\n\na b c.\n\n# B\n\n" + "D " * 9 + "e. " + "F " * 9 + "g."
    assert cut(text)[0].token_count >= 10


def test_nothing_that_was_put_in_is_cut_whatever_it_looks_like():
    name = "Ilsa Maren Brandtner Oakes"
    text = "word " * 18 + name + " word" * 30
    start = text.index(name)
    cuts = cut_document(scrubbed(text), words, most=20, least=2, protected=[(start, start + len(name))])
    assert sum(name in c.text for c in cuts) == 1
    assert all(c.token_count <= 20 for c in cuts)


def test_a_section_is_named_with_the_ones_it_stands_in():
    body = "\n\n" + "Word " * 12 + "end.\n\n"
    text = f"# Lease{body}## Rent{body}### Due dates{body}## Notice{body}"
    assert [c.section for c in cut(text, most=16, least=2)] == [
        "Lease",
        "Lease > Rent",
        "Lease > Rent > Due dates",
        "Lease > Notice",
    ]
