"""Cross-play: versions of one finished run as Challenger and Reasoner of each other, on documents that training never saw.

In: the config of a run that kept adapters; how many versions, chunks, proposals and answers.
Out: a `CrossPlay`: per version the pass rate of (a) the anchor on its questions and (b) it on the anchor's questions, the
    frozen base's open-book rate on its questions, and its valid proposals, with intervals over documents.
Refuses: a run without kept adapters (E_NO_CHECKPOINTS) or unseen chunks (E_NO_UNSEEN), another config than the run's.
Not here: how a proposal is made and admitted (`selfplay/`), what is shown (`crossplay_page.py`).

As in the paper the anchor stands at 30 % of self-play and is both times the first point. A Challenger that got better makes
(a) fall; so does one whose reference answers got wrong, which the open-book rate tells apart: it is drawn anew, apart from
the votes of admission, since every admitted question has passed those. Every version proposes with the same draws and spans.
What was proposed and answered is kept in the run's directory, so nothing is asked twice.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from spice_enterprise import durable
from spice_enterprise.assembly import Assembly
from spice_enterprise.comparison import LEVEL, Estimate, difference_of
from spice_enterprise.config import JobConfig, SelfplayConfig
from spice_enterprise.crossplay_table import Answers, Proposed, Shelf, Table
from spice_enterprise.errors import EXIT_USAGE, ConfigError, CorpusError, StoreError
from spice_enterprise.measuring import opened
from spice_enterprise.protocols import Corpus, OnProgress, Parts, Progress
from spice_enterprise.records import (
    AdapterVersion,
    AuditEvent,
    Chunk,
    NamedDigest,
    canonical_json,
    digest_of,
)
from spice_enterprise.release.statistics import paired_cluster_interval
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.challenger import is_askable
from spice_enterprise.selfplay.episode import SelfplayStage
from spice_enterprise.store import RunStore

ANCHOR_SHARE: Final = 0.3
"""Where in self-play the anchor stands."""
DRAWS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is played."""

    checkpoints: int = 5
    chunks: int = 64
    attempts: int = 8
    """Proposals for each chunk by each version."""
    answers: int = 8
    """Answers to each question by each version, and by the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One version of the run. Shares are means over documents; a change is to the anchor, over the documents of both."""

    step: int
    adapter_id: str
    adapter_digest: str
    questions: int
    documents: int
    """Of its questions."""
    readable: Estimate
    """Of its proposals."""
    admitted: Estimate
    admitted_change: Estimate | None
    asked: Estimate | None
    """(a) How often the anchor answers this version's questions right; None without a question."""
    asked_change: Estimate | None
    answered: Estimate | None
    """(b) How often this version answers the anchor's questions right."""
    answered_change: Estimate | None
    open_book: Estimate | None
    """How often the frozen base with the passage answers this version's questions right."""
    open_book_change: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossPlay:
    """Every version, the anchor first."""

    run: str
    sizes: Sizes
    chunks: int
    """Chunks that were there to be asked about, at most those asked for."""
    documents: int
    corpus_digest: str
    checkpoints: tuple[Checkpoint, ...]


# --- which versions and chunks ----------------------------------------------------------------------------------------


def choose_checkpoints(kept: Sequence[AdapterVersion], count: int, *, warmup_steps: int = 0) -> tuple[AdapterVersion, ...]:
    """Return the anchor, nearest to 30 % of self-play, and later versions evenly spread up to the last.

    Versions from within a warm-up are none of self-play; the one that stood after it is the earliest.
    Raises `ConfigError` E_NO_CHECKPOINTS when there are fewer than two.
    """
    played = (version for version in kept if version.step >= warmup_steps)
    versions = sorted(played, key=lambda version: version.step)
    if len(versions) < 2:
        raise ConfigError(
            f"{len(versions)} version(s) of this run's self-play are still there; crossplay needs two or more",
            code="E_NO_CHECKPOINTS",
            hint="set training.keep_adapters_every (such as 10) and train under another --name",
        )
    wanted = warmup_steps + ANCHOR_SHARE * (versions[-1].step - warmup_steps)
    anchor = min(range(len(versions) - 1), key=lambda i: abs(versions[i].step - wanted))
    later = versions[anchor + 1 :]
    most = min(count - 1, len(later))
    places = [round((i + 1) * len(later) / most) - 1 for i in range(most)]
    return (versions[anchor], *(later[place] for place in places))


