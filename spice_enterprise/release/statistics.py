"""Intervals, tests and sample sizes for paired answers that come in documents.

In: per-question scores of two models on the same questions, and the document of each question.
Out: plain numbers: intervals, p-values, questions needed, the smallest gain that an exam could prove.
Refuses: empty, mismatched or non-finite input (`ValueError`): a statistic of those would look like a result.
Not here: verdicts (`gate.py`). No state, no I/O; the seed is an argument.

The unit is the question, the cluster is the document: answers about one document go wrong together, and a bootstrap
that ignores this calls a false win in four of ten comparisons of equal models.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z_TWO_SIDED: Final = 1.959964
"""Two-sided 5 %."""
Z_ONE_SIDED: Final = 1.644854
"""One-sided 5 %."""
Z_POWER: Final = 0.841621
"""80 % power."""
FEW_CLUSTERS: Final = 20
"""Below this many documents a bootstrap is too sure of itself; ask `sign_flip_p` as well."""
_BATCH_CELLS: Final = 1 << 20
_EXACT_CLUSTERS: Final = 12


class Interval(NamedTuple):
    """A mean difference with its confidence bounds."""

    low: float
    mean: float
    high: float


def paired_cluster_interval(
    baseline: Sequence[float],
    candidate: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the mean of candidate minus baseline per question, with a percentile bootstrap over clusters.

    The result depends on the data and the seed only, not on the order of questions or the names of clusters. One
    cluster says nothing about the next, so its bounds are infinite.

    Args:
        baseline: one score per question (booleans count as 0 and 1).
        candidate: scores of the same questions in the same order.
        clusters: the document of each question.
        level: two-sided confidence.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        ValueError: empty, mismatched or non-finite input; level outside (0, 1); no draws.
    """
    if not 0.0 < level < 1.0:
        raise ValueError("level must lie between 0 and 1")
    if draws < 1:
        raise ValueError("draws must be at least 1")
    sums, sizes = _cluster_sums(baseline, candidate, clusters)
    mean = float(sums.sum() / sizes.sum())
    if len(sums) == 1:
        return Interval(-math.inf, mean, math.inf)
    means = _bootstrap_means(sums, sizes, draws, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), mean, float(high))


def _differences(baseline: Sequence[float], candidate: Sequence[float], clusters: Sequence[Hashable]) -> Floats:
    if not len(baseline) == len(candidate) == len(clusters):
        raise ValueError(f"lengths differ: {len(baseline)} baseline, {len(candidate)} candidate, {len(clusters)} clusters")
    if len(baseline) == 0:
        raise ValueError("no questions")
    first, second = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if first.ndim != 1 or second.ndim != 1:
        raise ValueError("scores must be one number per question")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("scores must be finite")
    return second - first


def _cluster_sums(baseline: Sequence[float], candidate: Sequence[float], clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Return (sum of differences, number of questions) per cluster, sorted so that order and names do not matter."""
    differences = _differences(baseline, candidate, clusters)
    totals: dict[Hashable, list[float]] = {}
    for cluster, difference in zip(clusters, differences.tolist(), strict=True):
        totals.setdefault(cluster, []).append(difference)
    pairs = sorted((math.fsum(values), len(values)) for values in totals.values())
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs], dtype=np.float64)


def _bootstrap_means(sums: Floats, sizes: Floats, draws: int, seed: int) -> Floats:
    """Return `draws` means over clusters drawn with replacement."""
    generator = np.random.default_rng(seed)
    per_batch = max(1, _BATCH_CELLS // len(sums))
    means = []
    for start in range(0, draws, per_batch):
        rows = min(per_batch, draws - start)
        picks = generator.integers(0, len(sums), size=(rows, len(sums)))
        means.append(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1))
    return np.concatenate(means)


def seeded_cluster_interval(
    differences: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the mean over training seeds and questions, with an interval for other documents and other seeds.

    Documents are drawn with replacement for all seeds together, since every seed answers the same questions. Seeds are a
    handful: drawing three values with replacement never leaves their range, and such an interval misses one time in four.
    So each draw adds the standard error of the seeds' means times a Student t with one degree of freedom less than seeds.
    One seed says nothing about the next; its interval is for other documents only.

    Args:
        differences: one row per seed, with candidate minus baseline of each question.
        clusters: the document of each question.
        level: two-sided confidence.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        ValueError: no seed, or as `paired_cluster_interval`.
    """
    if not differences:
        raise ValueError("no seeds")
    if not 0.0 < level < 1.0 or draws < 1:
        raise ValueError("level must lie between 0 and 1, and draws must be at least 1")
    nothing = [0.0] * len(clusters)
    seed_means = np.array([_differences(nothing, row, clusters).mean() for row in differences])
    over_seeds = np.asarray(differences, dtype=np.float64).mean(axis=0)
    sums, sizes = _cluster_sums(nothing, over_seeds.tolist(), clusters)
    mean = float(sums.sum() / sizes.sum())
    if len(sums) == 1:
        return Interval(-math.inf, mean, math.inf)
    means = _bootstrap_means(sums, sizes, draws, seed)
    if len(seed_means) > 1:
        standard_error = seed_means.std(ddof=1) / math.sqrt(len(seed_means))
        means = means + standard_error * np.random.default_rng([seed, len(seed_means)]).standard_t(len(seed_means) - 1, draws)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), mean, float(high))


