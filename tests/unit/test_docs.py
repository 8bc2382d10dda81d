"""The docs cannot go stale: tables are made from the code, Python blocks run, named verbs, codes and links exist.

`pytest tests/unit/test_docs.py --update-golden` rewrites the tables between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic_core import PydanticUndefined
from pytest_socket import enable_socket

from spice_enterprise import cli, config, demo, errors, policy, records
from spice_enterprise.audit import records as audit_records
from spice_enterprise.config import JobConfig, Section
from spice_enterprise.errors import SpiceError
from spice_enterprise.report import StepPoint

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "spice_enterprise"
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
BLOCK = re.compile(r"^```(?P<language>[a-z]+)(?P<options>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"(?P<head><!-- generated: (?P<name>[a-z ]+) -->\n).*?(?P<tail><!-- end -->)", re.DOTALL)


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


MEANINGS = {
    # settings
    "max_file_bytes": "Larger files are rejected.",
    "max_documents": "A folder with more files is refused.",
    "steps": "Optimiser steps of the run.",
    "challenger_group": "Proposals drawn per chunk and round.",
    "reasoner_group": "Answers drawn per task.",
    "quantization": "`nf4` with double quantisation, or the weights as they are.",
    "lora_rank": "Rank of the adapter.",
    "lora_alpha": "Its scale is alpha divided by rank.",
    "learning_rate": "Of AdamW, after the warm-up.",
    "warmup_steps": "Steps over which the learning rate rises.",
    "weight_decay": "Of AdamW.",
    "grad_clip": "Norm that gradients are clipped to.",
    "questions_per_document": "Most questions about one unseen document.",
    "max_questions": "Most questions of the exam.",
    "answer_tokens": "Most tokens of a written answer in the exam.",
    "pii": "What is removed.",
    "guardrails": "When a run goes back or halts.",
    "gate": "What an adapter must show.",
    "is_enabled": "`false`: no MLflow at all.",
    "experiment": "Name of the MLflow experiment.",
    "offline": "Refuse every connection to the outside. `false`: a hub id is allowed, connections are counted only.",
    "seed": "Everything drawn depends on it.",
    # policies
    "apiVersion": "Version of the format.",
    "metadata": "Who answers for it: see Metadata.",
    "kind": "Which policy this is.",
    "name": "A name for people.",
    "version": "Counted up at each change.",
    "owner": "Who answers for it.",
    "approved_on": "When it was approved.",
    "valid_until": "The last day on which a job may begin under this policy; refused afterwards (`E_POLICY_EXPIRED`).",
    "language": "Of the documents.",
    "labels": "Label to what happens: see PiiLabel.",
    "action": "`replace` by a tagged placeholder, `drop` for one without a tag, `keep`.",
    "threshold": "Findings with a lower score are ignored.",
    "valid_rate_window": "Steps the share is averaged over.",
    "max_kl_nats_per_token": "Sampler against learner; above it a step is undone.",
    "warn_kl_nats_per_token": "Above it a step is reported.",
    "max_grad_norm": "Two steps in a row above it are undone.",
    "reward_range": "What reward means must lie in.",
    "path": "Aliases in the order of promotion.",
    "primary": "Id of the superiority rule that is the claim.",
    "checks": "The rules.",
    "max_evidence_age_days": "A promotion needs a decision no older than this.",
    "id": "Name of the rule in reports.",
    "type": "Kind of rule.",
    "metric": "Which measurement it judges.",
    "alpha": "Error allowed; it sets the confidence of the interval.",
    "min_effect": "Least point gain, as a share.",
    "margin": "Loss that is still allowed, as a share.",
    "min_documents": "Fewer documents make it INCONCLUSIVE.",
    "min_n": "Least number of looks.",
    "fields": "Digests that must be known.",
}
"""What the code leaves to its name."""

# --- tables made from the code ----------------------------------------------------------------------------------------


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def field_docs(module: Any) -> dict[tuple[str, str], str]:
    """Return the text below each field of each class: (class, field) to one line."""
    found = {}
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item, after in zip(node.body, node.body[1:], strict=False):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_text:
                found[node.name, item.target.id] = " ".join(after.value.value.split())  # type: ignore[attr-defined]
    return found


def annotations(module: Any) -> dict[tuple[str, str], str]:
    """Return the annotation of each field as it is written."""
    return {
        (node.name, item.target.id): ast.unparse(item.annotation).replace("'", '"')
        for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def bounds(field: Any) -> str:
    """Return the limits of a pydantic field."""
    signs = (("ge", ">= "), ("gt", "> "), ("le", "<= "), ("lt", "< "), ("min_length", "at least "), ("pattern", "matches "))
    shown = [f"{sign}{getattr(m, key)}" for key, sign in signs for m in field.metadata if getattr(m, key, None) is not None]
    return f" ({', '.join(shown)})" if shown else ""


def default_of(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    value = "null" if field.default is None else field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def section_rows(module: Any, model: type[Section], prefix: str) -> list[tuple[str, ...]]:
    docs, types = field_docs(module), annotations(module)
    rows = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section) and inner is not policy.Metadata:
            continue
        key = next((c.__name__, name) for c in model.__mro__ if (c.__name__, name) in types)
        written = types[key].replace("Regime", '"self_contained" | "open_book" | "closed_book"')
        about = docs.get(key) or MEANINGS[name]
        rows.append((f"`{prefix}{name}`", f"`{written}`{bounds(field)}", default_of(field), about))
    return rows


def config_table() -> str:
    sections = [(n, f.annotation) for n, f in JobConfig.model_fields.items() if isinstance(f.annotation, type)]
    rows = section_rows(config, JobConfig, "")
    for name, kind in sections:
        rows += section_rows(config, kind, f"{name}.") if issubclass(kind, Section) else []
    return table(("setting", "type", "default", "what it does"), rows)


PII = (policy.PiiPolicy, policy.PiiLabel, policy.PiiPattern, policy.PiiFields, policy.PiiLimits, policy.PiiSources)


def policy_table() -> str:
    models = (policy.Metadata, *PII, policy.GuardrailsPolicy, policy.GatePolicy)
    rules = (policy.Superiority, policy.NonInferiority, policy.Zero, policy.NoOpenAlarm, policy.Complete)
    parts = []
    for model in (*models, *rules):
        about = " ".join((model.__doc__ or "").split())
        parts.append(f"### {model.__name__}\n\n{about}\n\n")
        parts.append(table(("key", "type", "default", "what it does"), section_rows(policy, model, "")))
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def error_classes() -> list[type[SpiceError]]:
    return [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, SpiceError)]


def class_table() -> str:
    rows = [
        (
            f"`{c.__name__}`",
            f"`{c.__mro__[1].__name__}`",
            f"`{c.default_code}`",
            str(c.exit_code),
            (c.__doc__ or "").split("\n")[0],
        )
        for c in error_classes()
    ]
    return table(("class", "is a", "code", "exit", "meaning"), rows)


def verbs() -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield every verb of the command line with its function."""
    groups: list[tuple[str, typer.Typer]] = [
        ("", cli.app),
        *((f"{g.name} ", g.typer_instance) for g in cli.app.registered_groups),
    ]
    for prefix, app in groups:
        for command in app.registered_commands:
            assert command.callback is not None
            yield prefix + (command.name or command.callback.__name__), command.callback


