"""Every task the run has had: so that none is asked twice, none is a near-copy unnoticed, and good ones can be played again.

In: what each step asked and how often it was answered right, as records of a play (`entries_of`) or task by task (`add`).
Out: repeats, nearness, tasks by document, what can be learned at a chunk, tasks worth replaying; all of it as strings.
Refuses: an entry that is none (`IntegrityError` E_RECORD).
Not here: what follows from it (`admission.py`, `chunk_sampler.py`, `rewards.py`).

The archive is a fold over entries in the order of their steps and nothing else: the strings of all plays before give the
archive that was there, and a step that is played again (`before`) does not meet its own tasks. Vectors are small whole
numbers, so that every cosine is the same number however the entries came in and on whatever machine.

Where the Reasoner reads the passage a question belongs to its chunk ("What is the notice period?" is a new task for every
contract); elsewhere it stands alone. In memory only a digest and a vector stay of most tasks; the newest `WHOLE_TASKS` with
right and wrong answers stay whole, because they are replayed. Their text is the model's, made from scrubbed text, and never
prints. The run's state holds the entries as they were made, about 500 bytes a task.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spice_enterprise.errors import IntegrityError
from spice_enterprise.protocols import Embedder, Played
from spice_enterprise.records import Regime, Task, canonical_json, decode, sha256_hex
from spice_enterprise.selfplay.answers import normalise
from spice_enterprise.selfplay.embedding import HashedEmbedder

WHOLE_TASKS: Final = 256
RECENT_TASKS: Final = 8
"""Results of one chunk that say what can still be learned there."""
LOW_VALID_RATE: Final = 0.2
LOW_VALID_STEPS: Final = 10
"""After so many steps below that rate an invalid proposal costs nothing: the penalty would push the model into silence."""
FORMAT_CHOICE: Final = "format_choice"
"""Reason code of a challenger rollout that chose a format and proposed nothing."""

_LEVELS: Final = 127
_TAIL_ROWS: Final = 256

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One task of one step. A digest that comes again is a replay or a repeat: it brings a result, not a task."""

    step: int
    digest: str
    """Of the question, and of the chunk where that belongs to it."""
    chunk_id: str
    document_id: str
    correct: int = 0
    answers: int = 0
    vector: str = field(default="", repr=False)
    """Whole numbers from -127 to 127 in base64; empty when it was there before."""
    task: Task | None = None
    """The whole task where its answers were both right and wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What the proposals of one step came to, and at which chunks."""

    step: int
    valid: int
    proposals: int
    chunk_ids: tuple[str, ...] = ()


