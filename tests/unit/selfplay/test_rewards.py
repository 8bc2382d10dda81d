import math

import pytest

from spice_enterprise.selfplay.rewards import (
    azr_reward,
    challenger_reward,
    chance_corrected_reward,
    chance_of,
    reasoner_reward,
    reward_rule,
    rzero_reward,
    spell_reward,
    threshold_reward,
)

G8 = [0.043937, 0.372034, 0.822578, 0.987867, 1.0, 0.987867, 0.822578, 0.372034, 0.043937]
G4 = [0.043937, 0.822578, 1.0, 0.822578, 0.043937]


@pytest.fixture
def make_task(world):
    return world.task


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


TAIL = 0.043937
CHOICE = [TAIL, TAIL, TAIL, 0.539408, 0.962154, 1.0, 0.962154, 0.539408, TAIL]
BOOLEAN = [TAIL] * 5 + [0.822578, 1.0, 0.822578, TAIL]
FAMILIES = {
    rzero_reward: [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0],
    azr_reward: [0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0],
    spell_reward: [0, 0.079560, 0.324652, 0.754840, 1, 0.754840, 0.324652, 0.079560, 0],
    threshold_reward: [0, 0, 1, 1, 1, 1, 1, 0, 0],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_values_of_other_families(family):
    assert [family(answers(k, 8)) for k in range(9)] == pytest.approx(FAMILIES[family], abs=1e-6)


@pytest.mark.parametrize(("chance", "golden"), [(0.25, CHOICE), (0.5, BOOLEAN), (0.0, G8)])
def test_golden_values_with_chance_taken_off(chance, golden):
    assert [chance_corrected_reward(answers(k, 8), chance=chance) for k in range(9)] == pytest.approx(golden, abs=1e-6)


def expected(p, reward, n=8):
    """The mean reward of a task that each of `n` answers gets right with probability `p`."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * reward(answers(k, n)) for k in range(n + 1))


def corrected(chance):
    return lambda correct: chance_corrected_reward(correct, chance=chance)


@pytest.mark.parametrize(("p", "golden"), [(0.1, 0.3214), (0.25, 0.6777), (0.4, 0.8728), (0.5, 0.9092)])
def test_expected_reward_of_spice(p, golden):
    assert expected(p, challenger_reward) == pytest.approx(golden, abs=1e-4)


@pytest.mark.parametrize(
    ("p", "chance", "golden"),
    [(0.25, 0.25, 0.2520), (0.5, 0.25, 0.7284), (0.637, 0.25, 0.8291), (0.5, 0.5, 0.3432), (0.764, 0.5, 0.7130)],
)
def test_expected_reward_with_chance_taken_off(p, chance, golden):
    assert expected(p, corrected(chance)) == pytest.approx(golden, abs=1e-4)


@pytest.mark.parametrize(("chance", "peak"), [(0.25, 0.637), (0.5, 0.764)])
def test_the_best_difficulty_lies_above_chance(chance, peak):
    best = max((i / 1000 for i in range(1001)), key=lambda p: expected(p, corrected(chance)))
    assert best == pytest.approx(peak, abs=0.0011)


def test_blind_guesses_and_groups_without_a_signal():
    assert expected(0.25, lambda c: float(sum(c) >= 2)) == pytest.approx(0.6329, abs=1e-4)
    for p, golden in ((0.1, 0.4305), (0.9, 0.4305), (0.25, 0.1001), (0.75, 0.1001), (0.5, 0.0078)):
        assert expected(p, lambda c: float(sum(c) in (0, 8))) == pytest.approx(golden, abs=1e-4)


def test_what_chance_is(make_task):
    assert chance_of(make_task("B", "choice", options=("a", "b", "c", "d"))) == 0.25
    assert chance_of(make_task("yes", "boolean")) == 0.5
    assert chance_of(make_task("45 days", "number")) == 0.0
    rule = reward_rule("chance_corrected")
    assert rule(answers(2, 8), make_task("B", "choice", options=("a", "b", "c", "d"))) == pytest.approx(TAIL, abs=1e-6)
    assert rule(answers(2, 8), make_task("45 days", "number")) == pytest.approx(0.822578, abs=1e-6)
    assert reward_rule("azr")(answers(2, 8), make_task("45 days", "number")) == 0.75


def test_a_coin_flip_challenger_out_earns_an_honest_one_under_the_papers_reward_only():
    """A yes/no question that nobody can know is right half of the time; the honest free-form one in 40 %."""
    coin, honest = 0.5, 0.4
    assert expected(coin, challenger_reward) == pytest.approx(0.909, abs=1e-3)
    assert expected(honest, challenger_reward) == pytest.approx(0.873, abs=1e-3)
    assert expected(coin, challenger_reward) > expected(honest, challenger_reward)
    assert expected(coin, corrected(0.5)) == pytest.approx(0.343, abs=1e-3)
    assert expected(honest, corrected(0.0)) == pytest.approx(0.873, abs=1e-3)
    assert expected(coin, corrected(0.5)) < expected(honest, corrected(0.0))
