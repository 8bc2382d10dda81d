"""A golden file of answers that people have judged, and how a verifier does on it.

In: a CSV or JSON Lines file with the columns of `COLUMNS`, and where wanted those of `OPTIONAL`; a verifier.
Out: a `VerifierReport`: agreement, wrong verdicts by id, failures by code, speed. Never a question or an answer.
Refuses: a file with anything wrong in it (`E_GOLDEN_FILE`), with every problem at once by row, column and code.
Not here: the verdicts (`grading.py`).

Rows count as a spreadsheet shows them: the heading of a CSV file is row 1; the first line of a JSON Lines file is row 1.
Options and aliases are separated by `|` in a cell, or a list in JSON. Other columns are left alone.

    missing          the column is not there, or this row has no such cell
    not_text         not text, and no number either
    empty            nothing in it
    bad_id           other than letters, digits and `._:-`, or longer than 64
    duplicate_id     the id of an earlier row
    unknown_kind     none of the answer kinds
    unknown_format   not free_form or choice, or not the one that goes with the kind
    bad_options      a choice without 2 to 26 different options, or options without a choice
    not_an_option    the reference answer is no letter of the options
    not_a_value      the reference answer cannot be read as its kind
    not_boolean      neither true nor false
    not_a_record     no JSON object, or more cells than columns
"""

import csv
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

from spice_enterprise.errors import ConfigError
from spice_enterprise.protocols import Grade
from spice_enterprise.records import AnswerKind, Task, TaskFormat
from spice_enterprise.selfplay.answers import (
    LETTERS,
    as_text,
    letter_of,
    read_boolean,
    read_date,
    read_items,
    read_number,
)
from spice_enterprise.selfplay.grading import NO_ANSWER, GuardedVerifier

COLUMNS: Final = ("id", "question", "answer", "kind", "given", "expected")
OPTIONAL: Final = ("options", "aliases", "task_format")
MAX_BYTES: Final = 64 << 20
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_READERS: Final[dict[str, Callable[[str], object]]] = {
    "number": read_number,
    "date": read_date,
    "boolean": read_boolean,
    "list": lambda text: read_items(text) or None,
}
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenRow:
    """One judged answer."""

    row_id: str
    task: Task
    given: str
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierReport:
    """How the verdicts of a verifier compare with those of people."""

    rows: int
    agreed: int
    by_kind: tuple[tuple[str, int, int], ...]
    """(kind, agreed, rows), sorted by kind."""
    false_accepts: tuple[str, ...]
    """Ids of wrong answers that it calls right: what a model in training would learn to write."""
    false_rejects: tuple[str, ...]
    """Ids of right answers that it calls wrong."""
    failures: tuple[tuple[str, str], ...]
    """(id, code) where it gave no verdict; see `selfplay.grading`."""
    grades_per_s: float

    @property
    def is_perfect(self) -> bool:
        """True when it agrees on every row."""
        return self.agreed == self.rows

    def __str__(self) -> str:
        lines = [
            f"{self.agreed} of {self.rows} rows agree ({self.agreed / self.rows:.1%}), {self.grades_per_s:,.0f} grades per second"
        ]
        lines += [f"{kind:<12} {agreed} of {rows}" for kind, agreed, rows in self.by_kind]
        lines += _listed("wrong, but accepted", self.false_accepts)
        lines += _listed("right, but rejected", self.false_rejects)
        lines += _listed("no verdict", [f"{row_id} {code}" for row_id, code in self.failures])
        return "\n".join(lines)


def _listed(title: str, items: Sequence[str]) -> list[str]:
    return [f"{title} ({len(items)}): {', '.join(items)}"] if items else []


def compare(rows: Sequence[GoldenRow], grader: GuardedVerifier) -> VerifierReport:
    """Grade every row and compare. Raises as `GuardedVerifier.grade_pairs`; `rows` must not be empty."""
    pairs = [(row.task, row.given) for row in rows]
    grader.grade_pairs(list({task.answer_kind: (task, given) for task, given in pairs}.values()))  # loads what they need
    begun = time.perf_counter()
    grades = grader.grade_pairs(pairs)
    spent_s = time.perf_counter() - begun
    return _report(list(zip(rows, grades, strict=True)), len(rows) / spent_s)


def _report(graded: Sequence[tuple[GoldenRow, Grade]], grades_per_s: float) -> VerifierReport:
    failures = tuple((row.row_id, grade.code) for row, grade in graded if _is_failure(grade))
    judged = [(row, grade.is_correct) for row, grade in graded if not _is_failure(grade)]
    agreed = Counter(row.task.answer_kind for row, verdict in judged if verdict is row.is_right)
    rows = Counter(row.task.answer_kind for row, _ in graded)
    return VerifierReport(
        rows=len(graded),
        agreed=agreed.total(),
        by_kind=tuple((kind, agreed[kind], rows[kind]) for kind in sorted(rows)),
        false_accepts=tuple(row.row_id for row, verdict in judged if verdict and not row.is_right),
        false_rejects=tuple(row.row_id for row, verdict in judged if not verdict and row.is_right),
        failures=failures,
        grades_per_s=grades_per_s,
    )


def _is_failure(grade: Grade) -> bool:
    return grade.code not in ("", NO_ANSWER)


# --- the file ---------------------------------------------------------------------------------------------------------


def read_golden(path: Path) -> tuple[GoldenRow, ...]:
    """Read a golden file. Raises `ConfigError` E_GOLDEN_FILE with every problem in it."""
    records, problems = _read_records(path, _read_text(path))
    known = {column for _, record in records for column in record}
    absent = [column for column in COLUMNS if column not in known] if records else []
    problems += [f"column {column}: missing" for column in absent]
    seen: set[str] = set()
    for number, record in records:
        found = [*_id_problems(record, seen), *_row_problems(record)]
        problems += [f"row {number}: {field}: {code}" for field, code in found if field not in absent]
    if not records and not problems:
        problems = ["no rows"]
    if problems:
        raise _refused(path, problems)
    return tuple(_row_of(record) for _, record in records)


