"""The window on a real MLflow with SQLite, and on a real server that is away at first: all of it, once each, no text."""

import json
import logging
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

from spice_enterprise.records import AdapterVersion, CheckResult, GateReport, Step

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")

CANARY = "CANARY of Jane Doe"


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised MLflow database; making one takes seconds, copying it does not."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


class Desk:
    """One run's mirror, and a plain client to look at what came of it."""

    def __init__(self, root: Path, uri: str) -> None:
        self.root, self.uri, self.run_dir = root, uri, root / "contracts"
        self.mirror = self.open()

    @cached_property
    def client(self):
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def open(self):
        from spice_enterprise.audit.mlflow_mirror import MlflowMirror

        return MlflowMirror(self.uri, "spice", workspace=self.root, run_dir=self.run_dir, run_name="contracts")

    def runs(self) -> list:
        experiment = self.client.get_experiment_by_name("spice")
        return list(self.client.search_runs([experiment.experiment_id])) if experiment else []

    def history(self, name: str) -> list:
        (run,) = self.runs()
        return [(m.step, m.timestamp, m.value) for m in self.client.get_metric_history(run.info.run_id, name)]

    def spooled(self) -> list[dict]:
        return [json.loads(line) for line in (self.run_dir / "spool.jsonl").read_bytes().splitlines()]

    def adapter(self, step: int) -> tuple[AdapterVersion, Path]:
        version = AdapterVersion(
            role="shared",
            parent_adapter_id=None,
            step_id="step_1",
            step=step,
            base_model="smol",
            base_digest="b" * 64,
            corpus_digest="sha256:" + "c" * 64,
            config_digest="sha256:" + "d" * 64,
            manifest=(),
            digest="sha256:" + f"{step:064d}",
        )
        folder = self.run_dir / "adapters" / version.adapter_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter.safetensors").write_bytes(b"weights")
        return version, folder


@pytest.fixture
def desk(tmp_path: Path, database: Path) -> Desk:
    shutil.copy(database, tmp_path / "mlflow.db")
    return Desk(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")


def step_of(number: int, **changes: float) -> Step:
    values = {
        "reward_mean": 0.5,
        "reward_std": 0.1,
        "challenger_reward_mean": 0.2,
        "reasoner_reward_mean": 0.3,
        "frac_zero_std": 0.0,
        "loss": 0.01,
        "grad_norm": 1.0,
        "kl_nats_per_token": 1e-4,
        "entropy_nats_per_token": 1.0,
        "length_mean_tokens": 12.0,
        "invalid_rate": 0.1,
        **changes,
    }
    return Step(number=number, adapter_id="adapter_1", rollout_ids=("roll_1",), is_applied=True, trained_tokens=10, **values)


def report_of() -> GateReport:
    result = CheckResult(
        check="domain gain!",
        metric="m",
        verdict="PASS",
        value=0.1,
        low=0.02,
        high=None,
        limit=0.0,
        n=50,
        clusters=9,
        detail=CANARY,
    )
    return GateReport(
        adapter_id="adapter_1",
        adapter_digest="sha256:" + "a" * 64,
        policy_digest="sha256:" + "b" * 64,
        exam_digest="sha256:" + "c" * 64,
        primary="domain gain!",
        results=(result,),
        verdict="PASS",
        reasons=(CANARY,),
    )


def a_whole_run(desk: Desk) -> None:
    desk.mirror.start({"seed": "0", "training.lora_rank": "32", "regime": "open_book", "corpus": CANARY})
    for number in (1, 2, 3):
        desk.mirror.log_step(step_of(number), {"tasks": 4.0})
    desk.mirror.log_gate(report_of())
    (desk.root / "report.html").write_text("<p>", encoding="utf-8")
    desk.mirror.log_artifacts([(desk.root / "report.html", "report"), (desk.root / "absent", "report")])
    desk.mirror.register(*desk.adapter(3), "sandbox")
    desk.mirror.finish("FINISHED")


def assert_whole(desk: Desk) -> None:
    (run,) = desk.runs()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "contracts")
    assert run.data.params == {"seed": "0", "training.lora_rank": "32", "regime": "open_book", "corpus": "(withheld)"}
    assert run.data.tags["mlflow.user"] == "spice-enterprise"
    assert run.data.tags["spice.gate_verdict"] == "PASS"
    steps = [(entry["step"], entry["at_ms"]) for entry in desk.spooled() if entry["op"] == "step"]
    assert [(step, at_ms) for step, at_ms, _ in desk.history("loss")] == steps
    assert [value for _, _, value in desk.history("gate/domain_gain_/low")] == [0.02]
    version = desk.client.get_model_version_by_alias("contracts-sandbox", "sandbox")
    assert version.tags["spice.adapter_digest"] == desk.adapter(3)[0].digest
    assert version.source.endswith(f"/adapters/{desk.adapter(3)[0].adapter_id}")
    assert [file.path for file in desk.client.list_artifacts(run.info.run_id, "report")] == ["report/report.html"]
    assert desk.mirror.waiting == 0


