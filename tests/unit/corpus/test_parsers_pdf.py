"""PDF: headings, tables, columns, running lines, what cannot be seen, and pages that are pictures."""

import io
import sys
import types

import pytest

from spice_enterprise.corpus.parsers import ParseOptions, parse
from spice_enterprise.corpus.pdf_lines import Line
from spice_enterprise.corpus.running_lines import margin_lines
from spice_enterprise.errors import ParseError
from tests.unit.corpus.bad_files import SECRET, pdf

PROSE = "The supplier delivers the goods to the place that is named in the order, within the"


def drawn(*pages, **settings):
    """A PDF of pages, each a function that draws on a reportlab canvas."""
    canvas = pytest.importorskip("reportlab.pdfgen.canvas")
    out = io.BytesIO()
    made = canvas.Canvas(out, invariant=1, pagesize=(595, 842), **settings)
    for draw in pages:
        draw(made)
        made.showPage()
    made.save()
    return out.getvalue()


def lines(canvas, texts, *, top=740, left=60, step=14):
    for i, text in enumerate(texts):
        canvas.drawString(left, top - i * step, text)


def test_larger_and_bold_lines_are_headings():
    def page(canvas):
        canvas.setFont("Helvetica", 20)
        canvas.drawString(60, 780, "Supply of goods")
        canvas.setFont("Helvetica-Bold", 10)
        canvas.drawString(60, 750, "Delivery")
        canvas.setFont("Helvetica", 10)
        lines(canvas, [PROSE, "time agreed. Partial delivery is allowed."], top=735)

    (text,) = parse(drawn(page), ".pdf").pages
    assert text == f"# Supply of goods\n\n### Delivery\n\n{PROSE} time agreed. Partial delivery is allowed."


def test_rows_set_apart_by_space_are_facts_under_the_right_names():
    def page(canvas):
        canvas.setFont("Helvetica", 10)
        for i, row in enumerate((("Article", "Unit", "Price"), ("Bolt", "", "7.00"), ("Nut", "bag", "9.00"))):
            for left, cell in zip((60, 200, 340), row, strict=True):
                canvas.drawString(left, 700 - 14 * i, cell)

    assert parse(drawn(page), ".pdf").pages == ("Article: Bolt; Price: 7.00\nArticle: Nut; Unit: bag; Price: 9.00",)


def test_two_columns_of_prose_are_read_one_after_the_other():
    def page(canvas):
        canvas.setFont("Helvetica", 10)
        for i in range(6):
            canvas.drawString(60, 700 - 14 * i, f"left column line {i} of the prose,")
            canvas.drawString(330, 700 - 14 * i, f"right column line {i} of the prose,")

    (text,) = parse(drawn(page), ".pdf").pages
    assert text.index("left column line 5") < text.index("right column line 0")


def numbered_pages(n):
    def page_of(number):
        def page(canvas):
            canvas.setFont("Helvetica", 10)
            canvas.drawString(60, 810, f"Framework agreement, part {number}")
            lines(canvas, [PROSE, f"time agreed in annex {number}."], top=600)
            canvas.drawString(60, 30, f"Page {number} of {n}")

        return page

    return drawn(*(page_of(number) for number in range(1, n + 1)))


def test_running_lines_go_and_come_back_only_where_they_are_carried():
    pages = parse(numbered_pages(4), ".pdf").pages
    assert pages[1] == f"{PROSE} time agreed in annex 2."
    carried = parse(numbered_pages(4), ".pdf", ParseOptions(carried=("headers",))).pages
    assert carried[1].endswith("\nHeader: Framework agreement, part 2")
    assert "Page 2" not in carried[1]


def test_running_lines_that_ocr_damaged_are_still_running_lines():
    heads = ["Framework agreement", "Framewcrk agreement", "Framework agreernent", "Frarnework agreement"]
    bodies = ["Delivery is due", "Payment follows", "Notices are sent", "Disputes are heard"]
    pages = [[Line(text=text) for text in (head, *[f"{body} {word}" for word in ["here", "there", "now", "then"]])]
             for head, body in zip(heads, bodies, strict=True)]  # fmt: skip
    assert [margin.get(0) for margin in margin_lines(pages)] == ["headers"] * 4
    assert all(set(margin) == {0} for margin in margin_lines(pages))


def test_a_small_line_alone_in_the_margin_is_a_header_and_a_footnote_is_not():
    def page(canvas):
        canvas.setFont("Helvetica", 8)
        canvas.drawString(60, 810, "printed by nobody")
        canvas.setFont("Helvetica", 10)
        lines(canvas, [PROSE, "time agreed."], top=780)

    assert parse(drawn(page), ".pdf").pages == (f"{PROSE} time agreed.",)


