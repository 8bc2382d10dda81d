"""The copy in MLflow, for people to look at. It may be away at any time; it catches up.

In: a run's parameters, steps, verdict, files and versions, as ids, digests and numbers.
Out: an MLflow run and registered models that show the same, once each.
Refuses: to raise, to block training, or to send a text that is not an id, a number or a code word.
Not here: the truth. Nothing is ever read back from MLflow to decide anything (`audit/log.py`, `release/registry.py`).

Every call first writes one line to `spool.jsonl` in the run directory, fsynced. The spool is then replayed from
`spool.done.json` on; what MLflow has already taken is found again by our own tags and times, so a crash in between
repeats a line without doubling anything.
"""

import dataclasses
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import mlflow.environment_variables as switches
import mlflow.store.db.utils as database
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from spice_enterprise import durable
from spice_enterprise.audit.records import is_safe_text
from spice_enterprise.records import AdapterVersion, GateReport, Step, canonical_json

REQUEST_S: Final = 3
"""Longest wait for a server that does not answer; MLflow's own default is 120 s, seven times over."""
PAUSE_S: Final = 30.0
MAX_PAUSE_S: Final = 600.0
"""After a failure, calls only spool for this long; doubled at each further failure."""
BATCH_PARAMS: Final = 100
SPOOL_TAG: Final = "spice.spool"
DIGEST_TAG: Final = "spice.adapter_digest"
NEUTRAL_TAGS: Final = {"mlflow.user": "spice-enterprise", "mlflow.source.name": "spice-enterprise", "mlflow.source.type": "JOB"}
WITHHELD: Final = "(withheld)"
"""Shown instead of a parameter that could be text: a path, a sentence."""
REFUSALS: Final = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE"}
)
"""MLflow's own answer that a line can never be taken; everything else means: try again later."""
_METRIC_NAME: Final = re.compile(r"[^A-Za-z0-9_./-]")

Entry = dict[str, Any]


