"""An experiment on fakes: one corpus and exam, runs that are kept, runs that fail, and what is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spice_enterprise import Parts, experiment_page
from spice_enterprise.assembly import Assembly
from spice_enterprise.config import ExamConfig, JobConfig, build_config
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.errors import ConfigError, StoreError, TrainingError
from spice_enterprise.experiment import (
    DEFAULT_SETTINGS,
    SETTINGS,
    Experiment,
    ExperimentRun,
    choose_settings,
    make_variants,
    require_plans,
)
from spice_enterprise.protocols import Corpus, OnProgress, Played, Progress
from spice_enterprise.records import AdapterVersion, Alert, Chunk, Exam, GateReport, Prompt
from spice_enterprise.release.evaluation import FourBars, Grading, TransferGainCheck
from spice_enterprise.selfplay.contracts import CHOICE_FIELDS, FREE_FORM_FIELDS
from spice_enterprise.selfplay.episode import SelfplayStage, Speakers
from spice_enterprise.store import RunStore
from spice_enterprise.testing import (
    DirectGrader,
    ExactVerifier,
    FakePlayer,
    FakeTrainer,
    FixedExaminer,
    FixedJudge,
    LineIngestor,
    MemoryAudit,
    MemoryRegistry,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
)

FILES = {f"{i:02d}.txt": f"fact {i} is word{i}\n".encode() for i in range(40)}


def last_word(prompt: Prompt) -> str:
    return prompt.messages[-1].content.partition("Passage:\n")[2].partition("\n")[0].split()[-1]


class Reader(ScriptedSampler):
    """The bare base reads the passages of even number, any adapter those of every third number too."""

    def __init__(self) -> None:
        super().__init__(self._read)
        self.asked = 0

    def _read(self, prompt: Prompt, random: Any) -> str:
        self.asked += 1
        if "Passage:" not in prompt.messages[-1].content:
            return "no idea"
        word = last_word(prompt)
        number = int(word.removeprefix("word"))
        is_known = number % 2 == 0 or (number % 3 == 0 and self.adapter_digest != "base")
        return word if is_known else "no idea"


class MeasuringJudge(FixedJudge):
    """Judges by the real check, so that every question's mark is kept."""

    def __init__(self, sampler: ScriptedSampler, base: ScriptedSampler, folder: Path) -> None:
        super().__init__("INCONCLUSIVE")
        grading = Grading(verifier=ExactVerifier(), answer_tokens=8)
        bars = FourBars(base_sampler=base, sampler=sampler, grading=grading, folder=folder)
        self.check = TransferGainCheck(bars=bars, config=ExamConfig(draws=200))

    def judge(self, version: AdapterVersion, exam: Exam, alerts: Sequence[Alert], on_progress: OnProgress) -> GateReport:
        self.check.run(version, exam)
        return super().judge(version, exam, alerts, on_progress)


class World:
    """A workspace whose audit log outlives a run. Runs named in `fails` break, those in `stops` are interrupted."""

    def __init__(self, folder: Path) -> None:
        self.workspace, self.out = folder / "ws", folder / "out"
        self.audit = MemoryAudit()
        self.source = MemorySource(FILES)
        self.played: list[str] = []
        self.base = Reader()
        self.fails: set[str] = set()
        self.stops: set[str] = set()
        self.lines: list[Progress] = []

    def config(self, **settings: object) -> JobConfig:
        sizes = {"selfplay": {"steps": 2, "chunks_per_step": 2}, "exam": {"draws": 200}, "tracking": {"is_enabled": False}}
        return build_config({"corpus": "memory", "workspace": str(self.workspace), "name": "t", **sizes, **settings})

    def run(self, settings: Sequence[str] = ("spice",), seeds: int = 2, **changed: object) -> Experiment:
        runs = ExperimentRun(
            self.config(**changed),
            settings=settings,
            seeds=seeds,
            out=self.out,
            parts_of=self.parts,
            on_progress=self.lines.append,
        )
        return runs.run()

    def parts(self, config: JobConfig) -> Parts:
        sampler = Reader()
        return Parts(
            source=self.source,
            ingestor=LineIngestor(),
            player=Watched(self, config.name),
            sampler=sampler,
            base_sampler=self.base,
            trainer=FakeTrainer(),
            monitors=(),
            verifier=ExactVerifier(),
            examiner=FixedExaminer(),
            judge=MeasuringJudge(sampler, self.base, config.run_dir),
            audit=self.audit,
            window=MemoryWindow(),
            registry=MemoryRegistry(),
        )


