"""The job: the whole road, once per corpus.

In: a `JobConfig` and, if wanted, parts of the user's own.
Out: a `JobResult`: the version, its gate report, the promotion, the alerts, the figures.
Refuses: a second job on the run directory, other settings or documents than the run was begun with.
Not here: what a stage does, and the steps inside training (`loop.py`). This file knows only the order.

Each arrow writes one audit record. A stage that is finished is not done again: the same command continues.
"""

import re
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from spice_enterprise import offline
from spice_enterprise.assembly import Assembly
from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.errors import ConfigError, CorpusError, ReleaseError, SpiceError, StoreError, boundary
from spice_enterprise.loop import LoopParts, LoopResult, LoopSettings, adapter_subject, self_play
from spice_enterprise.plan import Plan, make_plan
from spice_enterprise.protocols import Corpus, Manifest, OnProgress, Parts, Progress
from spice_enterprise.records import (
    AdapterVersion,
    Alert,
    Alias,
    AuditEvent,
    Document,
    Exam,
    GateReport,
    NamedDigest,
    Promotion,
    Verdict,
    digest_of,
)
from spice_enterprise.report import Facts, Figures, figures_of, render_text, write_report
from spice_enterprise.selfplay.golden import VerifierReport, compare, read_golden
from spice_enterprise.store import RunStore, find_run

if TYPE_CHECKING:
    from spice_enterprise.corpus.vault import VaultReading


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a job came to. `version` is None when nothing new was learned."""

    version: AdapterVersion | None
    report: GateReport | None
    promotion: Promotion | None
    alerts: tuple[Alert, ...]
    figures: Figures
    run_dir: Path

    @property
    def verdict(self) -> Verdict | None:
        """The gate's verdict, or None when it was not asked."""
        return self.report.verdict if self.report else None

    def tasks(self, n: int = 10) -> tuple[Mapping[str, Any], ...]:
        """Return the `n` newest lines of `tasks.jsonl`: questions, reference answers, verdicts, pass rates. Scrubbed text."""
        return tuple(deque(RunStore(self.run_dir).tasks(), maxlen=n))

    def show(self) -> None:
        """Print the report card."""
        sys.stdout.write(render_text(self.figures, run_dir=self.run_dir) + "\n")


