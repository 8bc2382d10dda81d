"""Runs of several settings and seeds, held against each other question by question.

In: outcomes, and the answer sheet of each finished one: all on the same exam.
Out: per setting and bar the accuracy and its difference to the untrained base and to the run as configured, with intervals.
Refuses: sheets of different exams (E_OTHER_EXAM).
Not here: making the runs (`experiment.py`), the arithmetic (`release/statistics.py`), the page (`experiment_page.py`).

An interval is for other documents and other training seeds at once. Each is for its own comparison: with many settings
some will seem to differ by luck.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from spice_enterprise.errors import ConfigError
from spice_enterprise.outcomes import Outcome, Rates, mean_of
from spice_enterprise.records import Claim
from spice_enterprise.release.answer_sheet import AnswerSheet, ItemMarks
from spice_enterprise.release.evaluation import widen
from spice_enterprise.release.statistics import (
    FEW_CLUSTERS,
    Interval,
    rate_bound_after_zero,
    seeded_cluster_interval,
    sign_flip_p,
)

LEVEL: Final = 0.95
UNTRAINED: Final = "no_training"
AS_CONFIGURED: Final = "spice"
CLAIMS: Final[tuple[Claim, ...]] = ("transfer", "recall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its interval; a bound is None where one document or none cannot give any."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> "Estimate":
        """Return an interval as it is kept: infinite bounds are open."""
        low, high = (bound if math.isfinite(bound) else None for bound in (interval.low, interval.high))
        return cls(mean=interval.mean, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One way of asking one claim's questions, over the seeds of a setting."""

    claim: Claim
    is_with_passage: bool
    accuracy: Estimate
    minus_untrained: Estimate | None
    minus_spice: Estimate | None
    """None for the reference itself, and where no seed of both was finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run without a result."""

    seed: int
    run: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingResult:
    """One setting over its seeds. Counts and rates are means over the finished runs."""

    setting: str
    seeds: tuple[int, ...]
    """Those that were finished."""
    failures: tuple[Failure, ...]
    bars: tuple[Bar, ...]
    start: Rates | None
    warmed: Rates | None
    end: Rates | None
    steps_applied: float | None
    sampled_tokens: float | None
    trained_tokens: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSize:
    """How much of the exam a claim's bars rest on."""

    claim: Claim
    questions: int
    documents: int
    dropped: int
    """Questions left out for every run, since one of the runs trained on 13 words in a row of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every setting, in the order asked for."""

    sizes: tuple[ClaimSize, ...]
    results: tuple[SettingResult, ...]


def compare(
    settings: Sequence[str], outcomes: Sequence[Outcome], sheets: Mapping[str, AnswerSheet], *, draws: int, seed: int
) -> Comparison:
    """Return the comparison.

    Args:
        settings: names, in the order to show.
        outcomes: of every run, failed ones included.
        sheets: of the finished runs, by the name of the run.
        draws: bootstrap draws of each interval.
        seed: of those draws.

    Raises:
        ConfigError: E_OTHER_EXAM when two sheets do not have the same questions.
    """
    _require_one_exam(sheets.values())
    tables = [_Table.of(claim, sheets, draws=draws, seed=seed) for claim in CLAIMS]
    asked = [table for table in tables if table.size.questions]
    return Comparison(
        sizes=tuple(table.size for table in asked),
        results=tuple(_result(name, [o for o in outcomes if o.setting == name], outcomes, asked) for name in settings),
    )


def _require_one_exam(sheets: Iterable[AnswerSheet]) -> None:
    if len({(sheet.exam_digest, tuple(item.item_id for item in sheet.items)) for sheet in sheets}) > 1:
        raise ConfigError(
            "the runs did not answer the same exam, so they cannot be compared",
            code="E_OTHER_EXAM",
            hint="run the experiment under another --name",
        )


@dataclass(frozen=True, slots=True)
class _Table:
    """The marks of one claim's questions, by run."""

    size: ClaimSize
    places: tuple[int, ...]
    """Of the questions that count, in the exam."""
    documents: tuple[str, ...]
    sheets: Mapping[str, AnswerSheet]
    draws: int
    seed: int

    @classmethod
    def of(cls, claim: Claim, sheets: Mapping[str, AnswerSheet], *, draws: int, seed: int) -> "_Table":
        """Take the questions of a claim. Trained texts are what recall is about, so only transfer leaves them out."""
        first = next(iter(sheets.values())).items if sheets else ()
        own = [i for i, item in enumerate(first) if item.claim == claim]
        seen = {i for sheet in sheets.values() for i in own if sheet.items[i].is_overlapping} if claim == "transfer" else set()
        places = tuple(i for i in own if i not in seen)
        documents = tuple(first[i].document_id for i in places)
        size = ClaimSize(claim=claim, questions=len(places), documents=len(set(documents)), dropped=len(seen))
        return cls(size, places, documents, sheets, draws, seed)

    def marks(self, run: str, *, is_with_passage: bool, is_base: bool = False) -> list[float]:
        """Return 0 or 1 for every question that counts."""
        items = [self.sheets[run].items[i] for i in self.places]
        return [float(_mark(item, is_with_passage=is_with_passage, is_base=is_base)) for item in items]

    def accuracy(self, rows: Sequence[Sequence[float]]) -> Estimate:
        """Return the share of right answers over seeds."""
        return Estimate.of(seeded_cluster_interval(rows, self.documents, level=LEVEL, draws=self.draws, seed=self.seed))

    def difference(self, rows: Sequence[Sequence[float]]) -> Estimate:
        """Return a mean difference over seeds."""
        return difference_of(rows, self.documents, draws=self.draws, seed=self.seed)


