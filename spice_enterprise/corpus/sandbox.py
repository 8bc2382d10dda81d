"""The throw-away child process that parses, because parsers of foreign files are where programs break.

In: raw documents (bytes and a file suffix, never a name) and what to read of them.
Out: per document a `Parsed`, or the code why there is none; per archive its members; the isolation level obtained.
Refuses: to run without network denial by the OS when `is_required`; documents over time, memory or size (as a code).
Not here: the child's program (`parser_child.py`), its limits (`confinement.py`), the checks of its answers (`child_protocol.py`).

The child reads one document, answers it, and reads the next. So when it dies or hangs, the guilty document is the one
it did not answer; that one is tried once more alone, and its neighbours go to a fresh child.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Final, TypeVar

from spice_enterprise.corpus.archives import Member
from spice_enterprise.corpus.child_protocol import (
    MAX_LINE_BYTES,
    Header,
    Kind,
    Unparsed,
    decode_answer,
    decode_contents,
    line_of,
    settings_line,
)
from spice_enterprise.corpus.confinement import PROFILES, Profile, denies_network, weaker
from spice_enterprise.corpus.ocr import has_rapidocr
from spice_enterprise.corpus.reading import Parsed, ParseOptions
from spice_enterprise.corpus.unstructured_backend import CONVERTED_SUFFIXES, FOREIGN_SUFFIXES, READABLE_SUFFIXES
from spice_enterprise.errors import MissingExtraError, ParseError

__all__ = ["BATCH", "RawDocument", "Sandbox", "Unparsed", "profile_for"]

BATCH: Final = PROFILES["native"].batch
_SCANNED_SUFFIXES: Final = frozenset({".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif"})
_COMMAND: Final = (sys.executable, "-I", "-B", "-m", "spice_enterprise.corpus.parser_child")
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "OMP_NUM_THREADS": "1",
    "OMP_THREAD_LIMIT": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_START_S: Final = 60.0
_STOP_S: Final = 2.0
_MAX_LEVEL_BYTES: Final = 200
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - a memory file system, used through a private directory in it
Child = subprocess.Popen[bytes]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawDocument:
    """What the child gets of a document: its bytes and its suffix. The name may hold personal data and stays here."""

    suffix: str
    data: bytes = field(repr=False)


class Sandbox:
    """Parses documents in children that are thrown away after a batch, a death or a timeout."""

    def __init__(self, *, is_required: bool, options: ParseOptions | None = None, wall_s: float | None = None) -> None:
        """Take the settings; no child is started yet.

        Args:
            is_required: Refuse to parse where the OS cannot cut the child off from the network.
            options: What to read of a document, and with which parser.
            wall_s: Time for one document, instead of what its kind of parser is given.
        """
        self._is_required = is_required
        self._options = options or ParseOptions()
        self._wall_s = wall_s
        self._isolation: str | None = None

    @property
    def isolation(self) -> str:
        """The layers that every child so far had, joined by `+`; `python` when the OS gave none, empty before the first."""
        return self._isolation or ""

    def parse(self, documents: Sequence[RawDocument]) -> list[Parsed | Unparsed]:
        """Return one result per document, in order.

        Raises:
            ParseError: `E_SANDBOX` when no child can be used at all.
            MissingExtraError: When the parser or the OCR that the options ask for is not installed.
        """
        results: dict[int, Parsed | Unparsed] = {}
        for profile in PROFILES.values():
            chosen = [i for i, document in enumerate(documents) if profile_for(document.suffix, self._options) is profile]
            results.update(zip(chosen, self._parse_all([documents[i] for i in chosen], profile), strict=True))
        for result in results.values():
            if isinstance(result, Unparsed) and result.code == MissingExtraError.default_code:
                raise MissingExtraError("a parser that the config asks for is not installed", hint=result.reason)
        return [results[i] for i in range(len(documents))]

    def expand(self, archive: RawDocument) -> list[Member] | Unparsed:
        """Return the files in an archive, or why there are none. Raises `ParseError` as `parse` does."""
        expanded = self._run([archive], PROFILES["native"], _expand)
        return expanded[0] if expanded else _BROKEN

    def _parse_all(self, documents: Sequence[RawDocument], profile: Profile) -> list[Parsed | Unparsed]:
        results: list[Parsed | Unparsed] = []
        while len(results) < len(documents):
            batch = documents[len(results) : len(results) + profile.batch]
            answered = self._run(batch, profile, _parse)
            results += answered
            if len(answered) < len(batch):
                results.append(self._alone(batch[len(answered)], profile))
        return results

    def _alone(self, document: RawDocument, profile: Profile) -> Parsed | Unparsed:
        """Try the document that broke a child once more, with nobody beside it."""
        answered = self._run([document], profile, _parse)
        return answered[0] if answered else _BROKEN

    def _run(
        self, batch: Sequence[RawDocument], profile: Profile, ask: Callable[[Child, RawDocument], list[Answer]]
    ) -> list[Answer]:
        """Return the answers of one child, fewer than asked when it broke."""
        results: list[Answer] = []
        with _child(profile, self._options) as child:
            self._greet(child)
            for document in batch:
                answered: list[Answer] = []
                with contextlib.suppress(OSError), _deadline(child, self._wall_s or profile.wall_s):
                    answered = ask(child, document)
                if not answered:
                    break
                results += answered
        return results

    def _greet(self, child: Child) -> None:
        """Read the level the child obtained. Raises `ParseError` when there is no child, or not a safe enough one."""
        with _deadline(child, _START_S):
            line = _stdout(child).readline(_MAX_LEVEL_BYTES)
        level = line.decode("ascii", "replace").strip()
        if not line.endswith(b"\n") or not level.replace("+", "").isalnum():
            raise ParseError("the parser child did not start", code="E_SANDBOX", hint="run `spice-enterprise doctor`")
        self._isolation = weaker(level, self._isolation or level)
        if self._is_required and not denies_network(level):
            raise ParseError(
                "the parser child cannot be cut off from the network here",
                code="E_SANDBOX",
                hint="allow user namespaces or seccomp, or set ingest.sandbox: best_effort",
            )


_BROKEN: Final = Unparsed(code="E_LIMIT", reason="the parser died or exceeded its limits")


def profile_for(suffix: str, options: ParseOptions) -> Profile:
    """Return what a document's parser may use: more than the native parsers only where another one reads it."""
    suffix = suffix.lower()
    given = {"native": frozenset[str](), "auto": FOREIGN_SUFFIXES, "unstructured": READABLE_SUFFIXES}[options.parser]
    if suffix in given:
        return PROFILES["converter" if suffix in CONVERTED_SUFFIXES else "unstructured"]
    if options.ocr == "auto" and suffix in _SCANNED_SUFFIXES:
        return PROFILES["ocr" if has_rapidocr() else "ocr_program"]
    return PROFILES["native"]


