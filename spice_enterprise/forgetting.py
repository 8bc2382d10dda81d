"""Forgetting a document: its originals go for good, and everything that learned from it is named.

In: the id of a document, a workspace, the folders of corpora that may hold it, a vault if there is one.
Out: what was trained on it over all runs, as ids; one audit event.
Refuses: an id that no run and no corpus knows (`E_UNKNOWN_ID`).
Not here: the vault itself (`corpus/vault.py`), retraining. A trained adapter cannot forget: it is retrained or retired.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from spice_enterprise.corpus.corpus_files import read_documents
from spice_enterprise.errors import EXIT_USAGE, StoreError
from spice_enterprise.protocols import Corpus
from spice_enterprise.records import AdapterVersion, AuditEvent, Chunk, Document, NamedDigest, Promotion, Step, Task
from spice_enterprise.store import AnyRecord, RunStore


class KeepsOriginals(Protocol):
    """A vault, as far as forgetting goes."""

    def forget(self, document_id: str) -> int:
        """Destroy the key of one document (by its keyed digest) and return how many values it kept. May be repeated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """What one run made of a document."""

    run: str
    chunks: tuple[str, ...]
    tasks: tuple[str, ...]
    steps: tuple[str, ...]
    adapters: tuple[AdapterVersion, ...]
    aliases: tuple[str, ...]
    """Aliases that were ever pointed at one of the adapters in this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What forgetting a document came to."""

    document_id: str
    keyed_digest: str
    has_vault: bool
    """False: no original was ever kept, so there was nothing to destroy."""
    originals: int
    """Values that the vault ever kept of it."""
    corpora: tuple[str, ...]
    """Folders whose files still hold its scrubbed text."""
    touched: tuple[Touched, ...]

    @property
    def adapters(self) -> tuple[AdapterVersion, ...]:
        """Every adapter that learned from it, once each."""
        return tuple({version.adapter_id: version for run in self.touched for version in run.adapters}.values())

    def event(self, run: str) -> AuditEvent:
        """Return the record of it: ids, digests and counts."""
        return AuditEvent(
            event="document.forgotten",
            run=run,
            subject=(NamedDigest(role="document", name=self.document_id, digest=self.keyed_digest),),
            inputs=tuple(NamedDigest(role="adapter", name=v.adapter_id, digest=v.digest) for v in self.adapters),
            data=(
                ("has_vault", self.has_vault),
                ("originals", self.originals),
                ("runs", len(self.touched)),
                ("chunks", sum(len(item.chunks) for item in self.touched)),
                ("tasks", sum(len(item.tasks) for item in self.touched)),
                ("steps", sum(len(item.steps) for item in self.touched)),
                ("adapters", len(self.adapters)),
            ),
        )


def forget(document_id: str, workspace: Path, corpora: Iterable[Path], vault: KeepsOriginals | None) -> Forgotten:
    """Destroy the originals of a document and list what learned from it. Raises `StoreError` E_UNKNOWN_ID."""
    holding = [(folder, found) for folder in corpora if (found := _in_folder(folder, document_id))]
    in_runs = [(store, found) for store in _runs(workspace) if (found := _in_run(store, document_id))]
    known = [found for _, found in holding] + [found for _, found in in_runs]
    if not known:
        error = StoreError(
            "no run of this workspace and no corpus given has this document",
            code="E_UNKNOWN_ID",
            hint="check the id, --workspace and --corpus; `ingest` prints ids into documents.jsonl",
        )
        error.exit_code = EXIT_USAGE
        raise error
    keyed_digest = known[0].keyed_digest
    return Forgotten(
        document_id=document_id,
        keyed_digest=keyed_digest,
        has_vault=vault is not None,
        originals=vault.forget(keyed_digest) if vault is not None else 0,
        corpora=tuple(str(folder) for folder, _ in holding),
        touched=tuple(_touched(store, document_id) for store, _ in in_runs),
    )


def _runs(workspace: Path) -> Iterator[RunStore]:
    return (RunStore(path.parent) for path in sorted(workspace.glob("*/run.json")))


def _in_folder(folder: Path, document_id: str) -> Document | None:
    return next((d for d in read_documents(folder) if d.document_id == document_id), None)


def _in_run(store: RunStore, document_id: str) -> Document | None:
    corpus = store.load("corpus", Corpus)
    return next((d for d in corpus.documents if d.document_id == document_id), None) if corpus else None


def _touched(store: RunStore, document_id: str) -> Touched:
    below = store.lineage(document_id).descendants
    return Touched(
        run=store.run_dir.name,
        chunks=tuple(r.chunk_id for r in _only(below, Chunk)),
        tasks=tuple(r.task_id for r in _only(below, Task)),
        steps=tuple(r.step_id for r in _only(below, Step)),
        adapters=tuple(_only(below, AdapterVersion)),
        aliases=tuple(sorted({r.alias for r in _only(below, Promotion)})),
    )


R = TypeVar("R")


def _only(records: Iterable[AnyRecord], cls: type[R]) -> list[R]:
    return [record for record in records if isinstance(record, cls)]


def render_forgotten(found: Forgotten) -> str:
    """Return what was forgotten as text for people: ids and what to do."""
    if found.has_vault:
        lines = [f"forgotten  {found.document_id}: its key is destroyed, {found.originals} originals cannot be read any more"]
    else:
        lines = [f"forgotten  {found.document_id}: no vault here, nothing readable was ever kept"]
    for item in found.touched:
        lines.append(
            f"run {item.run:<12} {len(item.chunks)} chunks, {len(item.tasks)} tasks, {len(item.steps)} steps, "
            f"{len(item.adapters)} adapters"
        )
        lines += [f"  retrain or retire {version.adapter_id}  step {version.step}" for version in item.adapters]
        lines += [f"  serving: {', '.join(item.aliases)} was pointed at one of them"] if item.aliases else []
    lines += [f"corpus     {folder}: still holds its scrubbed text; ingest again without the file" for folder in found.corpora]
    if not found.adapters:
        lines.append("no adapter learned from it")
    return "\n".join(lines)
