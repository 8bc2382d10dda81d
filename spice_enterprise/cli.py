"""The command line: one verb is one call, and prints one record.

In: arguments; a config file, or a folder of documents which is then a corpus with default settings.
Out: on stdout one JSON document with `--json`, else short text; progress and errors on stderr; the exit code.
Refuses: wrong usage and wrong settings (exit 2), one line per problem, without a traceback unless `--debug`.
Not here: any work; the verbs around a corpus (`cli_corpus.py`), the frame of a verb (`cli_frame.py`).

Exit codes: 0 done or PASS, 1 machinery, 2 usage and settings, 3 FAIL, 4 INCONCLUSIVE or nothing learned,
5 integrity, 75 try again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from spice_enterprise import cli_corpus, cli_experiment, cli_sampler, cli_verifier
from spice_enterprise import demo as demo_corpus
from spice_enterprise.audit.verify import verify as verify_bundle
from spice_enterprise.cli_frame import (
    AsJson,
    Config,
    Debug,
    Name,
    Out,
    Sets,
    Workspace,
    WorkspaceOf,
    greet,
    settings_of,
    verb,
)
from spice_enterprise.cli_screen import Screen
from spice_enterprise.config import build_config, read_yaml
from spice_enterprise.doctor import examine
from spice_enterprise.errors import (
    EXIT_DONE,
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_INTEGRITY,
    EXIT_USAGE,
    PolicyError,
    ReleaseError,
    SpiceError,
    StoreError,
)
from spice_enterprise.job import JobResult, SpiceAdapterJob
from spice_enterprise.plan import make_plan
from spice_enterprise.policy import Policy, load_gate, load_guardrails, load_pii
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


def _exit_of(result: JobResult) -> int:
    """Return the exit status of a finished job: one that was halted before anything could be judged has failed."""
    return EXIT_FAIL if result.verdict is None and result.figures.is_halted else VERDICT_EXIT[result.verdict]


class Verbs(TyperGroup):
    """Finds verbs of two words beside verbs that take an argument: `ingest review DIR` and `ingest SOURCE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb that the first one or two words name, and the rest of the words."""
        two = " ".join(args[:2])
        if two in self.commands:
            return two, self.commands[two], args[2:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="spice-enterprise",
    cls=Verbs,
    help="Adapt a language model to a company's private documents, in-house, and prove what it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
audit_app = typer.Typer(help="Check the audit trail.", no_args_is_help=True)
policy_app = typer.Typer(help="Check policy files.", no_args_is_help=True)
app.add_typer(audit_app, name="audit", rich_help_panel="Evidence")
app.add_typer(policy_app, name="policy", rich_help_panel="Before a run")


# --- the program itself -----------------------------------------------------------------------------------------------


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spice-enterprise {metadata.version('spice-enterprise')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Hold the options of the program itself."""


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
    with verb("run", is_json=as_json, is_debug=debug) as out:
        greet("run", config)
        settings = settings_of(config, workspace, name, sets)
        with Screen() as screen:
            result = SpiceAdapterJob(config=settings, on_progress=screen).run()
        _show_result(out, result, _exit_of(result))


@app.command(rich_help_panel="The road")
def demo(
    documents: Annotated[int, typer.Option("--documents", min=2, help="Fictional documents to write.")] = 120,
    workspace: WorkspaceOf = Path("runs"),
    name: Annotated[str, typer.Option("--name", help="Name of the run.")] = "demo",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write fictional documents and adapt the small model to them. Exit 0 once finished, whatever the verdict."""
    with verb("demo", is_json=as_json, is_debug=debug) as out:
        greet("demo", f"with {documents} fictional documents")
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


app.command("ingest", rich_help_panel="The road")(cli_corpus.ingest)
app.command("ingest review", rich_help_panel="The road")(cli_corpus.review)


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
    with verb("train", is_json=as_json, is_debug=debug) as out:
        greet("train", config)
        settings = settings_of(config, workspace, name, sets)
        with Screen() as screen:
            version = SpiceAdapterJob(config=settings, on_progress=screen).train()
        out.show(version, f"{version.adapter_id}  step {version.step}  {version.digest}")


app.command("serve-sampler", rich_help_panel="The road")(cli_sampler.serve_sampler)
app.command("experiment", rich_help_panel="Measuring the method")(cli_experiment.experiment)
app.command("crossplay", rich_help_panel="Measuring the method")(cli_experiment.crossplay)


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
    with verb("gate", is_json=as_json, is_debug=debug) as out:
        greet("gate", config)
        settings = settings_of(config, workspace, name, sets)
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
    with verb("promote", is_json=as_json, is_debug=debug) as out:
        out.show(*_moved(SpiceAdapterJob.open(workspace, adapter).promote(adapter, to)))


@app.command(rich_help_panel="Release")
def rollback(
    alias: Annotated[Alias, typer.Argument(metavar="ALIAS", help="The alias to point back.", show_default=False)],
    workspace: WorkspaceOf = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Point an alias back at what its last promotion replaced."""
    with verb("rollback", is_json=as_json, is_debug=debug) as out:
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
    with verb("trace", is_json=as_json, is_debug=debug) as out:
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


app.command("forget", rich_help_panel="Evidence")(cli_corpus.forget)


@app.command(rich_help_panel="Evidence")
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a finished run.", show_default=False)],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a finished run's report again from its records, and print where it is."""
    with verb("report", is_json=as_json, is_debug=debug) as out:
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
    with verb("audit verify", is_json=as_json, is_debug=debug) as out:
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
    with verb("plan", is_json=as_json, is_debug=debug) as out:
        found = make_plan(settings_of(config, workspace, name, sets))
        out.show(found, str(found), EXIT_DONE if found.is_ready else EXIT_USAGE)


@app.command(rich_help_panel="Before a run")
def doctor(workspace: WorkspaceOf = Path("runs"), as_json: AsJson = False, debug: Debug = False) -> None:
    """Look at this machine: libraries, processor, memory, models, isolation, offline readiness."""
    with verb("doctor", is_json=as_json, is_debug=debug) as out:
        findings = examine(workspace)
        wide = max(len(finding.name) for finding in findings)
        lines = [
            f"{finding.name:<{wide}}  {finding.status:<7}  {finding.detail}{f'  -> {finding.fix}' if finding.fix else ''}"
            for finding in findings
        ]
        is_fit = all(finding.status != "missing" for finding in findings)
        out.show({"findings": findings}, "\n".join(lines), EXIT_DONE if is_fit else EXIT_USAGE)


app.command("test-verifier", rich_help_panel="Before a run")(cli_verifier.try_verifier)


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
    with verb("policy check", is_json=as_json, is_debug=debug) as out:
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
        return {"file": str(file), "kind": kind, "digest": None, "problems": list(error.problems or (_with_hint(error),))}


def _with_hint(error: PolicyError) -> str:
    return f"{error.message} -> {error.hint}" if error.hint else error.message


def _policy_lines(checked: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for item in checked:
        if not item["problems"]:
            yield f"ok       {item['file']}  {item['kind']}  {item['digest']}"
        yield from (f"problem  {item['file']}: {problem}" for problem in item["problems"])
