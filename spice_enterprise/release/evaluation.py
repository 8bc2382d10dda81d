"""Ask the exam and compare: base and adapter, each with and without the passage.

In: samplers, an exam frozen before training, the verifier, and the texts that training saw.
Out: `FourBars` (who answered what right) and the transfer gain as a `CheckResult`.
Refuses: an answer by another adapter than the one being judged (`DeliveryError`); a stored baseline of other questions.
Not here: the questions (`exam.py`), the arithmetic (`statistics.py`), the verdict (`gate.py`).

Clozes are graded by the verifier, choices by likelihood: the option the model finds likeliest is its answer, a tie is wrong.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spice_enterprise.config import ExamConfig
from spice_enterprise.durable import write_file
from spice_enterprise.errors import DeliveryError, IntegrityError
from spice_enterprise.protocols import OnProgress, Progress, Sampler, Verifier
from spice_enterprise.records import AdapterVersion, CheckResult, Exam, ExamItem, Task, canonical_json, decode
from spice_enterprise.release.answer_sheet import AnswerSheet, Marks, make_sheet, write_sheet
from spice_enterprise.release.exam import continuations, exam_prompt, missing_words, overlapping_ids
from spice_enterprise.release.statistics import (
    FEW_CLUSTERS,
    Interval,
    mcnemar_exact,
    paired_cluster_interval,
    rate_bound_after_zero,
    sign_flip_p,
)

PRIMARY_METRIC = "transfer_accuracy"
RECALL_BARS_METRIC = "accuracy_without_passage"


def no_progress(progress: Progress) -> None:
    """Drop a line of progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One bar: which items were answered right, and with what. `answers` of choices are the options picked."""

    item_ids: tuple[str, ...]
    correct: tuple[bool, ...]
    answers: tuple[str, ...] = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Share answered right; NaN when nothing was asked."""
        return sum(self.correct) / len(self.correct) if self.correct else math.nan

    def without(self, dropped: frozenset[str]) -> "Scores":
        """Return the scores of the items that are not `dropped`."""
        kept = [i for i, item_id in enumerate(self.item_ids) if item_id not in dropped]
        return Scores(
            item_ids=tuple(self.item_ids[i] for i in kept),
            correct=tuple(self.correct[i] for i in kept),
            answers=tuple(self.answers[i] for i in kept),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """What one model scored on one exam."""

    exam_digest: str
    adapter_digest: str
    without_passage: Scores
    with_passage: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Grading:
    """How answers are obtained and graded; the same for every model that is compared."""

    verifier: Verifier
    answer_tokens: int
    seed: int = 0


# --- one bar ----------------------------------------------------------------------------------------------------------


def score_exam(
    sampler: Sampler, exam: Exam, grading: Grading, *, with_passage: bool, on_progress: OnProgress = no_progress
) -> Scores:
    """Ask every question once, greedily: all clozes in one call of the sampler, all choices in another."""
    answered: dict[str, tuple[bool, str]] = {}
    for ask in (_ask_clozes, _ask_choices):
        answered |= ask(sampler, exam, grading, with_passage)
        bar = "with the passage" if with_passage else "without the passage"
        on_progress(Progress(stage="exam", message=f"answered {bar}", done=len(answered), total=len(exam.items)))
    return Scores(
        item_ids=tuple(item.item_id for item in exam.items),
        correct=tuple(answered[item.item_id][0] for item in exam.items),
        answers=tuple(answered[item.item_id][1] for item in exam.items),
    )


def _ask_clozes(sampler: Sampler, exam: Exam, grading: Grading, with_passage: bool) -> dict[str, tuple[bool, str]]:  # noqa: FBT001 - one of a pair of like functions
    items = [item for item in exam.items if item.item_format == "cloze"]
    if not items:
        return {}
    prompts = [exam_prompt(item, with_passage=with_passage, answer_tokens=grading.answer_tokens) for item in items]
    completions = sampler.sample(prompts, n=1, seed=grading.seed)
    answers = [missing_words(item.question, row[0].text) for item, row in zip(items, completions, strict=True)]
    return {
        item.item_id: (grading.verifier.grade(as_task(item, with_passage=with_passage), answer), answer)
        for item, answer in zip(items, answers, strict=True)
    }


def _ask_choices(sampler: Sampler, exam: Exam, grading: Grading, with_passage: bool) -> dict[str, tuple[bool, str]]:  # noqa: FBT001 - see above
    items = [item for item in exam.items if item.item_format == "choice"]
    if not items:
        return {}
    prompts = [exam_prompt(item, with_passage=with_passage, answer_tokens=grading.answer_tokens) for item in items]
    rows = sampler.score(prompts, [continuations(item) for item in items])
    picks = [likeliest(item.options, row) for item, row in zip(items, rows, strict=True)]
    return {item.item_id: (pick == item.answer, pick) for item, pick in zip(items, picks, strict=True)}


def likeliest(options: Sequence[str], logprobs: Sequence[float]) -> str:
    """Return the option with the highest log-probability; `""` (which is never right) for a tie, or when none is a number."""
    best = max((value for value in logprobs if not math.isnan(value)), default=math.nan)
    top = [option for option, value in zip(options, logprobs, strict=True) if value == best]
    return top[0] if len(top) == 1 else ""


def as_task(item: ExamItem, *, with_passage: bool) -> Task:
    """Return the item in the form that a `Verifier` grades. No rollout proposed it."""
    return Task(
        chunk_id=item.chunk_id,
        rollout_id="",
        question=item.question,
        answer=item.answer,
        answer_kind=item.answer_kind,
        task_format="free_form",
        regime="open_book" if with_passage else "closed_book",
    )


def measure(sampler: Sampler, exam: Exam, grading: Grading, on_progress: OnProgress = no_progress) -> Bars:
    """Return both bars of whatever `sampler` serves."""
    return Bars(
        exam_digest=exam.digest,
        adapter_digest=sampler.adapter_digest,
        without_passage=score_exam(sampler, exam, grading, with_passage=False, on_progress=on_progress),
        with_passage=score_exam(sampler, exam, grading, with_passage=True, on_progress=on_progress),
    )


# --- four bars --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class FourBars:
    """Measures base and adapter, each once per exam; shared by every check that reads the exam's answers.

    With a `folder`, the base's bars are kept there, so that a resumed job does not pay for them twice, and so are the
    marks of every adapter, question by question.
    """

    base_sampler: Sampler
    sampler: Sampler
    grading: Grading
    folder: Path | None = None
    on_progress: OnProgress = no_progress
    _measured: dict[tuple[str, str], Bars] = field(default_factory=dict, init=False, repr=False)

    def base(self, exam: Exam) -> Bars:
        """Return the base's bars; call it before training, when the base is loaded anyway."""
        if ("base", exam.digest) not in self._measured:
            self._measured["base", exam.digest] = self._stored(exam) or self._measure_base(exam)
        return self._measured["base", exam.digest]

    def adapter(self, version: AdapterVersion, exam: Exam) -> Bars:
        """Return the bars of `version`. Raises `DeliveryError` when another adapter is served."""
        if (version.digest, exam.digest) not in self._measured:
            self.sampler.publish(version)
            if self.sampler.adapter_digest != version.digest:
                raise DeliveryError("the exam was about to be answered by another adapter", record_id=version.adapter_id)
            self._measured[version.digest, exam.digest] = measure(self.sampler, exam, self.grading, self.on_progress)
        return self._measured[version.digest, exam.digest]

    def _measure_base(self, exam: Exam) -> Bars:
        self.base_sampler.publish(None)
        bars = measure(self.base_sampler, exam, self.grading, self.on_progress)
        if self.folder is not None:
            write_file(baseline_path(self.folder, exam.digest), canonical_json(bars))
        return bars

    def keep_marks(self, version: AdapterVersion, exam: Exam, overlapping: frozenset[str]) -> None:
        """Write the answer sheet of `version`, where there is a folder for it. Raises `OSError`."""
        if self.folder is not None:
            write_sheet(self.folder, sheet_of(exam, self.base(exam), self.adapter(version, exam), overlapping))

    def _stored(self, exam: Exam) -> Bars | None:
        path = baseline_path(self.folder, exam.digest) if self.folder is not None else None
        if path is None or not path.exists():
            return None
        try:
            bars = decode(Bars, json.loads(path.read_bytes()))
        except ValueError:
            raise IntegrityError(f"{path.name}: not JSON", code="E_BASELINE", hint="delete the file and run again") from None
        if bars.exam_digest != exam.digest or bars.with_passage.item_ids != tuple(item.item_id for item in exam.items):
            raise IntegrityError(f"{path.name}: of another exam", code="E_BASELINE", hint="delete the file and run again")
        return bars


def baseline_path(folder: Path, exam_digest: str) -> Path:
    """Return where the base's bars on an exam are kept; they hold the base's answers."""
    return folder / f"baseline-{exam_digest.removeprefix('sha256:')[:16]}.json"


def sheet_of(exam: Exam, base: Bars, adapter: Bars, overlapping: frozenset[str] = frozenset()) -> AnswerSheet:
    """Return the marks of base and adapter, without their answers."""
    return make_sheet(exam, adapter.adapter_digest, _marks(base), _marks(adapter), overlapping)


def _marks(bars: Bars) -> Marks:
    return Marks(without_passage=bars.without_passage.correct, with_passage=bars.with_passage.correct)


# --- the check --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferGainCheck:
    """Does the adapter read unseen documents better than the base? The passage is given to both."""

    bars: FourBars
    config: ExamConfig
    level: float = 0.95
    """1 - alpha of the policy's rule (`gate.level_of`)."""
    seed: int = 0
    training_texts: Callable[[], Iterable[str]] = tuple
    """Every rollout's text: items that share 13 words in a row with one are dropped and counted."""

    def run(self, version: AdapterVersion, exam: Exam) -> list[CheckResult]:
        """Return the gain with the passage (`transfer_accuracy`) and, for information, without it."""
        overlapping = overlapping_ids(exam, self.training_texts())
        base, adapter = self.bars.base(exam), self.bars.adapter(version, exam)
        self.bars.keep_marks(version, exam, overlapping)
        # trained texts are what recall is about, and what it shows is no transfer
        recall = {item.item_id for item in exam.items if item.claim == "recall"}
        dropped = frozenset(overlapping | recall)
        documents = [item.document_id for item in exam.items if item.item_id not in dropped]
        pairs = [
            (PRIMARY_METRIC, base.with_passage.without(dropped), adapter.with_passage.without(dropped)),
            (RECALL_BARS_METRIC, base.without_passage.without(dropped), adapter.without_passage.without(dropped)),
        ]
        shown = _bars_in_words(pairs, len(overlapping - recall))
        formats = [item.item_format for item in exam.items if item.item_id not in dropped]
        return [
            self._result(metric, first, second, documents, f"{shown}; {_by_format(formats, first, second)}")
            for metric, first, second in pairs
        ]

    def _result(self, metric: str, first: Scores, second: Scores, documents: list[str], shown: str) -> CheckResult:
        interval, note = self._compare(first, second, documents)
        return CheckResult(
            check="exam",
            metric=metric,
            verdict="INCONCLUSIVE",  # measured, not judged: the gate holds it against the policy
            value=interval.mean,
            low=interval.low,
            high=interval.high,
            limit=0.0,
            n=len(documents),
            clusters=len(set(documents)),
            detail=f"{shown}; {note}",
            baseline=first.accuracy,
            candidate=second.accuracy,
        )

    def _compare(self, first: Scores, second: Scores, documents: list[str]) -> tuple[Interval, str]:
        if not documents:
            return Interval(math.nan, math.nan, math.nan), "no question left to compare"
        interval = paired_cluster_interval(
            first.correct, second.correct, documents, level=self.level, draws=self.config.draws, seed=self.seed
        )
        lost = sum(a and not b for a, b in zip(first.correct, second.correct, strict=True))
        won = sum(b and not a for a, b in zip(first.correct, second.correct, strict=True))
        note = f"{won} won, {lost} lost, exact McNemar p = {mcnemar_exact(lost, won):.3g}"
        if not won and not lost:
            # the bootstrap has nothing to resample; what was never seen in D documents can still be this frequent
            bound = rate_bound_after_zero(len(set(documents)))
            return Interval(-bound, 0.0, bound), f"{note}; no answer changed: bounded by the rule of three over documents"
        if len(set(documents)) >= FEW_CLUSTERS:
            return interval, note
        p = sign_flip_p(first.correct, second.correct, documents, draws=self.config.draws, seed=self.seed)
        return widen(interval, p, 1 - self.level), f"{note}; few clusters: sign-flip p over documents = {p:.3g}"


def widen(interval: Interval, p: float, alpha: float) -> Interval:
    """Return `interval`, opened to hold 0 when a permutation over documents finds no difference at `alpha`."""
    if p < alpha:
        return interval
    return Interval(min(interval.low, 0.0), interval.mean, max(interval.high, 0.0))


def _bars_in_words(pairs: Sequence[tuple[str, Scores, Scores]], dropped: int) -> str:
    (_, base_with, adapter_with), (_, base_without, adapter_without) = pairs
    return (
        f"base without passage {base_without.accuracy:.1%}, base with passage {base_with.accuracy:.1%}, "
        f"adapter without passage {adapter_without.accuracy:.1%}, adapter with passage {adapter_with.accuracy:.1%}; "
        f"{dropped} question(s) dropped for 13 words in common with training"
    )


def _by_format(formats: Sequence[str], first: Scores, second: Scores) -> str:
    """Say where a gain comes from: writing the value (cloze) or telling it from others (choice)."""
    rows = list(zip(formats, first.correct, second.correct, strict=True))
    said = []
    for name in sorted(set(formats)):
        own = [(base, adapter) for item_format, base, adapter in rows if item_format == name]
        said.append(f"{name} {sum(base for base, _ in own)} to {sum(adapter for _, adapter in own)} of {len(own)}")
    return ", ".join(said) or "no question"
