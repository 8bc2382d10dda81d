"""The command line: one verb is one call, and prints one record.

In: arguments; a config file, or a folder of documents which is then a corpus with default settings.
Out: on stdout one JSON document with `--json`, else short text; progress and errors on stderr; the exit code.
Refuses: wrong usage and wrong settings (exit 2), one line per problem, without a traceback unless `--debug`.
Not here: any work. typer and rich stay in this file.

Exit codes: 0 done or PASS, 1 machinery, 2 usage and settings, 3 FAIL, 4 INCONCLUSIVE or nothing learned,
5 integrity, 75 try again.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Final, Self

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from spice_enterprise import demo as demo_corpus
from spice_enterprise.audit.verify import verify as verify_bundle
from spice_enterprise.config import JobConfig, Section, build_config, load_config, read_yaml
from spice_enterprise.doctor import examine
from spice_enterprise.errors import (
    EXIT_DONE,
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_INTEGRITY,
    EXIT_USAGE,
    ConfigError,
    PolicyError,
    ReleaseError,
    SpiceError,
    StoreError,
    classify,
)
from spice_enterprise.job import JobResult, SpiceAdapterJob
from spice_enterprise.plan import make_plan
from spice_enterprise.policy import Policy, load_gate, load_guardrails, load_pii
from spice_enterprise.protocols import Corpus, Progress
from spice_enterprise.records import (
    AdapterVersion,
    Alert,
    Alias,
    Chunk,
    Document,
    GateReport,
    Promotion,
    Rollout,
    Step,
    Task,
    Verdict,
    encode_json,
    id_of,
)
from spice_enterprise.report import render_text, rewrite_report
from spice_enterprise.store import Lineage, RunStore, parents_of

VERDICT_EXIT: Final[dict[Verdict | None, int]] = {
    "PASS": EXIT_DONE,
    "FAIL": EXIT_FAIL,
    "INCONCLUSIVE": EXIT_INCONCLUSIVE,
    None: EXIT_INCONCLUSIVE,
}
PLAIN_EVERY_S: Final = 1.0
"""Seconds between progress lines when stderr is not a terminal."""
HIGHLIGHTS: Final = (
    (r"\b(PASS|ok)\b", "bold green"),
    (r"\b(FAIL|missing|problem)\b", "bold red"),
    (r"\b(INCONCLUSIVE|warn|warning)\b", "bold yellow"),
)

app = typer.Typer(
    name="spice-enterprise",
    help="Adapt a language model to a company's private documents, in-house, and prove what it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
audit_app = typer.Typer(help="Check the audit trail.", no_args_is_help=True)
policy_app = typer.Typer(help="Check policy files.", no_args_is_help=True)
app.add_typer(audit_app, name="audit", rich_help_panel="Evidence")
app.add_typer(policy_app, name="policy", rich_help_panel="Before a run")

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, or a folder of documents.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run.", show_default=False)]
Workspace = Annotated[Path | None, typer.Option("--workspace", help="Folder that runs share.", show_default=False)]
WorkspaceOf = Annotated[Path, typer.Option("--workspace", help="Folder that runs share.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. selfplay.steps=20.", show_default=False),
]


# --- the frame of every verb ------------------------------------------------------------------------------------------


class Out:
    """What a verb prints at its end, and the code it exits with."""

    def __init__(self, *, is_json: bool, is_debug: bool) -> None:
        self.is_json = is_json
        self.is_debug = is_debug
        self.code = EXIT_DONE

    def show(self, data: object, text: str, code: int = EXIT_DONE) -> None:
        """Print `data` as JSON or `text` for people, and keep the exit code."""
        self.code = code
        if self.is_json:
            self._write(json.dumps(encode_json(data), indent=2, ensure_ascii=False))
        else:
            self._write(text)

    def fail(self, error: SpiceError) -> None:
        """Print an error: one line per problem on stderr, and with `--json` a document on stdout."""
        self.code = error.exit_status()
        if self.is_debug:
            traceback.print_exception(error)
        for line in _error_lines(error):
            sys.stderr.write(_printable(line) + "\n")
        if self.is_json:
            problems = error.problems if isinstance(error, ConfigError) else ()
            shown = {"code": error.code, "message": error.message, "record_id": error.record_id, "hint": error.hint}
            self._write(json.dumps({"error": {**shown, "problems": list(problems)}}, indent=2, ensure_ascii=False))

    def _write(self, text: str) -> None:
        try:
            if sys.stdout.isatty() and not self.is_json:
                Console(highlight=False).print(_coloured(text), soft_wrap=True)
            else:
                sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # whoever read us has gone; the work is done, so its exit code stands
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _coloured(text: str) -> Text:
    coloured = Text(text)
    for pattern, style in HIGHLIGHTS:
        coloured.highlight_regex(pattern, style)
    return coloured


def _error_lines(error: SpiceError) -> Iterator[str]:
    """Yield one line, or one for each of several problems."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    if len(problems) < 2:
        yield error.explain()
        return
    where = error.message.partition(": ")[0]
    yield from (f"{error.code}: {where}: {problem}" for problem in problems)
    if error.hint:
        yield f"{error.code}: {len(problems)} problems -> {error.hint}"


