"""All seams of the product in one file: this is the extension guide.

In: nothing.
Out: one small Protocol per seam, and `Parts` with one field per seam.
Refuses: nothing; a part that breaks its contract is caught where it is used.
Not here: implementations. Defaults are wired by `assembly.py`; a fake of each ships in `testing.py`.

To extend, pass an object: `SpiceAdapterJob(corpus=..., parts=...)` or `job.with_(verifier=Mine())`. There are no entry
points and no dotted paths in YAML: code named by a config string is an injection surface.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from spice_enterprise.records import (
    AdapterVersion,
    Admission,
    Alert,
    Alias,
    AuditEvent,
    CheckResult,
    Chunk,
    Completion,
    Document,
    Exam,
    FileDigest,
    GateReport,
    JsonValue,
    Promotion,
    Prompt,
    Rejection,
    RolloutGroup,
    Span,
    Step,
    Task,
)


class Source(Protocol):
    """A place documents come from."""

    def documents(self) -> Iterator[Document | Rejection]:
        """List in a fixed order, streamed. Each file is opened once and hashed, and that copy is held until the next is yielded.

        A file that may not be read (link, device, too large, a bad archive) is a `Rejection`.
        """
        ...

    def read(self, document: Document) -> bytes:
        """Return the bytes that `document.keyed_digest` was taken of: the held copy of the document just yielded.

        Any other document is opened again. Raises `SourceError` `E_IO` if it changed or went away.
        """
        ...


class Detector(Protocol):
    """Finds personal data in text."""

    def detect(self, text: str) -> list[Span]:
        """Return spans with `0 <= start < end <= len(text)`; order and overlap are free."""
        ...


BASE_DIGEST: Final = "base"
"""What a sampler says it serves when it serves no adapter."""


class Sampler(Protocol):
    """Writes and scores completions, and proves which adapter did it."""

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        """Return `n` completions per prompt, in order.

        Completion `j` of prompt `i` depends only on the prompt and on (seed, i, j), not on what is sampled beside it.
        """
        ...

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the mean log-probability (nats per token) of each continuation after its prompt."""
        ...

    def publish(self, version: AdapterVersion | None) -> None:
        """Serve `version` from now on; `None` is the bare base. Raises `DeliveryError` when its files do not match its digest."""
        ...

    @property
    def adapter_digest(self) -> str:
        """The digest of what is being served; `base` when it is the bare base."""
        ...


class CompletionStream(Protocol):
    """Groups of completions in flight: they begin when they are put and come back as they finish, in any order."""

    def put(self, key: str, prompt: Prompt, *, n: int, seed: int) -> None:
        """Begin a group. Its completions are those of `sample([prompt], n=n, seed=seed)[0]`, whatever else is in flight.

        Raises `ValueError` when `key` is in flight already.
        """
        ...

    def take(self) -> list[tuple[str, list[Completion]]]:
        """Wait until at least one group is finished and return all that are; empty when nothing is in flight."""
        ...


class StreamingSampler(Sampler, Protocol):
    """A sampler whose groups need not wait for each other. Optional: a plain one is asked group by group."""

    def stream(self) -> AbstractContextManager[CompletionStream]:
        """Open a stream; leaving it drops what is still in flight. What is served must not change while it is open."""
        ...


@runtime_checkable
class ParkingSampler(Sampler, Protocol):
    """A sampler that can give memory back while the learner works. Optional."""

    def park(self) -> None:
        """Give back what can be made again. Nothing may be in flight."""
        ...

    def unpark(self) -> None:
        """Take it again, before the next sample, score or publish."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryProof:
    """What a fixed set of texts showed when a version was published. The numbers depend on the version and the base alone."""

    adapter_digest: str
    gap_nats: float
    """Mean |sampler - learner| over the texts."""
    limit_nats: float
    moved_nats: float
    """Root mean square of the learner's move from the bare base."""
    followed: float | None
    """Slope of the sampler's move on the learner's; None while the move is too small to judge."""


@runtime_checkable
class ProvingSampler(Sampler, Protocol):
    """A sampler that shows, at each `publish`, that the version arrived. Optional: its proofs go into the audit log."""

    @property
    def proof(self) -> DeliveryProof | None:
        """Of the version being served; None before the first."""
        ...


