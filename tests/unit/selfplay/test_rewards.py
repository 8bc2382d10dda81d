import math

import pytest

from spice_enterprise.selfplay.rewards import challenger_reward, reasoner_reward

G8 = [0.043937, 0.372034, 0.822578, 0.987867, 1.0, 0.987867, 0.822578, 0.372034, 0.043937]
G4 = [0.043937, 0.822578, 1.0, 0.822578, 0.043937]


def answers(k: int, n: int) -> list[bool]:
    return [True] * k + [False] * (n - k)


@pytest.mark.parametrize(("n", "golden"), [(8, G8), (4, G4)])
def test_golden_values(n, golden):
    assert [challenger_reward(answers(k, n)) for k in range(n + 1)] == pytest.approx(golden, abs=1e-6)


@pytest.mark.parametrize("k", [0, 8])
def test_unanimous_answers_earn_the_tail_of_the_bell(k):
    assert challenger_reward(answers(k, 8)) == pytest.approx(math.exp(-0.0625 / 0.02), abs=1e-12)
    assert challenger_reward(answers(k, 8)) == pytest.approx(0.04393693, abs=1e-8)


def test_the_variance_is_the_populations():
    sample_variance_bug = {4: 0.938216, 3: 0.984183}
    for k, wrong in sample_variance_bug.items():
        assert abs(challenger_reward(answers(k, 8)) - wrong) > 1e-3


def test_an_invalid_proposal_earns_exactly_minus_a_tenth():
    assert challenger_reward([], valid=False) == -0.1
    assert challenger_reward(answers(4, 8), valid=False) == -0.1


def test_frontier_beats_easy_and_impossible_beats_invalid():
    frontier, easy, impossible = (challenger_reward(answers(k, 8)) for k in (4, 8, 0))
    invalid = challenger_reward([], valid=False)
    assert frontier > easy == impossible > invalid
    assert easy - invalid == pytest.approx(0.143937, abs=1e-6)


def test_rewards_of_a_mixed_group_and_their_advantages():
    rewards = [challenger_reward(answers(k, 8)) for k in (4, 2, 0, 8, 6)] + [challenger_reward([], valid=False)] * 3
    mean = sum(rewards) / 8
    expected = [0.695871, 0.518449, -0.260192, -0.260192, 0.518449, -0.404129, -0.404129, -0.404129]
    assert mean == pytest.approx(0.304129, abs=1e-6)
    assert [r - mean for r in rewards] == pytest.approx(expected, abs=1e-6)


def test_reasoner_earns_being_right():
    rewards = [reasoner_reward(right) for right in answers(1, 8)]
    assert rewards == [1.0] + [0.0] * 7
    assert [r - sum(rewards) / 8 for r in rewards] == [0.875] + [-0.125] * 7


def test_a_valid_proposal_that_nobody_answered_is_a_mistake():
    with pytest.raises(ValueError, match="at least one answer"):
        challenger_reward([])
