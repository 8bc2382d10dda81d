import json

import pytest

from spice_enterprise.selfplay.contracts import (
    CHOICE_FIELDS,
    FREE_FORM_FIELDS,
    MAX_CHARS,
    asked_in,
    last_object,
    pair_in,
    read_format,
    read_full,
    split_options,
    typed,
)

STEM = "A fee of 100 euros a month rises by a tenth. What is it then?"
ASKED = f"{STEM}\nA) 110 euros\nB) 101 euros\nC) 90 euros\nD) 200 euros"


def free_form(**changes):
    fields = dict.fromkeys(FREE_FORM_FIELDS, "said")
    fields |= {"question": "How many euros is the fee?", "answer": "110", "answer_type": "Integer", "relevant_quotes": ["a fee"]}
    return json.dumps({name: value for name, value in {**fields, **changes}.items() if value is not ...})


def choice(**changes):
    fields = dict.fromkeys(CHOICE_FIELDS, "said")
    fields |= {"multiple_choice_question": ASKED, "multiple_choice_correct": "A", "answer_quote": ["a fee", "a tenth"]}
    return json.dumps({name: value for name, value in {**fields, **changes}.items() if value is not ...})


def test_a_free_form_object_is_read():
    read = read_full(free_form(), "free_form")
    assert (read.question, read.answer, read.answer_kind, read.code) == ("How many euros is the fee?", "110", "number", "")
    assert (read.quotes, read.options) == (("a fee",), ())


def test_a_choice_is_read_as_stem_options_and_the_text_of_the_right_one():
    read = read_full(choice(), "choice")
    assert read.question == STEM
    assert read.options == ("110 euros", "101 euros", "90 euros", "200 euros")
    assert (read.answer, read.answer_kind, read.quotes) == ("110 euros", "number", ("a fee", "a tenth"))


@pytest.mark.parametrize("name", FREE_FORM_FIELDS)
def test_every_field_of_the_free_form_is_needed(name):
    assert read_full(free_form(**{name: ...}), "free_form").code == "schema"
    assert read_full(free_form(**{name: None}), "free_form").code == "schema"


@pytest.mark.parametrize("name", CHOICE_FIELDS)
def test_every_field_of_the_choice_is_needed(name):
    assert read_full(choice(**{name: ...}), "choice").code == "schema"


@pytest.mark.parametrize(
    "changes",
    [
        {"question": ""},
        {"question": 7},
        {"question": ["How?"]},
        {"relevant_quotes": []},
        {"relevant_quotes": {"a": "b"}},
        {"relevant_quotes": [1]},
        {"answer": ["110"]},
        {"answer": {"value": 110}},
        {"answer_type": 3},
    ],
)
def test_a_free_form_of_the_wrong_shape_is_refused(changes):
    assert read_full(free_form(**changes), "free_form").code == "schema"


@pytest.mark.parametrize(
    "changes",
    [
        {"multiple_choice_question": STEM},
        {"multiple_choice_question": "A) 1\nB) 2\nC) 3\nD) 4"},
        {"multiple_choice_question": ASKED + "\nE) 300 euros"},
        {"multiple_choice_question": ASKED.replace("D) 200 euros", "")},
        {"multiple_choice_question": ASKED.replace("B) 101 euros", "B) 110 Euros")},
        {"multiple_choice_question": ASKED.replace("D) 200 euros", "D) ")},
        {"multiple_choice_correct": "E"},
        {"multiple_choice_correct": "A and B"},
        {"multiple_choice_correct": ""},
        {"multiple_choice_correct": 0},
        {"answer_quote": ""},
    ],
)
def test_a_choice_without_four_options_and_one_letter_is_refused(changes):
    assert read_full(choice(**changes), "choice").code == "schema"


@pytest.mark.parametrize(
    ("answer", "declared", "kind"),
    [
        ("45", "Integer", "number"),
        ("1,200", "integer", "number"),
        ("45.5", "Integer", None),
        ("45 days", "Integer", None),
        ("forty", "Integer", "number"),
        ("many", "Integer", None),
        ("45.5", "Float", "number"),
        ("45", "Float", "number"),
        ("3x + 2", "Expression", "expression"),
        (r"\frac{1}{2}", "Expression", "expression"),
        ("$$", "Expression", None),
        ("", "Expression", None),
        ("Bergmann Guss", "String", "text"),
        ("14 March 2019", "String", "date"),
        ("Yes", "String", "boolean"),
        ("one two three four", "String", None),
        ("...", "String", None),
        ("true", "Boolean", None),
        ("[1, 2]", "List", None),
        ("45", "", None),
    ],
)
def test_an_answer_is_of_its_declared_type(answer, declared, kind):
    assert typed(answer, declared) == kind
    assert read_full(free_form(answer=answer, answer_type=declared), "free_form").code == ("" if kind else "type")


def test_numbers_are_taken_as_they_were_written():
    assert read_full(free_form(answer=45), "free_form").answer == "45"
    assert read_full(free_form(answer=0.10, answer_type="Float"), "free_form").answer == "0.1"
    assert read_full(free_form(answer=True), "free_form").code == "type"
    assert last_object('{"a": 1e999, "b": ' + "9" * 10_000 + "}")["a"] == "1e999"


