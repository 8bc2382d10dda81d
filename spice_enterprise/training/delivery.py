"""Proof that the sampler uses the adapter it should.

In: a saved version; the log-probabilities of the same tokens by the learner and by the sampler, each step and of the canary.
Out: the verified files of the version; a sampler that publishes nothing it has not seen delivered, and the numbers it saw.
Refuses: files that are not their record's, a gap above the bound, a sampler that stands still while the learner moves, or
    moves elsewhere.
Not here: moving weights, the texts of the canary (`canary.py`), the digest on each rollout (`staleness.py`).

Two proofs. Each step, the training forward scores the sampled tokens under the version that should have sampled them:
free, but blind at the untrained start (B = 0 is the base itself) and while an update is smaller than the bound. So at
each publish a fixed set of texts is scored by both: the sampler's numbers must be near the learner's and must have moved
as the learner's moved. A move too small to judge is kept and judged with those after it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spice_enterprise.errors import DeliveryError, IntegrityError
from spice_enterprise.protocols import DeliveryProof, Sampler
from spice_enterprise.records import AdapterVersion, Completion, Prompt
from spice_enterprise.training.canary import Reading, mean_gap, read_canary, spread
from spice_enterprise.training.checkpoints import read_adapter

MAX_GAP_NATS: Final = {"float32": 1e-4, "bfloat16": 0.05}
"""Most mean |log-probability difference| per dtype; rounding alone stays below (seen: fp32 1e-5, bf16 0.02)."""
ROUNDING_NATS: Final = 5e-6
"""Noise of one canary number between two exact samplers, never taken to be smaller."""
STILL_NATS: Final = 1e-6
"""From this move of the learner on an exact sampler gives other numbers too (seen at 5e-6: all 32 differ)."""
MIN_JUDGED_MOVE: Final = 2.0
"""A move is judged from this many times its noise on: over 32 texts the slope's own error is then 0.09."""
MIN_FOLLOWED: Final = 0.5
"""Least slope of the sampler's move on the learner's: 1 when it serves the version, 0 when it serves the one before."""
MAX_STRAY: Final = 3.0
"""How many times the noise, besides half of the move, the sampler may go elsewhere than the learner."""
OPTIONAL: Final = frozenset({"stream", "park", "unpark", "close"})
"""What a sampler may offer besides `protocols.Sampler`; asked of the one under proof."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """The canary as both saw it under one version."""

    learner: Reading
    sampler: Reading


class ProvenSampler:
    """Implements `protocols.Sampler` on another one, and streams when that one does.

    A version serves only once the canary has shown that it arrived; then `proof` holds the numbers.
    """

    def __init__(self, inner: Sampler, reference: Sampler, *, limit_nats: float) -> None:
        """Take both as they are; nothing is measured before the first `publish`.

        Args:
            inner: the sampler under proof.
            reference: one on the learner's own module, which holds each version when it is published.
            limit_nats: see `gap_limit`.
        """
        self._inner = inner
        self._reference = reference
        self._limit_nats = limit_nats
        self._noise = self._unrest = 0.0
        self._base: _Sight | None = None
        self._judged: _Sight | None = None
        self._newest: _Sight | None = None
        self._serving: str | None = None
        self.proof: DeliveryProof | None = None

    def __getattr__(self, name: str) -> Any:
        if name not in OPTIONAL:
            raise AttributeError(name)
        offered = getattr(self._inner, name)
        return self._proven_stream if name == "stream" else offered

    @property
    def adapter_digest(self) -> str:
        """The digest of what the sampler under proof serves."""
        return self._inner.adapter_digest

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        """Return `n` completions per prompt of the proven version. Raises `DeliveryError` when what is served was not proven."""
        self._require_proven()
        return self._inner.sample(prompts, n=n, seed=seed)

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the mean log-probability of each continuation. Raises `DeliveryError` when what is served was not proven."""
        self._require_proven()
        return self._inner.score(prompts, continuations)

    def _proven_stream(self) -> Any:
        self._require_proven()
        return getattr(self._inner, "stream")()  # noqa: B009 - it was asked for, so it is there

    def publish(self, version: AdapterVersion | None) -> None:
        """Serve `version` once the canary has shown that it arrived.

        Raises:
            DeliveryError: E_ADAPTER_DIGEST for files that are not the version's; then what was served before stays.
                E_DELIVERY, naming the rule with its numbers; then nothing is served until another version is published.
        """
        base = self._base or self._first_sight()
        self._reference.publish(version)
        before, self._serving = self._serving, None
        self._inner.publish(version)
        digest = self._reference.adapter_digest
        if self._inner.adapter_digest != digest:
            raise _refused("the sampler says that it serves another adapter", digest)
        if before != digest:
            sight = self._look()
            self.proof = self._judge(sight, base, digest)
            self._newest = sight
        self._serving = digest

    def _first_sight(self) -> _Sight:
        """Measure the bare base: how far both are apart there, and whether each repeats itself."""
        self._reference.publish(None)
        self._inner.publish(None)
        sight, again = self._look(), self._look()
        self._unrest = max(spread(sight.learner, again.learner), spread(sight.sampler, again.sampler))
        # a move has the rounding of both its ends, which are as far apart as the two samplers are on the base
        self._noise = max(ROUNDING_NATS, math.sqrt(2.0) * spread(sight.learner, sight.sampler))
        self._base = self._judged = self._newest = sight
        return sight

    def _look(self) -> _Sight:
        return _Sight(learner=read_canary(self._reference), sampler=read_canary(self._inner))

    def _judge(self, sight: _Sight, base: _Sight, digest: str) -> DeliveryProof:
        gap = mean_gap(sight.sampler, sight.learner)
        if not gap <= self._limit_nats:
            raise _refused(
                f"the canary differs by {gap:.2e} nats between sampler and learner, limit {self._limit_nats:.0e}", digest
            )
        for anchor in (base, self._judged or base, self._newest or base):
            self._require_motion(sight, anchor, digest)
        followed = self._require_followed(sight, base, digest)
        if self._require_followed(sight, self._judged or base, digest) is not None:
            self._judged = sight
        return DeliveryProof(
            adapter_digest=digest,
            gap_nats=gap,
            limit_nats=self._limit_nats,
            moved_nats=spread(sight.learner, base.learner),
            followed=followed,
        )

    def _require_motion(self, sight: _Sight, anchor: _Sight, digest: str) -> None:
        """Raise when the learner moved and the sampler gave the very numbers of `anchor` again, but for its own unrest."""
        moved, seen = spread(sight.learner, anchor.learner), spread(sight.sampler, anchor.sampler)
        if moved > max(STILL_NATS, 8.0 * self._unrest) and seen <= 2.0 * self._unrest:
            raise _refused(f"the canary stood still: the learner moved by {moved:.2e} nats, the sampler by {seen:.2e}", digest)

    def _require_followed(self, sight: _Sight, anchor: _Sight, digest: str) -> float | None:
        """Return the slope of the sampler's move since `anchor` on the learner's, None while that is too small to judge."""
        learner = [now - then for now, then in zip(sight.learner, anchor.learner, strict=True)]
        sampler = [now - then for now, then in zip(sight.sampler, anchor.sampler, strict=True)]
        moved, stray = spread(sight.learner, anchor.learner), spread(sampler, learner)
        limit = MAX_STRAY * self._noise + MIN_FOLLOWED * moved
        if stray > limit:
            raise _refused(
                f"the canary moved elsewhere: {stray:.2e} nats from where the learner moved, limit {limit:.2e}", digest
            )
        if moved < MIN_JUDGED_MOVE * self._noise:
            return None
        slope = math.fsum(a * b for a, b in zip(sampler, learner, strict=True)) / math.fsum(value**2 for value in learner)
        if slope < MIN_FOLLOWED:
            raise _refused(f"the canary did not follow: slope {slope:.2f}, at least {MIN_FOLLOWED} wanted", digest)
        return slope

    def _require_proven(self) -> None:
        if self._serving is None or self._serving != self._inner.adapter_digest:
            raise _refused("the sampler serves what was not proven", self._inner.adapter_digest)


def gap_limit(learner_dtype: str, sampler_dtype: str) -> float:
    """Return the most mean |log-probability difference| between a learner and a sampler of these dtypes, in nats."""
    return max(MAX_GAP_NATS[learner_dtype], MAX_GAP_NATS[sampler_dtype])


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


def require_delivered(gap_nats: float, *, limit_nats: float, version: AdapterVersion) -> None:
    """Raise `DeliveryError` when the mean gap of a step's tokens shows that the sampler did not use `version`.

    A gap that is not finite passes here: then the learner's own numbers are broken and the update is withheld.
    """
    if gap_nats > limit_nats and gap_nats != float("inf"):
        raise DeliveryError(
            f"sampler and learner differ by {gap_nats:.2e} nats per token under {version.adapter_id}, limit {limit_nats:.0e}",
            record_id=version.adapter_id,
            hint="the sampler does not serve this adapter, or another base or precision; no update was made",
        )


def _refused(what: str, digest: str) -> DeliveryError:
    return DeliveryError(
        what,
        record_id=digest,
        hint="the sampler does not serve this adapter: look at how it loads versions; training has not used it",
    )
