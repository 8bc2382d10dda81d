"""Damaged files by the thousand through the real parser child: does anything but the child ever break?

`python -m benchmarks.mutations --data DATA --executions 10000` prints how many executions ended how, and fails when the
parent failed once, an answer was wrong once, or a reason was no fixed phrase. `--again N` shows one execution alone.

Seeds are good files of every format, made here, and the samples in DATA where there are any. Execution N is the same
bytes for the same seeds: everything is drawn from N. Nothing of a file is printed.
"""

import argparse
import ast
import gzip
import io
import lzma
import random
import re
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from spice_enterprise.advice import QUARANTINE
from spice_enterprise.corpus import archives
from spice_enterprise.corpus.archives import Member, archive_suffix
from spice_enterprise.corpus.parsers import NATIVE_SUFFIXES
from spice_enterprise.corpus.plain_text import normalise
from spice_enterprise.corpus.reading import Parsed
from spice_enterprise.corpus.sandbox import BATCH, RawDocument, Sandbox, Unparsed

MAX_SEED_BYTES = 400_000
SLOW_S = 5.0
"""A batch that takes longer is gone through again, one execution at a time."""
FOLDERS = ("pdf_samples", "office_samples", "bizfiles/files")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".bz2", ".xz", ".tar.xz")
MAIL_SUFFIXES = (".eml", ".msg")
"""Read as documents, and opened as archives for what is attached."""
SUFFIXES = (*sorted(NATIVE_SUFFIXES), *ARCHIVE_SUFFIXES)
KNOWN_CODES = frozenset(QUARANTINE)


# --- seeds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A file that reads well."""

    suffix: str
    data: bytes = field(repr=False)


TEXT = "The valve in the harbour was inspected on day four. Write to worker4@crew.example about order 4711.\n"


def seeds(data: Path | None = None) -> list[Seed]:
    """Return the made files, and the samples of a data folder."""
    found = [Seed(suffix=suffix, data=make()) for suffix, make in _MADE.items()]
    paths = [p for folder in FOLDERS if data is not None for p in sorted((data / folder).glob("*.*"))]
    suffixes = {p: archive_suffix(p.name) or p.suffix.lower() for p in paths}
    return found + [
        Seed(suffix=s, data=p.read_bytes()) for p, s in suffixes.items() if s in SUFFIXES and p.stat().st_size <= MAX_SEED_BYTES
    ]


def _docx() -> bytes:
    import docx  # noqa: PLC0415 - one format's library each

    document, out = docx.Document(), io.BytesIO()
    document.add_heading("Plan", 1)
    document.add_paragraph(TEXT)
    table = document.add_table(2, 2)
    for number, cell in enumerate(table._cells):
        cell.text = f"cell {number}"
    document.save(out)
    return out.getvalue()


def _xlsx() -> bytes:
    import openpyxl  # noqa: PLC0415

    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in (("part", "days"), ("valve", 4), ("cable", 7)):
        book.active.append(row)
    book.save(out)
    return out.getvalue()


def _pptx() -> bytes:
    import pptx  # noqa: PLC0415

    show, out = pptx.Presentation(), io.BytesIO()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "Plan", TEXT
    show.save(out)
    return out.getvalue()


def _pdf() -> bytes:
    content = b"BT /F1 12 Tf 72 700 Td (The valve was inspected on day four) Tj 0 -20 Td (and again on day nine) Tj ET"
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 5 0 R /Resources << /Font << /F1 4 0 R >> >> >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >> stream\n%s\nendstream" % (len(content), content),
    )
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, value in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    return bytes(out) + b"xref\n0 6\n0000000000 65535 f \n%strailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        start,
    )


def _mail() -> bytes:
    return (
        b"From: Crew <crew@x.example>\r\nSubject: =?utf-8?q?Plan_f=C3=BCr?= May\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="cut"\r\n\r\n--cut\r\nContent-Type: text/plain; charset=utf-8\r\n'
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        + TEXT.encode()
        + b'\r\n--cut\r\nContent-Type: text/csv; name="a.csv"\r\n'
        b"Content-Disposition: attachment\r\nContent-Transfer-Encoding: base64\r\n\r\ncGFydCxkYXlzCnZhbHZlLDQK\r\n--cut--\r\n"
    )


