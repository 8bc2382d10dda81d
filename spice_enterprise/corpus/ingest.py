"""The corpus stage: a source in, a folder of scrubbed chunks out.

In: a `Source`, the ingest config, the PII policy, detectors, a token counter, the workspace key and the seed.
Out: the corpus files of `corpus_files.py`. The same input, settings and key give the same bytes, for any number of workers
and after an interruption.
Refuses: to go on with too many bad files (`E_QUARANTINE`), nothing usable (`E_DATA`) or residue (`E_RESIDUE`).
Not here: how any one step works. Raw text is a local variable of the first pass and gone when a document is done.

list and read -> prepare each document, in any process -> finish all of them together -> write
"""

import dataclasses
import errno
import fcntl
import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol

from spice_enterprise import durable
from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.confinement import weaker
from spice_enterprise.corpus.corpus_files import CorpusWriter, Made, load_corpus
from spice_enterprise.corpus.finishing import Finisher, LeftOut
from spice_enterprise.corpus.preparing import Originals, Outcome, Preparer, rejected
from spice_enterprise.corpus.sandbox import BATCH
from spice_enterprise.corpus.staging import Stage
from spice_enterprise.corpus.workers import Batch, Workers, WorkerSettings
from spice_enterprise.errors import CorpusError, ScrubError, SourceError, StoreError, boundary
from spice_enterprise.policy import PiiPolicy
from spice_enterprise.protocols import Corpus, Manifest, OnProgress, Progress, Source
from spice_enterprise.records import Document, Rejection, digest_of

STAGE: Final = "corpus"
_NOT_BAD: Final = frozenset({"E_DEDUP"})
"""Rejections that say nothing about the quality of the source."""
_BATCH_BYTES: Final = 32 << 20
_SILENT_FILES: Final = 500


class Keeper(Protocol):
    """Keeps originals, by the keyed digest of their document. `Vault` is one."""

    def put(self, document_id: str, values: Originals) -> int:
        """Keep (long placeholder, value) pairs; the same again changes nothing."""
        ...

    def name(self, document_id: str, shown: Originals) -> None:
        """Remember (shown, long placeholder) pairs: what finally stands in the corpus."""
        ...

    def discard(self, document_id: str) -> int:
        """Let go of a document that was left out."""
        ...


@dataclass(slots=True)
class _Tally:
    """What the first pass has seen so far."""

    listed: int = 0
    done: int = 0
    pages: int = 0
    removed: int = 0
    resumed: int = 0
    """Documents that an earlier run of the same settings prepared."""
    size_bytes: int = 0
    keys: list[str] = field(default_factory=list)
    """Of the documents that are staged, in listing order."""
    originals: set[str] = field(default_factory=set)
    """Keyed digests of the documents whose originals are kept so far."""
    rejections: list[Rejection] = field(default_factory=list)
    isolations: set[str] = field(default_factory=set)


