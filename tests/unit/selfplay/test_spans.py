import pytest

from spice_enterprise.selfplay.spans import find_hints, opener, sentence_around


def values(text):
    return [hint.value for hint in find_hints(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The notice period is 45 days and the fee is 12,480 euros.", ["45 days", "12,480 euros"]),
        ("Availability is 99.7% from 14 March 2019 on.", ["99.7%", "14 March 2019"]),
        ("Due 2027-05-03, costs $8,333 per month.", ["2027-05-03", "$8,333"]),
        ("The pump P-204 and ISO 9001 apply.", ["P-204", "ISO 9001"]),
        ("Cost centre: 4471\nFire rating: B+", ["4471", "B+"]),
        ("It was built by Hartmann Service in the Brno workshop.", ["Hartmann Service", "Brno"]),
        ("The office opens at 20:00 on weekdays.", ["20:00"]),
        ("nothing here at all", []),
    ],
)
def test_values_that_could_be_answers(text, found):
    assert values(text) == found


def test_hints_stand_verbatim_at_their_offset(world):
    for hint in find_hints(world.passage):
        assert world.passage[hint.start : hint.start + len(hint.value)] == hint.value


def test_placeholders_are_never_answers():
    assert values("Contact: [PERSON_k3f9]. Mail [EMAIL_ADDRESS_x9]. Signed in [LOCATION].") == []


def test_a_value_without_a_sentence_around_it_is_not_offered():
    assert values("Subject: Archive\n\nRating: B+\n\nHM-4471") == []


def test_repeats_are_offered_once():
    assert values("It takes 45 days. Yes, 45 days.") == ["45 days"]


def test_section_words_and_months_are_no_names():
    assert values("as stated in the Agreement, the Company and Section apply in March") == []


def test_the_sentence_around_a_value(world):
    hint = next(h for h in find_hints(world.passage) if h.value == "12,480 euros")
    assert sentence_around(world.passage, hint) == "The monthly fee is 12,480 euros and is invoiced in advance."
    last = next(h for h in find_hints(world.passage) if h.value == "P-204")
    assert sentence_around(world.passage, last) == "Pump P-204 was commissioned on 14 March 2019 by Hartmann Service."


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("It takes 45 days.", "How many days"),
        ("It costs 12,480 euros.", "How much"),
        ("It is 1.5% of it.", "What percentage"),
        ("It began on 14 March 2019.", "When"),
        ("It closes at 20:00 sharp.", "At what time"),
        ("It was done by Hartmann Service.", "What is the name of the"),
        ("It is pump P-204 there.", "What is the"),
    ],
)
def test_openers_settle_what_is_asked_for(text, begins):
    assert opener(find_hints(text)[0]) == begins
