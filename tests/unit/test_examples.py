"""The examples run as they stand, on fakes, and come to what their text says."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from spice_enterprise import JobResult, SpiceAdapterJob
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.errors import SourceError

FOLDER = Path(__file__).parents[2] / "examples"
NUMBERED = sorted(FOLDER.glob("[0-9]*.py"))


def load(name: str) -> ModuleType:
    """Import one example by its file."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_are_numbered_as_the_road() -> None:
    assert [path.stem[:2] for path in NUMBERED] == [f"0{i}" for i in range(7)]


@pytest.mark.parametrize("path", [*NUMBERED, FOLDER / "quickstart.py"], ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_is(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < (40 if path.stem == "quickstart" else 80)
    docstring = ast.get_docstring(ast.parse(source)) or ""
    for word in ("In: ", "Out: ", "Refuses: ", "Not here: "):
        assert f"\n{word}" in docstring, word


def test_the_loop_restores_once_and_goes_on() -> None:
    happened = load("00_the_loop_in_one_file").main()
    assert [line.split(" adapter_")[0] for line in happened] == [
        "step 1: saved",
        "step 2: saved",
        "step 3: restored",
        "step 4: saved",
        "step 5: saved",
    ]
    assert happened[2].split()[-1] == happened[1].split()[-1], "back to what step 2 made"


def test_a_job_runs_and_shows_its_report_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = load("01_run_a_job").main(tmp_path)
    assert isinstance(result, JobResult)
    assert result.verdict == "PASS"
    assert "verdict    PASS" in capsys.readouterr().out


def test_a_letter_is_scrubbed_with_patterns_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("02_scrub_and_inspect")
    monkeypatch.setattr(module, "detector", PatternDetector)
    removed = module.main()
    assert {entity for entity, _ in removed} >= {"EMAIL", "IBAN", "PERSON", "PHONE"}
    printed = capsys.readouterr().out
    assert "kramer" not in printed.lower()
    assert "48 months" in printed


def test_a_verifier_of_ones_own_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("03_custom_verifier").main() == ("r5",)
    assert "4 of 5 rows agree" in capsys.readouterr().out


def test_an_interrupted_job_continues_and_is_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    road = load("04_resume_and_trace").main(tmp_path)
    assert "E_STOPPED" in capsys.readouterr().out
    assert road[0].startswith("adapter_")
    assert {record_id.partition("_")[0] for record_id in road} == {"adapter", "step", "roll", "task", "chunk", "doc"}


def test_only_a_pass_moves_the_pointer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("05_gate_and_promote").main(tmp_path) == ["PASS", "INCONCLUSIVE", "FAIL"]
    assert (tmp_path / "registry" / "sandbox.json").is_file()
    assert capsys.readouterr().out.count("E_GATE_NOT_PASSED") == 2


def test_a_rollback_points_to_the_first_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moves = load("06_rollback").main(tmp_path)
    assert [move.generation for move in moves] == [1, 2, 3]
    assert moves[2].adapter_id == moves[0].adapter_id != moves[1].adapter_id
    assert "E_NO_SAFE_VERSION" in capsys.readouterr().out


def test_the_quickstart_has_valid_settings_and_says_a_refusal_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[SpiceAdapterJob] = []

    def refuse(job: SpiceAdapterJob) -> JobResult:
        built.append(job)
        raise SourceError("the corpus folder does not exist", code="E_NO_CORPUS", hint="check it")

    monkeypatch.setattr(SpiceAdapterJob, "run", refuse)
    assert load("quickstart").main(tmp_path / "nowhere") == 2
    assert capsys.readouterr().err == "E_NO_CORPUS: the corpus folder does not exist -> check it\n"
    assert built[0].config.name == "quickstart"