class CorpusIngestor:
    """Reads, scrubs, cuts and splits."""

    def __init__(
        self,
        *,
        config: IngestConfig,
        policy: PiiPolicy,
        finisher: Finisher,
        preparer: Preparer | None,
        folder: Path,
        keeper: Keeper | None = None,
    ) -> None:
        """Take the parts; nothing is loaded or read yet.

        Args:
            config: Limits, sizes and the shares to set apart.
            policy: What is removed.
            finisher: The second pass.
            preparer: The first pass in this process; None starts `config.workers` processes for it.
            folder: Where the corpus goes, and what is staged on the way.
            keeper: Takes what was removed, when the policy keeps it.
        """
        self._config = config
        self._policy = policy
        self._finisher = finisher
        self._preparer = preparer
        self._folder = folder
        self._keeper = keeper

    def ingest(self, source: Source, on_progress: OnProgress) -> Corpus:
        """Run the stage and return the corpus as one value; for what it raises, see `write`."""
        self.write(source, on_progress)
        with boundary(STAGE):
            return load_corpus(self._folder)

    def write(self, source: Source, on_progress: OnProgress) -> Manifest:
        """Run the stage and return what was written. Continues where an earlier run of the same settings stopped.

        Raises:
            CorpusError: `E_QUARANTINE`, `E_DATA`; `SourceError` when the place cannot be listed.
            ScrubError: `E_RESIDUE` when values are still found in too many documents.
            ParseError: `E_SANDBOX` when the parser child cannot be isolated as required.
            StoreError: `E_LOCKED` while another process writes into the same folder.
        """
        with boundary(STAGE), _locked(self._folder):
            stage = Stage(self._folder, self._preparing_digest())
            tally = self._prepare_all(source, stage, on_progress)
            if not tally.listed:
                raise CorpusError("the source holds no files", code="E_EMPTY_CORPUS", hint="put documents into it")
            self._check_quarantine(tally.rejections, tally.listed)
            manifest = self._finish(stage, tally, on_progress)
            stage.clear()
            on_progress(_summary(manifest))
            return manifest

    def _prepare_all(self, source: Source, stage: Stage, on_progress: OnProgress) -> _Tally:
        """Bring every document that is not staged yet through the first pass."""
        tally = _Tally()
        workers = None if self._preparer else Workers(self._worker_settings(), self._config.workers)
        batches = _batches(self._listed(source, stage, tally, on_progress))
        try:
            for batch, results in self._outcomes(batches, workers):
                for document, outcome in zip(batch.documents, results, strict=True):
                    self._settle(document, outcome, stage, tally)
                    on_progress(_progress("scrubbed", tally))
        finally:
            if workers:
                workers.close()
        return tally

    def _outcomes(self, batches: Iterator[Batch], workers: Workers | None) -> Iterator[tuple[Batch, Iterable[Outcome]]]:
        if workers is not None:
            return workers.map(batches)
        preparer = self._preparer
        assert preparer is not None  # noqa: S101 - one of the two is there
        return ((batch, preparer.prepare(batch.documents, batch.contents)) for batch in batches)

    def _listed(self, source: Source, stage: Stage, tally: _Tally, on_progress: OnProgress) -> Iterator[tuple[Document, bytes]]:
        """Yield the documents that still have to be prepared, with their bytes."""
        seen: set[str] = set()
        for item in source.documents():
            tally.listed += 1
            if tally.listed % _SILENT_FILES == 0:
                on_progress(_progress("scrubbed", tally))  # a thousand empty files in a row are progress too
            if isinstance(item, Rejection):
                tally.rejections.append(item)
            elif stage.key_of(item) in seen:
                tally.rejections.append(rejected(item, "E_DEDUP", "the same bytes as an earlier document"))
            else:
                seen.add(stage.key_of(item))
                if self._is_staged(item, stage, tally):
                    continue
                try:
                    data = source.read(item)
                except SourceError as error:
                    tally.rejections.append(rejected(item, error.code, error.message))
                    continue
                tally.keys.append(stage.key_of(item))
                yield item, data

    def _is_staged(self, document: Document, stage: Stage, tally: _Tally) -> bool:
        """True when an earlier run prepared this very document."""
        prepared = stage.load(stage.key_of(document))
        if prepared is None or prepared.document.uri != document.uri:
            return False
        if _marks(prepared.document) != _marks(document):
            acl_label, owner, source_kind = _marks(document)
            now = dataclasses.replace(prepared.document, acl_label=acl_label, owner=owner, source_kind=source_kind)
            stage.save(dataclasses.replace(prepared, document=now))
        tally.keys.append(stage.key_of(document))
        tally.originals.add(document.keyed_digest)
        tally.done += 1
        tally.isolations.add(prepared.isolation)
        tally.resumed += 1
        tally.pages += prepared.document.pages
        tally.removed += sum(count for _, count in prepared.removed)
        tally.size_bytes += document.size_bytes
        return True

    def _settle(self, document: Document, outcome: Outcome, stage: Stage, tally: _Tally) -> None:
        """Stage a prepared document, or note why there is none."""
        tally.done += 1
        tally.size_bytes += document.size_bytes
        if isinstance(outcome.result, Rejection):
            tally.rejections.append(outcome.result)
            tally.keys.remove(stage.key_of(document))
            return
        if self._keeper is not None and outcome.originals:
            self._keeper.put(document.keyed_digest, outcome.originals)
            tally.originals.add(document.keyed_digest)
        stage.save(outcome.result)
        tally.isolations.add(outcome.result.isolation)
        tally.pages += outcome.result.document.pages
        tally.removed += sum(count for _, count in outcome.result.removed)

    def _finish(self, stage: Stage, tally: _Tally, on_progress: OnProgress) -> Manifest:
        """Write what the second pass yields."""
        left_out = LeftOut(rejections=list(tally.rejections))
        writer = CorpusWriter(self._folder)
        total = len(tally.keys)

        def heard(message: str, done: int) -> None:
            on_progress(Progress(stage=STAGE, message=message, done=done, total=total))

        languages = Counter[str]()
        kept: set[str] = set()
        try:
            for finished in self._finisher.finish(stage, tally.keys, left_out, heard):
                writer.add(finished.document, finished.chunks, finished.removed)
                kept.add(finished.document.keyed_digest)
                if self._keeper is not None:
                    self._keeper.name(finished.document.keyed_digest, finished.shown)
                languages[finished.document.language] += 1
            self._check_finished(left_out, languages, tally.listed)
        except BaseException:
            writer.abandon()
            raise
        if self._keeper is not None:
            for digest in tally.originals - kept:
                self._keeper.discard(digest)
        return writer.close(self._made(tally.isolations), left_out.rejections, left_out.chunks)

    def _check_finished(self, left_out: LeftOut, languages: Counter[str], listed: int) -> None:
        """Refuse a corpus with residue or untold languages above the policy's limits, too many bad files, or nothing in it."""
        allowed = self._policy.fail_if.residual_documents
        if left_out.residual_documents > allowed:
            raise ScrubError(
                f"values were still readable in {left_out.residual_documents} documents, allowed are {allowed}",
                code="E_RESIDUE",
                hint="nothing was written; see fail_if.residual_documents in the PII policy",
            )
        self._check_quarantine(left_out.rejections, listed)
        if languages[""] > self._policy.fail_if.unknown_language_share * languages.total():
            raise CorpusError(
                f"the language of {languages['']} of {languages.total()} documents cannot be told",
                code="E_LANGUAGE",
                hint="remove them, or change fail_if.unknown_language_share in the PII policy",
            )
        if not languages:
            raise CorpusError(
                "no document has usable text",
                code="E_DATA",
                hint=f"{len(left_out.rejections)} files were rejected; see their codes",
            )

    def _check_quarantine(self, rejections: list[Rejection], listed: int) -> None:
        bad = sum(rejection.code not in _NOT_BAD for rejection in rejections)
        allowed = self._policy.fail_if.quarantine_share
        if bad > allowed * listed:
            codes = ", ".join(f"{code} {n}" for code, n in sorted(Counter(r.code for r in rejections).items()))
            raise CorpusError(
                f"{bad} of {listed} files cannot be used ({codes}), allowed is a share of {allowed}",
                code="E_QUARANTINE",
                hint="remove or convert these files, or change fail_if.quarantine_share in the PII policy",
            )

    def _worker_settings(self) -> WorkerSettings:
        return WorkerSettings(config=self._config, policy=self._policy, key=self._finisher.key)

    def _preparing_digest(self) -> str:
        """Return a digest of all that decides the first pass, so that another limit or split does not repeat it."""
        parsing = ("parser", "ocr", "sandbox")
        return digest_of({
            "version": metadata.version("spice-enterprise"),
            "config": self._config.model_dump(mode="json", include=set(parsing)),
            "policy": self._policy.model_dump(mode="json", exclude={"metadata", "fail_if"}),
            "ocr_confidence_below": self._policy.fail_if.ocr_confidence_below,
            "ner_model": self._finisher.ner_identity,
            "key": hmac.new(self._finisher.key, b"fingerprint", hashlib.sha256).hexdigest()[:16],
        })  # fmt: skip

    def _pipeline_digest(self) -> str:
        """Return a digest of everything that decides the result, the key by a fingerprint."""
        return digest_of({
            "preparing": self._preparing_digest(),
            "config": self._config.model_dump(mode="json", exclude={"workers"}),
            "policy": self._finisher.policy_digest,
            "seed": self._finisher.seed,
        })  # fmt: skip

    def _made(self, isolations: set[str]) -> Made:
        return Made(
            pii_policy_digest=self._finisher.policy_digest,
            ner_model=self._finisher.ner_identity,
            isolation=reduce(weaker, sorted(isolations)) if isolations else "",
            pipeline_digest=self._pipeline_digest(),
        )


