"""What must hold of the statistics whatever the exam was."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from spice_enterprise.release.statistics import (
    mcnemar_exact,
    paired_cluster_interval,
    questions_needed,
    sign_flip_p,
    smallest_provable_gain,
)

QUESTIONS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 6)), min_size=1, max_size=40)


def _columns(rows: list[tuple[bool, bool, int]]) -> tuple[list[bool], list[bool], list[int]]:
    return [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]


@given(QUESTIONS)
@settings(max_examples=50)
def test_the_mean_lies_in_its_interval(rows: list[tuple[bool, bool, int]]) -> None:
    low, mean, high = paired_cluster_interval(*_columns(rows), draws=400)
    assert math.isclose(mean, sum(c - b for b, c, _ in rows) / len(rows))
    assert low <= high
    assert low == -math.inf or -1 <= low <= high <= 1


@given(QUESTIONS, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_order_and_names_of_documents_do_not_matter(rows: list[tuple[bool, bool, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    baseline, candidate, clusters = _columns(shuffled)
    renamed = [f"document {c}" for c in clusters]
    assert paired_cluster_interval(*_columns(rows), draws=50) == paired_cluster_interval(baseline, candidate, renamed, draws=50)


@given(QUESTIONS)
@settings(max_examples=50)
def test_swapping_the_models_swaps_the_mean(rows: list[tuple[bool, bool, int]]) -> None:
    baseline, candidate, clusters = _columns(rows)
    assert paired_cluster_interval(baseline, candidate, clusters, draws=20).mean == -(
        paired_cluster_interval(candidate, baseline, clusters, draws=20).mean
    )
    assert math.isclose(sign_flip_p(baseline, candidate, clusters), sign_flip_p(candidate, baseline, clusters))


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_a_symmetric_probability(b: int, c: int) -> None:
    p = mcnemar_exact(b, c)
    assert 0 < p <= 1
    assert p == mcnemar_exact(c, b)
    assert mcnemar_exact(b, b) == 1.0
    if b >= c:
        assert mcnemar_exact(b + 1, c) <= p


@given(st.floats(0.01, 0.1), st.floats(0.11, 1.0))
def test_larger_gains_need_fewer_questions_and_more_disagreement_more(delta: float, discordant: float) -> None:
    assert questions_needed(delta / 2, discordant) >= questions_needed(delta, discordant)
    assert questions_needed(delta, discordant) >= questions_needed(delta, max(delta, discordant / 2))


@given(st.integers(1, 400), st.integers(1, 20))
def test_more_documents_prove_smaller_gains(documents: int, per_document: int) -> None:
    gain = smallest_provable_gain(documents * per_document, documents)
    assert smallest_provable_gain(2 * documents * per_document, 2 * documents) <= gain
    assert gain <= smallest_provable_gain(documents * per_document, documents, icc=0.5)
