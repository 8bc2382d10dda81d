"""Closed forms and published tables for the numbers that a gate rests on."""

import math

import numpy as np
import pytest

from spice_enterprise.release.statistics import (
    design_effect,
    documents_needed,
    mcnemar_exact,
    noninferiority_questions_needed,
    paired_cluster_interval,
    questions_needed,
    rate_bound_after_zero,
    seeded_cluster_interval,
    sign_flip_p,
    smallest_provable_gain,
)


@pytest.mark.parametrize(
    ("delta", "discordant", "questions"),
    [
        (0.05, 0.1, 312), (0.05, 0.2, 626), (0.05, 0.3, 940), (0.05, 0.4, 1_253),
        (0.03, 0.1, 870), (0.03, 0.2, 1_742), (0.03, 0.3, 2_614), (0.03, 0.4, 3_486),
        (0.08, 0.1, 120), (0.08, 0.2, 243), (0.08, 0.3, 366), (0.08, 0.4, 488),
        (0.10, 0.2, 155), (0.10, 0.3, 233), (0.10, 0.4, 312),
    ],
)  # fmt: skip
def test_questions_needed_is_the_published_table(delta: float, discordant: float, questions: int) -> None:
    assert questions_needed(delta, discordant) == questions


@pytest.mark.parametrize(("margin", "discordant", "questions"), [(0.05, 0.1, 247), (0.02, 0.1, 1_546), (0.01, 0.1, 6_183)])
def test_noninferiority_is_the_published_table(margin: float, discordant: float, questions: int) -> None:
    assert noninferiority_questions_needed(margin, discordant) == questions


def test_design_effect() -> None:
    assert design_effect(5, 0.1) == pytest.approx(1.4)
    assert design_effect(10, 0.2) == pytest.approx(2.8)
    assert design_effect(1, 0.9) == 1.0


@pytest.mark.parametrize(
    ("questions", "documents", "points"), [(140, 22, 13), (100, 100, 12), (200, 200, 9), (626, 626, 5), (155, 155, 10)]
)
def test_smallest_provable_gain(questions: int, documents: int, points: int) -> None:
    assert round(100 * smallest_provable_gain(questions, documents)) == points


def test_smallest_provable_gain_inverts_questions_needed() -> None:
    assert smallest_provable_gain(1_742, 1_742) == pytest.approx(0.03, abs=1e-5)


def test_a_handful_of_questions_proves_nothing() -> None:
    assert smallest_provable_gain(3, 3) == math.inf
    assert smallest_provable_gain(20, 20, 0.2) > 0.2


def test_documents_needed() -> None:
    assert documents_needed(0.05, 5) == math.ceil(626 * 1.4 / 5)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1.0),
        (4, 4, 1.0),
        (0, 1, 1.0),
        (0, 5, 2 / 32),
        (1, 9, 22 / 1_024),
        (9, 1, 22 / 1_024),
        (2, 8, 112 / 1_024),
        (0, 10, 2 / 1_024),
    ],
)
def test_mcnemar_is_the_binomial_tail(b: int, c: int, p: float) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(p, abs=1e-15)


def test_mcnemar_survives_large_counts() -> None:
    assert mcnemar_exact(500, 400) == pytest.approx(0.000956444, rel=1e-5)
    assert 0 < mcnemar_exact(3_000, 2_500) < 1e-9


@pytest.mark.parametrize(("b", "c"), [(-1, 2), (2, -1), (1.5, 2), (True, 2), ("3", 2), (float("nan"), 2)])
def test_mcnemar_refuses_what_is_no_count(b: object, c: object) -> None:
    with pytest.raises(ValueError, match="whole numbers of at least 0"):
        mcnemar_exact(b, c)  # type: ignore[arg-type]  # that is the point


def test_interval_of_a_constant_difference_is_a_point() -> None:
    assert paired_cluster_interval([0, 0, 0, 0], [1, 1, 1, 1], ["a", "a", "b", "c"]) == (1.0, 1.0, 1.0)


