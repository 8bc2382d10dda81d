"""The second pass: what the documents show about one another, then chunks.

In: staged documents in the order they were listed.
Out: finished documents with their chunks, one document at a time; what was left out, with counts.
Refuses: a document in which anything removed can still be read, or which a second, independent detector objects to (`E_RESIDUE`).
Not here: reading one document (`preparing.py`), files (`corpus_files.py`).

gather values -> name surrogates -> sweep every document -> families and splits -> cut -> drop repetition -> confirm
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.chunking import CountTokens, Cut, cut_document, page_of
from spice_enterprise.corpus.duplicates import Duplicates, Families
from spice_enterprise.corpus.finding import NAME_LABEL
from spice_enterprise.corpus.people import linked
from spice_enterprise.corpus.preparing import rejected
from spice_enterprise.corpus.quality import RunningLines, unfit
from spice_enterprise.corpus.scrub import FILLER, Rendered, Sweeper, redactions_between, without_surrogates
from spice_enterprise.corpus.splits import split_documents
from spice_enterprise.corpus.staging import Prepared, Stage
from spice_enterprise.corpus.surrogates import assign, tags_in
from spice_enterprise.corpus.values import ValueIndex
from spice_enterprise.policy import PiiPolicy
from spice_enterprise.protocols import Detector
from spice_enterprise.records import Chunk, Document, Rejection, Split

OnDocument = Callable[[str, int], None]
"""Told of each document in a pass: (pass name, documents done)."""
_ONE_PERSON: Final = frozenset({"replace", "pseudonymise", "hash"})
"""Actions whose result says who is meant and not how a name was written."""
_SWEEPING: Final = "swept"
_CUTTING: Final = "cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One document of the corpus."""

    document: Document
    chunks: tuple[Chunk, ...]
    removed: tuple[tuple[str, int], ...]
    shown: tuple[tuple[str, str], ...] = field(repr=False)
    """(what stands in the chunks, long placeholder) pairs."""


