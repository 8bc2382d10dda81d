"""Attacks from inside: the parser runs whatever the document says, in the real child."""

import ast
import os
import signal
import subprocess
import sys
import time

import pytest

from spice_enterprise.corpus import sandbox
from spice_enterprise.corpus.child_protocol import Unparsed
from spice_enterprise.corpus.confinement import PROFILES, denies_network, weaker
from spice_enterprise.corpus.reading import Parsed, ParseOptions
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox

BROKEN = Unparsed(code="E_LIMIT", reason="the parser died or exceeded its limits")
ATTACKER = """
import spice_enterprise.corpus.parser_child as child
from spice_enterprise.corpus.parsers import Parsed

def attack(data, suffix, options):
    found = {}
    exec(data, found)
    return Parsed(media_type="text/plain", pages=(repr(found["result"]),))

child.parse = attack
child.main()
"""
TRY = """
import ctypes, os, socket, threading
libc = ctypes.CDLL(None, use_errno=True)

def outcome(act):
    try:
        return act() or "done"
    except BaseException as error:
        return type(error).__name__

def refused(call):
    ctypes.set_errno(0)
    return (call(), ctypes.get_errno())

"""


@pytest.fixture
def attacked(monkeypatch):
    """Return a function that runs code inside the real child and gives back what it put into `result`."""
    monkeypatch.setattr(sandbox, "_COMMAND", (sys.executable, "-I", "-B", "-c", ATTACKER))

    def run(code, *, wall_s=30.0, suffix=".txt", options=None):
        box = Sandbox(is_required=False, wall_s=wall_s, options=options)
        (found,) = box.parse([RawDocument(suffix=suffix, data=(TRY + code).encode())])
        return ast.literal_eval(found.pages[0]) if isinstance(found, Parsed) else found

    return run


@pytest.fixture(scope="module")
def layers():
    box = Sandbox(is_required=False)
    box.parse([RawDocument(suffix=".txt", data=b"x")])
    return set(box.isolation.split("+"))


def needs(layers, name):
    if name not in layers:
        pytest.skip(f"this machine does not give the child: {name}")


@pytest.mark.parametrize("code", ["os._exit(0)", "os.kill(os.getpid(), 11)\nctypes.string_at(0)", "os.close(4); os.abort()"])
def test_only_the_document_that_breaks_its_child_is_rejected(attacked, code):
    documents = [RawDocument(suffix=".txt", data=(TRY + text).encode()) for text in ("result = 1", code, "result = 2")]
    results = Sandbox(is_required=False).parse(documents)
    assert [getattr(r, "code", None) or r.pages[0] for r in results] == ["1", "E_LIMIT", "2"]


def test_a_parser_that_sleeps_is_killed_after_the_wall_time(attacked):
    began = time.monotonic()
    assert attacked("import time; time.sleep(60)", wall_s=0.6) == BROKEN
    assert time.monotonic() - began < 15


def test_a_parser_that_computes_forever_dies_of_its_processor_limit(attacked):
    code = "import resource\nhard = resource.getrlimit(resource.RLIMIT_CPU)[1]\n"
    code += "resource.setrlimit(resource.RLIMIT_CPU, (1, hard))\nwhile True: pass"
    began = time.monotonic()
    assert attacked(code) == BROKEN
    assert time.monotonic() - began < 25


def test_limits_cannot_be_raised_again(attacked):
    code = """
import resource
names = ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE")
hard = {name: resource.getrlimit(getattr(resource, name))[1] for name in names}
more = [outcome(lambda: resource.setrlimit(getattr(resource, n), (hard[n] + 1, hard[n] + 1))) for n in names]
result = (hard, sorted(set(more)))
"""
    hard, more = attacked(code)
    native = PROFILES["native"]
    assert hard["RLIMIT_CPU"] <= native.batch * native.cpu_s + 30
    assert hard["RLIMIT_AS"] <= native.memory_bytes
    assert hard["RLIMIT_FSIZE"] <= native.scratch_bytes
    assert hard["RLIMIT_NOFILE"] <= native.open_files
    assert hard["RLIMIT_CORE"] == 0
    assert set(more) <= {"ValueError", "PermissionError"}


