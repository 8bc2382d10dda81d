"""Grades by any verifier, under a time and memory limit, in a process that can be killed.

In: a task and answers; a verifier, which may be the user's.
Out: one `Grade` per answer, in order.
Refuses: nothing that a verifier does to itself: it raises, hangs, dies, takes all memory or answers with something else than
    True or False, and that answer is wrong with a code, while its siblings are graded all the same.
Not here: the other side of the pipes (`grading_child.py`), and what is right (`answers.py`).

    no_answer           there was nothing to grade
    verifier_raised     `grade` raised
    verifier_timeout    `grade` took longer than the limit, and was killed
    verifier_not_bool   `grade` returned something else than True or False
    verifier_memory     `grade` took more memory than the limit
    verifier_died       the process ended while grading

A verifier is an object and cannot be sent without pickle, so its process is forked. `start()` forks one small process that
runs none of the user's code but `prepare`; that one forks the process that grades, and another when that had to be killed.
Call `start()` while this process is small and has one thread, for that is the state in which the verifier will live.
"""

import contextlib
import os
import select
import signal
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from spice_enterprise.errors import MissingExtraError, SamplerError
from spice_enterprise.protocols import Grade, Grader, Verifier
from spice_enterprise.records import Completion, Task
from spice_enterprise.selfplay import grading_child as child
from spice_enterprise.selfplay.answers import extract_answer

NO_ANSWER: Final = "no_answer"
TIME_LIMIT_S: Final = 5.0
MEMORY_LIMIT_BYTES: Final = 1 << 30
"""How much more memory grading may take than there is when its process is forked."""
BATCH: Final = 512
_PATIENCE_S: Final = 120.0
"""For preparing, and for a machine that stands still; a batch has this beside the time that its answers may take."""


def grade_completions(task: Task, completions: Sequence[Completion], grader: Grader) -> tuple[Grade, ...]:
    """Return a grade for the answer in each completion, in order."""
    return grader.grade_all(task, [extract_answer(completion.text, task.answer_kind) for completion in completions])


class GuardedVerifier:
    """A `Grader` and a `Verifier` that cannot be hung, killed or filled up by the verifier inside it. Thread-safe."""

    def __init__(
        self, verifier: Verifier, *, time_limit_s: float = TIME_LIMIT_S, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    ) -> None:
        inner = verifier.verifier if isinstance(verifier, GuardedVerifier) else verifier
        self.verifier: Verifier = inner
        """The one inside."""
        self.grades = 0
        """Answers that the verifier was asked about."""
        self.failure_codes: Counter[str] = Counter()
        """How often it gave no verdict, by code."""
        self._limits = child.Limits(time_s=time_limit_s, memory_bytes=memory_limit_bytes)
        self._lock = threading.Lock()
        self._link: _Link | None = None

    @property
    def failures(self) -> int:
        """How often it gave no verdict. A verifier that never gives one is broken machinery, not a hard task."""
        return self.failure_codes.total()

    def start(self) -> None:
        """Fork the process that grades, if there is none yet. Early is cheap: nothing big is loaded and one thread runs."""
        with self._lock:
            self._linked()

    def close(self) -> None:
        """End the process that grades; the next call starts another."""
        with self._lock:
            if self._link is not None:
                self._link.close()
            self._link = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grade(self, task: Task, answer: str) -> bool:
        """True when `answer` is right."""
        return self.grade_all(task, [answer])[0].is_correct

    def grade_all(self, task: Task, answers: Sequence[str]) -> tuple[Grade, ...]:
        """Return one grade per answer, in order. Raises as `grade_pairs`."""
        return self.grade_pairs([(task, answer) for answer in answers])

    def grade_pairs(self, pairs: Sequence[tuple[Task, str]]) -> tuple[Grade, ...]:
        """Return one grade per (task, answer), in order.

        Raises:
            SamplerError: `E_VERIFIER` when the process that grades is gone, or could not be prepared.
            MissingExtraError: `E_MISSING_EXTRA` when an expression is to be graded and math-verify is not installed.
        """
        asked = [pair for pair in pairs if pair[1].strip()]
        with self._lock:
            codes = "".join(self._ask(asked[at : at + BATCH]) for at in range(0, len(asked), BATCH))
            self.grades += len(asked)
            self.failure_codes.update(child.CODES[letter] for letter in codes if child.CODES[letter])
        verdicts = iter(codes)
        return tuple(
            _grade_of(next(verdicts)) if answer.strip() else Grade(is_correct=False, code=NO_ANSWER) for _, answer in pairs
        )

    def _ask(self, pairs: Sequence[tuple[Task, str]]) -> str:
        """Return one letter of `grading_child.CODES` per pair."""
        link = self._linked()
        reply = link.ask(child.request_of(pairs), timeout_s=_PATIENCE_S + len(pairs) * (self._limits.time_s + 1))
        if reply is None:
            raise SamplerError(
                "the process that grades answers is gone",
                code="E_VERIFIER",
                hint="`spice-enterprise test-verifier` or `job.test_verifier` shows what the verifier does",
            )
        if "error" in reply:
            raise _unprepared(reply["error"])
        return str(reply["codes"])

    def _linked(self) -> "_Link":
        if self._link is None or not self._link.is_open:
            self._link = _Link(self.verifier, self._limits)
        return self._link


def _grade_of(letter: str) -> Grade:
    return Grade(is_correct=letter == child.RIGHT, code=child.CODES[letter])


def _unprepared(error: Mapping[str, str]) -> SamplerError | MissingExtraError:
    if error["type"] == MissingExtraError.__name__:
        return MissingExtraError(error["message"], code="E_MISSING_EXTRA", hint=error["hint"])
    hint = "see its `prepare`; `job.test_verifier` calls it too"
    return SamplerError(f"the verifier could not be prepared: {error['type']}", code="E_VERIFIER", hint=hint)


class _Link:
    """The process that forks graders, and the pipes to it. Ends with whoever holds it: its pipe closes."""

    def __init__(self, verifier: Verifier, limits: child.Limits) -> None:
        self._owner = os.getpid()
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: what is forked here needs none of them
            pid = os.fork()
        if pid == 0:
            child.serve(requests, replies, verifier, limits)
        os.close(requests)
        os.close(replies)
        self._pid = pid
        self.close = weakref.finalize(self, _end, self._owner, pid, (self._requests, self._replies))

    @property
    def is_open(self) -> bool:
        """False when it is ended, and in a fork of the process that began it."""
        return self.close.alive and self._owner == os.getpid()

    def ask(self, request: bytes, *, timeout_s: float) -> Mapping[str, Any] | None:
        """Return the reply; None when there will be none, and then the process is ended."""
        reply: Mapping[str, Any] | None = None
        try:
            with contextlib.suppress(OSError):
                child.write_frame(self._requests, request)
                if select.select([self._replies], [], [], timeout_s)[0]:
                    reply = child.read_frame(self._replies)
        finally:
            if reply is None:  # also after an interrupt: a late reply would be taken for the next one
                os.kill(self._pid, signal.SIGKILL)
                self.close()
        return reply


def _end(owner: int, pid: int, pipes: tuple[int, int]) -> None:
    """Close the pipes, which ends the process, and wait until it is gone. In a fork of the owner there is nothing to do."""
    if os.getpid() != owner:
        return
    for pipe in pipes:
        os.close(pipe)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
