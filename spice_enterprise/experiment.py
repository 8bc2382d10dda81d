"""The comparisons of the paper on one corpus: named settings, several seeds, one exam.

In: the config of a job, names of settings, how many seeds.
Out: one ordinary run per setting and seed, in one workspace and one audit trail; an `Experiment` with every outcome compared.
Refuses: a setting that does not exist (naming the nearest), no seeds, a setting that does not plan, runs with different exams,
    documents that changed since the corpus was made (E_CORPUS_CHANGED).
Not here: what a run does (`job.py`), the comparison (`comparison.py`), what is shown (`experiment_page.py`).

The corpus is made once and every run trains on it. The exam is set once, from the config's own seed, whatever seed a run
trains with; the bare base answers it once. A finished run is not made again; one that failed is a row with its code, and is
tried again by the next call. Marks that are gone or damaged are made again. Nothing is promoted.
"""

import difflib
import gc
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from spice_enterprise import durable
from spice_enterprise.comparison import AS_CONFIGURED, UNTRAINED, Comparison, compare
from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.corpus.corpus_files import is_corpus, read_documents
from spice_enterprise.errors import ConfigError, IntegrityError, SpiceError
from spice_enterprise.job import SpiceAdapterJob
from spice_enterprise.measuring import judge_again, listed_documents, sheet_of_base
from spice_enterprise.outcomes import BARE_BASE, Outcome, last_verdict, read_outcome, summarise_play, write_outcome
from spice_enterprise.plan import make_plan
from spice_enterprise.protocols import Examiner, OnProgress, Parts, Progress
from spice_enterprise.records import Exam, canonical_json
from spice_enterprise.release.answer_sheet import AnswerSheet, read_sheet, write_sheet
from spice_enterprise.release.evaluation import baseline_path
from spice_enterprise.release.exam import FactExaminer
from spice_enterprise.report import Facts
from spice_enterprise.store import RunStore