def test_memory_ends_at_the_profile(attacked):
    code = "result = (outcome(lambda: bytearray(1600 << 20)), outcome(lambda: len(bytearray(64 << 20))))"
    assert attacked(code) == ("MemoryError", 64 << 20)


def test_the_interpreter_refuses_sockets_and_programs(attacked):
    code = """
import subprocess
acts = [socket.socket, lambda: subprocess.run(["true"]), os.fork, lambda: os.system("true")]
acts += [lambda: os.execv("/bin/true", ["true"])]
result = [outcome(act) for act in acts]
"""
    assert attacked(code) == ["PermissionError"] * 5


def test_the_kernel_refuses_system_calls_that_no_parser_needs(attacked, layers):
    needs(layers, "seccomp")
    code = """
arguments = (ctypes.c_char_p * 2)(b"/bin/true", None)
calls = {
    "inet": lambda: libc.socket(2, 1, 0), "unix": lambda: libc.socket(1, 1, 0), "netlink": lambda: libc.socket(16, 3, 0),
    "connect": lambda: libc.connect(0, None, 0), "bind": lambda: libc.bind(0, None, 0), "ptrace": lambda: libc.ptrace(0, 0, 0, 0),
    "fork": lambda: libc.fork(), "vfork": lambda: libc.vfork(), "execve": lambda: libc.execv(b"/bin/true", arguments),
    "unshare": lambda: libc.unshare(0x10000000), "setns": lambda: libc.setns(0, 0),
    "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None), "die with parent": lambda: libc.prctl(1, 0, 0, 0, 0),
    "io_uring": lambda: libc.syscall(425, 8, None),
    "bpf": lambda: libc.syscall(321 if os.uname().machine == "x86_64" else 280, 0),
}
result = {name: refused(call) for name, call in calls.items()}
"""
    found = attacked(code)
    assert {name for name, answer in found.items() if answer != (-1, 1)} == set()


def test_threads_still_work(attacked):
    code = "seen = []\nthread = threading.Thread(target=lambda: seen.append(1))\nthread.start()\nthread.join()\nresult = seen"
    assert attacked(code) == [1]


def test_files_that_python_does_not_need_can_be_neither_read_nor_changed(attacked, layers, tmp_path):
    needs(layers, "landlock")
    mine, new = tmp_path / "private" / "mine", tmp_path / "private" / "new"
    mine.parent.mkdir()
    mine.write_text("original", encoding="ascii")
    code = f"""
mine, new = {str(mine)!r}, {str(new)!r}
files = mine, "/etc/shadow", "/etc/passwd", "/etc/hostname", "/proc/1/environ", "/proc/self/environ", "/proc/self/maps"
folders = "/", "/root", "/home", "/proc", "/var", os.path.dirname(mine)
acts = [lambda p=p: open(p, "rb").read() for p in files if os.path.lexists(p)]
acts += [lambda p=p: os.listdir(p) for p in folders if os.path.isdir(p)]
acts += [lambda: open(mine, "w"), lambda: os.unlink(mine), lambda: os.rename(mine, "x"), lambda: os.truncate(mine, 0)]
acts += [lambda: open("/dev/shm/new", "w"), lambda: os.mkdir(new), lambda: os.symlink("a", new), lambda: os.link(mine, "x")]
result = [outcome(act) for act in acts]
"""
    found = attacked(code)
    assert set(found) <= {"PermissionError", "OSError"}
    assert len(found) >= 10
    assert mine.read_text(encoding="ascii") == "original"
    assert os.listdir(mine.parent) == ["mine"]


def test_only_its_own_directory_is_written_and_that_is_gone_afterwards(attacked):
    where = attacked("open('x', 'w').write('private')\nresult = os.getcwd()")
    assert not os.path.exists(where)


def test_its_own_directory_is_small(attacked, layers):
    needs(layers, "mount")
    code = """
def fill():
    for number in range(9):
        with open(str(number), "wb") as file:
            file.write(bytes(20 << 20))
try:
    fill()
    result = 0
except OSError as error:
    result = error.errno
"""
    assert attacked(code) == 28


