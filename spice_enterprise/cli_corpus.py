"""The verbs around a corpus: read a source into a folder, have a person check it, forget a document.

In: a folder, an archive, a URL or a config file; the folder of a finished corpus; the id of a document.
Out: a card or one JSON document; the files of the corpus, its page, the page of a review.
Refuses: an output folder that is a file, lies in the source, holds other files or cannot be written (`E_OUT`).
Not here: the work (`job.py`, `corpus_page.py`, `corpus_review.py`, `forgetting.py`).
"""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from spice_enterprise import corpus_page, corpus_review, forgetting, offline
from spice_enterprise.assembly import Assembly
from spice_enterprise.cli_frame import (
    AsJson,
    Debug,
    Name,
    Out,
    Sets,
    Workspace,
    WorkspaceOf,
    greet,
    is_url,
    printable,
    settings_of,
    verb,
)
from spice_enterprise.cli_screen import IngestScreen, Screen
from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.corpus.corpus_files import is_corpus
from spice_enterprise.corpus.staging import FOLDER as STAGED
from spice_enterprise.errors import EXIT_DONE, EXIT_FAIL, EXIT_INCONCLUSIVE, ConfigError, SourceError
from spice_enterprise.job import SpiceAdapterJob
from spice_enterprise.policy import load_pii
from spice_enterprise.protocols import Corpus, Parts
from spice_enterprise.records import AuditEvent, Chunk, encode_json
from spice_enterprise.store import RunStore

_OWN: Final = frozenset({".lock", STAGED})
"""What an unfinished run leaves in the output folder."""
_KEYS: Final[Mapping[str, corpus_review.Verdict]] = {"": "clean", "c": "clean", "l": "left", "t": "too_much", "b": "both"}

CorpusFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished corpus.", show_default=False)]


# --- ingest -----------------------------------------------------------------------------------------------------------


def ingest(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder, an archive, a URL such as s3://..., or a YAML file.", show_default=False
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write the corpus there. Without it: a run's stage.", show_default=False),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="PII policy instead of the shipped one.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Processes that read and scrub.", show_default=False)
    ] = None,
    name: Name = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Read, scrub, cut and split documents; stop there. The same command continues. `ingest review` checks it by hand."""
    with verb("ingest", is_json=as_json, is_debug=debug) as out:
        greet("ingest", "from a URL" if is_url(source) else source)
        _check_source(source)
        more: dict[str, object] = {"ingest.workers": workers} if workers is not None else {}
        if policy is not None:
            more["policies.pii"] = str(policy.absolute())
        settings = settings_of(source, workspace, name, sets, more)
        if to is None:
            _ingest_stage(out, settings)
        else:
            _ingest_to(out, settings, to)


def _check_source(source: str) -> None:
    path = Path(source)
    if not is_url(source) and not path.exists() and path.suffix.lower() not in (".yaml", ".yml"):
        raise SourceError(f"{source}: no such folder or file", code="E_NO_CORPUS", hint="check the path")


def _ingest_stage(out: Out, settings: JobConfig) -> None:
    """Do the corpus stage of a run."""
    with Screen() as screen:
        corpus = SpiceAdapterJob(config=settings, on_progress=screen).ingest()
    out.show({**_corpus_counts(corpus), "run_dir": str(settings.run_dir)}, _corpus_text(corpus))


def _ingest_to(out: Out, settings: JobConfig, folder: Path) -> None:
    """Make a corpus in a folder of its own."""
    _check_out(folder, settings.corpus)
    if not is_url(settings.corpus) and settings.workspace_dir.resolve().is_relative_to(Path(settings.corpus).resolve()):
        raise ConfigError(
            f"--workspace {settings.workspace_dir}: lies in the source, so its keys would be read as documents",
            code="E_OUT",
            hint="name a workspace outside of the source",
        )
    policy = load_pii(settings.policies.pii)
    _say_what_stands(folder)
    with IngestScreen() as screen:
        manifest = SpiceAdapterJob(config=settings, on_progress=screen).ingest_to(folder)
    attempted = offline.GUARD.attempts
    page = corpus_page.write_page(folder, policy)
    data = {**encode_json(manifest), "folder": str(folder), "page": str(page), "connections_attempted": attempted}
    out.show(data, corpus_page.render_text(manifest, folder, connections_attempted=attempted))


def _check_out(folder: Path, source: str) -> None:
    """Refuse a folder that would lose files, feed on itself, or cannot be written. Raises `ConfigError` E_OUT."""
    if folder.exists() and not folder.is_dir():
        raise _unfit(folder, "is a file", "name a folder")
    if not is_url(source) and folder.resolve().is_relative_to(Path(source).resolve()):
        raise _unfit(folder, "lies in the source, so the next run would read it", "name a folder outside of the source")
    standing = next(found for found in (folder, *folder.absolute().parents) if found.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        raise _unfit(folder, "cannot be written", "check the permissions")
    if (
        folder.is_dir()
        and not is_corpus(folder)
        and not _OWN & {item.name for item in folder.iterdir()}
        and any(folder.iterdir())
    ):
        raise _unfit(folder, "holds other files", "name a new or an empty folder")


def _unfit(folder: Path, problem: str, hint: str) -> ConfigError:
    return ConfigError(f"--out {folder}: {problem}", code="E_OUT", hint=hint)


def _say_what_stands(folder: Path) -> None:
    """Tell what an earlier run left, so that nobody wonders why this one is quick."""
    staged = sum(1 for _ in (folder / STAGED).rglob("*.json"))
    if staged:
        _say(f"{staged} documents were prepared before; with the same settings they are not read again")
    elif is_corpus(folder):
        _say("this folder holds a corpus, which is made anew")


def _say(line: str) -> None:
    sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


def _corpus_counts(corpus: Corpus) -> dict[str, object]:
    return {
        "corpus_digest": corpus.digest,
        "documents": len(corpus.documents),
        "chunks": len(corpus.chunks),
        "train_chunks": len(corpus.train),
        "unseen_documents": len({chunk.document_id for chunk in corpus.unseen}),
        "rejected": dict(sorted(Counter(rejection.code for rejection in corpus.rejections).items())),
        "removed": dict(corpus.removed),
        "residual_findings": corpus.residual_findings,
        "isolation": corpus.isolation,
    }


def _corpus_text(corpus: Corpus) -> str:
    counts = _corpus_counts(corpus)
    return "\n".join(f"{key:<18} {_value_text(value)}" for key, value in counts.items())


def _value_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
    return str(value)


# --- review -----------------------------------------------------------------------------------------------------------


def review(
    folder: CorpusFolder,
    size: Annotated[int, typer.Option("--sample", min=1, help="Chunks to draw.")] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws another sample.")] = 0,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="Read these marks and log the result.", show_default=False)
    ] = None,
    workspace: WorkspaceOf = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw chunks for a person to check, or record what the person found. Exit 3 when something personal is left."""
    with verb("ingest review", is_json=as_json, is_debug=debug) as out:
        if record is not None:
            _record(out, folder, record, workspace)
        else:
            _draw(out, folder, size, seed)


