"""Numbers of likeness, against values worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.selfplay.diversity import cluster_entropy, letter_shares, self_bleu, top_share, word_entropy, zlib_ratio

TEXTS = st.lists(st.text(alphabet="abc xyz?", max_size=30), max_size=8)


def test_self_bleu_of_two_questions_that_differ_in_the_last_word() -> None:
    # 3/4 of the words, (2+1)/(3+1) pairs, (1+1)/(2+1) triples, (0+1)/(1+1) of four
    expected = (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert self_bleu(["red cat sat down", "red cat sat here"]) == pytest.approx(expected)


def test_self_bleu_pays_for_brevity_and_counts_no_word_twice() -> None:
    # against "cat cat sat": "cat" stands once in the other text, so 2/3; pairs (1+1)/(2+1), triples and fours (0+1)/(1+1), 1
    long = (2 / 3 * 2 / 3 * 1 / 2 * 1) ** 0.25
    # "cat sat" has 2/2, (1+1)/(1+1), 1, 1, and is shorter than its reference: exp(1 - 3/2)
    assert self_bleu(["cat cat sat", "cat sat"]) == pytest.approx((long + math.exp(-0.5)) / 2)


def test_self_bleu_at_its_ends() -> None:
    assert self_bleu(["how many meals per day"] * 3) == pytest.approx(1.0)
    assert self_bleu(["one two three", "four five six"]) == 0.0
    assert self_bleu(["alone"]) is None
    assert self_bleu([]) is None


@given(TEXTS)
def test_self_bleu_is_a_share_whatever_the_order(texts: list[str]) -> None:
    found = self_bleu(texts)
    assert found is None or 0.0 <= found <= 1.0 + 1e-12
    assert found == (pytest.approx(self_bleu(texts[::-1])) if found is not None else None)


def test_entropy_of_words() -> None:
    assert word_entropy(["one two", "One four"]) == pytest.approx(1.5)
    assert word_entropy(["same same"]) == 0.0
    assert word_entropy([""]) is None


def test_entropy_of_clusters() -> None:
    fee = ["How much is the fee per month?", "How much is the monthly fee per month?"]
    pump = ["When was pump P-204 commissioned at the plant?", "When was the pump P-204 commissioned?"]
    assert cluster_entropy(fee) == 0.0
    assert cluster_entropy([*fee, *pump]) == pytest.approx(1.0)
    assert cluster_entropy([*fee, *pump[:1]]) == pytest.approx(0.9183, abs=1e-4)
    assert cluster_entropy([fee[0], pump[0], "Who signs for the landlord?", "Which town is it in?"]) == pytest.approx(2.0)
    assert cluster_entropy(fee[:1]) is None


@given(TEXTS)
def test_clusters_do_not_depend_on_the_order(texts: list[str]) -> None:
    assert cluster_entropy(texts) == pytest.approx(cluster_entropy(texts[::-1]))


def test_what_repeats_itself_compresses() -> None:
    assert (zlib_ratio(["abc " * 500]) or 1.0) < 0.05
    assert (zlib_ratio(["q8$Kz!p2"]) or 0.0) > 1.0
    assert zlib_ratio([]) is None


def test_top_share() -> None:
    assert top_share(["x", "y", "x", "z"]) == 0.5
    assert top_share([]) is None


def test_letters_and_their_chi_square() -> None:
    shares, chi_square = letter_shares(["A", "A", "B", "C"] * 2)
    assert shares == {"A": 0.5, "B": 0.25, "C": 0.25, "D": 0.0}
    assert chi_square == pytest.approx((4 + 0 + 0 + 4) / 2)
    assert letter_shares(["A", "B", "C", "D"])[1] == 0.0
