import io
import posixpath
import re
import zipfile

import pytest

from spice_enterprise.demo_files import Draft, FileFormat, Section, Table, render

DRAFT = Draft(
    name="001-report-test",
    title="Report on <tests> & more",
    opening=("This report is short.",),
    sections=(Section(heading="Output", sentences=("The line made 12 crates.", "It ran for 3 days.")),),
    table=Table(caption="Bays", header=("Bay", "Output"), rows=(("bay 1", "12 tonnes"), ("bay 2", "9 tonnes"))),
    closing=("Ask the office.",),
    sender="office@halden-marsh.example",
    recipient="yard@halden-marsh.example",
)
OFFICE: tuple[FileFormat, ...] = ("docx", "xlsx", "pptx")


@pytest.mark.parametrize("file_format", OFFICE)
def test_office_packages_are_stored_with_one_date_and_no_clock(file_format: FileFormat) -> None:
    with zipfile.ZipFile(io.BytesIO(render(DRAFT, file_format))) as package:
        members = package.infolist()
        core = package.read("docProps/core.xml").decode()
        app = package.read("docProps/app.xml").decode()
    assert {(m.compress_type, m.date_time, m.create_system) for m in members} == {(zipfile.ZIP_STORED, (2026, 1, 5, 9, 0, 0), 3)}
    assert members[0].filename == "[Content_Types].xml"
    assert [m.filename for m in members[1:]] == sorted(m.filename for m in members[1:])
    assert core.count("2026-01-05T09:00:00Z") == 2
    assert "penpyxl" not in app


@pytest.mark.parametrize("file_format", OFFICE)
def test_every_link_leads_to_a_part(file_format: FileFormat) -> None:
    with zipfile.ZipFile(io.BytesIO(render(DRAFT, file_format))) as package:
        names = set(package.namelist())
        texts = {name: package.read(name).decode() for name in names if name.endswith((".rels", "[Content_Types].xml"))}
    for name, text in texts.items():
        folder = posixpath.dirname(posixpath.dirname(name))
        for link in re.findall(r'(?:Target|PartName)="([^"]+)"', text):
            part = link.lstrip("/") if link.startswith("/") else posixpath.normpath(posixpath.join(folder, link))
            assert part in names, (name, link)
    assert not any(word in part for part in names for word in ("thumbnail", "printerSettings", "stylesWithEffects"))


def test_html_escapes_what_it_is_given() -> None:
    page = render(DRAFT, "html").decode()
    assert "<h1>Report on &lt;tests&gt; &amp; more</h1>" in page
    assert "<tr><td>bay 2</td><td>9 tonnes</td></tr>" in page


def test_pdf_is_uncompressed_and_has_a_fixed_date() -> None:
    pytest.importorskip("reportlab", reason="the demo extra is not installed")
    pdf = render(DRAFT, "pdf")
    assert b"FlateDecode" not in pdf
    assert b"The line made 12 crates." in pdf
    assert render(DRAFT, "pdf") == pdf


def test_mail_has_a_fixed_date_message_id_and_boundary() -> None:
    mail = render(DRAFT, "eml").decode("ascii")
    assert "Date: Mon, 05 Jan 2026 09:00:00 +0000\n" in mail
    assert "Message-ID: <001-report-test@halden-marsh.example>\n" in mail
    assert 'boundary="=_001-report-test"' in mail


def test_csv_repeats_the_title_before_each_row_and_puts_notes_last() -> None:
    assert render(DRAFT, "csv").decode().split("\r\n") == [
        "List,Bay,Output,Note",
        "Report on <tests> & more,bay 1,12 tonnes,This report is short.",
        "Report on <tests> & more,bay 2,9 tonnes,The line made 12 crates.",
        ",,,It ran for 3 days.",
        ",,,Ask the office.",
        "",
    ]


def test_text_and_markdown_show_headings_and_the_table() -> None:
    text, markdown = render(DRAFT, "txt").decode(), render(DRAFT, "md").decode()
    assert "Output\n\nThe line made 12 crates. It ran for 3 days.\n" in text
    assert "Bay    Output\nbay 1  12 tonnes\nbay 2  9 tonnes\n" in text
    assert "- The line made 12 crates.\n- It ran for 3 days.\n" in markdown
    assert "| Bay | Output |\n| --- | --- |\n| bay 1 | 12 tonnes |\n" in markdown
