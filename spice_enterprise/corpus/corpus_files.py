"""The corpus as files that a person can open and a program can check.

In: finished documents, one after the other.
Out: `corpus.jsonl` (a chunk a line), `documents.jsonl`, `rejections.jsonl` and `manifest.json` with the digest of each.
Refuses: to load files that are not the ones the manifest names (`E_CORPUS_FILES`).
Not here: what goes into them (`finishing.py`), the page for people (`review.py`).

Every file is staged and renamed; the manifest comes last, so a folder without one holds no corpus. No clock is read: the
same documents, settings and key give the same bytes.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from spice_enterprise import durable
from spice_enterprise.errors import CorpusError, IntegrityError, SourceError
from spice_enterprise.policy import PiiPolicy
from spice_enterprise.protocols import Corpus, Counts, Manifest, OnProgress, Progress, Source
from spice_enterprise.records import Chunk, Document, FileDigest, Rejection, canonical_json, decode, digest_of

SCHEMA: Final = "spice.corpus/v1"
MANIFEST: Final = "manifest.json"
CHUNKS: Final = "corpus.jsonl"
DOCUMENTS: Final = "documents.jsonl"
REJECTIONS: Final = "rejections.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the manifest says of how the corpus was made."""

    pii_policy_digest: str
    ner_model: str
    isolation: str
    pipeline_digest: str