class Watched(FakePlayer):
    def __init__(self, world: World, name: str) -> None:
        super().__init__()
        self.world, self.name = world, name

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        if self.name in self.world.stops:
            raise KeyboardInterrupt
        if self.name in self.world.fails:
            raise TrainingError("broken on purpose", code="E_TRAINING")
        self.world.played.append(self.name)
        return super().play(chunks, version, step=step)


def bar_of(experiment: Experiment, setting: str, *, is_with_passage: bool = True) -> Any:
    result = next(r for r in experiment.comparison.results if r.setting == setting)
    return next(bar for bar in result.bars if bar.is_with_passage == is_with_passage)


def test_each_setting_is_held_against_the_base_and_the_run_as_configured(tmp_path: Path) -> None:
    world = World(tmp_path)
    found = world.run(("spice", "reward_rzero"))
    assert found.settings == ("no_training", "spice", "reward_rzero")
    assert [o.run for o in found.outcomes] == [
        "t-no_training-0", "t-spice-0", "t-reward_rzero-0", "t-spice-1", "t-reward_rzero-1",
    ]  # fmt: skip
    assert found.is_complete
    base, spice = bar_of(found, "no_training"), bar_of(found, "spice")
    assert base.accuracy.mean == 0.5
    assert base.minus_untrained is None
    assert spice.minus_spice is None
    assert spice.accuracy.mean == 0.75, "of words 32 to 39"
    assert spice.minus_untrained.mean == pytest.approx(spice.accuracy.mean - 0.5)
    assert base.minus_spice.mean == pytest.approx(0.5 - spice.accuracy.mean)
    assert bar_of(found, "reward_rzero").minus_spice.low is not None
    without = bar_of(found, "spice", is_with_passage=False)
    assert (without.accuracy.mean, without.minus_untrained.mean) == (0.0, 0.0)
    assert without.minus_untrained.high == pytest.approx(3 / 8), "no answer changed: the rule of three over 8 documents"


def test_every_run_has_the_exam_of_the_first_and_asks_the_base_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    found = world.run()
    exams = {RunStore(world.workspace / o.run).load("exam", Exam).digest for o in found.outcomes}  # type: ignore[union-attr]
    assert exams == {found.exam_digest}
    assert world.base.asked == 16, "8 questions, with and without the passage, once"
    assert world.audit.names()["run.started"] == 3
    assert "promotion.executed" not in world.audit.names()


def test_a_finished_run_is_not_made_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.run()
    played = list(world.played)
    second = world.run()
    assert world.played == played
    assert second == first
    assert world.run(seeds=3).outcomes[:3] == first.outcomes
    assert world.played == [*played, "t-spice-2", "t-spice-2"]


def test_a_failed_run_is_a_row_and_is_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.fails = {"t-spice-0"}
    found = world.run(("spice", "mcq_only"))
    assert not found.is_complete
    assert [(o.setting, o.seed, o.code) for o in found.outcomes if o.code] == [("spice", 0, "E_TRAINING")]
    spice = next(r for r in found.comparison.results if r.setting == "spice")
    assert (spice.seeds, [f.code for f in spice.failures]) == ((1,), ["E_TRAINING"])
    assert "spice seed 0: E_TRAINING  (t-spice-0)" in experiment_page.render_text(found)
    world.fails = set()
    again = world.run(("spice", "mcq_only"))
    assert again.is_complete
    assert world.played.count("t-spice-1") == 2


