"""Which version to go back to, or none.

In: the saved versions of one adapter line, and the alerts so far.
Out: the newest version that nothing critical is known about.
Refuses: a version that a critical alert names, and every version that descends from one.
Not here: going back (`Trainer.restore`), counting restores against the policy (`loop.py`).
"""

from collections.abc import Iterable, Sequence

from spice_enterprise.errors import NoSafeVersionError
from spice_enterprise.records import AdapterVersion, Alert


def last_good(versions: Iterable[AdapterVersion], alerts: Sequence[Alert], *, before_step: int) -> AdapterVersion | None:
    """Return the newest version older than `before_step` (the alarm's step) that is free of critical alerts.

    An alert names the version that its step produced. Version 0 has no step and is always good: it is the base. None when
    nothing is left, which happens only when version 0 is not among `versions`. Of two versions of one step the later one
    in `versions` counts as newer.
    """
    kept = list(versions)
    named = {alert.step_id for alert in alerts if alert.severity == "critical"}
    bad: set[str] = set()
    for version in sorted(kept, key=lambda v: v.step):  # a parent is older, so it is marked before its children
        if version.step_id is not None and (version.step_id in named or version.parent_adapter_id in bad):
            bad.add(version.adapter_id)
    good = [
        version for version in kept if version.adapter_id not in bad and (version.step_id is None or version.step < before_step)
    ]
    return max(reversed(good), key=lambda version: version.step, default=None)


def version_to_restore(versions: Iterable[AdapterVersion], alerts: Sequence[Alert], *, before_step: int) -> AdapterVersion:
    """Return `last_good`, or raise `NoSafeVersionError` when there is none: the run must halt."""
    version = last_good(versions, alerts, before_step=before_step)
    if version is None:
        raise NoSafeVersionError(
            f"no version from before step {before_step} is free of critical alerts",
            hint="start a new run; nothing of this one may be promoted",
        )
    return version
