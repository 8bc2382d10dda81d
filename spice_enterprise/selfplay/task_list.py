"""The tasks of a step as lines that a person can read: `tasks.jsonl`.

In: what was played in a step, the document of each chunk.
Out: one `TaskLine` per task, fresh or replayed, and one per proposal that became none, with the reason.
Refuses: nothing.
Not here: the file (`store.py`). The text is the model's own, written from scrubbed chunks; it stays in the run directory and
    is shown to no log and no tracking server.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from spice_enterprise.protocols import Played
from spice_enterprise.records import Admission, AnswerKind, Regime, Rollout, RolloutGroup, Task, TaskFormat

MAX_CHARS: Final = 500
"""Of a proposal that could not be read."""
ADMITTED: Final = "admitted"
EXAMPLE: Final = "example"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLine:
    """One line. What is not known is None or empty."""

    step: int
    source: Literal["fresh", "replay"]
    verdict: str
    """`admitted`, or the code of what refused the proposal (`not_attempted`: admitted, but no room for it in the step;
    `example`: admitted in a warm-up, where it was learned as an example instead of being asked)."""
    chunk_id: str
    document_id: str
    task_id: str = ""
    regime: Regime | None = None
    task_format: TaskFormat | None = None
    answer_kind: AnswerKind | None = None
    question: str = field(default="", repr=False)
    """Of a proposal that could not be read: the beginning of what the model wrote."""
    answer: str = field(default="", repr=False)
    """The reference answer; of a choice the letter."""
    options: tuple[str, ...] = field(default=(), repr=False)
    open_book: float | None = None
    """Share of the frozen base's answers with the passage that agree with the reference answer."""
    closed_book: float | None = None
    pass_rate: float | None = None
    """Share of the Reasoner's answers that were right."""
    reward: float | None = None
    """What the proposal earned; None for a replay, and where it was not weighed."""
    similarity: float | None = None
    """To the nearest question asked before."""
    is_trained: bool = False
    """True when the Reasoner learned from this task (a proposal's own line says it of the task, not of the Challenger)."""


def task_lines(played: Played, *, step: int, documents: Mapping[str, str]) -> list[TaskLine]:
    """Return the lines of a step, proposals in the order they were made, then replays."""
    book = _Book(played, step, documents)
    proposals = (
        rollout
        for item in played.rollouts
        if item.group.role == "challenger" and item.group.objective == "policy"
        for rollout in item.group.rollouts
    )
    fresh = [line for rollout in proposals if (line := book.proposal(rollout)) is not None]
    return [*fresh, *(book.task(task, source="replay", reward=None) for task in played.replayed)]


class _Book:
    """A play with its parts found by id."""

    def __init__(self, played: Played, step: int, documents: Mapping[str, str]) -> None:
        self._step, self._documents = step, documents
        self._tasks = {task.rollout_id: task for task in played.tasks}
        self._verdicts = {admission.rollout_id: admission for admission in played.admissions}
        self._known = {task.task_id for task in played.tasks}
        self._answers = dict(_answered(played))
        self._learned = {rollout.parent_id for rollout in _examples(played)}

    def proposal(self, rollout: Rollout) -> TaskLine | None:
        """Return the line of a proposal; None for one whose question another has proposed already, and for a format choice."""
        admission = self._verdicts.get(rollout.rollout_id)
        if (task := self._tasks.get(rollout.rollout_id)) is not None:
            reward = None if rollout.reason else rollout.reward  # a valid one with a reason left its group and earned nothing
            return self.task(task, source="fresh", reward=reward, admission=admission)
        shared = admission is not None and admission.task_id in self._known
        is_told = rollout.outcome == "valid" and (shared or rollout.reason != "not_attempted")
        return None if is_told or rollout.reason == "format_choice" else self._refused(rollout, admission)

    def task(
        self, task: Task, *, source: Literal["fresh", "replay"], reward: float | None, admission: Admission | None = None
    ) -> TaskLine:
        """Return the line of a task."""
        pass_rate, is_trained = self._answers.get(task.task_id, (None, False))
        return TaskLine(
            step=self._step,
            source=source,
            verdict=ADMITTED,
            chunk_id=task.chunk_id,
            document_id=self._documents.get(task.chunk_id, ""),
            task_id=task.task_id,
            regime=task.regime,
            task_format=task.task_format,
            answer_kind=task.answer_kind,
            question=task.question,
            answer=task.answer,
            options=task.options,
            open_book=admission.open_book if admission else None,
            closed_book=admission.closed_book if admission else None,
            pass_rate=pass_rate,
            reward=reward,
            similarity=admission.similarity if admission else None,
            is_trained=is_trained,
        )

    def _refused(self, rollout: Rollout, admission: Admission | None) -> TaskLine:
        return TaskLine(
            step=self._step,
            source="fresh",
            verdict=EXAMPLE if rollout.rollout_id in self._learned else rollout.reason or rollout.outcome,
            chunk_id=rollout.parent_id,
            document_id=self._documents.get(rollout.parent_id, ""),
            task_format=admission.task_format if admission else None,
            answer_kind=admission.answer_kind if admission else None,
            question=(admission.question if admission else "") or rollout.text[:MAX_CHARS],
            answer=admission.answer if admission else "",
            open_book=admission.open_book if admission else None,
            closed_book=admission.closed_book if admission else None,
            reward=None if rollout.outcome == "valid" else rollout.reward,
            similarity=admission.similarity if admission and not admission.code else None,
        )


def _examples(played: Played) -> Iterator[Rollout]:
    """Yield what was learned word for word; an example that came of a proposal names it as its parent."""
    return (r for item in played.rollouts if item.group.objective == "supervised" for r in item.group.rollouts)


def _answered(played: Played) -> Iterator[tuple[str, tuple[float, bool]]]:
    """Yield (task id, (pass rate, is it trained on))."""
    for item in played.rollouts:
        if item.group.role == "reasoner" and item.group.objective == "policy" and item.group.rollouts:
            yield item.group.parent_id, (_pass_rate(item.group), item.is_trained)


def _pass_rate(group: RolloutGroup) -> float:
    return sum(rollout.outcome == "correct" for rollout in group.rollouts) / len(group.rollouts)
