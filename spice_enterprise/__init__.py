"""Adapt a language model to a company's private documents, in-house, and prove what it did.

In: a folder of documents and a base model.
Out: a judged QLoRA adapter, its report and an audit trail.
Refuses: to load any heavy library here; telemetry is switched off before one can be.
Not here: the work. `job.py` knows the order, `loop.py` the steps.

The names below are imported when they are first asked for: a parser child starts often and needs none of them.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from spice_enterprise.offline import switch_off_telemetry as _switch_off_telemetry

_switch_off_telemetry()

if _TYPE_CHECKING:
    from spice_enterprise.config import JobConfig
    from spice_enterprise.errors import SpiceError
    from spice_enterprise.job import JobResult, SpiceAdapterJob
    from spice_enterprise.protocols import Parts
    from spice_enterprise.records import (
        AdapterVersion,
        Alert,
        Chunk,
        Document,
        GateReport,
        Promotion,
        Rollout,
        Step,
        Task,
    )

    __version__: str

_HOMES = {
    "JobConfig": "config",
    "SpiceError": "errors",
    "JobResult": "job",
    "SpiceAdapterJob": "job",
    "Parts": "protocols",
    **dict.fromkeys(
        ("AdapterVersion", "Alert", "Chunk", "Document", "GateReport", "Promotion", "Rollout", "Step", "Task"), "records"
    ),
}

__all__ = [
    "AdapterVersion",
    "Alert",
    "Chunk",
    "Document",
    "GateReport",
    "JobConfig",
    "JobResult",
    "Parts",
    "Promotion",
    "Rollout",
    "SpiceAdapterJob",
    "SpiceError",
    "Step",
    "Task",
    "__version__",
]


def __getattr__(name: str) -> _Any:
    """Import a public name from the module it lives in."""
    if name == "__version__":
        return _import_module("importlib.metadata").version("spice-enterprise")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted(__all__)