def sign_flip_p(
    baseline: Sequence[float],
    candidate: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """Return the two-sided p of "no difference" by flipping the sign of whole clusters.

    Exact (every flip) up to 12 clusters, else `draws` random flips with the observed one counted in, so never 0.
    Raises `ValueError` as `paired_cluster_interval` does.
    """
    if draws < 1:
        raise ValueError("draws must be at least 1")
    sums, _ = _cluster_sums(baseline, candidate, clusters)
    observed = abs(sums.sum()) - 1e-12
    if len(sums) <= _EXACT_CLUSTERS:
        bits = np.arange(1 << len(sums))[:, None] >> np.arange(len(sums)) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ sums) >= observed))
    generator = np.random.default_rng(seed)
    signs = generator.integers(0, 2, size=(draws, len(sums))) * 2 - 1
    extreme = int(np.count_nonzero(np.abs(signs @ sums) >= observed))
    return (extreme + 1) / (draws + 1)


def mcnemar_exact(b: int, c: int) -> float:
    """Return the two-sided exact p from the two discordant counts; 1.0 when there are none.

    Raises `ValueError` for anything but whole numbers of at least 0.
    """
    for count in (b, c):
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
            raise ValueError("discordant counts must be whole numbers of at least 0")
    total, smaller = int(b) + int(c), min(int(b), int(c))
    term = tail = 1
    for i in range(smaller):
        term = term * (total - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total if 2 * tail < 2**total else 1.0)


def questions_needed(delta: float, discordant: float) -> int:
    """Return how many independent questions show a true gain `delta` (two-sided 5 %, power 80 %, paired).

    `discordant` is the share of questions that exactly one of the two answers right; it cannot be below `delta`.
    Multiply by `design_effect`. Raises `ValueError` for impossible shares.
    """
    if not 0.0 < delta <= discordant <= 1.0:
        raise ValueError("needs 0 < delta <= discordant <= 1")
    return _to_nearest(_questions(delta, discordant))


def _questions(delta: float, discordant: float) -> float:
    spread = Z_TWO_SIDED * math.sqrt(discordant) + Z_POWER * math.sqrt(discordant - delta * delta)
    return (spread / delta) ** 2


def _to_nearest(questions: float) -> int:
    return max(1, math.floor(questions + 0.5))


def noninferiority_questions_needed(margin: float, discordant: float) -> int:
    """Return how many questions show "not worse by `margin`" for equal models (one-sided 5 %, power 80 %)."""
    if not (0.0 < margin <= 1.0 and 0.0 < discordant <= 1.0):
        raise ValueError("margin and discordant must lie in (0, 1]")
    return _to_nearest((Z_ONE_SIDED + Z_POWER) ** 2 * discordant / margin**2)


def design_effect(questions_per_document: float, icc: float = 0.1) -> float:
    """Return how many clustered questions are worth one independent question: 1 + (m - 1) * ICC."""
    if not (questions_per_document >= 1.0 and 0.0 <= icc <= 1.0):
        raise ValueError("needs at least one question per document and an ICC in [0, 1]")
    return 1.0 + (questions_per_document - 1.0) * icc


def smallest_provable_gain(n_questions: int, n_documents: int, discordant: float = 0.2, *, icc: float = 0.1) -> float:
    """Return the smallest true gain that such an exam would show in 80 % of cases; infinite when none could be.

    A gain above `discordant` needs as many discordant questions as it is large, and is computed so.
    Raises `ValueError` for impossible counts.
    """
    if not (n_documents >= 1 and n_questions >= n_documents):
        raise ValueError("needs at least one document, and no more documents than questions")
    if not 0.0 < discordant <= 1.0:
        raise ValueError("discordant must lie in (0, 1]")
    effective = n_questions / design_effect(n_questions / n_documents, icc)
    if _questions(1.0, 1.0) > effective:
        return math.inf
    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        is_enough = _questions(middle, max(middle, discordant)) <= effective
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def documents_needed(delta: float, questions_per_document: float, discordant: float = 0.2, *, icc: float = 0.1) -> int:
    """Return how many documents, at this many questions each, show a true gain `delta`."""
    questions = questions_needed(delta, max(delta, discordant))
    return math.ceil(questions * design_effect(questions_per_document, icc) / questions_per_document)


def rate_bound_after_zero(n: int) -> float:
    """Return the upper 95 % bound of a rate that showed 0 hits in `n` looks (rule of three)."""
    if n < 1:
        raise ValueError("needs at least one look")
    return min(1.0, 3.0 / n)
