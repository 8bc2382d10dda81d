"""DOCX, XLSX and PPTX: what is read, what is left out and counted, what a run may carry."""

import io

import pytest

from spice_enterprise.corpus.parsers import ParseOptions, parse
from tests.unit.corpus.bad_files import OFFICE, RELATIONS, WORD, docx

EVERYTHING = ParseOptions(carried=("headers", "footers", "notes", "comments", "metadata", "hidden", "alt_text"))


def paragraph(text, look="", style=""):
    named = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{named}<w:r><w:rPr>{look}</w:rPr><w:t>{text}</w:t></w:r></w:p>"


def page_of(data, suffix, options=EVERYTHING):
    return "\n".join(parse(data, suffix, options).pages)


def test_docx_content_controls_boxes_and_insertions_are_in_their_place_and_deletions_are_not():
    box = "<w:p><w:r><w:t>boxed</w:t></w:r></w:p>"
    shape = f"<w:txbxContent>{box}</w:txbxContent>"
    compat = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    body = (
        "<w:sdt><w:sdtPr><w:alias/></w:sdtPr><w:sdtContent>" + paragraph("controlled") + "</w:sdtContent></w:sdt>"
        "<w:p><w:ins><w:r><w:t>inserted </w:t></w:r></w:ins><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
        "<w:sdt><w:sdtContent><w:r><w:t>inline </w:t></w:r></w:sdtContent></w:sdt>"
        "<w:hyperlink><w:r><w:t>linked</w:t></w:r></w:hyperlink>"
        f'<w:r><mc:AlternateContent xmlns:mc="{compat}"><mc:Choice>{shape}</mc:Choice><mc:Fallback>{shape}</mc:Fallback>'
        "</mc:AlternateContent></w:r></w:p>"
    )
    parsed = parse(docx(body), ".docx")
    assert parsed.pages == ("controlled\ninserted inline linked\nboxed",)
    assert parsed.hidden == (("deleted", 7),)
    assert parsed.flags == ()


def styles():
    return (
        f'<w:styles xmlns:w="{WORD}"><w:style w:styleId="Ghost"><w:name w:val="Ghost"/><w:rPr><w:vanish/></w:rPr></w:style>'
        '<w:style w:styleId="Pale"><w:name w:val="Pale"/><w:basedOn w:val="Ghost"/></w:style>'
        '<w:style w:styleId="H2"><w:name w:val="heading 2"/></w:style></w:styles>'
    ).encode()


def linked(**kinds):
    inside = "".join(f'<Relationship Id="{kind}" Type="{OFFICE}/{kind}" Target="{part}"/>' for kind, part in kinds.items())
    return f'<?xml version="1.0"?><Relationships xmlns="{RELATIONS}">{inside}</Relationships>'.encode()


def whole_docx(body):
    part = f'<?xml version="1.0"?><w:x xmlns:w="{WORD}">%s</w:x>'
    return docx(
        body,
        **{
            "word/_rels/document.xml.rels": linked(
                styles="styles.xml",
                header="header1.xml",
                footer="footer1.xml",
                footnotes="footnotes.xml",
                comments="comments.xml",
            ),
            "word/styles.xml": styles(),
            "word/header1.xml": (part % paragraph("the header")).encode(),
            "word/footer1.xml": (part % paragraph("the footer")).encode(),
            "word/footnotes.xml": (part % f"<w:footnote>{paragraph('the note')}</w:footnote>").encode(),
            "word/comments.xml": (part % f"<w:comment>{paragraph('the comment')}</w:comment>").encode(),
            "docProps/core.xml": b'<c xmlns:d="http://purl.org/dc/elements/1.1/"><d:creator>the author</d:creator></c>',
        },
    )


def test_docx_styles_make_headings_and_hide_also_through_what_they_are_based_on():
    parsed = parse(whole_docx(paragraph("Fees", style="H2") + paragraph("shown") + paragraph("unseen", style="Pale")), ".docx")
    assert parsed.pages == ("## Fees\n\nshown",)
    assert parsed.hidden == (("vanish", 6),)


