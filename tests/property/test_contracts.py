"""Reading proposals: nothing a model writes makes it fail, and what was written by the contract is read back."""

import json

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.selfplay.answers import is_same, kind_of
from spice_enterprise.selfplay.contracts import (
    CHOICE_FIELDS,
    FREE_FORM_FIELDS,
    asked_in,
    last_object,
    pair_in,
    read_format,
    read_full,
    split_options,
)

WORDS = st.text(alphabet="abcdefgh", min_size=1, max_size=8)
PIECES = st.sampled_from(
    [
        '{"',
        '"}',
        '"question":',
        '"answer": ',
        "{",
        "}",
        "\\",
        "\\frac",
        '"',
        ",",
        "A) ",
        "D) ",
        "\n",
        "Question:",
        "Answer:",
        "7",
        "é",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(PIECES | st.text(max_size=5), max_size=60).map("".join), st.sampled_from(["choice", "free_form"]), WORDS)
def test_no_text_makes_reading_fail(text, task_format, offered):
    for read in (read_full(text, task_format), read_full(text, task_format, offered=offered)):
        assert read.code in ("", "unparsable", "schema", "type")
        assert bool(read.question and read.answer) == (not read.code)
    read_format(text), pair_in(text), asked_in(text), split_options(text)


@given(st.dictionaries(st.sampled_from([*CHOICE_FIELDS, *FREE_FORM_FIELDS]), JSON), st.sampled_from(["choice", "free_form"]))
def test_no_object_makes_reading_fail(fields, task_format):
    full = dict.fromkeys([*CHOICE_FIELDS, *FREE_FORM_FIELDS], "said") | fields
    read = read_full(json.dumps(full), task_format)
    assert bool(read.question and read.answer) == (not read.code)


@given(WORDS, st.lists(WORDS, min_size=4, max_size=4, unique=True), st.sampled_from("ABCD"), st.text(max_size=20))
def test_a_choice_by_the_contract_is_read_back(stem, options, letter, thought):
    listed = "\n".join(f"{name}) {option}" for name, option in zip("ABCD", options, strict=True))
    fields = dict.fromkeys(CHOICE_FIELDS, "said")
    fields |= {"multiple_choice_question": f"{stem}?\n{listed}", "multiple_choice_correct": letter}
    read = read_full(thought.replace("{", "") + json.dumps(fields), "choice")
    if any(is_same(a, b, kind_of(a)) for i, a in enumerate(options) for b in options[:i]):
        assert read.code == "schema"
    else:
        assert (read.question, read.options, read.answer) == (f"{stem}?", tuple(options), options["ABCD".index(letter)])


@given(
    st.dictionaries(WORDS, st.text(alphabet='ab \n\t"{}[]:,é', max_size=9), min_size=1, max_size=5),
    st.text(alphabet='ab}" \n', max_size=20),
)
def test_the_last_object_is_found_whatever_stands_before_it(fields, thought):
    first = json.dumps({"first": "one"})
    assert last_object(thought + first + thought + json.dumps(fields)) == fields
