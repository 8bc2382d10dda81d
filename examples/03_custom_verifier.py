"""A verifier of your own: answers that name a clause count as right in any spelling.

In: a task and an answer.
Out: True or False; a job that grades with it, in self-play and in the exam alike.
Refuses: nothing; a verifier must not raise, and what it cannot read is wrong.
Not here: naming code in a config file. A part is an object that you pass.
"""

import re

from spice_enterprise import Parts, SpiceAdapterJob, Task
from spice_enterprise.testing import ExactVerifier


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


def task(answer: str) -> Task:
    """Return a task with this reference answer."""
    return Task(
        chunk_id="chunk_example",
        rollout_id="roll_example",
        question="Which clause rules termination?",
        answer=answer,
        answer_kind="text",
        task_format="free_form",
        regime="open_book",
    )


def main() -> dict[str, bool]:
    """Grade some answers, then put the verifier into a job."""
    verifier = ClauseVerifier()
    said = ("Cl. 7.2", "§ 7.2", "clause 7", "It is clause 7.2", "")
    grades = {answer: verifier.grade(task("clause 7.2"), answer) for answer in said}
    for answer, is_right in grades.items():
        print(f"{answer!r:<22} {'right' if is_right else 'wrong'}")
    SpiceAdapterJob("memory", parts=Parts(verifier=verifier))  # .run() would grade with it
    return grades


if __name__ == "__main__":
    main()
