"""The processes that grade: one that only forks and keeps time, and one forked from it that runs the verifier.

In: requests over a pipe, as JSON: tasks and answers.
Out: replies over a pipe, as JSON: one letter of `CODES` per answer.
Refuses: to outlive whoever asks, to print, to leave a core dump, to hold open what the asking process has open.
Not here: the asking side (`grading.py`).

The first process waits for one letter per answer, and kills the second when a letter is late. What the second had not graded
yet, its successor grades. Nothing that a verifier does in its process can reach the first.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

from spice_enterprise.errors import SpiceError
from spice_enterprise.protocols import VERIFIER_FAILURES, Verifier
from spice_enterprise.records import AnswerKind, Task

RIGHT: Final = "1"
CODES: Final = {RIGHT: "", "0": "", **dict(zip("rtnmd", VERIFIER_FAILURES, strict=True))}
_LAST_WORDS: Final = "tmd"
"""After these another process goes on."""
ANSWERS_PER_PROCESS: Final = 20_000
"""Then it is replaced, with all that its verifier piled up."""
_PR_SET_PDEATHSIG: Final = 1
_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Task) if field.init)


@runtime_checkable
class PreparedVerifier(Protocol):
    """A verifier with something to load. Optional: what is loaded here is there for every batch, and costs no answer its time."""

    def prepare(self, kind: AnswerKind) -> None:
        """Load what grading `kind` needs. Called once per kind, before its first answer, outside of the time limit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For one answer, and for the memory that grading a batch may take beyond what was there."""

    time_s: float
    memory_bytes: int


# --- messages ---------------------------------------------------------------------------------------------------------


def request_of(pairs: Sequence[tuple[Task, str]]) -> bytes:
    """Return the request to grade `pairs`; each task is in it once."""
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    places = {task.task_id: place for place, task in enumerate(tasks)}
    fields = [[getattr(task, name) for name in _FIELDS] for task in tasks]
    # ASCII: what a model writes may hold half a surrogate pair, which is no UTF-8
    return json.dumps({"tasks": fields, "answers": [[places[task.task_id], answer] for task, answer in pairs]}).encode("ascii")


def write_frame(pipe: int, message: bytes) -> None:
    """Write a message with its length before it. Raises `OSError` when nobody reads any more."""
    rest = memoryview(len(message).to_bytes(8, "big") + message)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def read_frame(pipe: int) -> Any:
    """Return the next message; None when there are no more."""
    head = _read(pipe, 8)
    body = _read(pipe, int.from_bytes(head, "big")) if head is not None else None
    return None if body is None else json.loads(body)


def _read(pipe: int, size: int) -> bytes | None:
    got = bytearray()
    while len(got) < size:
        part = os.read(pipe, size - len(got))
        if not part:
            return None
        got += part
    return bytes(got)


# --- the process that forks -------------------------------------------------------------------------------------------


def serve(requests: int, replies: int, verifier: Verifier, limits: Limits) -> NoReturn:
    """Answer requests until the pipe closes, then end this process. Called right after a fork."""
    try:
        _detach({requests, replies})
        desk = _Desk(verifier, limits, requests)
        while (request := read_frame(requests)) is not None:
            write_frame(replies, json.dumps(desk.reply(request)).encode("ascii"))
        desk.dismiss()
    except BaseException:  # noqa: BLE001 - nothing of this process may go up into the code that it was forked from
        os._exit(1)
    os._exit(0)


class _Desk:
    """Has batches graded, by one process after another."""

    def __init__(self, verifier: Verifier, limits: Limits, requests: int) -> None:
        self._verifier = verifier
        self._limits = limits
        self._requests = requests
        self._prepared: set[AnswerKind] = set()
        self._worker: _Worker | None = None

    def reply(self, request: Any) -> dict[str, object]:
        """Return the letters of a batch, or what went wrong while preparing for it."""
        try:
            self._prepare({task[_FIELDS.index("answer_kind")] for task in request["tasks"]})
        except Exception as error:  # noqa: BLE001 - may be the user's code; only its type is told
            told = (error.message, error.hint) if isinstance(error, SpiceError) else ("", "")
            return {"error": {"type": type(error).__name__, "message": told[0], "hint": told[1]}}
        answers, codes = request["answers"], ""
        while len(codes) < len(answers):
            codes += self._grade(request["tasks"], answers[len(codes) :])
        return {"codes": codes}

    def dismiss(self) -> None:
        """End the process that grades."""
        if self._worker is not None:
            self._worker.kill()
        self._worker = None

    def _prepare(self, kinds: set[AnswerKind]) -> None:
        for kind in sorted(kinds - self._prepared):
            if isinstance(self._verifier, PreparedVerifier):
                self.dismiss()
                self._verifier.prepare(kind)
            self._prepared.add(kind)

    def _grade(self, tasks: Any, answers: Sequence[Any]) -> str:
        """Return at least one letter: those that one process came to."""
        if self._worker is None:
            gc.freeze()  # a fork then shares this memory, and nothing in it is ever closed by being collected
            self._worker = _Worker(self._verifier, self._limits)
        codes = self._worker.grade({"tasks": tasks, "answers": answers}, len(answers), self._requests)
        if codes[-1] in _LAST_WORDS or self._worker.graded >= ANSWERS_PER_PROCESS:
            self.dismiss()
        return codes


class _Worker:
    """The process that runs the verifier, as the other one sees it."""

    def __init__(self, verifier: Verifier, limits: Limits) -> None:
        work, self._work = os.pipe()
        self._letters, letters = os.pipe()
        self._limits = limits
        self.graded = 0
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._work)
            _work(verifier, work, letters, (parent, limits))
        os.close(work)
        os.close(letters)

    def grade(self, batch: object, size: int, requests: int) -> str:
        """Return a letter per answer, fewer when the process ended or was late; the last one then says so."""
        self.graded += size
        codes = ""
        with contextlib.suppress(BrokenPipeError):
            write_frame(self._work, json.dumps(batch).encode("ascii"))
        while len(codes) < size:
            ready = select.select([self._letters, requests], [], [], self._limits.time_s)[0]
            if requests in ready:
                os._exit(0)  # nobody waits any more: nothing is asked before the reply, so this is the end of the pipe
            codes += (os.read(self._letters, 65_536).decode("ascii") or "d") if ready else "t"
            if codes[-1] in _LAST_WORDS:
                break
        return codes

    def kill(self) -> None:
        """End it, with whatever it started, and let go of its pipes."""
        _kill(self._pid)
        os.close(self._work)
        os.close(self._letters)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # with whatever it started
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _detach(keep: set[int]) -> None:
    """Let go of the terminal, of signal handlers, and of every open file: locks, sockets and logs of the parent."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/dev/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.dup2(nowhere, int(name))  # not closed: a number that is free would be given to one of our pipes
    sys.stdin, sys.stdout, sys.stderr = (open(nowhere, mode, closefd=False, encoding="utf-8") for mode in "rww")  # noqa: SIM115


