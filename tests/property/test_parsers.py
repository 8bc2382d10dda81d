"""Properties of the pure parts of reading."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from spice_enterprise.corpus.parsers import normalise, parse
from spice_enterprise.corpus.plain_text import joined_lines
from spice_enterprise.corpus.tables import rows_as_text
from spice_enterprise.errors import ParseError

CELLS = st.text(alphabet="abcdeXYZ019 .", max_size=12)
SUFFIXES = st.sampled_from([".txt", ".csv", ".html", ".eml", ".xml", ".pdf", ".docx", ".xlsx", ".pptx", ".msg", ".md"])


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once


@given(st.text())
def test_normalised_text_holds_nothing_that_cannot_be_seen(text):
    unseen = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert all(char in "\n\t" or unicodedata.category(char) not in unseen for char in normalise(text))


@given(st.lists(st.lists(CELLS, max_size=5), max_size=6))
def test_no_cell_of_a_table_is_lost(rows):
    text = "\n".join(rows_as_text(rows))
    for row in rows[1:]:
        for cell in row:
            assert " ".join(cell.split()) in text or " ".join(cell.split()).rstrip(":") in text


@given(st.lists(st.text(alphabet="ab c.-1", max_size=60), max_size=12))
def test_joining_lines_keeps_every_word_in_order(lines):
    clean = [line.strip() for line in lines]
    assert " ".join(joined_lines(clean)).split() == " ".join(clean).split()


@settings(max_examples=200)
@given(st.binary(max_size=400), SUFFIXES)
def test_any_bytes_are_text_or_an_error_with_a_code(data, suffix):
    try:
        parsed = parse(data, suffix)
    except ParseError as error:
        code = error.code
    else:
        code = ""
    assert code.startswith("E_") or any(page.strip() for page in parsed.pages)
