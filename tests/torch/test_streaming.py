"""Groups in a stream are what they would be alone, however they come and go beside others."""

import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spice_enterprise.errors import DeliveryError, SamplerError
from spice_enterprise.records import Message, Prompt
from spice_enterprise.training import continuous
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.hf_twin import load_twin

pytestmark = pytest.mark.torch


def make_sampler(learner, tmp_path):
    return HfSampler(learner, ChatTokenizer(learner.base.path), run_dir=tmp_path)


def ask(text, max_new_tokens=8, temperature=1.0):
    message = Message(speaker="user", content=text)
    return Prompt(messages=(message,), template_id="t", max_new_tokens=max_new_tokens, temperature=temperature)


def written(completions):
    return [(c.token_ids, c.stop_reason, c.text, c.prompt_token_ids, c.adapter_digest) for c in completions]


@pytest.fixture(scope="module")
def sampler(tiny_base, tmp_path_factory):
    from spice_enterprise.config import TrainingConfig
    from spice_enterprise.training.qlora import LearnerModel

    config = TrainingConfig(lora_rank=4, lora_alpha=4, compute_dtype="float32")
    return make_sampler(LearnerModel.load(tiny_base, config, seed=11), tmp_path_factory.mktemp("run"))


groups = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 4), st.integers(1, 14), st.integers(0, 5), st.sampled_from([0.0, 0.7, 1.0])),
    min_size=1,
    max_size=7,
)
"""Prompt length, completions, longest, seed, temperature."""


