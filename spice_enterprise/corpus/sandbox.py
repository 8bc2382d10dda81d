"""The throw-away child process that parses, because parsers of foreign files are where programs break.

In: batches of raw documents (bytes and a file suffix, never a name).
Out: per document a `Parsed` or the code why there is none, re-validated by the parent; the isolation level obtained.
Refuses: to run without network denial by the OS when `required`; documents over time, memory or size (as a code).
Not here: what a format looks like inside (`parsers.py`).

The child reads one document, answers with one JSON line, and reads the next. So when it dies or hangs, the guilty
document is the one it did not answer; that one is tried once more alone, and its neighbours go to a fresh child.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final, Literal

from spice_enterprise.corpus.parsers import Parsed, normalise, parse
from spice_enterprise.errors import ParseError

Isolation = Literal["namespace", "python"]
"""`namespace`: the child has no network device. `python`: its interpreter refuses sockets, the OS would not."""

BATCH: Final = 20
MAX_TEXT_CHARS: Final = 20 << 20
MAX_PAGES: Final = 10_000
_MAX_LINE_BYTES: Final = 6 * MAX_TEXT_CHARS + (1 << 16)
_MEMORY_BYTES: Final = 1536 << 20
_FILE_BYTES: Final = 64 << 20
_OPEN_FILES: Final = 64
_CPU_S: Final = 20
_WALL_S: Final = 60.0
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_PR_SET_NO_NEW_PRIVS: Final = 38
_DENIED_EVENTS: Final = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "os.startfile")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawDocument:
    """What the child gets of a document: its bytes and its suffix. The name may hold personal data and stays here."""

    suffix: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unparsed:
    """Why a document has no text: a stable code and a fixed phrase."""

    code: str
    reason: str


class Sandbox:
    """Parses documents in children that are thrown away after a batch, a death or a timeout."""

    def __init__(self, *, is_required: bool, wall_s: float = _WALL_S) -> None:
        """`is_required` refuses to parse where the OS cannot cut the child off; `wall_s` limits one document."""
        self._is_required = is_required
        self._wall_s = wall_s
        self._isolation: Isolation = "namespace"

    @property
    def isolation(self) -> Isolation:
        """The weakest level that any child so far obtained."""
        return self._isolation

    def parse(self, documents: Sequence[RawDocument]) -> list[Parsed | Unparsed]:
        """Return one result per document, in order. Raises `ParseError` `E_SANDBOX` when no child can be used at all."""
        results: list[Parsed | Unparsed] = []
        while len(results) < len(documents):
            batch = documents[len(results) : len(results) + BATCH]
            answered = self._run(batch)
            results += answered
            if len(answered) < len(batch):
                results.append(self._alone(batch[len(answered)]))
        return results

    def _alone(self, document: RawDocument) -> Parsed | Unparsed:
        """Try the document that broke a child once more, with nobody beside it."""
        answered = self._run([document])
        return answered[0] if answered else Unparsed(code="E_LIMIT", reason="the parser died or exceeded its limits")

    def _run(self, batch: Sequence[RawDocument]) -> list[Parsed | Unparsed]:
        """Return the answers of one child, fewer than asked when it broke."""
        results: list[Parsed | Unparsed] = []
        with _child() as child:
            self._greet(child)
            for document in batch:
                answer = _ask(child, document, self._wall_s)
                if answer is None:
                    break
                results.append(answer)
        return results

    def _greet(self, child: "subprocess.Popen[bytes]") -> None:
        """Read the level the child obtained. Raises `ParseError` when there is no child, or not a safe enough one."""
        with _deadline(child, self._wall_s):
            line = _stdout(child).readline(64)
        level = line.decode("ascii", "replace").strip()
        if level not in ("namespace", "python"):
            raise ParseError("the parser child did not start", code="E_SANDBOX", hint="run `spice-enterprise doctor`")
        if level == "python":
            self._isolation = "python"
            if self._is_required:
                raise ParseError(
                    "the parser child cannot be cut off from the network here",
                    code="E_SANDBOX",
                    hint="allow user namespaces, or set ingest.sandbox: best_effort",
                )


@contextlib.contextmanager
def _child() -> Iterator["subprocess.Popen[bytes]"]:
    """Start a child in its own process group and an empty directory; kill the whole group afterwards."""
    with tempfile.TemporaryDirectory(prefix="spice-parse-") as empty:
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-m", "spice_enterprise.corpus.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={"LANG": "C.UTF-8", "HOME": empty, "TMPDIR": empty},
            start_new_session=True,
        )
        try:
            yield child
        finally:
            _kill(child)
            for pipe in (child.stdin, child.stdout):
                # closing flushes what the dead child never read
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            child.wait()


def _kill(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


@contextlib.contextmanager
def _deadline(child: "subprocess.Popen[bytes]", wall_s: float) -> Iterator[None]:
    """Kill the child's group unless the block ends within `wall_s` seconds."""
    timer = threading.Timer(wall_s, _kill, [child])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _ask(child: "subprocess.Popen[bytes]", document: RawDocument, wall_s: float) -> Parsed | Unparsed | None:
    """Send one document and return its answer; None when the child is gone or answers nonsense."""
    header = json.dumps({"suffix": document.suffix, "size_bytes": len(document.data)}).encode() + b"\n"
    try:
        with _deadline(child, wall_s):
            stdin = _stdin(child)
            stdin.write(header)
            stdin.write(document.data)
            stdin.flush()
            line = _stdout(child).readline(_MAX_LINE_BYTES)
    except OSError:
        return None
    return decode_answer(line)


