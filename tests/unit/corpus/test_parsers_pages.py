"""Mail, HTML, XML, tables and plain text: what is read, what is left out and counted, what a run may carry."""

import types
from pathlib import Path

import pytest

from spice_enterprise.corpus import mail
from spice_enterprise.corpus.parsers import ParseOptions, parse
from spice_enterprise.corpus.plain_text import note_invisible
from spice_enterprise.corpus.reading import Notes
from spice_enterprise.errors import ParseError
from tests.unit.corpus.bad_files import OLE

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "office_samples"


def html(body, options=None):
    return parse(f"<!doctype html><html>{body}</html>".encode(), ".html", options or ParseOptions())


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("hidden", "hidden_attribute"), ('style="display : none"', "display_none"), ('style="visibility:hidden"', "visibility"),
        ('style="opacity:0"', "opacity"), ('style="font-size: 0px"', "size"), ('style="color: white"', "colour"),
        ('style="background:#eee;color:#eee"', "colour"), ('style="position:absolute;left:-9999px"', "off_page"),
        ('class="ghost"', "css"), ('id="ghost"', "css"),
    ],
)  # fmt: skip
def test_hidden_parts_of_a_page_are_dropped_and_counted(mark, kind):
    sheet = "<style>.ghost, #ghost { display: none } @media print { .kept { display: none } }</style>"
    body = f"<p>Plain words</p><div {mark}>unseen <b>part</b></div><p class=kept>kept</p>"
    parsed = html((sheet if kind == "css" else "") + body)
    assert parsed.pages == ("Plain words\n\nkept",)
    assert parsed.hidden == ((kind, 10),)
    assert parsed.flags == ("E_FLAG_HIDDEN_TEXT",)
    assert "unseen part" in html((sheet if kind == "css" else "") + body, ParseOptions(carried=("hidden",))).pages[0]


@pytest.mark.parametrize("look", ["color:#fff;background:#036", "opacity:0.5", "font-size:12px", "font-size:2em", "left:-1px"])
def test_ordinary_styles_hide_nothing(look):
    assert html(f'<p style="{look}">seen</p>').pages == ("seen",)


def test_a_page_carries_comments_titles_and_descriptions_only_where_they_are_named():
    body = '<head><title>the title</title></head><body><p>words<!-- the comment --></p><img alt="the picture"></body>'
    assert html(body).pages == ("words",)
    text = html(body, ParseOptions(carried=("comments", "metadata", "alt_text"))).pages[0]
    for line in ("Title: the title", "Comment: the comment", "Picture: the picture"):
        assert line in text


def test_a_table_that_lays_out_a_page_keeps_the_order_of_its_text():
    inner = "<table><tr><th>Item</th><th>Unit</th><th>Price</th></tr><tr><td>Bolt</td><td>box</td><td>7</td></tr></table>"
    assert html(f"<table><tr><td>before{inner}after</td></tr></table>").pages[0].split() == [
        "before", "Item:", "Bolt;", "Unit:", "box;", "Price:", "7", "after",
    ]  # fmt: skip


def test_xml_is_its_text():
    assert parse(b"<?xml version='1.0'?><a><b>one</b> <c>two</c></a>", ".xml").pages == ("one\ntwo",)


def test_mail_headers_come_only_where_they_are_carried():
    data = b"From: A <a@x.example>\nSubject: s\nX-Clerk: the clerk\nDate: Mon, 05 Jan 2026 09:00:00 +0000\n\nThe body.\n"
    assert parse(data, ".eml").pages == ("From: A <a@x.example>\nSubject: s\n\nThe body.",)
    text = parse(data, ".eml", ParseOptions(carried=("headers",))).pages[0]
    assert "X-Clerk: the clerk" in text
    assert "Date: Mon" in text


def test_a_forged_line_in_a_subject_stays_in_the_subject():
    data = b"From: a@x.example\nSubject: =?utf-8?q?one=0ABcc:_b@x.example?=\n\nThe body.\n"
    assert parse(data, ".eml").pages[0].split("\n")[1] == "Subject: one Bcc: b@x.example"


def test_a_mail_of_html_alone_is_read_without_what_it_hides():
    data = b'From: a@x.example\nContent-Type: text/html\n\n<p>The body.</p><p style="display:none">unseen</p>'
    parsed = parse(data, ".eml")
    assert parsed.pages == ("From: a@x.example\n\nThe body.",)
    assert dict(parsed.hidden) == {"display_none": 6}


