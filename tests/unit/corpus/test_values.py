import pytest

from spice_enterprise.corpus.people import linked
from spice_enterprise.corpus.values import Entry, ValueIndex, keyed_spelling

KEY = b"k" * 32


def index(*values: tuple[str, str]) -> ValueIndex:
    made = ValueIndex(KEY)
    made.add(e for value, label in values if (e := made.entry(value, label, f"[{label}_aaaaaaaaaaaaaaaa]")))
    return made


def read(made: ValueIndex, text: str) -> list[str]:
    return [text[r.start : r.end] for r in made.find(text)]


@pytest.mark.parametrize(
    ("value", "label", "text", "expected"),
    [
        ("Ilsa Brandtner", "PERSON", "then Ilsa  Brandtner left", ["Ilsa  Brandtner"]),
        ("Ilsa Brandtner", "PERSON", "ILSA BRANDTNER", ["ILSA BRANDTNER"]),
        ("Ilsa Brandtner", "PERSON", "as ilsa brandtner wrote", ["ilsa brandtner"]),
        ("Ilsa Brandtner", "PERSON", "Ilsa said that Brandtner", []),
        ("Ilsa Brandtner", "PERSON", "Ilsa brandtner", []),
        ("ilsa@b-corp.example", "EMAIL", "to ILSA@B-Corp.example.", ["ILSA@B-Corp.example"]),
        ("DE89 3704 0044", "IBAN", "DE89-3704-0044", ["DE89-3704-0044"]),
        ("E-90184", "EMPLOYEE_ID", "id E90184 or E-90184", ["E-90184"]),
        ("Weststadt Harbour Works", "ORGANIZATION", "of Weststadt Harbour Works Ltd", ["Weststadt Harbour Works"]),
    ],
)
def test_a_value_is_read_whatever_its_case_spacing_and_punctuation(value: str, label: str, text: str, expected: list[str]):
    assert read(index((value, label)), text) == expected


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("Reading", "LOCATION"),
        ("Ilsa", "PERSON"),
        ("the Company", "ORGANIZATION"),
        ("2020", "CASE_NUMBER"),
        ("3 May 2020", "DATE"),
    ],
)
def test_what_is_ordinary_elsewhere_is_not_looked_for(value: str, label: str):
    assert ValueIndex(KEY).entry(value, label, "[X]") is None


def test_the_longest_value_wins():
    made = index(("Anna Bergdahl", "PERSON"), ("Anna Bergdahl Moreno", "PERSON"))
    assert read(made, "by Anna Bergdahl Moreno, then Anna Bergdahl.") == ["Anna Bergdahl Moreno", "Anna Bergdahl"]


def test_an_entry_holds_no_value_and_needs_the_key():
    entry = index_entry = ValueIndex(KEY).entry("Ilsa Brandtner", "PERSON", "[PERSON_aaaaaaaaaaaaaaaa]")
    assert isinstance(entry, Entry)
    assert "lsa" not in repr(entry).casefold().replace("placeholder", "")
    other = ValueIndex(b"o" * 32)
    other.add([index_entry])
    assert read(other, "Ilsa Brandtner") == []


def test_the_first_placeholder_of_a_value_stays():
    made = ValueIndex(KEY)
    made.add([made.entry("Ilsa Brandtner", "PERSON", "[PERSON_a]")])
    made.add([made.entry("ilsa brandtner", "PERSON", "[PERSON_b]")])
    assert [r.placeholder for r in made.find("Ilsa Brandtner")] == ["[PERSON_a]"]
    assert len(made) == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("anna brandt", "a brandt"), {"a brandt": "anna brandt"}),
        (("anna brandt", "b brandt"), {}),
        (("anna brandt", "alma brandt", "a brandt"), {}),
        (("anna van brandt", "a van brandt"), {"a van brandt": "anna van brandt"}),
        (("anna brandt", "anna kling"), {}),
    ],
)
def test_keyed_spellings_are_linked_as_the_names_are(names, expected):
    spelled = {keyed_spelling(KEY, name): name for name in names}
    assert {spelled[one]: spelled[other] for one, other in linked(spelled).items()} == dict(linked(names)) == expected
    assert not any(name.split()[-1] in spelling for spelling, name in spelled.items())
    assert keyed_spelling(b"o" * 32, names[0]) != keyed_spelling(KEY, names[0])
