"""The command line: exit codes, one record on stdout, errors in one line, progress on stderr.

The help of every verb is a golden file, rendered at a fixed width without colour. After a wanted change rewrite it with
`python -m pytest tests/unit/test_cli.py --update-golden`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from spice_enterprise import cli, cli_corpus, cli_screen, durable
from spice_enterprise.config import JobConfig
from spice_enterprise.errors import ConfigError, GateNotPassedError, IntegrityError, StoreError
from spice_enterprise.protocols import Corpus, Progress
from spice_enterprise.records import (
    AdapterVersion,
    CheckResult,
    Chunk,
    Document,
    GateReport,
    Promotion,
    Rejection,
    canonical_json,
    decode,
    digest_of,
)
from spice_enterprise.report import Figures
from spice_enterprise.store import RunStore

CANARY = "xylophone-canary-7731"
GOLDEN_HELP = Path(__file__).parents[1] / "golden" / "cli_help.txt"
POLICIES = Path(__file__).parents[2] / "policies"
VERBS = (
    (),
    ("run",),
    ("demo",),
    ("ingest",),
    ("ingest", "review"),
    ("train",),
    ("serve-sampler",),
    ("experiment",),
    ("crossplay",),
    ("gate",),
    ("promote",),
    ("rollback",),
    ("trace",),
    ("forget",),
    ("report",),
    ("audit",),
    ("audit", "verify"),
    ("policy",),
    ("policy", "check"),
    ("test-verifier",),
    ("plan",),
    ("doctor",),
)

DOCUMENT = Document(uri=f"{CANARY}.txt", media_type="text/plain", keyed_digest="0" * 64, size_bytes=10)
CHUNK = decode(
    Chunk,
    {
        "document_id": DOCUMENT.document_id,
        "index": 0,
        "text": CANARY,
        "redactions": [],
        "split": "train",
        "pii_policy_digest": digest_of("pii"),
        "token_count": 3,
    },
)
CORPUS = Corpus(
    documents=(DOCUMENT,),
    chunks=(CHUNK,),
    rejections=(Rejection(uri=CANARY, code="E_EMPTY", reason="empty"),),
    removed=(("PERSON", 4),),
    residual_findings=0,
    pii_policy_digest=digest_of("pii"),
    ner_model="none",
    isolation="namespace",
    digest=digest_of("corpus"),
)
VERSION = AdapterVersion(
    role="shared",
    parent_adapter_id=None,
    step_id="step_1",
    step=1,
    base_model="embedded",
    base_digest="b",
    corpus_digest="c",
    config_digest="d",
    manifest=(),
    digest=digest_of("adapter"),
)
CHECK = CheckResult(
    check="transfer_gain",
    metric="transfer_accuracy",
    verdict="PASS",
    value=0.1,
    low=0.05,
    high=0.15,
    limit=0.02,
    n=100,
    clusters=20,
    detail="",
    baseline=0.4,
    candidate=0.5,
)


def gate_report(verdict: str) -> GateReport:
    data = {
        "adapter_id": VERSION.adapter_id,
        "adapter_digest": VERSION.digest,
        "policy_digest": "p",
        "exam_digest": "e",
        "primary": "transfer_gain",
        "results": [],
        "verdict": verdict,
        "reasons": [],
    }
    return replace(decode(GateReport, data), results=(CHECK,))


def move(alias: str, kind: str = "promote", generation: int = 1) -> Promotion:
    data = {
        "gate_id": "gate_1",
        "adapter_id": VERSION.adapter_id,
        "adapter_digest": VERSION.digest,
        "alias": alias,
        "generation": generation,
        "replaces": None,
        "kind": kind,
    }
    return decode(Promotion, data)


FIGURES = Figures(
    run="job",
    verdict="PASS",
    reasons=(),
    documents=1,
    chunks=1,
    train_chunks=1,
    unseen_documents=0,
    rejected=(("E_EMPTY", 1),),
    removed=(("PERSON", 4),),
    residual_findings=0,
    isolation="namespace",
    ner_model="none",
    base_model="embedded",
    steps_done=0,
    steps_applied=0,
    tasks=0,
    frontier_tasks=0,
    valid_rate_start=float("nan"),
    valid_rate_end=None,
    pass_rate_start=None,
    pass_rate_end=None,
    restores=0,
    is_halted=False,
    alerts=(),
    curve=(),
    exam_questions=100,
    exam_documents=20,
    primary="transfer_gain",
    baseline=0.4,
    candidate=0.5,
    gain_low=0.05,
    gain_mean=0.1,
    gain_high=0.15,
    checks=(CHECK,),
    adapter_id=VERSION.adapter_id,
    adapter_digest=VERSION.digest,
    adapter_chain=1,
    gate_id="gate_1",
    alias="sandbox",
    digests=(),
    lineage=(),
    seconds=(),
    step_seconds=0.0,
    peak_memory_bytes=1 << 30,
    connections_attempted=0,
)


class FakeJob:
    """A job that does what the class says, and remembers with which settings it was made."""

    verdict: str | None = "PASS"
    error: BaseException | None = None
    made: list[JobConfig]
    calls: list[tuple[Any, ...]]

    def __init__(self, *, config: JobConfig | None = None, on_progress: Any = None) -> None:
        self.on_progress = on_progress
        if config is not None:
            FakeJob.made.append(config)

    @classmethod
    def open(cls, workspace: Path, record_id: str) -> "FakeJob":
        cls.calls.append(("open", str(workspace), record_id))
        return cls()

    def _work(self) -> None:
        for number in (1, 2):
            self.on_progress(Progress(stage="self-play", message="step", done=number, total=2, numbers=(("valid_rate", 0.5),)))
        if FakeJob.error is not None:
            raise FakeJob.error

    def run(self) -> SimpleNamespace:
        self._work()
        figures = replace(FIGURES, verdict=FakeJob.verdict)
        return SimpleNamespace(figures=figures, verdict=FakeJob.verdict, run_dir=Path("runs") / "job")

    def ingest(self) -> Corpus:
        self._work()
        return CORPUS

    def train(self) -> AdapterVersion:
        self._work()
        return VERSION

    def gate(self) -> GateReport | None:
        self._work()
        return gate_report(FakeJob.verdict) if FakeJob.verdict else None

    def promote(self, adapter_id: str, to: str) -> Promotion:
        if FakeJob.error is not None:
            raise FakeJob.error
        return move(to)

    def rollback(self, alias: str) -> Promotion:
        return move(alias, "rollback", 2)


@pytest.fixture(autouse=True)
def fake_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeJob]]:
    FakeJob.verdict, FakeJob.error, FakeJob.made, FakeJob.calls = "PASS", None, [], []
    monkeypatch.setattr(cli, "SpiceAdapterJob", FakeJob)
    monkeypatch.setattr(cli_corpus, "SpiceAdapterJob", FakeJob)
    monkeypatch.setattr("os.fsync", lambda _: None)
    return FakeJob


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.txt").write_text(CANARY)
    return documents


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


# --- exit codes and output of the road --------------------------------------------------------------------------------


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("FAIL", 3), ("INCONCLUSIVE", 4), (None, 4)])
def test_run_and_gate_exit_with_the_verdict(folder: Path, verdict: str | None, code: int) -> None:
    FakeJob.verdict = verdict
    assert invoke("run", folder).exit_code == code
    assert invoke("gate", folder).exit_code == code


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE", None])
def test_demo_exits_zero_once_finished_and_shows_the_verdict(tmp_path: Path, verdict: str | None) -> None:
    FakeJob.verdict = verdict
    done = invoke("demo", "--documents", 2, "--workspace", tmp_path / "runs")
    assert done.exit_code == 0
    assert (verdict or "nothing new was learned") in done.stdout
    assert len([p for p in (tmp_path / "runs" / "demo-documents-2").rglob("*") if p.is_file()]) == 2
    assert FakeJob.made[0].name == "demo"
    assert FakeJob.made[0].workspace == str(tmp_path / "runs")


@pytest.mark.parametrize("verb", ["run", "ingest", "train", "gate"])
def test_json_is_one_document_and_progress_stays_on_stderr(folder: Path, verb: str) -> None:
    done = invoke(verb, folder, "--json")
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stderr.startswith("spice-enterprise ")
    assert "self-play" in done.stderr
    assert "self-play        2/2  step  valid 50%" in done.stderr


def test_run_prints_the_figures_and_where_they_are(folder: Path) -> None:
    shown = json.loads(invoke("run", folder, "--json").stdout)
    assert shown["run_dir"] == str(Path("runs") / "job")
    assert shown["gain_mean"] == 0.1
    assert shown["valid_rate_start"] == {"$num": "nan"}  # JSON has no NaN
    card = invoke("run", folder).stdout
    assert "verdict    PASS" in card
    assert "report.html" in card


def test_ingest_prints_counts_and_no_names(folder: Path) -> None:
    shown = json.loads(invoke("ingest", folder, "--json").stdout)
    assert (shown["documents"], shown["rejected"], shown["removed"]) == (1, {"E_EMPTY": 1}, {"PERSON": 4})
    assert CANARY not in invoke("ingest", folder).output


def test_train_prints_the_adapter(folder: Path) -> None:
    assert VERSION.adapter_id in invoke("train", folder).stdout
    assert json.loads(invoke("train", folder, "--json").stdout)["adapter_id"] == VERSION.adapter_id


def test_gate_prints_every_check(folder: Path) -> None:
    assert "transfer_gain  PASS          0.1 (limit 0.02)  n=100" in invoke("gate", folder).stdout
    FakeJob.verdict = None
    assert json.loads(invoke("gate", folder, "--json").stdout) is None


# --- settings ---------------------------------------------------------------------------------------------------------


def test_flags_win_over_the_file(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "job.yaml").write_text("corpus: documents\nname: one\nselfplay: {steps: 3}\n")
    invoke("run", tmp_path / "job.yaml", "--name", "two", "--workspace", tmp_path / "w", "--set", "selfplay.steps=9")
    made = FakeJob.made[0]
    assert (made.name, made.workspace, made.selfplay.steps, made.corpus) == ("two", str(tmp_path / "w"), 9, str(folder))


def test_set_values_are_typed_as_yaml(folder: Path) -> None:
    invoke("run", folder, "--set", "offline=false", "--set", "training.learning_rate=1.0e-4", "--set", "policies.pii=null")
    made = FakeJob.made[0]
    assert (made.offline, made.training.learning_rate, made.policies.pii) == (False, 1e-4, None)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("selfplay.steps", "E_CONFIG: --set selfplay.steps: a = is missing"),
        ("corpus.x=1", "E_CONFIG: --set corpus.x: name it as section.key=value"),
        ("a.b.c=1", "E_CONFIG: --set a.b.c: name it as section.key=value"),
        ("seed=[1", "E_CONFIG: --set seed: the value is not valid YAML"),
        (f"seed={CANARY}", "seed: input should be a valid integer"),
        ("selfplay.stepz=1", "selfplay.stepz: unknown key, did you mean 'steps'?"),
    ],
)
def test_a_wrong_setting_is_one_line_without_its_value(folder: Path, argument: str, message: str) -> None:
    done = invoke("run", folder, "--set", argument)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 2  # the greeting and the error
    assert CANARY not in done.output
    assert done.stdout == ""


def test_a_section_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("corpus: x\nselfplay: 3\n")
    done = invoke("plan", tmp_path / "job.yaml", "--set", "selfplay.steps=1")
    assert (done.exit_code, "selfplay: expected keys and values" in done.stderr) == (2, True)


def test_several_problems_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("corpus: x\nsed: 1\nofline: true\n")
    lines = invoke("plan", tmp_path / "job.yaml").stderr.splitlines()
    assert "E_CONFIG: job.yaml: sed: unknown key, did you mean 'seed'?" in lines
    assert "E_CONFIG: job.yaml: ofline: unknown key, did you mean 'offline'?" in lines
    assert len(lines) == 3


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StoreError("busy", code="E_LOCKED", hint="wait"), 75, "E_LOCKED: busy -> wait"),
        (StoreError("stopped on request", code="E_STOPPED"), 75, "E_STOPPED: stopped on request"),
        (IntegrityError("wrong digest", record_id="adapter_1"), 5, "E_INTEGRITY: wrong digest [adapter_1]"),
        (ConfigError("bad", code="E_RUN_CONFIG"), 2, "E_RUN_CONFIG: bad"),
        (KeyboardInterrupt(), 75, "E_STOPPED: stopped on request -> the same command continues"),
        (KeyError(CANARY), 1, "E_INTERNAL: unexpected KeyError during run -> run again with --debug for the traceback"),
        (OSError(28, CANARY), 75, "E_DISK_FULL: no disk space left during run"),
        (StoreError("a\x1b[31m\nname"), 1, "E_STORE: a?[31m name"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(folder: Path, error: BaseException, code: int, line: str) -> None:
    FakeJob.error = error
    done = invoke("run", folder)
    assert done.exit_code == code
    assert done.stderr.splitlines()[-1].startswith(line)
    assert "Traceback" not in done.stderr
    assert CANARY not in done.output
    assert done.stdout == ""


def test_an_error_with_json_is_a_document_too(folder: Path) -> None:
    FakeJob.error = StoreError("busy", code="E_LOCKED", hint="wait")
    done = invoke("run", folder, "--json")
    assert json.loads(done.stdout)["error"]["code"] == "E_LOCKED"
    assert done.exit_code == 75


def test_debug_shows_the_traceback(folder: Path) -> None:
    FakeJob.error = ValueError("inner")
    done = invoke("run", folder, "--debug")
    assert "Traceback" in done.stderr
    assert "ValueError: inner" in done.stderr
    assert done.exit_code == 1


def test_sigterm_stops_like_ctrl_c(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeJob, "run", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    done = invoke("run", folder)
    assert (done.exit_code, "E_STOPPED" in done.stderr) == (75, True)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("arguments", [["run"], ["frob"], ["promote", "a", "--to", "mars"], ["demo", "--documents", "1"]])
def test_wrong_usage_exits_two(arguments: list[str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""


# --- release ----------------------------------------------------------------------------------------------------------


def test_promote_opens_the_run_of_the_adapter() -> None:
    done = invoke("promote", VERSION.adapter_id, "--to", "staging", "--workspace", "w")
    assert done.exit_code == 0
    assert FakeJob.calls == [("open", "w", VERSION.adapter_id)]
    assert f"staging -> {VERSION.adapter_id}  generation 1" in done.stdout


def test_a_refused_promotion_exits_two() -> None:
    FakeJob.error = GateNotPassedError("the verdict is FAIL", record_id=VERSION.adapter_id)
    done = invoke("promote", VERSION.adapter_id, "--to", "prod")
    assert (done.exit_code, done.stderr.startswith("E_GATE_NOT_PASSED")) == (2, True)


def test_rollback_finds_the_run_that_moved_the_alias_last(tmp_path: Path) -> None:
    none = invoke("rollback", "prod", "--workspace", tmp_path)
    assert (none.exit_code, none.stderr.startswith("E_NO_SAFE_VERSION")) == (2, True)
    for name, generation in (("a", 2), ("b", 1)):
        store = RunStore(tmp_path / name)
        durable.write_file(store.run_dir / "run.json", b"{}")
        store.put(move("prod", generation=generation))
    done = invoke("rollback", "prod", "--workspace", tmp_path, "--json")
    assert json.loads(done.stdout)["kind"] == "rollback"
    assert FakeJob.calls == [("open", str(tmp_path), move("prod", generation=2).promotion_id)]


# --- evidence ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    store = RunStore(tmp_path / "runs" / "one")
    durable.write_file(store.run_dir / "run.json", canonical_json({"config": {}}))
    store.save("corpus", CORPUS)
    report = gate_report("PASS")
    store.put(VERSION)
    store.put(report)
    store.put(replace(move("sandbox"), gate_id=report.gate_id))
    return tmp_path / "runs"


def test_trace_walks_both_ways_without_text(workspace: Path) -> None:
    done = invoke("trace", gate_report("PASS").gate_id, "--workspace", workspace)
    assert done.exit_code == 0
    assert "came from  AdapterVersion 1" in done.stdout
    assert "led to     Promotion 1" in done.stdout
    assert "verdict PASS" in done.stdout
    chunk = invoke("trace", CHUNK.chunk_id, "--workspace", workspace)
    assert f"<- {DOCUMENT.document_id}" in chunk.stdout
    assert CANARY not in done.output + chunk.output


def test_trace_json_and_limit(workspace: Path) -> None:
    shown = json.loads(invoke("trace", VERSION.adapter_id, "--workspace", workspace, "--json").stdout)
    assert [item["record"] for item in shown["runs"]["one"]["led_to"]] == ["GateReport", "Promotion"]
    limited = invoke("trace", VERSION.adapter_id, "--workspace", workspace, "--limit", 1).stdout
    assert "... 1 more (--limit 0 shows all)" in limited
    assert "more" not in invoke("trace", VERSION.adapter_id, "--workspace", workspace, "--limit", 0).stdout


def test_trace_of_an_unknown_id_exits_two(workspace: Path) -> None:
    done = invoke("trace", "task_nope", "--workspace", workspace)
    assert (done.exit_code, done.stderr.startswith("E_UNKNOWN_ID")) == (2, True)


def test_report_needs_a_finished_run(workspace: Path) -> None:
    done = invoke("report", workspace / "one")
    assert (done.exit_code, done.stderr.startswith("E_NO_REPORT")) == (2, True)


def test_report_prints_the_path(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = (workspace / "one" / "report.html", workspace / "one" / "report.json")
    monkeypatch.setattr(cli, "rewrite_report", lambda _: (FIGURES, pages))
    assert invoke("report", workspace / "one").stdout.strip() == str(pages[0])
    assert json.loads(invoke("report", workspace / "one", "--json").stdout)["html"] == str(pages[0])


@pytest.mark.parametrize(("found", "code"), [(0, 0), (2, 5)])
def test_audit_verify_exits_five_on_findings(monkeypatch: pytest.MonkeyPatch, found: int, code: int) -> None:
    findings = [SimpleNamespace(kind="tree", name=f"checkpoint {i}", detail="the root differs") for i in range(found)]
    monkeypatch.setattr(cli, "verify_bundle", lambda *_: findings)
    done = invoke("audit", "verify", "bundle", "--trust", "trust.json")
    assert done.exit_code == code
    assert ("the root differs" in done.stdout) == (found > 0)


def test_audit_verify_of_nothing_exits_two(tmp_path: Path) -> None:
    done = invoke("audit", "verify", tmp_path, "--trust", tmp_path / "no.json")
    assert (done.exit_code, "E_BUNDLE" in done.stderr) == (2, True)


# --- before a run -----------------------------------------------------------------------------------------------------


def test_plan_prints_problems_and_exits_two(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = invoke("plan", tmp_path / "empty")
    assert done.exit_code == 2
    assert "holds no files" in done.stdout
    assert "selfplay.steps" in done.stdout
    assert json.loads(invoke("plan", tmp_path / "empty", "--json").stdout)["documents"] == 0


def test_doctor_exits_by_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "examine", lambda _: (cli_finding("gpu", "warn"),))
    assert invoke("doctor").exit_code == 0
    monkeypatch.setattr(cli, "examine", lambda _: (cli_finding("torch", "missing"),))
    done = invoke("doctor")
    assert done.exit_code == 2
    assert "torch  missing  detail  -> fix" in done.stdout


def cli_finding(name: str, status: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, status=status, detail="detail", fix="fix")


def test_policy_check_names_every_problem_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("kind: Other\n")
    (tmp_path / "bad.yaml").write_text("apiVersion: spice.policy/v1\nkind: GuardrailsPolicy\nmax_restorez: 1\n")
    done = invoke("policy", "check", POLICIES / "gate.yaml", tmp_path / "odd.yaml", tmp_path / "bad.yaml", tmp_path / "no.yaml")
    assert done.exit_code == 2
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok ")
    assert any("kind: expected one of PiiPolicy, GuardrailsPolicy, PromotionPolicy" in line for line in lines)
    assert any("max_restorez: unknown key, did you mean 'max_restores'?" in line for line in lines)
    assert any("min_valid_rate: field required" in line for line in lines)
    assert any("no.yaml: no such file" in line for line in lines)


def test_the_shipped_policies_are_good() -> None:
    done = invoke("policy", "check", *sorted(POLICIES.glob("*.yaml")), "--json")
    assert done.exit_code == 0
    assert {item["kind"] for item in json.loads(done.stdout)["policies"]} >= {"GuardrailsPolicy", "PromotionPolicy"}


# --- progress ---------------------------------------------------------------------------------------------------------


def test_plain_progress_is_thinned_but_ends_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    screen = cli_screen.Screen(clock=lambda: now[0])
    with screen:
        screen(Progress(stage="corpus", message="begin"))
        for number in range(1, 101):
            now[0] += 0.1
            screen(Progress(stage="corpus", message="document", done=number, total=100))
        screen(Progress(stage="corpus", message="done", numbers=(("seconds", 10.04),)))
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == ""
    assert 10 <= len(lines) <= 14
    assert lines[0].split() == ["corpus", "begin"]
    assert lines[-2].split() == ["corpus", "100/100", "document"]
    assert lines[-1].split() == ["corpus", "done", "10.0", "s"]


def test_numbers_have_units(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = (("challenger_reward", 0.1234), ("valid_rate", 0.5), ("tokens_per_s", 88.0), ("left_s", 125.0))
    cli_screen.Screen()(Progress(stage="self-play", message="step", done=3, total=3, numbers=numbers))
    assert "step  left 2 min 05 s  challenger 0.123  valid 50%  tokens/s 88" in capsys.readouterr().err


def test_a_terminal_gets_a_live_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with cli_screen.Screen() as screen:
        screen(Progress(stage="job", message="starting"))
        screen(Progress(stage="corpus", message="begin"))
        screen(Progress(stage="corpus", message="document", done=3, total=10))
        screen(Progress(stage="corpus", message="done", numbers=(("seconds", 1.5),)))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "corpus     ok  1.5 s" in shown.err.replace("\x1b[1;32m", "").replace("\x1b[0m", "")


def test_a_closed_terminal_does_not_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: str) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(sys.stderr, "write", closed)
    cli_screen.Screen()(Progress(stage="corpus", message="begin"))


# --- as a process -----------------------------------------------------------------------------------------------------


def process(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spice_enterprise", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def test_version_and_verbs_load_no_heavy_library(tmp_path: Path) -> None:
    done = process("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("spice-enterprise ")
    code = "import spice_enterprise.__main__, sys; print(*{'torch','transformers','spacy','mlflow','peft'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""


def test_stdout_and_stderr_are_kept_apart_in_a_real_process(tmp_path: Path) -> None:
    done = process("run", tmp_path / "no.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("E_CONFIG: ")
    (tmp_path / "empty").mkdir()
    planned = process("plan", tmp_path / "empty", "--json")
    assert (planned.returncode, planned.stderr) == (2, "")
    assert json.loads(planned.stdout)["documents"] == 0


def test_a_closed_stdout_is_quiet_and_keeps_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "spice_enterprise", "plan", str(tmp_path / "empty")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        errors = running.stderr.read()
    assert (running.returncode, errors) == (2, b"")


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_is_golden(monkeypatch: pytest.MonkeyPatch, update_golden: bool) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 100)
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", False)
    monkeypatch.setattr("typer.rich_utils.COLOR_SYSTEM", None)
    pages = []
    for verb in VERBS:
        done = CliRunner().invoke(cli.app, [*verb, "--help"], prog_name="spice-enterprise")
        assert done.exit_code == 0
        pages.append("\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()))
    shown = "\n\n".join(pages) + "\n"
    assert "\x1b" not in shown
    if update_golden:
        GOLDEN_HELP.write_text(shown)
    assert shown == GOLDEN_HELP.read_text()
