"""The two verbs that measure the method: what they refuse, and what they print."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from spice_enterprise import cli, cli_experiment
from spice_enterprise.comparison import Comparison, Estimate
from spice_enterprise.crossplay import Checkpoint, CrossPlay, Sizes
from spice_enterprise.experiment import Experiment
from spice_enterprise.outcomes import Outcome


def call(*args: str) -> Result:
    return CliRunner().invoke(cli.app, list(args))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    (tmp_path / "docs").mkdir()
    path.write_text("corpus: docs\nworkspace: ws\nname: t\n", encoding="utf-8")
    return path


def test_an_unknown_setting_is_named_with_the_nearest(config: Path) -> None:
    result = call("experiment", str(config), "--settings", "spize")
    assert result.exit_code == 2
    assert "did you mean 'spice'?" in result.stderr


@pytest.mark.parametrize("seeds", ["0", "-1"])
def test_no_seeds_are_refused(config: Path, seeds: str) -> None:
    result = call("experiment", str(config), "--seeds", seeds)
    assert result.exit_code == 2
    assert "at least 1" in result.stderr


def test_a_config_that_does_not_plan_is_refused_before_anything_is_made(config: Path) -> None:
    result = call("experiment", str(config), "--seeds", "1")
    assert result.exit_code == 2
    assert "E_CONFIG" in result.stderr
    assert not (config.parent / "ws").exists()


@pytest.mark.parametrize("flag", ["--checkpoints", "--chunks", "--attempts", "--answers"])
def test_a_cross_play_of_one_is_refused(config: Path, flag: str) -> None:
    assert call("crossplay", str(config), flag, "1").exit_code == 2


def test_a_cross_play_without_a_run_is_refused(config: Path) -> None:
    result = call("crossplay", str(config))
    assert result.exit_code == 2
    assert "E_NO_RUN" in result.stderr


def experiment(code: str) -> Experiment:
    outcome = Outcome(setting="spice", seed=0, run="t-spice-0", config_digest="c", exam_digest="e", code=code)
    return Experiment(
        name="t", base_model="embedded", corpus_digest="c", exam_digest="e", settings=("spice",), seeds=(0,), steps=1,
        outcomes=(outcome,), comparison=Comparison(sizes=(), results=()),
    )  # fmt: skip


@pytest.mark.parametrize(("code", "exit_code"), [("", 0), ("E_MEMORY", 4)])
def test_runs_that_failed_are_told_by_the_exit_code(
    config: Path, monkeypatch: pytest.MonkeyPatch, code: str, exit_code: int
) -> None:
    monkeypatch.setattr(cli_experiment.ExperimentRun, "run", lambda self: experiment(code))
    monkeypatch.setattr(cli_experiment, "require_plans", lambda variants: None)
    result = call("experiment", str(config), "--json")
    assert result.exit_code == exit_code
    shown: dict[str, Any] = json.loads(result.stdout)
    assert Path(shown["html"]).is_file()
    assert shown["outcomes"][0]["code"] == code


def test_a_cross_play_is_printed_and_written(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Estimate(mean=0.5, low=0.4, high=0.6)
    checkpoint = Checkpoint(
        step=3, adapter_id="adapter_1", adapter_digest="sha256:a", questions=4, documents=2, readable=half, admitted=half,
        admitted_change=None, asked=half, asked_change=None, answered=half, answered_change=None, open_book=None,
        open_book_change=None,
    )  # fmt: skip
    found = CrossPlay(run="t", sizes=Sizes(), chunks=2, documents=2, corpus_digest="c", checkpoints=(checkpoint,))
    monkeypatch.setattr(cli_experiment.CrossPlayRun, "run", lambda self: found)
    result = call("crossplay", str(config))
    assert result.exit_code == 0
    assert "50% [40, 60]" in result.stdout
    assert (config.parent / "ws" / "t" / "crossplay.html").is_file()
