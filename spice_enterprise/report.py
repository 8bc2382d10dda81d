"""The job report: what a run did, in numbers and ids, as a record, as text, as JSON and as one HTML page.

In: the run's store, its corpus, exam and gate report, and facts about the process.
Out: `Figures`, and from them a text card, `report.json` and a self-contained `report.html` without scripts.
Refuses: a run that has no report yet (E_NO_REPORT) when asked to write it again.
Not here: the officer's report over the audit log (`audit/report.py`). No document text, question or answer is read.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from spice_enterprise import durable
from spice_enterprise.errors import EXIT_USAGE, IntegrityError, StoreError
from spice_enterprise.page import document, duration, escape, size_text, table, terms, tiles
from spice_enterprise.plots import bar_plot, compare_plot, line_plot
from spice_enterprise.protocols import Corpus, Played
from spice_enterprise.records import (
    AdapterVersion,
    Alert,
    Alias,
    CheckResult,
    Exam,
    GateReport,
    Promotion,
    Rollout,
    Step,
    Verdict,
    canonical_json,
    decode,
)
from spice_enterprise.store import RunStore

EDGE_STEPS: Final = 3
"""Steps that the start and the end of a curve are averaged over."""
ALIASES: Final[tuple[Alias, ...]] = ("sandbox", "staging", "prod")


KINDS_PER_LINE: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the process knows of itself."""

    seconds: tuple[tuple[str, float], ...]
    """(stage, seconds) over all sessions of the run."""
    peak_memory_bytes: int
    connections_attempted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """One step as the curves show it."""

    number: int
    challenger_reward: float | None
    reasoner_reward: float | None
    """Mean of the step; None in a warm-up, where nothing is rewarded."""
    valid_rate: float | None
    """Share of the proposals that were admitted; None where there was none, as in a warm-up on facts."""
    pass_rate: float | None
    """Share of the reasoner's attempts that were right; None when there was no attempt."""
    kl_nats_per_token: float
    entropy_nats_per_token: float
    loss: float
    is_applied: bool
    is_restored: bool
    """The run went back to an earlier adapter after this step."""
    frontier_rate: float | None = None
    """Share of the step's tasks that were answered both right and wrong."""
    heldout_rate: float | None = None
    """Share of the development questions that the adapter before this step answered; None where it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One record on the road from an adapter to a document."""

    kind: str
    record_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A run in numbers and ids. Optional numbers are None when there was nothing to take them of."""

    run: str
    verdict: Verdict | None
    reasons: tuple[str, ...]
    documents: int
    chunks: int
    train_chunks: int
    unseen_documents: int
    rejected: tuple[tuple[str, int], ...]
    removed: tuple[tuple[str, int], ...]
    residual_findings: int
    isolation: str
    ner_model: str
    base_model: str | None
    steps_done: int
    steps_applied: int
    tasks: int
    frontier_tasks: int
    """Tasks whose attempts were neither all right nor all wrong: the only ones that teach."""
    valid_rate_start: float | None
    valid_rate_end: float | None
    pass_rate_start: float | None
    pass_rate_end: float | None
    restores: int
    is_halted: bool
    alerts: tuple[Alert, ...]
    curve: tuple[StepPoint, ...]
    exam_questions: int
    """About unseen documents: those that the gate decides by."""
    exam_documents: int
    primary: str | None
    baseline: float | None
    candidate: float | None
    gain_low: float | None
    gain_mean: float | None
    gain_high: float | None
    checks: tuple[CheckResult, ...]
    adapter_id: str | None
    adapter_digest: str | None
    adapter_chain: int
    """Updates between the untrained start and this adapter."""
    gate_id: str | None
    alias: Alias | None
    """The furthest alias that names this adapter, as far as this run knows."""
    digests: tuple[tuple[str, str], ...]
    lineage: tuple[Hop, ...]
    seconds: tuple[tuple[str, float], ...]
    step_seconds: float
    """All steps of all sessions."""
    peak_memory_bytes: int
    connections_attempted: int
    recall_questions: int = 0
    """About trained documents; their marks decide nothing."""


def figures_of(store: RunStore, corpus: Corpus, exam: Exam, report: GateReport | None, facts: Facts) -> Figures:
    """Return the run's figures. Raises `IntegrityError` when a stored record does not decode."""
    commit = store.last_commit()
    version = _version(store, report)
    steps = {step.number: step for step in store.all(Step)}  # a step made twice around a crash: the later one counts
    alerts = store.all(Alert)
    played = {number: _tally(item) for number, item in _by_step(store)}
    curve = tuple(_point(step, played.get(number), alerts) for number, step in sorted(steps.items()))
    valid_rates, pass_rates = _known(p.valid_rate for p in curve), _known(p.pass_rate for p in curve)
    asked = [item for item in exam.items if item.claim == "transfer"]
    primary = next((r for r in report.results if r.check == report.primary), None) if report else None
    unseen = {chunk.document_id for chunk in corpus.unseen}
    return Figures(
        run=store.run_dir.name,
        verdict=report.verdict if report else None,
        reasons=report.reasons if report else (),
        documents=len(corpus.documents),
        chunks=len(corpus.chunks),
        train_chunks=len(corpus.train),
        unseen_documents=len(unseen),
        rejected=tuple(sorted(Counter(r.code for r in corpus.rejections).items())),
        removed=corpus.removed,
        residual_findings=corpus.residual_findings,
        isolation=corpus.isolation,
        ner_model=corpus.ner_model,
        base_model=version.base_model if version else None,
        steps_done=len(curve),
        steps_applied=sum(point.is_applied for point in curve),
        tasks=sum(tally.tasks for tally in played.values()),
        frontier_tasks=sum(tally.frontier for tally in played.values()),
        valid_rate_start=_mean(valid_rates[:EDGE_STEPS]),
        valid_rate_end=_mean(valid_rates[-EDGE_STEPS:]),
        pass_rate_start=_mean(pass_rates[:EDGE_STEPS]),
        pass_rate_end=_mean(pass_rates[-EDGE_STEPS:]),
        restores=commit.restores if commit else 0,
        is_halted=commit.is_halted if commit else False,
        alerts=alerts,
        curve=curve,
        exam_questions=len(asked),
        exam_documents=len({item.document_id for item in asked}),
        recall_questions=len(exam.items) - len(asked),
        primary=report.primary if report else None,
        baseline=primary.baseline if primary else None,
        candidate=primary.candidate if primary else None,
        gain_low=primary.low if primary else None,
        gain_mean=primary.value if primary else None,
        gain_high=primary.high if primary else None,
        checks=report.results if report else (),
        adapter_id=version.adapter_id if version else None,
        adapter_digest=version.digest if version else None,
        adapter_chain=_chain_length(store, version),
        gate_id=report.gate_id if report else None,
        alias=_alias(store, version),
        digests=_digests(corpus, exam, report, version),
        lineage=_lineage(store, corpus, version),
        seconds=facts.seconds,
        step_seconds=math.fsum(step.duration_s for step in steps.values()),
        peak_memory_bytes=facts.peak_memory_bytes,
        connections_attempted=facts.connections_attempted,
    )


