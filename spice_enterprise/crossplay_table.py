"""One table of a cross-play: who asks, who answers, and what is kept of it.

In: the run's samplers, its self-play, chunks of unseen documents, a version.
Out: what the version proposed; how many answers of another to that were right.
Refuses: answers by another adapter than the one asked for (`DeliveryError`).
Not here: which versions and chunks, and what the numbers say (`crossplay.py`).

Every version proposes as if in one step, so that all are offered the same spans with the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from spice_enterprise import sealed
from spice_enterprise.config import SelfplayConfig
from spice_enterprise.errors import DeliveryError, IntegrityError
from spice_enterprise.protocols import Sampler
from spice_enterprise.records import AdapterVersion, Chunk, Completion, Prompt, Task, decode
from spice_enterprise.seeding import derive
from spice_enterprise.selfplay import base_check
from spice_enterprise.selfplay.answers import extract_answer
from spice_enterprise.selfplay.episode import SelfplayStage
from spice_enterprise.selfplay.grading import GuardedVerifier
from spice_enterprise.selfplay.turn import TurnPlayed

STEP: Final = 0
BATCH: Final = 32
"""Questions that are put to a sampler at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An admitted task, and what a Reasoner is asked for it."""

    document_id: str
    task: Task
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The proposals for one chunk."""

    document_id: str
    attempts: int
    readable: int
    admitted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """What one version proposed."""

    adapter_digest: str
    tallies: tuple[Tally, ...]
    questions: tuple[Question, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """How many answers to each question were right, of how many."""

    right: tuple[int, ...]
    of: int


T = TypeVar("T", Proposed, Answers)


class Shelf:
    """Files of one cross-play; a damaged one is as good as none."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    def get(self, cls: type[T], *names: str) -> T | None:
        """Return what was kept under these names, or None."""
        try:
            return decode(cls, sealed.read_value(self._path(names)))
        except IntegrityError:
            return None

    def put(self, value: T, *names: str) -> T:
        """Keep a value and return it."""
        sealed.write_value(self._path(names), value)
        return value

    def _path(self, names: Sequence[str]) -> Path:
        short = "-".join(name.removeprefix("sha256:")[:16] for name in names)
        return self._folder / f"{self._key}-{short}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The players, and the shelf that remembers."""

    proposer: SelfplayStage
    sampler: Sampler
    base: Sampler
    grader: GuardedVerifier
    config: SelfplayConfig
    seed: int
    answers: int
    chunks: tuple[Chunk, ...]
    shelf: Shelf

    def propose(self, version: AdapterVersion) -> Proposed:
        """Return what `version` proposes for every chunk."""
        kept = self.shelf.get(Proposed, "proposed", version.digest)
        if kept is not None:
            return kept
        self.sampler.publish(version)
        turns = self.proposer.propose(self.chunks, version, step=STEP)
        proposed = Proposed(
            adapter_digest=version.digest,
            tallies=tuple(map(_tally, turns)),
            questions=tuple(
                Question(document_id=turn.chunk.document_id, task=draft.task, prompt=draft.prompt)
                for turn in turns
                for played in turn.rounds
                for draft in played.drafts
            ),
        )
        return self.shelf.put(proposed, "proposed", version.digest)

    def answer(self, proposed: Proposed, version: AdapterVersion) -> Answers:
        """Return how often `version` answers the questions right."""
        names = ("answers", proposed.adapter_digest, version.digest)
        kept = self.shelf.get(Answers, *names)
        if kept is not None:
            return kept
        self.sampler.publish(version)
        heard: list[list[Completion]] = []
        for start in range(0, len(proposed.questions), BATCH):
            prompts = [question.prompt for question in proposed.questions[start : start + BATCH]]
            heard += self.sampler.sample(prompts, n=self.answers, seed=derive(self.seed, "crossplay", "answers", start))
        _require(heard, version)
        return self.shelf.put(self._graded(proposed, heard), *names)

    def answer_from_passage(self, proposed: Proposed) -> Answers:
        """Return how often the frozen base answers the questions right with the passage: other draws than admission's."""
        kept = self.shelf.get(Answers, "open-book", proposed.adapter_digest)
        if kept is not None:
            return kept
        self.base.publish(None)
        by_id = {chunk.chunk_id: chunk for chunk in self.chunks}
        config = self.config.model_copy(update={"open_book_samples": self.answers, "closed_book_samples": 0})
        seed = derive(self.seed, "crossplay", "open book")
        heard = []
        for question in proposed.questions:
            (ask,) = base_check.asks(question.task, by_id[question.task.chunk_id], config, key="", seed=seed)
            heard += self.base.sample([ask.prompt], n=ask.n, seed=ask.seed)
        return self.shelf.put(self._graded(proposed, heard), "open-book", proposed.adapter_digest)

    def _graded(self, proposed: Proposed, heard: Sequence[Sequence[Completion]]) -> Answers:
        """Grade all answers at once: a batch costs a process."""
        tasks = [question.task for question in proposed.questions]
        pairs = [
            (task, extract_answer(completion.text, task.answer_kind))
            for task, row in zip(tasks, heard, strict=True)
            for completion in row
        ]
        grades = iter(self.grader.grade_pairs(pairs))
        return Answers(right=tuple(sum(next(grades).is_correct for _ in row) for row in heard), of=self.answers)


def _tally(turn: TurnPlayed) -> Tally:
    attempts = [attempt for played in turn.rounds for attempt in played.attempts]
    return Tally(
        document_id=turn.chunk.document_id,
        attempts=len(attempts),
        readable=sum(not attempt.proposal.code for attempt in attempts),
        admitted=sum(not attempt.reason for attempt in attempts),
    )


def _require(rows: Sequence[Sequence[Completion]], version: AdapterVersion) -> None:
    if any(completion.adapter_digest != version.digest for row in rows for completion in row):
        raise DeliveryError("the questions were answered under another adapter", record_id=version.adapter_id)