@pytest.mark.parametrize(
    ("operators", "kind"),
    [
        (b"BT 3 Tr /F1 12 Tf 72 600 Td (%s) Tj ET", "render_mode"),
        (b"1 1 1 rg BT /F1 12 Tf 72 600 Td (%s) Tj ET", "colour"),
        (b"0 0 1 rg 60 590 400 30 re f BT /F1 12 Tf 72 600 Td (%s) Tj ET", "colour"),
        (b"BT /F1 3 Tf 72 600 Td (%s) Tj ET", "size"),
        (b"BT /F1 12 Tf -900 600 Td (%s) Tj ET", "off_page"),
        (b"BT /F1 12 Tf 72 600 Td (%s) Tj ET 0 g 60 590 300 30 re f", "covered"),
    ],
)
def test_text_that_cannot_be_seen_is_dropped_and_counted(operators, kind):
    data = pdf(b"BT /F1 12 Tf 72 700 Td (Plain words) Tj ET " + operators % SECRET.encode())
    parsed = parse(data, ".pdf")
    assert parsed.pages == ("Plain words",)
    assert parsed.hidden == ((kind, len(SECRET)),)
    assert SECRET in parse(data, ".pdf", ParseOptions(carried=("hidden",))).pages[0]


def test_white_text_on_a_dark_bar_is_text():
    data = pdf(b"0 g 60 590 300 30 re f 1 1 1 rg BT /F1 12 Tf 72 600 Td (seen) Tj ET")
    assert parse(data, ".pdf").pages == ("seen",)


def scan(canvas, text=""):
    image = pytest.importorskip("PIL.Image").new("RGB", (400, 560), "white")
    canvas.drawImage(pytest.importorskip("reportlab.lib.utils").ImageReader(image), 0, 0, 595, 842)
    if text:
        layer = canvas.beginText(60, 700)
        layer.setTextRenderMode(3)
        layer.textLine(text)
        canvas.drawText(layer)


def test_the_invisible_text_over_a_scan_is_its_text():
    parsed = parse(drawn(lambda canvas: scan(canvas, "recognised before by a scanner")), ".pdf")
    assert parsed.pages == ("recognised before by a scanner",)
    assert parsed.hidden == ()


def test_a_scan_without_ocr_is_no_text_and_a_scanned_page_among_others_is_flagged():
    with pytest.raises(ParseError, match="switch OCR on") as caught:
        parse(drawn(scan), ".pdf")
    assert caught.value.code == "E_EMPTY"
    mixed = parse(drawn(lambda canvas: canvas.drawString(60, 700, PROSE), scan), ".pdf")
    assert mixed.flags == ("E_OCR_NEEDED",)
    assert len(mixed.pages) == 2


@pytest.fixture
def ocr(monkeypatch):
    seen = []

    def read_image(image):
        seen.append(image.shape)
        return types.SimpleNamespace(text="words from the picture", confidence=0.5 + 0.25 * len(seen))

    monkeypatch.setitem(sys.modules, "spice_enterprise.corpus.ocr", types.SimpleNamespace(read_image=read_image))
    return seen


def test_a_scan_is_recognised_where_ocr_is_on_and_the_worst_page_counts(ocr):
    parsed = parse(drawn(scan, scan), ".pdf", ParseOptions(ocr="auto"))
    assert parsed.pages == ("words from the picture", "words from the picture")
    assert (parsed.ocr_pages, parsed.ocr_confidence) == (2, 0.75)
    (height, width, channels) = ocr[0]
    assert abs(width - 595 * 200 / 72) < 2
    assert abs(height - 842 * 200 / 72) < 2
    assert channels == 3


def test_a_picture_is_recognised_or_refused(ocr):
    image = pytest.importorskip("PIL.Image").new("RGB", (40, 30), "white")
    out = io.BytesIO()
    image.save(out, "PNG")
    assert parse(out.getvalue(), ".png", ParseOptions(ocr="auto")).pages == ("words from the picture",)
    assert ocr == [(30, 40, 3)]
    with pytest.raises(ParseError, match="switch OCR on"):
        parse(out.getvalue(), ".png")


def test_turned_pages_are_read_like_others():
    data = pdf(b"BT /F1 12 Tf 72 700 Td (Plain words) Tj ET", page=b"/Rotate 90")
    assert parse(data, ".pdf").pages == ("Plain words",)


def test_metadata_and_comments_come_only_where_they_are_carried():
    def page(canvas):
        canvas.setAuthor("the author")
        canvas.drawString(60, 700, PROSE)
        canvas.textAnnotation("the comment", (60, 600, 80, 620))

    data = drawn(page)
    assert parse(data, ".pdf").pages == (PROSE,)
    (text,) = parse(data, ".pdf", ParseOptions(carried=("metadata", "comments"))).pages
    assert "Author: the author" in text
    assert "Comment: the comment" in text


def test_lines_that_pages_share_are_text_where_the_text_goes_on_from_them():
    def page_of(name):
        def page(canvas):
            canvas.setFont("Helvetica", 10)
            lines(canvas, ["Letter of acceptance", "By its manager", "In the name of", name, "we accept the order."], top=800)

        return page

    pages = parse(drawn(*(page_of(name) for name in ("Alder", "Birch", "Cedar", "Elm"))), ".pdf").pages
    assert all(page.startswith("Letter of acceptance\nBy its manager\nIn the name of\n") for page in pages)
