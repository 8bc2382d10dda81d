"""Config: strict, all problems at once, never the value."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from spice_enterprise.config import PAPER, JobConfig, build_config, load_config, tracking_host, tracking_uri
from spice_enterprise.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return caught.value


def test_defaults_need_only_a_corpus() -> None:
    assert build_config({"corpus": "docs"}).offline is True


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "c.yaml", "corpus: docs\n"))
    assert Path(config.corpus) == tmp_path / "docs"


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "corpus: docs\nselfplay: {steps: 3, hint: none}\n")
    config = load_config(path, {"selfplay.steps": 5})
    assert (config.selfplay.steps, config.selfplay.hint) == (5, "none")


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    error = problems(write(tmp_path / "c.yaml", "corpus: docs\nselfplay: {stpes: 3}\n"))
    assert error.problems == ("selfplay.stpes: unknown key, did you mean 'steps'?",)
    assert error.exit_status() == 2


def test_all_problems_come_at_once_without_values(tmp_path: Path) -> None:
    text = """corpus: docs
seed: -1
name: "SECRET NAME"
selfplay: {steps: "3", chunks_per_step: 0}
training: {learning_rate: .nan}
"""
    error = problems(write(tmp_path / "c.yaml", text))
    paths = {problem.split(":")[0] for problem in error.problems}
    assert paths == {"seed", "name", "selfplay.steps", "selfplay.chunks_per_step", "training.learning_rate"}
    assert "SECRET" not in error.explain()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("corpus: a\ncorpus: b\n", ":2:1: duplicate key"),
        ("a: &x [1]\nb: *x\n", ":2:4: aliases are not allowed"),
        ("corpus: !!python/object:os.system {}\n", ":1:9: not valid YAML"),
        ("\tcorpus: a\n", ":1:1: not valid YAML"),
        ("corpus: a\n---\ncorpus: b\n", "not valid YAML"),
        ("- a\n", "expected keys and values"),
        ("", "expected keys and values"),
    ],
)
def test_bad_yaml_says_line_and_column(tmp_path: Path, text: str, where: str) -> None:
    assert where in problems(write(tmp_path / "c.yaml", text)).message


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"corpus: \xff\xfe")
    assert "not UTF-8" in problems(path).message


def test_a_missing_file(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml").message.endswith("no such file")


def test_the_digest_ignores_where_things_lie() -> None:
    one = build_config({"corpus": "a", "workspace": "w", "name": "x"})
    two = build_config({"corpus": "b", "workspace": "v", "name": "y"})
    assert one.digest() == two.digest()
    assert one.digest() != build_config({"corpus": "a", "seed": 1}).digest()


def test_mlflow_uri_from_config_then_environment_then_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert tracking_uri(build_config({"corpus": "a"})) == "http://mlflow.example:5000"
    assert tracking_host(build_config({"corpus": "a"})) == "mlflow.example"
    assert tracking_uri(build_config({"corpus": "a", "tracking": {"uri": "sqlite:///x.db"}})) == "sqlite:///x.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(build_config({"corpus": "a"})).endswith("/runs/mlflow.db")
    assert tracking_host(build_config({"corpus": "a"})) is None


def test_config_is_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        JobConfig(corpus="a").seed = 3  # type: ignore[misc]


def test_a_nul_in_a_value_is_refused_with_its_place(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text('corpus: "a\\0b"\n')
    with pytest.raises(ConfigError, match="1:9: a NUL character") as caught:
        load_config(path)
    assert caught.value.code == "E_CONFIG"


def test_a_preset_lies_under_what_the_user_says():
    plain, paper = build_config({"corpus": "x"}), build_config({"corpus": "x", "preset": "paper"})
    assert (plain.preset, plain.selfplay.reward, plain.selfplay.admission) == ("enterprise", "chance_corrected", "checked")
    assert (paper.selfplay.reward, paper.selfplay.admission, paper.selfplay.formats) == ("spice", "parsable", "model")
    assert paper.selfplay.max_rounds * paper.selfplay.challenger_group == 1024
    assert (paper.selfplay.invalid_reward, paper.selfplay.max_tasks, paper.selfplay.replay_share) == (-0.1, 8, 0.0)
    mixed = build_config({"corpus": "x", "preset": "paper", "selfplay": {"steps": 7}}, {"selfplay.reward": "azr"})
    assert (mixed.selfplay.steps, mixed.selfplay.reward, mixed.selfplay.formats) == (7, "azr", "model")


def test_what_was_settled_by_a_preset_can_be_given_again():
    paper = build_config({"corpus": "x", "preset": "paper"})
    assert build_config(paper.model_dump(mode="json")) == paper


STATED_PLAY = {
    "steps": 640,
    "challenger_group": 8,
    "reasoner_group": 8,
    "chunks_per_step": 8,  # 128 rollouts of 8 + 8, one reading of an ambiguous B = 128
    "max_tasks": 8,  # all valid ones of a group
    "max_rounds": 128,  # times 8: at most 1,024 attempts
    "refill_rounds": 0,
    "regimes": ("self_contained",),
    "grounding": "corpus",
    "formats": "model",
    "contract": "full",
    "hint": "none",
    "challenger": "trained",
    "admission": "parsable",  # "formatted correctly and parsable", nothing else
    "open_book_samples": 0,
    "open_book_agree": 0,
    "closed_book_samples": 0,
    "reward": "spice",
    "invalid_reward": -0.1,
    "relax_invalid": False,
    "duplicate_penalty": 0.0,
    "reasoner_task": "random",
    "chunk_sampler": "uniform",
    "document_cap": 0,
    "replay_share": 0.0,
    "temperature": 1.0,
}
STATED_TRAINING = {
    "learning_rate": 1e-5,  # ten times that of full fine-tuning
    "warmup_steps": 0,  # constant
    "loss": "dr_grpo",
    "train_batch_size": 128,
    "clip_low": 0.2,
    "clip_high": 0.2,
    "mask_truncated": False,
    "max_staleness": 0,
}


@pytest.mark.parametrize("weights", [10**8, 10**10])
def test_the_paper_is_played_as_published(weights):
    """Every value that arXiv 2510.24684 states, and those of its framework where it is silent, whatever the size of the model."""
    paper = build_config({"corpus": "x", "preset": "paper"}).sized(weights)
    assert {name: getattr(paper.selfplay, name) for name in STATED_PLAY} == STATED_PLAY
    assert {name: getattr(paper.training, name) for name in STATED_TRAINING} == STATED_TRAINING
    assert paper.warmup == "none"
    assert set(PAPER) == {"selfplay", "training"}
    assert set(PAPER["selfplay"]) <= set(STATED_PLAY), "a value of the preset that nobody looks at"
    assert set(PAPER["training"]) <= set(STATED_TRAINING)


def test_an_unknown_preset_and_a_section_that_is_none_are_refused():
    with pytest.raises(ConfigError, match="preset"):
        build_config({"corpus": "x", "preset": "papr"})
    with pytest.raises(ConfigError, match="selfplay"):
        build_config({"corpus": "x", "preset": "paper", "selfplay": 3})


@pytest.mark.parametrize(("weights", "sizes"), [(10**8, ("short", 96, 32)), (10**9, ("full", 1536, 2048))])
def test_contract_and_tokens_follow_the_model(weights, sizes):
    play = build_config({"corpus": "x"}).sized(weights).selfplay
    assert (play.contract, play.challenger_tokens, play.reasoner_tokens) == sizes
    assert play.temperature == (1.0 if sizes[0] == "full" else 0.7)
    assert play.regimes == (("self_contained",) if sizes[0] == "full" else ("open_book",))
    told = {"contract": "full", "challenger_tokens": 50, "regimes": ["closed_book"]}
    said = build_config({"corpus": "x", "selfplay": told}).sized(weights).selfplay
    assert (said.contract, said.challenger_tokens, said.reasoner_tokens, said.regimes) == ("full", 50, 2048, ("closed_book",))


def test_paths_of_self_play_are_beside_the_file(tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "job.yaml").write_text("corpus: docs\nselfplay: {embedder: encoder, challenger_model: elsewhere}\n")
    play = load_config(tmp_path / "job.yaml").selfplay
    assert play.embedder == str(tmp_path / "encoder")
    assert play.challenger_model == "elsewhere"


def test_a_preset_that_was_not_laid_is_refused():
    with pytest.raises(ValidationError, match="build_config"):
        JobConfig(corpus="x", preset="paper")
    assert JobConfig(corpus="x").preset == "enterprise"


def test_separate_roles_need_a_challenger_that_learns() -> None:
    with pytest.raises(ConfigError, match="roles"):
        build_config({"corpus": "x", "selfplay": {"roles": "separate", "challenger": "frozen"}})


def test_more_votes_than_answers_are_refused():
    with pytest.raises(ConfigError, match="open_book_agree"):
        build_config({"corpus": "x", "selfplay": {"open_book_samples": 2}})
    assert build_config({"corpus": "x", "selfplay": {"open_book_samples": 0}}).selfplay.open_book_agree == 3
