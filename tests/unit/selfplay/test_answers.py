from dataclasses import replace
from datetime import date
from fractions import Fraction

import pytest

from spice_enterprise.selfplay.answers import (
    KindVerifier,
    extract_answer,
    is_same,
    kind_of,
    last_box,
    normalise,
    read_date,
    read_number,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 45 days", "45 days"),
        ("45 days.\nThe text says so.", "45 days"),
        ("Let me think: 30?\nAnswer: 45 days\n", "45 days"),
        ("Answer: 3\nAnswer: 4", "4"),
        ("The answer is: 'Brno'.", "Brno"),
        (r"so \boxed{12} or rather \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"$\boxed{\text{Brno}}$", "Brno"),
        ("\n\n  \n", ""),
        ("", ""),
        ("**P-204**", "P-204"),
        ("Thinking. " * 2_000 + r"\boxed{Brno}", "Brno"),
        ("Thinking.\n" * 2_000 + "Answer: Brno", "Brno"),
        ("Brno\n" + "Thinking. " * 20_000, "Brno"),
    ],
)
def test_extraction(text, answer):
    assert extract_answer(text, "text") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{f'(x)^*}", "f'(x)^*"),
        ("Answer: $x+1$.", "$x+1$"),
        ("`2*x**2`", "2*x**2"),
        (r"\boxed{}", ""),
    ],
)
def test_extraction_of_expressions_keeps_marks_that_mean_something(text, answer):
    assert extract_answer(text, "expression") == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [(" B", "B"), ("(b)", "B"), ("B.", "B"), ("B) 45 days", "B) 45 days"), (r"\boxed{B}", "B"), ("Boron", "Boron")],
)
def test_extraction_of_letters(text, letter):
    assert extract_answer(text, "choice") == letter


def test_boxes_nest_and_balance():
    assert last_box(r"\boxed{a{b}c}") == "a{b}c"
    assert last_box(r"\boxed{\}}") == r"\}"
    assert last_box(r"\boxed{open") is None
    assert last_box("no box } at all {") is None


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("12,480", 12480, ""),
        ("12,480 euros", 12480, "eur"),
        ("€12,480.50", Fraction("12480.5"), "eur"),
        ("EUR 12.480,50", Fraction("12480.5"), "eur"),
        ("12 480", 12480, ""),
        ("1.5%", Fraction("1.5"), "%"),
        (r"1.5\%", Fraction("1.5"), "%"),
        ("1.5 percent", Fraction("1.5"), "%"),
        ("1/2", Fraction(1, 2), ""),
        (r"\frac{1}{2}", Fraction(1, 2), ""),
        (".5", Fraction(1, 2), ""),
        ("0,5", Fraction(1, 2), ""),
        ("-7", -7, ""),
        ("2.4 million euros", 2_400_000, "eur"),
        ("45 days", 45, "day"),
        ("10 working days", 10, "working day"),
        ("Ten working days", 10, "working day"),
        ("thirty (30) days", 30, "day"),
        ("ninety-five percent", 95, "%"),
        ("1.5e-3", Fraction("0.0015"), ""),
        ("1e+16", 10**16, ""),
        ("2.5E3 m", 2500, "m"),
        (r"6.02 \times 10^{23}", 602 * 10**21, ""),
        ("3 x 10^-2", Fraction(3, 100), ""),
    ],
)
def test_numbers(text, value, unit):
    assert read_number(text) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Brno",
        "45 or 30 days",
        "ten or twelve days",
        "thirty (31) days",
        "Three Rivers Stadium",
        "two-thirds",
        "ten-five",
        "P-204",
        "1/0",
        "1.2.3",
        "9" * 60,
        "the fee is 45",
        "1 a b c d e",
        "²",
        "12E4",
        "E-204",
        "1.5e-333",
        "٣٣x٣",
        "1,2,3",
    ],
)
def test_not_numbers(text):
    assert read_number(text) is None


@pytest.mark.parametrize("text", ["2027-05-03", "3 May 2027", "3rd of May, 2027", "May 3, 2027", "may 3rd 2027", "3. May 2027"])
def test_dates(text):
    assert read_date(text) == date(2027, 5, 3)