@dataclass(frozen=True, slots=True)
class _Tally:
    """What the journal of one step adds up to."""

    tasks: int
    proposals: int
    valid: int
    groups: int
    frontier: int
    attempts: int
    correct: int


def _tally(played: Played) -> _Tally:
    own = [item.group for item in played.rollouts if item.group.objective == "policy"]  # an example is no proposal or answer
    groups = [group.rollouts for group in own if group.role == "reasoner"]
    asked = [rollout for group in own if group.role == "challenger" for rollout in group.rollouts]
    proposals = [rollout for rollout in asked if rollout.reason != "format_choice"]
    right = [sum(rollout.outcome == "correct" for rollout in rollouts) for rollouts in groups]
    return _Tally(
        tasks=len(played.tasks),
        proposals=len(proposals),
        valid=sum(rollout.outcome == "valid" for rollout in proposals),
        groups=len(groups),
        frontier=sum(0 < hits < len(rollouts) for hits, rollouts in zip(right, groups, strict=True)),
        attempts=sum(len(rollouts) for rollouts in groups),
        correct=sum(right),
    )


def _by_step(store: RunStore) -> Iterator[tuple[int, Played]]:
    for played in store.played():
        rollouts = _rollouts(played)
        if rollouts:
            yield rollouts[0].step, played