def cli_table() -> str:
    return table(("verb", "what it does"), [(f"`{name}`", " ".join((f.__doc__ or "").split())) for name, f in verbs()])


def fields_table(cls: type, module: Any) -> str:
    docs, types = field_docs(module), annotations(module)
    rows = [
        (f"`{f.name}`", f"`{types[cls.__name__, f.name]}`", docs.get((cls.__name__, f.name), ""))
        for f in dataclasses.fields(cls)
        if (cls.__name__, f.name) in types
    ]
    return table(("field", "type", "note"), rows)


RECORDS = (
    records.Document, records.Chunk, records.Rejection, records.Task, records.Rollout, records.RolloutGroup, records.Step,
    records.Alert, records.AdapterVersion, records.ExamItem, records.Exam, records.CheckResult, records.GateReport,
    records.Promotion, records.AuditEvent,
)  # fmt: skip


def records_table() -> str:
    parts = [
        f"### {cls.__name__}\n\n{' '.join((cls.__doc__ or '').split())}\n\n{fields_table(cls, records)}\n" for cls in RECORDS
    ]
    return "".join(parts).rstrip("\n") + "\n"


def events_table() -> str:
    def signed(name: str) -> str:
        return "a person" if name in audit_records.PERSONAL else "at once" if name in audit_records.DECISIONS else ""

    used = "".join(
        (PACKAGE / name).read_text(encoding="utf-8")
        for name in ("job.py", "loop.py", "audit/log.py", "corpus_review.py", "forgetting.py")
    )
    rows = [(f"`{name}`", "yes" if f'"{name}"' in used else "", signed(name)) for name in sorted(audit_records.EVENTS)]
    return table(("event", "written by this version", "signed"), rows)


TABLES = {
    "config": config_table,
    "policies": policy_table,
    "error classes": class_table,
    "verbs": cli_table,
    "records": records_table,
    "audit events": events_table,
}


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_generated_tables_are_what_the_code_says(path: Path, update_golden: bool) -> None:
    text = path.read_text(encoding="utf-8")
    wanted = GENERATED.sub(lambda m: m["head"] + "\n" + TABLES[m["name"]]() + "\n" + m["tail"], text)
    if update_golden and wanted != text:
        path.write_text(wanted, encoding="utf-8")
        return
    assert text == wanted, "run pytest tests/unit/test_docs.py --update-golden"


def test_every_table_is_shown_somewhere() -> None:
    shown = {m["name"] for path in PAGES for m in GENERATED.finditer(path.read_text(encoding="utf-8"))}
    assert shown == set(TABLES)


