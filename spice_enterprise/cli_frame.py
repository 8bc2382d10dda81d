"""The frame of every verb: settings in, one record out, errors in one line, the right exit code.

In: command-line arguments.
Out: a `JobConfig`; on stdout one JSON document or short text; on stderr errors, one line per problem.
Refuses: wrong settings (exit 2) without showing their values.
Not here: verbs (`cli.py`, `cli_corpus.py`), progress (`cli_screen.py`).
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console

from spice_enterprise.cli_screen import coloured
from spice_enterprise.config import JobConfig, Section, build_config, load_config
from spice_enterprise.errors import EXIT_DONE, ConfigError, SpiceError, StoreError, classify
from spice_enterprise.records import encode_json

ARCHIVES: Final = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz"})

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
            sys.stderr.write(printable(line) + "\n")
        if self.is_json:
            problems = error.problems if isinstance(error, ConfigError) else ()
            shown = {"code": error.code, "message": error.message, "record_id": error.record_id, "hint": error.hint}
            self._write(json.dumps({"error": {**shown, "problems": list(problems)}}, indent=2, ensure_ascii=False))

    def _write(self, text: str) -> None:
        try:
            if sys.stdout.isatty() and not self.is_json:
                Console(highlight=False).print(coloured(text), soft_wrap=True)
            else:
                sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # whoever read us has gone; the work is done, so its exit code stands
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def printable(line: str) -> str:
    """Return `line` without control characters, which a file name could smuggle to the terminal."""
    return "".join(character if character.isprintable() else "?" for character in line)


@contextmanager
def verb(name: str, *, is_json: bool, is_debug: bool) -> Iterator[Out]:
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
    """Let SIGTERM stop a job as Ctrl-C does: it finishes writing, leaves an audit record and can be continued.

    A second signal ends the process at once, whatever it is in the middle of: what is on the disk survives that too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = (signal.SIGTERM, signal.SIGINT)

    def stop(_: int, __: FrameType | None) -> None:
        for number in stops:
            signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = [signal.signal(number, stop) for number in stops]
    try:
        yield
    finally:
        for number, handler in zip(stops, before, strict=True):
            signal.signal(number, handler)


def greet(verb: str, subject: object) -> None:
    """Say at once that something happens: the libraries behind a job take seconds to load."""
    sys.stderr.write(printable(f"spice-enterprise {metadata.version('spice-enterprise')}  {verb} {subject}") + "\n")
    sys.stderr.flush()


def settings_of(
    source: Path | str,
    workspace: Path | None,
    name: str | None,
    sets: Sequence[str] | None,
    more: Mapping[str, object] | None = None,
) -> JobConfig:
    """Return the settings: defaults, then the file, then the flags. A folder, an archive or a URL is itself the corpus."""
    overrides = {**pairs_of(sets or ()), **(more or {})}
    if workspace is not None:
        overrides["workspace"] = str(workspace)
    if name is not None:
        overrides["name"] = name
    path = Path(source)
    if is_url(source) or path.is_dir() or (path.is_file() and path.suffix.lower() in ARCHIVES):
        where = "URL" if is_url(source) else path.name  # a URL may name a customer, and a problem is shown to anybody
        return build_config({"corpus": str(source)}, overrides, where=where)
    return load_config(path, overrides)


def is_url(source: Path | str) -> bool:
    """True for `scheme://...`."""
    return isinstance(source, str) and "://" in source


def pairs_of(sets: Sequence[str]) -> dict[str, Any]:
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