def choose_chunks(chunks: Sequence[Chunk], count: int, play: SelfplayConfig, *, seed: int) -> tuple[Chunk, ...]:
    """Return unseen chunks that can be asked about, one of each document in turn, in an order drawn from the seed.

    Where none can, all may be chosen.
    Raises `CorpusError` E_NO_UNSEEN when there is none.
    """
    unseen = [chunk for chunk in chunks if chunk.split == "unseen"]
    by_document: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in [chunk for chunk in unseen if is_askable(chunk, play)] or unseen:
        by_document[chunk.document_id].append(chunk)
    if not by_document:
        raise CorpusError(
            "the corpus of this run has no unseen chunk",
            code="E_NO_UNSEEN",
            hint="give it more documents, or a larger ingest.unseen_share",
        )
    documents = sorted(by_document)
    stream(seed, "crossplay", "documents").shuffle(documents)
    for document in documents:
        stream(seed, "crossplay", document).shuffle(by_document[document])
    longest = max(map(len, by_document.values()))
    turns = [by_document[d][i] for i in range(longest) for d in documents if i < len(by_document[d])]
    return tuple(turns[:count])


# --- playing ----------------------------------------------------------------------------------------------------------


class CrossPlayRun:
    """Plays the kept versions of one finished run crosswise."""

    def __init__(self, config: JobConfig, *, sizes: Sizes, parts: Parts | None, on_progress: OnProgress) -> None:
        """Take the run by its config.

        Args:
            config: as the run was begun with.
            sizes: how much to play.
            parts: of the user's own, those the run was made with.
            on_progress: told which version plays.
        """
        self._config = config
        self._sizes = sizes
        self._parts = parts or Parts()
        self._say = on_progress
        self._store = RunStore(config.run_dir)

    def run(self) -> CrossPlay:
        """Play, write `crossplay.json`, leave an audit record, and return what was found.

        Raises `ConfigError` E_RUN_CONFIG, E_NO_CHECKPOINTS, `CorpusError` E_NO_UNSEEN, `StoreError` E_NO_RUN, E_LOCKED,
        E_STOPPED (the same call continues), `IntegrityError` when an adapter is not the one that was saved.
        """
        self._store.settings()
        corpus = self._corpus()
        with opened(self._config, self._parts) as assembly:
            self._store.begin(self._config, assembly.policy_digests())
            chunks = choose_chunks(corpus.chunks, self._sizes.chunks, assembly.sized.selfplay, seed=self._config.seed)
            kept, warmup_steps = self._kept(assembly), assembly.warmup_steps
            if assembly.sized.selfplay.roles == "separate":
                raise ConfigError(
                    "the roles of this run are separate: the Challengers of earlier steps were not kept",
                    code="E_NO_CHECKPOINTS",
                    hint="cross-play takes runs with selfplay.roles: shared",
                )
            versions = choose_checkpoints(kept, self._sizes.checkpoints, warmup_steps=warmup_steps)
            assembly.trainer.start()  # a sampler that shares the learner's weights loads nothing over unsaved ones
            found = self._found(corpus, chunks, versions, self._table(assembly, chunks))
            assembly.audit.append(_event(found))
        durable.write_file(self._config.run_dir / "crossplay.json", canonical_json(found) + b"\n")
        return found

    def _corpus(self) -> Corpus:
        corpus = self._store.load("corpus", Corpus)
        if corpus is None:
            error = StoreError(f"{self._config.run_dir}: not trained yet", code="E_NO_RUN", hint="finish the run first")
            error.exit_code = EXIT_USAGE
            raise error
        return corpus

    def _kept(self, assembly: Assembly) -> list[AdapterVersion]:
        """Return the versions that stood after some step and whose files are still there, for good."""
        if not self._config.training.keep_adapters_every:
            return []
        stood = {commit.adapter_id for commit in self._store.commits()}
        versions = (version for version in self._store.all(AdapterVersion) if version.adapter_id in stood)
        return [version for version in versions if assembly.adapter_folder(version).is_dir()]

    def _table(self, assembly: Assembly, chunks: tuple[Chunk, ...]) -> Table:
        ids = [chunk.chunk_id for chunk in chunks]
        key = digest_of([self._config.digest(), self._sizes.attempts, self._sizes.answers, ids]).removeprefix("sha256:")[:12]
        return Table(
            proposer=_proposer(assembly, self._sizes),
            sampler=assembly.sampler,
            base=assembly.base_sampler,
            grader=assembly.grader,
            config=assembly.sized.selfplay,
            seed=self._config.seed,
            answers=self._sizes.answers,
            chunks=chunks,
            shelf=Shelf(self._config.run_dir / "crossplay", key),
        )

    def _found(self, corpus: Corpus, chunks: Sequence[Chunk], versions: Sequence[AdapterVersion], table: Table) -> CrossPlay:
        anchor = versions[0]
        proposed, answered = [], []
        for number, version in enumerate(versions, start=1):
            self._say(Progress(stage="crossplay", message=f"step {version.step}", done=number, total=len(versions)))
            proposed.append(table.propose(version))
            answered.append(_by_document(proposed[0], table.answer(proposed[0], version)))
        self._say(Progress(stage="crossplay", message="the anchor and the base answer", done=len(versions), total=len(versions)))
        asked = [_by_document(theirs, table.answer(theirs, anchor)) for theirs in proposed]
        open_book = [_by_document(theirs, table.answer_from_passage(theirs)) for theirs in proposed]
        return CrossPlay(
            run=self._config.name,
            sizes=self._sizes,
            chunks=len(chunks),
            documents=len({chunk.document_id for chunk in chunks}),
            corpus_digest=corpus.digest,
            checkpoints=tuple(
                self._checkpoint(version, proposed[i], _Columns(asked, answered, open_book, _admitted(proposed)), i)
                for i, version in enumerate(versions)
            ),
        )

    def _checkpoint(self, version: AdapterVersion, proposed: Proposed, columns: "_Columns", i: int) -> Checkpoint:
        seed = self._config.seed
        changes = {f"{name}_change": _change(column[0], column[i], seed) if i else None for name, column in columns.items()}
        readable = _shares((t.document_id, t.readable / t.attempts) for t in proposed.tallies if t.attempts)
        admitted = _mean(columns.admitted[i], seed)
        shown = _mean(readable, seed)
        assert admitted is not None  # noqa: S101 - every chunk was proposed for
        assert shown is not None  # noqa: S101 - as above
        return Checkpoint(
            step=version.step,
            adapter_id=version.adapter_id,
            adapter_digest=version.digest,
            questions=len(proposed.questions),
            documents=len({question.document_id for question in proposed.questions}),
            readable=shown,
            admitted=admitted,
            asked=_mean(columns.asked[i], seed),
            answered=_mean(columns.answered[i], seed),
            open_book=_mean(columns.open_book[i], seed),
            **changes,
        )


