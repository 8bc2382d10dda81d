"""A deterministic fake of every seam, without torch, files or network: for our tests and for users' own.

In: plain Python values and small functions.
Out: objects that keep the contracts of `protocols.py`.
Refuses: what the contract says must be refused, so that a test of the refusal means something.
Not here: the real parts.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import fmean

from spice_enterprise import seeding
from spice_enterprise.errors import (
    DeliveryError,
    GateNotPassedError,
    NoSafeVersionError,
    SourceError,
    StaleRolloutError,
)
from spice_enterprise.protocols import Corpus, Grade, OnMove, OnProgress, Played, PlayedRollout, Progress, Source, Verifier
from spice_enterprise.records import (
    AdapterVersion,
    Alert,
    Alias,
    AuditEvent,
    CheckResult,
    Chunk,
    Completion,
    Document,
    Exam,
    ExamItem,
    GateReport,
    Outcome,
    Promotion,
    Prompt,
    Rejection,
    Role,
    Rollout,
    RolloutGroup,
    Span,
    Step,
    Task,
    canonical_json,
    decode,
    digest_of,
)

KEY = b"a key for tests only, never for data"
Script = Callable[[Prompt, Random], str]
Finish = Callable[[Sequence[str]], Sequence[str]]


class MemorySource:
    """Documents from a mapping of name to bytes."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def documents(self) -> Iterator[Document | Rejection]:
        """List by name; empty files are rejected."""
        for name in sorted(self.files):
            data = self.files[name]
            if not data:
                yield Rejection(uri=name, code="E_EMPTY", reason="the file is empty")
                continue
            digest = hmac.new(KEY, data, hashlib.sha256).hexdigest()
            yield Document(uri=name, media_type="text/plain", keyed_digest=digest, size_bytes=len(data))

    def read(self, document: Document) -> bytes:
        """Return the bytes, or refuse when they changed since the listing."""
        data = self.files.get(document.uri, b"")
        if hmac.new(KEY, data, hashlib.sha256).hexdigest() != document.keyed_digest:
            raise SourceError("the file changed since it was listed", record_id=document.document_id)
        return data


class WordDetector:
    """Finds given words, each of one kind."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self.words = dict(words)

    def detect(self, text: str) -> list[Span]:
        """Return a span for every occurrence of every word."""
        spans = []
        for word, entity in self.words.items():
            start = text.find(word)
            while start >= 0:
                spans.append(Span(start=start, end=start + len(word), entity=entity, score=1.0, detector="word"))
                start = text.find(word, start + 1)
        return spans


class LineIngestor:
    """One chunk per line of every text file; the last fifth of the documents (at least one) is `unseen`.

    It removes nothing: give it invented text only.
    """

    def ingest(self, source: Source, on_progress: OnProgress) -> Corpus:
        """Return the corpus."""
        found = list(source.documents())
        documents = [item for item in found if isinstance(item, Document)]
        unseen = {d.document_id for d in documents[-max(1, len(documents) // 5) :]}
        chunks: list[Chunk] = []
        for document in documents:
            for index, line in enumerate(source.read(document).decode().splitlines()):
                chunks.append(_chunk(document, index, line, is_unseen=document.document_id in unseen))
            on_progress(Progress(stage="corpus", message="document", done=1, total=len(documents)))
        return Corpus(
            documents=tuple(documents),
            chunks=tuple(chunks),
            rejections=tuple(item for item in found if isinstance(item, Rejection)),
            removed=(),
            residual_findings=0,
            pii_policy_digest=digest_of("none"),
            ner_model="none",
            isolation="none",
            digest=digest_of([chunk.chunk_id for chunk in chunks]),
        )


def _chunk(document: Document, index: int, line: str, *, is_unseen: bool) -> Chunk:
    # decoded, not constructed: only `corpus/scrub.py` may call text scrubbed
    data = {
        "document_id": document.document_id,
        "index": index,
        "text": line,
        "redactions": [],
        "split": "unseen" if is_unseen else "train",
        "pii_policy_digest": digest_of("none"),
        "token_count": len(line.split()),
    }
    return decode(Chunk, data)


class ScriptedSampler:
    """Answers from a script; a token is one UTF-8 byte, every log-probability is -0.5."""

    def __init__(self, script: Script, *, is_base: bool = False) -> None:
        self.script = script
        self.calls = 0
        self._is_base = is_base
        self._digest = "base"

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        """Ask the script `n` times per prompt, each time with its own generator."""
        self.calls += 1
        return [
            [self._complete(prompt, seeding.stream(seed, prompt.template_id, i, j)) for j in range(n)]
            for i, prompt in enumerate(prompts)
        ]

    def _complete(self, prompt: Prompt, random: Random) -> Completion:
        text = self.script(prompt, random)
        tokens = tuple(text.encode()) or (0,)
        return Completion(
            prompt_token_ids=tuple("".join(m.content for m in prompt.messages).encode()),
            token_ids=tokens,
            logprobs=(-0.5,) * len(tokens),
            text=text,
            stop_reason="stop",
            adapter_digest=self._digest,
        )

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Score a continuation 0 when it is what the script would answer, else -1."""
        return [
            [0.0 if option.strip() == self.script(prompt, seeding.stream(0)).strip() else -1.0 for option in options]
            for prompt, options in zip(prompts, continuations, strict=True)
        ]

    def publish(self, version: AdapterVersion | None) -> None:
        """Serve a version; the base sampler refuses one."""
        if self._is_base and version is not None:
            raise DeliveryError("this sampler serves the bare base only")
        self._digest = version.digest if version else "base"

    @property
    def adapter_digest(self) -> str:
        """What is served."""
        return self._digest