class Verifier(Protocol):
    """Grades an answer against a task's reference answer."""

    def grade(self, task: Task, answer: str) -> bool:
        """True when `answer` is right. Must not raise; unreadable means wrong."""
        ...


VERIFIER_FAILURES: Final = ("verifier_raised", "verifier_timeout", "verifier_not_bool", "verifier_memory", "verifier_died")
"""Codes of a `Grade` that a verifier gave no verdict for (`selfplay.grading` says when)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """The verdict on one answer."""

    is_correct: bool
    code: str = ""
    """Why it could not be graded: one of `VERIFIER_FAILURES`, or `no_answer`; then it counts as wrong."""


class Grader(Protocol):
    """Grades all answers to a task; one that cannot be graded is a value and does not end the others."""

    def grade_all(self, task: Task, answers: Sequence[str]) -> tuple[Grade, ...]:
        """Return one grade per answer, in order. Raises `SpiceError` only where nothing can be graded any more."""
        ...


class Trainer(Protocol):
    """Learns from groups of rollouts."""

    def start(self, standing: Sequence[AdapterVersion] = ()) -> AdapterVersion:
        """Return the version training begins from, its weights and optimiser state exactly as they were saved.

        That is the first of `standing` whose files verify; without any the newest saved one, or version 0 freshly saved.
        Raises `IntegrityError` E_STATE_CORRUPT when there is something saved and none of it will do.
        """
        ...

    def update(self, groups: Sequence[RolloutGroup], *, number: int) -> Step:
        """Make one optimiser step. A non-finite loss or gradient withholds the update and says so in the record.

        Raises `StaleRolloutError` when a rollout was made by another adapter than the current one, or, where the config
        allows one step of staleness, than the current one's parent.
        """
        ...

    def save(self, step: Step) -> AdapterVersion:
        """Write the adapter and the learner state of `step`, crash-safe."""
        ...

    def restore(self, version: AdapterVersion) -> None:
        """Go back to `version`: weights and optimiser state. Raises `IntegrityError` on a wrong digest."""
        ...


class Monitor(Protocol):
    """Watches a run. One that judges over several steps must be a `StatefulMonitor`, or it forgets at a restart."""

    def check(self, step: Step, groups: Sequence[RolloutGroup]) -> list[Alert]:
        """Return what is wrong with this step; an empty list when nothing is. Must not raise."""
        ...


@runtime_checkable
class StatefulMonitor(Monitor, Protocol):
    """A monitor that remembers steps; what it remembers is saved with every finished step."""

    def state(self) -> JsonValue:
        """Return what is remembered, as JSON."""
        ...

    def load(self, state: JsonValue) -> None:
        """Remember exactly this instead."""
        ...


@runtime_checkable
class MeasureMonitor(Monitor, Protocol):
    """A monitor that also judges what the probe measures. Optional."""

    def check_measured(self, step: Step, measured: Mapping[str, float]) -> list[Alert]:
        """Return what is wrong with what was measured at `step`. Must not raise."""
        ...


class Probe(Protocol):
    """Measures the standing version from time to time, without a part in what is learned."""

    def is_due(self, step: int) -> bool:
        """True when the version that stands before `step` is to be measured."""
        ...

    def measure(self, version: AdapterVersion, played: "Played", *, step: int) -> dict[str, float]:
        """Return finite numbers by name (`probe/...`); `heldout` and `heldout_se` become the step's own.

        `version` is being served; `played` is what it is about to learn from. Depends only on the arguments. Raises
        `DeliveryError` when another version answers.
        """
        ...


class Check(Protocol):
    """One measurement of the gate."""

    def run(self, version: AdapterVersion, exam: Exam) -> list[CheckResult]:
        """Measure `version` on questions frozen before training."""
        ...


class AuditSink(Protocol):
    """Takes one record for every arrow of the road."""

    def append(self, event: AuditEvent) -> str:
        """Write durably before returning; return the leaf hash (`sha256:<hex>`) of the record."""
        ...


@runtime_checkable
class RecallingAuditSink(AuditSink, Protocol):
    """A sink that can tell what it holds, so that a step which is made again after a crash is not logged twice. Optional."""

    def head(self) -> tuple[int, str]:
        """Return how many records there are, and a digest over all of them."""
        ...

    def since(self, size: int, root: str) -> Container[AuditEvent]:
        """Return the events after the head (`size`, `root`), to be asked with `in`; all of them when `size` is 0.

        Raises `IntegrityError` E_AUDIT_CHAIN when the log does not continue that head.
        """
        ...


OnMove = Callable[[Promotion], str]
"""Writes the audit record of a pointer move before it takes effect and returns the record's leaf hash."""