# --- names ------------------------------------------------------------------------------------------------------------


def codes_in_the_source() -> set[str]:
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    return {code for text in sources for code in re.findall(r"[\"'](E_[A-Z][A-Z_]+)[\"']", text)}


def test_the_page_of_errors_names_exactly_the_codes_that_exist() -> None:
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(E_[A-Z][A-Z_]+)`", page)) == codes_in_the_source()


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_no_page_names_a_code_that_does_not_exist(path: Path) -> None:
    named = set(re.findall(r"\b(E_[A-Z][A-Z_]+)\b", path.read_text(encoding="utf-8")))
    assert not named - codes_in_the_source()


def test_the_page_of_metrics_names_every_number() -> None:
    page = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    steps = {f.name for f in dataclasses.fields(records.Step) if f.type in (float, "float", "float | None")}
    wanted = {
        *records.StepMetrics.__annotations__,
        *steps,
        *(f.name for f in dataclasses.fields(StepPoint) if f.name != "is_restored"),
    }
    metrics = set(re.findall(r'METRIC = "([a-z_]+)"', (PACKAGE / "release/evaluation.py").read_text(encoding="utf-8")))
    missing = [name for name in sorted(wanted | metrics) if f"`{name}`" not in page]
    assert not missing


def test_the_list_of_modules_is_the_tree() -> None:
    page = (DOCS / "explanation" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    named = set(re.findall(r"`((?:[a-z_]+/)?[a-z_]+\.py)`", page))
    assert not modules - named, "modules that the page does not name"
    assert not named - modules, "modules that do not exist"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_somewhere(path: Path) -> None:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_plain_words_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    body = re.sub(r"<!-- demo output begins -->.*?<!-- demo output ends -->", "", text, flags=re.DOTALL)
    assert "\u2014" not in body, "no em dashes"
    assert not re.search("[\U0001f300-\U0001faff\u2600-\u27bf]", body), "no emojis"


def test_decisions_are_numbered_dated_and_have_a_status() -> None:
    paths = sorted((DOCS / "explanation" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in paths] == [f"{i:04d}" for i in range(1, len(paths) + 1)]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        found = re.search(r"^Date: (\d{4}-\d{2}-\d{2})\. Status: (accepted|superseded by \d{4})\.$", text, re.MULTILINE)
        assert found, path.name
        date.fromisoformat(found.group(1))


# --- blocks -----------------------------------------------------------------------------------------------------------


def blocks(language: str) -> Iterator[Any]:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(match["options"].strip(), match["code"], id=f"{page_id(path)}:{line}")


def python_pages() -> Iterator[Any]:
    """Yield the Python blocks of each page together: later blocks use what earlier ones made."""
    for path in PAGES:
        found = [
            (match["options"].strip(), match["code"])
            for match in BLOCK.finditer(path.read_text(encoding="utf-8"))
            if match["language"] == "python"
        ]
        if found:
            yield pytest.param(found, id=page_id(path))


@pytest.mark.parametrize("found", list(python_pages()))
def test_python_blocks_run(found: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for options, code in found:
        compiled = compile(code, "block", "exec")
        assert options in ("", "no-run")
        if "GUARD.start(is_offline=True)" in code:
            enable_socket()  # the block shows the guard at work, which refuses; pytest-socket would be there first
        if not options:
            exec(compiled, names)  # noqa: S102 - our own documentation


@pytest.mark.parametrize(("options", "code"), list(blocks("bash")))
def test_commands_in_shell_blocks_exist(options: str, code: str) -> None:
    known = {name for name, _ in verbs()}
    for line in code.splitlines():
        for call in re.findall(r"(?:^|\s)spice-enterprise ((?:-{0,2}[a-z]+ ?){1,2})", line.partition("#")[0]):
            words = call.split()
            is_known = words[0].startswith("--") or words[0] in known or " ".join(words[:2]) in known
            assert is_known, f"no such verb: {call}"
    for target in re.findall(r"\bmake ([a-z]+)", code):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target


@pytest.mark.parametrize(("options", "code"), list(blocks("yaml")))
def test_yaml_blocks_are_settings_or_policies(options: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / "block.yaml"
    path.write_text(code, encoding="utf-8")
    loaders = {"PiiPolicy": policy.load_pii, "GuardrailsPolicy": policy.load_guardrails, "PromotionPolicy": policy.load_gate}
    kind = config.read_yaml(path, errors.ConfigError).get("kind")
    if kind is None:
        config.load_config(path)
    else:
        loaders[kind](str(path))


def test_the_sizes_for_two_cores_are_those_of_the_demo() -> None:
    code = next(
        m["code"] for m in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8")) if "max_batch_tokens" in m["code"]
    )
    wanted = demo.demo_settings(Path("documents"))
    for section, values in yaml.safe_load(code).items():
        chosen = wanted[section]
        if isinstance(chosen, dict):
            assert {key: value for key, value in values.items() if key in chosen and chosen[key] != value} == {}, section