def a_message(**changes):
    given = {"message_class": "IPM.Note", "sender": "A <a@x.example>", "subject": "s", "body": "The body.", "html_body": None,
             "message_headers": {}, "recipients": [types.SimpleNamespace(name="B", email_address="b@x.example")]}  # fmt: skip
    return types.SimpleNamespace(**{**given, **changes})


@pytest.fixture
def outlook(monkeypatch):
    def install(message):
        fake = types.SimpleNamespace(Message=types.SimpleNamespace(load=lambda _: message))
        monkeypatch.setattr(mail, "import_module", lambda _: fake)

    return install


def test_an_outlook_message_reads_like_a_mail(outlook):
    outlook(a_message())
    assert parse(OLE, ".msg").pages == ("From: A <a@x.example>\nTo: B <b@x.example>\nSubject: s\n\nThe body.",)
    outlook(a_message(message_headers={"to": "C <c@x.example>", "CC": "d@x.example"}))
    assert "To: C <c@x.example>\nCc: d@x.example" in parse(OLE, ".msg").pages[0]


def test_an_encrypted_outlook_message_is_refused(outlook):
    outlook(a_message(message_class="IPM.Note.SMIME"))
    with pytest.raises(ParseError) as caught:
        parse(OLE, ".msg")
    assert caught.value.code == "E_ENCRYPTED"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no sample files here")
def test_every_office_sample_is_read_or_refused_for_its_format():
    for path in sorted(SAMPLES.iterdir()):
        if path.suffix in (".rtf", ".odt", ".doc"):
            with pytest.raises(ParseError, match="no parser"):
                parse(path.read_bytes(), path.suffix)
        else:
            assert any(page.strip() for page in parse(path.read_bytes(), path.suffix).pages), path.name


def test_tables_are_split_at_their_own_delimiter_also_with_others_inside():
    assert parse(b"Name\tPlace\tDay\nA, B\tC; D\t3\n", ".tsv").pages == ("Name: A, B; Place: C; D; Day: 3",)
    assert parse(b'Name,Place,Day\n"A; B; C",D,3\n', ".csv").pages == ("Name: A; B; C; Place: D; Day: 3",)
    assert parse(b"Title of it\n\na,b,c\nd,1,2\n\nx,y\nz,3\n", ".csv").pages == ("Title of it\na: d; b: 1; c: 2\nx: z; y: 3",)


def test_years_are_column_names():
    assert parse(b"Item,2023,2024\nSales,5,6\n", ".csv").pages == ("Item: Sales; 2023: 5; 2024: 6",)


@pytest.mark.parametrize(
    ("text", "kinds", "flags"),
    [
        ("plain", {}, set()),
        ("\ufeffplain caf\u00e9", {}, set()),
        ("so\u00adft", {"soft_hyphen": 1}, set()),
        ("a\u200bb\u2060c", {"zero_width": 2}, {"E_FLAG_HIDDEN_TEXT"}),
        ("a\U000e0041\U000e0042", {"tag": 2}, {"E_FLAG_HIDDEN_TEXT"}),
        ("\u0634\u200fb", {"bidi": 1}, set()),
        ("a\u202eb", {"bidi": 1}, {"E_FLAG_HIDDEN_TEXT"}),
        ("p\u0430y", {}, {"E_MIXED_SCRIPT"}),
        ("5 \u03bcm and k\u03a9", {}, set()),
        ("\u041c\u043e\u0441\u043a\u0432\u0430 and Moscow", {}, set()),
    ],
)  # fmt: skip
def test_invisible_characters_are_counted_and_odd_ones_flagged(text, kinds, flags):
    notes = Notes()
    note_invisible(text, notes)
    assert dict(notes.hidden) == kinds
    assert notes.flags == flags


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("caf\u00e9 na\u00efve".encode("cp1252"), "caf\u00e9 na\u00efve"),
        ("Gr\u00f6\u00dfe \u00fcber ".encode() + b"\xff", "Gr\u00f6\u00dfe \u00fcber \ufffd"),
        ("Plain words".encode("utf-16-le"), "Plain words"),
        ("Plain words".encode("utf-16-be"), "Plain words"),
        ("Plain words".encode("utf-32"), "Plain words"),
    ],
)
def test_bytes_that_are_not_utf8_are_read_by_what_they_look_like(data, text):
    assert parse(data, ".txt").pages == (text,)


def test_the_reader_and_its_version_are_named():
    assert parse(b"words", ".txt").parser == "plain text"
    assert html("<p>words</p>").parser.startswith("lxml ")
