"""Which values become questions, and which must not."""

import pytest

from spice_enterprise.release.facts import find_facts, sentences, values_of


def _found(text: str) -> list[tuple[str, str, str]]:
    return [(fact.kind, fact.answer_kind, fact.value) for fact in find_facts(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The harbour agreement starts on 3 May 2027 in the north.", ("date", "date", "3 May 2027")),
        ("The harbour agreement starts on May 3, 2027 at noon.", ("date", "date", "May 3, 2027")),
        ("The harbour agreement starts on 2027-05-03 at noon.", ("date", "date", "2027-05-03")),
        ("The lessee pays the lessor $1,250.50 every quarter.", ("amount", "number", "$1,250.50")),
        ("The lessee pays the lessor EUR 3.4 million every quarter.", ("amount", "number", "EUR 3.4 million")),
        ("Interest on late payments accrues at 7.5% per year.", ("percentage", "number", "7.5")),
        ("Either party may terminate with 45 days written notice.", ("quantity", "number", "45")),
        ("Please quote the order number PO-20331 on every invoice.", ("identifier", "text", "PO-20331")),
        ("The northern plant began making valves in 1987 already.", ("year", "number", "1987")),
        ("The northern plant was sold to Meridian Valve Works last spring.", ("name", "text", "Meridian Valve Works")),
        ("Delivery address: Quay 14 north", ("cell", "text", "Quay 14 north")),
        ("Total due: 1,200", ("cell", "number", "1,200")),
        ("Due date: 3 May 2027", ("cell", "date", "3 May 2027")),
    ],
)
def test_each_kind_is_found(text: str, expected: tuple[str, str, str]) -> None:
    assert _found(text) == [expected]


def test_the_question_is_the_sentence_with_a_blank() -> None:
    (fact,) = find_facts("Preface. Either party may terminate with 45 days written notice. The rest follows.")
    assert fact.question == "Either party may terminate with ____ days written notice."
    assert fact.form == "day"


@pytest.mark.parametrize(
    "text",
    [
        "Either party may terminate with 45 days notice. The supplier answers within 45 days of asking.",
        "It ends after 45 days unless both of the parties agree.",
        "After 45 days.",
        "either party may terminate with 45 days written notice.",
        "Either party may terminate with 45 days written notice",
        "The order of [PERSON_k3f9ab] is filed under [CASE_NUMBER_222222] in the cabinet.",
        "Contact person: [PERSON_k3f9ab]",
        "The reserve code is CANARY-0123456789abcdef for this whole file.",
        "The version 2.45.1 days are long gone for every customer.",
        "The lot 12 days and the 12 hours both count towards the total.",
        "",
        "   \n\n  ",
    ],
)
def test_what_is_no_usable_fact(text: str) -> None:
    assert _found(text) == []


def test_an_answer_told_by_the_rest_of_the_sentence_is_dropped() -> None:
    assert _found("The 2019 budget of the northern plant gives $2,019 to repairs.") == []


def test_a_value_at_the_end_of_a_sentence_counts_as_standing_there() -> None:
    text = "The northern plant was closed in 1987. Nobody else was asked about 1987."
    assert _found(text) == []


def test_sentences_keep_abbreviations_and_wrapped_lines_together() -> None:
    text = "Acme Inc. The seller pays\nall costs of shipping.\n\nNext part: begins.\n- 1 item"
    assert sentences(text) == ["Acme Inc. The seller pays all costs of shipping.", "Next part: begins.", "- 1 item"]


def test_distractor_values_may_repeat() -> None:
    text = "The first plant employs 45 people here. The second plant employs 45 people there."
    assert values_of(text) == [("quantity", "people", "45")] * 2
    assert find_facts(text) == []


def test_facts_do_not_print_text() -> None:
    (fact,) = find_facts("Either party may terminate with 45 days written notice.")
    assert "terminate" not in repr(fact)
    assert "45" not in repr(fact)


def test_hostile_text_is_read_in_time() -> None:
    for text in ("1," * 20_000, "A" * 40_000, "In 1 " * 8_000, "Key: " * 8_000, "[A" * 20_000):
        find_facts(text)
