import pytest

from spice_enterprise.corpus.plausible import our_label


@pytest.mark.parametrize(
    ("label", "text", "expected"),
    [
        ("PERSON", "by {Karen Cannon} today", "PERSON"),
        ("PERSON", "the {Agreement} today", None),
        ("ORG", "at {Acme Logistics} today", "ORGANIZATION"),
        ("ORG", "under {ISO} rules", None),
        ("GPE", "governed by {Delaware} law", None),
        ("GPE", "in {Delaware}, where", "LOCATION"),
        ("NORP", "a {Polish} nurse", "DEMOGRAPHIC"),
        ("DATE", "on {3 May 2001} he", "DATE"),
        ("DATE", "in {2001} he", "DATE"),
        ("DATE", "for {three years} he", "DURATION"),
        ("DATE", "is {41 years old} and", "AGE"),
        ("DATE", "{the same day} he", None),
        ("DATE", "in {Q3 2024} we", None),
        ("DATE", "Incoterms {2020} apply", None),
        ("DATE", "version {2020} of", None),
        ("MONEY", "for {500 dollars} he", "MONEY"),
        ("MONEY", "Ticket #{531052}", None),
        ("LAW", "{Article 28} says", None),
        ("CARDINAL", "{12} parts", None),
    ],
)
def test_what_the_model_finds_gets_our_label_or_none(label, text, expected):
    start = text.index("{")
    end = text.index("}") - 1
    assert our_label(label, text.replace("{", "").replace("}", ""), start, end) == expected
