"""The comparisons with TRL and `generate`, small: they run, both sides do the same work, ours is ahead by most of the target."""

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.bench,
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="the rival is not installed"),
]


@pytest.mark.parametrize(("module", "case"), [("end_to_end", "long"), ("learner_replay", "long"), ("generation", "long")])
def test_a_small_case_reaches_most_of_its_target(module, case, tmp_path):
    command = [sys.executable, "-m", f"benchmarks.{module}", "--small", "--case", case, "--warmups", "1", "--pairs", "1"]
    run = subprocess.run([*command, "--json", str(tmp_path / "found.json")], capture_output=True, text=True)
    assert run.returncode == 0, (run.stdout + run.stderr)[-600:]
    ours, rival = json.loads((tmp_path / "found.json").read_text())[case]
    assert (ours["name"], rival["name"]) == (("HF sampler", "generate") if module == "generation" else ("ours", "TRL"))
    assert [i["tokens"] for i in ours["iterations"]] == [i["tokens"] for i in rival["iterations"]]