class StreamingScriptedSampler(ScriptedSampler):
    """A scripted sampler whose groups finish when `finish` says so: given the keys in flight, it returns those that end.

    `events` has ("put", key) and ("finished", key) as they came. Without `finish` the oldest group ends first.
    """

    def __init__(self, script: Script, *, finish: Finish | None = None) -> None:
        super().__init__(script)
        self.events: list[tuple[str, str]] = []
        self._finish = finish or (lambda keys: keys[:1])

    @contextmanager
    def stream(self) -> Iterator["ScriptedStream"]:
        """Open a stream; leaving it drops what is in flight."""
        yield ScriptedStream(self, self._finish, self.events)


class ScriptedStream:
    """The stream of a `StreamingScriptedSampler`."""

    def __init__(self, sampler: ScriptedSampler, finish: Finish, events: list[tuple[str, str]]) -> None:
        self._sampler, self._finish, self._events = sampler, finish, events
        self._flying: dict[str, tuple[Prompt, int, int]] = {}

    def put(self, key: str, prompt: Prompt, *, n: int, seed: int) -> None:
        """Begin a group."""
        if key in self._flying:
            raise ValueError("a group with this key is in flight already")
        self._events.append(("put", key))
        self._flying[key] = (prompt, n, seed)

    def take(self) -> list[tuple[str, list[Completion]]]:
        """Return the groups that `finish` names."""
        finished = []
        for key in self._finish(list(self._flying)) if self._flying else ():
            prompt, n, seed = self._flying.pop(key)
            self._events.append(("finished", key))
            finished.append((key, self._sampler.sample([prompt], n=n, seed=seed)[0]))
        return finished


class ExactVerifier:
    """Right when the answer equals the reference after trimming and case."""

    def grade(self, task: Task, answer: str) -> bool:
        """Compare."""
        return bool(answer.strip()) and answer.strip().casefold() == task.answer.strip().casefold()