class Window(Protocol):
    """Shows a run to people (MLflow). Never the witness: it may be down, and nothing is decided from it."""

    def start(self, params: Mapping[str, str]) -> None:
        """Open or reopen the run with its parameters (ids, digests, numbers)."""
        ...

    def log_step(self, step: Step, extra: Mapping[str, float]) -> None:
        """Show one step's metrics."""
        ...

    def log_gate(self, report: GateReport) -> None:
        """Show the verdict and each check's numbers."""
        ...

    def log_artifacts(self, paths: Sequence[tuple[Path, str]]) -> None:
        """Copy files into the run: (file or directory, artifact folder)."""
        ...

    def register(self, version: AdapterVersion, folder: Path, alias: str) -> None:
        """Register the adapter in `folder` as a model version, and point `alias` at it."""
        ...

    def finish(self, status: str) -> None:
        """Close the run: `FINISHED`, `FAILED` or `KILLED`."""
        ...


class Registry(Protocol):
    """Knows which digest each alias names."""

    def current(self, alias: Alias) -> Promotion | None:
        """Return the alias's last pointer move, or None. Raises `IntegrityError` on a bad pointer."""
        ...

    def promote(self, version: AdapterVersion, report: GateReport, alias: Alias, *, record: OnMove) -> Promotion:
        """Point `alias` at `version`. Once nothing can refuse it any more, `record` logs the move, then it is made.

        Raises `GateNotPassedError` unless `report` is a PASS for exactly this digest; `AliasMovedError` on a lost race.
        """
        ...

    def rollback(self, alias: Alias, *, record: OnMove) -> Promotion:
        """Point `alias` back at what its last promotion replaced. Raises `NoSafeVersionError` when there is nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of live progress. Numbers, ids and closed words only."""

    stage: str
    message: str
    done: int = 0
    total: int = 0
    numbers: tuple[tuple[str, float], ...] = ()


OnProgress = Callable[[Progress], None]


class Ingestor(Protocol):
    """The corpus stage as one call."""

    def ingest(self, source: Source, on_progress: OnProgress) -> "Corpus":
        """Read, scrub, cut and split. Raises `CorpusError` when nothing usable is left."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What ingestion made: documents, chunks, rejections and counts per kind of removed value."""

    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]
    rejections: tuple[Rejection, ...]
    removed: tuple[tuple[str, int], ...]
    """(entity, number of values removed), sorted by entity."""
    residual_findings: int
    """Detectable values still readable in the chunks, counted by scanning them again; must be 0."""
    pii_policy_digest: str
    ner_model: str
    """Name and digest of the NER model that ran."""
    isolation: str
    """The isolation level the parser child obtained."""
    digest: str
    """Over all chunk ids and their splits, in order."""
    hidden: tuple[tuple[str, int], ...] = ()
    """(kind, characters) of invisible text that was dropped."""
    dropped_chunks: tuple[tuple[str, int], ...] = ()
    """(reason, chunks) that were repeated or no prose."""

    @property
    def train(self) -> tuple[Chunk, ...]:
        """Chunks that training may see."""
        return tuple(c for c in self.chunks if c.split == "train")

    @property
    def unseen(self) -> tuple[Chunk, ...]:
        """Chunks of documents that training never sees."""
        return tuple(c for c in self.chunks if c.split == "unseen")

    @property
    def exam(self) -> tuple[Chunk, ...]:
        """Chunks that the exam may ask transfer questions about: those kept for it alone, else the unseen ones."""
        return tuple(c for c in self.chunks if c.split == "exam") or self.unseen