SETTINGS: Final[Mapping[str, Mapping[str, object]]] = {
    UNTRAINED: {"selfplay.steps": 0, "warmup": "none"},
    AS_CONFIGURED: {},
    "no_corpus": {
        "selfplay.grounding": "none",
        "selfplay.regimes": ["self_contained"],  # in the others the Reasoner reads the passage, or is asked about one
        "warmup": "none",  # its examples are made of passages
        "selfplay.hint": "none",
        "selfplay.open_book_samples": 0,  # there is no passage that the base could answer from
        "selfplay.open_book_agree": 0,
    },
    "fixed_challenger": {"selfplay.challenger": "frozen"},
    "separate_roles": {"selfplay.roles": "separate"},
    "reward_spice": {"selfplay.reward": "spice"},
    "reward_chance_corrected": {"selfplay.reward": "chance_corrected"},
    "reward_rzero": {"selfplay.reward": "rzero"},
    "reward_azr": {"selfplay.reward": "azr"},
    "reward_spell": {"selfplay.reward": "spell"},
    "reward_threshold": {"selfplay.reward": "threshold"},
    "mcq_only": {"selfplay.formats": "choice"},
    "free_form_only": {"selfplay.formats": "free_form"},
    "no_warmup": {"warmup": "none"},
    "warmup_format": {"warmup": "format"},
    "warmup_facts": {"warmup": "facts"},
    "no_selfplay_warmup_format": {"selfplay.steps": 0, "warmup": "format"},
    "no_selfplay_warmup_facts": {"selfplay.steps": 0, "warmup": "facts"},
    "no_admission": {"selfplay.admission": "parsable"},
    "no_hint": {"selfplay.hint": "none"},
    "all_values": {"selfplay.hint_values": "all"},
}
"""What each setting lays over the config. A setting whose values the config has already is the same run under another name."""
DEFAULT_SETTINGS: Final = (UNTRAINED, AS_CONFIGURED, "no_corpus", "fixed_challenger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One run to make."""

    setting: str
    seed: int
    config: JobConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Every run of an experiment and what they show."""

    name: str
    base_model: str
    corpus_digest: str
    exam_digest: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    """Self-play steps of each setting that plays."""
    outcomes: tuple[Outcome, ...]
    comparison: Comparison

    @property
    def is_complete(self) -> bool:
        """True when every run was finished."""
        return all(outcome.is_finished for outcome in self.outcomes)


def choose_settings(names: Sequence[str]) -> tuple[str, ...]:
    """Return the settings in the order asked for, the untrained base first: every other is held against it.

    Raises `ConfigError` naming each one that does not exist and the nearest that does.
    """
    problems = tuple(_unknown(name) for name in names if name not in SETTINGS)
    if problems:
        raise ConfigError(f"--settings: {'; '.join(problems)}", hint=f"there are {', '.join(SETTINGS)}", problems=problems)
    return tuple(dict.fromkeys((UNTRAINED, *names)))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.4)
    return f"unknown setting {name[:40]!r}" + (f", did you mean {near[0]!r}?" if near else "")


def make_variants(config: JobConfig, names: Sequence[str], *, seeds: int) -> tuple[Variant, ...]:
    """Return the runs, seed by seed, so that an experiment that is stopped has something of every setting.

    Raises `ConfigError` for an unknown setting, fewer than one seed, or a setting that the config cannot take.
    """
    if seeds < 1:
        raise ConfigError("--seeds: at least 1", hint="3 seeds give an interval over seeds; 1 gives none")
    settings = choose_settings(names)
    every = [(name, config.seed + turn) for turn in range(seeds) for name in settings]
    return tuple(
        Variant(setting=name, seed=seed, config=_laid(config, name, seed))
        for name, seed in every
        if name != UNTRAINED or seed == config.seed
    )


def _laid(config: JobConfig, setting: str, seed: int) -> JobConfig:
    changes = {**SETTINGS[setting], "seed": seed, "name": f"{config.name}-{setting}-{seed}"}
    return build_config(config.model_dump(mode="json"), changes, where=f"setting {setting}")


def require_plans(variants: Sequence[Variant]) -> None:
    """Raise `ConfigError` with every problem that the plan of any setting finds, before anything is begun."""
    found: dict[str, list[str]] = {}
    for variant in variants:
        for problem in make_plan(variant.config).problems:
            named = found.setdefault(problem, [])
            named += [variant.setting] if variant.setting not in named else []
    if found:
        problems = tuple(f"{problem} ({', '.join(names)})" for problem, names in found.items())
        raise ConfigError(
            f"experiment: {'; '.join(problems)}", hint="`spice-enterprise plan CONFIG` checks one", problems=problems
        )


PartsOf = Callable[[JobConfig], Parts]


def no_parts(config: JobConfig) -> Parts:
    """Return no part of the user's own: what `assembly.py` builds will do."""
    return Parts()


# --- making the runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What every run stands on."""

    examiner: Examiner
    exam: Exam
    sheet: AnswerSheet
    """Of the bare base."""
    baseline: bytes
    """The base's bars, as a run keeps them: no run asks the base again."""
    corpus_digest: str


class ExperimentRun:
    """Makes the runs of an experiment, one after the other, and compares them."""

    def __init__(
        self, config: JobConfig, *, settings: Sequence[str], seeds: int, out: Path, parts_of: PartsOf, on_progress: OnProgress
    ) -> None:
        """Take what to do. Raises `ConfigError` as `make_variants`.

        Args:
            config: of the job; its name begins the name of every run.
            settings: names of `SETTINGS`.
            seeds: how many, counted up from the config's own.
            out: where the corpus, the table and the page go.
            parts_of: parts of the user's own for a run; `no_parts` for none.
            on_progress: told what each run does.
        """
        self._config = config
        self._out = out
        self._parts_of = parts_of
        self._say = on_progress
        self.settings = choose_settings(settings)
        self.variants = make_variants(config, settings, seeds=seeds)

    def run(self) -> Experiment:
        """Make every run that is not finished yet and return the comparison, written to `experiment.json`.

        Raises `StoreError` E_STOPPED when it is interrupted (the same call continues), `ConfigError` E_OTHER_EXAM,
        E_CORPUS_CHANGED, and whatever keeps the corpus from being made or the base from being asked: without them there is
        nothing to compare.
        """
        corpus = self._corpus()
        variants = [replace(v, config=v.config.model_copy(update={"corpus": corpus})) for v in self.variants]
        reference = next(variant for variant in variants if variant.setting == UNTRAINED)
        ground = self._ground(reference)
        outcomes: list[Outcome] = []
        for number, variant in enumerate(variants, start=1):
            self._say(
                Progress(stage="experiment", message=f"{variant.setting} seed {variant.seed}", done=number, total=len(variants))
            )
            outcomes.append(self._outcome(variant, ground))
            gc.collect()  # a model in a reference cycle would stay beside that of the next run
        experiment = self._compared(outcomes, ground)
        durable.write_file(self._out / "experiment.json", canonical_json(experiment) + b"\n")
        return experiment

    def _corpus(self) -> str:
        """Return the folder of the one corpus, made by the first call. Raises `ConfigError` E_CORPUS_CHANGED."""
        given, parts = self._config.corpus, self._parts_of(self._config)
        if parts.ingestor is not None or is_corpus(Path(given)):
            return given
        folder = self._out / "corpus"
        if not is_corpus(folder):
            SpiceAdapterJob(config=self._config, parts=parts, on_progress=self._say).ingest_to(folder)
        elif "://" not in given:  # a remote place is not read a second time
            _require_same_documents(folder, listed_documents(self._config, parts))
        return str(folder)

    def _ground(self, reference: Variant) -> _Ground:
        """Set the exam in a run without a step, and let the bare base answer it."""
        config = reference.config
        parts = self._parts_of(config)
        examiner = parts.examiner or FactExaminer(config.exam, self._config.seed)
        store = RunStore(config.run_dir)
        exam = store.load("exam", Exam)
        if exam is None or not baseline_path(config.run_dir, exam.digest).exists():
            SpiceAdapterJob(config=config, parts=replace(parts, examiner=examiner), on_progress=self._say).train()
            exam = store.load("exam", Exam)
            assert exam is not None  # noqa: S101 - training sets it before the first step
        sheet = self._sheet_of_base(config, parts, exam)
        baseline = baseline_path(config.run_dir, exam.digest).read_bytes()
        return _Ground(examiner=examiner, exam=exam, sheet=sheet, baseline=baseline, corpus_digest=exam.corpus_digest)

    def _sheet_of_base(self, config: JobConfig, parts: Parts, exam: Exam) -> AnswerSheet:
        """Return the base's marks; no model is loaded where they are kept already."""
        try:
            return read_sheet(config.run_dir, exam_digest=exam.digest, adapter_digest=BARE_BASE)
        except IntegrityError:
            sheet = sheet_of_base(config, parts, exam, self._say)
            write_sheet(config.run_dir, sheet)
            return sheet

    def _outcome(self, variant: Variant, ground: _Ground) -> Outcome:
        """Return the outcome of one run, made now unless it is there already."""
        config = variant.config
        known = read_outcome(config.run_dir, config_digest=config.digest(), exam_digest=ground.exam.digest)
        if known is not None and _has_sheet(config.run_dir, known):
            return known
        blank = Outcome(
            setting=variant.setting,
            seed=variant.seed,
            run=config.name,
            config_digest=config.digest(),
            exam_digest=ground.exam.digest,
        )
        try:
            outcome = self._made(variant, ground, blank)
        except SpiceError as error:
            if error.code in ("E_STOPPED", "E_OTHER_EXAM"):
                raise
            return replace(blank, code=error.code)
        write_outcome(config.run_dir, outcome)
        return outcome

    def _made(self, variant: Variant, ground: _Ground, blank: Outcome) -> Outcome:
        if variant.setting == UNTRAINED:
            return replace(blank, adapter_digest=BARE_BASE)
        config, store = variant.config, RunStore(variant.config.run_dir)
        durable.write_file(baseline_path(config.run_dir, ground.exam.digest), ground.baseline)
        begun_at = time.monotonic()
        parts = replace(self._parts_of(config), examiner=ground.examiner)
        report = SpiceAdapterJob(config=config, parts=parts, on_progress=self._say).gate()
        spent_s = time.monotonic() - begun_at
        _require_same_exam(store, ground)
        done = replace(blank, adapter_digest=report.adapter_digest if report else BARE_BASE)
        if report is None:
            write_sheet(config.run_dir, replace(ground.sheet, adapter_digest=BARE_BASE))
        elif not _has_sheet(config.run_dir, done):
            judge_again(config, parts, report, ground.exam, self._say)
        self._sheet(done)
        play = summarise_play(store)
        return replace(
            done,
            verdict=last_verdict(store, done.adapter_digest),
            start=play.start,
            warmed=play.warmed,
            end=play.end,
            steps=play.steps,
            steps_applied=play.steps_applied,
            sampled_tokens=play.sampled_tokens,
            trained_tokens=play.trained_tokens,
            seconds=spent_s + _seconds_before(store),
        )

    def _compared(self, outcomes: Sequence[Outcome], ground: _Ground) -> Experiment:
        sheets = {outcome.run: self._sheet(outcome) for outcome in outcomes if outcome.is_finished}
        compared = compare(self.settings, outcomes, sheets, draws=self._config.exam.draws, seed=self._config.seed)
        return Experiment(
            name=self._config.name,
            base_model=self._config.base_model,
            corpus_digest=ground.corpus_digest,
            exam_digest=ground.exam.digest,
            settings=self.settings,
            seeds=tuple(sorted({variant.seed for variant in self.variants})),
            steps=self._config.selfplay.steps,
            outcomes=tuple(outcomes),
            comparison=compared,
        )

    def _sheet(self, outcome: Outcome) -> AnswerSheet:
        run_dir = self._config.workspace_dir / outcome.run
        return read_sheet(run_dir, exam_digest=outcome.exam_digest, adapter_digest=outcome.adapter_digest)


def _has_sheet(run_dir: Path, outcome: Outcome) -> bool:
    try:
        read_sheet(run_dir, exam_digest=outcome.exam_digest, adapter_digest=outcome.adapter_digest)
    except IntegrityError:
        return False
    return True


def _require_same_documents(folder: Path, listed: Collection[str]) -> None:
    made_of = {document.keyed_digest for document in read_documents(folder)}
    gone = len(made_of - set(listed))
    if gone:
        raise ConfigError(
            f"{gone} of {len(made_of)} documents in {folder} are gone from the source or changed",
            code="E_CORPUS_CHANGED",
            hint="restore them, or take another --out and --name for the new state",
        )


def _require_same_exam(store: RunStore, ground: _Ground) -> None:
    exam = store.load("exam", Exam)
    if exam is None or exam.digest != ground.exam.digest:
        raise ConfigError(
            f"{store.run_dir.name}: another exam than that of the other runs",
            code="E_OTHER_EXAM",
            hint="run the experiment under another --name",
        )


def _seconds_before(store: RunStore) -> float:
    """Return what earlier calls took that were stopped or failed."""
    facts = store.load("facts", Facts)
    return sum(seconds for _, seconds in facts.seconds) if facts else 0.0
