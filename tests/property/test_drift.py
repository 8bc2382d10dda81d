"""The drift monitor takes anything and stays deterministic."""

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.guardrails.drift import DriftMonitor
from spice_enterprise.policy import load_guardrails

POLICY = load_guardrails()
KEYS = [
    "step",
    "reward_mean",
    "reward_std",
    "frac_zero_std",
    "loss",
    "grad_norm",
    "kl",
    "heldout",
    "entropy",
    "invalid_rate",
    "other",
]
VALUES = (
    st.none()
    | st.floats()
    | st.booleans()
    | st.integers()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.lists(st.none(), max_size=1)
)
TRACES = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=25)


@given(TRACES)
def test_it_never_raises_and_repeats_itself(trace: list[dict[str, object]]) -> None:
    first, second = DriftMonitor(POLICY), DriftMonitor(POLICY)
    reasons = [first.update(obs) for obs in trace]  # type: ignore[arg-type]  # anything at all
    assert reasons == [second.update(obs) for obs in trace]  # type: ignore[arg-type]  # as above
    assert all(reason is None or (isinstance(reason, str) and reason) for reason in reasons)