class Archive:
    """Everything asked so far, restorable from `state()` or from the entries of the plays."""

    def __init__(self, entries: Iterable[str] = (), *, embedder: Embedder | None = None) -> None:
        self._embedder: Embedder = embedder or HashedEmbedder()
        self._asked: list[Asked] = []
        self._tallies: dict[int, Tally] = {}
        self._first: dict[str, int] = {}
        self._steps_of: dict[str, tuple[int, ...]] = {}
        self._results: dict[str, tuple[float, ...]] = {}
        self._turns: dict[str, int] = {}
        self._rows: dict[str, tuple[int, ...]] = {}
        self._whole: dict[str, Task] = {}
        self._vectors = _Vectors()
        self._last_step = -1
        self.take(entries)

    def take(self, entries: Iterable[str]) -> None:
        """Remember these entries too. Raises `IntegrityError` E_RECORD on one that is none."""
        for entry in sorted(map(_read, entries), key=lambda entry: entry.step):
            self._fold(entry)

    def holds(self, *, chunk_id: str, question: str, regime: Regime) -> bool:
        """True when this very task was added before, but for case and punctuation."""
        return _digest(chunk_id, question, regime) in self._first

    def similarity(self, question: str, *, chunk_id: str | None = None) -> float:
        """Return the cosine (-1 to 1) to the nearest question, of `chunk_id` alone if given; 0.0 when there is none."""
        rows = None if chunk_id is None else self._rows.get(chunk_id, ())
        if not len(self._vectors) or rows == ():
            return 0.0
        cosines = self._vectors.cosines(_unpacked(_packed(self._embedder, question)))
        return float(np.max(cosines if rows is None else cosines[list(rows)]))

    def add(self, task: Task, *, step: int, document_id: str, correct: Sequence[bool] = ()) -> None:
        """Remember a task of a step and its answers; one that is there already keeps the step that had it first."""
        self._fold(_asked(task, correct, step=step, document_id=document_id, embedder=self._embedder))

    def note(self, step: int, *, valid: int, proposals: int, chunk_ids: Sequence[str] = ()) -> None:
        """Remember how many proposals of a step were valid, and which chunks were asked about; a step is noted once."""
        self._fold(Tally(step=step, valid=valid, proposals=proposals, chunk_ids=tuple(sorted(chunk_ids))))

    def before(self, step: int) -> "Archive":
        """Return an archive of earlier steps only, which may be added to without touching this one."""
        earlier = Archive(embedder=self._embedder)
        if self._last_step < step:
            earlier._share(self)
            return earlier
        for entry in _in_order(self._asked, self._tallies.values()):
            if entry.step < step:
                earlier._fold(entry)
        return earlier

    def tasks_of(self, document_id: str, *, since_step: int) -> int:
        """Return how many different tasks a document has had since a step, that step included."""
        return sum(step >= since_step for step in self._steps_of.get(document_id, ()))

    def covered(self, chunk_id: str) -> int:
        """Return how often a chunk was covered: by its different tasks, or by steps that asked about it, if those are more."""
        return max(len(self._rows.get(chunk_id, ())), self._turns.get(chunk_id, 0))

    def learnability(self, chunk_id: str) -> float | None:
        """Return the mean of p(1 - p), 0 to 0.25, over the chunk's newest answered tasks; None when there are none."""
        results = self._results.get(chunk_id, ())
        return sum(p * (1.0 - p) for p in results) / len(results) if results else None

    def frontier(self) -> tuple[Task, ...]:
        """Return the newest tasks (at most `WHOLE_TASKS`) whose last answers were both right and wrong, oldest first."""
        return tuple(self._whole.values())

    def invalid_reward(self, step: int, rho: float) -> float:
        """Return what an invalid proposal of `step` earns: `rho`, but 0 when hardly any was valid for many steps."""
        tallies = [self._tallies.get(step - back) for back in range(1, LOW_VALID_STEPS + 1)]
        is_low = all(t is not None and t.proposals and t.valid < LOW_VALID_RATE * t.proposals for t in tallies)
        return 0.0 if is_low else rho

    def state(self) -> tuple[str, ...]:
        """Return all entries as canonical JSON, sorted by step: what to save, and what `Archive(...)` takes.

        The text of tasks that are not replayed any more is left out.
        """
        kept: list[Asked] = []
        to_find = set(self._whole)
        for asked in reversed(self._asked):
            is_whole = asked.answers > 0 and asked.digest in to_find  # its last answered entry
            to_find -= {asked.digest} if is_whole else set()
            kept.append(asked if is_whole else replace(asked, task=None))
        return tuple(_written(entry) for entry in _in_order(reversed(kept), self._tallies.values()))

    def _share(self, other: "Archive") -> None:
        """Hold what `other` holds: values are never changed in place, so only the maps themselves are copied."""
        self._asked, self._tallies = list(other._asked), dict(other._tallies)
        self._first, self._steps_of = dict(other._first), dict(other._steps_of)
        self._results, self._turns = dict(other._results), dict(other._turns)
        self._rows, self._whole = dict(other._rows), dict(other._whole)
        self._vectors, self._last_step = other._vectors, other._last_step

    def _fold(self, entry: Asked | Tally) -> None:
        self._last_step = max(self._last_step, entry.step)
        if isinstance(entry, Tally):
            self._file_tally(entry)
            return
        self._asked.append(entry)
        if entry.digest not in self._first:
            self._first[entry.digest] = entry.step
            self._steps_of[entry.document_id] = (*self._steps_of.get(entry.document_id, ()), entry.step)
            self._file_vector(entry)
        if entry.answers:
            self._file_result(entry)

    def _file_tally(self, entry: Tally) -> None:
        if self._tallies.setdefault(entry.step, entry) is entry:
            for chunk_id in entry.chunk_ids:
                self._turns[chunk_id] = self._turns.get(chunk_id, 0) + 1

    def _file_vector(self, entry: Asked) -> None:
        if entry.vector:
            self._rows[entry.chunk_id] = (*self._rows.get(entry.chunk_id, ()), len(self._vectors))
            self._vectors = self._vectors.with_row(_unpacked(entry.vector))

    def _file_result(self, entry: Asked) -> None:
        results = (*self._results.get(entry.chunk_id, ()), entry.correct / entry.answers)
        self._results[entry.chunk_id] = results[-RECENT_TASKS:]
        self._whole.pop(entry.digest, None)
        if entry.task is not None:
            self._whole[entry.digest] = entry.task
            if len(self._whole) > WHOLE_TASKS:
                del self._whole[next(iter(self._whole))]