def test_what_surrounds_the_object_is_let_pass():
    first, last = (f"```json\n{free_form(answer=answer)}\n```" for answer in (1, 2))
    said = f'I think {{a}} of "it".\n{first}\nNo: {{"x" }} Better:\n{last} Done.'
    assert read_full(said, "free_form").answer == "2"
    assert read_full("Thinking. " * 10_000 + said, "free_form").answer == "2"
    assert read_full(free_form().replace("a fee", "a\nfee"), "free_form").quotes == ("a\nfee",)


def test_objects_inside_an_object_do_not_count():
    assert last_object('{"a": {"b": 1}}') == {"a": {"b": "1"}}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        (r"\sqrt{2}", r"\sqrt{2}"),
        (r"\boxed{3}", r"\boxed{3}"),
        (r"2 \times 3", r"2 \times 3"),
        (r"one\ntwo", "one\ntwo"),
        (r"\u00e9\/", "\u00e9/"),
        ("\\\\", "\\"),
    ],
)
def test_a_command_of_latex_is_no_escape(written, meant):
    assert last_object(f'{{"a": "{written}"}}') == {"a": meant}


@pytest.mark.parametrize("text", ["", "{", "}", "no object", '{"a": 1', '{"a": NaN}', "[1, 2]", '"{}"', "{}"])
def test_text_without_an_object_is_unparsable(text):
    assert last_object(text) is None
    assert read_full(text, "free_form").code == "unparsable"
    assert read_full(text, "choice").code == "unparsable"


@pytest.mark.parametrize(
    "piece",
    ['{"', '{"a":', '{"a":[', "{", "}", '"', "\\", '{"a": "', "A) ", "\\frac", "[" * 9 + "{", 'Question: {"a": 1} Answer:'],
)
def test_hostile_text_is_read_in_linear_time(piece, is_linear):
    def read(text):
        for task_format in ("free_form", "choice"):
            read_full(text, task_format)
        read_format(text), pair_in(text), split_options(text[:MAX_CHARS])

    assert is_linear(read, piece * (1_000_000 // len(piece)))


def test_an_offered_answer_is_the_answer():
    given = {"offered": "110 euros", "offered_kind": "number"}
    read = read_full(free_form(), "free_form", **given)
    assert (read.answer, read.answer_kind, read.code) == ("110 euros", "number", "")
    assert read_full(free_form(answer="111"), "free_form", **given).code == "schema"
    assert read_full(choice(), "choice", **given).options[0] == read_full(choice(), "choice", **given).answer == "110 euros"
    assert read_full(choice(multiple_choice_correct="B"), "choice", **given).code == "schema"
    assert read_full("nothing", "choice", **given).code == "unparsable"


@pytest.mark.parametrize(
    ("asked", "stem", "options"),
    [
        ("Which? A) x B) y C) z D) w", "Which?", ("x", "y", "z", "w")),
        ("Which?\n(A) x;\n(B) y;\n(C) z;\n(D) w", "Which?", ("x", "y", "z", "w")),
        ("Which?\nA. x 1\nB. y\nC. z\nD. w", "Which?", ("x 1", "y", "z", "w")),
        ("Is plan A) or plan B) better?\nA) x\nB) y\nC) z\nD) w", "Is plan A) or plan B) better?", ("x", "y", "z", "w")),
        ("Which? A) x C) z B) y D) w", "Which? A) x C) z B) y D) w", ()),
        ("Which?", "Which?", ()),
    ],
)
def test_options_are_split_from_the_stem(asked, stem, options):
    assert split_options(asked) == (stem, options)


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ('{"suitable_for_mcq": true, "suitable_for_free_form": false, "best_answer_type": null, "reason": "x"}', "choice"),
        ('Sure: {"suitable_for_mcq": false, "suitable_for_free_form": true}', "free_form"),
        ('{"suitable_for_mcq": true, "suitable_for_free_form": true}', None),
        ('{"suitable_for_mcq": "true", "suitable_for_free_form": false}', None),
        ('{"suitable_for_mcq": true}', None),
        ("multiple choice", None),
        ("", None),
    ],
)
def test_the_chosen_format_is_read(said, chosen):
    assert read_format(said) == chosen


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Question: How long is it?", "How long is it?"),
        ("Question: How long is it? Answer: 3\nmore", "How long is it?"),
        ("Question: Question: How long?", "How long?"),
        ("Question: How  long", "How long"),
        ("Question: How long Answer: 3", "How long"),
        ("Answer: 3", ""),
        ("How long?", ""),
    ],
)
def test_the_question_of_a_short_contract(text, question):
    assert asked_in(text) == question


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ('Answer: "45 days"\nQuestion: How long is it?', ("How long is it?", "45 days")),
        ("Question: How long?\nAnswer: 45 days.", ("How long?", "45 days")),
        ("Question: How long? Answer: 45 days\nQuestion: More?", ("How long?", "45 days")),
        ("Answer: 45 days Question: How long?", ("How long?", "45 days")),
        ("Question: How long?", ("How long?", "")),
        ("Answer:\nQuestion:", ("", "")),
        ("", ("", "")),
    ],
)
def test_the_pair_of_a_short_contract(text, pair):
    assert pair_in(text) == pair
