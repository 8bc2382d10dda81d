"""The self-play loop: play, update, watch, then save or go back. Once per optimiser step.

In: train chunks and the parts that play, learn and watch.
Out: the version that stands at the end, every alert, and which alerts are still open.
Refuses: a learner that stands where no run state says how it came there (E_STATE_CORRUPT); it halts when the policy's
    number of restores is used up.
Not here: what a stage does. This file knows only the order, and writes one audit record after each arrow.

A step is finished by its commit line; what stands then was saved before (`run_state.py`). Whatever happened after the last
state that verifies is done again on resume: the journal gives back what was played, so the same step is made, bit for bit
on a CPU, without asking the sampler again, and what is recorded already is not recorded twice.
"""

import math
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from spice_enterprise import seeding
from spice_enterprise.ahead import Ahead
from spice_enterprise.config import SelfplayConfig
from spice_enterprise.errors import IntegrityError
from spice_enterprise.guardrails.rollback import version_to_restore
from spice_enterprise.protocols import (
    AuditSink,
    DeliveryProof,
    Effort,
    MeasureMonitor,
    MeteringPlayer,
    Monitor,
    OnProgress,
    ParkingSampler,
    Played,
    Player,
    Probe,
    Progress,
    ProvingSampler,
    RecallingAuditSink,
    RememberingPlayer,
    Sampler,
    Trainer,
    Window,
)
from spice_enterprise.records import AdapterVersion, Alert, AuditEvent, Chunk, NamedDigest, Step, digest_of
from spice_enterprise.run_state import RunState, RunStates, load_monitors, monitor_states, require_same
from spice_enterprise.selfplay.examples import counts_of
from spice_enterprise.selfplay.metrics import step_metrics
from spice_enterprise.selfplay.task_list import task_lines
from spice_enterprise.store import Commit, RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParts:
    """The parts a loop uses."""

    player: Player
    sampler: Sampler
    trainer: Trainer
    monitors: tuple[Monitor, ...]
    audit: AuditSink
    window: Window
    probe: Probe | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """What the loop itself needs to know of the config and the guardrails policy."""

    run: str
    steps: int
    chunks_per_step: int
    seed: int
    max_restores: int
    identity: tuple[tuple[str, str], ...] = ()
    """(name, digest) of what a resumed run must find unchanged: config, policies, corpus."""
    max_staleness: int = 0
    """1: the next step is played while this one is learned (`ahead.py`)."""
    selfplay: SelfplayConfig = field(default_factory=SelfplayConfig)
    """What the steps are played with, for the metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """What stands after the last step. `open_alerts` are those that ended the run."""

    version: AdapterVersion
    alerts: tuple[Alert, ...]
    open_alerts: tuple[Alert, ...]


def self_play(
    chunks: Sequence[Chunk], parts: LoopParts, store: RunStore, settings: LoopSettings, on_progress: OnProgress
) -> LoopResult:
    """Play and learn until the steps are done or the restores are used up; continue where the last commit stands."""
    states = RunStates(store)
    careful, standing = _resume(parts, store, states, settings)
    recorded = max((step.number for step in store.all(Step)), default=0)
    version, commit, memory = standing.version, standing.commit, standing.tasks
    documents = {chunk.chunk_id: chunk.document_id for chunk in chunks}
    _mend_task_list(store, commit.number, documents)
    pace = _Pace(settings.steps, commit.number)
    with _ahead(chunks, parts.player, store, settings) as ahead:
        while commit.number < settings.steps and not commit.is_halted:
            number = commit.number + 1
            now = parts if number > recorded else careful
            played = ahead.play(number, version)
            effort = _effort(parts.player)
            measured = _measure(parts.probe, played, number, version, store)
            ahead.begin(number + 1, version)
            with _room_to_learn(parts.sampler, settings):
                step = store.put(_with_heldout(now.trainer.update(played.groups, number=number), measured))
            for event in (*_warmed(played, number, settings.run), _stepped(step, settings.run)):
                now.audit.append(event)
            alerts = _watch(step, played, measured, now, store)
            ahead.join()
            version = _settle(step, version, alerts, now, store, settings.run)
            commit = _committed(step, version, alerts, commit, settings.max_restores)
            shown = step_metrics(played, config=settings.selfplay, effort=effort, documents=documents) | measured
            now.window.log_step(step, shown)
            store.list_tasks(task_lines(played, step=number, documents=documents))
            memory = (*memory, *_entries(parts.player, played, number))
            states.save(_state(commit, version, memory, now, states, settings))
            store.commit(commit)
            on_progress(pace.line(step, shown))
            _say_why_halted(alerts, on_progress)
    alerts = list(store.all(Alert))
    still_open = tuple(a for a in alerts if commit.is_halted and a.severity == "critical" and a.step == commit.number)
    return LoopResult(version=version, alerts=tuple(alerts), open_alerts=still_open)


def chunks_of_step(chunks: Sequence[Chunk], number: int, per_step: int, seed: int) -> list[Chunk]:
    """Return the chunks that step `number` (from 1) plays: every chunk once per pass, each pass in its own order."""
    wanted = range((number - 1) * per_step, number * per_step)
    orders: dict[int, list[Chunk]] = {}
    chosen = []
    for position in wanted:
        turn, place = divmod(position, len(chunks))
        if turn not in orders:
            orders[turn] = list(chunks)
            seeding.stream(seed, "chunks", turn).shuffle(orders[turn])
        chosen.append(orders[turn][place])
    return chosen


def _resume(parts: LoopParts, store: RunStore, states: RunStates, settings: LoopSettings) -> tuple[LoopParts, RunState]:
    """Bring learner, sampler, monitors and player to the newest state that verifies, or to the untrained start.

    The parts that come back are for the steps that are made again: they tell the audit log only what it does not hold already.
    """
    saved = states.valid()
    if not saved:
        parts, standing = _begin(parts, store, states, settings)
    else:
        require_same(saved[0], settings.identity)
        version = parts.trainer.start([state.version for state in saved])
        standing = next(state for state in saved if state.version == version)
        states.resume(standing)
        parts = _told_once(parts, standing.audit_size, standing.audit_root)
        load_monitors(parts.monitors, standing.monitors)
        _remind(parts.player, store, standing)
        parts.sampler.publish(standing.version)
    return parts, standing


def _begin(parts: LoopParts, store: RunStore, states: RunStates, settings: LoopSettings) -> tuple[LoopParts, RunState]:
    """Save and commit the untrained start. Raises `IntegrityError` (E_STATE_CORRUPT) when the learner stands further."""
    size, root = states.begin(*_head(parts.audit))
    version = parts.trainer.start()
    if version.step_id is not None:
        raise IntegrityError(
            f"the learner stands at step {version.step}, and nothing is left that says how the run came there",
            code="E_STATE_CORRUPT",
            hint="restore the run directory from a backup, or start a run under another name",
        )
    parts = _told_once(parts, size, root)  # a run that was killed before its first commit begins again
    store.put(version)
    parts.audit.append(_saved(version, settings.run))
    _publish(version, parts, settings.run)
    commit = Commit(number=0, step_id="", adapter_id=version.adapter_id, restores=0)
    standing = _state(commit, version, (), parts, states, settings)
    states.save(standing)
    store.commit(commit)
    return parts, standing


def _state(
    commit: Commit,
    version: AdapterVersion,
    memory: tuple[str, ...],
    parts: LoopParts,
    states: RunStates,
    settings: LoopSettings,
) -> RunState:
    size, root = _head(parts.audit)
    return RunState(
        commit=commit,
        version=version,
        identity=settings.identity,
        audit_size=size,
        audit_root=root,
        files=states.files(commit.number),
        tasks=memory,
        monitors=monitor_states(parts.monitors),
    )


def _head(audit: AuditSink) -> tuple[int, str]:
    return audit.head() if isinstance(audit, RecallingAuditSink) else (0, "")


class _ToldOnce:
    """Tells an audit sink only what it does not hold yet."""

    def __init__(self, sink: RecallingAuditSink, held: Container[AuditEvent]) -> None:
        self._sink, self._held = sink, held
        self.head, self.since = sink.head, sink.since

    def append(self, event: AuditEvent) -> str:
        """Append what is new; what is there already has no new leaf."""
        return "" if event in self._held else self._sink.append(event)


def _told_once(parts: LoopParts, size: int, root: str) -> LoopParts:
    """Return the parts with an audit sink that skips what it holds after a head; one that cannot tell is told again."""
    if not isinstance(parts.audit, RecallingAuditSink):
        return parts
    return replace(parts, audit=_ToldOnce(parts.audit, parts.audit.since(size, root)))


def _remind(player: Player, store: RunStore, standing: RunState) -> None:
    """Tell the player what was played: up to the state, and in plays that will be taken from the journal."""
    if isinstance(player, RememberingPlayer):
        memory, number = standing.tasks, standing.commit.number + 1
        while (played := store.journalled(number)) is not None:
            memory = (*memory, *_entries(player, played, number))
            number += 1
        player.remember(memory)


def _entries(player: Player, played: Played, number: int) -> tuple[str, ...]:
    return player.entries(played, step=number) if isinstance(player, RememberingPlayer) else ()


def _ahead(chunks: Sequence[Chunk], player: Player, store: RunStore, settings: LoopSettings) -> Ahead:
    """Return what gives each step its play."""
    return Ahead(
        player,
        store,
        chunks_of=lambda number: chunks_of_step(chunks, number, settings.chunks_per_step, settings.seed),
        last_step=settings.steps,
        max_staleness=settings.max_staleness,
    )


@contextmanager
def _room_to_learn(sampler: Sampler, settings: LoopSettings) -> Iterator[None]:
    """Within this block a sampler that can gives its memory back; not where it writes the next step meanwhile."""
    gives = sampler if isinstance(sampler, ParkingSampler) and settings.max_staleness == 0 else None
    if gives is not None:
        gives.park()
    try:
        yield
    finally:
        if gives is not None:
            gives.unpark()


def _mend_task_list(store: RunStore, last_step: int, documents: Mapping[str, str]) -> None:
    """Make the list of tasks end with the last finished step; one that is gone or damaged is written again from the journal."""
    if not store.trim_tasks(last_step):
        for number in range(1, last_step + 1):
            with suppress(IntegrityError):  # a list for people does not keep a run from going on
                played = store.journalled(number)
                store.list_tasks(task_lines(played, step=number, documents=documents) if played else [])


def _effort(player: Player) -> Effort | None:
    return player.effort if isinstance(player, MeteringPlayer) else None


def _measure(probe: Probe | None, played: Played, number: int, version: AdapterVersion, store: RunStore) -> dict[str, float]:
    """Return what the probe measures of the version that stands before a step, once: a step made again finds it kept."""
    if probe is None or not probe.is_due(number):
        return {}
    kept = store.measured(number, version.adapter_id)
    if kept is None:
        kept = probe.measure(version, played, step=number)
        store.keep_measured(number, version.adapter_id, kept)
    return kept


def _with_heldout(step: Step, measured: Mapping[str, float]) -> Step:
    heldout = measured.get("heldout")
    return step if heldout is None else replace(step, heldout=heldout, heldout_se=measured.get("heldout_se"))


def _watch(step: Step, played: Played, measured: Mapping[str, float], parts: LoopParts, store: RunStore) -> list[Alert]:
    """Ask every monitor about the step and keep what they say."""
    groups = [item.group for item in played.rollouts]
    alerts = [alert for monitor in parts.monitors for alert in monitor.check(step, groups)]
    if measured:
        judges = [monitor for monitor in parts.monitors if isinstance(monitor, MeasureMonitor)]
        alerts += [alert for monitor in judges for alert in monitor.check_measured(step, measured)]
    for alert in alerts:
        store.put(alert)
    return alerts


def _settle(
    step: Step, version: AdapterVersion, alerts: Sequence[Alert], parts: LoopParts, store: RunStore, run: str
) -> AdapterVersion:
    """Save what the step made, or go back to the last good version; publish and return what stands."""
    if _is_critical(alerts):
        standing = version_to_restore(store.all(AdapterVersion), store.all(Alert), before_step=step.number)
        parts.trainer.restore(standing)
    else:
        standing = parts.trainer.save(step)
        store.put(standing)
    if standing.adapter_id != version.adapter_id and not _is_critical(alerts):
        parts.audit.append(_saved(standing, run))
    for alert in alerts:
        parts.audit.append(_alarmed(alert, standing, run))
    _publish(standing, parts, run)
    return standing


def _publish(version: AdapterVersion, parts: LoopParts, run: str) -> None:
    """Let the sampler serve `version`, and log the proof that it does where it gives one."""
    before = _proof(parts.sampler)
    parts.sampler.publish(version)
    proof = _proof(parts.sampler)
    if proof is not None and proof is not before:  # the same version again is not measured again
        parts.audit.append(_delivered(version, proof, run))


def _proof(sampler: Sampler) -> DeliveryProof | None:
    return sampler.proof if isinstance(sampler, ProvingSampler) else None


def _say_why_halted(alerts: Sequence[Alert], on_progress: OnProgress) -> None:
    for alert in alerts:
        if alert.action == "halt":
            on_progress(Progress(stage="self-play", message=alert.reason))


def _is_critical(alerts: Sequence[Alert]) -> bool:
    return any(alert.severity == "critical" for alert in alerts)


def _committed(step: Step, standing: AdapterVersion, alerts: Sequence[Alert], before: Commit, max_restores: int) -> Commit:
    restores = before.restores + _is_critical(alerts)
    is_told_to_halt = any(alert.action == "halt" for alert in alerts)
    return Commit(
        number=step.number,
        step_id=step.step_id,
        adapter_id=standing.adapter_id,
        restores=restores,
        is_halted=is_told_to_halt or restores > max_restores,
    )


class _Pace:
    """Turns a finished step into a progress line with speed and time left."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._begun_at, self._before = total, time.monotonic(), done

    def line(self, step: Step, shown: Mapping[str, float]) -> Progress:
        spent_s = time.monotonic() - self._begun_at
        made = step.number - self._before
        moved = shown["sampled_tokens"] + step.trained_tokens
        is_warmup = step.objective == "supervised"
        learned = (
            ("challenger_reward", step.challenger_reward_mean),
            ("reasoner_reward", step.reasoner_reward_mean),
            ("valid_rate", shown.get("valid_rate", 0.0)),
        )
        numbers = (
            *((("loss", step.loss),) if is_warmup else learned),
            ("tokens_per_s", moved / max(step.duration_s + 1e-9, spent_s / made)),
            ("left_s", spent_s / made * (self._total - step.number)),
        )
        message = "warm-up" if is_warmup else "step"
        known = tuple(pair for pair in numbers if not math.isnan(pair[1]))  # a step without a task has no reward to show
        return Progress(stage="self-play", message=message, done=step.number, total=self._total, numbers=known)


