"""Which question was answered right, by whom, without a word of it: ids and 0 or 1.

In: what base and adapter scored on one exam, and the questions that share words with training.
Out: an `AnswerSheet`, and the file of it in a run's directory.
Refuses: a file that is missing, or of another exam or adapter (E_BASELINE).
Not here: asking (`evaluation.py`), comparing runs (`experiment`, one level up).
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from spice_enterprise.durable import write_file
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import Claim, Exam, canonical_json, decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemMarks:
    """One question: 1 where the answer was right."""

    item_id: str
    document_id: str
    claim: Claim
    base_without: int
    base_with: int
    """`with` and `without` the passage."""
    adapter_without: int
    adapter_with: int
    is_overlapping: bool
    """Training saw 13 words in a row of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSheet:
    """The marks of one adapter and of its base, in the exam's order."""

    exam_digest: str
    adapter_digest: str
    """`base` when the base was held against itself."""
    items: tuple[ItemMarks, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The marks of one model: one truth value per question, in the exam's order."""

    without_passage: tuple[bool, ...]
    with_passage: tuple[bool, ...]


def make_sheet(exam: Exam, adapter_digest: str, base: Marks, adapter: Marks, overlapping: Collection[str] = ()) -> AnswerSheet:
    """Return the sheet. Raises `ValueError` when a model did not answer every question."""
    columns = (base.without_passage, base.with_passage, adapter.without_passage, adapter.with_passage)
    items = tuple(
        ItemMarks(
            item_id=item.item_id,
            document_id=item.document_id,
            claim=item.claim,
            base_without=int(marks[0]),
            base_with=int(marks[1]),
            adapter_without=int(marks[2]),
            adapter_with=int(marks[3]),
            is_overlapping=item.item_id in overlapping,
        )
        for item, *marks in zip(exam.items, *columns, strict=True)
    )
    return AnswerSheet(exam_digest=exam.digest, adapter_digest=adapter_digest, items=items)


def write_sheet(folder: Path, sheet: AnswerSheet) -> None:
    """Write the sheet into a run's directory. Raises `OSError`."""
    write_file(_path(folder, sheet.exam_digest, sheet.adapter_digest), canonical_json(sheet))


def read_sheet(folder: Path, *, exam_digest: str, adapter_digest: str) -> AnswerSheet:
    """Return the sheet of an adapter. Raises `IntegrityError` E_BASELINE when there is none of it."""
    path = _path(folder, exam_digest, adapter_digest)
    hint = "delete records/gates.jsonl of the run and run the gate again"
    try:
        sheet = decode(AnswerSheet, json.loads(path.read_bytes()))
    except (OSError, ValueError):
        raise IntegrityError(f"{path.name}: missing or not JSON", code="E_BASELINE", hint=hint) from None
    if (sheet.exam_digest, sheet.adapter_digest) != (exam_digest, adapter_digest):
        raise IntegrityError(f"{path.name}: of another exam or adapter", code="E_BASELINE", hint=hint)
    return sheet


def _path(folder: Path, exam_digest: str, adapter_digest: str) -> Path:
    exam, adapter = (digest.removeprefix("sha256:")[:16] for digest in (exam_digest, adapter_digest))
    return folder / f"answers-{exam}-{adapter}.json"