class SpiceAdapterJob:
    """Adapts one base model to one folder of documents.

    `SpiceAdapterJob(corpus="contracts/").run()` is the whole use. Settings are the fields of `JobConfig`; sections are
    mappings: `selfplay={"steps": 20}`. Raises `ConfigError` with every problem at once.
    """

    def __init__(
        self,
        corpus: str | Path | None = None,
        *,
        config: JobConfig | None = None,
        parts: Parts | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> None:
        if (corpus is None) == (config is None):
            raise ConfigError("give a corpus folder or a config, not both", hint="SpiceAdapterJob(corpus='contracts/')")
        self.config = config or build_config({"corpus": str(corpus), **settings}, where="SpiceAdapterJob")
        self._given = parts or Parts()
        self._on_progress = on_progress or _silent
        self._store = RunStore(self.config.run_dir)
        self._parts = Assembly(self.config, self._given, self._store)
        self._seconds: dict[str, float] = {}

    @classmethod
    def open(cls, workspace: str | Path, record_id: str, *, on_progress: OnProgress | None = None) -> Self:
        """Return the job that made an adapter, gate report or promotion. Raises `StoreError` E_UNKNOWN_ID."""
        store = find_run(Path(workspace), record_id)
        return cls(config=begun_with(store), on_progress=on_progress)

    def with_(self, **parts: Any) -> "SpiceAdapterJob":
        """Return the same job with some parts of the user's own, e.g. `with_(verifier=Mine())`."""
        return SpiceAdapterJob(config=self.config, parts=replace(self._given, **parts), on_progress=self._on_progress)

    def plan(self) -> Plan:
        """Return every problem, the needs and the smallest provable gain, without loading a model."""
        return make_plan(self.config)

    def ingest(self) -> Corpus:
        """Read, scrub, cut and split; stop there."""
        with self._running():
            return self._ingest()

    def ingest_to(self, out: str | Path) -> Manifest:
        """Read, scrub, cut and split into the folder `out`, without beginning a run; `corpus: out` trains on it later.

        Continues where an earlier call stopped. The audit log of the workspace records what was made.
        """
        self._say("job", "starting")
        offline.check_switches()
        with boundary("corpus"):
            self._parts.start_guard()
            try:
                manifest = self._parts.ingestor_into(Path(out)).write(self._parts.source, self._on_progress)
            except KeyboardInterrupt:
                raise StoreError("stopped on request", code="E_STOPPED", hint="the same command continues") from None
            finally:
                offline.GUARD.stop()
        subject = NamedDigest(role="corpus", name="corpus", digest=manifest.corpus_digest)
        rejections = sum(count for _, count in manifest.rejected)
        self._log(
            "corpus.snapshotted",
            (subject,),
            data=(("documents", manifest.documents), ("chunks", manifest.chunks), ("rejections", rejections)),
        )
        self._log_redaction(subject, manifest.pii_policy_digest, manifest.removed)
        return manifest

    def test_verifier(self, golden: str | Path) -> VerifierReport:
        """Compare the job's verifier with answers that people have judged: a CSV or JSON Lines file (`selfplay.golden`).

        The verifier runs as in a run: killable, and while offline without the outside. Raises `ConfigError` E_GOLDEN_FILE
        with every problem in the file.
        """
        rows = read_golden(Path(golden))
        offline.check_switches()
        with boundary("selfplay"):
            self._parts.start_guard()
            try:
                with self._parts.grader as grader:  # forked under the guard, which it inherits
                    return compare(rows, grader)
            finally:
                offline.GUARD.stop()

    def read_original(self, keyed_digest: str, placeholder: str, *, reason: str) -> tuple[str, ...]:
        """Return what a placeholder of a document stood for, in each way it was written. The audit log is told first.

        Args:
            keyed_digest: Of the document, as `documents.jsonl` has it.
            placeholder: As it stands in the corpus.
            reason: The number of a case, such as `case/2026-17`: it is logged, so letters, digits and `._/-` only.

        Raises:
            CorpusError: `E_NOT_IN_VAULT` when there is no vault or no such original, or the reason is none.
        """
        vault = self._parts.vault
        if vault is None or not re.fullmatch(r"[A-Za-z][A-Za-z0-9._/-]{0,63}", reason):
            raise CorpusError(
                "no original is read: there is no vault, or the reason is no case number",
                code="E_NOT_IN_VAULT",
                hint="the policy that made the corpus must say `originals: vault`; a reason is like `case/2026-17`",
            )

        def record(reading: "VaultReading") -> None:
            subject = NamedDigest(role="document", name=reading.document_id[:16], digest=reading.document_id)
            self._log("original.read", (subject,), data=(("reason", reading.reason),))

        return vault.read(keyed_digest, placeholder, reason=reason, record=record)

    def train(self) -> AdapterVersion:
        """Go as far as the trained version; stop before it is judged."""
        with self._running(is_trained=True):
            corpus = self._ingest()
            self._set_exam(corpus)
            return self._train(corpus).version

    def gate(self) -> GateReport | None:
        """Go as far as the verdict, promoting nothing; None when nothing new was learned."""
        with self._running(is_trained=True):
            corpus = self._ingest()
            exam = self._set_exam(corpus)
            return self._judge(self._train(corpus), exam)

    def run(self) -> JobResult:
        """Walk the whole road; continue where an earlier run of the same job stopped."""
        with self._running(is_trained=True):
            corpus = self._ingest()
            exam = self._set_exam(corpus)
            trained = self._train(corpus)
            report = self._judge(trained, exam)
            promotion = self._promote(trained.version, report)
            return self._finish(corpus, exam, trained, report, promotion)

    def promote(self, adapter_id: str, to: Alias) -> Promotion:
        """Point an alias at a version of this run. Raises `GateNotPassedError` without a PASS for its digest."""
        with self._store.lock(), boundary("release", adapter_id):
            version = self._store.adapter(adapter_id)
            reports = [r for r in self._store.all(GateReport) if r.adapter_digest == version.digest]
            if not reports:
                raise ReleaseError(
                    "this adapter has never been judged",
                    code="E_NOT_JUDGED",
                    record_id=adapter_id,
                    hint="run `spice-enterprise gate CONFIG` first",
                )
            return self._move(version, reports[-1], to)

    def rollback(self, alias: Alias) -> Promotion:
        """Point an alias back at what its last promotion replaced. Raises `NoSafeVersionError` when there is nothing."""
        with boundary("release"):
            promotion = self._parts.registry.rollback(alias, record=self._log_move)
            owner = self._owner_of(promotion.adapter_id)
            owner._store.put(promotion)
            version = owner._store.adapter(promotion.adapter_id)
            owner._parts.window.register(version, owner._parts.adapter_folder(version), alias)
            return promotion

    def _owner_of(self, adapter_id: str) -> "SpiceAdapterJob":
        """Return the job that made an adapter: a rollback may go back to another run's."""
        store = find_run(self.config.workspace_dir, adapter_id)
        if store.run_dir == self._store.run_dir:
            return self
        return SpiceAdapterJob(config=begun_with(store), parts=self._given, on_progress=self._on_progress)

    # --- the road ---------------------------------------------------------------------------------------------------

    def _ingest(self) -> Corpus:
        with self._stage("corpus"):
            stored = self._store.load("corpus", Corpus)
            if stored is not None:
                self._refuse_other_documents(stored)
                return stored
            corpus = self._parts.ingestor.ingest(self._parts.source, self._on_progress)
            self._store.save("corpus", corpus)
            self._log("corpus.snapshotted", (_corpus_subject(corpus),), data=_corpus_counts(corpus))
            self._log_redaction(_corpus_subject(corpus), corpus.pii_policy_digest, corpus.removed)
            self._parts.forget_corpus_parts()
            return corpus

    def _log_redaction(self, subject: NamedDigest, policy_digest: str, removed: Sequence[tuple[str, int]]) -> None:
        counts = tuple((f"removed_{entity.lower()}", count) for entity, count in removed)
        self._log(
            "redaction.applied",
            (subject,),
            inputs=(NamedDigest(role="policy", name="pii", digest=policy_digest),),
            data=(("residual", 0), *counts),
        )

    def _refuse_other_documents(self, stored: Corpus) -> None:
        if "://" in self.config.corpus:
            return  # a remote place is not read a second time
        listed = {found.keyed_digest for found in self._parts.source.documents() if isinstance(found, Document)}
        known = {document.keyed_digest for document in stored.documents}
        gone = len(known - listed)
        if gone:
            raise ConfigError(
                f"{gone} of {len(known)} documents of this run are gone or changed",
                code="E_CORPUS_CHANGED",
                hint="restore them, or choose another --name for the new state",
            )

    def _set_exam(self, corpus: Corpus) -> Exam:
        with self._stage("exam"):
            exam = self._store.load("exam", Exam)
            if exam is None:
                exam = self._parts.examiner.set_exam(corpus)
                self._store.save("exam", exam)
                data = (
                    ("questions", len(exam.items)),
                    ("documents", len({item.document_id for item in exam.items})),
                    ("recall_questions", sum(item.claim == "recall" for item in exam.items)),
                )
                self._log("dataset.generated", (_exam_subject(exam),), inputs=(_corpus_subject(corpus),), data=data)
            return exam

    def _train(self, corpus: Corpus) -> LoopResult:
        with self._stage("self-play"):
            self._parts.window.start(self._shown_params())
            parts = LoopParts(
                player=self._parts.player,
                sampler=self._parts.sampler,
                trainer=self._parts.trainer,
                monitors=self._parts.monitors,
                audit=self._parts.audit,
                window=self._parts.window,
                probe=self._parts.probe,
            )
            settings = LoopSettings(
                run=self.config.name,
                steps=self._parts.warmup_steps + self.config.selfplay.steps,
                chunks_per_step=self.config.selfplay.chunks_per_step,
                seed=self.config.seed,
                max_restores=self._parts.guardrails_policy.max_restores,
                identity=self._identity(corpus),
                max_staleness=self.config.training.max_staleness,
                selfplay=self._parts.sized.selfplay,
            )
            return self_play(corpus.train, parts, self._store, settings, self._on_progress)

    def _identity(self, corpus: Corpus) -> tuple[tuple[str, str], ...]:
        """Return the digests that a resumed run must find unchanged; the learner checks its base itself."""
        policies = ((f"policy.{name}", digest) for name, digest in sorted(self._parts.policy_digests().items()))
        models = ((f"model.{name}", digest) for name, digest in sorted(self._parts.model_digests().items()))
        return (("config", self.config.digest()), ("corpus", corpus.digest), *policies, *models)

    def _judge(self, trained: LoopResult, exam: Exam) -> GateReport | None:
        version = trained.version
        if version.step_id is None:
            return None
        with self._stage("gate"):
            done = [r for r in self._store.all(GateReport) if r.adapter_digest == version.digest]
            if done and self._parts.is_fresh(done[-1]):
                return done[-1]
            report = self._parts.judge.judge(version, exam, trained.open_alerts, self._on_progress)
            subject, policy = (adapter_subject(version),), NamedDigest(role="policy", name="gate", digest=report.policy_digest)
            self._log("eval.completed", subject, inputs=(_exam_subject(exam),), data=_measured(report))
            self._log("gate.decided", subject, inputs=(policy, _exam_subject(exam)), data=_decided(report))
            self._store.put(report)
            self._parts.window.log_gate(report)
            return report

    def _promote(self, version: AdapterVersion, report: GateReport | None) -> Promotion | None:
        if report is None or report.verdict != "PASS":
            return None
        with self._stage("registry"):
            standing = self._parts.registry.current("sandbox")
            if standing is not None and standing.adapter_digest == version.digest:
                self._store.put(standing)  # a crash may have come between the pointer and its record
                return standing
            return self._move(version, report, "sandbox")

    def _move(self, version: AdapterVersion, report: GateReport, alias: Alias) -> Promotion:
        """Make a promotion and show it; the registry logs it before the pointer moves."""
        promotion = self._parts.registry.promote(version, report, alias, record=self._log_move)
        self._store.put(promotion)
        self._parts.window.register(version, self._parts.adapter_folder(version), alias)
        return promotion

    def _log_move(self, promotion: Promotion) -> str:
        """Log a pointer move, once: a crash between the record and the pointer must not log it twice.

        Raises `ReleaseError` E_FORGOTTEN, and so stops the move, for an adapter that learned from a forgotten document.
        """
        if self._parts.is_forgotten(promotion.adapter_digest):
            raise ReleaseError(
                "it learned from a document that was forgotten",
                code="E_FORGOTTEN",
                record_id=promotion.adapter_id,
                hint="train again without the document, or retire the adapter",
            )
        event = "promotion.executed" if promotion.kind == "promote" else "rollback.executed"
        logged = self._parts.logged_move(event, promotion)
        if logged is not None:
            return logged
        subject = NamedDigest(role="adapter", name=promotion.adapter_id, digest=promotion.adapter_digest)
        data = (
            ("alias", promotion.alias),
            ("generation", promotion.generation),
            ("replaces", promotion.replaces or "none"),
            ("gate_id", promotion.gate_id),
        )
        return self._log(event, (subject,), data=data)

    def _finish(
        self, corpus: Corpus, exam: Exam, trained: LoopResult, report: GateReport | None, promotion: Promotion | None
    ) -> JobResult:
        """Write the report, close the window's run, and sum up."""
        version = trained.version if trained.version.step_id else None
        if version is not None:
            self._log("adapter.registered", (adapter_subject(version),), data=(("step", version.step),))
            alias = "sandbox" if promotion else "candidate"
            self._parts.window.register(version, self._parts.adapter_folder(version), alias)
        verdict = report.verdict if report else "NONE"
        self._log("run.ended", data=(("verdict", verdict), ("alerts", len(trained.alerts)), ("status", "finished")))
        figures = figures_of(self._store, corpus, exam, report, self._facts())
        pages = write_report(self._store, figures)
        audit_files = [(self.config.workspace_dir / "audit", "audit"), (self.config.workspace_dir / "trust.json", "audit")]
        self._parts.window.log_artifacts([*((page, "report") for page in pages), *audit_files])
        self._parts.window.finish("FINISHED")
        return JobResult(
            version=version,
            report=report,
            promotion=promotion,
            alerts=trained.alerts,
            figures=figures,
            run_dir=self._store.run_dir,
        )

    # --- around the road --------------------------------------------------------------------------------------------

    @contextmanager
    def _running(self, *, is_trained: bool = False) -> Iterator[None]:
        """Lock, begin or reopen the run, watch connections, and leave an audit record however it ends."""
        self._say("job", "starting")
        offline.check_switches()
        if not self.config.offline:
            offline.allow_hub()
        with boundary("store"), self._store.lock():
            self._parts.start_guard()
            try:
                if is_trained:
                    self._parts.grader.start()  # forked before the model is loaded, and under the guard
                    self._parts.require_engine()
                is_new = self._store.begin(self.config, self._parts.policy_digests())
                with self._logged(is_new=is_new):
                    yield
            finally:
                self._parts.close()
                offline.GUARD.stop()

    @contextmanager
    def _logged(self, *, is_new: bool) -> Iterator[None]:
        """Write how the run began and how it ended."""
        policies = tuple(NamedDigest(role="policy", name=n, digest=d) for n, d in self._parts.policy_digests().items())
        config = NamedDigest(role="config", name="config", digest=self.config.digest())
        models = tuple(NamedDigest(role="model", name=n, digest=d) for n, d in self._parts.model_digests().items())
        sampler = self.config.sampler
        data = (("is_new", is_new), ("sampler", sampler.kind), ("weights", sampler.weights), ("dtype", sampler.dtype))
        try:
            self._log("run.started", inputs=(config, *policies, *models), data=data)
            yield
        except KeyboardInterrupt:
            self._close("stopped", "KILLED")
            raise StoreError("stopped on request", code="E_STOPPED", hint="the same command continues") from None
        except SpiceError as error:
            self._close(error.code, "FAILED")
            raise

    def _close(self, status: str, shown: str) -> None:
        self._facts()
        self._log("run.ended", data=(("status", status), ("verdict", "NONE")))
        self._parts.window.finish(shown)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Time a stage, say that it runs, and classify what it raises."""
        self._say(name, "begin")
        begun_at = time.monotonic()
        with boundary(_STAGE_OF[name]):
            yield
        self._seconds[name] = time.monotonic() - begun_at
        self._say(name, "done", (("seconds", self._seconds[name]),))

    def _say(self, stage: str, message: str, numbers: tuple[tuple[str, float], ...] = ()) -> None:
        self._on_progress(Progress(stage=stage, message=message, numbers=numbers))

    def _log(
        self,
        event: str,
        subject: tuple[NamedDigest, ...] = (),
        *,
        inputs: tuple[NamedDigest, ...] = (),
        data: Sequence[tuple[str, str | int | float | bool | None]] = (),
    ) -> str:
        return self._parts.audit.append(
            AuditEvent(event=event, run=self.config.name, subject=subject, inputs=inputs, data=tuple(data))
        )

    def _shown_params(self) -> Mapping[str, str]:
        """Return the settings MLflow shows: numbers and closed words, no paths."""
        dumped = self.config.model_dump(mode="json", include={"seed", "offline", "ingest", "selfplay", "training", "exam"})
        sections = {name: keys for name, keys in dumped.items() if isinstance(keys, dict)}
        shown = {
            f"{name}.{key}": str(value) for name, keys in sections.items() for key, value in keys.items() if key not in PATHS
        }
        return {**shown, "seed": str(self.config.seed), "config_digest": self.config.digest()}

    def _facts(self) -> Facts:
        """Return what the machine saw of the run, over all sessions that it took."""
        before = self._store.load("facts", Facts) or Facts(seconds=(), peak_memory_bytes=0, connections_attempted=0)
        seconds = dict(before.seconds)
        for stage, spent_s in self._seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent_s
        own_kib, child_kib = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        facts = Facts(
            seconds=tuple(seconds.items()),
            peak_memory_bytes=max(before.peak_memory_bytes, own_kib * 1024, child_kib * 1024),
            connections_attempted=before.connections_attempted + offline.GUARD.attempts,
        )
        self._seconds = {}
        self._store.save("facts", facts)
        return facts


PATHS = frozenset({"acl_label", "ner_model", "token_classifier", "gliner", "general_items", "challenger_model", "embedder"})
"""Settings that may hold a path or a name and are not shown."""

_STAGE_OF = {"corpus": "corpus", "exam": "release", "self-play": "training", "gate": "release", "registry": "release"}


def begun_with(store: RunStore) -> JobConfig:
    """Return the config that a run was begun with; its workspace is where the run lies now."""
    return build_config({**store.settings(), "workspace": str(store.run_dir.parent)}, where="run.json")


def _silent(_: Progress) -> None:
    """Show nothing."""


def _corpus_subject(corpus: Corpus) -> NamedDigest:
    return NamedDigest(role="corpus", name="corpus", digest=corpus.digest)


def _exam_subject(exam: Exam) -> NamedDigest:
    return NamedDigest(role="evalsuite", name=exam.exam_id, digest=exam.digest)


def _corpus_counts(corpus: Corpus) -> tuple[tuple[str, int], ...]:
    return (
        ("documents", len(corpus.documents)),
        ("chunks", len(corpus.chunks)),
        ("unseen_chunks", len(corpus.unseen)),
        ("rejections", len(corpus.rejections)),
    )


def _measured(report: GateReport) -> tuple[tuple[str, str | float], ...]:
    """Return every check's number, flat: `<check>.value` and so on."""
    return tuple(
        pair
        for result in report.results
        for pair in ((f"{result.check}.value", result.value), (f"{result.check}.n", float(result.n)))
    )


def _decided(report: GateReport) -> tuple[tuple[str, str | float | None], ...]:
    checks = tuple(
        pair
        for result in report.results
        for pair in (
            (f"{result.check}.verdict", result.verdict),
            (f"{result.check}.value", result.value),
            (f"{result.check}.low", result.low),
            (f"{result.check}.high", result.high),
            (f"{result.check}.limit", result.limit),
        )
    )
    head = (("gate_id", report.gate_id), ("verdict", report.verdict), ("primary", report.primary), ("report", digest_of(report)))
    return (*head, *checks)