def _zip() -> bytes:
    return rezipped({"a/plan.txt": TEXT.encode(), "b.csv": b"part,days\nvalve,4\n", "c.html": b"<p>words</p>"})


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name in ("a/plan.txt", "b.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(TEXT)
            file.addfile(info, io.BytesIO(TEXT.encode()))
    return out.getvalue()


_HTML = (
    f"<!doctype html><html><meta charset=utf-8><h1>Plan</h1><p>{TEXT}</p><table><tr><th>part<td>days<tr><td>valve<td>4</table>"
)
_MADE: dict[str, Callable[[], bytes]] = {
    ".txt": lambda: (TEXT * 3).encode(),
    ".md": lambda: f"# Plan\n\n{TEXT}\n| part | days |\n|---|---|\n| valve | 4 |\n".encode(),
    ".csv": lambda: b'part,days,remark\nvalve,4,"a, b"\ncable,7,x\n',
    ".tsv": lambda: b"part\tdays\nvalve\t4\n",
    ".html": _HTML.encode,
    ".xml": lambda: f'<?xml version="1.0"?><plan><part id="4">{TEXT}</part></plan>'.encode(),
    ".eml": _mail,
    ".pdf": _pdf,
    ".docx": _docx,
    ".xlsx": _xlsx,
    ".pptx": _pptx,
    ".zip": _zip,
    ".tar": _tar,
    ".tgz": lambda: gzip.compress(_tar(), mtime=0),
    ".gz": lambda: gzip.compress(TEXT.encode() * 9, mtime=0),
    ".xz": lambda: lzma.compress(TEXT.encode() * 9),
}


# --- mutations --------------------------------------------------------------------------------------------------------

Mutate = Callable[[random.Random, bytes, bytes], bytes]
"""(random numbers, a file, another file) to a changed file."""
_ODD = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"%n",
    b"../",
    b"<",
    b"&",
    b"]]>",
    b"\r\n\r\n",
    b"\xe2\x80\xae",
    b"\x1b[2J",
)
_NUMBERS = (b"0", b"-1", b"1", b"65536", b"2147483647", b"4294967296", b"99999999999999999999", b"1e999", b"0.0000000001", b"NaN")


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + int(2 ** rng.uniform(0, 13)))


