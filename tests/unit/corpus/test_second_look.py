"""The second detector: finds what passes a checksum, keeps quiet on scrubbed and on ordinary text, and stays offline."""

import pytest

pytest.importorskip("presidio_analyzer", exc_type=ImportError)

from spice_enterprise.corpus.second_look import SecondLook


@pytest.fixture(scope="module")
def look():
    return SecondLook()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("paid with 4111 1111 1111 1111 today", "CREDIT_CARD"),
        ("to DE89 3704 0044 0532 0130 00 please", "IBAN"),
        ("write to a.weiss@mail.example.com", "EMAIL"),
        ("from 219.241.76.123 with", "IP_ADDRESS"),
        ("adapter 9a:bd:6c:2c:01:f7 on", "MAC_ADDRESS"),
    ],
)
def test_what_is_left_over_is_found(look, text, label):
    assert label in {span.entity for span in look.detect(text)}


@pytest.mark.parametrize(
    "text",
    [
        "[PERSON_abc234] wrote to [EMAIL_xyz234] from [IP_ADDRESS_aaaaaa].",
        "The fee of 12,500.00 EUR falls due Net 45 on 17 March 2024 under clause 17(b)(iii) of Exhibit B-3.",
        "Part No. 7741902-A (SKU 88213-004) follows ISO/IEC 27001:2022, RFC 5322 and std::vector at 12:30:45.",
        "card 4111 1111 1111 1112",
        "",
    ],
)
def test_scrubbed_and_ordinary_text_is_left_alone(look, text):
    assert look.detect(text) == []


def test_places_are_those_of_the_whole_text(look):
    text = "ordinary words and more. " * 2_000 + "\n\na.weiss@mail.example.com"
    assert [text[s.start : s.end] for s in look.detect(text)] == ["a.weiss@mail.example.com"]


@pytest.mark.parametrize("bait", ["a", "a.b@", "1", "1 ", "a@", "ab-", "x@a-", ":", "1:", "0x"])
def test_time_stays_linear_on_bait(look, bait, is_linear):
    assert is_linear(look.detect, (bait * 80_000)[:80_000])
