"""The corpus stage: a source in, scrubbed chunks and rejections out.

In: a `Source`, the ingest config, the PII policy, a detector, a token counter, the workspace key and the seed.
Out: a `Corpus`. The same input, settings and key give the same one.
Refuses: to go on with too many bad files (`E_QUARANTINE`), nothing usable (`E_DATA`) or residue (`E_RESIDUE`).
Not here: how any one step works. Raw text is a local variable of this stage and gone when it ends.

list -> read -> parse in the sandbox -> scrub -> sweep across documents -> split -> cut -> confirm
"""

import dataclasses
import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Final, TypeVar

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.chunking import CountTokens, Cut, cut_document, page_of
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.corpus.parsers import Parsed
from spice_enterprise.corpus.sandbox import BATCH, RawDocument, Sandbox, Unparsed
from spice_enterprise.corpus.scrub import Scrubbed, Scrubber, redactions_in
from spice_enterprise.corpus.splits import split_documents
from spice_enterprise.errors import CorpusError, ScrubError, SourceError, boundary
from spice_enterprise.policy import PiiPolicy
from spice_enterprise.protocols import Corpus, Detector, OnProgress, Progress, Source
from spice_enterprise.records import Chunk, Document, Rejection, Split, digest_of

STAGE: Final = "corpus"
_NOT_BAD: Final = frozenset({"E_DEDUP"})
"""Rejections that say nothing about the quality of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clean:
    """A document that came through, with its scrubbed text."""

    document: Document
    scrubbed: Scrubbed = field(repr=False)


class CorpusIngestor:
    """Reads, scrubs, cuts and splits."""

    def __init__(  # noqa: PLR0913 - the stage's parts, by name
        self,
        *,
        config: IngestConfig,
        policy: PiiPolicy,
        detector: Detector,
        ner_identity: str,
        count_tokens: CountTokens,
        key: bytes,
        seed: int,
    ) -> None:
        """Take the parts; nothing is loaded or read yet.

        Args:
            config: Limits, sizes and the share to set apart.
            policy: What is removed.
            detector: Finds it.
            ner_identity: Name and digest of the NER model behind `detector`, for the record.
            count_tokens: Tokens of a string in the base model.
            key: Workspace key of placeholders and text digests.
            seed: The run's seed.
        """
        self._config = config
        self._policy = policy
        self._policy_digest = policy.digest()
        self._detector = detector
        self._ner_identity = ner_identity
        self._count_tokens = count_tokens
        self._key = key
        self._seed = seed

    def ingest(self, source: Source, on_progress: OnProgress) -> Corpus:
        """Run the stage.

        Raises:
            CorpusError: `E_QUARANTINE`, `E_DATA`; `SourceError` when the place cannot be listed.
            ScrubError: `E_RESIDUE` when values are still found in the finished chunks.
            ParseError: `E_SANDBOX` when the parser child cannot be isolated as required.
        """
        with boundary(STAGE):
            return self._ingest(source, on_progress)

    def _ingest(self, source: Source, on_progress: OnProgress) -> Corpus:
        listed = list(source.documents())
        rejections = [item for item in listed if isinstance(item, Rejection)]
        documents = [item for item in listed if isinstance(item, Document)]
        on_progress(Progress(stage=STAGE, message="listed", done=0, total=len(documents)))
        scrubber = Scrubber(self._policy, self._detector, self._key)
        sandbox = Sandbox(is_required=self._config.sandbox == "required")
        clean = self._read_all(source, documents, scrubber, sandbox, rejections, on_progress)
        self._check_quarantine(rejections, len(listed))
        clean = self._named_again([_swept(item, scrubber) for item in clean], scrubber)
        rejections = [dataclasses.replace(r, uri=scrubber.sweep_name(r.uri)) for r in rejections]
        chunks = self._chunks(clean, rejections)
        self._check_quarantine(rejections, len(listed))
        residual = self._residual(chunks, scrubber)
        removed = sum((Counter(dict(item.scrubbed.removed)) for item in clean), Counter())
        corpus = Corpus(
            documents=tuple(item.document for item in clean),
            chunks=tuple(chunks),
            rejections=tuple(rejections),
            removed=tuple(sorted(removed.items())),
            residual_findings=residual,
            pii_policy_digest=self._policy_digest,
            ner_model=self._ner_identity,
            isolation=sandbox.isolation,
            digest=digest_of([[chunk.chunk_id, chunk.split] for chunk in chunks]),
        )
        on_progress(_summary(corpus))
        return corpus

    def _read_all(
        self,
        source: Source,
        documents: Sequence[Document],
        scrubber: Scrubber,
        sandbox: Sandbox,
        rejections: list[Rejection],
        on_progress: OnProgress,
    ) -> list[_Clean]:
        """Parse and scrub batch by batch; what fails is appended to `rejections`."""
        clean: list[_Clean] = []
        seen: set[str] = set()
        done = 0
        for batch in _batches(documents, BATCH):
            read = [(document, data) for document in batch if (data := _read(source, document, rejections, seen)) is not None]
            raw = [RawDocument(suffix=PurePosixPath(d.uri).suffix, data=data) for d, data in read]
            for (document, _), parsed in zip(read, sandbox.parse(raw), strict=True):
                result = self._scrub(document, parsed, scrubber, seen)
                (rejections if isinstance(result, Rejection) else clean).append(result)  # type: ignore[arg-type]  # the right list
            done += len(batch)
            on_progress(Progress(stage=STAGE, message="scrubbed", done=done, total=len(documents)))
        return clean

    def _scrub(self, document: Document, parsed: Parsed | Unparsed, scrubber: Scrubber, seen: set[str]) -> _Clean | Rejection:
        """Scrub one parsed document, unless it has no text or another document had the same."""
        if isinstance(parsed, Unparsed):
            return _rejected(document, parsed.code, parsed.reason)
        text = "\f".join(parsed.pages)
        digest = hmac.new(self._key, b"text|" + " ".join(text.split()).encode(), hashlib.sha256).hexdigest()
        if digest in seen:
            return _rejected(document, "E_DEDUP", "the same text as an earlier document")
        seen.add(digest)
        try:
            scrubbed = scrubber.scrub_document(text)
        except ScrubError as error:
            return _rejected(document, error.code, error.message)
        return _Clean(document=dataclasses.replace(document, media_type=parsed.media_type), scrubbed=scrubbed)

    def _named_again(self, clean: Sequence[_Clean], scrubber: Scrubber) -> list[_Clean]:
        """Scrub the file names once more, now that the names inside the documents are known."""
        return [
            dataclasses.replace(item, document=dataclasses.replace(item.document, uri=scrubber.sweep_name(item.document.uri)))
            for item in clean
        ]

    def _chunks(self, clean: list[_Clean], rejections: list[Rejection]) -> list[Chunk]:
        """Cut every document and give its chunks their split; drops too short documents from `clean`."""
        cuts = {item.document.document_id: self._cuts(item) for item in clean}
        for item in [item for item in clean if not cuts[item.document.document_id]]:
            clean.remove(item)
            too_short = f"fewer than {self._config.min_chunk_tokens} tokens of text"
            rejections.append(_rejected(item.document, "E_EMPTY", too_short))
        if not clean:
            raise CorpusError(
                "no document has usable text",
                code="E_DATA",
                hint=f"{len(rejections)} files were rejected; see their codes in the report",
            )
        split = split_documents([item.document for item in clean], self._config.unseen_share, self._seed)
        return [
            self._chunk(item, index, cut, split[item.document.document_id])
            for item in clean
            for index, cut in enumerate(cuts[item.document.document_id])
        ]

    def _cuts(self, item: _Clean) -> list[Cut]:
        config = self._config
        least = min(config.min_chunk_tokens, config.chunk_tokens)
        cuts = cut_document(item.scrubbed.text, self._count_tokens, most=config.chunk_tokens, least=least)
        return [cut for cut in cuts if cut.token_count >= least]

    def _chunk(self, item: _Clean, index: int, cut: Cut, split: Split) -> Chunk:
        return Chunk(
            document_id=item.document.document_id,
            index=index,
            text=cut.text,
            redactions=redactions_in(cut.text),
            split=split,
            pii_policy_digest=self._policy_digest,
            token_count=cut.token_count,
            page=page_of(cut.start, item.scrubbed.page_starts),
            section=cut.section,
        )

    def _residual(self, chunks: Sequence[Chunk], scrubber: Scrubber) -> int:
        """Count what the pattern rules and the run's own values still find in the finished chunks.

        Raises:
            ScrubError: `E_RESIDUE` above the policy's `max_residual_findings`.
        """
        confirm = Scrubber(self._policy, PatternDetector(), self._key)
        found = sum(len(confirm.detect(chunk.text)) + scrubber.survivors(chunk.text) for chunk in chunks)
        if found > self._policy.max_residual_findings:
            raise ScrubError(
                f"{found} values are still found in the chunks, allowed are {self._policy.max_residual_findings}",
                code="E_RESIDUE",
                hint="nothing was written; run `spice-enterprise ingest` on parts of the corpus to find the document",
            )
        return found

    def _check_quarantine(self, rejections: Sequence[Rejection], listed: int) -> None:
        bad = sum(rejection.code not in _NOT_BAD for rejection in rejections)
        if bad > self._policy.max_quarantine_share * listed:
            codes = ", ".join(f"{code} {n}" for code, n in sorted(Counter(r.code for r in rejections).items()))
            raise CorpusError(
                f"{bad} of {listed} files cannot be used ({codes}), allowed is a share of {self._policy.max_quarantine_share}",
                code="E_QUARANTINE",
                hint="remove or convert these files, or change max_quarantine_share in the PII policy",
            )


def _read(source: Source, document: Document, rejections: list[Rejection], seen: set[str]) -> bytes | None:
    """Return the bytes of a document; None, with a rejection, for a copy of an earlier one or a changed file."""
    if document.keyed_digest in seen:
        rejections.append(_rejected(document, "E_DEDUP", "the same bytes as an earlier document"))
        return None
    seen.add(document.keyed_digest)
    try:
        return source.read(document)
    except SourceError as error:
        rejections.append(_rejected(document, error.code, error.message))
        return None


def _swept(item: _Clean, scrubber: Scrubber) -> _Clean:
    return dataclasses.replace(item, scrubbed=scrubber.sweep(item.scrubbed))


def _rejected(document: Document, code: str, reason: str) -> Rejection:
    return Rejection(uri=document.uri, code=code, reason=reason, size_bytes=document.size_bytes)


T = TypeVar("T")


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _summary(corpus: Corpus) -> Progress:
    """Return the stage's last line: counts only."""
    numbers = (
        ("documents", float(len(corpus.documents))),
        ("rejected", float(len(corpus.rejections))),
        ("chunks", float(len(corpus.chunks))),
        ("unseen_chunks", float(len(corpus.unseen))),
        *((entity.lower(), float(n)) for entity, n in corpus.removed),
    )
    done = len(corpus.documents)
    return Progress(stage=STAGE, message="done", done=done, total=done + len(corpus.rejections), numbers=numbers)