def entries_of(played: Played, *, step: int, documents: Mapping[str, str], embedder: Embedder) -> tuple[str, ...]:
    """Return what is to be remembered of a play: its tasks with their results, and how its proposals fared.

    `documents` names the document of every chunk; a chunk it does not know stands for itself.
    """
    answered = {item.group.parent_id: item.group.rollouts for item in played.rollouts if item.group.role == "reasoner"}
    entries: list[Asked | Tally] = [_tally(played, step)]
    for task in (*played.tasks, *played.replayed):
        correct = [rollout.outcome == "correct" for rollout in answered.get(task.task_id, ())]
        document_id = documents.get(task.chunk_id, task.chunk_id)
        entries.append(_asked(task, correct, step=step, document_id=document_id, embedder=embedder))
    return tuple(map(_written, entries))


def _tally(played: Played, step: int) -> Tally:
    groups = [item.group for item in played.rollouts if item.group.role == "challenger"]
    proposals = [rollout for group in groups for rollout in group.rollouts if rollout.reason != FORMAT_CHOICE]
    return Tally(
        step=step,
        valid=sum(rollout.outcome == "valid" for rollout in proposals),
        proposals=len(proposals),
        chunk_ids=tuple(sorted({group.parent_id for group in groups})),
    )


def _asked(task: Task, correct: Sequence[bool], *, step: int, document_id: str, embedder: Embedder) -> Asked:
    is_mixed = 0 < sum(correct) < len(correct)
    return Asked(
        step=step,
        digest=_digest(task.chunk_id, task.question, task.regime),
        chunk_id=task.chunk_id,
        document_id=document_id,
        correct=sum(correct),
        answers=len(correct),
        vector=_packed(embedder, task.question),
        task=task if is_mixed else None,
    )


def _in_order(asked: Iterable[Asked], tallies: Iterable[Tally]) -> list[Asked | Tally]:
    return sorted([*asked, *tallies], key=lambda entry: entry.step)


class _Vectors:
    """Rows of whole numbers with their lengths; adding a row makes a new value and shares the old rows.

    Most rows lie in one large matrix and the newest in a small one, so that adding copies little.
    """

    __slots__ = ("_matrices", "_norms")

    def __init__(self, matrices: tuple[npt.NDArray[Any], ...] = (), norms: tuple[Numbers, ...] = ()) -> None:
        self._matrices, self._norms = matrices, norms

    def __len__(self) -> int:
        return sum(map(len, self._norms))

    def with_row(self, row: Numbers) -> "_Vectors":
        """Return these rows and one more."""
        matrices, norms = self._matrices, self._norms
        is_full = len(matrices) == 2 and len(norms[1]) >= _TAIL_ROWS
        if is_full:
            matrices, norms = (np.concatenate(matrices),), (np.concatenate(norms),)
        one, norm = _exact(row)[np.newaxis, :], np.array([_length(row)])
        if len(matrices) == 2:
            one, norm = np.concatenate((matrices[1], one)), np.concatenate((norms[1], norm))
        return _Vectors((*matrices[:1], one), (*norms[:1], norm))

    def cosines(self, row: Numbers) -> Numbers:
        """Return the cosine of `row` to every row."""
        dots = [matrix @ _exact(row) for matrix in self._matrices]
        return np.concatenate(dots).astype(np.float64) / (np.concatenate(self._norms) * _length(row))


def _exact(row: Numbers) -> npt.NDArray[Any]:
    """Return `row` in the shortest type in which every sum of its products is exact, in whatever order it is made."""
    return row.astype(np.float32 if len(row) * _LEVELS**2 < 2**24 else np.float64)


def _length(row: Numbers) -> float:
    return max(float(np.sqrt(row @ row)), 1.0)  # below 1 only when there is nothing at all in it


def _packed(embedder: Embedder, question: str) -> str:
    (vector,) = embedder.embed([question])
    scale = _LEVELS / (max(map(abs, vector)) or 1.0)
    return base64.b64encode(np.array([round(value * scale) for value in vector], dtype=np.int8).tobytes()).decode()


def _unpacked(vector: str) -> Numbers:
    return np.frombuffer(base64.b64decode(vector, validate=True), dtype=np.int8).astype(np.float64)


def _digest(chunk_id: str, question: str, regime: Regime) -> str:
    """Return 128 bits of SHA-256: enough for the tasks of one run."""
    return sha256_hex(canonical_json((chunk_id if regime == "open_book" else "", normalise(question))))[:32]


def _written(entry: Asked | Tally) -> str:
    return canonical_json(entry).decode()


def _read(entry: str) -> Asked | Tally:
    try:
        data = json.loads(entry)
        if isinstance(data, dict) and "proposals" in data:
            return decode(Tally, data)
        asked = decode(Asked, data)
        _unpacked(asked.vector)
    except ValueError:
        raise IntegrityError(
            "an entry of the archive cannot be read", code="E_RECORD", hint="restore the run directory from a backup"
        ) from None
    return asked
