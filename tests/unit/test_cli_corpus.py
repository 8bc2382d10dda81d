"""The verbs around a corpus: `ingest --out`, `ingest review`, `forget`."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from spice_enterprise import cli, cli_corpus, cli_screen, durable, offline
from spice_enterprise.audit import open_trail
from spice_enterprise.config import JobConfig
from spice_enterprise.corpus.corpus_files import load_corpus, read_documents
from spice_enterprise.errors import SourceError
from spice_enterprise.protocols import Manifest, Progress
from spice_enterprise.records import AdapterVersion, canonical_json, digest_of
from spice_enterprise.store import RunStore

CANARY = "xylophone-canary-7731"


class FakeJob:
    """A job that writes an invented corpus, and remembers with which settings it was made."""

    error: BaseException | None = None
    make: Any = None
    made: list[JobConfig]

    def __init__(self, *, config: JobConfig, on_progress: Any) -> None:
        self.on_progress = on_progress
        FakeJob.made.append(config)

    def ingest_to(self, out: Path) -> Manifest:
        self.on_progress(Progress(stage="job", message="starting"))
        numbers = (("pages", 9.0), ("removed", 1234.0), ("quarantined", 1.0), ("size_bytes", 90_000.0))
        for done in (1, 2):
            self.on_progress(Progress(stage="corpus", message="scrubbed", done=done, total=2, numbers=numbers))
        if FakeJob.error is not None:
            raise FakeJob.error
        manifest: Manifest = FakeJob.make(out)
        return manifest


@pytest.fixture(autouse=True)
def fake_job(monkeypatch: pytest.MonkeyPatch, make_corpus: Any) -> Iterator[None]:
    FakeJob.error, FakeJob.make, FakeJob.made = None, make_corpus, []
    monkeypatch.setattr(cli_corpus, "SpiceAdapterJob", FakeJob)
    offline.GUARD.start(is_offline=True)
    offline.GUARD.stop()
    return


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.txt").write_text(CANARY)
    return folder


def invoke(*arguments: object, **more: Any) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], **more)


# --- ingest -----------------------------------------------------------------------------------------------------------


def test_ingest_writes_the_corpus_the_page_and_a_card(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "corpus"
    done = invoke("ingest", source, "--out", out)
    assert done.exit_code == 0
    assert "4 documents, 12 pages" in done.stdout
    assert "0 outside connections attempted" in done.stdout
    assert done.stdout.splitlines()[-1].split(maxsplit=1) == ["next", f"spice-enterprise ingest review {out}"]
    assert (out / "report.html").is_file()
    assert done.stderr.startswith("spice-enterprise ")
    assert CANARY not in done.output


def test_ingest_json_is_the_manifest(tmp_path: Path, source: Path) -> None:
    shown = json.loads(invoke("ingest", source, "--out", tmp_path / "corpus", "--json").stdout)
    assert (shown["documents"], shown["chunks"], shown["connections_attempted"]) == (4, 12, 0)
    assert shown["page"] == str(tmp_path / "corpus" / "report.html")


def test_flags_become_settings(tmp_path: Path, source: Path) -> None:
    policy = Path(__file__).parents[2] / "policies" / "pii.yaml"
    arguments = ("--policy", policy, "--workers", 3, "--workspace", tmp_path / "w", "--set", "ingest.chunk_tokens=99")
    assert invoke("ingest", source, "--out", tmp_path / "corpus", *arguments).exit_code == 0
    made = FakeJob.made[0]
    assert (made.ingest.workers, made.policies.pii, made.ingest.chunk_tokens) == (3, str(policy), 99)
    assert (made.workspace, made.corpus) == (str(tmp_path / "w"), str(source))


@pytest.mark.parametrize("kind", ["archive", "url", "config"])
def test_other_sources(tmp_path: Path, source: Path, kind: str) -> None:
    (tmp_path / "all.zip").write_bytes(b"PK")
    (tmp_path / "job.yaml").write_text("corpus: documents\ningest: {chunk_tokens: 77}\n")
    given = {"archive": str(tmp_path / "all.zip"), "url": f"s3://{CANARY}/leases/", "config": str(tmp_path / "job.yaml")}[kind]
    done = invoke("ingest", given, "--out", tmp_path / "corpus")
    assert done.exit_code == 0
    assert FakeJob.made[0].corpus == (str(source) if kind == "config" else given)
    assert CANARY not in done.output


def wrong(tmp_path: Path, source: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    out = tmp_path / "corpus"
    return {
        "out is a file": ((source, "--out", tmp_path / "file"), "E_OUT: --out"),
        "out in source": ((source, "--out", source / "deep" / "corpus"), "E_OUT: --out"),
        "out is source": ((source, "--out", source), "E_OUT: --out"),
        "out below a file": ((source, "--out", tmp_path / "file" / "corpus"), "E_OUT: --out"),
        "out is full": ((source, "--out", tmp_path / "full"), "E_OUT: --out"),
        "no source": ((tmp_path / "none", "--out", out), "E_NO_CORPUS: "),
        "no config": ((tmp_path / "none.yaml", "--out", out), "E_CONFIG: "),
        "no policy": ((source, "--out", out, "--policy", tmp_path / "none.yaml"), "E_POLICY: "),
        "no workers": ((source, "--out", out, "--workers", 0), "E_CONFIG: documents: ingest.workers"),
        "less workers": ((source, "--out", out, "--workers", -1), "E_CONFIG: documents: ingest.workers"),
    }


WRONG = (
    "out is a file", "out in source", "out is source", "out below a file", "out is full", "no source", "no config", "no policy",
    "no workers", "less workers",
)  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_is_one_line_and_touches_nothing(tmp_path: Path, source: Path, kind: str) -> None:
    arguments, begins = wrong(tmp_path, source)[kind]
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    done = invoke("ingest", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(begins)
    assert len(done.stderr.splitlines()) == 2  # the greeting and the error
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_folder_without_permission_is_refused(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = invoke("ingest", source, "--out", tmp_path / "corpus")
    assert (done.exit_code, "cannot be written" in done.stderr) == (2, True)


def test_errors_of_the_source_pass_through(tmp_path: Path, source: Path) -> None:
    FakeJob.error = SourceError("not allowed", code="E_URL_DENIED", hint="see the policy")
    done = invoke("ingest", "s3://bucket/x", "--out", tmp_path / "corpus")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, "E_URL_DENIED: not allowed -> see the policy")


def test_a_stopped_run_says_so_and_the_next_one_continues(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "corpus"
    monkeypatch.setattr(FakeJob, "ingest_to", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    stopped = invoke("ingest", source, "--out", out)
    assert stopped.exit_code == 75
    assert stopped.stderr.splitlines()[-1] == "E_STOPPED: stopped on request -> the same command continues"
    monkeypatch.undo()
    monkeypatch.setattr(cli_corpus, "SpiceAdapterJob", FakeJob)
    for number in range(3):
        durable.write_file(out / ".staged" / "0123" / "ab" / f"{number}.json", b"{}")
    again = invoke("ingest", source, "--out", out)
    assert again.exit_code == 0
    assert "3 documents were prepared before" in again.stderr
    assert "made anew" not in again.stderr


def test_a_finished_folder_is_made_anew(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "corpus"
    assert invoke("ingest", source, "--out", out).exit_code == 0
    page = (out / "report.html").read_bytes()
    again = invoke("ingest", source, "--out", out)
    assert (again.exit_code, "made anew" in again.stderr) == (0, True)
    assert (out / "report.html").read_bytes() == page


# --- the screen -------------------------------------------------------------------------------------------------------


def scrubbed(done: int, pages: float, size_bytes: float) -> Progress:
    numbers = (("pages", pages), ("removed", 1234.0), ("quarantined", 2.0), ("size_bytes", size_bytes))
    return Progress(stage="corpus", message="scrubbed", done=done, total=200, numbers=numbers)


def test_plain_lines_are_thin_and_speeds_are_of_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with cli_screen.IngestScreen(clock=lambda: now[0]) as screen:
        screen(Progress(stage="job", message="starting"))
        for number in range(1, 101):
            now[0] += 0.1
            screen(scrubbed(100 + number, 5_000.0 + number, 1e9 + 1_000.0 * number))
        screen(Progress(stage="corpus", message="done", done=200, total=200))
    lines = capsys.readouterr().err.splitlines()
    assert 6 <= len(lines) <= 8
    assert "reading" in lines[2]
    assert "1,234 removed  2 left out  10 pages/s  10 KB/s" in lines[2]
    assert lines[-1].endswith("10 s")


def test_a_terminal_gets_one_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with cli_screen.IngestScreen() as screen:
        screen(Progress(stage="job", message="starting"))
        screen(scrubbed(3, 4, 5))
        screen(Progress(stage="corpus", message="swept", done=1, total=2))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "comparing" in shown.err


# --- review -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: Any) -> Path:
    make_corpus(tmp_path / "corpus", documents=10)
    return tmp_path / "corpus"


def test_review_draws_records_and_logs(tmp_path: Path, corpus: Path) -> None:
    drawn = json.loads(invoke("ingest", "review", corpus, "--sample", 5, "--seed", 9, "--json").stdout)
    assert (len(drawn["chunk_ids"]), drawn["marked"]) == (5, 0)
    marks = Path(drawn["marks"])
    lines = [json.loads(line) for line in marks.read_bytes().splitlines()]
    for line in lines[1:]:
        line["verdict"] = "clean"
    marks.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    done = invoke("ingest", "review", corpus, "--record", marks, "--workspace", tmp_path / "w")
    assert done.exit_code == 0, done.output
    assert "personal left  0 of 5 (0.0%); of all chunks at least 0.0% and at most 45.1%, each at 95 %" in done.stdout
    (event,) = open_trail(tmp_path / "w").events("corpus.reviewed")
    assert (event.data["checked"], event.data["left"], event.subject[0].digest) == (5, 0, drawn["corpus_digest"])


@pytest.mark.parametrize(("verdicts", "code"), [(["left", "clean"], 3), (["clean"], 4), (["too_much", "clean"], 0)])
def test_review_exits_with_what_was_found(tmp_path: Path, corpus: Path, verdicts: list[str], code: int) -> None:
    drawn = json.loads(invoke("ingest", "review", corpus, "--sample", 2, "--json").stdout)
    header = {key: drawn[key] for key in ("corpus_digest", "sample", "seed")}
    marks = [{"chunk_id": i, "verdict": v} for i, v in zip(drawn["chunk_ids"], verdicts, strict=False)]
    (corpus / "review.jsonl").write_bytes(b"\n".join(canonical_json(line) for line in [header, *marks]))
    assert (
        invoke("ingest", "review", corpus, "--record", corpus / "review.jsonl", "--workspace", tmp_path / "w").exit_code == code
    )


def test_drawing_again_keeps_the_marks_and_another_sample_does_not_lose_them(corpus: Path) -> None:
    assert invoke("ingest", "review", corpus, "--sample", 7).exit_code == 0  # nobody marked anything in it
    drawn = json.loads(invoke("ingest", "review", corpus, "--sample", 3, "--json").stdout)
    marks = corpus / "review.jsonl"
    marks.write_bytes(marks.read_bytes().replace(b'"verdict":""', b'"verdict":"clean"', 1))
    assert json.loads(invoke("ingest", "review", corpus, "--sample", 3, "--json").stdout)["marked"] == 1
    before = marks.read_bytes()
    other = invoke("ingest", "review", corpus, "--sample", 4)
    assert (other.exit_code, other.stderr.startswith("E_REVIEW: review.jsonl:1")) == (2, True)
    assert marks.read_bytes() == before
    assert len(drawn["chunk_ids"]) == 3


def test_review_asks_at_a_terminal(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["", "l", "q"])
    monkeypatch.setattr(cli_corpus, "_is_terminal", lambda: True)
    monkeypatch.setattr("rich.console.Console.input", lambda *_, **__: next(answers))
    done = invoke("ingest", "review", corpus, "--sample", 4)
    assert done.exit_code == 0
    assert "2 of 4 marked" in done.stdout
    verdicts = [json.loads(line)["verdict"] for line in (corpus / "review.jsonl").read_bytes().splitlines()[1:]]
    assert verdicts == ["clean", "left", "", ""]


def test_review_of_no_corpus(tmp_path: Path) -> None:
    done = invoke("ingest", "review", tmp_path)
    assert (done.exit_code, done.stderr.startswith("E_CORPUS_FILES")) == (5, True)


# --- forget -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path, corpus: Path) -> Path:
    store = RunStore(tmp_path / "w" / "one")
    durable.write_file(store.run_dir / "run.json", canonical_json({"config": {}}))
    store.save("corpus", load_corpus(corpus))
    return tmp_path / "w"


def test_forget_lists_what_was_made_of_a_document(workspace: Path, corpus: Path) -> None:
    document = next(read_documents(corpus))
    done = invoke("forget", document.document_id, "--workspace", workspace, "--corpus", corpus)
    assert done.exit_code == 0, done.output
    assert "no vault here, nothing readable was ever kept" in done.stdout
    assert "3 chunks, 0 tasks, 0 steps, 0 adapters" in done.stdout
    assert "still holds its scrubbed text" in done.stdout
    assert document.uri not in done.output
    (event,) = open_trail(workspace).events("document.forgotten")
    assert (event.data["chunks"], event.data["has_vault"]) == (3, False)
    assert event.subject[0].name == document.document_id


def test_forget_destroys_the_key_by_the_keyed_digest(workspace: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []

    def forget(document_id: str) -> int:
        forgotten.append(document_id)
        return 7

    monkeypatch.setattr(cli_corpus, "_vault", lambda _: SimpleNamespace(forget=forget))
    document = next(read_documents(corpus))
    shown = json.loads(invoke("forget", document.document_id, "--workspace", workspace, "--json").stdout)
    assert forgotten == [document.keyed_digest]
    assert (shown["has_vault"], shown["originals"]) == (True, 7)


def test_forget_of_an_unknown_id(tmp_path: Path) -> None:
    done = invoke("forget", "doc_nope", "--workspace", tmp_path)
    assert (done.exit_code, done.stderr.startswith("E_UNKNOWN_ID")) == (2, True)


def test_forget_names_the_adapters(workspace: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = AdapterVersion(
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
    real = RunStore.lineage

    def lineage(self: RunStore, record_id: str) -> Any:
        found = real(self, record_id)
        return type(found)(record=found.record, ancestors=(), descendants=(*found.descendants, version))

    monkeypatch.setattr(RunStore, "lineage", lineage)
    done = invoke("forget", next(read_documents(corpus)).document_id, "--workspace", workspace)
    assert f"retrain or retire {version.adapter_id}  step 1" in done.stdout
    (event,) = open_trail(workspace).events("document.forgotten")
    assert event.inputs[0].digest == version.digest
