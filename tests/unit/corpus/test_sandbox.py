import json
import os
import socket
import subprocess
import sys

import pytest

from spice_enterprise.corpus import sandbox
from spice_enterprise.corpus.parsers import Parsed
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox, Unparsed, decode_answer
from spice_enterprise.errors import ParseError


def raw(text, suffix=".txt"):
    return RawDocument(suffix=suffix, data=text.encode())


def test_answers_come_back_in_order_with_the_level_obtained():
    box = Sandbox(is_required=False)
    first, second, third = box.parse([raw("alpha"), raw("%PDF-1.7 noise", ".pdf"), raw("# b", ".md")])
    assert first == Parsed(media_type="text/plain", pages=("alpha",))
    assert isinstance(second, Unparsed)
    assert second.code == "E_PARSE"
    assert third == Parsed(media_type="text/markdown", pages=("# b",))
    assert box.isolation in ("namespace", "python")


def test_more_documents_than_a_batch_use_more_children():
    texts = [f"text {i}" for i in range(sandbox.BATCH + 2)]
    parsed = Sandbox(is_required=False).parse([raw(text) for text in texts])
    assert [p.pages[0] for p in parsed if isinstance(p, Parsed)] == texts


def test_only_the_document_that_hangs_is_rejected(monkeypatch):
    monkeypatch.setattr(sandbox, "_ask", _hanging(sandbox._ask))
    results = Sandbox(is_required=False, wall_s=20.0).parse([raw("a"), raw("hang"), raw("b")])
    assert [getattr(r, "code", "text") for r in results] == ["text", "E_LIMIT", "text"]


def _hanging(ask):
    """A parent that lets the child die on one document, as a parser's crash would."""

    def asked(child, document, wall_s):
        if document.data == b"hang":
            child.kill()
        return ask(child, document, wall_s)

    return asked


def test_a_child_that_never_answers_is_killed_after_the_wall_time(monkeypatch):
    command = [sys.executable, "-c", "print('python', flush=True); import time; time.sleep(60)"]
    real = subprocess.Popen
    monkeypatch.setattr(sandbox.subprocess, "Popen", lambda _args, **kwargs: real(command, **kwargs))
    (result,) = Sandbox(is_required=False, wall_s=1.0).parse([raw("a")])
    assert result == Unparsed(code="E_LIMIT", reason="the parser died or exceeded its limits")


def test_required_refuses_a_child_that_the_os_does_not_cut_off(monkeypatch):
    command = [sys.executable, "-c", "print('python', flush=True)"]
    real = subprocess.Popen
    monkeypatch.setattr(sandbox.subprocess, "Popen", lambda _args, **kwargs: real(command, **kwargs))
    with pytest.raises(ParseError, match="cut off from the network") as caught:
        Sandbox(is_required=True).parse([raw("a")])
    assert caught.value.code == "E_SANDBOX"


def test_a_child_that_does_not_start_is_an_error(monkeypatch):
    real = subprocess.Popen
    monkeypatch.setattr(sandbox.subprocess, "Popen", lambda _args, **kwargs: real([sys.executable, "-c", ""], **kwargs))
    with pytest.raises(ParseError, match="did not start"):
        Sandbox(is_required=False).parse([raw("a")])


CONFINED = """
import json, os, resource, socket, subprocess
from spice_enterprise.corpus import sandbox
level = sandbox.confine()
def fails(act):
    try: act()
    except OSError: return True
    return False
print(json.dumps({
    "level": level,
    "socket": fails(lambda: socket.socket()),
    "program": fails(lambda: subprocess.run(["true"])),
    "fork": fails(lambda: os.fork()),
    "memory": resource.getrlimit(resource.RLIMIT_AS)[1] <= 1536 << 20,
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
}))
"""


def test_a_confined_process_has_no_network_programs_or_memory_to_spare():
    run = subprocess.run([sys.executable, "-I", "-c", CONFINED], capture_output=True, text=True, check=True)
    facts = json.loads(run.stdout)
    assert facts.pop("level") in ("namespace", "python")
    assert facts == {"socket": True, "program": True, "fork": True, "memory": True, "core": 0}


def test_the_child_sees_neither_the_environment_nor_a_directory_of_ours(monkeypatch):
    seen = {}
    real = subprocess.Popen

    def spy(args, **kwargs):
        seen.update(kwargs, args=args)
        return real(args, **kwargs)

    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setattr(sandbox.subprocess, "Popen", spy)
    Sandbox(is_required=False).parse([raw("a")])
    assert set(seen["env"]) == {"LANG", "HOME", "TMPDIR"}
    assert "-I" in seen["args"]
    assert seen["start_new_session"]
    assert not os.path.exists(seen["cwd"])


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]\n", b"nonsense\n", b'{"media_type": "x", "pages": []}\n', b'{"media_type": "x", "pages": [1]}\n',
        b'{"media_type": "x", "pages": ["a"], "more": 1}\n', b'{"code": "boom", "reason": "x"}\n',
        b'{"code": "E_X", "reason": 1}\n', b"[" * 100_000 + b"\n",
    ],
)  # fmt: skip
def test_nonsense_from_a_child_is_no_answer(line):
    assert decode_answer(line) is None


def test_answers_are_normalised_again_by_the_parent():
    assert decode_answer(b'{"media_type": "t", "pages": ["a\\u0000b\\u202e"]}\n') == Parsed(media_type="t", pages=("ab",))
    too_long = json.dumps({"media_type": "t", "pages": ["a"] * (sandbox.MAX_PAGES + 1)}).encode() + b"\n"
    assert decode_answer(too_long) is None


def test_raw_text_never_prints():
    assert "alpha" not in repr(raw("alpha"))
    assert "alpha" not in repr(Parsed(media_type="t", pages=("alpha",)))


def test_sockets_are_blocked_in_tests_too():
    with pytest.raises(Exception, match="socket"):
        socket.socket()