def test_a_run_is_shown_whole(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    a_whole_run(desk)
    assert_whole(desk)
    assert (desk.mirror.failures, desk.mirror.refused) == (0, 1)  # the absent file
    assert (desk.root / "mlartifacts").is_dir()
    assert "CANARY" not in (desk.run_dir / "spool.jsonl").read_text(encoding="utf-8")
    assert CANARY.encode() not in (desk.root / "mlflow.db").read_bytes()
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_replaying_the_whole_spool_changes_nothing(desk: Desk) -> None:
    a_whole_run(desk)
    rows = count_rows(desk)
    for _ in range(2):
        run_id = json.loads((desk.run_dir / "spool.done.json").read_bytes())["run_id"]
        (desk.run_dir / "spool.done.json").write_text(json.dumps({"done": 0, "run_id": run_id}), encoding="utf-8")
        assert desk.open().catch_up() == 0
    assert count_rows(desk) == rows
    assert_whole(desk)


def test_losing_the_offset_altogether_changes_nothing(desk: Desk) -> None:
    a_whole_run(desk)
    rows = count_rows(desk)
    (desk.run_dir / "spool.done.json").unlink()
    assert desk.open().catch_up() == 0
    assert count_rows(desk) == rows


def count_rows(desk: Desk) -> dict[str, int]:
    with sqlite3.connect(desk.root / "mlflow.db") as connection:
        tables = ("runs", "metrics", "params", "tags", "registered_models", "model_versions", "registered_model_aliases")
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}  # noqa: S608 - constants
    connection.close()
    return counts


def test_a_crash_between_showing_and_noting_repeats_without_doubling(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from spice_enterprise.audit.mlflow_mirror import Spool

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "advance", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            desk.mirror.start({"seed": "0"})
    desk.mirror = desk.open()
    assert desk.mirror.catch_up() == 0
    assert len(desk.runs()) == 1


def test_a_resumed_job_goes_on_in_the_same_run_and_repeats_no_step(desk: Desk) -> None:
    desk.mirror.start({"seed": "0"})
    desk.mirror.log_step(step_of(1), {})
    desk.mirror.finish("FAILED")
    desk.mirror = desk.open()
    desk.mirror.start({"seed": "0"})
    (run,) = desk.runs()
    assert run.info.status == "RUNNING"
    desk.mirror.log_step(step_of(1), {})
    desk.mirror.log_step(step_of(2), {})
    assert [step for step, _, _ in desk.history("loss")] == [1, 2]


def test_what_is_not_finite_is_shown_as_a_gap(desk: Desk) -> None:
    desk.mirror.start({})
    desk.mirror.log_step(step_of(1, loss=math.nan, grad_norm=math.inf), {})
    assert [math.isnan(value) for _, _, value in desk.history("loss") + desk.history("grad_norm")] == [True, True]


def test_an_alias_moves_and_prod_remembers_what_it_replaced(desk: Desk) -> None:
    desk.mirror.start({})
    for step, alias in ((1, "staging"), (1, "prod"), (2, "prod"), (2, "prod")):
        desk.mirror.register(*desk.adapter(step), alias)
    named = {name: str(number) for name, number in desk.client.get_registered_model("contracts-prod").aliases.items()}
    assert named == {"staging": "1", "prod": "2", "previous": "1"}
    assert len(desk.client.search_model_versions("name = 'contracts-prod'")) == 2


def test_when_mlflow_fails_training_goes_on_and_the_mirror_catches_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    calls = []

    def away(*_: object, **__: object) -> None:
        calls.append(1)
        raise ConnectionError("away")

    desk.mirror.start({})
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", away)
        for number in range(1, 6):
            desk.mirror.log_step(step_of(number), {})
    assert (len(calls), desk.mirror.failures, desk.mirror.waiting) == (1, 1, 5)  # one attempt, then a pause
    assert desk.mirror.catch_up() == 0
    assert [step for step, _, _ in desk.history("loss")] == [1, 2, 3, 4, 5]


def test_a_line_that_mlflow_will_never_take_does_not_hold_up_the_rest(desk: Desk) -> None:
    desk.mirror.start({})
    desk.mirror.log_step(step_of(1), {"x" * 300: 1.0})
    desk.mirror.log_step(step_of(2), {})
    assert (desk.mirror.refused, desk.mirror.failures, desk.mirror.waiting) == (1, 0, 0)


def test_a_database_that_cannot_be_opened_is_a_failure_not_a_wait(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    desk = Desk(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    begun = time.monotonic()
    desk.mirror.start({})
    assert (desk.mirror.failures, desk.mirror.waiting) == (1, 1)
    assert time.monotonic() - begun < 20


def test_settings_of_the_process_are_left_as_they_were(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    desk.mirror.start({})
    assert dict(os.environ) == before


def test_a_torn_spool_loses_only_what_was_never_kept(desk: Desk) -> None:
    desk.mirror.start({})
    with (desk.run_dir / "spool.jsonl").open("ab") as file:
        file.write(b'{"op":"st')
    desk.mirror = desk.open()
    desk.mirror.log_step(step_of(1), {})
    assert [entry["op"] for entry in desk.spooled()] == ["start", "step"]
    assert [step for step, _, _ in desk.history("loss")] == [1]


# --- over HTTP --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def quiet_http() -> Iterator[None]:
    """The HTTP library logs every refused connection."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    yield None
    logging.getLogger("urllib3").setLevel(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.usefixtures("socket_enabled", "quiet_http")
def test_a_server_that_is_away_then_hangs_then_comes_back(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path / "server.db")
    port = free_port()
    desk = Desk(tmp_path, f"http://127.0.0.1:{port}")
    begun = time.monotonic()
    a_whole_run(desk)
    assert desk.mirror.waiting == len(desk.spooled())
    with socket.socket() as deaf:  # accepts, and never answers
        deaf.bind(("127.0.0.1", port))
        deaf.listen()
        assert desk.mirror.catch_up() > 0
    assert time.monotonic() - begun < 30
    server = start_server(tmp_path, port)
    try:
        deadline = time.monotonic() + 120
        while desk.mirror.catch_up() and time.monotonic() < deadline:
            time.sleep(1)
        assert_whole(desk)
    finally:
        server.terminate()
        server.wait(30)


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "served")]
    return subprocess.Popen([*command, *stores], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