class CorpusWriter:
    """Streams finished documents into a folder."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder`; an earlier corpus there stays until `close`."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._open = {name: self._stack.enter_context(_staged(folder / name).open("wb")) for name in (CHUNKS, DOCUMENTS)}
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("splits", "split_documents", "removed", "hidden", "flags", "languages")
        }
        self._totals = Counter[str]()
        # the canonical JSON of all (chunk id, split) pairs, hashed as they come
        self._ids = hashlib.sha256(b"[")

    def add(self, document: Document, chunks: Sequence[Chunk], removed: Counts) -> None:
        """Append one document with its chunks, at least one, and how many values of each kind left it."""
        _line(self._open[DOCUMENTS], document)
        for chunk in chunks:
            _line(self._open[CHUNKS], {**_as_dict(chunk), "source": document.uri})
            self._ids.update(b"," * bool(self._totals["chunks"]) + canonical_json([chunk.chunk_id, chunk.split]))
            self._totals["chunks"] += 1
        self._totals.update(documents=1, pages=document.pages, size_bytes=document.size_bytes)
        self._counts["splits"][chunks[0].split] += len(chunks)
        self._counts["split_documents"][chunks[0].split] += 1
        self._counts["removed"].update(dict(removed))
        self._counts["hidden"].update(dict(document.hidden))
        self._counts["flags"].update(document.flags)
        self._counts["languages"][document.language or "unknown"] += 1

    def close(self, made: Made, rejections: Iterable[Rejection], dropped_chunks: Counter[str]) -> Manifest:
        """Make everything durable and write the manifest last."""
        rejections = list(rejections)
        self._ids.update(b"]")
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())
        self._stack.close()
        (self._folder / MANIFEST).unlink(missing_ok=True)
        for name in self._open:
            _staged(self._folder / name).replace(self._folder / name)
        durable.write_file(self._folder / REJECTIONS, b"".join(canonical_json(r) + b"\n" for r in rejections))
        manifest = Manifest(
            schema=SCHEMA,
            corpus_digest=f"sha256:{self._ids.hexdigest()}",
            pii_policy_digest=made.pii_policy_digest,
            ner_model=made.ner_model,
            isolation=made.isolation,
            pipeline_digest=made.pipeline_digest,
            documents=self._totals["documents"],
            chunks=self._totals["chunks"],
            pages=self._totals["pages"],
            size_bytes=self._totals["size_bytes"],
            rejected=_sorted(Counter(r.code for r in rejections)),
            dropped_chunks=_sorted(dropped_chunks),
            files=tuple(_digest(self._folder / name) for name in (CHUNKS, DOCUMENTS, REJECTIONS)),
            **{name: _sorted(counts) for name, counts in self._counts.items()},
        )
        durable.write_file(self._folder / MANIFEST, json.dumps(json.loads(canonical_json(manifest)), indent=1).encode() + b"\n")
        return manifest

    def abandon(self) -> None:
        """Leave nothing behind but what the stage holds."""
        self._stack.close()
        for name in self._open:
            _staged(self._folder / name).unlink(missing_ok=True)


def is_corpus(folder: Path) -> bool:
    """True for a folder that `ingest --out` has written."""
    return (folder / MANIFEST).is_file() and (folder / CHUNKS).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest. Raises `IntegrityError` E_CORPUS_FILES unless every file is the one it names."""
    try:
        manifest = decode(Manifest, json.loads((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise _changed(MANIFEST) from error
    if manifest.schema != SCHEMA:
        raise _changed(MANIFEST)
    for entry in manifest.files:
        if entry.path not in (CHUNKS, DOCUMENTS, REJECTIONS) or not (folder / entry.path).is_file():
            raise _changed(MANIFEST)
        if _digest(folder / entry.path) != entry:
            raise _changed(entry.path)
    return manifest


def read_chunks(folder: Path) -> Iterator[Chunk]:
    """Yield the chunks of a folder, one line at a time."""
    with (folder / CHUNKS).open("rb") as file:
        for line in file:
            data = json.loads(line)
            data.pop("source")
            yield decode(Chunk, data)


def read_documents(folder: Path) -> Iterator[Document]:
    """Yield the documents of a folder."""
    with (folder / DOCUMENTS).open("rb") as file:
        yield from (decode(Document, json.loads(line)) for line in file)


def load_corpus(folder: Path) -> Corpus:
    """Return the corpus of a folder as one value. Raises `IntegrityError` E_CORPUS_FILES when a file was changed."""
    manifest = read_manifest(folder)
    chunks = tuple(read_chunks(folder))
    digest = digest_of([[chunk.chunk_id, chunk.split] for chunk in chunks])
    if digest != manifest.corpus_digest:
        raise _changed(CHUNKS)
    rejections = tuple(decode(Rejection, json.loads(line)) for line in durable.read_lines(folder / REJECTIONS))
    return Corpus(
        documents=tuple(read_documents(folder)),
        chunks=chunks,
        rejections=rejections,
        removed=manifest.removed,
        residual_findings=0,
        pii_policy_digest=manifest.pii_policy_digest,
        ner_model=manifest.ner_model,
        isolation=manifest.isolation,
        digest=digest,
        hidden=manifest.hidden,
        dropped_chunks=manifest.dropped_chunks,
    )


class MadeCorpus:
    """Source and corpus stage of a folder that `ingest --out` has written: nothing is read or scrubbed again."""

    def __init__(self, folder: Path, policy: PiiPolicy) -> None:
        self._folder = folder
        self._policy = policy

    def documents(self) -> Iterator[Document | Rejection]:
        """List the documents that the corpus was made of."""
        yield from read_documents(self._folder)

    def read(self, document: Document) -> bytes:
        """Refuse: the originals are not here. Raises `SourceError` E_IO."""
        raise SourceError("a made corpus holds no originals", code="E_IO", record_id=document.document_id)

    def ingest(self, source: Source, on_progress: OnProgress) -> Corpus:
        """Return the corpus of the folder; `source` is not asked.

        Raises:
            IntegrityError: `E_CORPUS_FILES` when a file is not the one that was written.
            CorpusError: `E_CORPUS_POLICY` when it was scrubbed under another policy than this job's.
        """
        corpus = load_corpus(self._folder)
        if corpus.pii_policy_digest != self._policy.digest():
            raise CorpusError(
                "the corpus was scrubbed under another PII policy than this job's",
                code="E_CORPUS_POLICY",
                hint="ingest again under this policy, or name the other one in policies.pii",
            )
        count = len(corpus.documents)
        on_progress(Progress(stage="corpus", message="done", done=count, total=count, numbers=(("documents", float(count)),)))
        return corpus


def _changed(name: str) -> IntegrityError:
    return IntegrityError(
        f"{name}: not the file that `ingest` wrote", code="E_CORPUS_FILES", hint="ingest again into an empty folder"
    )


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _as_dict(record: object) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(canonical_json(record))
    return data


def _line(file: IO[bytes], value: object) -> None:
    file.write(canonical_json(value) + b"\n")


def _sorted(counts: Counter[str]) -> Counts:
    return tuple(sorted((name, count) for name, count in counts.items() if count))


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileDigest(path=path.name, sha256=digest, size_bytes=path.stat().st_size)
