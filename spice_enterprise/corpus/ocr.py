"""Scanned pages to text: RapidOCR, whose models lie in its wheel, or tesseract where only that is installed.

In: the picture of one page, as an RGB array.
Out: its text, line by line from the top, column by column, with the confidence of the recogniser.
Refuses: nothing it can see; a line it is unsure of is kept and lowers the confidence.
Not here: which pages are scans (`pdf.py`), what confidence is enough (the policy), the order of lines (`ocr_layout.py`).

Pages may lie on a side or upside down. Both engines run without a network and in one thread.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from shutil import which
from typing import Any, Final

from spice_enterprise.corpus.ocr_layout import Piece, missing_spaces, page_lines, turned
from spice_enterprise.errors import MissingExtraError, ParseError

_MAX_SIDE: Final = 2_500
"""A page of A4 at 200 dpi has 2,339 pixels; smaller copies lose small print."""
_BLANK_CONFIDENCE: Final = 1.0
_SAMPLE_LINES: Final = 3
_SAMPLE_ASPECT: Final = 10.0
"""Length by height of the lines that show which way up a page lies: some words, but not a long line."""
_SURE: Final = 0.9
_DETECTION_SIDE: Final = 1_472
"""Lines are looked for in a smaller copy and read from the full one."""
_SQUEEZE: Final = 0.8
"""Lines are read at this share of their width: a fifth faster, with the same words right."""
_HINT: Final = "pip install 'spice-enterprise[ocr]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrText:
    """The text of one picture."""

    text: str = field(repr=False)
    confidence: float
    """Mean over the characters, 0 to 1; 1 for a page without any text."""


def read_image(image: Any) -> OcrText:
    """Return the text of a picture.

    Args:
        image: Height x width x 3, unsigned bytes, RGB.

    Raises:
        MissingExtraError: When neither engine is installed.
        ParseError: `E_PARSE` when the engine cannot read the picture.
    """
    if has_rapidocr():
        return _read_rapid(image)
    if which("tesseract"):
        return _read_tesseract(image)
    raise MissingExtraError("reading scans needs RapidOCR or tesseract", hint=_HINT)


def has_rapidocr() -> bool:
    """True when the engine that needs no other program is installed."""
    return find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None


def _joined(lines: Sequence[str], scores: Sequence[tuple[int, float]]) -> OcrText:
    """Join lines; `scores` holds (characters, confidence) of what they are made of."""
    characters = sum(count for count, _ in scores)
    if not characters:
        return OcrText(text="", confidence=_BLANK_CONFIDENCE)
    return OcrText(text="\n".join(lines), confidence=round(sum(count * score for count, score in scores) / characters, 4))


# --- RapidOCR ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _engine() -> Any:
    parameters = {
        "Global.log_level": "critical",
        "Global.max_side_len": _MAX_SIDE,
        "Global.return_word_box": True,
        # one line at a time needs no padding to the longest: a sixth faster, and less memory
        "Rec.rec_batch_num": 1,
        "Det.limit_type": "max",
        "Det.limit_side_len": _DETECTION_SIDE,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return import_module("rapidocr").RapidOCR(params=parameters)


def _read_rapid(image: Any) -> OcrText:
    engine, numpy = _engine(), import_module("numpy")
    step = max(1, max(image.shape[:2]) // (2 * _MAX_SIDE))
    image = image[::step, ::step]
    picture, record = engine.preprocess_img(numpy.ascontiguousarray(image[:, :, ::-1]))
    try:
        crops, found = engine.detect_and_crop(picture, record)
    except import_module("rapidocr.main").RapidOCRError:
        return _joined([], [])
    crops = [_squeezed(crop) for crop in crops]
    crops, boxes = _upright(engine, crops, found.boxes, picture.shape[:2])
    read = engine.recognize_txt(crops)
    pieces = [
        Piece(text=_spaced(text, words, crop), left=box[0], top=box[1], right=box[2], bottom=box[3], score=score)
        for text, words, crop, box, score in zip(read.txts, read.word_results, crops, boxes, read.scores, strict=True)
        if text.strip()
    ]
    return _joined(page_lines(pieces), [(len(piece.text), piece.score) for piece in pieces])


def _squeezed(crop: Any) -> Any:
    width = max(8, int(crop.shape[1] * _SQUEEZE))
    return import_module("cv2").resize(crop, (width, crop.shape[0]), interpolation=import_module("cv2").INTER_AREA)


def _upright(engine: Any, crops: list[Any], corners: Any, size: tuple[int, int]) -> tuple[list[Any], list[Any]]:
    """Return crops and boxes as if the page lay the right way up: most of its text decides.

    The engine lays crops of upright lines on their side, so what is left to ask is which way up they are.
    """
    numpy = import_module("numpy")
    low, high = corners.min(axis=1), corners.max(axis=1)
    sides = high - low
    lengths = sides.max(axis=1)
    is_on_side = lengths[sides[:, 1] > 1.5 * sides[:, 0]].sum() > lengths.sum() / 2
    is_upside_down = _is_upside_down(engine, crops)
    if is_upside_down:
        crops = [numpy.ascontiguousarray(crop[::-1, ::-1]) for crop in crops]
    quarter_turns = (3 if is_upside_down else 1) if is_on_side else (2 if is_upside_down else 0)
    return crops, [turned((*low[i], *high[i]), size, quarter_turns) for i in range(len(crops))]


def _is_upside_down(engine: Any, crops: list[Any]) -> bool:
    """Say whether some lines read better the other way up. The engine's own classifier fails on long lines."""
    numpy = import_module("numpy")
    by_length = sorted(crops, key=lambda crop: abs(crop.shape[1] / crop.shape[0] - _SAMPLE_ASPECT))
    sample = by_length[:_SAMPLE_LINES]
    score = sum(engine.recognize_txt(sample).scores) / len(sample)
    if score >= _SURE:
        return False
    turned_over = [numpy.ascontiguousarray(crop[::-1, ::-1]) for crop in sample]
    return bool(sum(engine.recognize_txt(turned_over).scores) / len(sample) > score)


def _spaced(text: str, words: Any, crop: Any) -> str:
    """Put back the spaces that the recogniser swallowed: where the picture shows as much white as between other words."""
    columns = [column for word in words.word_cols for column in word]
    if len(columns) != len("".join(text.split())) or not words.line_txt_len:
        return text.strip()
    scale = crop.shape[1] / words.line_txt_len
    return missing_spaces(text.strip(), [column * scale for column in columns], crop)


# --- tesseract --------------------------------------------------------------------------------------------------------


def _read_tesseract(image: Any) -> OcrText:
    height, width = image.shape[:2]
    picture = f"P6 {width} {height} 255\n".encode() + image.astype("uint8").tobytes()
    command = ["tesseract", "stdin", "stdout", "--dpi", "200", "--psm", "1", "tsv"]
    run = subprocess.run(command, input=picture, capture_output=True, check=False)  # noqa: S603 - no shell, fixed words
    if run.returncode:
        raise ParseError("tesseract cannot read the picture", code="E_PARSE")
    lines: dict[tuple[str, ...], list[str]] = {}
    scores: list[tuple[int, float]] = []
    for row in run.stdout.decode("utf-8", "replace").splitlines()[1:]:
        cells = row.split("\t")
        if len(cells) == 12 and cells[11].strip():
            lines.setdefault(tuple(cells[1:5]), []).append(cells[11].strip())
            scores.append((len(cells[11].strip()), min(1.0, max(0.0, float(cells[10]) / 100))))
    return _joined([" ".join(line) for line in lines.values()], scores)