@dataclass(slots=True)
class LeftOut:
    """What does not become part of the corpus, counted as it happens."""

    rejections: list[Rejection] = field(default_factory=list)
    chunks: Counter[str] = field(default_factory=Counter)
    """Chunks dropped, by reason."""
    residual_documents: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finisher:
    """The settings of the second pass."""

    config: IngestConfig
    policy: PiiPolicy
    policy_digest: str
    key: bytes = field(repr=False)
    seed: int
    count_tokens: CountTokens
    ner_identity: str
    second_look: Detector

    def finish(self, stage: Stage, listed: Sequence[str], left_out: LeftOut, on_document: OnDocument) -> Iterator[Finished]:
        """Yield every document that stays, in order.

        Args:
            stage: Where the first pass put the documents.
            listed: Their keys there, in listing order.
            left_out: Filled while documents are drawn from the iterator.
            on_document: Hears of progress.
        """
        kept, sweeper, running = self._gather(stage, listed, left_out)
        families, documents = self._sweep_all(stage, kept, sweeper, running, on_document)
        shares = {"unseen_share": self.config.unseen_share, "exam_share": self.config.exam_share}
        splits = split_documents(documents, families, seed=self.seed, **shares)
        chunks_seen = Duplicates(self.config.near_duplicate)
        for done, (digest, split) in enumerate(zip(kept, splits, strict=True), 1):
            finished = self._cut(_staged(stage, digest, is_swept=True), split, sweeper, chunks_seen, left_out)
            if isinstance(finished, Rejection):
                left_out.rejections.append(finished)
            else:
                yield finished
            on_document(_CUTTING, done)
        left_out.rejections[:] = [dataclasses.replace(r, uri=sweeper.name(r.uri)) for r in left_out.rejections]

    def _gather(self, stage: Stage, listed: Sequence[str], left_out: LeftOut) -> tuple[list[str], Sweeper, RunningLines]:
        """Read every document once: drop second copies of a text, collect all values and placeholders."""
        index, running = ValueIndex(self.key), RunningLines()
        texts: set[str] = set()
        tags = {tag for rejection in left_out.rejections for tag in tags_in(rejection.uri)}
        renderings: dict[str, str] = {}
        name_parts: set[str] = set()
        words: set[str] = set()
        people: dict[str, str] = {}
        kept = []
        for digest in listed:
            prepared = _staged(stage, digest)
            tags |= tags_in(prepared.document.uri) | tags_in(prepared.document.acl_label)
            if prepared.text_digest in texts:
                left_out.rejections.append(rejected(prepared.document, "E_DEDUP", "the same text as an earlier document"))
                continue
            texts.add(prepared.text_digest)
            kept.append(digest)
            index.add(prepared.entries)
            name_parts.update(prepared.name_parts)
            words.update(prepared.words)
            people.update((spelling, placeholder) for placeholder, spelling in prepared.people)
            renderings.update(prepared.renderings)
            tags |= tags_in(prepared.text)
            running.add(prepared.document.source_kind, prepared.text)
        sweeper = Sweeper(self.policy, self.key, index, frozenset(name_parts), frozenset(words))
        is_linked = self.policy.rule(NAME_LABEL).action in _ONE_PERSON
        same = {people[one]: people[other] for one, other in linked(people).items()} if is_linked else {}
        final = {**assign(tags - same.keys(), self.policy, sweeper.is_real), **renderings}
        return kept, sweeper.with_final(final | {one: final.get(other, other) for one, other in same.items()}), running

    def _sweep_all(
        self, stage: Stage, kept: Sequence[str], sweeper: Sweeper, running: RunningLines, on_document: OnDocument
    ) -> tuple[list[int], list[Document]]:
        """Clean each document of what the others showed, and see which ones are near copies."""
        near, families = Duplicates(self.config.near_duplicate), Families()
        documents = []
        for done, digest in enumerate(kept, 1):
            prepared = sweeper.sweep(_staged(stage, digest), running)
            stage.save(prepared, is_swept=True)
            families.add(near.relatives(prepared.text))
            documents.append(prepared.document)
            on_document(_SWEEPING, done)
        return [families.of(number) for number in range(len(kept))], documents

    def _cut(
        self, prepared: Prepared, split: Split, sweeper: Sweeper, chunks_seen: Duplicates, left_out: LeftOut
    ) -> Finished | Rejection:
        """Render, cut, filter and confirm one document."""
        uri, label = sweeper.name(prepared.document.uri), sweeper.name(prepared.document.acl_label)
        document = dataclasses.replace(prepared.document, uri=uri, acl_label=label)
        rendered = sweeper.render(prepared.text)
        least = min(self.config.min_chunk_tokens, self.config.chunk_tokens)
        protected = [(r.start, r.end) for r in rendered.redactions]
        cuts = cut_document(rendered.text, self.count_tokens, most=self.config.chunk_tokens, least=least, protected=protected)
        fit, reasons = self._fit(cuts, least, chunks_seen)
        left_out.chunks.update(reasons)
        if not fit:
            return _without_chunks(document, reasons, self.config.min_chunk_tokens)
        chunks = tuple(self._chunk(document, index, cut, rendered, split) for index, cut in enumerate(fit))
        if self._has_residue(document, chunks, sweeper):
            left_out.residual_documents += 1
            return rejected(document, "E_RESIDUE", "a value was still readable after scrubbing")
        return Finished(document=document, chunks=chunks, removed=prepared.removed, shown=sweeper.shown_in(prepared.text))

    def _fit(self, cuts: Sequence[Cut], least: int, chunks_seen: Duplicates) -> tuple[list[Cut], Counter[str]]:
        """Return the cuts worth keeping, and why the others are not."""
        fit, reasons = [], Counter[str]()
        for cut in cuts:
            reason = unfit(cut.text, cut.token_count, least) or ("repeated" if chunks_seen.add(cut.text) is not None else None)
            if reason is None:
                fit.append(cut)
            else:
                reasons[reason] += 1
        return fit, reasons

    def _chunk(self, document: Document, index: int, cut: Cut, rendered: Rendered, split: Split) -> Chunk:
        return Chunk(
            document_id=document.document_id,
            index=index,
            text=cut.text,
            redactions=redactions_between(rendered.redactions, cut.start, cut.end),
            split=split,
            pii_policy_digest=self.policy_digest,
            token_count=cut.token_count,
            page=page_of(cut.start, rendered.page_starts),
            last_page=page_of(cut.end - 1, rendered.page_starts),
            section=cut.section,
            acl_label=document.acl_label,
            language=document.language,
            parser=document.parser,
            ner_model=self.ner_identity,
        )

    def _has_residue(self, document: Document, chunks: Sequence[Chunk], sweeper: Sweeper) -> bool:
        """True when a value of the run, or anything the second detector knows, can be read in what would be written."""
        if sweeper.survivors(document.uri) or sweeper.survivors(document.acl_label):
            return True
        return any(
            sweeper.survivors(chunk.text) or sweeper.survivors(chunk.section or "") or self._objects(chunk, sweeper)
            for chunk in chunks
        )

    def _objects(self, chunk: Chunk, sweeper: Sweeper) -> bool:
        """True when the second detector finds a value, and not only what was put in the place of one."""
        hidden = without_surrogates(chunk.text, chunk.redactions)
        found = sweeper.policed(self.second_look.detect(hidden), hidden)
        return any(hidden[span.start : span.end].strip(FILLER + ".,;:") for span in found)


def _staged(stage: Stage, key: str, *, is_swept: bool = False) -> Prepared:
    prepared = stage.load(key, is_swept=is_swept)
    assert prepared is not None  # noqa: S101 - the first pass put it there, and this run holds the lock
    return prepared


def _without_chunks(document: Document, reasons: Counter[str], least_tokens: int) -> Rejection:
    """Return why a document gave no chunk."""
    if reasons.get("all_removed"):
        return rejected(document, "E_EMPTY_AFTER_SCRUB", "nothing but removed values")
    if reasons.get("repeated"):
        return rejected(document, "E_DEDUP", "every passage stands in an earlier document")
    if reasons.get("garbled") or reasons.get("numbers_only"):
        return rejected(document, "E_QUALITY", "no readable prose")
    return rejected(document, "E_EMPTY", f"fewer than {least_tokens} tokens of text")