def test_everything_may_fail_and_the_base_still_has_its_row(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.fails = {"t-spice-0"}
    found = world.run(seeds=1)
    assert bar_of(found, "no_training").accuracy.mean == 0.5
    assert "spice seed 0" in experiment_page.render_html(found)


def test_an_interrupted_experiment_continues(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.stops = {"t-spice-1"}
    with pytest.raises(StoreError) as caught:
        world.run()
    assert caught.value.code == "E_STOPPED"
    world.stops = set()
    found = world.run()
    assert found.is_complete
    assert world.played.count("t-spice-0") == 2
    whole = World(tmp_path / "whole").run()
    assert [o.adapter_digest for o in found.outcomes] == [o.adapter_digest for o in whole.outcomes]
    assert found.comparison.results[1].bars == whole.comparison.results[1].bars


def test_a_run_that_learned_nothing_scores_as_the_base(tmp_path: Path) -> None:
    found = World(tmp_path).run(seeds=1, selfplay={"steps": 0, "chunks_per_step": 2})
    spice = bar_of(found, "spice")
    assert (spice.accuracy.mean, spice.minus_untrained.mean) == (0.5, 0.0)


def test_runs_of_another_exam_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)

    class Forgetful(FixedExaminer):
        made = 0

        def set_exam(self, corpus: Corpus) -> Exam:
            Forgetful.made += 1
            return replace(super().set_exam(corpus), settings_digest=f"sha256:{Forgetful.made:064d}")

    parts = world.parts
    monkeypatch.setattr(world, "parts", lambda config: replace(parts(config), examiner=Forgetful()))
    with pytest.raises(ConfigError) as caught:
        world.run()
    assert caught.value.code == "E_OTHER_EXAM"


def test_files_hold_numbers_and_ids_only(tmp_path: Path) -> None:
    world = World(tmp_path)
    found = world.run(("spice",))
    text = (world.out / "experiment.json").read_text(encoding="utf-8")
    assert json.loads(text)["exam_digest"] == found.exam_digest
    sheets = list(world.workspace.glob("*/answers-*.json"))
    assert len(sheets) == 3
    outcomes = list(world.workspace.glob("*/outcome.json"))
    for written in (text, *(path.read_text(encoding="utf-8") for path in (*sheets, *outcomes))):
        assert "word" not in written
        assert "fact" not in written


@pytest.mark.parametrize("damage", [None, b"", b"{torn", b"[]\n"])
@pytest.mark.parametrize("has_outcome", [True, False])
def test_marks_that_are_gone_or_damaged_are_made_again(tmp_path: Path, damage: bytes | None, has_outcome: bool) -> None:
    world = World(tmp_path)
    first = world.run(seeds=1)
    (spice,) = [outcome for outcome in first.outcomes if outcome.setting == "spice"]
    (sheet,) = (world.workspace / spice.run).glob("answers-*.json")
    sheet.unlink() if damage is None else sheet.write_bytes(damage)
    if not has_outcome:
        (world.workspace / spice.run / "outcome.json").unlink()
    played, gates = list(world.played), world.audit.names()["gate.decided"]
    again = world.run(seeds=1)
    assert again.is_complete
    assert again.comparison.results[1].bars == first.comparison.results[1].bars
    assert (world.played, world.audit.names()["gate.decided"]) == (played, gates), "nothing but the marks was made again"


def test_a_corpus_of_documents_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Assembly, "_count_tokens", staticmethod(lambda text: len(text.split())))
    folder = tmp_path / "files"
    folder.mkdir()
    for i, place in enumerate(("harbour", "depot", "quarry", "sawmill")):
        lines = (f"The crane of the {place} number {i}{j} lifts {j} tons on every working day of the week." for j in range(9))
        (folder / f"note-{i}.txt").write_text(" ".join(lines), encoding="utf-8")
    config = World(tmp_path).config(corpus=str(folder))

    def corpus() -> str:
        run = ExperimentRun(
            config,
            settings=["spice"],
            seeds=1,
            out=tmp_path / "out",
            parts_of=lambda config: Parts(detector=PatternDetector(), audit=MemoryAudit()),
            on_progress=lambda line: None,
        )
        return run._corpus()

    made = corpus()
    assert corpus() == made
    (folder / "note-9.txt").write_text("A note that came later.", encoding="utf-8")
    assert corpus() == made, "what came later is not in this experiment"
    (folder / "note-1.txt").write_text("Another note altogether.", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        corpus()
    assert caught.value.code == "E_CORPUS_CHANGED"
    assert "1 of 4" in caught.value.message


def test_the_page_shows_every_setting_and_every_interval(tmp_path: Path) -> None:
    found = World(tmp_path).run(("spice", "no_corpus"))
    html, text = experiment_page.render_html(found), experiment_page.render_text(found)
    for setting in found.settings:
        assert setting in html
        assert setting in text
    assert html.count("<svg") == 2
    assert "50.0%" in text
    assert "nan" not in html
    assert "<script" not in html


# --- what is refused --------------------------------------------------------------------------------------------------


def test_unknown_settings_are_all_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_settings(["spize", "reward_zero", "spice"])
    assert caught.value.problems == (
        "unknown setting 'spize', did you mean 'spice'?",
        "unknown setting 'reward_zero', did you mean 'reward_rzero'?",
    )


def test_no_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        make_variants(World(tmp_path).config(), ["spice"], seeds=0)


def test_settings_that_do_not_plan_are_refused_with_every_problem_once(tmp_path: Path) -> None:
    variants = make_variants(World(tmp_path).config(corpus=str(tmp_path / "nowhere")), ["spice", "mcq_only"], seeds=2)
    with pytest.raises(ConfigError) as caught:
        require_plans(variants)
    assert sum("nowhere" in problem for problem in caught.value.problems) == 1
    assert "(no_training, spice, mcq_only)" in " ".join(caught.value.problems)


@pytest.mark.parametrize("preset", ["enterprise", "paper"])
def test_every_setting_fits_the_config(tmp_path: Path, preset: str) -> None:
    config = World(tmp_path).config(preset=preset, selfplay={})
    variants = make_variants(config, list(SETTINGS), seeds=1)
    digests = {v.setting: replace_name(v.config).digest() for v in variants}
    same = {name for name, digest in digests.items() if digest == digests["spice"]}
    assert same - {"spice"} <= {
        "reward_chance_corrected", "reward_spice", "no_warmup", "no_admission", "no_hint",
    }, "a setting that changes nothing"  # fmt: skip
    assert all(variant.config.selfplay.steps in (0, config.selfplay.steps) for variant in variants)
    assert set(DEFAULT_SETTINGS) <= set(SETTINGS)


def replace_name(config: JobConfig) -> JobConfig:
    return config.model_copy(update={"name": "x"})


def test_the_seed_of_the_exam_is_that_of_the_config(tmp_path: Path) -> None:
    variants = make_variants(World(tmp_path).config(seed=7), ["spice"], seeds=3)
    assert [(v.setting, v.seed, v.config.seed) for v in variants] == [
        ("no_training", 7, 7), ("spice", 7, 7), ("spice", 8, 8), ("spice", 9, 9),
    ]  # fmt: skip


# --- what a setting does ----------------------------------------------------------------------------------------------

PRIVATE = tuple(
    f"The notice period of lease {name} is {61 + i} days. The fee is {i + 3},48{i} euros, as Hartmann Service wrote to {name}.\n"
    for i, name in enumerate(("Bacada", "Defogu", "Hijeka", "Lomenu", "Ropisu"))
)


@pytest.mark.parametrize("weights", [135 * 10**6, 7 * 10**9])
@pytest.mark.parametrize("formats", ["free_form", "choice", "both"])
def test_no_corpus_shows_nobody_a_word_or_value_of_a_document(tmp_path: Path, weights: int, formats: str) -> None:
    world = World(tmp_path)
    config = world.config(warmup="facts", selfplay={"steps": 2, "regimes": ["open_book", "closed_book"], "formats": formats})
    (variant,) = [v for v in make_variants(config, ["no_corpus"], seeds=1) if v.setting == "no_corpus"]
    assert variant.config.warmup == "none"
    play = variant.config.sized(weights).selfplay
    assert play.regimes == ("self_contained",)
    train = LineIngestor().ingest(MemorySource({f"{i}.txt": t.encode() for i, t in enumerate(PRIVATE)}), lambda _: None).chunks
    chunks = [replace(chunk, split="train") for chunk in train]
    seen: list[Prompt] = []

    def write(prompt: Prompt, random: Any) -> str:
        seen.append(prompt)
        question = "When 12 months have 30 days each and 6 days are added, how many days is that in all?"
        days = random.choice((366, 365))
        if not prompt.template_id.startswith("challenger"):
            return f"{days} days"
        if play.contract == "short":
            return f'{days} days"\nQuestion: {question}'
        choice = {"multiple_choice_question": f"{question} A) 366 days B) 365 days C) 364 days D) 363 days"}
        said = {"question": question, "answer": f"{days} days", "answer_type": "String", "relevant_quotes": "", **choice}
        every = dict.fromkeys((*CHOICE_FIELDS, *FREE_FORM_FIELDS), "so") | said | {"multiple_choice_correct": "A"}
        return json.dumps(every | {"relevant_quotes": ["so"], "answer_quote": ["so"]})

    sampler = ScriptedSampler(write)
    version = FakeTrainer().start()
    sampler.publish(version)
    speakers = Speakers(player=sampler, base=ScriptedSampler(write, is_base=True))
    stage = SelfplayStage(speakers, grader=DirectGrader(ExactVerifier()), config=play, seed=0, library=chunks)
    stage.play(chunks, version, step=1)
    shown = " ".join(f"{message.content} {prompt.prefill}" for prompt in seen for message in prompt.messages)
    assert {prompt.template_id.partition(".")[0] for prompt in seen} == {"challenger", "reasoner"}
    private = {word.strip(".,") for text in PRIVATE for word in text.split() if not word.strip(".,").islower()} - {"The"}
    assert not [word for word in private if word in shown.split()], "a word or value of a document stood in a prompt"