def _stdin(child: "subprocess.Popen[bytes]") -> IO[bytes]:
    assert child.stdin is not None  # noqa: S101 - Popen was asked for a pipe
    return child.stdin


def _stdout(child: "subprocess.Popen[bytes]") -> IO[bytes]:
    assert child.stdout is not None  # noqa: S101 - Popen was asked for a pipe
    return child.stdout


def decode_answer(line: bytes) -> Parsed | Unparsed | None:
    """Return what the child said, checked as if an attacker had said it; None when it is not an answer."""
    if not line.endswith(b"\n"):
        return None
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    if set(data) == {"code", "reason"} and _is_code(data["code"]) and isinstance(data["reason"], str):
        return Unparsed(code=data["code"], reason=normalise(data["reason"])[:200].replace("\n", " "))
    return _decode_parsed(data)


def _is_code(value: object) -> bool:
    return isinstance(value, str) and value.startswith("E_") and len(value) <= 32 and value.replace("_", "").isalnum()


def _decode_parsed(data: dict[str, Any]) -> Parsed | None:
    if set(data) != {"media_type", "pages"} or not isinstance(data["media_type"], str) or not isinstance(data["pages"], list):
        return None
    pages = data["pages"]
    if not 0 < len(pages) <= MAX_PAGES or not all(isinstance(page, str) for page in pages):
        return None
    if sum(len(page) for page in pages) > MAX_TEXT_CHARS:
        return None
    return Parsed(media_type=data["media_type"][:100], pages=tuple(normalise(page) for page in pages))


# --- the child's side -------------------------------------------------------------------------------------------------


def confine() -> Isolation:
    """Give up what parsing does not need, and return the level obtained. Cannot be undone in this process."""
    os.nice(10)
    _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    level: Isolation = "namespace" if _leave_network() else "python"
    sys.addaudithook(_deny)
    return level


def _limit(kind: int, value: int) -> None:
    """Lower one limit, never above what the parent's own hard limit allows."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _leave_network() -> bool:
    """Enter a network namespace without devices and give up new privileges; True when the OS now denies the network."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        is_apart = libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWNET) == 0
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    except (OSError, AttributeError):
        return False
    return is_apart and [name for _, name in socket.if_nameindex()] in ([], ["lo"])


def _deny(event: str, args: tuple[object, ...]) -> None:
    """Refuse sockets and new programs inside the interpreter, whatever the OS would allow."""
    if event.startswith(_DENIED_EVENTS):
        raise PermissionError("not allowed in the parser child")


def _allow_cpu(seconds: int) -> None:
    """Let this process use `seconds` more of CPU time, then die of SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def answer(raw: RawDocument) -> dict[str, object]:
    """Parse one document into what goes over the pipe."""
    try:
        parsed = parse(raw.data, raw.suffix)
        if len(parsed.pages) > MAX_PAGES or sum(len(page) for page in parsed.pages) > MAX_TEXT_CHARS:
            raise ParseError("more text than allowed", code="E_LIMIT")
    except ParseError as error:
        return {"code": error.code, "reason": error.message}
    return {"media_type": parsed.media_type, "pages": list(parsed.pages)}


def main() -> None:
    """Serve documents from stdin until it closes."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not speak into the protocol
    replies.write(confine().encode() + b"\n")
    replies.flush()
    while line := sys.stdin.buffer.readline(1 << 12):
        header = json.loads(line)
        data = sys.stdin.buffer.read(header["size_bytes"])
        _allow_cpu(_CPU_S)
        replies.write(json.dumps(answer(RawDocument(suffix=header["suffix"], data=data))).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
