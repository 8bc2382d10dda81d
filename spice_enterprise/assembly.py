"""From a config to parts: the only lazy imports of the package.

In: a `JobConfig`, the parts a user gave, the run's store.
Out: every seam filled, each built when it is first used, so that `ingest` never loads torch.
Refuses: what a part refuses when it is built.
Not here: the order of the road (`job.py`).
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spice_enterprise import durable, seeding
from spice_enterprise.config import JobConfig, tracking_uri
from spice_enterprise.policy import GatePolicy, GuardrailsPolicy, PiiPolicy, load_gate, load_guardrails, load_pii
from spice_enterprise.protocols import (
    AuditSink,
    Check,
    Corpus,
    Detector,
    Examiner,
    Ingestor,
    Judge,
    Monitor,
    Parts,
    Player,
    Registry,
    Sampler,
    Source,
    Trainer,
    Verifier,
    Window,
)
from spice_enterprise.records import AdapterVersion
from spice_enterprise.store import RunStore

if TYPE_CHECKING:
    from spice_enterprise.training.base_model import BaseModel
    from spice_enterprise.training.qlora import LearnerModel