# --- the process that grades ------------------------------------------------------------------------------------------


def _work(verifier: Verifier, batches: int, letters: int, frame: tuple[int, Limits]) -> NoReturn:
    try:
        parent, limits = frame
        os.setpgid(0, 0)
        _die_with(parent)
        _limit_memory(limits.memory_bytes)
        me = os.getpid()
        while (batch := read_frame(batches)) is not None:
            tasks = [_task_of(values) for values in batch["tasks"]]
            for place, answer in batch["answers"]:
                letter = _letter(verifier, tasks[place], answer)
                if os.getpid() != me:
                    os._exit(0)  # the verifier forked, and both came back
                os.write(letters, letter)
    finally:
        os._exit(0)


def _task_of(values: Sequence[Any]) -> Task:
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in zip(_FIELDS, values, strict=True)}
    return Task(**fields)


def _letter(verifier: Verifier, task: Task, answer: str) -> bytes:
    try:
        verdict: object = verifier.grade(task, answer)
    except MemoryError:
        return b"m"
    except BaseException:  # noqa: BLE001 - SystemExit and all: it is no verdict
        return b"r"
    if verdict is True:
        return b"1"
    return b"0" if verdict is False else b"n"


def _die_with(parent: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _limit_memory(more_bytes: int) -> None:
    """Allow so much more private memory than there is. Address space as such is free: CUDA and torch reserve it in vain."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            held = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (held + more_bytes, held + more_bytes))