def _marks(document: Document) -> tuple[str, str, str]:
    """Return what a source says of a document beside its name and bytes: it may change between two starts."""
    return document.acl_label, document.owner, document.source_kind


def _batches(items: Iterator[tuple[Document, bytes]]) -> Iterator[Batch]:
    """Yield batches of at most 20 documents and 32 MiB."""
    documents: list[Document] = []
    contents: list[bytes] = []
    for document, data in items:
        documents.append(document)
        contents.append(data)
        if len(documents) >= BATCH or sum(map(len, contents)) >= _BATCH_BYTES:
            yield Batch(documents=tuple(documents), contents=tuple(contents))
            documents, contents = [], []
    if documents:
        yield Batch(documents=tuple(documents), contents=tuple(contents))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock file. Raises `StoreError` E_LOCKED when another process has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.PRIVATE)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CorpusError(
            f"{folder}: cannot be written ({errno.errorcode.get(error.errno or 0, 'error')})",
            code="E_OUT",
            hint="name a folder that can be made",
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StoreError(
            f"{folder}: another process is writing here", code="E_LOCKED", hint="wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def _progress(message: str, tally: _Tally) -> Progress:
    numbers = (
        ("pages", float(tally.pages)),
        ("removed", float(tally.removed)),
        ("quarantined", float(len(tally.rejections))),
        ("resumed", float(tally.resumed)),
        ("size_bytes", float(tally.size_bytes)),
    )
    return Progress(stage=STAGE, message=message, done=tally.done, total=tally.listed, numbers=numbers)


def _summary(manifest: Manifest) -> Progress:
    """Return the stage's last line: counts only."""
    rejected_files = sum(count for _, count in manifest.rejected)
    numbers = (
        ("documents", float(manifest.documents)),
        ("rejected", float(rejected_files)),
        ("chunks", float(manifest.chunks)),
        ("unseen_chunks", float(dict(manifest.splits).get("unseen", 0))),
        *((entity.lower(), float(n)) for entity, n in manifest.removed),
    )
    return Progress(
        stage=STAGE, message="done", done=manifest.documents, total=manifest.documents + rejected_files, numbers=numbers
    )