def _rollouts(played: Played) -> list[Rollout]:
    return [rollout for item in played.rollouts for rollout in item.group.rollouts]


def _point(step: Step, tally: _Tally | None, alerts: Sequence[Alert]) -> StepPoint:
    is_rewarded = step.objective != "supervised"
    return StepPoint(
        number=step.number,
        challenger_reward=step.challenger_reward_mean if is_rewarded else None,
        reasoner_reward=step.reasoner_reward_mean if is_rewarded else None,
        valid_rate=tally.valid / tally.proposals if tally and tally.proposals else None,
        pass_rate=tally.correct / tally.attempts if tally and tally.attempts else None,
        kl_nats_per_token=step.kl_nats_per_token,
        entropy_nats_per_token=step.entropy_nats_per_token,
        loss=step.loss,
        is_applied=step.is_applied,
        is_restored=any(a.step_id == step.step_id and a.severity == "critical" for a in alerts),
        frontier_rate=tally.frontier / tally.groups if tally and tally.groups else None,
        heldout_rate=step.heldout,
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None


def _version(store: RunStore, report: GateReport | None) -> AdapterVersion | None:
    """Return the version that was judged, else the one that stands, unless that is the untrained start."""
    commit = store.last_commit()
    adapter_id = report.adapter_id if report else commit.adapter_id if commit else ""
    found = next((v for v in store.all(AdapterVersion) if v.adapter_id == adapter_id), None)
    return found if found and found.step_id else None


def _chain_length(store: RunStore, version: AdapterVersion | None) -> int:
    parents = {v.adapter_id: v.parent_adapter_id for v in store.all(AdapterVersion)}
    length, key = 0, version.adapter_id if version else None
    while key is not None and (key := parents.get(key)) is not None:
        length += 1
    return length


def _alias(store: RunStore, version: AdapterVersion | None) -> Alias | None:
    newest: dict[Alias, Promotion] = {move.alias: move for move in store.all(Promotion)}
    named = [a for a in ALIASES if version and a in newest and newest[a].adapter_digest == version.digest]
    return named[-1] if named else None


def _digests(
    corpus: Corpus, exam: Exam, report: GateReport | None, version: AdapterVersion | None
) -> tuple[tuple[str, str], ...]:
    found = [("corpus", corpus.digest), ("pii policy", corpus.pii_policy_digest), ("exam", exam.digest)]
    if version:
        found += [("adapter", version.digest), ("base model", version.base_digest), ("config", version.config_digest)]
    if report:
        found += [("gate policy", report.policy_digest)]
    return tuple(found)


def _lineage(store: RunStore, corpus: Corpus, version: AdapterVersion | None) -> tuple[Hop, ...]:
    """Return one road back: adapter, step, a rollout of it, its task, chunk and document."""
    step = next((s for s in store.all(Step) if version and s.step_id == version.step_id), None)
    if version is None or step is None:
        return ()
    hops = [Hop(kind="adapter", record_id=version.adapter_id), Hop(kind="step", record_id=step.step_id)]
    played = store.journalled(step.number)
    rollouts = [r for r in _rollouts(played) if r.rollout_id in step.rollout_ids] if played else []
    # an attempt tells more than a proposal: its task is on the road too
    rollout = min(rollouts, key=lambda r: r.role != "reasoner", default=None)
    if played is None or rollout is None:
        return tuple(hops)
    hops.append(Hop(kind=f"{rollout.role} rollout", record_id=rollout.rollout_id))
    task = next((t for t in played.tasks if t.task_id == rollout.parent_id), None)
    if task:
        hops.append(Hop(kind="task", record_id=task.task_id))
    chunk_id = task.chunk_id if task else rollout.parent_id
    chunk = next((c for c in corpus.chunks if c.chunk_id == chunk_id), None)
    if chunk:
        hops += [Hop(kind="chunk", record_id=chunk.chunk_id), Hop(kind="document", record_id=chunk.document_id)]
    return tuple(hops)


# --- as text ----------------------------------------------------------------------------------------------------------


def render_text(figures: Figures, *, run_dir: Path | None = None) -> str:
    """Return the report card. With `run_dir` it also names the report's path, and the workspace in the next command."""
    title = f" spice-enterprise  {figures.run}"
    lines = [f"{title:<66}{_connections(figures.connections_attempted)}"]
    for name, rows in (
        ("corpus", _corpus_rows(figures)),
        ("self-play", _play_rows(figures)),
        ("gate", _gate_rows(figures)),
        ("figures", _figure_rows(figures)),
    ):
        lines += [f" {name if i == 0 else '':<10} {row}" for i, row in enumerate(rows)]
    lines.append(f" {'verdict':<10} {figures.verdict or 'none: nothing new was learned, so the gate was not asked'}")
    lines += [f" {'':<10} {reason}" for reason in figures.reasons]
    if figures.adapter_id:
        where = f"in {figures.alias}" if figures.alias else "not promoted"
        lines.append(f" {'adapter':<10} {figures.adapter_id}  {where}")
    if run_dir is not None:
        lines.append(f" {'report':<10} {run_dir / 'report.html'}")
    lines.append(f" {'next':<10} {_next_command(figures, run_dir)}")
    return "\n".join(line.rstrip() for line in lines)


def _connections(attempted: int) -> str:
    return f"{attempted} outside connection{'' if attempted == 1 else 's'} attempted"


def _corpus_rows(figures: Figures) -> list[str]:
    removed = sum(count for _, count in figures.removed)
    rows = [
        f"{figures.documents} documents -> {figures.chunks} chunks   {figures.unseen_documents} documents unseen",
        f"PII removed {removed} ({len(figures.removed)} kinds)   residual {figures.residual_findings}",
        *_kinds_removed(figures),
    ]
    if figures.rejected:
        listed = ", ".join(f"{code} {count}" for code, count in figures.rejected)
        rows.append(f"rejected {sum(count for _, count in figures.rejected)}: {listed}")
    return rows


def _kinds_removed(figures: Figures) -> list[str]:
    """Return how many values of each kind were removed, the most frequent first, a few to a line."""
    ranked = sorted(figures.removed, key=lambda pair: (-pair[1], pair[0]))
    listed = [f"{entity.lower().replace('_', ' ')} {count}" for entity, count in ranked]
    return ["  " + ", ".join(listed[i : i + KINDS_PER_LINE]) for i in range(0, len(listed), KINDS_PER_LINE)]


def _play_rows(figures: Figures) -> list[str]:
    halted = "   halted" if figures.is_halted else ""
    rows = [
        f"{figures.steps_done} steps, {figures.steps_applied} applied   restored {figures.restores}"
        f"   alerts {len(figures.alerts)}{halted}"
    ]
    rows += _why_halted(figures)
    if figures.steps_done:
        rows.append(
            f"valid proposals {_share_text(figures.valid_rate_start)} -> {_share_text(figures.valid_rate_end)}"
            f"   right answers {_share_text(figures.pass_rate_start)} -> {_share_text(figures.pass_rate_end)}"
        )
        rows.append(f"tasks {figures.tasks}   at the frontier {figures.frontier_tasks}")
    return rows


def _why_halted(figures: Figures) -> list[str]:
    """Return what ended the run before its last step."""
    last = max((alert.step for alert in figures.alerts), default=0)
    ends = [alert.reason for alert in figures.alerts if alert.action == "halt" and alert.step == last]
    return ends if figures.is_halted else []


def _gate_rows(figures: Figures) -> list[str]:
    if not figures.checks:
        return [f"{_exam_text(figures)}; not asked"]
    wide = max(len(result.check) for result in figures.checks)
    rows = []
    for result in figures.checks:
        values, size = _values_text(result), _size_text(result)
        rows.append(f"{result.check:<{wide}}  {result.verdict:<12}  {values:<42}{size}")
    return rows


def _exam_text(figures: Figures) -> str:
    recall = f" and {figures.recall_questions} on trained ones, whose marks decide nothing" if figures.recall_questions else ""
    return f"{figures.exam_questions} questions on {figures.exam_documents} unseen documents{recall}"


def _values_text(result: CheckResult) -> str:
    if result.baseline is None or result.candidate is None:
        return f"{_number(result.value)} (limit {_number(result.limit)})"
    return f"{_number(result.baseline)} -> {_number(result.candidate)}  {_gain_text(result.value, result.low, result.high)}"


def _gain_text(mean: float | None, low: float | None, high: float | None) -> str:
    between = "" if low is None or high is None else f" [{_signed(low)}, {_signed(high)}]"
    return f"{_signed(mean)}{between}"


def _size_text(result: CheckResult) -> str:
    clusters = f" in {result.clusters} documents" if result.clusters else ""
    return f"n={result.n}{clusters}" if result.n else ""


def _figure_rows(figures: Figures) -> list[str]:
    rows = ["   ".join(f"{stage} {duration(seconds)}" for stage, seconds in figures.seconds)]
    return [*filter(None, rows), f"peak memory {size_text(figures.peak_memory_bytes)}"]


def _next_command(figures: Figures, run_dir: Path | None) -> str:
    where = f" --workspace {run_dir.parent}" if run_dir is not None else ""
    if figures.verdict == "PASS" and figures.alias != ALIASES[-1]:
        following = ALIASES[ALIASES.index(figures.alias) + 1] if figures.alias else ALIASES[0]
        return f"spice-enterprise promote {figures.adapter_id} --to {following}{where}"
    if figures.adapter_id:
        return f"spice-enterprise trace {figures.adapter_id}{where}"
    return "more documents or steps, then the same command under another --name"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if not math.isfinite(value):
        return {"nan": "not a number"}.get(str(value), str(value))
    return f"{value:.3g}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}" if math.isfinite(value) else str(value)


def _share_text(value: float | None) -> str:
    return f"{value:.0%}" if value is not None and math.isfinite(value) else "–"


# --- as files ---------------------------------------------------------------------------------------------------------


def write_report(store: RunStore, figures: Figures) -> tuple[Path, Path]:
    """Write `report.html` and `report.json` into the run directory; return their paths. Raises `OSError`."""
    page, data = store.run_dir / "report.html", store.run_dir / "report.json"
    durable.write_file(page, render_html(figures).encode())
    durable.write_file(data, canonical_json(figures) + b"\n")
    return page, data


def rewrite_report(store: RunStore) -> tuple[Figures, tuple[Path, Path]]:
    """Write a finished run's report again from its records, e.g. after a promotion.

    Raises `StoreError` E_NO_REPORT when the run has not been finished, `IntegrityError` when a record is broken.
    """
    old = read_figures(store)
    corpus, exam = store.load("corpus", Corpus), store.load("exam", Exam)
    if corpus is None or exam is None:
        raise IntegrityError(f"{store.run_dir}: the corpus or the exam of this run is gone", hint="restore the run directory")
    facts = Facts(seconds=old.seconds, peak_memory_bytes=old.peak_memory_bytes, connections_attempted=old.connections_attempted)
    report = next((r for r in store.all(GateReport) if r.gate_id == old.gate_id), None)
    figures = figures_of(store, corpus, exam, report, facts)
    return figures, write_report(store, figures)


def read_figures(store: RunStore) -> Figures:
    """Return the figures of the written report. Raises `StoreError` E_NO_REPORT, `IntegrityError` when unreadable."""
    path = store.run_dir / "report.json"
    if not path.exists():
        error = StoreError(f"{store.run_dir}: no report here", code="E_NO_REPORT", hint="finish the run first: the same command")
        error.exit_code = EXIT_USAGE
        raise error
    try:
        return decode(Figures, json.loads(path.read_bytes()))
    except ValueError:
        raise IntegrityError(f"{path.name}: not valid JSON", hint="run the job again to write it") from None


# --- as a page --------------------------------------------------------------------------------------------------------

_VERDICT_WORDS: Final = {
    "PASS": "Every check of the policy passed. The adapter may be promoted.",
    "FAIL": "At least one check of the policy failed. The adapter cannot be promoted.",
    "INCONCLUSIVE": "No check failed, but the evidence does not suffice. The adapter cannot be promoted.",
    None: "Nothing new was learned, so the gate was not asked.",
}
_VERDICT_SIGNS: Final = {"PASS": "✓", "FAIL": "✕", "INCONCLUSIVE": "?", None: "–"}

_PLOT_KEY: Final = (
    '<p class="soft small"><span class="bad">↩</span> the run went back to an earlier adapter after this step &nbsp; '
    '<span class="bad">✕</span> the value was not a finite number</p>'
)


def render_html(figures: Figures) -> str:
    """Return the page: one file, no script, nothing fetched from anywhere."""
    body = "".join(
        (
            _head_section(figures),
            _tiles(figures),
            _gate_section(figures),
            _play_section(figures),
            _corpus_section(figures),
            _evidence_section(figures),
            _reading_section(),
        )
    )
    return document(f"Job report: {figures.run}", body)


def _head_section(figures: Figures) -> str:
    verdict = figures.verdict
    gain = ""
    if figures.baseline is not None and figures.candidate is not None:
        found = _gain_text(figures.gain_mean, figures.gain_low, figures.gain_high)
        gain = (
            f"<p><strong>{escape(figures.primary)}</strong>: base {_number(figures.baseline)}, adapter "
            f"{_number(figures.candidate)}, difference {escape(found)}</p>"
        )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in figures.reasons)
    where = f"in {figures.alias}" if figures.alias else "not promoted"
    named = f"{figures.adapter_id}, {where}, on base model {figures.base_model}" if figures.adapter_id else "no adapter"
    return (
        f'<h1>Job report: {escape(figures.run)}</h1><p class="soft">{escape(named)}</p>'
        f'<div class="verdict {(verdict or "none").lower()}"><b>{_VERDICT_SIGNS[verdict]} {verdict or "NO VERDICT"}</b>'
        f"<p>{_VERDICT_WORDS[verdict]}</p>{gain}{f'<ul>{reasons}</ul>' if reasons else ''}</div>"
    )