def _draw(out: Out, folder: Path, size: int, seed: int) -> None:
    sample = corpus_review.draw_sample(folder, size, seed)
    marks_path = folder / corpus_review.MARKS
    marks: Mapping[str, corpus_review.Verdict] = corpus_review.standing_marks(marks_path, sample)
    page = corpus_review.write_review_page(folder, sample)
    corpus_review.write_marks(marks_path, sample, marks)
    if not out.is_json and _is_terminal():
        marks = _ask(sample, marks, marks_path)
    following = f"spice-enterprise ingest review {folder} --record {marks_path}"
    text = f"page   {page}\nmarks  {marks_path}  {len(marks)} of {sample.size} marked\nnext   {following}"
    data = {**sample.header(), "page": str(page), "marks": str(marks_path), "marked": len(marks)}
    out.show({**data, "chunk_ids": [chunk.chunk_id for chunk in sample.chunks]}, text)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _ask(
    sample: corpus_review.Sample, marks: Mapping[str, corpus_review.Verdict], path: Path
) -> Mapping[str, corpus_review.Verdict]:
    """Show one unmarked chunk after the other and keep each answer at once."""
    console, said = Console(highlight=False), dict(marks)
    for number, chunk in enumerate(sample.chunks, 1):
        if chunk.chunk_id in said:
            continue
        console.print(_shown(chunk, f"{number} of {sample.size}"))
        answer = console.input("[enter] clean  [l] personal data left  [t] too much removed  [b] both  [q] stop: ", markup=False)
        if answer.strip().lower() not in _KEYS:
            break
        said[chunk.chunk_id] = _KEYS[answer.strip().lower()]
        corpus_review.write_marks(path, sample, said)
    return said


def _shown(chunk: Chunk, title: str) -> Text:
    text = Text("".join(c if c.isprintable() or c == "\n" else " " for c in chunk.text))
    for redaction in chunk.redactions:
        text.stylize("cyan", redaction.start, redaction.end)
    return Text.assemble((f"\n{title}  {chunk.chunk_id}  {corpus_page.place_of(chunk)}\n", "dim"), text)


def _record(out: Out, folder: Path, marks_path: Path, workspace: Path) -> None:
    sample = corpus_review.sample_of_marks(marks_path, folder)
    found = corpus_review.findings_of(sample, corpus_review.read_marks(marks_path, sample))
    _log(workspace, found.event(run=""))
    code = EXIT_FAIL if found.left.count else EXIT_DONE if found.is_complete else EXIT_INCONCLUSIVE
    out.show({**encode_json(found), "is_complete": found.is_complete}, corpus_review.render_findings(found), code)


# --- forget -----------------------------------------------------------------------------------------------------------


def forget(
    document: Annotated[str, typer.Argument(metavar="DOCUMENT", help="Id of the document (doc_...).", show_default=False)],
    corpora: Annotated[
        list[Path] | None,
        typer.Option("--corpus", metavar="DIR", help="Folder of a corpus to look in as well.", show_default=False),
    ] = None,
    workspace: WorkspaceOf = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Destroy the originals kept of a document, and list what was trained on it: retrain or retire that."""
    with verb("forget", is_json=as_json, is_debug=debug) as out:
        found = forgetting.forget(document, workspace, corpora or [], _vault(workspace))
        _log(workspace, found.event(run=""))
        data = {**asdict(found), "adapters": [version.adapter_id for version in found.adapters]}
        out.show(data, forgetting.render_forgotten(found))


def _vault(workspace: Path) -> forgetting.KeepsOriginals | None:
    return _parts(workspace).vault


def _log(workspace: Path, event: AuditEvent) -> None:
    _parts(workspace).audit.append(event)


def _parts(workspace: Path) -> Assembly:
    """Return the parts of a workspace that need no corpus and no model."""
    settings = build_config({"corpus": ".", "workspace": str(workspace)}, where="workspace")
    return Assembly(settings, Parts(), RunStore(settings.run_dir))