def _proposer(assembly: Assembly, sizes: Sizes) -> SelfplayStage:
    """Return the run's self-play with one round of `attempts` proposals."""
    changes = {"challenger_group": sizes.attempts, "max_rounds": 1, "refill_rounds": 0}
    return assembly.stage(assembly.sized.selfplay.model_copy(update=changes))


def _event(found: CrossPlay) -> AuditEvent:
    shown = [
        (f"step_{checkpoint.step}.{name}", estimate.mean)
        for checkpoint in found.checkpoints
        for name in ("asked", "answered", "open_book", "admitted")
        if (estimate := getattr(checkpoint, name)) is not None
    ]
    subject = tuple(NamedDigest(role="adapter", name=c.adapter_id, digest=c.adapter_digest) for c in found.checkpoints)
    corpus = NamedDigest(role="corpus", name="corpus", digest=found.corpus_digest)
    data = (("chunks", found.chunks), ("documents", found.documents), *shown)
    return AuditEvent(event="eval.completed", run=found.run, subject=subject, inputs=(corpus,), data=data)


# --- over documents ---------------------------------------------------------------------------------------------------

Shares = Mapping[str, float]
"""One number per document."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """What is compared, each with one entry per version."""

    asked: Sequence[Shares]
    answered: Sequence[Shares]
    open_book: Sequence[Shares]
    admitted: Sequence[Shares]

    def items(self) -> Iterable[tuple[str, Sequence[Shares]]]:
        """Return the columns by name."""
        return ((name, getattr(self, name)) for name in ("asked", "answered", "open_book", "admitted"))


def _by_document(proposed: Proposed, answers: Answers) -> Shares:
    """Return the mean pass rate of each document's questions."""
    rates = (right / answers.of for right in answers.right)
    return _shares(zip((question.document_id for question in proposed.questions), rates, strict=True))


def _admitted(proposed: Sequence[Proposed]) -> list[Shares]:
    return [_shares((t.document_id, t.admitted / t.attempts) for t in theirs.tallies if t.attempts) for theirs in proposed]


def _shares(pairs: Iterable[tuple[str, float]]) -> Shares:
    found: dict[str, list[float]] = defaultdict(list)
    for document, value in pairs:
        found[document].append(value)
    return {document: fmean(values) for document, values in sorted(found.items())}


def _mean(shares: Shares, seed: int) -> Estimate | None:
    """Return the mean over documents with its interval; None without a document."""
    if not shares:
        return None
    nothing = [0.0] * len(shares)
    return Estimate.of(paired_cluster_interval(nothing, [*shares.values()], [*shares], level=LEVEL, draws=DRAWS, seed=seed))


def _change(before: Shares, after: Shares, seed: int) -> Estimate | None:
    """Return the mean change of the documents that both have; None when there is no such document."""
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return None
    changes = [after[document] - before[document] for document in shared]
    return difference_of([changes], shared, draws=DRAWS, seed=seed)
