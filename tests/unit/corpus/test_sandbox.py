import json
import os
import subprocess
import sys
import threading

import pytest

from spice_enterprise.corpus import sandbox
from spice_enterprise.corpus.archives import Member
from spice_enterprise.corpus.child_protocol import Unparsed
from spice_enterprise.corpus.confinement import PROFILES
from spice_enterprise.corpus.reading import Parsed, ParseOptions
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox, profile_for
from spice_enterprise.errors import MissingExtraError, ParseError

BROKEN = Unparsed(code="E_LIMIT", reason="the parser died or exceeded its limits")


def raw(text, suffix=".txt"):
    return RawDocument(suffix=suffix, data=text.encode())


def replace_child(monkeypatch, program):
    monkeypatch.setattr(sandbox, "_COMMAND", (sys.executable, "-I", "-c", program))


def test_answers_come_back_in_order_with_the_level_obtained():
    box = Sandbox(is_required=False)
    assert box.isolation == ""
    first, second, third = box.parse([raw("alpha"), raw("%PDF-1.7 noise", ".pdf"), raw("# b", ".md")])
    assert (first.media_type, first.pages) == ("text/plain", ("alpha",))
    assert isinstance(second, Unparsed)
    assert second.code == "E_PARSE"
    assert third.pages == ("# b",)
    layers = {"ipc", "landlock", "mount", "net", "nocaps", "pid", "python", "seccomp", "user"}
    assert box.isolation
    assert set(box.isolation.split("+")) <= layers


def test_more_documents_than_a_batch_use_more_children():
    texts = [f"text {i}" for i in range(sandbox.BATCH + 2)]
    parsed = Sandbox(is_required=False).parse([raw(text) for text in texts])
    assert [p.pages[0] for p in parsed if isinstance(p, Parsed)] == texts


def test_archives_are_opened_in_a_child(monkeypatch):
    program = "from spice_enterprise.corpus import archives, parser_child\n"
    program += "archives.expand = lambda data, suffix: [archives.Member(name='a' + suffix, data=data), "
    program += "archives.Member(name='b', data=b'')]\nparser_child.main()"
    replace_child(monkeypatch, program)
    members = Sandbox(is_required=False).expand(raw("x" * 100_000, ".zip"))
    assert members == [Member(name="a.zip", data=b"x" * 100_000), Member(name="b", data=b"")]


def test_a_bad_archive_is_a_code():
    refused = Sandbox(is_required=False).expand(raw("PK\x03\x04 noise", ".zip"))
    assert isinstance(refused, Unparsed)
    assert refused.code.startswith("E_")


@pytest.mark.parametrize(
    "answer",
    [
        '{"members": [["../x", 1]]}', '{"members": [["/x", 1]]}', '{"members": [["x", 300000000]]}', '{"members": [["x", 5]]}',
        '{"members": [["x", -1]]}', '{"members": "x"}', '{"members": [["x"]]}', "[]", "nonsense",
    ],
)  # fmt: skip
def test_an_archive_that_a_child_lies_about_is_refused(monkeypatch, answer):
    replace_child(monkeypatch, f"print('net', flush=True)\nprint({answer!r}, flush=True)")
    assert Sandbox(is_required=False, wall_s=5.0).expand(raw("x", ".zip")) == BROKEN


def test_a_child_that_never_answers_is_killed_after_the_wall_time(monkeypatch):
    replace_child(monkeypatch, "print('python', flush=True); import time; time.sleep(60)")
    (result,) = Sandbox(is_required=False, wall_s=0.5).parse([raw("a")])
    assert result == BROKEN


@pytest.mark.parametrize("level", ["python", "landlock+nocaps"])
def test_required_refuses_a_child_that_the_os_does_not_cut_off(monkeypatch, level):
    replace_child(monkeypatch, f"print({level!r}, flush=True)")
    with pytest.raises(ParseError, match="cut off from the network") as caught:
        Sandbox(is_required=True).parse([raw("a")])
    assert caught.value.code == "E_SANDBOX"


