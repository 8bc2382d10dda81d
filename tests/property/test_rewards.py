"""Properties of the SPICE rewards: bounded, blind to order, symmetric, highest at one half."""

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.selfplay.rewards import challenger_reward, reasoner_reward

ANSWERS = st.lists(st.booleans(), min_size=1, max_size=64)


@given(ANSWERS)
def test_bounded(correct):
    assert 0.0439 < challenger_reward(correct) <= 1.0


@given(ANSWERS, st.randoms())
def test_order_free(correct, random):
    shuffled = list(correct)
    random.shuffle(shuffled)
    assert challenger_reward(shuffled) == challenger_reward(correct)


@given(ANSWERS)
def test_right_and_wrong_are_symmetric(correct):
    assert abs(challenger_reward([not c for c in correct]) - challenger_reward(correct)) < 1e-12


@given(st.integers(1, 64), st.data())
def test_nearer_to_one_half_never_earns_less(n, data):
    k = data.draw(st.integers(0, n // 2))
    rewards = [challenger_reward([True] * i + [False] * (n - i)) for i in range(k, n // 2 + 1)]
    assert rewards == sorted(rewards)


@given(ANSWERS)
def test_invalid_is_below_everything(correct):
    assert challenger_reward(correct, valid=False) == -0.1 < challenger_reward(correct)


@given(st.booleans())
def test_reasoner(correct):
    assert reasoner_reward(correct) == float(correct)