def _tiles(figures: Figures) -> str:
    removed = sum(count for _, count in figures.removed)
    shown = (
        (figures.documents, f"documents read, {sum(n for _, n in figures.rejected)} rejected"),
        (figures.chunks, f"chunks, {figures.train_chunks} for training"),
        (removed, f"personal values removed, {figures.residual_findings} left"),
        (figures.connections_attempted, "outside connections attempted"),
        (f"{figures.steps_applied} of {figures.steps_done}", f"steps applied, {figures.restores} restored"),
        (f"{_share_text(figures.valid_rate_start)} → {_share_text(figures.valid_rate_end)}", "valid proposals"),
        (f"{_share_text(figures.pass_rate_start)} → {_share_text(figures.pass_rate_end)}", "right answers in play"),
        (size_text(figures.peak_memory_bytes), "peak memory"),
    )
    return tiles(shown)


def _gate_section(figures: Figures) -> str:
    asked = f"{_exam_text(figures)}, frozen before the first step."
    if not figures.checks:
        return f"<h2>Gate</h2><p>{asked} The gate was not asked.</p>"
    compared = [r for r in figures.checks if r.baseline is not None and r.candidate is not None]
    bars = "".join(_compared(result) for result in compared)
    rows = [
        (
            escape(result.check),
            _verdict_cell(result.verdict),
            _number(result.baseline),
            _number(result.candidate),
            escape(_gain_text(result.value, result.low, result.high) if result in compared else _number(result.value)),
            _number(result.limit),
            str(result.n),
            str(result.clusters),
            f'<span class="small">{escape(result.detail)}</span>',
        )
        for result in figures.checks
    ]
    heads = ("check", "verdict", "base", "adapter", "found", "limit", "n", "documents", "detail")
    return f"<h2>Gate</h2><p>{asked}</p>{bars}{table(heads, rows, numbers=range(2, 8))}"


