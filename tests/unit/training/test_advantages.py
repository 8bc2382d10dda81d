"""Centring within a group: closed values, exact zeros, nothing hidden."""

import math

import pytest

from spice_enterprise.training.advantages import centre, has_no_signal


def test_challenger_group_with_three_invalid_proposals():
    rewards = [1.0, 0.822578, 0.043937, 0.043937, 0.822578, -0.1, -0.1, -0.1]
    assert sum(rewards) / 8 == pytest.approx(0.304129, abs=1e-6)
    expected = [0.695871, 0.518449, -0.260192, -0.260192, 0.518449, -0.404129, -0.404129, -0.404129]
    assert centre(rewards) == pytest.approx(expected, abs=1e-6)


def test_one_correct_answer_of_eight():
    assert centre([1.0] + [0.0] * 7) == pytest.approx([0.875] + [-0.125] * 7, abs=1e-12)


def test_doubling_rewards_doubles_advantages_since_nothing_divides_by_the_deviation():
    rewards = [0.1, 0.7, 0.2, -0.1]
    assert centre([2 * r for r in rewards]) == pytest.approx([2 * a for a in centre(rewards)])
    assert abs(sum(centre(rewards))) < 1e-12


@pytest.mark.parametrize("reward", [0.1, 0.0, -0.1, 0.04393693362340742])
def test_equal_rewards_give_exact_zeros(reward):
    assert centre([reward] * 7) == [0.0] * 7
    assert has_no_signal([reward] * 7)


def test_not_a_number_is_neither_dropped_nor_taken_for_no_signal():
    assert all(math.isnan(a) for a in centre([1.0, math.nan, 0.0]))
    assert not has_no_signal([math.nan, math.nan])
    assert not has_no_signal([math.inf, math.inf])


def test_no_rewards_no_advantages():
    assert centre([]) == []
