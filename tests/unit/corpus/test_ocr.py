import io
import socket
from importlib.util import find_spec
from shutil import which
from types import SimpleNamespace

import numpy as np
import pytest

from spice_enterprise.corpus import ocr
from spice_enterprise.corpus.ocr import OcrText, read_image
from spice_enterprise.corpus.reading import Parsed, ParseOptions
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox
from spice_enterprise.errors import MissingExtraError, ParseError

LINES = (
    "The lift was repaired on 14 May.",
    "Invoice QX-20417 is due within thirty days.",
    "Signed for the workshop by the caretaker.",
)
needs_rapidocr = pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs the ocr extra")


def scan():
    """A page with three lines, as a scanner would see it: RGB."""
    pdfium = pytest.importorskip("pypdfium2")
    canvas_module = pytest.importorskip("reportlab.pdfgen.canvas")
    buffer = io.BytesIO()
    canvas = canvas_module.Canvas(buffer, pagesize=(420, 200))
    for number, line in enumerate(LINES):
        canvas.drawString(40, 150 - 40 * number, line)
    canvas.save()
    page = pdfium.PdfDocument(buffer.getvalue())[0]
    return page.render(scale=200 / 72, rev_byteorder=True).to_numpy()[:, :, :3].copy()


@needs_rapidocr
@pytest.mark.slow
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_page_is_read_whichever_way_up_it_lies(turns):
    found = read_image(np.rot90(scan(), turns).copy())
    assert found.text.split("\n") == list(LINES)
    assert found.confidence > 0.9


@needs_rapidocr
@pytest.mark.slow
def test_a_blank_page_has_no_text_and_nothing_to_doubt():
    assert read_image(np.full((600, 400, 3), 255, dtype=np.uint8)) == OcrText(text="", confidence=1.0)


@needs_rapidocr
@pytest.mark.slow
def test_bad_print_is_reported():
    page = scan().astype(int)
    noise = np.random.default_rng(7).integers(-255, 255, page.shape)
    found = read_image(np.clip(page + noise, 0, 255).astype(np.uint8))
    assert found.confidence < read_image(scan()).confidence


@needs_rapidocr
@pytest.mark.slow
def test_a_picture_is_read_in_the_child_with_its_confidence():
    image_module = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image_module.fromarray(scan()).save(buffer, "PNG")
    box = Sandbox(is_required=False, options=ParseOptions(ocr="auto"))
    (found,) = box.parse([RawDocument(suffix=".png", data=buffer.getvalue())])
    assert isinstance(found, Parsed)
    assert found.pages == ("\n".join(LINES),)
    assert found.ocr_pages == 1
    assert found.ocr_confidence > 0.9


@needs_rapidocr
@pytest.mark.slow
def test_no_host_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: asked.append(args[:1]) or [])
    ocr._engine.cache_clear()
    read_image(scan())
    assert asked == []


def test_without_an_engine_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ocr, "has_rapidocr", lambda: False)
    monkeypatch.setattr(ocr, "which", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        read_image(np.zeros((10, 10, 3), dtype=np.uint8))
    assert "spice-enterprise[ocr]" in caught.value.hint
    assert caught.value.code == "E_MISSING_EXTRA"


HEAD = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"


def test_tesseract_words_become_lines_with_their_confidence(monkeypatch):
    words = ((1, 90.0, "ab"), (1, 60.0, "cdef"), (2, -1, " "), (2, 30.0, "gh"))
    rows = [HEAD, *(f"5\t1\t1\t1\t{line}\t1\t0\t0\t1\t1\t{score}\t{word}" for line, score, word in words)]
    monkeypatch.setattr(ocr, "has_rapidocr", lambda: False)
    monkeypatch.setattr(ocr, "which", lambda name: "/usr/bin/tesseract")
    seen = {}

    def run(command, **kwargs):
        seen.update(kwargs, command=command)
        return SimpleNamespace(returncode=0, stdout="\n".join(rows).encode())

    monkeypatch.setattr(ocr.subprocess, "run", run)
    assert read_image(np.zeros((2, 3, 3), dtype=np.uint8)) == OcrText(text="ab cdef\ngh", confidence=0.6)
    assert seen["input"] == b"P6 3 2 255\n" + bytes(18)


def test_a_picture_that_tesseract_cannot_read_is_a_bad_file(monkeypatch):
    monkeypatch.setattr(ocr.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=1, stdout=b""))
    with pytest.raises(ParseError) as caught:
        ocr._read_tesseract(np.zeros((2, 3, 3), dtype=np.uint8))
    assert caught.value.code == "E_PARSE"


@pytest.mark.slow
@pytest.mark.skipif(which("tesseract") is None, reason="needs tesseract")
def test_tesseract_reads_the_same_page(monkeypatch):
    monkeypatch.setattr(ocr, "has_rapidocr", lambda: False)
    found = read_image(scan())
    assert found.text.split("\n") == list(LINES)
    assert 0.5 < found.confidence <= 1.0


def test_text_never_prints():
    assert "private" not in repr(OcrText(text="private", confidence=1.0))
