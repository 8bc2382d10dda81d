import pytest

from spice_enterprise.corpus.quality import RunningLines, language_of, unfit

ENGLISH = "The supplier shall deliver the goods to the place that the buyer has named in the order, on working days only."
GERMAN = "Der Lieferant liefert die Ware an den Ort, den der Käufer in der Bestellung genannt hat, und zwar nur an Werktagen."


@pytest.mark.parametrize(
    ("text", "expected"), [(ENGLISH, "en"), (GERMAN, "de"), ("Total 12", ""), ("", ""), ("[PERSON_aaaaaa] " * 40, "")]
)
def test_the_main_language_is_told_or_left_open(text: str, expected: str):
    assert language_of(text) == expected


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        (ENGLISH, 30, None),
        ("Delivery on Monday.", 3, "short"),
        ("12 34 56,00 78 90 1.234 " * 10, 90, "numbers_only"),
        ("[PERSON_aaaaaa] [EMAIL_bbbbbb]", 30, "all_removed"),
        ("\u2603\u2602\u2601 a \u2605\u2606\u2607 b " * 20, 90, "garbled"),
        ("d e l i v e r y o f t h e g o o d s " * 5, 90, "garbled"),
        ("[PERSON_aaaaaa] leads the sales team in [LOCATION_bbbbbb] since spring.", 30, None),
    ],
)
def test_noise_is_left_out_with_a_reason(text: str, tokens: int, expected: str | None):
    assert unfit(text, tokens, 12) == expected


def test_lines_at_the_ends_of_most_documents_of_a_source_are_running():
    terms = "Payment term: 14 days from receipt"
    footer = "All offers are without obligation."

    def document(page: int) -> str:
        body = "\n".join(f"Crane {page}{i} lifts {i} tons in the harbour." for i in range(18))
        return f"Harbour Works, Pier Nine, page {page} of 9\nOffer for crane {page}\n{terms}\n{body}\n{footer}"

    running = RunningLines()
    for i in range(10):
        running.add("mailbox", document(i))
    text = document(7)
    # what stands behind a line of the document's own is its own too
    found = [text[a:b] for a, b in running.in_text("mailbox", text)]
    assert found == ["Harbour Works, Pier Nine, page 7 of 9", footer]
    assert running.in_text("folder", text) == []
    assert running.in_text("mailbox", f"Harbour Works, Pier Nine, page 1 of 9\n{terms}") == []


def test_few_documents_show_no_running_lines():
    running = RunningLines()
    for _ in range(7):
        running.add("folder", ENGLISH)
    assert running.in_text("folder", ENGLISH) == []
