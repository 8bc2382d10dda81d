"""What one run of an experiment came to: its marks, its rates of play, or the code that ended it.

In: the directory of a run.
Out: an `Outcome`, kept in that directory; how play went at the start, after the warm-up and at the end.
Refuses: nothing; an outcome that is damaged or of other settings counts as none.
Not here: making the run (`experiment.py`), comparing runs (`comparison.py`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from spice_enterprise import sealed
from spice_enterprise.errors import IntegrityError
from spice_enterprise.protocols import Played
from spice_enterprise.records import GateReport, Rollout, Step, Verdict, decode
from spice_enterprise.store import RunStore

EDGE_STEPS: Final = 2
"""Steps that each of the three rates of a run is taken over."""
BARE_BASE: Final = "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Shares of a few steps of play; None where there was nothing to take them of."""

    readable: float | None
    """Of the proposals: those that could be read as a question with an answer."""
    admitted: float | None
    """Of the proposals: those that became or could have become a task."""
    open_book: float | None
    """Of the frozen base's answers with the passage: those that agree with the reference answer, over all it was asked about."""
    right: float | None
    """Of the reasoner's answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run. `code` says why it has no marks; it is empty when it was finished."""

    setting: str
    seed: int
    run: str
    """Name of the run's directory."""
    config_digest: str
    exam_digest: str
    code: str = ""
    adapter_digest: str = ""
    """`base` when nothing was trained or learned."""
    verdict: Verdict | None = None
    start: Rates | None = None
    """Of the first steps with proposals, those of a `format` warm-up included."""
    warmed: Rates | None = None
    """Of the first steps of self-play: what the warm-up left behind, and the same as `start` where it had no proposals."""
    end: Rates | None = None
    """Of the last steps with proposals."""
    steps: int = 0
    steps_applied: int = 0
    sampled_tokens: int = 0
    """Of all recorded proposals and answers; the frozen base's are not recorded."""
    trained_tokens: int = 0
    seconds: float = 0.0
    """Of the call that finished it, and of those before that were stopped."""

    @property
    def is_finished(self) -> bool:
        """True when it can be compared."""
        return not self.code


def write_outcome(run_dir: Path, outcome: Outcome) -> None:
    """Keep an outcome in its run's directory. Raises `OSError`."""
    sealed.write_value(run_dir / "outcome.json", outcome)


def read_outcome(run_dir: Path, *, config_digest: str, exam_digest: str) -> Outcome | None:
    """Return the outcome of a finished run with these settings and this exam, or None."""
    try:
        outcome = decode(Outcome, sealed.read_value(run_dir / "outcome.json"))
    except IntegrityError:
        return None
    is_same = (outcome.config_digest, outcome.exam_digest) == (config_digest, exam_digest)
    return outcome if is_same and outcome.is_finished else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaySummary:
    """What a run's journal and steps add up to."""

    start: Rates | None
    warmed: Rates | None
    end: Rates | None
    steps: int
    steps_applied: int
    sampled_tokens: int
    trained_tokens: int


def summarise_play(store: RunStore) -> PlaySummary:
    """Read a run's journal once. Raises `IntegrityError` when it is damaged."""
    counts: list[_Counts] = []
    in_warmup = 0  # how many of them are of the warm-up: all before the last step with examples
    sampled_tokens = 0
    for played in store.played():
        rollouts = _rollouts(played)
        sampled_tokens += sum(len(rollout.token_ids) for rollout in rollouts)
        if any(rollout.role == "challenger" for rollout in rollouts):
            counts.append(_counts(played, rollouts))
        if any(item.group.objective == "supervised" for item in played.rollouts):
            in_warmup = len(counts)
    steps = {step.number: step for step in store.all(Step)}.values()
    return PlaySummary(
        start=_rates(counts[:EDGE_STEPS]),
        warmed=_rates(counts[in_warmup:][:EDGE_STEPS]),
        end=_rates(counts[-EDGE_STEPS:]),
        steps=len(steps),
        steps_applied=sum(step.is_applied for step in steps),
        sampled_tokens=sampled_tokens,
        trained_tokens=sum(step.trained_tokens for step in steps),
    )


def last_verdict(store: RunStore, adapter_digest: str) -> Verdict | None:
    """Return the newest verdict on an adapter, or None."""
    reports = [report for report in store.all(GateReport) if report.adapter_digest == adapter_digest]
    return reports[-1].verdict if reports else None


@dataclass(frozen=True, slots=True)
class _Counts:
    proposals: int
    readable: int
    admitted: int
    answers: int
    right: int
    open_book: tuple[float, ...]


def _rollouts(played: Played) -> list[Rollout]:
    """Return what was proposed and answered; examples of a warm-up are neither."""
    groups = (item.group for item in played.rollouts if item.group.objective == "policy")
    return [rollout for group in groups for rollout in group.rollouts]


def _counts(played: Played, rollouts: Sequence[Rollout]) -> _Counts:
    proposals = [r for r in rollouts if r.role == "challenger" and r.reason != "format_choice"]
    answers = [r for r in rollouts if r.role == "reasoner"]
    return _Counts(
        proposals=len(proposals),
        readable=sum(r.outcome != "unparsable" for r in proposals),
        admitted=sum(r.outcome == "valid" for r in proposals),
        answers=len(answers),
        right=sum(r.outcome == "correct" for r in answers),
        open_book=tuple(a.open_book for a in played.admissions if a.open_book is not None),
    )


def _rates(counts: Sequence[_Counts]) -> Rates | None:
    if not counts:
        return None
    proposals, answers = sum(c.proposals for c in counts), sum(c.answers for c in counts)
    return Rates(
        readable=_share(sum(c.readable for c in counts), proposals),
        admitted=_share(sum(c.admitted for c in counts), proposals),
        open_book=mean_of(share for c in counts for share in c.open_book),
        right=_share(sum(c.right for c in counts), answers),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known and finite, or None when nothing is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(known) if known else None
