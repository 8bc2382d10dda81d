"""The whole road with completions from vLLM: a folder in, two steps, a verdict out, nothing left in memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"
SETTINGS = """
corpus: corpus
workspace: ws
seed: 3
ingest: {chunk_tokens: 96, min_chunk_tokens: 16, unseen_share: 0.4}
selfplay: {steps: 2, chunks_per_step: 2, challenger_group: 4, reasoner_group: 4, max_tasks: 1, max_rounds: 2,
           challenger_tokens: 24, reasoner_tokens: 8, formats: free_form, temperature: 0.7}
training: {lora_rank: 4, lora_alpha: 8, learning_rate: 2.0e-4, warmup_steps: 0}
sampler: {kind: vllm, max_context_tokens: 1024, kv_cache_mib: 192, adapter_dir: ws/shelf}
exam: {questions_per_document: 1, answer_tokens: 8, draws: 200}
tracking: {is_enabled: false}
"""


def test_a_job_runs_with_completions_from_vllm(tmp_path, world):
    for item in sorted(path for path in CORPUS.rglob("*") if path.suffix in (".md", ".txt", ".eml", ".html")):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        shutil.copyfile(item, tmp_path / "corpus" / item.name)
    (tmp_path / "job.yaml").write_text(SETTINGS, encoding="utf-8")
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(world.cache_home)}
    done = subprocess.run(
        [sys.executable, "-m", "spice_enterprise", "run", "job.yaml", "--name", "one", "--json"],
        capture_output=True, text=True, timeout=280, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3, 4), done.stderr[-2000:]
    assert json.loads(done.stdout)["connections_attempted"] == 0
    steps = [json.loads(line) for line in (tmp_path / "ws" / "one" / "records" / "steps.jsonl").read_text().splitlines()]
    assert len(steps) == 2
    gaps = [step["gap_nats_per_token"] for step in steps]  # a dict stands for NaN: nothing was trained in that step
    measured = [gap for gap in gaps if isinstance(gap, float)]
    assert measured
    assert all(gap < 1e-4 for gap in measured)
    events = [json.loads(line)["event"] for line in (tmp_path / "ws" / "audit" / "records.jsonl").read_text().splitlines()]
    assert "adapter.delivered" in events
    assert not list((tmp_path / "ws" / "shelf").iterdir()), "adapters are left behind"