def flip_bits(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Change single bits."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 4, 32))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Put bytes in between."""
    place = _place(rng, data)
    piece = rng.choice(_ODD) * rng.choice((1, 1, 3, 1000)) if rng.random() < 0.5 else rng.randbytes(rng.choice((1, 8, 300)))
    return data[:place] + piece + data[place:]


def delete(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Take a stretch out."""
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def truncate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Cut the end off, or the beginning."""
    place = _place(rng, data)
    return data[:place] if rng.random() < 0.8 else data[place:]


def repeat(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Write a stretch several times."""
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def swap(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Exchange two stretches that lie beside each other."""
    a, b, c = sorted(_place(rng, data) for _ in range(3))
    b, c = min(b, a + 4_096), min(c, b + 4_096)
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Begin as one file and end as another."""
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def renumber(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Replace numbers that are written out, as PDF, XML and mail have them."""
    return _replaced(rng, data, rb"\d+", lambda: rng.choice(_NUMBERS))


def rename(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Replace names of PDF, tags and header fields by others of the file."""
    names = re.findall(rb"/[A-Z]\w+|</?\w+|^[\w-]+:", data, re.MULTILINE)
    return _replaced(rng, data, rb"(?m)/[A-Z]\w+|</?\w+|^[\w-]+:", lambda: rng.choice(names))


def _replaced(rng: random.Random, data: bytes, form: bytes, value: Callable[[], bytes]) -> bytes:
    found = list(re.finditer(form, data))
    for match in sorted(rng.sample(found, min(len(found), rng.choice((1, 2, 8)))), key=lambda m: m.start(), reverse=True):
        data = data[: match.start()] + value() + data[match.end() :]
    return data


def change_member(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Change what lies in a zip or office file, and pack it again; another file is changed as bytes."""
    members = _members(data)
    if not members:
        return rng.choice(_PLAIN)(rng, data, other)
    name = rng.choice(sorted(members))
    kind = rng.randrange(8)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[rng.choice(sorted(members))] = members[name]
    elif kind == 2:
        members[rng.choice(("../x", "/x", "word/document.xml", "[Content_Types].xml", "x" * 300, "word/vbaProject.bin"))] = (
            members[name]
        )
    else:
        members[name] = rng.choice(_PLAIN)(rng, members[name], other)
    return rezipped(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _members(data: bytes) -> dict[str, bytes]:
    """Return what lies in a good seed that is a zip; nothing for any other file."""
    if not data.startswith(b"PK\x03\x04"):
        return {}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith("/")}


def rezipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of these members, the same bytes each time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content, compress_type=method)
    return out.getvalue()


_PLAIN: tuple[Mutate, ...] = (flip_bits, insert, delete, truncate, repeat, swap, splice, renumber, rename)
MUTATIONS: tuple[Mutate, ...] = (*_PLAIN, change_member, change_member, change_member)


def mutation(number: int, given: Sequence[Seed]) -> Seed:
    """Return execution `number`: a seed changed once, sometimes twice, sometimes under another suffix."""
    rng = random.Random(number)  # noqa: S311 - chance, not secrecy
    seed, other = rng.choice(given), rng.choice(given)
    data = rng.choice(MUTATIONS)(rng, seed.data, other.data)
    if rng.random() < 0.3:
        data = rng.choice(_PLAIN)(rng, data, other.data)
    return Seed(suffix=rng.choice(SUFFIXES) if rng.random() < 0.05 else seed.suffix, data=data)


# --- executions -------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What became of all executions."""

    executions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    parent_failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """(number, what is wrong) as text, without anything of the file."""
    deaths: list[int] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: int = -1


def run(numbers: Sequence[int], given: Sequence[Seed], box: Sandbox | None = None) -> Result:
    """Execute mutations in batches."""
    box, result = box or Sandbox(is_required=False), Result()
    for start in range(0, len(numbers), BATCH):
        batch = numbers[start : start + BATCH]
        begun = time.monotonic()
        _execute(batch, given, box, result)
        spent_s = time.monotonic() - begun
        if spent_s > max(SLOW_S, result.slowest_s):
            _find_slowest(batch, given, box, result)
    return result


def _execute(batch: Sequence[int], given: Sequence[Seed], box: Sandbox, result: Result) -> None:
    """Parse a batch, open those of it that are archives or mails, and check every answer."""
    mutated = [mutation(number, given) for number in batch]
    documents = [RawDocument(suffix=seed.suffix, data=seed.data) for seed in mutated]
    result.executions += len(batch)
    try:
        answers: list[tuple[int, Parsed | Unparsed | list[Member]]] = [
            (number, box.expand(document))
            for number, document in zip(batch, documents, strict=True)
            if document.suffix in (*ARCHIVE_SUFFIXES, *MAIL_SUFFIXES)
        ]
        read = [(number, d) for number, d in zip(batch, documents, strict=True) if d.suffix not in ARCHIVE_SUFFIXES]
        answers += zip((number for number, _ in read), box.parse([document for _, document in read]), strict=True)
    except Exception as error:  # noqa: BLE001 - a failure of the parent is what is counted here
        result.parent_failures.append(f"{batch[0]} to {batch[-1]}: {type(error).__name__}")
        return
    for number, answer in answers:
        _judge(number, answer, result)


def _judge(number: int, answer: Parsed | Unparsed | list[Member], result: Result) -> None:
    if isinstance(answer, Unparsed):
        result.outcomes[answer.code] += 1
        if answer.reason == _DIED:
            result.deaths.append(number)
    else:
        result.outcomes["members" if isinstance(answer, list) else "text"] += 1
    problem = problem_of(answer)
    if problem:
        result.wrong.append(f"{number}: {problem}")


_DIED = "the parser died or exceeded its limits"


def problem_of(answer: Parsed | Unparsed | list[Member]) -> str:
    """Return what is wrong with an answer; nothing when it is right."""
    if isinstance(answer, Unparsed):
        if answer.code not in KNOWN_CODES:
            return f"the code {answer.code} is not known"
        return "" if is_fixed_phrase(answer.reason) else "the reason is no fixed phrase"
    if isinstance(answer, list):
        return "" if all(member.name for member in answer) else "a member has no name"
    if not any(page.strip() for page in answer.pages):
        return "read, but without text"
    return "" if all(normalise(page) == page for page in answer.pages) else "the text is not normalised"


@cache
def is_fixed_phrase(reason: str) -> bool:
    """True when a reason is written in the package's source, but for a number or one word in its holes."""
    return any(phrase.fullmatch(reason) for phrase in _phrases())


@cache
def _phrases() -> tuple[re.Pattern[str], ...]:
    """Return every string of the corpus package as an expression."""
    found: set[str] = set()
    for path in Path(archives.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(str(p.value)) if isinstance(p, ast.Constant) else r"[\w.]{1,40}" for p in node.values]
                found.add(
                    "".join(parts) if sum(isinstance(p, ast.Constant) and len(str(p.value)) for p in node.values) > 8 else ""
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                found.add(re.escape(node.value))
    return tuple(re.compile(form) for form in sorted(found) if form)


def _find_slowest(batch: Sequence[int], given: Sequence[Seed], box: Sandbox, result: Result) -> None:
    for number in batch:
        begun = time.monotonic()
        _execute([number], given, box, Result())
        spent_s = time.monotonic() - begun
        if spent_s > result.slowest_s:
            result.slowest_s, result.slowest = spent_s, number


# --- the command ------------------------------------------------------------------------------------------------------


def lines(result: Result, spent_s: float) -> Iterator[str]:
    """Yield the figures."""
    yield "| figure | value |"
    yield "|---|---|"
    yield f"| executions | {result.executions:,} in {spent_s:,.0f} s |"
    yield f"| parent failures | {len(result.parent_failures)} |"
    yield f"| wrong answers | {len(result.wrong)} |"
    yield f"| child deaths | {len(result.deaths)} |"
    slowest = f"{result.slowest_s:.1f} s, number {result.slowest}" if result.slowest >= 0 else f"no batch above {SLOW_S:.0f} s"
    yield f"| slowest execution | {slowest} |"
    yield from (f"| {outcome} | {count:,} |" for outcome, count in result.outcomes.most_common())
    yield from (f"- {line}" for line in (*result.parent_failures, *result.wrong[:50]))
    if result.deaths:
        yield f"- deaths: {', '.join(map(str, result.deaths[:50]))}"


def main() -> None:
    """Run, print, and exit with 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with pdf_samples, office_samples and bizfiles")
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0, help="first number")
    parser.add_argument("--again", type=int, metavar="N", help="only this one")
    told = parser.parse_args()
    given = seeds(told.data)
    numbers = range(told.start, told.start + told.executions) if told.again is None else [told.again]
    begun = time.monotonic()
    total = Result()
    for start in range(0, len(numbers), 1_000):
        _add(total, run(numbers[start : start + 1_000], given))
        sys.stderr.write(
            f"{total.executions:,} done in {time.monotonic() - begun:,.0f} s, {len(total.parent_failures)} failures\n"
        )
    print("\n".join(lines(total, time.monotonic() - begun)))
    sys.exit(bool(total.parent_failures or total.wrong))


def _add(total: Result, more: Result) -> None:
    total.executions += more.executions
    total.outcomes.update(more.outcomes)
    total.parent_failures += more.parent_failures
    total.wrong += more.wrong
    total.deaths += more.deaths
    if more.slowest_s > total.slowest_s:
        total.slowest_s, total.slowest = more.slowest_s, more.slowest


if __name__ == "__main__":
    main()