def test_numeric_dates_are_read_only_when_they_have_one_reading():
    assert read_date("13.05.2027") == date(2027, 5, 13)
    assert read_date("05/13/2027") == date(2027, 5, 13)
    assert read_date("05.05.2027") == date(2027, 5, 5)
    assert read_date("03.05.2027") is None
    assert read_date("31.02.2027") is None
    assert is_same("03.05.2027", "03.05.2027", "date")
    assert not is_same("03.05.2027", "3 May 2027", "date")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("14 March 2019", "date"),
        ("45 days", "number"),
        ("P-204", "text"),
        ("Brno", "text"),
        ("Yes.", "boolean"),
        ("FALSE", "boolean"),
        ("Norway", "text"),
    ],
)
def test_kinds(answer, kind):
    assert kind_of(answer) == kind


@pytest.mark.parametrize(
    ("kind", "expected", "given", "right"),
    [
        ("number", "45 days", "45", True),
        ("number", "45", "45 days", True),
        ("number", "45 days", "45 months", False),
        ("number", "12,480 euros", "€12480", True),
        ("number", "12,480 euros", "12,480 euros per month", True),
        ("number", "12,480 euros", "$12,480", False),
        ("number", "1/2", "0.5", True),
        ("number", "0.5", r"\frac{1}{2}", True),
        ("number", "1.5%", "1.5", True),
        ("number", "-5", "5", False),
        ("number", "45 days", "The notice period is 45 days", False),
        ("number", "45", "45 days after receipt of the invoice", True),
        ("number", "45 days after receipt", "45 days", True),
        ("number", "45 days before closing", "45 days after closing", False),
        ("number", "45 days", "45 days after 30 days", False),
        ("number", "45 days", "45 days after ten days", False),
        ("number", "45 days", "45 months after receipt", False),
        ("number", "45 days", "within 45 days", False),
        ("number", "3", "3 of 4", False),
        ("number", "thirty days", "30 days", True),
        ("number", "30", "thirty (30) days", True),
        ("number", "30 days", "Forty days", False),
        ("number", "25", "twenty-five", True),
        ("number", "40 %", "40% of the delegates", True),
        ("number", "45 days", "45 days or 30 days", False),
        ("date", "14 March 2019", "2019-03-14", True),
        ("date", "14 March 2019", "March 14, 2019", True),
        ("date", "14 March 2019", "14 March 2020", False),
        ("text", "Hartmann Service", "the hartmann  service.", True),
        ("text", "Hartmann Service", "Hartmann", False),
        ("text", "3.5", "35", False),
        ("text", ">5", "<5", False),
        ("text", ">5", "5", False),
        ("text", "> 5", ">5", True),
        ("text", "≥5", ">= 5", True),
        ("text", "<5 bar", "less than 5 bar", True),
        ("text", "from -3", "from 3", False),
        ("text", "from -3", "from \u22123", True),
        ("text", "P-204", "P 204", True),
        ("text", "10-20", "10 - 20", True),
        ("text", "C++", "C#", False),
        ("text", "C++", "C", False),
        ("text", "C++", "C+", False),
        ("text", "C#", "C", False),
        ("text", "C++", "(c++)", True),
        ("text", "BBB-", "BBB", False),
        ("text", "BBB-", "BBB+", False),
        ("text", "well-known", "well known", True),
        ("number", ">5", "<5", False),
        ("list", "C++, C#", "C, C#", False),
        ("text", "", "", False),
        ("text", "x", " ", False),
        ("number", "12,480.50", "12,480.51", False),
        ("number", "12,480.5 euros", "12,480.51", False),
        ("number", "2.5", "2.49", False),
        ("number", "2.5", "2.500", True),
        ("number", "1/3", "0.333333", True),
        ("number", "1/3", "0.3333", False),
        ("number", "3.14159", "3.141593", True),
        ("number", "3.14159", "3.141596", False),
        ("number", "1000000000000", "1000000000001", False),
        ("number", "0.0015", "1.5e-3", True),
        ("boolean", "yes", "True.", True),
        ("boolean", "false", "No", True),
        ("boolean", "no", "yes", False),
        ("boolean", "yes", "Yes, it is", False),
        ("list", "Brno, Graz and Linz", "linz; Graz; Brno", True),
        ("list", "Brno, Graz, and Linz", "Brno\nGraz\nLinz", True),
        ("list", "Brno, Graz", "Brno", False),
        ("list", "Brno", "Brno, Graz", False),
        ("list", "Brno, Graz", "Brno, Graz, Graz", True),
        ("list", "12,480 and 13,000", "13000, 12480", True),
        ("list", "1, 2, 3", r"\{3, 2, 1\}", True),
        ("list", "1,2,3", "[3,2,1]", True),
        ("list", "-1, 2", "1, 2", False),
        ("list", "1,5; 2", "2; 1.5", True),
        ("list", "45 days, 14 March 2019", "2019-03-14, 45", True),
        ("list", '"x y", "z"', "z, x y", True),
        ("list", ", ,", "Brno", False),
        ("expression", "(x+1)^2", "x^2 + 2x + 1", True),
        ("expression", "(x+1)^2", "x^2 + 2x", False),
        ("expression", "2*x**2", r"2x^{2}", True),
        ("expression", r"\frac{1}{2}", "0.5", True),
        ("expression", "1/2", r"\dfrac{1}{2}", True),
        ("expression", "sqrt(8)", r"2\sqrt{2}", True),
        ("expression", r"\(x+1\)", "$1+x$", True),
        ("expression", "x^10", "x^{10}", True),
        ("expression", "3 m", "3 km", False),
        ("expression", "f(x)", "f'(x)", False),
        ("expression", "1/0", "2/0", False),
        ("expression", "x +", "x+", True),
        ("expression", "x +", "x -", False),
    ],
)
def test_grading_free_form(world, kind, expected, given, right):
    assert KindVerifier().grade(world.task(expected, kind), given) is right