def _refused(path: Path, problems: Sequence[str]) -> ConfigError:
    what = problems[0] if len(problems) == 1 else f"{len(problems)} problems"
    hint = "docs/how-to/add_a_verifier.md has the columns; `selfplay.golden` says what each code means"
    return ConfigError(f"{path.name}: {what}", code="E_GOLDEN_FILE", hint=hint, problems=tuple(problems))


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _refused(path, [f"larger than {MAX_BYTES} bytes"])
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _refused(path, [f"cannot be read ({type(error).__name__})"]) from None
    except UnicodeDecodeError:
        raise _refused(path, ["not UTF-8"]) from None


def _read_records(path: Path, text: str) -> tuple[list[tuple[int, Record]], list[str]]:
    """Return (row number, record) of each row that is one, and what is wrong with the others."""
    if path.suffix.lower() == ".csv":
        return _read_csv(text)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _read_lines(text)
    return [], ["neither .csv nor .jsonl"]


def _read_csv(text: str) -> tuple[list[tuple[int, Record]], list[str]]:
    records: list[tuple[int, Record]] = []
    problems: list[str] = []
    try:
        for number, cells in enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), start=2):
            if None in cells:
                problems.append(f"row {number}: not_a_record")
            records.append((number, {name: value for name, value in cells.items() if name and value is not None}))
    except csv.Error:
        problems.append(f"row {len(records) + 2}: not_a_record")
    return records, problems


def _read_lines(text: str) -> tuple[list[tuple[int, Record]], list[str]]:
    records: list[tuple[int, Record]] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            record = False
        if isinstance(record, dict):
            records.append((number, record))
        elif record is not None:
            problems.append(f"row {number}: not_a_record")
    return records, problems


# --- one row ----------------------------------------------------------------------------------------------------------

Problem = tuple[str, str]
"""(column, code)."""


def _id_problems(record: Record, seen: set[str]) -> list[Problem]:
    row_id = _text(record, "id")
    if row_id is None:
        return []  # told with the other columns
    if not _ID.fullmatch(row_id):
        return [("id", "bad_id")]
    is_known = row_id in seen
    seen.add(row_id)
    return [("id", "duplicate_id")] if is_known else []


def _row_problems(record: Record) -> list[Problem]:
    found: list[Problem] = []
    for column in COLUMNS[:-1]:
        text = _text(record, column)
        if text is None:
            found.append((column, "not_text" if column in record else "missing"))
        elif not text.strip() and column in ("question", "answer"):
            found.append((column, "empty"))
    if _truth(record) is None:
        found.append(("expected", "not_boolean" if "expected" in record else "missing"))
    kind = _text(record, "kind")
    if kind in get_args(AnswerKind):
        return [*found, *_value_problems(record, kind or "")]
    return found if kind is None else [*found, ("kind", "unknown_kind")]


def _value_problems(record: Record, kind: str) -> list[Problem]:
    """Look at what only makes sense once the kind is known."""
    found: list[Problem] = []
    options, aliases = _parts(record, "options"), _parts(record, "aliases")
    answer, is_choice = _text(record, "answer") or "", kind == "choice"
    if _text(record, "task_format") not in (None, "", "choice" if is_choice else "free_form"):
        found.append(("task_format", "unknown_format"))
    if aliases is None:
        found.append(("aliases", "not_text"))
    if options is None or not _are_options(options, is_choice=is_choice):
        found.append(("options", "bad_options"))
    elif is_choice and answer.strip() and (letter_of(answer) or "?") not in LETTERS[: len(options)]:
        found.append(("answer", "not_an_option"))
    if kind in _READERS and answer.strip() and _READERS[kind](answer) is None:
        found.append(("answer", "not_a_value"))
    return found


def _are_options(options: Sequence[str], *, is_choice: bool) -> bool:
    if not is_choice:
        return not options
    return 2 <= len({as_text(option) for option in options}) == len(options) <= len(LETTERS)


def _row_of(record: Record) -> GoldenRow:
    kind = cast("AnswerKind", _text(record, "kind"))
    task_format: TaskFormat = "choice" if kind == "choice" else "free_form"
    task = Task(
        chunk_id="chunk_golden",
        rollout_id="roll_golden",
        question=_text(record, "question") or "",
        answer=_text(record, "answer") or "",
        answer_kind=kind,
        task_format=task_format,
        regime="self_contained",
        options=tuple(_parts(record, "options") or ()),
        aliases=tuple(_parts(record, "aliases") or ()),
    )
    return GoldenRow(
        row_id=_text(record, "id") or "", task=task, given=_text(record, "given") or "", is_right=_truth(record) is True
    )


def _text(record: Record, column: str) -> str | None:
    """Return a cell as text; None when there is none, or what is there is not text or a number."""
    value = record.get(column)
    if isinstance(value, str):
        return value if value.isascii() or not re.search("[\ud800-\udfff]", value) else None
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _parts(record: Record, column: str) -> list[str] | None:
    """Return the parts of a cell; None when they are not text."""
    value = record.get(column)
    if value is None or value == "":
        return []
    parts = value if isinstance(value, list) else (_text(record, column) or "").split("|")
    texts = [_text({"part": part}, "part") for part in parts]
    return [text.strip() for text in texts if text] if all(text and text.strip() for text in texts) else None


def _truth(record: Record) -> bool | None:
    value = record.get("expected")
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else None
