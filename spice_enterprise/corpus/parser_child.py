"""The program that runs in the parser child: it gives up its rights, then reads documents until its input ends.

In: `child_protocol.py` lines and bytes on standard input.
Out: the layers obtained, then one answer per document, on standard output.
Refuses: nothing by itself; what parsing refuses becomes an answer with a code.
Not here: the limits (`confinement.py`); any trust in this program (`sandbox.py` checks every answer).

Every import here costs each child its time, so formats' libraries are imported when their first file arrives.
"""

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import BinaryIO

from spice_enterprise.corpus.child_protocol import Contents, Header, Unparsed, check_size, line_of, read_header, read_settings
from spice_enterprise.corpus.confinement import PROFILES, allow_cpu, confine
from spice_enterprise.corpus.parsers import parse
from spice_enterprise.corpus.reading import ParseOptions
from spice_enterprise.errors import ParseError, SpiceError


def main() -> None:
    """Serve documents from stdin until it closes."""
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not speak into the protocol
    name, scratch, options = read_settings(requests.readline())
    profile = PROFILES[name]  # type: ignore[index]  # a key, or the child ends and the parent says why
    _send(replies, [confine(profile, scratch).encode() + b"\n"])
    while line := requests.readline(1 << 12):
        header = read_header(line)
        data = requests.read(header.size_bytes)
        allow_cpu(profile.cpu_s)
        _send(replies, answer(header, data, options))


def _send(replies: BinaryIO, parts: Iterable[bytes]) -> None:
    for part in parts:
        replies.write(part)
    replies.flush()


def answer(header: Header, data: bytes, options: ParseOptions) -> list[bytes]:
    """Return what goes over the pipe for one document."""
    try:
        if header.kind == "expand":
            members = import_module("spice_enterprise.corpus.archives").expand(data, header.suffix)
            contents = Contents(members=tuple((member.name, len(member.data)) for member in members))
            return [line_of(contents), *(member.data for member in members)]
        return [line_of(check_size(parse(data, header.suffix, options)))]
    except ParseError as error:
        return [line_of(Unparsed(code=error.code, reason=error.message))]
    except SpiceError as error:
        return [line_of(Unparsed(code=error.code, reason=error.hint or error.message))]
    except (MemoryError, RecursionError):
        return [line_of(Unparsed(code="E_LIMIT", reason="the file needs more memory than allowed"))]


if __name__ == "__main__":
    main()
