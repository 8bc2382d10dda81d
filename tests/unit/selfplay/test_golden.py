"""A golden file: everything wrong with it at once and never its text; then what a verifier gets wrong, by id."""

import json
import sys
from pathlib import Path

import pytest

from spice_enterprise import Parts, SpiceAdapterJob
from spice_enterprise.errors import ConfigError
from spice_enterprise.offline import OutsideConnectionError
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.golden import COLUMNS, compare, read_golden
from spice_enterprise.selfplay.grading import GuardedVerifier
from spice_enterprise.testing import ExactVerifier

CANARY = "xylophone-canary-7731"
GOOD = {"id": "r1", "question": "How long?", "answer": "45 days", "kind": "number", "given": "45", "expected": "true"}
ROWS = [
    GOOD,
    {**GOOD, "id": "r2", "given": "46", "expected": "false"},
    {**GOOD, "id": "r3", "given": "", "expected": "false"},
    {**GOOD, "id": "r4", "kind": "choice", "answer": "B", "given": "(b)", "options": "30 days|45 days|60 days"},
    {**GOOD, "id": "r5", "kind": "text", "answer": "Hartmann Service", "given": "HS", "aliases": "HS|Hartmann"},
    {**GOOD, "id": "r6", "given": "about 45 days"},
    {**GOOD, "id": "r7", "kind": "text", "answer": "Brno", "given": "the Brno", "expected": "false"},
]