@given(plan=groups, puts_per_take=st.integers(1, 3), max_rows=st.sampled_from([4, 9, 128]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_group_is_what_it_would_be_alone(sampler, plan, puts_per_take, max_rows):
    asked = {f"g{i}": (ask("ab" * size, longest, warmth), n, seed) for i, (size, n, longest, seed, warmth) in enumerate(plan)}
    found, waiting = {}, list(asked)
    with pytest.MonkeyPatch.context() as patch, sampler.stream() as stream:
        patch.setattr(continuous, "MAX_ROWS", max_rows)
        while len(found) < len(asked):
            for key in waiting[:puts_per_take]:
                prompt, n, seed = asked[key]
                stream.put(key, prompt, n=n, seed=seed)
            del waiting[:puts_per_take]
            finished = dict(stream.take())
            assert finished
            assert not found.keys() & finished.keys()
            found |= finished
        assert stream.take() == []
    for key, (prompt, n, seed) in asked.items():
        (alone,) = sampler.sample([prompt], n=n, seed=seed)
        assert written(found[key]) == written(alone)
        for one, other in zip(found[key], alone, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_a_short_group_comes_back_while_a_long_one_goes_on(sampler):
    with sampler.stream() as stream:
        stream.put("long", ask("slow", 60, 0.0), n=1, seed=1)
        stream.put("short", ask("quick", 1), n=4, seed=1)
        assert [key for key, _ in stream.take()] == ["short"]
        stream.put("late", ask("late", 2), n=2, seed=2)
        assert [key for key, _ in stream.take()] == ["late"]
        with pytest.raises(ValueError, match="in flight already"):
            stream.put("long", ask("other"), n=1, seed=1)
        ((key, (completion,)),) = stream.take()
        assert (key, len(completion.token_ids)) == ("long", 60)
        stream.put("long", ask("again"), n=1, seed=1)  # a finished key is free


def test_one_prompt_is_read_once_and_one_pass_writes_for_all(sampler, monkeypatch):
    shapes = []
    run = sampler._learner.hidden_states
    monkeypatch.setattr(
        sampler._learner, "hidden_states", lambda ids, **rest: shapes.append(tuple(ids.shape)) or run(ids, **rest)
    )
    with sampler.stream() as stream:
        stream.put("a", ask("x" * 9, 5, 0.0), n=3, seed=1)
        assert stream.take()
        alone = len(shapes)
        stream.put("a", ask("x" * 9, 5, 0.0), n=3, seed=1)
        stream.put("b", ask("y" * 9, 5, 0.0), n=4, seed=1)
        while stream.take():
            pass
    prefills = [shape for shape in shapes if shape[1] > 1]
    assert prefills[0][0] == 1
    assert sum(shape[0] for shape in prefills) <= 4  # never one per row (a common beginning may have a pass of its own)
    assert max(shape[0] for shape in shapes if shape[1] == 1) == 7
    assert len(shapes) - alone <= alone + 1


def test_rows_wait_in_order_for_room(sampler, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_KV_BYTES", 40 * sampler._learner.kv_bytes_per_token)
    most = []
    write = continuous.ContinuousBatch._write
    monkeypatch.setattr(
        continuous.ContinuousBatch, "_write", lambda self: most.append(sum(len(f.rows) for f in self._flights)) or write(self)
    )
    with sampler.stream() as stream:
        for key in "abc":
            stream.put(key, ask("room", 6, 0.0), n=2, seed=1)
        assert [key for _ in range(3) for key, _ in stream.take()] == ["a", "b", "c"]
    assert max(most) == 2


def test_a_group_without_rows_is_finished(sampler):
    with sampler.stream() as stream:
        stream.put("none", ask("nothing"), n=0, seed=1)
        assert stream.take() == [("none", [])]
    assert sampler.sample([ask("nothing"), ask("more")], n=0, seed=1) == [[], []]


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_written(sampler, monkeypatch):
    monkeypatch.setattr(sampler._learner, "hidden_states", None)
    with pytest.raises(SamplerError, match=r"\d+ tokens and up to 500 new ones exceed the model's 512") as caught:
        sampler.sample([ask("fine", 2), ask("secret words", 500)], n=1, seed=1)
    assert caught.value.code == "E_CONTEXT"
    assert "secret" not in caught.value.explain()
    with sampler.stream() as stream, pytest.raises(SamplerError):
        stream.put("long", ask("w" * 600), n=1, seed=1)


def test_publishing_under_an_open_stream_is_noticed(world):
    version = world.trainer.start()
    with world.sampler.stream() as stream:
        stream.put("a", ask("x"), n=1, seed=1)
        world.sampler.publish(version)
        with pytest.raises(DeliveryError, match="while a stream was open"):
            stream.take()


def test_sampling_otherwise_between_two_takes_changes_nothing(world):
    world.sampler.publish(world.trainer.start())
    bare = make_sampler(world.learner, world.run_dir)
    (expected,) = world.sampler.sample([ask("x", 30, 0.0)], n=1, seed=1)
    with world.sampler.stream() as stream:
        stream.put("quick", ask("y", 1), n=1, seed=1)
        stream.put("x", ask("x", 30, 0.0), n=1, seed=1)
        stream.take()
        bare.sample([ask("z", 3)], n=2, seed=1)
        assert written(stream.take()[0][1]) == written(expected)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_twin_says_what_the_four_bit_learner_says(tiny_base, config, make_learner, tmp_path, dtype):
    learner = make_learner(dequantise="never")
    twin = load_twin(tiny_base, config.model_copy(update={"dequantise": "never"}), dtype=dtype, seed=11)
    assert all(p.dtype == torch.float32 for p in twin.parameters.values())
    assert twin.compute_dtype == ("float32" if dtype == "auto" else "bfloat16")
    prompts = [ask("which one", 12)]
    (group,) = make_sampler(twin, tmp_path).sample(prompts, n=4, seed=1)
    texts = [[c.text for c in group if c.text]]
    ours, theirs = (make_sampler(model, tmp_path).score(prompts, texts)[0] for model in (twin, learner))
    assert theirs == pytest.approx(ours, abs=1e-4 if dtype == "auto" else 0.1)


def test_a_twin_serves_what_is_published_and_never_the_learners_unsaved_weights(world, tiny_base, config):
    twin = make_sampler(load_twin(tiny_base, config, dtype="auto", seed=5), world.run_dir)
    prompts = [ask("same", 10)]
    first = world.trainer.start()
    twin.publish(first)
    world.sampler.publish(first)
    assert written(twin.sample(prompts, n=4, seed=1)[0]) == written(world.sampler.sample(prompts, n=4, seed=1)[0])
    step = world.trainer.update(world.play(first, 1, sampler=twin), number=1)
    assert {c.adapter_digest for c in twin.sample(prompts, n=2, seed=1)[0]} == {first.digest}  # the learner is unsaved now
    second = world.trainer.save(step)
    twin.publish(second)
    world.sampler.publish(second)
    assert written(twin.sample(prompts, n=4, seed=1)[0]) == written(world.sampler.sample(prompts, n=4, seed=1)[0])


def test_a_twin_samples_in_a_thread_while_the_learner_learns(make_world, tiny_base, config, tmp_path):
    alone, world = make_world(tmp_path / "alone"), make_world(tmp_path / "both")
    twin = make_sampler(load_twin(tiny_base, config, dtype="auto", seed=5), world.run_dir)
    prompts = [ask("word " * i, 24) for i in range(1, 5)]
    versions = [each.trainer.start() for each in (alone, world)]
    for each, version in zip((alone, world), versions, strict=True):
        each.sampler.publish(version)
    twin.publish(versions[1])
    expected = twin.sample(prompts, n=4, seed=9)
    groups = alone.play(versions[0], 1)
    alone.trainer.save(alone.trainer.update(groups, number=1))
    drawn, is_learning = [], threading.Event()

    def write():
        while not is_learning.is_set() or len(drawn) < 2:
            drawn.append(twin.sample(prompts, n=4, seed=9))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        step = world.trainer.update(world.play(versions[1], 1), number=1)
        assert torch.is_grad_enabled()
    finally:
        is_learning.set()
        thread.join(60)
    assert step.is_applied
    assert len(drawn) >= 2
    assert all(written(a) == written(b) for one in drawn for a, b in zip(one, expected, strict=True))
    for name, parameter in alone.learner.parameters.items():
        assert torch.equal(parameter, world.learner.parameters[name])