@pytest.mark.parametrize("program", ["", "print('a b')", "print('x' * 500)", "import sys; sys.stdout.write('python')"])
def test_a_child_that_does_not_start_is_an_error(monkeypatch, program):
    replace_child(monkeypatch, program)
    with pytest.raises(ParseError, match="did not start"):
        Sandbox(is_required=False).parse([raw("a")])


def test_a_missing_extra_is_not_a_bad_document(monkeypatch):
    answer = json.dumps({"code": "E_MISSING_EXTRA", "reason": "pip install 'spice-enterprise[ocr]'"})
    replace_child(monkeypatch, f"print('net', flush=True)\nprint({answer!r}, flush=True)")
    with pytest.raises(MissingExtraError) as caught:
        Sandbox(is_required=False).parse([raw("a")])
    assert caught.value.hint == "pip install 'spice-enterprise[ocr]'"


def test_the_weakest_child_decides_the_level(monkeypatch):
    box = Sandbox(is_required=False)
    replace_child(monkeypatch, "print('landlock+net', flush=True)")
    box.parse([raw("a")])
    replace_child(monkeypatch, "print('net+seccomp', flush=True)")
    box.parse([raw("a")])
    assert box.isolation == "net"


@pytest.mark.parametrize(
    ("suffix", "options", "name"),
    [
        (".pdf", {}, "native"), (".PDF", {"ocr": "auto"}, "ocr"), (".docx", {"ocr": "auto"}, "native"),
        (".png", {"ocr": "auto"}, "ocr"), (".rtf", {}, "native"), (".rtf", {"parser": "auto"}, "converter"),
        (".ODT", {"parser": "auto"}, "converter"), (".pdf", {"parser": "auto"}, "native"),
        (".pdf", {"parser": "unstructured", "ocr": "auto"}, "unstructured"), (".xls", {"parser": "auto"}, "unstructured"),
        (".doc", {"parser": "unstructured"}, "converter"), (".txt", {"parser": "unstructured"}, "unstructured"),
        (".png", {"parser": "unstructured", "ocr": "auto"}, "ocr"),
    ],
)  # fmt: skip
def test_each_parser_gets_its_own_limits(monkeypatch, suffix, options, name):
    monkeypatch.setattr(sandbox, "has_rapidocr", lambda: True)
    assert profile_for(suffix, ParseOptions(**options)) is PROFILES[name]


def test_tesseract_is_a_program_and_needs_a_child_that_starts_some(monkeypatch):
    monkeypatch.setattr(sandbox, "has_rapidocr", lambda: False)
    profile = profile_for(".pdf", ParseOptions(ocr="auto"))
    assert profile is PROFILES["ocr_program"]
    assert profile.may_start_programs
    assert not PROFILES["ocr"].may_start_programs


def test_the_child_sees_neither_the_environment_nor_a_directory_of_ours(monkeypatch):
    seen = {}
    real = subprocess.Popen

    def spy(args, **kwargs):
        seen.update(kwargs, args=args)
        return real(args, **kwargs)

    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setattr(sandbox.subprocess, "Popen", spy)
    Sandbox(is_required=False).parse([raw("a")])
    assert set(seen["env"]) == {"LANG", "HOME", "TMPDIR", "PATH", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS"}
    assert "-I" in seen["args"]
    assert seen["start_new_session"]
    assert not os.path.exists(seen["cwd"])


def test_children_of_many_threads_do_not_mix():
    results = {}

    def work(number):
        results[number] = Sandbox(is_required=False).parse([raw(f"text {number}")])[0].pages

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: (f"text {i}",) for i in range(3)}


def test_raw_text_never_prints():
    assert "alpha" not in repr(raw("alpha"))
    assert "alpha" not in repr(Parsed(media_type="t", pages=("alpha",)))