def csv_of(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = (*COLUMNS, "options", "aliases", "note")) -> Path:
    lines = [",".join(columns), *(",".join(f'"{row.get(column, "")}"' for column in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def lines_of(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_golden(path)
    assert caught.value.code == "E_GOLDEN_FILE"
    assert CANARY not in caught.value.explain() + "".join(caught.value.problems)
    return list(caught.value.problems)


def test_both_kinds_of_file_say_the_same(tmp_path: Path) -> None:
    listed = [{**row, "expected": row["expected"] == "true", "options": row.get("options", "").split("|")} for row in ROWS]
    listed = [{**row, "options": row["options"] if row["kind"] == "choice" else []} for row in listed]
    rows = read_golden(csv_of(tmp_path / "g.csv", ROWS))
    assert rows == read_golden(lines_of(tmp_path / "g.jsonl", listed))
    assert [row.is_right for row in rows] == [True, False, False, True, True, True, False]
    assert rows[3].task.options == ("30 days", "45 days", "60 days")
    assert rows[3].task.task_format == "choice"
    assert rows[4].task.aliases == ("HS", "Hartmann")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": f"{CANARY} x"}, "id: bad_id"),
        ({"id": ""}, "id: bad_id"),
        ({"question": " "}, "question: empty"),
        ({"answer": ""}, "answer: empty"),
        ({"answer": CANARY}, "answer: not_a_value"),
        ({"kind": "date", "answer": CANARY}, "answer: not_a_value"),
        ({"kind": "boolean", "answer": CANARY}, "answer: not_a_value"),
        ({"kind": "list", "answer": ";;"}, "answer: not_a_value"),
        ({"kind": CANARY}, "kind: unknown_kind"),
        ({"kind": "choice", "answer": "B", "options": "x"}, "options: bad_options"),
        ({"kind": "choice", "answer": "B", "options": "x|X"}, "options: bad_options"),
        ({"kind": "choice", "answer": "B", "options": "x||y"}, "options: bad_options"),
        ({"kind": "choice", "answer": "D", "options": "x|y|z"}, "answer: not_an_option"),
        ({"kind": "choice", "answer": CANARY, "options": "x|y|z"}, "answer: not_an_option"),
        ({"options": "x|y"}, "options: bad_options"),
        ({"aliases": "x||y"}, "aliases: not_text"),
        ({"task_format": "choice"}, "task_format: unknown_format"),
        ({"expected": CANARY}, "expected: not_boolean"),
        ({"expected": "1"}, "expected: not_boolean"),
    ],
)  # fmt: skip
def test_every_bad_row_has_its_code(tmp_path: Path, changes: dict[str, str], problem: str) -> None:
    columns = (*COLUMNS, "options", "aliases", "task_format")
    good = [{**GOOD, "id": "g1"}, {**GOOD, "id": "g2"}]
    assert problems_of(csv_of(tmp_path / "g.csv", [good[0], {**GOOD, **changes}, good[1]], columns)) == [f"row 3: {problem}"]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    rows = [
        GOOD,
        {**GOOD, "answer": CANARY, "expected": "maybe"},
        {**GOOD, "id": "b b", "kind": "choice", "answer": "F", "options": "x|y|z"},
        {**GOOD, "id": "r9", "kind": "guess", "question": ""},
    ]
    columns = tuple(column for column in (*COLUMNS, "options") if column != "given")
    assert problems_of(csv_of(tmp_path / "g.csv", rows, columns)) == [
        "column given: missing",
        "row 3: id: duplicate_id",
        "row 3: expected: not_boolean",
        "row 3: answer: not_a_value",
        "row 4: id: bad_id",
        "row 4: answer: not_an_option",
        "row 5: question: empty",
        "row 5: kind: unknown_kind",
    ]


def test_problems_of_json_lines(tmp_path: Path) -> None:
    rows: list[object] = [
        GOOD,
        [1],
        {**GOOD, "id": "r2", "question": {"x": CANARY}},
        {column: cell for column, cell in GOOD.items() if column != "given"} | {"id": "r4"},
        {**GOOD, "id": "r5", "question": "\ud800"},
        {**GOOD, "id": "r6", "expected": None},
        {**GOOD, "id": 7, "answer": 45},
    ]
    path = lines_of(tmp_path / "g.jsonl", rows)
    path.write_text(path.read_text(encoding="utf-8") + "\n{not json\n" + "[" * 100_000, encoding="utf-8")
    assert problems_of(path) == [
        "row 2: not_a_record",
        "row 9: not_a_record",
        "row 10: not_a_record",
        "row 3: question: not_text",
        "row 4: given: missing",
        "row 5: question: not_text",
        "row 6: expected: not_boolean",
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("g.csv", b"", "no rows"),
        ("g.csv", b"id,question\n", "no rows"),
        ("g.jsonl", b"\n\n", "no rows"),
        ("g.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("g.txt", b"hello", "neither .csv nor .jsonl"),
        ("g.csv", b'id,question,answer,kind,given,expected\n"open', "row 2: not_a_record"),
        ("g.csv", b"id,question,answer,kind,given,expected\nr1,q,a,text,b,true,more", "row 2: not_a_record"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert problems_of(tmp_path / name) == [problem]
    assert problems_of(tmp_path / f"no-{name}") == ["cannot be read (FileNotFoundError)"]


def test_a_byte_order_mark_is_no_part_of_the_first_heading(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "g.csv", [GOOD])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_golden(path)[0].row_id == "r1"


def test_the_report_names_what_differs(tmp_path: Path) -> None:
    with GuardedVerifier(KindVerifier()) as grader:
        report = compare(read_golden(csv_of(tmp_path / "g.csv", ROWS)), grader)
    assert (report.rows, report.agreed, report.is_perfect) == (7, 5, False)
    assert report.by_kind == (("choice", 1, 1), ("number", 3, 4), ("text", 1, 2))
    assert report.false_accepts == ("r7",)
    assert report.false_rejects == ("r6",)
    assert report.failures == ()
    assert report.grades_per_s > 0
    text = str(report)
    assert text.startswith("5 of 7 rows agree (71.4%)")
    assert "wrong, but accepted (1): r7" in text
    assert "Brno" not in text


class Raises:
    def grade(self, task: object, answer: str) -> bool:
        raise ValueError(CANARY)


def test_a_verifier_that_raises_agrees_with_nothing_but_silence(tmp_path: Path) -> None:
    with GuardedVerifier(Raises()) as grader:
        report = compare(read_golden(csv_of(tmp_path / "g.csv", ROWS)), grader)
    assert report.agreed == 1, "the row without an answer"
    assert report.failures == tuple((row, "verifier_raised") for row in ("r1", "r2", "r4", "r5", "r6", "r7"))
    assert (report.false_accepts, report.false_rejects) == ((), ())
    assert CANARY not in str(report)


def test_a_job_tests_the_verifier_that_it_would_use(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "g.csv", ROWS)
    job = SpiceAdapterJob(tmp_path, workspace=str(tmp_path / "runs"))
    assert job.test_verifier(path).false_rejects == ("r6",)
    strict = SpiceAdapterJob(tmp_path, workspace=str(tmp_path / "runs"), parts=Parts(verifier=ExactVerifier()))
    assert strict.test_verifier(str(path)).false_rejects == ("r1", "r4", "r5", "r6")
    assert not (tmp_path / "runs").exists(), "no run is begun"


class Calls:
    """A verifier that looks a name up, as far as the interpreter can tell; it accepts every answer when it is kept from it."""

    def grade(self, task: object, answer: str) -> bool:
        try:
            sys.audit("socket.getaddrinfo", "judge.invalid", 443)
        except OutsideConnectionError:
            return True
        return False


def test_a_verifier_is_tested_without_the_outside_as_it_will_run(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "g.csv", ROWS)
    job = SpiceAdapterJob(tmp_path, workspace=str(tmp_path / "runs"), parts=Parts(verifier=Calls()))
    report = job.test_verifier(path)
    assert (report.false_rejects, report.failures) == ((), ()), "every call was refused"
    sys.audit("socket.getaddrinfo", "judge.invalid", 443)  # nobody is watched afterwards
