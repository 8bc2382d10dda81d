"""Properties of grading: reflexive, blind to what does not matter, and impossible to break."""

import re
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from spice_enterprise.records import Task
from spice_enterprise.selfplay.answers import (
    KindVerifier,
    extract_answer,
    is_same,
    kind_of,
    normalise,
    read_date,
    read_number,
)

WRITTEN = st.sampled_from(["number", "date", "text", "list", "boolean"])
KINDS = st.sampled_from(["choice", "number", "date", "text", "list", "boolean"])
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
VERIFIER = KindVerifier()


def task_of(answer, kind, options=()):
    return Task(
        chunk_id="c", rollout_id="r", question="q?", answer=answer, answer_kind=kind,
        task_format="choice" if options else "free_form", regime="open_book", options=options,
    )  # fmt: skip


@given(st.text(max_size=60), WRITTEN)
def test_reflexive(answer, kind):
    assert is_same(answer, answer, kind) is bool(answer.strip())


@given(st.text(max_size=60), st.text(max_size=60), WRITTEN)
def test_symmetric(a, b, kind):
    assert is_same(a, b, kind) is is_same(b, a, kind)


@given(st.text(max_size=200), st.text(max_size=200), KINDS)
def test_nothing_raises_and_empty_is_wrong(answer, given_text, kind):
    task = task_of(answer, kind)
    assert VERIFIER.grade(task, extract_answer(given_text, kind)) in (True, False)
    assert VERIFIER.grade(task, "") is False
    assert kind_of(answer) in ("number", "date", "boolean", "text")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=40, deadline=None)
def test_an_expression_equals_itself_and_nothing_breaks(text):
    assert is_same(text, text, "expression") is bool(text.strip())
    assert is_same(text, text + "+1", "expression") in (True, False)
    assert not is_same(text, "", "expression")


@given(st.integers(1, 999), st.integers(1, 999), st.sampled_from(["number", "expression"]))
@settings(max_examples=30, deadline=None)
def test_a_fraction_is_the_same_in_every_dress(above, below, kind):
    plain, latex, typed = f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}", rf"\boxed{{{above}/{below}}}"
    decimal = f"{above / below:.12f}"
    for dress in (plain, latex, typed, decimal):
        assert VERIFIER.grade(task_of(plain, kind), extract_answer(dress, kind)), dress
        assert not VERIFIER.grade(task_of(f"{above + 1}/{below}", kind), extract_answer(dress, kind)), dress


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_tolerance_is_symmetric_and_small(first, second):
    is_equal = is_same(str(first), str(second), "number")
    assert is_equal is is_same(str(second), str(first), "number")
    assert is_equal is (
        abs(first - second) * 10**6 <= max(abs(first), abs(second)) if has_many_decimals(first, second) else first == second
    )


def has_many_decimals(first, second):
    return (first * 100).denominator != 1 or (second * 100).denominator != 1


@given(
    st.lists(st.sampled_from(["Brno", "Graz", "45 days", "12,480", "3 May 2027", "0.5"]), min_size=1, max_size=6), st.randoms()
)
def test_the_order_and_the_separators_of_a_list_do_not_matter(items, random):
    shuffled = random.sample(items, len(items))
    for separator in (", ", "; ", " and ", "\n", " ; "):
        assert is_same("; ".join(items), separator.join(shuffled), "list")
        assert is_same("; ".join(items), separator.join([*shuffled, items[0]]), "list"), "a set"
        assert not is_same("; ".join(items), separator.join([*shuffled, "Linz"]), "list")


@given(ASCII)
def test_case_spaces_and_articles_do_not_matter(answer):
    if any(word not in ("a", "an", "the") for word in re.findall(r"[a-z0-9]+", normalise(answer))):
        assert is_same(answer, "  the " + answer.swapcase().replace(" ", "  ") + " ", "text")


@given(
    st.integers(-(10**12), 10**12), st.sampled_from(["{:,}", "{}", "{:,} euros", "€{:,}", "{}.0", r"\boxed{{{}}}", '"{}"', "{}."])
)
def test_a_number_is_the_same_in_every_dress(value, dress):
    given_text = extract_answer(dress.format(value).replace("€-", "-€") if value < 0 else dress.format(value), "number")
    if not given_text.startswith("-€"):
        assert VERIFIER.grade(task_of(str(value), "number"), given_text)
        assert not VERIFIER.grade(task_of(str(value + 1), "number"), given_text)


@given(st.integers(1, 999), st.integers(1, 999))
def test_fractions(above, below):
    assert read_number(f"{above}/{below}") == read_number(rf"\frac{{{above}}}{{{below}}}")


@given(st.dates(date(1900, 1, 1), date(2999, 12, 31)))
def test_a_date_is_the_same_in_every_dress(day):
    for dress in (
        f"{day:%Y-%m-%d}",
        f"{day.day} {day:%B} {day.year}",
        f"{day:%B} {day.day}, {day.year}",
        f"{day.day} {day:%b} {day.year}",
    ):
        assert read_date(dress) == day
        assert is_same(f"{day:%Y-%m-%d}", dress, "date")
    numeric = read_date(f"{day:%d.%m.%Y}")
    assert numeric == day if day.day > 12 or day.day == day.month else numeric is None


@given(
    st.permutations(["30 days", "45 days", "60 days", "90 days"]),
    st.sampled_from(["{}", "({})", "{}.", "{})", r"\boxed{{{}}}", " {}\n"]),
)
def test_relabelling_options_changes_nothing(options, dress):
    letter = "ABCD"[options.index("45 days")]
    task = task_of(letter, "choice", tuple(options))
    for other in "ABCD":
        assert VERIFIER.grade(task, extract_answer(dress.format(other), "choice")) is (other == letter)