def difference_of(rows: Sequence[Sequence[float]], documents: Sequence[str], *, draws: int, seed: int) -> Estimate:
    """Return the mean of `rows` (one per seed, one difference per question), no surer of itself than its documents allow.

    Raises `ValueError` as `seeded_cluster_interval`.
    """
    count = len(set(documents))
    if not any(any(row) for row in rows):
        # nothing to resample; what was never seen in D documents can still be this frequent
        bound = rate_bound_after_zero(count)
        return Estimate(mean=0.0, low=-bound, high=bound)
    interval = seeded_cluster_interval(rows, documents, level=LEVEL, draws=draws, seed=seed)
    if count < FEW_CLUSTERS:
        over_seeds = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        p = sign_flip_p([0.0] * len(over_seeds), over_seeds, documents, draws=draws, seed=seed)
        interval = widen(interval, p, 1 - LEVEL)
    return Estimate.of(interval)


def _mark(item: ItemMarks, *, is_with_passage: bool, is_base: bool) -> int:
    if is_base:
        return item.base_with if is_with_passage else item.base_without
    return item.adapter_with if is_with_passage else item.adapter_without


def _result(name: str, own: Sequence[Outcome], every: Sequence[Outcome], tables: Sequence[_Table]) -> SettingResult:
    done = [outcome for outcome in own if outcome.is_finished]
    reference = {o.seed: o.run for o in every if o.setting == AS_CONFIGURED and o.is_finished and name != AS_CONFIGURED}
    return SettingResult(
        setting=name,
        seeds=tuple(outcome.seed for outcome in done),
        failures=tuple(Failure(seed=o.seed, run=o.run, code=o.code) for o in own if not o.is_finished),
        bars=tuple(_bar(name, done, reference, table, is_with) for table in tables for is_with in (True, False)) if done else (),
        start=_mean_rates([o.start for o in done]),
        warmed=_mean_rates([o.warmed for o in done]),
        end=_mean_rates([o.end for o in done]),
        steps_applied=mean_of(o.steps_applied for o in done),
        sampled_tokens=mean_of(o.sampled_tokens for o in done),
        trained_tokens=mean_of(o.trained_tokens for o in done),
        seconds=mean_of(o.seconds for o in done),
    )


def _bar(name: str, done: Sequence[Outcome], reference: Mapping[int, str], table: _Table, is_with_passage: bool) -> Bar:  # noqa: FBT001 - one of a pair
    rows = {o.seed: table.marks(o.run, is_with_passage=is_with_passage) for o in done}
    bases = {o.seed: table.marks(o.run, is_with_passage=is_with_passage, is_base=True) for o in done}
    if name == UNTRAINED:
        # one base, whatever the seed: it stands beside every seed of the others
        others = {seed: table.marks(run, is_with_passage=is_with_passage) for seed, run in reference.items()}
        pairs = [(other, next(iter(rows.values()))) for other in others.values()]
    else:
        shared = [seed for seed in rows if seed in reference]
        pairs = [(table.marks(reference[seed], is_with_passage=is_with_passage), rows[seed]) for seed in shared]
    return Bar(
        claim=table.size.claim,
        is_with_passage=is_with_passage,
        accuracy=table.accuracy(list(rows.values())),
        minus_untrained=None if name == UNTRAINED else table.difference([_minus(bases[s], rows[s]) for s in rows]),
        minus_spice=table.difference([_minus(first, second) for first, second in pairs]) if pairs else None,
    )


def _minus(baseline: Sequence[float], candidate: Sequence[float]) -> list[float]:
    return [second - first for first, second in zip(baseline, candidate, strict=True)]


def _mean_rates(rates: Sequence[Rates | None]) -> Rates | None:
    known = [rate for rate in rates if rate is not None]
    if not known:
        return None
    return Rates(
        readable=mean_of(rate.readable for rate in known),
        admitted=mean_of(rate.admitted for rate in known),
        open_book=mean_of(rate.open_book for rate in known),
        right=mean_of(rate.right for rate in known),
    )