class Spool:
    """The lines to be shown, and how many of them MLflow has taken."""

    def __init__(self, run_dir: Path) -> None:
        self._lines, self._done_file = run_dir / "spool.jsonl", run_dir / "spool.done.json"
        durable.drop_torn_tail(self._lines)
        self.entries: list[Entry] = [json.loads(line) for line in durable.read_lines(self._lines)]
        done: Entry = json.loads(self._done_file.read_bytes()) if self._done_file.exists() else {"done": 0, "run_id": ""}
        self.done: int = done["done"]
        self.run_id: str = done["run_id"]

    def add(self, entry: Entry) -> None:
        """Keep one entry durably, with the time it is about."""
        line = canonical_json({**entry, "at_ms": time.time_ns() // 1_000_000})
        durable.append_lines(self._lines, [line])
        self.entries.append(json.loads(line))

    def advance(self) -> None:
        """Note durably that one more entry is shown."""
        self.done += 1
        durable.write_file(self._done_file, canonical_json({"done": self.done, "run_id": self.run_id}))

    def has(self, op: str, key: str, value: str) -> bool:
        """True when such an entry is already here: a resumed job says some things twice."""
        return any(entry["op"] == op and entry.get(key) == value for entry in self.entries)


class MlflowMirror:
    """The `Window` of a job. `failures` counts attempts that MLflow did not take, `refused` lines it never will."""

    def __init__(self, uri: str, experiment: str, *, workspace: Path, run_dir: Path, run_name: str) -> None:
        self._uri, self._experiment, self._run_name = uri, experiment, run_name
        self._artifacts = (workspace / "mlartifacts").resolve()
        self._spool = Spool(run_dir)
        self._client: MlflowClient | None = None
        self._silent_until_s, self._pause_s = 0.0, PAUSE_S
        self.failures = 0
        self.refused = 0

    @property
    def waiting(self) -> int:
        """Entries that MLflow has not taken yet."""
        return len(self._spool.entries) - self._spool.done

    def start(self, params: Mapping[str, str]) -> None:
        """Open the run, or reopen it when the job is a resumed one (its parameters then stand)."""
        if self._spool.entries:
            self._take({"op": "resume"})
        else:
            shown = {name: _shown(value) for name, value in sorted(params.items())}
            self._take({"op": "start", "spool": secrets.token_hex(16), "params": shown})

    def log_step(self, step: Step, extra: Mapping[str, float]) -> None:
        """Show the numbers of one step, once per step id."""
        if not self._spool.has("step", "step_id", step.step_id):
            metrics = {**_numbers(step), **{name: float(value) for name, value in extra.items()}}
            self._take({"op": "step", "step_id": step.step_id, "step": step.number, "metrics": metrics})

    def log_gate(self, report: GateReport) -> None:
        """Show the verdict and every check's numbers, once per report."""
        if self._spool.has("gate", "gate_id", report.gate_id):
            return
        tags = {
            "spice.gate_id": report.gate_id,
            "spice.gate_verdict": report.verdict,
            DIGEST_TAG: report.adapter_digest,
            "spice.policy_digest": report.policy_digest,
            "spice.exam_digest": report.exam_digest,
        }
        self._take({"op": "gate", "gate_id": report.gate_id, "metrics": _check_numbers(report), "tags": tags})

    def log_artifacts(self, paths: Sequence[tuple[Path, str]]) -> None:
        """Copy files or whole directories into the run: (what, artifact folder)."""
        self._take({"op": "artifacts", "paths": [[str(path.resolve()), folder] for path, folder in paths]})

    def register(self, version: AdapterVersion, folder: Path, alias: str) -> None:
        """Show the adapter in `folder` as a model version, once per digest, and let `alias` name it."""
        tags = {
            DIGEST_TAG: version.digest,
            "spice.adapter_id": version.adapter_id,
            "spice.base_digest": version.base_digest,
            "spice.corpus_digest": version.corpus_digest,
            "spice.config_digest": version.config_digest,
        }
        model = f"{self._run_name}-{'prod' if alias in ('staging', 'prod') else 'sandbox'}"
        place = f"adapters/{version.adapter_id}"
        self._take({"op": "register", "model": model, "alias": alias, "from": str(folder.resolve()), "to": place, "tags": tags})

    def finish(self, status: str) -> None:
        """Close the run (`FINISHED`, `FAILED`, `KILLED`) and try once more to show everything."""
        self._spool.add({"op": "finish", "status": status})
        self.catch_up()

    def catch_up(self) -> int:
        """Replay what waits, now; return how many entries still wait."""
        with _restrained():
            while self.waiting and self._show_next():
                pass
        return self.waiting

    def _take(self, entry: Entry) -> None:
        self._spool.add(entry)
        if time.monotonic() >= self._silent_until_s:
            self.catch_up()

    def _show_next(self) -> bool:
        """Show one entry; False when MLflow is away."""
        try:
            self._show(self._spool.entries[self._spool.done])
        except Exception as error:  # noqa: BLE001 - whatever the window throws, training goes on
            if not _is_refusal(error):
                self.failures += 1
                self._silent_until_s = time.monotonic() + self._pause_s
                self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
                return False
            self.refused += 1
        self._silent_until_s, self._pause_s = 0.0, PAUSE_S
        self._spool.advance()
        return True

    def _show(self, entry: Entry) -> None:
        if self._client is None:
            self._client = _quiet_client(self._uri)
        shows = {
            "start": self._show_start,
            "resume": self._show_resume,
            "step": self._show_step,
            "gate": self._show_gate,
            "artifacts": self._show_artifacts,
            "register": self._show_register,
            "finish": self._show_finish,
        }
        shows[entry["op"]](self._client, entry)

    def _show_start(self, client: MlflowClient, entry: Entry) -> None:
        experiment_id = self._experiment_id(client)
        wanted = f"tags.`{SPOOL_TAG}` = '{entry['spool']}'"
        found = client.search_runs([experiment_id], filter_string=wanted, max_results=1)
        run = found[0] if found else self._new_run(client, experiment_id, entry)
        self._spool.run_id = run.info.run_id
        params = [Param(name, value) for name, value in entry["params"].items()]
        for first in range(0, len(params), BATCH_PARAMS):
            client.log_batch(self._spool.run_id, params=params[first : first + BATCH_PARAMS])

    def _new_run(self, client: MlflowClient, experiment_id: str, entry: Entry) -> Any:
        tags = {**NEUTRAL_TAGS, SPOOL_TAG: entry["spool"]}
        return client.create_run(experiment_id, start_time=entry["at_ms"], tags=tags, run_name=self._run_name)

    def _experiment_id(self, client: MlflowClient) -> str:
        """Return the experiment, making it; without a server its files lie in the workspace, not wherever we were started."""
        found = client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        location = None if self._uri.startswith(("http://", "https://")) else self._artifacts.as_uri()
        return str(client.create_experiment(self._experiment, artifact_location=location))

    def _show_resume(self, client: MlflowClient, entry: Entry) -> None:
        client.update_run(self._spool.run_id, status="RUNNING")

    def _show_step(self, client: MlflowClient, entry: Entry) -> None:
        client.log_batch(self._spool.run_id, metrics=_metrics(entry["metrics"], entry["at_ms"], entry["step"]))

    def _show_gate(self, client: MlflowClient, entry: Entry) -> None:
        tags = [RunTag(name, value) for name, value in entry["tags"].items()]
        client.log_batch(self._spool.run_id, metrics=_metrics(entry["metrics"], entry["at_ms"], 0), tags=tags)

    def _show_artifacts(self, client: MlflowClient, entry: Entry) -> None:
        for name, folder in entry["paths"]:
            self._copy(client, Path(name), folder)

    def _copy(self, client: MlflowClient, path: Path, folder: str) -> None:
        if path.is_dir():
            client.log_artifacts(self._spool.run_id, str(path), artifact_path=folder)
        elif path.is_file():
            client.log_artifact(self._spool.run_id, str(path), artifact_path=folder)
        else:  # gone since it was spooled; waiting would not bring it back
            self.refused += 1

    def _show_register(self, client: MlflowClient, entry: Entry) -> None:
        self._copy(client, Path(entry["from"]), entry["to"])
        _ensure_model(client, entry["model"])
        number = self._version_of(client, entry)
        names = {name: str(held) for name, held in client.get_registered_model(entry["model"]).aliases.items()}
        before = names.get(entry["alias"])
        if before == number:
            return
        if entry["alias"] == "prod" and before is not None:
            client.set_registered_model_alias(entry["model"], "previous", before)
        client.set_registered_model_alias(entry["model"], entry["alias"], number)

    def _version_of(self, client: MlflowClient, entry: Entry) -> str:
        """Return the model version of this digest, making it once: MLflow itself would make a new one each time."""
        digest = entry["tags"][DIGEST_TAG]
        for version in client.search_model_versions(f"name = '{entry['model']}'"):
            if version.tags.get(DIGEST_TAG) == digest:
                return str(version.version)
        source = f"{client.get_run(self._spool.run_id).info.artifact_uri}/{entry['to']}"
        made = client.create_model_version(
            entry["model"], source, run_id=self._spool.run_id, tags=entry["tags"], await_creation_for=0
        )
        return str(made.version)

    def _show_finish(self, client: MlflowClient, entry: Entry) -> None:
        client.set_terminated(self._spool.run_id, status=entry["status"], end_time=entry["at_ms"])


def _quiet_client(uri: str) -> MlflowClient:
    """Return a client; MLflow and its migrations say nothing below an error, for a warning may quote what was sent."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _restrained() -> Iterator[None]:
    """Give MLflow short timeouts and no retries while we call it, and leave the process's own settings as they were."""
    ours: dict[Any, Any] = {
        switches.MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0,
        switches.MLFLOW_HTTP_REQUEST_TIMEOUT: REQUEST_S,
        switches.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT: True,
    }
    before = {switch: switch.get_raw() for switch in ours}
    attempts = database.MAX_RETRY_COUNT
    for switch, value in ours.items():
        switch.set(value)
    database.MAX_RETRY_COUNT = 1  # ten attempts on a database that is away take 100 s, and no setting says otherwise
    try:
        yield
    finally:
        database.MAX_RETRY_COUNT = attempts
        for switch, raw in before.items():
            switch.unset() if raw is None else switch.set(raw)


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, MlflowException) and error.error_code in REFUSALS


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _shown(value: str) -> str:
    """Return a parameter as it may be shown: numbers and code words, nothing else."""
    try:
        float(value)
    except ValueError:
        return value if is_safe_text(value) and value else WITHHELD
    return value


def _numbers(step: Step) -> dict[str, float]:
    """Return every number of a step under its own name; what was not measured is left out."""
    values = ((f.name, getattr(step, f.name)) for f in dataclasses.fields(step))
    return {name: float(value) for name, value in values if isinstance(value, (int, float)) and name != "number"}


def _check_numbers(report: GateReport) -> dict[str, float]:
    return {
        f"gate/{result.check}/{name}": float(getattr(result, name))
        for result in report.results
        for name in ("value", "low", "high", "limit", "n", "baseline", "candidate")
        if getattr(result, name) is not None
    }


def _metrics(numbers: Mapping[str, Any], at_ms: int, step: int) -> list[Metric]:
    return [Metric(_METRIC_NAME.sub("_", name), _finite_or_nan(value), at_ms, step) for name, value in numbers.items()]


def _finite_or_nan(value: Any) -> float:
    """MLflow clamps infinity to 1.8e308, which a chart then shows as a value; not-a-number is shown as a gap."""
    number = math.nan if isinstance(value, Mapping) else float(value)
    return number if math.isfinite(number) else math.nan