class DirectGrader:
    """Grades in this process, without a time limit."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def grade_all(self, task: Task, answers: Sequence[str]) -> tuple[Grade, ...]:
        """Grade one after another."""
        return tuple(Grade(is_correct=self._verifier.grade(task, answer), code="") for answer in answers)


class FakePlayer:
    """Plays each chunk the same way: one valid and one unparsable proposal, one right and one wrong answer.

    `texts` overrides what the reasoner's first answer says at given steps, e.g. to plant a leak.
    """

    def __init__(self, *, texts: Mapping[int, str] | None = None) -> None:
        self._texts = dict(texts or {})
        self.played: list[tuple[int, tuple[str, ...]]] = []

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Return two groups and one task per chunk."""
        self.played.append((step, tuple(chunk.chunk_id for chunk in chunks)))
        groups: list[RolloutGroup] = []
        tasks: list[Task] = []
        for chunk in chunks:
            proposals = _group(chunk.chunk_id, version, step, (("What is it?", "valid", 1.0), ("???", "unparsable", -0.1)))
            task = _task(chunk, proposals.rollouts[0].rollout_id)
            said = self._texts.get(step, "it")
            answers = _group(task.task_id, version, step, ((said, "correct", 1.0), ("no", "wrong", 0.0)), role="reasoner")
            groups += [proposals, answers]
            tasks.append(task)
        rollouts = tuple(PlayedRollout(group=group, is_trained=True) for group in groups)
        return Played(groups=tuple(groups), tasks=tuple(tasks), rollouts=rollouts)


def _task(chunk: Chunk, rollout_id: str) -> Task:
    return Task(
        chunk_id=chunk.chunk_id,
        rollout_id=rollout_id,
        question="What is it?",
        answer="it",
        answer_kind="text",
        task_format="free_form",
        regime="open_book",
    )


def _group(
    parent_id: str,
    version: AdapterVersion,
    step: int,
    plays: Sequence[tuple[str, Outcome, float]],
    role: Role = "challenger",
) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            role=role,
            parent_id=parent_id,
            adapter_id=version.adapter_id,
            adapter_digest=version.digest,
            template_id=f"fake.{role}.v1",
            step=step,
            index=index,
            token_ids=tuple(text.encode()),
            logprobs=(-0.5,) * len(text.encode()),
            text=text,
            stop_reason="stop",
            outcome=outcome,
            reason="",
            reward=reward,
        )
        for index, (text, outcome, reward) in enumerate(plays)
    )
    return RolloutGroup(role=role, parent_id=parent_id, prompt_token_ids=(1, 2, 3), rollouts=rollouts)


class FixedExaminer:
    """Asks one question about every unseen chunk: what its last word is."""

    def set_exam(self, corpus: Corpus) -> Exam:
        """Freeze the questions."""
        items = tuple(
            ExamItem(
                document_id=chunk.document_id,
                chunk_id=chunk.chunk_id,
                claim="transfer",
                item_format="cloze",
                passage=chunk.text,
                question="What is the last word?",
                answer=chunk.text.split()[-1],
                answer_kind="text",
            )
            for chunk in corpus.unseen
        )
        return Exam(items=items, settings_digest=digest_of("fixed"), corpus_digest=corpus.digest)