def _printable(line: str) -> str:
    """Return `line` without control characters, which a file name could smuggle to the terminal."""
    return "".join(character if character.isprintable() else "?" for character in line)


@contextmanager
def _verb(name: str, *, is_json: bool, is_debug: bool) -> Iterator[Out]:
    """Run a verb: classify what it raises, say it in one line, leave with the right code."""
    out = Out(is_json=is_json, is_debug=is_debug)
    try:
        with _stoppable():
            yield out
    except SpiceError as error:
        out.fail(error)
    except KeyboardInterrupt:
        out.fail(StoreError("stopped on request", code="E_STOPPED", hint="the same command continues"))
    except Exception as error:  # noqa: BLE001 - the last border: nothing may reach the user unclassified
        unexpected = classify(error, name)
        unexpected.__cause__ = error
        out.fail(unexpected)
    raise typer.Exit(out.code)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM stop a job as Ctrl-C does: it finishes writing, leaves an audit record and can be continued."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _greet(verb: str, subject: object) -> None:
    """Say at once that something happens: the libraries behind a job take seconds to load."""
    sys.stderr.write(_printable(f"spice-enterprise {metadata.version('spice-enterprise')}  {verb} {subject}") + "\n")
    sys.stderr.flush()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spice-enterprise {metadata.version('spice-enterprise')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Hold the options of the program itself."""


# --- settings ---------------------------------------------------------------------------------------------------------


def _config(path: Path, workspace: Path | None, name: str | None, sets: Sequence[str] | None) -> JobConfig:
    """Return the settings: defaults, then the file, then the flags."""
    overrides = {**_pairs(sets or ())}
    if workspace is not None:
        overrides["workspace"] = str(workspace)
    if name is not None:
        overrides["name"] = name
    if path.is_dir():
        return build_config({"corpus": str(path)}, overrides, where=path.name)
    return load_config(path, overrides)


def _pairs(sets: Sequence[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` arguments as dotted keys and YAML values. Raises `ConfigError` naming the keys."""
    pairs: dict[str, Any] = {}
    for item in sets:
        key, sign, value = item.partition("=")
        if not sign or not _is_setting(key):
            known = "name it as section.key=value" if sign else "a = is missing"
            raise ConfigError(f"--set {key}: {known}", hint="`spice-enterprise plan CONFIG` prints every setting")
        try:
            pairs[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: the value is not valid YAML", hint="quote it") from None
    return pairs


def _is_setting(key: str) -> bool:
    """True for `key` and `section.key`; whether the last part exists is checked with the rest of the settings."""
    section, dot, _ = key.partition(".")
    if not dot:
        return bool(section)
    field = JobConfig.model_fields.get(section)
    kind = field.annotation if field else None
    return isinstance(kind, type) and issubclass(kind, Section) and key.count(".") == 1


# --- progress ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A progress event in words."""

    stage: str
    count: str
    rest: str

    @classmethod
    def of(cls, event: Progress) -> Self:
        count = f"{event.done}/{event.total}" if event.total else ""
        ordered = sorted(event.numbers, key=lambda pair: pair[0] != "left_s")  # what a narrow terminal must not cut off
        return cls(event.stage, count, "  ".join([event.message, *(_number_text(name, value) for name, value in ordered)]))

    def __str__(self) -> str:
        return f"{self.stage:<10} {self.count:>9}  {self.rest}".rstrip()


def _number_text(name: str, value: float) -> str:
    if name == "left_s":
        return f"left {_minutes(value)}"
    if name == "seconds":
        return f"{value:.1f} s"
    if name.endswith("_rate"):
        return f"{name.removesuffix('_rate')} {value:.0%}"
    return f"{name.removesuffix('_reward').replace('_per_s', '/s').replace('_', ' ')} {value:.3g}"


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Screen:
    """Draws progress on stderr: a live bar on a terminal, else one line per event and second. Never raises."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown_at = -PLAIN_EVERY_S
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        if sys.stderr.isatty():
            self._bars = Bars(
                SpinnerColumn(),
                TextColumn("{task.description:<10}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=5)),
                TextColumn("{task.fields[rest]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, event: Progress) -> None:
        """Show one event. A stage's end stays on the screen; what happens inside it moves."""
        try:
            if self._bars:
                self._draw(self._bars, event)
            else:
                self._print(event)
        except (OSError, ValueError):
            # nobody looks any more (a closed terminal): the job goes on without a screen
            self._bars = None

    def _draw(self, bars: Bars, event: Progress) -> None:
        if event.message == "done" and not event.total and self._task is not None:
            bars.remove_task(self._task)
            self._task = None
            bars.console.print(_coloured(f"{event.stage:<10} ok  {_Line.of(event).rest.removeprefix('done').strip()}"))
            return
        if event.message == "begin" or self._task is None:
            if self._task is not None:
                bars.remove_task(self._task)
            self._task = bars.add_task(event.stage, total=event.total or None, rest="")
        line = _Line.of(event)
        bars.update(self._task, description=event.stage, completed=event.done, total=event.total or None, rest=line.rest)

    def _print(self, event: Progress) -> None:
        is_edge = not event.total or event.done == event.total
        now = self._clock()
        if is_edge or now - self._shown_at >= PLAIN_EVERY_S:
            self._shown_at = now
            sys.stderr.write(f"{_Line.of(event)}\n")
            sys.stderr.flush()


# --- the road ---------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="The road")
def run(
    config: Config,
    name: Name = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Walk the whole road: ingest, train, judge, and on PASS promote to sandbox. The same command continues."""
    with _verb("run", is_json=as_json, is_debug=debug) as out:
        _greet("run", config)
        settings = _config(config, workspace, name, sets)
        with Screen() as screen:
            result = SpiceAdapterJob(config=settings, on_progress=screen).run()
        _show_result(out, result, VERDICT_EXIT[result.verdict])


@app.command(rich_help_panel="The road")
def demo(
    documents: Annotated[int, typer.Option("--documents", min=2, help="Fictional documents to write.")] = 120,
    workspace: WorkspaceOf = Path("runs"),
    name: Annotated[str, typer.Option("--name", help="Name of the run.")] = "demo",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write fictional documents and adapt the small model to them. Exit 0 once finished, whatever the verdict."""
    with _verb("demo", is_json=as_json, is_debug=debug) as out:
        _greet("demo", f"with {documents} fictional documents")
        corpus = workspace / f"demo-documents-{documents}"
        demo_corpus.write_corpus(corpus, documents=documents)
        settings = build_config(
            demo_corpus.demo_settings(corpus), {"workspace": str(workspace), "name": name}, where="demo settings"
        )
        with Screen() as screen:
            result = SpiceAdapterJob(config=settings, on_progress=screen).run()
        _show_result(out, result, EXIT_DONE)


def _show_result(out: Out, result: JobResult, code: int) -> None:
    data = {**encode_json(result.figures), "run_dir": str(result.run_dir)}
    out.show(data, render_text(result.figures, run_dir=result.run_dir), code)


@app.command(rich_help_panel="The road")
def ingest(
    config: Config,
    name: Name = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Read, scrub, cut and split the documents; stop there."""
    with _verb("ingest", is_json=as_json, is_debug=debug) as out:
        _greet("ingest", config)
        settings = _config(config, workspace, name, sets)
        with Screen() as screen:
            corpus = SpiceAdapterJob(config=settings, on_progress=screen).ingest()
        out.show({**_corpus_counts(corpus), "run_dir": str(settings.run_dir)}, _corpus_text(corpus))


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


@app.command(rich_help_panel="The road")
def train(
    config: Config,
    name: Name = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Go as far as the trained adapter; stop before it is judged."""
    with _verb("train", is_json=as_json, is_debug=debug) as out:
        _greet("train", config)
        settings = _config(config, workspace, name, sets)
        with Screen() as screen:
            version = SpiceAdapterJob(config=settings, on_progress=screen).train()
        out.show(version, f"{version.adapter_id}  step {version.step}  {version.digest}")


@app.command(rich_help_panel="The road")
def gate(
    config: Config,
    name: Name = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Go as far as the verdict, promoting nothing."""
    with _verb("gate", is_json=as_json, is_debug=debug) as out:
        _greet("gate", config)
        settings = _config(config, workspace, name, sets)
        with Screen() as screen:
            report = SpiceAdapterJob(config=settings, on_progress=screen).gate()
        code = VERDICT_EXIT[report.verdict if report else None]
        out.show(report, _report_text(report), code)


def _report_text(report: GateReport | None) -> str:
    if report is None:
        return "nothing new was learned, so there is nothing to judge"
    wide = max((len(result.check) for result in report.results), default=0)
    rows = [
        f"{result.check:<{wide}}  {result.verdict:<12}  {result.value:.3g} (limit {result.limit:.3g})  n={result.n}"
        for result in report.results
    ]
    return "\n".join([*rows, *report.reasons, f"{report.verdict}  {report.adapter_id}  {report.gate_id}"])


# --- release ----------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Release")
def promote(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Id of the adapter.", show_default=False)],
    to: Annotated[Alias, typer.Option("--to", help="The alias to point at it.")],
    workspace: WorkspaceOf = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Point an alias at an adapter that passed the gate."""
    with _verb("promote", is_json=as_json, is_debug=debug) as out:
        out.show(*_moved(SpiceAdapterJob.open(workspace, adapter).promote(adapter, to)))


@app.command(rich_help_panel="Release")
def rollback(
    alias: Annotated[Alias, typer.Argument(metavar="ALIAS", help="The alias to point back.", show_default=False)],
    workspace: WorkspaceOf = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Point an alias back at what its last promotion replaced."""
    with _verb("rollback", is_json=as_json, is_debug=debug) as out:
        moves = [move for store in _runs(workspace) for move in store.all(Promotion) if move.alias == alias]
        if not moves:
            message = f"{workspace}: nothing was ever promoted to {alias}"
            raise ReleaseError(message, code="E_NO_SAFE_VERSION", hint="check --workspace")
        newest = max(moves, key=lambda move: move.generation)
        out.show(*_moved(SpiceAdapterJob.open(workspace, newest.promotion_id).rollback(alias)))


def _moved(move: Promotion) -> tuple[Promotion, str]:
    return (
        move,
        f"{move.alias} -> {move.adapter_id}  generation {move.generation}  {move.kind}  replaces {move.replaces or 'nothing'}",
    )


# --- evidence ---------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Evidence")
def trace(
    record_id: Annotated[str, typer.Argument(metavar="ID", help="Id of any record.", show_default=False)],
    workspace: WorkspaceOf = Path("runs"),
    limit: Annotated[int, typer.Option("--limit", min=0, help="Most lines in each direction; 0 is all.")] = 40,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Walk the road of one record in both directions: ids and numbers, never text."""
    with _verb("trace", is_json=as_json, is_debug=debug) as out:
        found = {store.run_dir.name: lineage for store in _runs(workspace) if (lineage := _lineage(store, record_id))}
        if not found:
            unknown = StoreError(
                "no run of this workspace has this record", code="E_UNKNOWN_ID", hint="check the id and --workspace"
            )
            unknown.exit_code = EXIT_USAGE
            raise unknown
        out.show(
            {"id": record_id, "runs": {run: _lineage_data(lineage) for run, lineage in found.items()}},
            "\n".join(line for run, lineage in found.items() for line in _lineage_lines(run, lineage, limit)),
        )


def _runs(workspace: Path) -> list[RunStore]:
    return [RunStore(path.parent) for path in sorted(workspace.glob("*/run.json"))]


def _lineage(store: RunStore, record_id: str) -> Lineage | None:
    try:
        return store.lineage(record_id)
    except StoreError as error:
        if error.code != "E_UNKNOWN_ID":
            raise
        return None


def _lineage_data(lineage: Lineage) -> dict[str, object]:
    return {
        "record": _facts(lineage.record),
        "came_from": [_facts(record) for record in lineage.ancestors],
        "led_to": [_facts(record) for record in lineage.descendants],
    }


def _lineage_lines(run: str, lineage: Lineage, limit: int) -> Iterator[str]:
    yield f"run {run}"
    for title, records in (("came from", lineage.ancestors), ("record", (lineage.record,)), ("led to", lineage.descendants)):
        kinds = Counter(type(record).__name__ for record in records)
        yield f"{title:<10} {', '.join(f'{kind} {count}' for kind, count in kinds.items()) or 'nothing'}"
        shown = records[: limit or None]
        yield from (f"  {_facts_line(record)}" for record in shown)
        if len(shown) < len(records):
            yield f"  ... {len(records) - len(shown)} more (--limit 0 shows all)"


NUMBERS: Final[dict[type, tuple[str, ...]]] = {
    Document: ("size_bytes",),
    Chunk: ("index", "token_count", "split"),
    Task: ("answer_kind", "task_format", "regime"),
    Rollout: ("role", "step", "index", "outcome", "reward"),
    Step: ("number", "is_applied", "reward_mean", "loss"),
    Alert: ("step", "monitor", "severity", "value", "limit"),
    AdapterVersion: ("step", "role", "digest"),
    GateReport: ("verdict", "adapter_digest", "policy_digest"),
    Promotion: ("alias", "kind", "generation", "adapter_digest"),
}
"""What `trace` tells of each kind of record: numbers, closed words and digests."""


def _facts(record: Any) -> dict[str, object]:
    """Return a record's id, kind, parents and key numbers."""
    numbers = {name: getattr(record, name) for name in NUMBERS[type(record)]}
    return {"id": id_of(record), "record": type(record).__name__, **numbers, "parents": _few_parents(record)}


def _few_parents(record: Any) -> list[str]:
    """Return the parents, but not the hundreds of rollouts of a step: they are on the road themselves."""
    parents = parents_of(record)
    return [parent for parent in parents if not (isinstance(record, Step) and parent in record.rollout_ids)]


def _facts_line(record: Any) -> str:
    facts = _facts(record)
    numbers = [f"{name} {_short(facts[name])}" for name in NUMBERS[type(record)]]
    parents = " ".join(_few_parents(record))
    return f"{facts['id']:<24} {facts['record']:<14} {'  '.join(numbers)}{f'  <- {parents}' if parents else ''}"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return text[:19] if text.startswith("sha256:") else text


@app.command(rich_help_panel="Evidence")
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a finished run.", show_default=False)],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a finished run's report again from its records, and print where it is."""
    with _verb("report", is_json=as_json, is_debug=debug) as out:
        figures, (page, data) = rewrite_report(RunStore(run_dir.absolute()))
        shown = {**encode_json(figures), "run_dir": str(run_dir), "html": str(page), "json": str(data)}
        out.show(shown, str(page))


@audit_app.command("verify")
def audit_verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A workspace, or its audit folder.", show_default=False)],
    trust: Annotated[Path, typer.Option("--trust", help="The keys to trust, kept apart from the bundle.", show_default=False)],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Recompute the tree, every checkpoint, signature and digest, offline. Exit 5 on any finding, 2 when unreadable."""
    with _verb("audit verify", is_json=as_json, is_debug=debug) as out:
        try:
            findings = verify_bundle(bundle, trust)
        except SpiceError as error:
            error.exit_code = EXIT_USAGE
            raise
        lines = [f"{finding.kind:<12} {finding.name}  {finding.detail}" for finding in findings]
        text = "\n".join([*lines, f"{len(findings)} findings" if findings else "ok: nothing was found wrong"])
        out.show({"findings": findings}, text, EXIT_INTEGRITY if findings else EXIT_DONE)


# --- before a run -----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Before a run")
def plan(
    config: Config,
    name: Name = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print every problem, what the run needs, the smallest gain it could prove, and every setting."""
    with _verb("plan", is_json=as_json, is_debug=debug) as out:
        found = make_plan(_config(config, workspace, name, sets))
        out.show(found, str(found), EXIT_DONE if found.is_ready else EXIT_USAGE)


@app.command(rich_help_panel="Before a run")
def doctor(workspace: WorkspaceOf = Path("runs"), as_json: AsJson = False, debug: Debug = False) -> None:
    """Look at this machine: libraries, processor, memory, models, isolation, offline readiness."""
    with _verb("doctor", is_json=as_json, is_debug=debug) as out:
        findings = examine(workspace)
        wide = max(len(finding.name) for finding in findings)
        lines = [
            f"{finding.name:<{wide}}  {finding.status:<7}  {finding.detail}{f'  -> {finding.fix}' if finding.fix else ''}"
            for finding in findings
        ]
        is_fit = all(finding.status != "missing" for finding in findings)
        out.show({"findings": findings}, "\n".join(lines), EXIT_DONE if is_fit else EXIT_USAGE)


POLICY_KINDS: Final[dict[str, Callable[[str | None], Policy]]] = {
    "PiiPolicy": load_pii,
    "GuardrailsPolicy": load_guardrails,
    "PromotionPolicy": load_gate,
}


@policy_app.command("check")
def policy_check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Policy files.", show_default=False)],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check policy files without running anything; every problem of every file."""
    with _verb("policy check", is_json=as_json, is_debug=debug) as out:
        checked = [_check_policy(file) for file in files]
        is_good = all(not item["problems"] for item in checked)
        out.show({"policies": checked}, "\n".join(_policy_lines(checked)), EXIT_DONE if is_good else EXIT_USAGE)


def _check_policy(file: Path) -> dict[str, Any]:
    kind = None
    try:
        kind = read_yaml(file, PolicyError).get("kind")
        load = POLICY_KINDS.get(kind) if isinstance(kind, str) else None
        if load is None:
            problem = f"kind: expected one of {', '.join(POLICY_KINDS)}"
            return {"file": str(file), "kind": None, "digest": None, "problems": [problem]}
        return {"file": str(file), "kind": kind, "digest": load(str(file)).digest(), "problems": []}
    except PolicyError as error:
        return {"file": str(file), "kind": kind, "digest": None, "problems": list(error.problems or (error.message,))}


def _policy_lines(checked: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for item in checked:
        if not item["problems"]:
            yield f"ok       {item['file']}  {item['kind']}  {item['digest']}"
        yield from (f"problem  {item['file']}: {problem}" for problem in item["problems"])
