"""Proof that the sampler uses the adapter it should.

In: a saved version; each step, the log-probabilities of the same tokens by the learner and by the sampler.
Out: the verified files of the version; the mean gap between the two, in nats.
Refuses: files that are not their record's, a rollout stamped with another digest, a gap above the bound.
Not here: moving weights. In this mode learner and sampler share one module (`hf_sampler.py`).

The training forward scores the sampled tokens under the version that should have sampled them, so the proof is free.
It holds for an adapter that differs from what was served instead; the untrained start (B = 0) is the base itself.
"""

from pathlib import Path
from typing import Final

from spice_enterprise.errors import DeliveryError, IntegrityError, StaleRolloutError
from spice_enterprise.records import AdapterVersion, RolloutGroup
from spice_enterprise.training.checkpoints import read_adapter

MAX_GAP_NATS: Final = {"float32": 1e-4, "bfloat16": 0.05}
"""Most mean |log-probability difference| per compute dtype; rounding alone stays far below (fp32: 1e-5)."""


def open_version(run_dir: Path, version: AdapterVersion) -> dict[str, bytes]:
    """Return the verified files of `version` for serving. Raises `DeliveryError` when they are not its record's."""
    try:
        return read_adapter(run_dir, version)
    except IntegrityError as error:
        raise DeliveryError(
            f"step {version.step} cannot be served: {error.message}",
            code=error.code,
            record_id=version.adapter_id,
            hint=error.hint,
        ) from None


def require_current(groups: tuple[RolloutGroup, ...], version: AdapterVersion) -> None:
    """Raise `StaleRolloutError` naming the first rollout that another adapter made."""
    for group in groups:
        for rollout in group.rollouts:
            if rollout.adapter_digest != version.digest:
                raise StaleRolloutError(
                    f"rollout {rollout.rollout_id} was made by another adapter than {version.adapter_id}",
                    record_id=rollout.rollout_id,
                    hint="publish the current version to the sampler before playing",
                )


def require_delivered(gap_nats: float, *, compute_dtype: str, version: AdapterVersion) -> None:
    """Raise `DeliveryError` when the mean gap shows that the sampler did not use `version`.

    A gap that is not finite passes here: then the learner's own numbers are broken and the update is withheld.
    """
    limit = MAX_GAP_NATS[compute_dtype]
    if gap_nats > limit and gap_nats != float("inf"):
        raise DeliveryError(
            f"sampler and learner differ by {gap_nats:.2e} nats per token under {version.adapter_id}, limit {limit:.0e}",
            record_id=version.adapter_id,
            hint="the sampler does not serve this adapter, or another base or precision; no update was made",
        )
