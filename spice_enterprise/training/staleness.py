"""How far behind the version that learns the rollouts of a step may be.

In: rollout groups, the digests of the current version and of its parent.
Out: 0 or 1: how many versions behind all of them are.
Refuses: rollouts of any other version, and a mix of two.
    Examples are taken whoever wrote them: nothing is corrected by who did.
Not here: correcting for it (the importance weights of `losses.py`).
"""

from collections.abc import Sequence

from spice_enterprise.errors import StaleRolloutError
from spice_enterprise.records import AdapterVersion, Rollout, RolloutGroup


def staleness_of(
    groups: Sequence[RolloutGroup], version: AdapterVersion, *, parent_digest: str | None, challenger_digest: str | None = None
) -> int:
    """Return 0 when `version` made all rollouts, 1 when its parent did; `parent_digest` is `None` where that is not allowed.

    `challenger_digest`: of the adapter that wrote the proposals, where it is another one.

    Raises `StaleRolloutError` naming the first rollout that another adapter made.
    """
    policy = [rollout for group in groups if group.objective == "policy" for rollout in group.rollouts]
    if challenger_digest is not None:
        _require([r for r in policy if r.role == "challenger"], digest=challenger_digest, allowed="the Challenger's")
    rollouts = [rollout for rollout in policy if challenger_digest is None or rollout.role == "reasoner"]
    is_old = bool(rollouts) and parent_digest is not None and rollouts[0].adapter_digest == parent_digest != version.digest
    allowed = f"{version.adapter_id} or, all of a step, its parent" if parent_digest else version.adapter_id
    _require(rollouts, digest=parent_digest if parent_digest and is_old else version.digest, allowed=allowed)
    return int(is_old)


def _require(rollouts: Sequence[Rollout], *, digest: str, allowed: str) -> None:
    for rollout in rollouts:
        if rollout.adapter_digest != digest:
            raise StaleRolloutError(
                f"rollout {rollout.rollout_id} was made by another adapter than {allowed}",
                record_id=rollout.rollout_id,
                hint="publish the current version to the sampler before playing",
            )