def test_docx_carries_what_the_run_names_and_nothing_else():
    data = whole_docx(paragraph("body") + paragraph("unseen", look="<w:vanish/>"))
    assert parse(data, ".docx").pages == ("body",)
    text = page_of(data, ".docx")
    for line in (
        "unseen",
        "Header: the header",
        "Footer: the footer",
        "Footnote: the note",
        "Comment: the comment",
        "Author: the author",
    ):
        assert line in text
    assert page_of(data, ".docx", ParseOptions(carried=("comments",))) == "body\n\nComment: the comment"


def test_white_docx_text_on_a_dark_cell_is_text():
    dark = '<w:tcPr><w:shd w:fill="1F3864"/></w:tcPr>'
    cell = paragraph("seen", look='<w:color w:val="FFFFFF"/>')
    parsed = parse(docx(f"<w:tbl><w:tr><w:tc>{dark}{cell}</w:tc></w:tr></w:tbl>"), ".docx")
    assert parsed.pages == ("seen",)
    assert parsed.hidden == ()


def test_docx_cells_that_are_merged_count_once():
    row = '<w:tr><w:tc><w:tcPr><w:vMerge w:val="{}"/></w:tcPr>{}</w:tc><w:tc>{}</w:tc></w:tr>'
    table = (
        "<w:tbl>" + row.format("restart", paragraph("a"), paragraph("b")) + row.format("continue", paragraph("a"), paragraph("c"))
    )
    assert parse(docx(table + "</w:tbl>"), ".docx").pages == ("a: b\nc",)


def a_workbook():
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.properties.creator = "the author"
    sheet = book.active
    sheet.title = "Rates"
    for row in (["Item", "Unit", "Cost", "Price"], ["Bolt", "box", 3, 7], ["Nut", "bag", 4, 9]):
        sheet.append(row)
    sheet.column_dimensions["C"].hidden = True
    sheet.row_dimensions[3].hidden = True
    sheet["A1"].comment = openpyxl.comments.Comment("the comment", "someone")
    sheet.oddHeader.center.text = "the header"
    book.create_sheet("Secret").append(["unseen"])
    book["Secret"].sheet_state = "hidden"
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def test_xlsx_hidden_rows_columns_and_sheets_are_counted_and_left_out():
    parsed = parse(a_workbook(), ".xlsx")
    assert parsed.pages == ("# Rates\n\nItem: Bolt; Unit: box; Price: 7",)
    assert dict(parsed.hidden) == {"hidden_column": 5, "hidden_row": 8, "hidden_sheet": 6}


def test_xlsx_carries_what_the_run_names():
    text = page_of(a_workbook(), ".xlsx")
    for piece in ("Cost: 3", "Item: Nut", "unseen", "Comment: the comment", "the header", "Author: the author"):
        assert piece in text


def a_deck():
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Plan"
    slide.placeholders[1].text = "Hire two people."
    slide.notes_slide.notes_text_frame.text = "the note"
    away = slide.shapes.add_textbox(-9_000_000, 0, 100, 100)
    away.text_frame.text = "away"
    tiny = slide.shapes.add_textbox(0, 0, 100, 100).text_frame.paragraphs[0].add_run()
    tiny.text, tiny.font.size = "tiny", pptx.util.Pt(1)
    away._element.nvSpPr.cNvPr.set("descr", "the picture")
    unseen = deck.slides.add_slide(deck.slide_layouts[5])
    unseen.shapes.title.text = "Unseen"
    unseen._element.set("show", "0")
    out = io.BytesIO()
    deck.save(out)
    return out.getvalue()


def test_pptx_hidden_slides_and_shapes_are_counted_and_left_out():
    parsed = parse(a_deck(), ".pptx")
    assert parsed.pages == ("# Plan\n\nHire two people.",)
    assert dict(parsed.hidden) == {"hidden_slide": 7, "off_page": 4, "size": 4}


def test_pptx_carries_what_the_run_names():
    text = page_of(a_deck(), ".pptx")
    for piece in ("away", "tiny", "Notes: the note", "Picture: the picture", "# Unseen"):
        assert piece in text
