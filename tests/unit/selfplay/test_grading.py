"""A verifier may do what it likes: its answer is wrong with a code, its siblings are graded, and the process is gone after."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spice_enterprise.errors import MissingExtraError, SamplerError
from spice_enterprise.protocols import Grade
from spice_enterprise.records import Task
from spice_enterprise.selfplay import expressions, grading, grading_child
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.grading import GuardedVerifier

CANARY = "xylophone-canary-7731"
RIGHT, WRONG = Grade(is_correct=True), Grade(is_correct=False)
LIMIT_S = 1.0


def task(answer: str = "ok", kind: str = "text", **more: object) -> Task:
    fields = {"chunk_id": "c", "rollout_id": "r", "question": "q?", "task_format": "free_form", "regime": "self_contained"}
    return Task(answer=answer, answer_kind=kind, **{**fields, **more})


class Scripted:
    """Does what the answer says."""

    def __init__(self, tmp_path: Path | None = None) -> None:
        self.tmp_path = tmp_path
        self.calls = 0

    def grade(self, task: Task, answer: str) -> bool:
        self.calls += 1
        if answer in DEEDS:
            DEEDS[answer]()
        if answer == "count":
            return self.calls == 1
        if answer == "pid" and self.tmp_path:
            (self.tmp_path / "pid").write_text(str(os.getpid()))
        return VALUES.get(answer, answer == task.answer)


def spin() -> None:
    while True:
        pass


def eat_memory() -> None:
    held = [bytearray(1 << 20) for _ in range(4096)]
    assert not held


def shout() -> None:
    for _ in range(200_000):
        print(CANARY)
        sys.stderr.write(CANARY)
    os.write(1, CANARY.encode())
    os.write(2, CANARY.encode())
    os.system(f"echo {CANARY}")  # noqa: S605


def leave_a_child() -> None:
    if os.fork() == 0:
        time.sleep(600)


def come_back_twice() -> None:
    os.fork()


def recurse() -> None:
    recurse()


DEEDS: dict[str, Callable[[], object]] = {
    "raise": lambda: {}[CANARY],
    "recurse": recurse,
    "memory": eat_memory,
    "exit": lambda: os._exit(0),
    "leave": lambda: sys.exit(CANARY),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "spin": spin,
    "sleep": lambda: time.sleep(600),
    "deaf": lambda: [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)] and spin(),
    "shout": shout,
    "fork": come_back_twice,
    "orphan": leave_a_child,
    "close": lambda: os.closerange(0, 256),
    "thread": lambda: threading.Thread(target=spin, daemon=True).start(),
}
VALUES: dict[str, object] = {"none": None, "one": 1, "text": "True", "fork": True, "shout": True, "orphan": True, "thread": True}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedVerifier]:
    with GuardedVerifier(Scripted(tmp_path), time_limit_s=LIMIT_S, memory_limit_bytes=64 << 20) as verifier:
        yield verifier


def failed(code: str) -> Grade:
    return Grade(is_correct=False, code=code)


@pytest.mark.parametrize(
    ("deed", "verdict"),
    [
        ("raise", failed("verifier_raised")),
        ("recurse", failed("verifier_raised")),
        ("leave", failed("verifier_raised")),
        ("memory", failed("verifier_memory")),
        ("exit", failed("verifier_died")),
        ("kill", failed("verifier_died")),
        ("crash", failed("verifier_died")),
        ("close", failed("verifier_died")),
        ("spin", failed("verifier_timeout")),
        ("sleep", failed("verifier_timeout")),
        ("stop", failed("verifier_timeout")),
        ("deaf", failed("verifier_timeout")),
        ("none", failed("verifier_not_bool")),
        ("one", failed("verifier_not_bool")),
        ("text", failed("verifier_not_bool")),
        ("", failed("no_answer")),
        (" \n", failed("no_answer")),
        ("shout", RIGHT),
        ("fork", RIGHT),
        ("orphan", RIGHT),
        ("thread", RIGHT),
    ],
)
def test_siblings_are_graded_whatever_one_does(
    guarded: GuardedVerifier, deed: str, verdict: Grade, capfd: pytest.CaptureFixture[str]
) -> None:
    assert guarded.grade_all(task(), ["ok", deed, "no", "ok"]) == (RIGHT, verdict, WRONG, RIGHT)
    assert guarded.grade_all(task(), ["ok"]) == (RIGHT,)
    has_failed = verdict.code not in ("", "no_answer")
    assert guarded.failures == guarded.failure_codes[verdict.code] == has_failed
    assert guarded.grades == (4 if verdict.code == "no_answer" else 5)
    assert CANARY not in "".join(capfd.readouterr())


def test_the_very_process_that_hung_is_killed(guarded: GuardedVerifier, tmp_path: Path) -> None:
    guarded.grade(task(), "pid")
    before = int((tmp_path / "pid").read_text())
    os.kill(before, 0)
    assert guarded.grade_all(task(), ["deaf", "pid"])[0].code == "verifier_timeout"
    assert (guarded.grades, guarded.failures) == (3, 1)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    assert int((tmp_path / "pid").read_text()) != before


def test_a_time_limit_is_for_one_answer(tmp_path: Path) -> None:
    class Slow:
        def grade(self, task: Task, answer: str) -> bool:
            time.sleep(0.2)
            return True

    with GuardedVerifier(Slow(), time_limit_s=1.0) as slow:
        assert slow.grade_all(task(), ["x"] * 8) == (RIGHT,) * 8, "1.6 seconds in all"


def test_two_hanging_answers_cost_two_limits(guarded: GuardedVerifier) -> None:
    begun = time.monotonic()
    codes = [grade.code for grade in guarded.grade_all(task(), ["spin", "ok", "sleep"])]
    assert codes == ["verifier_timeout", "", "verifier_timeout"]
    assert time.monotonic() - begun >= 2 * LIMIT_S


def test_pairs_of_many_tasks_keep_their_order(guarded: GuardedVerifier) -> None:
    pairs = [(task(f"a{i % 7}"), f"a{i % 5}") for i in range(1200)]
    assert guarded.grade_pairs(pairs) == tuple(RIGHT if t.answer == a else WRONG for t, a in pairs)
    assert guarded.grade_pairs([]) == ()


def test_the_verifier_here_is_never_called(guarded: GuardedVerifier) -> None:
    assert guarded.grade(task(), "count") is True
    assert guarded.verifier.calls == 0


def test_a_process_is_replaced_before_it_piles_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading_child, "ANSWERS_PER_PROCESS", 2)
    with GuardedVerifier(Scripted()) as verifier:
        assert [verifier.grade(task(), "count") for _ in range(4)] == [True, False, True, False]


def test_guarding_twice_is_guarding_once() -> None:
    inner = Scripted()
    assert GuardedVerifier(GuardedVerifier(inner)).verifier is inner


@pytest.mark.parametrize("kind", ["text", "number", "date", "list", "boolean", "expression", "choice"])
def test_a_hundred_thousand_characters_and_odd_ones(kind: str) -> None:
    options = {"options": ("x", "y"), "task_format": "choice"} if kind == "choice" else {}
    odd = ["9" * 100_000, "(" * 100_000, "é\ud800\x00" * 30_000, "\\frac{" * 20_000, "a and " * 20_000, "^" * 100_000]
    with GuardedVerifier(KindVerifier()) as verifier:
        assert {g.is_correct for g in verifier.grade_all(task("A" if options else "45", kind, **options), odd)} == {False}


def test_no_process_is_left_when_the_verifier_is_forgotten(tmp_path: Path) -> None:
    verifier = GuardedVerifier(Scripted(tmp_path))
    verifier.grade(task(), "pid")
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)
    del verifier
    gc.collect()
    wait_until_gone(pid)


def wait_until_gone(pid: int) -> None:
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("still there")


SCRIPT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_grading import Scripted, task
from spice_enterprise.selfplay.grading import GuardedVerifier
verifier = GuardedVerifier(Scripted(Path({tmp!r})), time_limit_s=300)
verifier.grade(task(), "pid")
print("ready", flush=True)
verifier.grade(task(), "spin")
"""


