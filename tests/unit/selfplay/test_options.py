import pytest

from spice_enterprise.selfplay.answers import is_same, kind_of
from spice_enterprise.selfplay.options import arrange, distractors
from spice_enterprise.selfplay.spans import find_hints


@pytest.mark.parametrize(
    "answer", ["45 days", "12,480 euros", "1.5%", "$8,333", "14 March 2019", "29 February 2028", "0.5", "4471"]
)
def test_numbers_and_dates_always_have_three_wrong_neighbours(answer):
    kind = kind_of(answer)
    wrong = distractors(answer, kind, ())
    assert len(wrong) == 3
    every = (answer, *wrong)
    assert not any(is_same(a, b, kind) for i, a in enumerate(every) for b in every[:i])


def test_near_misses_keep_the_style():
    assert distractors("12,480 euros", "number", ()) == ("24,960 euros", "6,240 euros", "18,720 euros")


def test_zero_has_no_multiples():
    assert distractors("0 days", "number", ()) == ()


def test_values_of_the_same_unit_come_first():
    pool = find_hints("It takes 30 days, or 12 months, or 60 days, or 45 days.")
    assert distractors("45 days", "number", pool)[:2] == ("30 days", "60 days")


def test_names_need_other_names():
    pool = find_hints("We deal with Hartmann Service, Bergmann Guss and Nordlicht Logistik, never with P-204.")
    assert distractors("Brno", "text", pool) == ("Hartmann Service", "Bergmann Guss", "Nordlicht Logistik")
    assert distractors("Brno", "text", pool[:2]) == ()


def test_the_letter_follows_the_right_answer_and_letters_are_balanced():
    letters = []
    for seed in range(200):
        options, letter = arrange("45 days", ("30 days", "60 days", "90 days"), seed=seed, question="How long?")
        assert options["ABCD".index(letter)] == "45 days"
        letters.append(letter)
    assert all(30 <= letters.count(letter) <= 70 for letter in "ABCD")


def test_the_order_depends_on_seed_and_question_only():
    wrong = ("30 days", "60 days", "90 days")
    assert arrange("45 days", wrong, seed=1, question="How long?") == arrange("45 days", wrong, seed=1, question="how long")
    assert len({arrange("45 days", wrong, seed=1, question=f"Question {i}?") for i in range(20)}) > 1