Counts = tuple[tuple[str, int], ...]
"""(name, number) pairs, sorted by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a folder of corpus files holds and what made it."""

    schema: str
    corpus_digest: str
    """Over all chunk ids and their splits, in order."""
    pii_policy_digest: str
    ner_model: str
    isolation: str
    pipeline_digest: str
    """Over every setting, version and digest that decided the result; the key is in it by a fingerprint."""
    documents: int
    chunks: int
    pages: int
    size_bytes: int
    splits: Counts
    """Chunks by split."""
    split_documents: Counts
    """Documents by split."""
    rejected: Counts
    """Files left out, by code."""
    dropped_chunks: Counts
    """Chunks left out, by reason."""
    removed: Counts
    """Values removed, by kind."""
    hidden: Counts
    """Characters of invisible text dropped, by kind."""
    flags: Counts
    """Documents with something odd, by code."""
    languages: Counts
    files: tuple[FileDigest, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What playing some chunks gave: the groups to train on, and every task and rollout behind them."""

    groups: tuple[RolloutGroup, ...]
    tasks: tuple[Task, ...]
    rollouts: tuple["PlayedRollout", ...]
    admissions: tuple[Admission, ...] = ()
    """One verdict per proposal that could be read."""
    replayed: tuple[Task, ...] = ()
    """Tasks of earlier steps that were attempted again; their groups are among `rollouts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedRollout:
    """A group made while playing, and whether the learner gets it."""

    group: RolloutGroup
    is_trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What one play cost, by phase: `challenger`, `admission`, `reasoner`, `grading`. Facts of the moment, never a record."""

    seconds: tuple[tuple[str, float], ...]
    """Time of a shared forward pass is split by the rows in it."""
    tokens: tuple[tuple[str, int], ...]
    """New tokens that were drawn, by phase."""


@runtime_checkable
class MeteringPlayer(Protocol):
    """A player that knows what its last play cost. Optional."""

    @property
    def effort(self) -> Effort | None:
        """Of the last finished play; None before the first."""
        ...


class Embedder(Protocol):
    """Turns short texts into vectors, so that near-copies of a question are found."""

    def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """Return one vector of length 1 per text, all of the same size. The same text gives the same vector, always."""
        ...


class Player(Protocol):
    """The self-play stage as one call."""

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Play each chunk once with both roles. Depends only on its arguments and the run's seed."""
        ...


@runtime_checkable
class RememberingPlayer(Player, Protocol):
    """A player that knows what was asked before. Optional. What it remembers is kept in the run's state as strings."""

    def entries(self, played: Played, *, step: int) -> tuple[str, ...]:
        """Return what is to be remembered of a play."""
        ...

    def remember(self, entries: Sequence[str]) -> None:
        """Take these entries, of all plays before, as everything that is remembered."""
        ...


class Examiner(Protocol):
    """Sets the exam before training."""

    def set_exam(self, corpus: Corpus) -> Exam:
        """Freeze questions made from verbatim facts. Raises `ReleaseError` when there are none."""
        ...


class Judge(Protocol):
    """Runs every check and applies the gate policy."""

    def judge(self, version: AdapterVersion, exam: Exam, alerts: Sequence[Alert], on_progress: OnProgress) -> GateReport:
        """Return PASS, FAIL or INCONCLUSIVE with the reasons."""
        ...


class KeyProvider(Protocol):
    """Wraps the keys of documents: a key service of the company (KMS, HSM), or a key that this process holds."""

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return `dek` encrypted and bound to `aad`."""
        ...

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return what `wrap` was given. Raises `CorpusError` E_VAULT_KEY for other bytes, another key or another `aad`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One field per seam; `None` means the default that `assembly.py` builds from the config when it is first needed."""

    source: Source | None = None
    detector: Detector | None = None
    keys: KeyProvider | None = None
    ingestor: Ingestor | None = None
    player: Player | None = None
    sampler: Sampler | None = None
    base_sampler: Sampler | None = None
    challenger_sampler: Sampler | None = None
    """Who proposes, where that is not the model in training (`selfplay.challenger: frozen`)."""
    embedder: Embedder | None = None
    verifier: Verifier | None = None
    trainer: Trainer | None = None
    monitors: tuple[Monitor, ...] | None = None
    probe: Probe | None = None
    examiner: Examiner | None = None
    checks: tuple[Check, ...] | None = None
    judge: Judge | None = None
    audit: AuditSink | None = None
    window: Window | None = None
    registry: Registry | None = None
