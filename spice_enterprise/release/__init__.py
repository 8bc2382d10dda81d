"""The door to the registry of a workspace.

In: the workspace folder that runs share.
Out: a handle that reads, promotes and rolls back.
Refuses: what `registry.FileRegistry` refuses.
Not here: training, the gate. Reading a pointer loads no heavy library.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from spice_enterprise.durable import load_or_create_secret
from spice_enterprise.policy import GatePolicy, load_gate
from spice_enterprise.release.registry import FileRegistry

REGISTRY_FOLDER: Final = "registry"
KEY_FILE: Final = "keys/log.key"
"""One service key signs the log and the pointers: whoever verifies a workspace needs to trust one key."""


def connect(
    workspace_path: Path | str,
    *,
    policy: GatePolicy | None = None,
    clock: Callable[[], datetime] | None = None,
    decided_at: Callable[[str], datetime | None] | None = None,
) -> FileRegistry:
    """Return the registry of `workspace_path`, making its signing key (mode 0600) the first time.

    `policy` is the gate policy whose PASS is required, by default the shipped one. Raises `PolicyError`, `ReleaseError`.
    """
    workspace = Path(workspace_path)
    return FileRegistry(
        workspace / REGISTRY_FOLDER,
        key=load_or_create_secret(workspace / KEY_FILE),
        policy=policy or load_gate(),
        clock=clock or wall_clock,
        decided_at=decided_at,
    )


def wall_clock() -> datetime:
    """Return the present in UTC."""
    return datetime.fromtimestamp(time.time(), tz=UTC)