def test_interval_weighs_questions_not_documents() -> None:
    interval = paired_cluster_interval([0] * 4, [1, 1, 1, 0], ["a", "a", "a", "b"], draws=2_000)
    assert interval.mean == 0.75
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_interval_matches_the_normal_approximation() -> None:
    generator = np.random.default_rng(3)
    difference = generator.normal(0.1, 1.0, 400)
    interval = paired_cluster_interval([0.0] * 400, difference.tolist(), range(400))
    half = 1.96 * difference.std() / 20
    assert interval.mean == pytest.approx(difference.mean())
    assert interval.low == pytest.approx(difference.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(difference.mean() + half, abs=0.01)


def test_interval_is_reproducible_and_the_seed_matters() -> None:
    candidate = [float(i % 3 == 0) for i in range(60)]
    arguments = ([0.3] * 60, candidate, [i % 17 for i in range(60)])
    assert paired_cluster_interval(*arguments, seed=1) == paired_cluster_interval(*arguments, seed=1)
    assert paired_cluster_interval(*arguments, seed=1) != paired_cluster_interval(*arguments, seed=2)


def test_one_document_bounds_nothing() -> None:
    assert paired_cluster_interval([0, 0], [1, 1], ["a", "a"]) == (-math.inf, 1.0, math.inf)


@pytest.mark.parametrize(
    ("baseline", "candidate", "clusters", "message"),
    [
        ([], [], [], "no questions"),
        ([1], [1, 0], ["a"], "lengths differ: 1 baseline, 2 candidate, 1 clusters"),
        ([1], [1], ["a", "b"], "lengths differ"),
        ([1, float("nan")], [1, 1], ["a", "b"], "finite"),
        ([1, 1], [1, float("inf")], ["a", "b"], "finite"),
        ([[1], [1]], [[1], [1]], ["a", "b"], "one number per question"),
    ],
)
def test_bad_scores_are_refused(baseline: list[float], candidate: list[float], clusters: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_cluster_interval(baseline, candidate, clusters)
    with pytest.raises(ValueError, match=message):
        sign_flip_p(baseline, candidate, clusters)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_bad_levels_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        paired_cluster_interval([0, 1], [1, 1], ["a", "b"], level=level)


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="draws"):
        paired_cluster_interval([0, 1], [1, 1], ["a", "b"], draws=0)


def test_impossible_sizes_are_refused() -> None:
    for bad in ((0.0, 0.2), (0.3, 0.2), (0.1, 1.5)):
        with pytest.raises(ValueError, match="delta"):
            questions_needed(*bad)
    with pytest.raises(ValueError, match="documents"):
        smallest_provable_gain(3, 4)
    with pytest.raises(ValueError, match="look"):
        rate_bound_after_zero(0)


def test_sign_flip_is_exact_for_few_documents() -> None:
    """All of k documents better: 2 of 2^k flips are as extreme."""
    assert sign_flip_p([0] * 6, [1] * 6, range(6)) == pytest.approx(2 / 64)
    assert sign_flip_p([0, 0], [1, -1], ["a", "b"]) == 1.0


def test_sign_flip_counts_documents_not_questions() -> None:
    assert sign_flip_p([0] * 30, [1] * 30, ["a"] * 15 + ["b"] * 15) == pytest.approx(0.5)


def test_sign_flip_of_many_documents_is_never_zero() -> None:
    assert sign_flip_p([0] * 40, [1] * 40, range(40), draws=500) == pytest.approx(1 / 501)


def test_rule_of_three() -> None:
    assert rate_bound_after_zero(300) == pytest.approx(0.01)
    assert rate_bound_after_zero(2) == 1.0


def _false_wins(is_clustered: bool, runs: int = 150) -> float:
    """Share of equal pairs of models (50 documents x 10 questions, ICC 0.7) that look different at 5 %."""
    generator = np.random.default_rng(20)
    wins = 0
    for run in range(runs):
        document = np.repeat(generator.normal(0, math.sqrt(0.7), 50), 10)
        difference = document + generator.normal(0, math.sqrt(0.3), 500)
        clusters = [i // 10 if is_clustered else i for i in range(500)]
        low, _, high = paired_cluster_interval([0.0] * 500, difference.tolist(), clusters, draws=400, seed=run)
        wins += low > 0 or high < 0
    return wins / runs


def test_clusters_keep_the_false_win_rate_where_the_naive_bootstrap_does_not() -> None:
    assert _false_wins(is_clustered=True) <= 0.10
    assert _false_wins(is_clustered=False) >= 0.35


# --- several training seeds -------------------------------------------------------------------------------------------


def test_one_seed_is_the_interval_over_documents() -> None:
    row, documents = [1.0, 0.0, 1.0, 0.0, -1.0, 0.0], ["a", "a", "b", "b", "c", "c"]
    one = seeded_cluster_interval([row], documents, draws=500, seed=3)
    assert one == paired_cluster_interval([0.0] * 6, row, documents, draws=500, seed=3)


def test_seeds_that_agree_say_no_more_than_one_and_seeds_that_differ_say_less() -> None:
    row, documents = [1.0, 0.0, 1.0, 0.0, -1.0, 0.0] * 10, [f"d{i // 2}" for i in range(60)]
    one = seeded_cluster_interval([row], documents, draws=2000)
    same = seeded_cluster_interval([row] * 3, documents, draws=2000)
    assert same == one
    shifted = [[value + shift for value in row] for shift in (-0.1, 0.0, 0.1)]
    differing = seeded_cluster_interval(shifted, documents, draws=2000)
    assert differing.mean == pytest.approx(one.mean)
    # the t quantile of 2 degrees of freedom is 4.30, the standard error of the seeds 0.1 / sqrt(3)
    assert differing.high - differing.mean > 0.9 * 4.30 * 0.1 / math.sqrt(3)


def test_the_interval_over_seeds_and_documents_holds_its_word() -> None:
    """19 in 20 such intervals must hold the truth, here 0; drawing three seeds with replacement would hold it in 3 of 4."""
    generator, documents, held, naive = np.random.default_rng(5), [f"d{i // 3}" for i in range(120)], 0, 0
    for turn in range(300):
        by_document = np.repeat(generator.normal(0.0, 0.2, 40), 3)
        seeds = generator.normal(0.0, 0.15, 3)
        rows = [(by_document + effect + generator.normal(0.0, 0.3, 120)).tolist() for effect in seeds]
        low, _, high = seeded_cluster_interval(rows, documents, draws=400, seed=turn)
        held += low <= 0.0 <= high
        picks = generator.integers(0, 3, size=(400, 3))
        means = np.array([np.mean(row) for row in rows])[picks].mean(axis=1)
        naive += np.quantile(means, 0.025) <= 0.0 <= np.quantile(means, 0.975)
    assert held / 300 >= 0.93
    assert naive / 300 < 0.85, "what this is better than"


@pytest.mark.parametrize("rows", [[], [[]], [[1.0], [1.0, 0.0]], [[math.nan]]])
def test_no_interval_of_nothing_or_of_misshapen_seeds(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"no seeds|no questions|lengths differ|finite"):
        seeded_cluster_interval(rows, ["a"] * (len(rows[0]) if rows else 1))


def test_one_document_bounds_nothing_for_many_seeds_either() -> None:
    assert seeded_cluster_interval([[1.0, 0.0]] * 3, ["a", "a"]).low == -math.inf