class FakeTrainer:
    """Keeps the books of a learner without learning: a version's digest is made of its step and parent.

    `losses` overrides the loss of given steps, e.g. `{3: float("nan")}`. With `max_staleness` 1 it takes rollouts of the
    current version's parent too.
    """

    def __init__(
        self, *, losses: Mapping[int, float] | None = None, kls: Mapping[int, float] | None = None, max_staleness: int = 0
    ) -> None:
        self._losses = dict(losses or {})
        self._kls = dict(kls or {})
        self._max_staleness = max_staleness
        self.current = self._version(None, None)
        self.restored: list[str] = []

    def _version(self, parent: AdapterVersion | None, step: Step | None) -> AdapterVersion:
        return AdapterVersion(
            role="shared",
            parent_adapter_id=parent.adapter_id if parent else None,
            step_id=step.step_id if step else None,
            step=step.number if step else 0,
            base_model="fake",
            base_digest=digest_of("fake base"),
            corpus_digest=digest_of("fake corpus"),
            config_digest=digest_of("fake config"),
            manifest=(),
            digest=digest_of([parent.digest if parent else "", step.step_id if step else ""]),
        )

    def start(self, standing: Sequence[AdapterVersion] = ()) -> AdapterVersion:
        """Stand at the first of `standing`, else at a version 0; after a run that is another one, as if of another seed."""
        if standing:
            self.current = standing[0]
        elif self.current.step_id is not None:
            self.current = replace(self._version(None, None), digest=digest_of([self.current.digest]))
        return self.current

    def update(self, groups: Sequence[RolloutGroup], *, number: int) -> Step:
        """Record the rewards; refuse rollouts of another adapter, but for examples."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        staleness = self._staleness([r for group in groups if group.objective == "policy" for r in group.rollouts])
        rewards = [rollout.reward for rollout in rollouts]
        loss = self._losses.get(number, 0.1)
        proposals = [r for r in rollouts if r.role == "challenger"]
        return Step(
            number=number,
            adapter_id=self.current.adapter_id,
            rollout_ids=tuple(rollout.rollout_id for rollout in rollouts),
            is_applied=bool(rollouts) and loss == loss,
            reward_mean=_mean(rewards),
            reward_std=0.1 if len(set(rewards)) > 1 else 0.0,
            challenger_reward_mean=_mean([r.reward for r in proposals]),
            reasoner_reward_mean=_mean([r.reward for r in rollouts if r.role == "reasoner"]),
            frac_zero_std=_mean([float(len({r.reward for r in g.rollouts}) == 1) for g in groups]),
            loss=loss,
            grad_norm=loss,
            kl_nats_per_token=self._kls.get(number, 0.0),
            entropy_nats_per_token=1.0,
            length_mean_tokens=_mean([float(len(r.token_ids)) for r in rollouts]),
            invalid_rate=_mean([float(r.outcome != "valid") for r in proposals]),
            trained_tokens=sum(len(r.token_ids) for r in rollouts),
            staleness=staleness,
            objective=groups[0].objective if groups else "policy",
        )

    def _staleness(self, rollouts: Sequence[Rollout]) -> int:
        """Return how many versions the rollouts are behind; refuse mixed and older ones."""
        if {rollout.adapter_digest for rollout in rollouts} <= {self.current.digest}:
            return 0
        if self._max_staleness and {rollout.adapter_id for rollout in rollouts} == {self.current.parent_adapter_id}:
            return 1
        raise StaleRolloutError("a rollout was made by another adapter", record_id=self.current.adapter_id)

    def save(self, step: Step) -> AdapterVersion:
        """Return the version that `step` made, or the current one when nothing was applied."""
        if step.is_applied:
            self.current = self._version(self.current, step)
        return self.current

    def restore(self, version: AdapterVersion) -> None:
        """Stand at `version` again."""
        self.restored.append(version.adapter_id)
        self.current = version


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


class StepMonitor:
    """Raises a critical alert at given steps."""

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = frozenset(steps)

    def check(self, step: Step, groups: Sequence[RolloutGroup]) -> list[Alert]:
        """Return an alert when it is time."""
        if step.number not in self._steps:
            return []
        alert = Alert(
            step_id=step.step_id,
            step=step.number,
            monitor="step_monitor",
            value=float(len(groups)),
            limit=0.0,
            severity="critical",
            action="restore",
            reason="asked to",
        )
        return [alert]


class FixedCheck:
    """Returns the results it was given."""

    def __init__(self, results: Sequence[CheckResult]) -> None:
        self._results = list(results)

    def run(self, version: AdapterVersion, exam: Exam) -> list[CheckResult]:
        """Return them."""
        return list(self._results)


class FixedJudge:
    """Returns the verdict it was given."""

    def __init__(self, verdict: str, *, policy_digest: str = "sha256:fixed") -> None:
        self._verdict = verdict
        self._policy_digest = policy_digest

    def judge(self, version: AdapterVersion, exam: Exam, alerts: Sequence[Alert], on_progress: OnProgress) -> GateReport:
        """Return a report with the fixed verdict, which an open alert turns into FAIL."""
        on_progress(Progress(stage="gate", message="judged"))
        data = {
            "adapter_id": version.adapter_id,
            "adapter_digest": version.digest,
            "policy_digest": self._policy_digest,
            "exam_digest": exam.digest,
            "primary": "fixed",
            "results": [],
            "verdict": "FAIL" if alerts else self._verdict,
            "reasons": [],
        }
        return decode(GateReport, data)


@dataclass
class MemoryAudit:
    """Keeps events in a list; the leaf is a digest of the event."""

    events: list[AuditEvent] = field(default_factory=list)

    def append(self, event: AuditEvent) -> str:
        """Keep the event."""
        self.events.append(event)
        return digest_of(event)

    def head(self) -> tuple[int, str]:
        """Return the number of events and a digest of them."""
        return len(self.events), digest_of(self.events)

    def since(self, size: int, root: str) -> list[AuditEvent]:
        """Return the later events; a list in memory has no past that could be checked."""
        return self.events[size:]

    def names(self) -> Counter[str]:
        """Return how often each event happened."""
        return Counter(event.event for event in self.events)


class MemoryRegistry:
    """Pointers in memory, with the same refusals as the real one."""

    def __init__(self) -> None:
        self._moves: dict[str, list[Promotion]] = {}

    def current(self, alias: Alias) -> Promotion | None:
        """Return the last move."""
        moves = self._moves.get(alias, [])
        return moves[-1] if moves else None

    def promote(self, version: AdapterVersion, report: GateReport, alias: Alias, *, record: OnMove) -> Promotion:
        """Move the pointer on a PASS for this digest."""
        if report.verdict != "PASS" or report.adapter_digest != version.digest:
            raise GateNotPassedError("no PASS for this digest", record_id=version.adapter_id, hint="run the gate")
        return self._move(self._next(alias, version.adapter_id, version.digest, report.gate_id), record)

    def rollback(self, alias: Alias, *, record: OnMove) -> Promotion:
        """Move the pointer back."""
        moves = self._moves.get(alias, [])
        earlier = [m for m in moves if m.adapter_digest != moves[-1].adapter_digest]
        if not earlier:
            raise NoSafeVersionError(f"{alias} has never named another version", hint="nothing to go back to")
        target = earlier[-1]
        back = self._next(alias, target.adapter_id, target.adapter_digest, target.gate_id)
        return self._move(replace(back, kind="rollback"), record)

    def _next(self, alias: Alias, adapter_id: str, digest: str, gate_id: str) -> Promotion:
        before = self.current(alias)
        return Promotion(
            gate_id=gate_id,
            adapter_id=adapter_id,
            adapter_digest=digest,
            alias=alias,
            generation=before.generation + 1 if before else 1,
            replaces=before.adapter_digest if before else None,
            kind="promote",
        )

    def _move(self, promotion: Promotion, record: OnMove) -> Promotion:
        record(promotion)
        self._moves.setdefault(promotion.alias, []).append(promotion)
        return promotion


@dataclass
class MemoryWindow:
    """Remembers what it was shown. With `is_down` it accepts everything and shows nothing, as MLflow's mirror does."""

    is_down: bool = False
    shown: list[tuple[str, bytes]] = field(default_factory=list)

    def _show(self, what: str, value: object) -> None:
        if not self.is_down:
            self.shown.append((what, canonical_json(value)))

    def start(self, params: Mapping[str, str]) -> None:
        """Remember the parameters."""
        self._show("start", params)

    def log_step(self, step: Step, extra: Mapping[str, float]) -> None:
        """Remember the metrics."""
        self._show("step", {**step.metrics(), **extra})

    def log_gate(self, report: GateReport) -> None:
        """Remember the report."""
        self._show("gate", report)

    def log_artifacts(self, paths: Sequence[tuple[Path, str]]) -> None:
        """Remember the folders, not the files."""
        self._show("artifacts", [folder for _, folder in paths])

    def register(self, version: AdapterVersion, folder: Path, alias: str) -> None:
        """Remember the version."""
        self._show("register", [version.adapter_id, folder.name, alias])

    def finish(self, status: str) -> None:
        """Remember how it ended."""
        self._show("finish", status)
