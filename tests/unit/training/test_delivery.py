"""When sampler and learner must agree, how closely, and what is said when they do not."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spice_enterprise.errors import DeliveryError
from spice_enterprise.records import AdapterVersion
from spice_enterprise.seeding import stream
from spice_enterprise.training.canary import TEXTS
from spice_enterprise.training.delivery import ProvenSampler, gap_limit, open_version, require_delivered

VERSION = AdapterVersion(
    role="shared", parent_adapter_id=None, step_id=None, step=3, base_model="m", base_digest="b",
    corpus_digest="c", config_digest="k", manifest=(), digest="sha256:x",
)  # fmt: skip


@pytest.mark.parametrize(("gap", "dtype"), [(0.0, "float32"), (9e-5, "float32"), (0.049, "bfloat16"), (math.nan, "float32")])
def test_rounding_and_broken_numbers_are_not_a_delivery_error(gap, dtype):
    require_delivered(gap, limit_nats=gap_limit(dtype, dtype), version=VERSION)


@pytest.mark.parametrize(
    ("gap", "dtype", "words"), [(2e-4, "float32", "2.00e-04 .* limit 1e-04"), (0.06, "bfloat16", "limit 5e-02")]
)
def test_a_larger_gap_is(gap, dtype, words):
    with pytest.raises(DeliveryError, match=words) as caught:
        require_delivered(gap, limit_nats=gap_limit(dtype, dtype), version=VERSION)
    assert (caught.value.code, caught.value.record_id) == ("E_DELIVERY", VERSION.adapter_id)


def test_files_that_are_not_there_cannot_be_served(tmp_path):
    with pytest.raises(DeliveryError, match="step 3 cannot be served") as caught:
        open_version(tmp_path, VERSION)
    assert caught.value.code == "E_ADAPTER_DIGEST"


def test_the_looser_dtype_decides():
    assert gap_limit("float32", "float32") == 1e-4
    assert gap_limit("float32", "bfloat16") == gap_limit("bfloat16", "float32") == 0.05
    require_delivered(0.049, limit_nats=gap_limit("float32", "bfloat16"), version=VERSION)


# --- the canary, with invented numbers --------------------------------------------------------------------------------

SIZE = sum(len(answers) for _, answers in TEXTS)


class Numbers:
    """Reads as `reading(step)` says; step -1 is the bare base."""

    def __init__(self, reading):
        self.reading, self.step, self.calls = reading, -1, 0

    @property
    def adapter_digest(self):
        return "base" if self.step < 0 else f"sha256:{self.step}"

    def publish(self, version):
        self.step = -1 if version is None else version.step

    def sample(self, prompts, *, n, seed):
        return [f"served {self.step}"]

    def score(self, prompts, continuations):
        self.calls += 1
        values = iter(self.reading(self.step))
        return [[next(values) for _ in texts] for texts in continuations]


def version(step):
    return AdapterVersion(
        role="shared", parent_adapter_id=None, step_id=None, step=step, base_model="m", base_digest="b",
        corpus_digest="c", config_digest="k", manifest=(), digest=f"sha256:{step}",
    )  # fmt: skip


def walk(seed, size, steps=40):
    """Return readings of a learner that moves by `size` (nats, each text) every step, in a direction that changes slowly."""
    drawn = stream(seed, "walk")
    heading = [drawn.gauss(0.0, 1.0) for _ in range(SIZE)]
    readings = [[-3.0 + drawn.gauss(0.0, 1.0) for _ in range(SIZE)]] * 2  # the base, and the untrained start
    for _ in range(steps):
        heading = [0.9 * h + 0.4 * drawn.gauss(0.0, 1.0) for h in heading]
        readings.append([value + size * h for value, h in zip(readings[-1], heading, strict=True)])
    return lambda step: readings[step + 1]


def noisy(reading, noise, seed=0):
    """Return `reading` through a sampler whose rounding differs by `noise` for every version, and is the same each time."""

    def read(step):
        drawn = stream(seed, "noise", step)
        return [value + drawn.gauss(0.0, noise) for value in reading(step)]

    return read


def prove(learner, sampler, limit=0.05):
    return ProvenSampler(Numbers(sampler), Numbers(learner), limit_nats=limit)


@given(seed=st.integers(0, 2**32), size=st.sampled_from([1e-7, 1e-5, 1e-3, 1e-2]), noise=st.sampled_from([0.0, 1e-6, 1e-3, 2e-2]))
@settings(max_examples=60, deadline=None)
def test_an_honest_sampler_is_never_flagged(seed, size, noise):
    learner = walk(seed, size)
    sampler = prove(learner, noisy(learner, noise, seed))
    for step in (*range(40), 17, 16, 39):  # with rollbacks
        sampler.publish(version(step))
        assert sampler.sample([], n=1, seed=0) == [f"served {step}"]
    sampler.publish(None)


@given(seed=st.integers(0, 2**32), size=st.sampled_from([1e-5, 1e-3, 1e-2]), stuck=st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_standing_still_is_flagged_at_once(seed, size, stuck):
    learner = walk(seed, size)
    sampler = prove(learner, lambda step: noisy(learner, 0.02)(min(step, stuck)))
    for step in range(stuck + 1):
        sampler.publish(version(step))
    with pytest.raises(DeliveryError, match=r"stood still|did not follow|elsewhere|differs"):
        sampler.publish(version(stuck + 1))


@pytest.mark.parametrize(("noise", "most"), [(1e-6, 1), (1e-3, 4), (1e-2, 39)])
def test_a_restless_sampler_that_ignores_is_flagged_once_the_moves_add_up(noise, most):
    """It never gives the same number twice, so standing still cannot be seen; the slope is."""
    learner, drawn = walk(5, 2e-3), stream(1, "restless")
    sampler = prove(learner, lambda _: [value + drawn.gauss(0.0, noise) for value in learner(-1)], limit=0.5)
    with pytest.raises(DeliveryError, match="the canary"):
        [sampler.publish(version(step)) for step in range(most + 1)]


def test_the_first_use_is_a_publish_and_an_unknown_digest_is_refused():
    learner = walk(1, 1e-3)
    sampler = prove(learner, learner)
    with pytest.raises(DeliveryError, match="not proven"):
        sampler.sample([], n=1, seed=0)
    sampler.publish(version(3))
    assert sampler.proof.followed == pytest.approx(1.0)
    assert sampler.proof.moved_nats > 1e-3
    sampler._inner.step = 2
    with pytest.raises(DeliveryError, match="not proven"):
        sampler.score([], [])
    sampler._inner.publish = lambda _: None
    with pytest.raises(DeliveryError, match="says that it serves another"):
        sampler.publish(version(3))


def test_a_version_that_stands_already_costs_no_second_look():
    learner = walk(1, 1e-3)
    sampler = prove(learner, learner)
    sampler.publish(version(3))
    before = sampler._inner.calls
    sampler.publish(version(3))
    assert sampler._inner.calls == before


def test_the_numbers_of_a_proof_do_not_depend_on_where_the_run_was_resumed():
    learner = walk(1, 1e-3)
    whole, resumed = (prove(learner, noisy(learner, 1e-6)) for _ in range(2))
    for step in range(8):
        whole.publish(version(step))
    resumed.publish(version(7))
    assert resumed.proof == whole.proof


def test_a_sampler_that_streams_still_does_once_it_was_proven():
    learner = walk(1, 1e-3)
    sampler = prove(learner, learner)
    assert not hasattr(sampler, "stream")
    sampler._inner.stream = lambda: "a stream"
    with pytest.raises(DeliveryError, match="was not proven"):
        sampler.stream()
    sampler.publish(version(0))
    assert sampler.stream() == "a stream"
    assert not hasattr(sampler, "reading")


def test_after_a_refused_publish_nothing_is_streamed():
    learner = walk(1, 1e-3)
    sampler = prove(learner, lambda step: learner(0))
    sampler._inner.stream = lambda: "a stream"
    sampler.publish(version(0))
    with pytest.raises(DeliveryError, match="stood still"):
        sampler.publish(version(1))
    with pytest.raises(DeliveryError, match="was not proven"):
        sampler.stream()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_no_proof(bad):
    learner = walk(1, 1e-3)
    sampler = prove(learner, lambda step: [bad if step > 0 else value for value in learner(step)])
    sampler.publish(version(0))
    with pytest.raises(DeliveryError, match=r"differs by (nan|inf) nats"):
        sampler.publish(version(1))