def test_one_file_ends_at_its_limit(attacked):
    assert attacked("result = outcome(lambda: open('x', 'wb').write(bytes(65 << 20)))") in ("OSError", BROKEN)


def test_other_processes_are_out_of_reach(attacked, layers):
    needs(layers, "pid")
    code = f"result = (os.getpid(), outcome(lambda: os.kill({os.getpid()}, 0)))"
    assert attacked(code) in ((1, "ProcessLookupError"), (1, "PermissionError"))


def test_the_child_has_no_privileges(attacked, layers):
    needs(layers, "nocaps")
    code = """
head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[1] * 6)
libc.syscall(125 if os.uname().machine == "x86_64" else 90, head, data)
result = (list(data), libc.prctl(39, 0, 0, 0, 0), [libc.prctl(23, n, 0, 0, 0) for n in range(41)])
"""
    capabilities, has_no_new_privileges, bounds = attacked(code)
    assert capabilities == [0] * 6
    assert has_no_new_privileges == 1
    assert sum(bounds) == 0


def test_what_a_library_prints_does_not_reach_the_protocol(attacked):
    assert attacked("print('noise'); os.write(1, b'noise'); result = 'ok'") == "ok"


@pytest.mark.parametrize("noise", [b"garbage\n", b"x" * 300, b'{"code": "boom", "reason": "x"}\n'])
def test_garbage_in_the_protocol_is_no_answer(attacked, noise):
    code = f"for handle in range(3, 20):\n  outcome(lambda: os.write(handle, {noise!r}))\nos._exit(0)"
    assert attacked(code) == BROKEN


def test_programs_that_a_converter_leaves_running_die_with_it(attacked, layers):
    needs(layers, "pid")
    before = _attackers()
    code = "import time\nresult = os.fork()\nif result == 0:\n  os.setsid()\n  time.sleep(300)"
    assert attacked(code, suffix=".rtf", options=ParseOptions(parser="auto")) > 1
    assert _gone(before)


def test_a_converter_reaches_local_sockets_of_its_own_only(attacked, layers, tmp_path):
    needs(layers, "mount")
    code = f"""
pair = (libc.socket(2, 1, 0), ctypes.get_errno())
local = libc.socket(1, 1, 0)
secret = outcome(lambda: open("/etc/shadow"))
result = (pair, local > 2, os.path.exists({str(tmp_path)!r}), os.stat("/run").st_dev == os.stat("/").st_dev, secret)
"""
    inet, has_local, sees_ours, sees_run, secret = attacked(code, suffix=".rtf", options=ParseOptions(parser="auto"))
    assert inet == (-1, 1)
    assert has_local
    assert not sees_ours
    assert not sees_run
    assert secret == "PermissionError"


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at the parent's death is Linux's")
def test_the_child_dies_with_its_parent():
    program = (
        "import sys\nfrom spice_enterprise.corpus import sandbox\n"
        f"sandbox._COMMAND = (sys.executable, '-I', '-B', '-c', {ATTACKER!r})\n"
        "box = sandbox.Sandbox(is_required=False)\n"
        "box.parse([sandbox.RawDocument(suffix='.txt', data=b'import time; time.sleep(120)')])\n"
    )
    before = _attackers()
    parent = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    try:
        until = time.monotonic() + 20
        while not _attackers() - before - {str(parent.pid)} and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        assert _attackers() - before - {str(parent.pid)}
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert _gone(before)


def _gone(before):
    until = time.monotonic() + 5
    while _attackers() - before and time.monotonic() < until:
        time.sleep(0.05)
    return not _attackers() - before


def _attackers():
    """Ids of the processes that run the attacker's program, zombies left out."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if b"child.parse = attack" in file.read():
                    found.add(name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [("a+b", "b+c", "b"), ("a", "python", "python"), ("python", "python", "python"), ("a+b", "a+b", "a+b")],
)
def test_weaker_levels(one, other, both):
    assert weaker(one, other) == both


def test_what_denies_the_network():
    assert denies_network("landlock+net")
    assert denies_network("seccomp")
    assert not denies_network("landlock+nocaps")
    assert not denies_network("python")
    assert not denies_network("")