@contextlib.contextmanager
def _child(profile: Profile, options: ParseOptions) -> Iterator[Child]:
    """Start a child in its own process group and an empty directory; kill the whole group afterwards."""
    with tempfile.TemporaryDirectory(prefix="spice-parse-", dir=_memory_directory(), ignore_cleanup_errors=True) as empty:
        child = subprocess.Popen(  # noqa: S603 - this package's own program, no shell
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={**_ENVIRONMENT, "HOME": empty, "TMPDIR": empty},
            start_new_session=True,
        )
        try:
            with contextlib.suppress(OSError):
                _write(child, settings_line(profile.name, empty, options))
            yield child
        finally:
            _stop(child)


def _memory_directory() -> str | None:
    """Return where temporary files never reach a disk, None where there is no such place."""
    return _SHARED_MEMORY if os.path.isdir(_SHARED_MEMORY) and os.access(_SHARED_MEMORY, os.W_OK) else None


def _stop(child: Child) -> None:
    """End the child and collect it."""
    _end(child)
    for pipe in (child.stdin, child.stdout):
        # closing flushes what the dead child never read
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    child.wait()


def _end(child: Child) -> None:
    """Kill the child and all it started. The first signal lets its waiting process collect the one it waits for."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        child.terminate()
        until = time.monotonic() + _STOP_S
        while not _has_ended(child) and time.monotonic() < until:
            time.sleep(0.002)
        os.killpg(child.pid, signal.SIGKILL)


def _has_ended(child: Child) -> bool:
    """True when the child is dead but not yet collected, so that its process group still cannot be another one's."""
    try:
        return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except (AttributeError, ChildProcessError):
        return True


@contextlib.contextmanager
def _deadline(child: Child, wall_s: float) -> Iterator[None]:
    """Kill the child's group unless the block ends within `wall_s` seconds."""
    timer = threading.Timer(wall_s, _end, [child])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        # a kill that has begun must be over before the child's number can be given to another process
        timer.join()


def _parse(child: Child, document: RawDocument) -> list[Parsed | Unparsed]:
    """Send one document and return its answer; nothing when the child is gone or answers nonsense."""
    answer = decode_answer(_ask(child, "parse", document))
    return [] if answer is None else [answer]


def _expand(child: Child, archive: RawDocument) -> list[list[Member] | Unparsed]:
    """Send one archive and return its members; nothing when the child is gone or answers nonsense."""
    contents = decode_contents(_ask(child, "expand", archive))
    if contents is None or isinstance(contents, Unparsed):
        return [] if contents is None else [contents]
    members = [Member(name=name, data=_stdout(child).read(size_bytes)) for name, size_bytes in contents.members]
    is_whole = all(len(member.data) == size_bytes for member, (_, size_bytes) in zip(members, contents.members, strict=True))
    return [members] if is_whole else []


def _ask(child: Child, kind: Kind, document: RawDocument) -> bytes:
    """Send one request and return the line that answers it."""
    _write(child, line_of(Header(kind=kind, suffix=document.suffix, size_bytes=len(document.data))) + document.data)
    return _stdout(child).readline(MAX_LINE_BYTES)


def _write(child: Child, data: bytes) -> None:
    assert child.stdin is not None  # noqa: S101 - Popen was asked for a pipe
    child.stdin.write(data)
    child.stdin.flush()


def _stdout(child: Child) -> IO[bytes]:
    assert child.stdout is not None  # noqa: S101 - Popen was asked for a pipe
    return child.stdout