def _compared(result: CheckResult) -> str:
    base, adapter = result.baseline or 0.0, result.candidate or 0.0
    label = f"{result.metric}: base {_number(base)}, adapter {_number(adapter)}"
    note = f"{result.metric}; the whisker is the interval of the difference, seen from the base"
    plot = compare_plot(label, base, adapter, (result.low, result.high))
    return f"<figure><figcaption>{escape(result.check)} <span>{escape(note)}</span></figcaption>{plot}</figure>"


def _verdict_cell(verdict: Verdict) -> str:
    return f'<span class="{verdict.lower()}">{_VERDICT_SIGNS[verdict]} {verdict}</span>'


def _play_section(figures: Figures) -> str:
    if not figures.curve:
        return "<h2>Self-play</h2><p>No step was made.</p>"
    plots = "".join(
        (
            _over_steps("Reward", "mean per step", figures, "challenger_reward", "reasoner_reward"),
            _over_steps("Valid proposals", "share of the challenger's", figures, "valid_rate"),
            _over_steps("Right answers", "share of the reasoner's attempts", figures, "pass_rate"),
            _over_steps("Tasks at the frontier", "share answered both right and wrong", figures, "frontier_rate"),
            *_measured_plot(figures),
            _over_steps("KL", "sampler against learner, nats per token", figures, "kl_nats_per_token"),
            _over_steps("Entropy", "nats per token", figures, "entropy_nats_per_token"),
            _over_steps("Loss", "before any filter or clip", figures, "loss"),
        )
    )
    made = (
        f"<p>{figures.steps_done} steps, {figures.steps_applied} applied, {figures.restores} restored"
        f"{', halted at the end' if figures.is_halted else ''}; {figures.tasks} tasks, {figures.frontier_tasks} at the frontier; "
        f"{duration(figures.step_seconds)} in steps.</p>"
        + "".join(f'<p><span class="bad">{escape(reason)}</span></p>' for reason in _why_halted(figures))
    )
    return f'<h2>Self-play</h2>{made}<div class="plots">{plots}</div>{_PLOT_KEY}{_alert_table(figures.alerts)}'


