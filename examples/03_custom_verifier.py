"""A verifier of your own: answers that name a clause count as right in any spelling.

In: a task and an answer.
Out: True or False; a job that grades with it, in self-play and in the exam alike; how it does on answers that people judged.
Refuses: nothing; what it cannot read is wrong. One that raises or hangs loses that answer alone.
Not here: naming code in a config file. A part is an object that you pass.
"""

import csv
import re
import tempfile
from pathlib import Path

from spice_enterprise import Parts, SpiceAdapterJob, Task
from spice_enterprise.testing import ExactVerifier

JUDGED = (
    ("r1", "Cl. 7.2", "true"),
    ("r2", "§ 7.2", "true"),
    ("r3", "clause 7", "false"),
    ("r4", "It is clause 7.2", "false"),
    ("r5", "seven point two", "true"),
)
"""(id, what was answered, is it right?); the reference answer is always "clause 7.2"."""


class ClauseVerifier:
    """Right when both sides name the same clause number: "clause 7.2", "Cl. 7.2", "§ 7.2"."""

    def __init__(self) -> None:
        self._exact = ExactVerifier()

    def grade(self, task: Task, answer: str) -> bool:
        """Compare clause numbers where the reference is one, else the text."""
        wanted, given = _clause(task.answer), _clause(answer)
        return wanted == given if wanted else self._exact.grade(task, answer)


def _clause(text: str) -> str:
    found = re.fullmatch(r"\s*(?:clause|cl\.|section|§)\s*(\d+(?:\.\d+)*)\.?\s*", text, re.IGNORECASE)
    return found.group(1) if found else ""


def write_judged(path: Path) -> Path:
    """Write the golden file: one judged answer per row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "question", "answer", "kind", "given", "expected"))
        writer.writerows((row, "Which clause rules termination?", "clause 7.2", "text", *rest) for row, *rest in JUDGED)
    return path


def main() -> tuple[str, ...]:
    """Put the verifier into a job and try it; return the ids of right answers that it rejects."""
    job = SpiceAdapterJob("memory", parts=Parts(verifier=ClauseVerifier()))  # .run() would grade with it
    with tempfile.TemporaryDirectory() as folder:
        report = job.test_verifier(write_judged(Path(folder) / "judged.csv"))
    print(report)
    return report.false_rejects


if __name__ == "__main__":
    main()