def _warmed(played: Played, number: int, run: str) -> list[AuditEvent]:
    """Return the event of a play of the warm-up: where its examples came from, and a digest of them; of another play none."""
    counts = counts_of(played)
    if not counts:
        return []
    taught = [rollout.rollout_id for group in played.groups for rollout in group.rollouts]
    subject = NamedDigest(role="examples", name=f"step-{number}", digest=digest_of(taught))
    return [AuditEvent(event="warmup.made", run=run, subject=(subject,), data=(("step", number), *counts))]


def _stepped(step: Step, run: str) -> AuditEvent:
    data = (
        ("step", step.number),
        ("is_applied", step.is_applied),
        ("rollouts", len(step.rollout_ids)),
        ("reward_mean", step.reward_mean),
        ("loss", step.loss),
        ("grad_norm", step.grad_norm),
        ("kl_nats_per_token", step.kl_nats_per_token),
        ("invalid_rate", step.invalid_rate),
        ("gap_nats_per_token", step.gap_nats_per_token),
        ("staleness", step.staleness),
        ("adapter", step.adapter_id),
    )
    subject = NamedDigest(role="step", name=step.step_id, digest=digest_of(step))
    return AuditEvent(event="guardrail.step", run=run, subject=(subject,), data=data)


def _saved(version: AdapterVersion, run: str) -> AuditEvent:
    inputs = (
        NamedDigest(role="base", name="base_model", digest=version.base_digest),
        NamedDigest(role="corpus", name="corpus", digest=version.corpus_digest),
        NamedDigest(role="config", name="config", digest=version.config_digest),
    )
    data = (("step", version.step), ("parent", version.parent_adapter_id), ("made_by", version.step_id))
    return AuditEvent(event="checkpoint.saved", run=run, subject=(adapter_subject(version),), inputs=inputs, data=data)


def _delivered(version: AdapterVersion, proof: DeliveryProof, run: str) -> AuditEvent:
    data = (
        ("step", version.step),
        ("gap_nats", proof.gap_nats),
        ("limit_nats", proof.limit_nats),
        ("moved_nats", proof.moved_nats),
        ("followed", proof.followed),
    )
    return AuditEvent(event="adapter.delivered", run=run, subject=(adapter_subject(version),), data=data)


def adapter_subject(version: AdapterVersion) -> NamedDigest:
    """Return how an audit event names an adapter."""
    return NamedDigest(role="adapter", name=version.adapter_id, digest=version.digest)


def _alarmed(alert: Alert, standing: AdapterVersion, run: str) -> AuditEvent:
    data = (
        ("step", alert.step),
        ("monitor", alert.monitor),
        ("value", alert.value),
        ("limit", alert.limit),
        ("severity", alert.severity),
        ("action", alert.action),
        ("standing", standing.adapter_id),
    )
    subject = NamedDigest(role="alert", name=alert.alert_id, digest=digest_of(alert))
    return AuditEvent(event="guardrail.alarm", run=run, subject=(subject,), data=data)