def _measured_plot(figures: Figures) -> Iterator[str]:
    if any(point.heldout_rate is not None for point in figures.curve):
        yield _over_steps("Unseen documents", "share of development questions answered", figures, "heldout_rate")


def _over_steps(title: str, unit: str, figures: Figures, *fields: str) -> str:
    """Return one captioned plot of fields of `StepPoint`; shares are drawn from 0 to 1."""
    series = [(field.split("_")[0], [getattr(point, field) for point in figures.curve]) for field in fields]
    plot = line_plot(
        f"{title} by step, {unit}",
        [point.number for point in figures.curve],
        series,
        marks=[point.number for point in figures.curve if point.is_restored],
        is_share=all(field.endswith("_rate") for field in fields),
    )
    return f"<figure><figcaption>{escape(title)} <span>{escape(unit)}</span></figcaption>{plot}</figure>"


def _alert_table(alerts: Sequence[Alert]) -> str:
    if not alerts:
        return '<h3>Alerts</h3><p class="soft">None.</p>'
    rows = [
        (
            str(a.step),
            escape(a.severity),
            escape(a.action),
            escape(a.monitor),
            _number(a.value),
            _number(a.limit),
            escape(a.reason),
        )
        for a in alerts
    ]
    heads = ("step", "severity", "action", "monitor", "value", "limit", "reason")
    return f"<h3>Alerts</h3>{table(heads, rows, numbers=(0, 4, 5))}"


