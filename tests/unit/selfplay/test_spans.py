import pytest

from spice_enterprise.selfplay.spans import REACH, find_hints, sentence_around


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
        ("It was built by Hartmann Service in a barn near Brno.", ["Hartmann Service", "Brno"]),
        ("it grants the Distributor the Territory, and any Customer of such Territory too", []),
        ("It stood from 1931 to 1944, and by 1950 nobody knew.", ["1931", "1944", "1950"]),
        ("The office opens at 20:00 on weekdays.", ["20:00"]),
        ("It ends after thirty (30) days, or three (3) calendar months.", ["30", "3"]),
        ("It ends after thirty days or twenty-four months.", ["thirty days", "twenty-four months"]),
        ("It was founded in 1843 in a barn.", ["1843"]),
        ('This "Agreement" is made with Bergmann Guss (the "Supplier").', ["Bergmann Guss", "Supplier"]),
        (
            'as of today (the "Effective Date"), and together (collectively, the "Parties Involved")',
            ["Effective Date", "Parties Involved"],
        ),
        ("is owned by it (hereinafter referred to as \u201cLicensor\u201d)", ["Licensor"]),
        ('"Net Sales" shall mean all that was invoiced.', ["Net Sales"]),
        ("\u201cAffiliate\u201d means any company under common control.", ["Affiliate"]),
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


@pytest.mark.parametrize("text", ["Section 5 of this Agreement applies.", "The archive of 1900 contains descriptions of it."])
def test_a_verb_or_a_preposition_is_no_unit(text):
    assert not any(hint.opener.startswith("How many") for hint in find_hints(text))


def test_repeats_are_offered_once():
    assert values("It takes 45 days. Yes, 45 days.") == ["45 days"]


def test_yes_and_no_are_never_offered():
    assert values("Cost centre: 4471\nThe tank is insured: yes\nAlso insured: yes\nFire rating: B+") == ["4471", "B+"]


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
        ("It ends after thirty (30) days.", "How many days"),
        ("It ends after ninety (90) Days.", "How many days"),
        ("It ends after twelve months.", "How many months"),
        ("It was founded in 1843 in a barn.", "In what year"),
        ('It was sold by them (the "Seller").', "Which defined term"),
    ],
)
def test_openers_settle_what_is_asked_for(text, begins):
    assert find_hints(text)[0].opener == begins


def test_the_sentence_around_is_cut_at_words_where_there_is_no_end():
    text = "word " * 1_000 + "costs 12,480 euros " + "again " * 1_000
    (hint,) = find_hints(text)
    sentence = sentence_around(text, hint)
    assert len(sentence) <= 2 * REACH + len(hint.value)
    assert set(sentence.split()) == {"word", "costs", "12,480", "euros", "again"}


def test_a_sentence_shorter_than_the_reach_is_whole():
    text = "The fee is 12,480 euros."
    assert sentence_around(text, find_hints(text)[0]) == text


@pytest.mark.parametrize(
    "piece",
    [
        "A-",
        "1,111",
        "A",
        "[A_",
        "1",
        "(thirty (30) days ",
        '("A',
        "Aa ",
        "$1,",
        "A: b",
        "x ",
        '"A b" means ',
        "9 a ",
        "\u201cA",
        "A1-1",
    ],
)
def test_hostile_text_takes_linear_time(piece, is_linear):
    assert is_linear(find_hints, piece * (1_000_000 // len(piece)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "Die Frist betr\u00e4gt 45 Tage.",
        "\u901a\u77e5\u671f\u4e3a45\u5929",
        "\u0627\u0644\u0625\u0634\u0639\u0627\u0631 45",
    ],
)
def test_any_language_is_read_without_failing(text):
    for hint in find_hints(text):
        assert hint.value in sentence_around(text, hint)