def test_an_alias_is_as_right_as_the_answer(world):
    task = replace(world.task("Hartmann Service", "text"), aliases=("HS", "Hartmann"))
    assert [KindVerifier().grade(task, given) for given in ("hs", "Hartmann", "Hartmann Service", "Service", "")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "right"),
    [("B", True), ("(B)", True), ("B.", True), ("b", True), (r"\boxed{B}", True), ("B) 45 days", True), ("45 days", True),
     ("Boron", False), ("A", False), ("", False), ("B or C", False), ("30 days", False)],
)  # fmt: skip
def test_grading_choice(world, given, right):
    task = world.task("B", "choice", options=("30 days", "45 days", "60 days", "90 days"))
    assert KindVerifier().grade(task, extract_answer(given, "choice")) is right


@pytest.mark.parametrize(
    ("given", "right"),
    [("A. Smith", True), ("a. smith", True), ("C", True), ("(C)", True), ("C) A. Smith", True), ("A. Smithson", False),
     ("A", False), ("A)", False), ("B. Jones", False), ("A) B. Jones", False)],
)  # fmt: skip
def test_an_option_that_begins_like_a_letter_is_matched_word_for_word_first(world, given, right):
    task = world.task("C", "choice", options=("B. Jones", "D. Brown", "A. Smith", "C. White"))
    assert KindVerifier().grade(task, extract_answer(given, "choice")) is right


def test_options_that_differ_by_a_sign_are_two(world):
    task = world.task("A", "choice", options=("below <5", "below >5", "C++ 5", "C# 5"))
    assert [KindVerifier().grade(task, option) for option in task.options] == [True, False, False, False]
    assert not KindVerifier().grade(task, "below 5")


def test_signs_do_not_make_two_questions_different():
    assert normalise("Is it C++?") == normalise("is it C")


def test_the_verdict_does_not_depend_on_the_order_of_the_options(world):
    for place, letter in enumerate("ABCD"):
        options = ["30 days", "60 days", "90 days"]
        options.insert(place, "45 days")
        task = world.task(letter, "choice", options=tuple(options))
        assert KindVerifier().grade(task, letter)
        assert KindVerifier().grade(task, "45 days")
        assert not KindVerifier().grade(task, "30 days")


def test_what_is_only_articles_and_marks_is_compared_as_it_stands():
    assert normalise("The") == "the"
    assert is_same("A", "a", "text")
    assert not is_same("A", "the", "text")


@pytest.mark.parametrize(
    "hostile",
    [r"\boxed{" * 50_000, "{" * 200_000, "1," * 200_000, "Answer:" * 50_000, "1 " * 200_000, "\\" * 200_000, "$" * 200_000,
     "9" * 200_000,
     "\u0660" * 10_000, "[" * 200_000, "a'" * 200_000, "\x00\ud800" * 1_000],
)  # fmt: skip
def test_hostile_answers_are_wrong_and_quick(world, hostile, is_linear):
    for kind in ("number", "date", "text", "choice", "boolean", "list", "expression"):
        options = ("x", "y", "z", "w") if kind == "choice" else ()
        task = world.task("A" if options else "45 days", kind, options=options)
        assert not KindVerifier().grade(task, extract_answer(hostile, kind))
        assert not KindVerifier().grade(task, hostile)
        assert is_linear(lambda text, task=task, kind=kind: KindVerifier().grade(task, extract_answer(text, kind)), hostile)