def _corpus_section(figures: Figures) -> str:
    removed = (
        bar_plot("values removed by kind", figures.removed) if figures.removed else '<p class="soft">Nothing was removed.</p>'
    )
    rejected = (
        table(("code", "files"), [(escape(code), str(count)) for code, count in figures.rejected], numbers=(1,))
        if figures.rejected
        else '<p class="soft">None.</p>'
    )
    return (
        f"<h2>Corpus</h2><p>{figures.documents} documents, {figures.chunks} chunks, {figures.unseen_documents} documents set "
        f"apart as unseen. Scanned again after scrubbing: {figures.residual_findings} detectable values left.</p>"
        f'<p class="soft">Parser isolation: {escape(figures.isolation)}. Name recogniser: {escape(figures.ner_model)}.</p>'
        f"<h3>Values removed, by kind</h3>{removed}<h3>Files rejected, by code</h3>{rejected}"
    )


def _evidence_section(figures: Figures) -> str:
    digests = [(escape(name), f"<code>{escape(digest)}</code>") for name, digest in figures.digests]
    road = "".join(f"<li><span>{escape(hop.kind)}</span><code>{escape(hop.record_id)}</code></li>" for hop in figures.lineage)
    seconds = [(escape(stage), escape(duration(value))) for stage, value in figures.seconds]
    ids = [(name, f"<code>{escape(value)}</code>") for name, value in (("gate report", figures.gate_id),) if value]
    chain = f"<p>The adapter stands {figures.adapter_chain} updates after the untrained start.</p>" if figures.adapter_id else ""
    return (
        f"<h2>Evidence</h2>{chain}<h3>Digests</h3>{table(('of', 'digest'), [*digests, *ids])}"
        f"<h3>One road from the adapter to a document</h3>"
        + (f'<ol class="road">{road}</ol>' if road else '<p class="soft">No adapter, no road.</p>')
        + f"<h3>Time over all sessions</h3>{table(('stage', 'took'), seconds, numbers=(1,))}"
    )


def _reading_section() -> str:
    words = (
        (
            "Verdict",
            "PASS, FAIL or INCONCLUSIVE, decided by the gate policy alone; the worst check decides. Only PASS can be promoted.",
        ),
        (
            "Difference and its interval",
            "Adapter minus base, on the same questions. The interval is taken over documents, because answers about one document"
            " go wrong together. An interval that touches zero shows no gain.",
        ),
        (
            "Unseen documents",
            "Whole documents that training never read. The questions on them were frozen before the first step.",
        ),
        (
            "Rewards",
            "Both roles move together, so a rising reward is no evidence of learning. Only the exam is.",
        ),
        (
            "KL",
            "How far the sampler's probabilities are from the learner's. It should stay near zero: the adapter that played is the"
            " one that learns.",
        ),
        ("Restored", "A critical alert undid that step: the run went on from the last good adapter."),
        (
            "Outside connections",
            "Attempts of this process to reach anything but this machine. Document parsers run in children without a network.",
        ),
    )
    return f"<h2>How to read this</h2>{terms(words)}"
