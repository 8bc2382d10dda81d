import io
import zipfile

import pytest

from spice_enterprise.corpus import reading
from spice_enterprise.corpus.parsers import normalise, parse
from spice_enterprise.corpus.tables import rows_as_text
from spice_enterprise.errors import ParseError


def code_of(data, suffix):
    with pytest.raises(ParseError) as caught:
        parse(data, suffix)
    return caught.value.code


def a_docx():
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.core_properties.author = "Hidden Author"
    document.sections[0].header.paragraphs[0].text = "hidden header"
    document.add_heading("Terms", 1)
    document.add_paragraph("The fee is 40 EUR.")
    table = document.add_table(rows=2, cols=3)
    for i, row in enumerate((("Item", "Unit", "Price"), ("Bolt", "box", "7"))):
        for j, value in enumerate(row):
            table.cell(i, j).text = value
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def repacked(data, changes):
    """The same zip with parts replaced or added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, changes.pop(name) if name in changes else old.read(name))
        for name, value in changes.items():
            new.writestr(name, value)
    return out.getvalue()


def test_docx_gives_headings_text_and_facts_but_no_metadata():
    (page,) = parse(a_docx(), ".docx").pages
    assert "# Terms" in page
    assert "The fee is 40 EUR." in page
    assert "Item: Bolt; Unit: box; Price: 7" in page
    assert "idden" not in page


def test_xlsx_gives_one_page_per_visible_sheet_with_rows_as_facts():
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Rates"
    for row in (["Rates 2024"], [], ["", "Grade", "Share", "From"], ["", "A", 0.125, "2024"], [], ["Owner:", "Board"]):
        sheet.append(row)
    sheet["C4"].number_format = "0.0%"
    hidden = book.create_sheet("secret")
    hidden.append(["hidden cell"])
    hidden.sheet_state = "hidden"
    out = io.BytesIO()
    book.save(out)
    parsed = parse(out.getvalue(), ".xlsx")
    assert parsed.pages == ("# Rates\n\nRates 2024\n\nGrade: A; Share: 12.5%; From: 2024\n\nOwner: Board",)


def test_pptx_gives_a_page_per_slide_without_notes():
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Plan"
    slide.placeholders[1].text = "Hire two people."
    slide.notes_slide.notes_text_frame.text = "hidden note"
    out = io.BytesIO()
    deck.save(out)
    assert parse(out.getvalue(), ".pptx").pages == ("# Plan\n\nHire two people.",)


def test_pdf_gives_pages_with_wrapped_lines_joined():
    canvas = pytest.importorskip("reportlab.pdfgen.canvas")
    out = io.BytesIO()
    pdf = canvas.Canvas(out, invariant=1)
    pdf.setTitle("Hidden Title")
    pdf.drawString(50, 800, "The agreement is made between the parties named below and Ingetraut")
    pdf.drawString(50, 780, "Kramer for a term of three years.")
    pdf.showPage()
    pdf.drawString(50, 800, "Second page.")
    pdf.save()
    first, second = parse(out.getvalue(), ".pdf").pages
    assert "Ingetraut Kramer for a term of three years." in first
    assert second == "Second page."


def test_html_gives_visible_text_only():
    html = """<html><head><title>t</title><script>var a='hidden'</script></head><body><h2>Fees</h2><!-- hidden -->
    <p>Net  45 <b>days</b>.</p><div style="display: none">hidden</div><img alt="hidden" src="http://example.com/x.png">
    <table><tr><th>Item</th><th>Unit</th><th>Price</th></tr><tr><td>Bolt</td><td>box</td><td>7</td></tr></table>
    <ul><li>one</li></ul></body></html>"""
    (page,) = parse(html.encode(), ".html").pages
    assert "## Fees" in page
    assert "Net 45 days." in page
    assert "Item: Bolt; Unit: box; Price: 7" in page
    assert "- one" in page
    assert "idden" not in page


def test_eml_gives_sender_subject_and_plain_body_only():
    mail = (
        b"From: Ann <a@x.org>\r\nX-Internal: hidden\r\nSubject: =?utf-8?q?R=C3=A9sum=C3=A9?=\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nThe body.\r\n'
        b"--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nhidden\r\n--b--\r\n"
    )
    assert parse(mail, ".eml").pages == ("From: Ann <a@x.org>\nSubject: Résumé\n\nThe body.",)


def test_eml_with_an_unknown_charset_is_still_read():
    mail = b"From: a@x.org\r\nContent-Type: text/plain; charset=nonsense-9\r\n\r\nThe body.\r\n"
    assert "The body." in parse(mail, ".eml").pages[0]


def test_csv_reads_as_facts_whatever_the_delimiter():
    assert parse(b"Item;Unit;Price\nBolt;box;7\nNut;;9\n", ".csv").pages == (
        "Item: Bolt; Unit: box; Price: 7\nItem: Nut; Price: 9",
    )


def test_two_column_rows_read_as_name_and_value():
    assert rows_as_text([["Owner", "Board"], ["Term:", "3 years"]]) == ["Owner: Board", "Term: 3 years"]
    assert rows_as_text([["Year", "Revenue"], ["2023", "5"]]) == ["Year: 2023; Revenue: 5"]
    assert rows_as_text([]) == []
    assert rows_as_text([["only a title", ""]]) == ["only a title"]


def test_normalise_strips_what_hides_text_and_keeps_numbers_apart():
    assert normalise("Kra\u200bmer\u00ad \u202eabc\U000e0041\x07") == "Kramer abc"
    assert normalise("ofﬁce Ｄ１ 10\u2076 m\u00b2 \u00bd\u00a0kg") == "office D1 10\u2076 m\u00b2 \u00bd kg"
    assert normalise("a \r\nb\rc\n\n\n\nd\ud800") == "a\nb\nc\n\nd?"


@pytest.mark.parametrize(
    ("data", "suffix", "code"),
    [
        (b"x", ".xyz", "E_UNSUPPORTED"),
        (b"", ".txt", "E_EMPTY"),
        (b" \n ", ".txt", "E_EMPTY"),
        (b"\x89PNG\r\n\x1a\n", ".pdf", "E_TYPE_MISMATCH"),
        (b"<html><body>x</body></html>", ".pdf", "E_TYPE_MISMATCH"),
        (b"%PDF-1.7\n", ".docx", "E_TYPE_MISMATCH"),
        (b"%PDF-1.7\n", ".txt", "E_TYPE_MISMATCH"),
        (b"%PDF-1.7\nnoise", ".pdf", "E_PARSE"),
        (b"just text", ".docx", "E_PARSE"),
        (b"PK\x03\x04 broken", ".docx", "E_PARSE"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ".docx", "E_ENCRYPTED"),
        (b"\x00\x01\x02", ".txt", "E_TYPE_MISMATCH"),
        (b"no header here", ".eml", "E_PARSE"),
        (b"From: a\r\nContent-Type: application/pkcs7-mime\r\n\r\nx", ".eml", "E_ENCRYPTED"),
        (b"From: a\r\n" + b"x: boundary=1\r\n" * 60, ".eml", "E_LIMIT_DEPTH"),
        (b'a,b\n"' + b"x" * 200_000 + b'",1\n', ".csv", "E_LIMIT"),
    ],
)  # fmt: skip
def test_bad_files_have_a_stable_code(data, suffix, code):
    assert code_of(data, suffix) == code


def test_office_files_with_a_dtd_are_refused_also_in_utf16():
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'
    for part in (bomb.encode(), bomb.replace("?>", ' encoding="utf-16"?>', 1).encode("utf-16")):
        for name in ("word/document.xml", "[Content_Types].xml", "extra/core.rels"):
            assert code_of(repacked(a_docx(), {name: part}), ".docx") == "E_XML_DTD"


def test_office_bombs_macros_and_strangers_are_refused():
    data = a_docx()
    assert code_of(repacked(data, {"word/media/x.bin": b"0" * (8 << 20)}), ".docx") == "E_LIMIT_RATIO"
    assert code_of(repacked(data, {f"x/{i}": b"" for i in range(reading.MAX_ENTRIES)}), ".docx") == "E_LIMIT_ENTRIES"
    assert code_of(repacked(data, {"word/vbaProject.bin": b"x"}), ".docx") == "E_ACTIVE_CONTENT"
    assert code_of(data, ".xlsx") == "E_TYPE_MISMATCH"
    assert code_of(data[: len(data) // 2], ".docx") == "E_PARSE"


def test_deep_html_is_refused_or_flat():
    deep = b"<html><body>" + b"<div>" * 20_000 + b"x"
    try:
        parse(deep, ".html")
    except ParseError as error:
        assert error.code in ("E_LIMIT_DEPTH", "E_EMPTY", "E_PARSE")  # noqa: PT017 - both ends are allowed


def test_errors_never_hold_the_text():
    for suffix in (".docx", ".pdf", ".eml", ".xlsx"):
        with pytest.raises(ParseError) as caught:
            parse(b"CANARY-0123456789abcdef noise", suffix)
        assert "CANARY" not in caught.value.explain()


WRAPPED = b"Either side may cancel the mould tooling contract for the first\ntime after 62 months.\n\nDear all,\nthe end.\n"
JOINED = "Either side may cancel the mould tooling contract for the first time after 62 months.\n\nDear all,\nthe end."


def test_text_wrapped_at_a_width_is_joined_again():
    assert parse(WRAPPED, ".txt").pages == (JOINED,)
    assert parse(WRAPPED.replace(b"first\n", b"first\n- "), ".txt").pages[0].count("\n") == 4, "a list item begins a line"
    long = b"a paragraph on one line, " * 6 + b"ends here\nand another\n"
    assert parse(long, ".txt").pages[0].count("\n") == 1, "lines of unwrapped text are paragraphs"


def test_a_mail_carries_names_and_subject_but_not_its_date():
    mail = b"From: A <a@x.example>\nTo: B <b@x.example>\nDate: Mon, 05 Jan 2026 09:00:00 +0000\nSubject: Archive\n\n" + WRAPPED
    page = parse(mail, ".eml").pages[0]
    assert "Subject: Archive" in page
    assert JOINED in page
    assert "2026" not in page
