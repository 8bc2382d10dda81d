"""Adapt a language model to a company's private documents, in-house, and prove what it did.

In: a folder of documents and a base model.
Out: a judged QLoRA adapter, its report and an audit trail.
Refuses: to load any heavy library here; telemetry is switched off before one can be.
Not here: the work. `job.py` knows the order, `loop.py` the steps.
"""

from importlib import metadata as _metadata

from spice_enterprise.offline import switch_off_telemetry as _switch_off_telemetry

_switch_off_telemetry()

from spice_enterprise.config import JobConfig  # noqa: E402 - the switches come first
from spice_enterprise.errors import SpiceError  # noqa: E402
from spice_enterprise.job import JobResult, SpiceAdapterJob  # noqa: E402
from spice_enterprise.protocols import Parts  # noqa: E402
from spice_enterprise.records import (  # noqa: E402
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

__version__ = _metadata.version("spice-enterprise")

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