def test_all_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = SCRIPT.format(folder=str(Path(__file__).parent), tmp=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        pid = int((tmp_path / "pid").read_text())
        forker = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        assert forker != parent.pid
        parent.kill()
    wait_until_gone(forker)
    wait_until_gone(pid)


def test_locks_of_the_parent_are_not_held(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        verifier = GuardedVerifier(Scripted())
        verifier.start()
        assert verifier.grade(task(), "ok")
    with verifier, (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_interrupt_leaves_no_reply_for_the_next_question(guarded: GuardedVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(pipe: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(grading_child, "read_frame", interrupted)
        with pytest.raises(KeyboardInterrupt):
            guarded.grade(task(), "no")
    assert guarded.grade_all(task(), ["ok", "ok"]) == (RIGHT, RIGHT)


def test_a_broken_grading_process_is_an_error_and_not_a_verdict(
    guarded: GuardedVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(Scripted):
        def prepare(self, kind: str) -> None:
            os._exit(1)

    class Refuses(Scripted):
        def prepare(self, kind: str) -> None:
            raise ValueError(CANARY)

    class Hangs(Scripted):
        def prepare(self, kind: str) -> None:
            spin()

    monkeypatch.setattr(grading, "_PATIENCE_S", 0.2)
    for verifier, said in ((Gone(), "gone"), (Refuses(), "ValueError"), (Hangs(), "gone")):
        with GuardedVerifier(verifier, time_limit_s=0.1) as broken:
            for _ in range(2):
                with pytest.raises(SamplerError, match=said) as caught:
                    broken.grade(task(), "ok")
                assert caught.value.code == "E_VERIFIER"
                assert CANARY not in caught.value.explain()


def test_what_is_prepared_once_is_there_for_every_process(tmp_path: Path) -> None:
    class Prepared(Scripted):
        table: tuple[str, ...] = ()

        def prepare(self, kind: str) -> None:
            with (tmp_path / "log").open("a") as file:
                file.write(f"{kind}\n")
            self.table = (*self.table, kind)

        def grade(self, task: Task, answer: str) -> bool:
            return super().grade(task, answer) and task.answer_kind in self.table

    with GuardedVerifier(Prepared(), time_limit_s=LIMIT_S) as verifier:
        assert verifier.grade_all(task(), ["ok", "exit", "ok"]) == (RIGHT, failed("verifier_died"), RIGHT)
        assert verifier.grade(task("ok", "date"), "ok")
        assert verifier.grade(task(), "ok")
    assert (tmp_path / "log").read_text() == "text\ndate\n"


def test_expressions_without_math_verify_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    expressions.load.cache_clear()
    with GuardedVerifier(KindVerifier()) as verifier:
        with pytest.raises(MissingExtraError, match="math-verify") as caught:
            verifier.grade(task("x+1", "expression"), "1+x")
        assert "spice-enterprise[train]" in caught.value.hint
        assert verifier.grade(task("45", "number"), "45.0"), "all other kinds do without"


def test_an_expression_that_never_ends_costs_its_limit_alone() -> None:
    with GuardedVerifier(KindVerifier(), time_limit_s=LIMIT_S) as verifier:
        grades = verifier.grade_all(task("(x+1)^2", "expression"), ["x^2+2x+1", "9^{9^{9^{9}}}", "x^2+2x", "1+2x+x^2"])
    assert grades[0] == grades[3] == RIGHT
    assert grades[1].code in ("verifier_timeout", "verifier_memory", "")
    assert not grades[1].is_correct
    assert grades[2] == WRONG
