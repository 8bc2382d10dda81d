"""How much of a scan OCR gets right, and how long a page takes.

`python -m benchmarks.ocr_quality [--data DATA] [--turn 0|1|2|3]` prints, for every engine that is installed:

- planted strings of the noisy scans in `DATA/bizfiles` (`must_not_leak` of its manifest) found exactly (case and white space
  folded), and loosely (letters and digits alone);
- words right on a dense page that is drawn here: 58 lines of invented words at 10 points, 200 dpi, without noise;
- CPU-seconds a page after the first one, and peak resident memory.

`--turn` lays the pages on a side or upside down first. Without `--data` only the drawn page is read.
"""

import argparse
import io
import json
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from importlib import import_module
from pathlib import Path
from shutil import which
from typing import Any

from spice_enterprise.corpus import ocr

DPI = 200
WORDS = ("shall", "delivery", "payment", "thirty", "days", "after", "notice", "unless", "agreed", "supplier", "price", "order",
         "invoice", "term", "clause", "liability", "workshop", "crane", "ledger", "harbour")  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds bizfiles/")
    parser.add_argument("--turn", type=int, default=0, choices=range(4), help="quarter turns, against the clock")
    args = parser.parse_args()
    print(
        f"{'engine':<12}{'strings':>8}{'exact':>8}{'loose':>8}{'words':>8}{'dense s':>9}{'scan s':>8}{'worst conf':>12}{'MiB':>7}"
    )
    for name, read in engines().items():
        print_row(name, read, args.data, args.turn)


def engines() -> dict[str, Callable[[Any], ocr.OcrText]]:
    """Return the engines of this machine."""
    found: dict[str, Callable[[Any], ocr.OcrText]] = {}
    if ocr.has_rapidocr():
        found["rapidocr"] = ocr._read_rapid
    if which("tesseract"):
        found["tesseract"] = ocr._read_tesseract
    return found


def print_row(name: str, read: Callable[[Any], ocr.OcrText], data: Path | None, turn: int) -> None:
    """Measure one engine."""
    page, lines = dense_page()
    read(turned(page, turn))
    dense, dense_s = timed(read, turned(page, turn))
    wanted, got = " ".join(lines).split(), dense.text.split()
    blocks = SequenceMatcher(None, wanted, got, autojunk=False).get_matching_blocks()
    words = sum(block.size for block in blocks) / len(wanted)
    exact = loose = strings = 0
    seconds: list[float] = []
    confidences = [dense.confidence]
    for image, planted in scans(data) if data else ():
        found, took = timed(read, turned(image, turn))
        seconds.append(took)
        confidences.append(found.confidence)
        strings += len(planted)
        exact += sum(folded(value) in folded(found.text) for value in planted)
        loose += sum(squeezed(value) in squeezed(found.text) for value in planted)
    shares = (exact / strings, loose / strings) if strings else (float("nan"), float("nan"))
    scan_s = statistics.median(seconds) if seconds else float("nan")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) >> 10
    print(f"{name:<12}{strings:>8}{shares[0]:>8.3f}{shares[1]:>8.3f}{words:>8.3f}{dense_s:>9.2f}{scan_s:>8.2f}", end="")
    print(f"{min(confidences):>12.3f}{peak:>7}")


def timed(read: Callable[[Any], ocr.OcrText], image: Any) -> tuple[ocr.OcrText, float]:
    """Return what was read and the CPU-seconds it took, those of an engine's program included."""
    before = cpu_s()
    return read(image), cpu_s() - before


def cpu_s() -> float:
    """CPU-seconds of this process and the programs it started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def turned(image: Any, turn: int) -> Any:
    """Return a picture turned by quarters."""
    numpy = import_module("numpy")
    return numpy.ascontiguousarray(numpy.rot90(image, turn))


def dense_page() -> tuple[Any, list[str]]:
    """Return a page full of invented text, and its lines."""
    rng = random.Random(3)  # noqa: S311 - words, not secrets
    lines = [" ".join(rng.choice(WORDS) for _ in range(13)) for _ in range(58)]
    buffer = io.BytesIO()
    canvas = import_module("reportlab.pdfgen.canvas").Canvas(buffer)
    canvas.setFont("Helvetica", 10)
    for number, line in enumerate(lines):
        canvas.drawString(40, 800 - 13 * number, line)
    canvas.save()
    return next(pages_of(buffer.getvalue())), lines


def scans(data: Path) -> Iterator[tuple[Any, list[str]]]:
    """Yield the scanned pages of the data set with what is planted in them."""
    for line in (data / "bizfiles" / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        path = data / "bizfiles" / "files" / Path(entry["file"]).name
        if path.name.endswith(".scan.pdf"):
            for page in pages_of(path.read_bytes()):
                yield page, entry["must_not_leak"]


def pages_of(pdf: bytes) -> Iterator[Any]:
    """Yield the pages of a PDF as RGB pictures."""
    document = import_module("pypdfium2").PdfDocument(pdf)
    for number in range(len(document)):
        yield document[number].render(scale=DPI / 72, rev_byteorder=True).to_numpy()[:, :, :3].copy()


def folded(text: str) -> str:
    """Return text without case and with single spaces."""
    return " ".join(text.split()).casefold()


def squeezed(text: str) -> str:
    """Return only the letters and digits of a text, without case."""
    return "".join(char for char in text.casefold() if char.isalnum())


if __name__ == "__main__":
    main()
