"""The self-play loop: play, update, watch, then save or go back. Once per optimiser step.

In: train chunks and the parts that play, learn and watch.
Out: the version that stands at the end, every alert, and which alerts are still open.
Refuses: nothing of its own; it halts when the policy's number of restores is used up.
Not here: what a stage does. This file knows only the order, and writes one audit record after each arrow.

A step is finished by its commit line. Whatever happened after the last commit is done again on resume: the journal
gives back what was played, so the same step is made, bit for bit on a CPU, without asking the sampler again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from spice_enterprise import seeding
from spice_enterprise.guardrails.rollback import version_to_restore
from spice_enterprise.protocols import AuditSink, Monitor, OnProgress, Played, Player, Progress, Sampler, Trainer, Window
from spice_enterprise.records import AdapterVersion, Alert, AuditEvent, Chunk, NamedDigest, Step, digest_of
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """What the loop itself needs to know of the config and the guardrails policy."""

    run: str
    steps: int
    chunks_per_step: int
    seed: int
    max_restores: int


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
    version, commit = _resume(parts, store, settings.run)
    pace = _Pace(settings.steps, commit.number)
    while commit.number < settings.steps and not commit.is_halted:
        number = commit.number + 1
        played = _play(number, chunks, version, parts, store, settings)
        step = parts.trainer.update(played.groups, number=number)
        store.put(step)
        parts.audit.append(_stepped(step, settings.run))
        alerts = _watch(step, played, parts, store)
        version = _settle(step, version, alerts, parts, store, settings.run)
        commit = _committed(step, version, alerts, commit, settings.max_restores)
        store.commit(commit)
        parts.window.log_step(step, _extra(played))
        on_progress(pace.line(step, played))
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


def _resume(parts: LoopParts, store: RunStore, run: str) -> tuple[AdapterVersion, Commit]:
    """Bring the learner and the sampler to what the last commit names; the first commit names the untrained start."""
    version = parts.trainer.start()
    commit = store.last_commit()
    if commit is None:
        store.put(version)
        parts.audit.append(_saved(version, run))
        commit = Commit(number=0, step_id="", adapter_id=version.adapter_id, restores=0)
        store.commit(commit)
    if commit.adapter_id != version.adapter_id:
        version = store.adapter(commit.adapter_id)
        parts.trainer.restore(version)
    parts.sampler.publish(version)
    _remember(parts, store, commit.number)
    return version, commit


def _remember(parts: LoopParts, store: RunStore, until: int) -> None:
    """Show the monitors the finished steps again: a rule over many steps must not forget them at a restart."""
    for step in store.all(Step):
        played = store.journalled(step.number)
        if step.number <= until and played is not None:
            for monitor in parts.monitors:
                monitor.check(step, [item.group for item in played.rollouts])


def _play(
    number: int, chunks: Sequence[Chunk], version: AdapterVersion, parts: LoopParts, store: RunStore, settings: LoopSettings
) -> Played:
    """Return what step `number` played: from the journal if it was written, else played now and journalled."""
    played = store.journalled(number)
    if played is None:
        chosen = chunks_of_step(chunks, number, settings.chunks_per_step, settings.seed)
        played = parts.player.play(chosen, version, step=number)
        store.journal(number, played)
    return played


def _watch(step: Step, played: Played, parts: LoopParts, store: RunStore) -> list[Alert]:
    """Ask every monitor about the step and keep what they say."""
    groups = [item.group for item in played.rollouts]
    alerts = [alert for monitor in parts.monitors for alert in monitor.check(step, groups)]
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
    parts.sampler.publish(standing)
    return standing


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


def _extra(played: Played) -> dict[str, float]:
    """Return the numbers of a step that are not the learner's."""
    proposals = [r for item in played.rollouts if item.group.role == "challenger" for r in item.group.rollouts]
    answers = [r for item in played.rollouts if item.group.role == "reasoner" for r in item.group.rollouts]
    return {
        "tasks": float(len(played.tasks)),
        "valid_rate": _share(sum(r.outcome == "valid" for r in proposals), len(proposals)),
        "pass_rate": _share(sum(r.outcome == "correct" for r in answers), len(answers)),
        "sampled_tokens": float(sum(len(r.token_ids) for r in (*proposals, *answers))),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


class _Pace:
    """Turns a finished step into a progress line with speed and time left."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._begun_at, self._before = total, time.monotonic(), done

    def line(self, step: Step, played: Played) -> Progress:
        spent_s = time.monotonic() - self._begun_at
        made = step.number - self._before
        extra = _extra(played)
        numbers = (
            ("challenger_reward", step.challenger_reward_mean),
            ("reasoner_reward", step.reasoner_reward_mean),
            ("valid_rate", extra["valid_rate"]),
            ("tokens_per_s", (extra["sampled_tokens"] + step.trained_tokens) / max(step.duration_s + 1e-9, spent_s / made)),
            ("left_s", spent_s / made * (self._total - step.number)),
        )
        return Progress(stage="self-play", message="step", done=step.number, total=self._total, numbers=numbers)


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
