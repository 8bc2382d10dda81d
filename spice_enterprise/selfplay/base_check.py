"""What the frozen base makes of a proposal: can it be answered from the passage, and without it?

In: a task as it would be played, its chunk.
Out: prompts for the base (adapter disabled), and the share of its answers that agree with the reference answer.
Refuses: `base_open_book` when too few answers with the passage agree: the reference answer is wrong, or the question unclear.
    `ungraded` instead when the verifier failed on one of them, which says nothing about the proposal.
    `base_closed_book` when every answer without the passage agrees: the question needs no document.
Not here: the cheap checks (`admission.py`). No vote of the model in training decides what it is trained on.

The seed of a vote is made of the run's seed, the chunk and the question, so its verdict is the same before and after training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import VERIFIER_FAILURES, Grader
from spice_enterprise.records import Chunk, Completion, Prompt, ScrubbedText, Task
from spice_enterprise.seeding import derive
from spice_enterprise.selfplay.grading import grade_completions
from spice_enterprise.selfplay.prompts import Decoding, reasoner_prompt
from spice_enterprise.selfplay.streaming import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Shares of the base's answers that agree, None where it was not asked."""

    open_book: float | None = None
    closed_book: float | None = None
    is_ungraded: bool = False
    """The verifier gave no verdict on some answer."""


def asks(task: Task, chunk: Chunk, config: SelfplayConfig, *, key: str, seed: int) -> list[Ask]:
    """Return what the base is asked about one task: with the passage, without it, either or neither."""
    wanted: tuple[tuple[int, tuple[ScrubbedText, ...], str], ...] = (
        (config.open_book_samples, (chunk.text,), "open"),
        (config.closed_book_samples, (), "closed"),
    )
    return [
        Ask(
            key=f"{key}/{book}",
            prompt=_prompt(task, config, passages),
            n=n,
            seed=derive(seed, "base", book, task.chunk_id, task.question),
            phase="admission",
            speaker="base",
        )
        for n, passages, book in wanted
        if n
    ]


def votes(task: Task, heard: Sequence[Sequence[Completion]], config: SelfplayConfig, grader: Grader) -> Votes:
    """Return the shares of agreeing answers, given the groups that `asks` asked for, in order."""
    graded = [grade_completions(task, completions, grader) for completions in heard]
    is_ungraded = any(grade.code in VERIFIER_FAILURES for grades in graded for grade in grades)
    shares = [sum(grade.is_correct for grade in grades) / len(grades) for grades in graded]
    open_book = shares.pop(0) if config.open_book_samples else None
    closed_book = shares.pop(0) if config.closed_book_samples else None
    return Votes(open_book=open_book, closed_book=closed_book, is_ungraded=is_ungraded)


def refusal_of(found: Votes, config: SelfplayConfig) -> str:
    """Return the code that refuses a task with these votes, or `""`."""
    if found.open_book is not None and found.open_book * config.open_book_samples < config.open_book_agree - 1e-9:
        return "ungraded" if found.is_ungraded else "base_open_book"
    return "base_closed_book" if found.closed_book == 1.0 else ""


def _prompt(task: Task, config: SelfplayConfig, passages: Sequence[ScrubbedText]) -> Prompt:
    decoding = Decoding(max_new_tokens=config.reasoner_tokens, temperature=config.check_temperature)
    return reasoner_prompt(task.question, decoding, options=task.options, passages=passages, contract=config.contract)
