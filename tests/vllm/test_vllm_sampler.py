"""vLLM writes what the learner would, says truly which adapter wrote it, and stays inside this machine."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from spice_enterprise import offline, sealed
from spice_enterprise.errors import DeliveryError, SamplerError
from spice_enterprise.training import checkpoints
from spice_enterprise.training.delivery import MAX_GAP_NATS

pytestmark = pytest.mark.vllm

QUESTIONS = ["What is the capital of France?", "Write about a cat and a dog.", "List three colours. " * 12]


def key(completion):
    return completion.token_ids, completion.stop_reason, completion.text


def test_greedy_tokens_are_those_of_the_learners_own_module(world, sampler, tools):
    version = world.version(1)
    for served in (None, version):
        sampler.publish(served)
        world.hf.publish(served)
        prompts = [tools.ask(text, 24, temperature=0.0) for text in QUESTIONS]
        ours, theirs = sampler.sample(prompts, n=1, seed=1), world.hf.sample(prompts, n=1, seed=1)
        for (one,), (other,) in zip(ours, theirs, strict=True):
            assert key(one) == key(other)
            assert one.prompt_token_ids == other.prompt_token_ids
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_sampled_tokens_carry_the_learners_log_probabilities(temperature, world, sampler, tools):
    version = world.version(1)
    sampler.publish(version)
    for group in sampler.sample([tools.ask(text, temperature=temperature) for text in QUESTIONS], n=4, seed=2):
        assert world.gap(version, group, temperature) < MAX_GAP_NATS["float32"]
        assert {c.adapter_digest for c in group} == {version.digest} == {sampler.adapter_digest}


def test_an_adapter_that_was_not_served_is_seen_in_the_log_probabilities(world, sampler, tools):
    old, new = world.version(1), world.version(2)
    sampler.publish(old)
    (group,) = sampler.sample([tools.ask(QUESTIONS[1])], n=4, seed=2)
    for wrong in (None, new):
        assert world.gap(wrong, group) > 10 * MAX_GAP_NATS["float32"]


def test_tokens_are_drawn_from_the_distribution_they_are_scored_by(world, sampler, tools):
    sampler.publish(world.version(1))
    (group,) = sampler.sample([tools.ask("Name a colour, an animal or a town.", 1)], n=32, seed=5)
    ids = torch.tensor([group[0].prompt_token_ids])
    world.hf.publish(world.version(1))
    with torch.no_grad():
        hidden = world.learner.hidden_states(ids, use_cache=False).last_hidden_state[0, -1]
    logps = torch.log_softmax(hidden @ world.learner.head_weight.T, -1)
    entropy = -(logps.exp() * logps).sum().item()
    spread = math.sqrt(((logps.exp() * logps**2).sum().item() - entropy**2) / len(group))
    mean = -sum(c.logprobs[0] for c in group) / len(group)
    assert spread > 0.01
    assert abs(mean - entropy) < 5 * spread


def test_a_completion_depends_on_neither_its_neighbours_nor_their_number(sampler, tools):
    prompts = [tools.ask(text, 12) for text in QUESTIONS]
    together = sampler.sample(prompts, n=5, seed=3)
    assert [[key(c) for c in group] for group in sampler.sample(prompts, n=2, seed=3)] == [
        [key(c) for c in group[:2]] for group in together
    ]
    assert [key(c) for c in sampler.sample(prompts[:1], n=5, seed=3)[0]] == [key(c) for c in together[0]]
    assert len({key(c) for c in together[0]}) > 1
    assert [key(c) for c in sampler.sample(prompts[:1], n=5, seed=4)[0]] != [key(c) for c in together[0]]


def test_a_stream_gives_what_sample_gives_as_groups_finish(sampler, tools):
    long, short = tools.ask(QUESTIONS[1], 48), tools.ask(QUESTIONS[0], 2)
    with sampler.stream() as stream:
        assert stream.take() == []
        stream.put("long", long, n=2, seed=7)
        stream.put("short", short, n=2, seed=8)
        with pytest.raises(ValueError, match="in flight"):
            stream.put("long", long, n=2, seed=7)
        first = stream.take()
        assert [name for name, _ in first] == ["short"]
        stream.put("more", short, n=2, seed=9)
        found = dict(first)
        while groups := stream.take():
            found |= groups
    alone = {"long": (long, 7), "short": (short, 8), "more": (short, 9)}
    assert set(found) == set(alone)
    for name, (prompt, seed) in alone.items():
        assert [key(c) for c in found[name]] == [key(c) for c in sampler.sample([prompt], n=2, seed=seed)[0]]


def test_what_is_in_flight_when_a_stream_is_left_is_dropped(world, sampler, tools):
    with sampler.stream() as stream:
        stream.put("a", tools.ask(QUESTIONS[1], 100), n=3, seed=7)
    assert not world.engine._engine.has_unfinished_requests()
    assert not world.engine._finished


def test_two_samplers_share_an_engine_and_keep_their_groups_apart(world, sampler, tools):
    base, version = world.make_sampler(), world.version(1)
    sampler.publish(version)
    prompt = tools.ask(QUESTIONS[0], 6)
    with sampler.stream() as stream:
        stream.put("a", prompt, n=2, seed=7)
        (between,) = base.sample([tools.ask(QUESTIONS[1], 12)], n=2, seed=7)
        ((name, group),) = stream.take()
    assert name == "a"
    assert {c.adapter_digest for c in group} == {version.digest}
    assert {c.adapter_digest for c in between} == {"base"} == {base.adapter_digest}


def test_stop_strings_cut_the_text_and_keep_every_token(world, sampler, tools):
    prompts = [tools.ask(text, 32, temperature=0.0, stop=(" and", ", the")) for text in QUESTIONS]
    ours, theirs = sampler.sample(prompts, n=1, seed=1), world.hf.sample(prompts, n=1, seed=1)
    assert [key(group[0]) for group in ours] == [key(group[0]) for group in theirs]
    stopped = [group[0] for group in ours if group[0].stop_reason == "stop"]
    assert stopped
    for completion in stopped:
        assert not any(stop in completion.text for stop in prompts[0].stop)
        assert len(completion.logprobs) == len(completion.token_ids)


def test_the_end_of_a_turn_is_part_of_the_tokens(world, sampler, tools):
    (group,) = sampler.sample([tools.ask("Reply with one word: yes or no?", 64, temperature=0.7)], n=8, seed=1)
    ended = [c for c in group if c.stop_reason == "stop"]
    assert ended
    assert all(c.token_ids[-1] in world.tokenizer.stop_ids for c in ended)


def test_scores_are_the_learners(world, sampler, tools):
    version = world.version(1)
    sampler.publish(version)
    world.hf.publish(version)
    prompts, options = [tools.ask(text) for text in QUESTIONS[:2]], [["Paris", "London, in the rain"], ["A cat"]]
    ours, theirs = sampler.score(prompts, options), world.hf.score(prompts, options)
    assert [len(row) for row in ours] == [2, 1]
    assert [x for row in ours for x in row] == pytest.approx([x for row in theirs for x in row], abs=1e-4)
    with pytest.raises(SamplerError, match="no tokens to score"):
        sampler.score(prompts[:1], [[""]])
    assert sampler.score([], []) == sampler.sample([], n=2, seed=1) == []


def test_every_publish_has_a_name_number_and_path_of_its_own(world, sampler):
    seen = set()
    for version in (world.version(1), world.version(2), world.version(1), world.version(1)):
        sampler.publish(version)
        laid = sampler._adapter
        seen.add((laid.name, laid.number, laid.path))
        assert sampler.adapter_digest == version.digest
        assert laid.path.stat().st_mode & 0o777 == 0o700
        assert {item.stat().st_mode & 0o777 for item in laid.path.iterdir()} == {0o600}
    assert len(seen) == len({name for name, _, _ in seen}) == len({number for _, number, _ in seen}) == 4
    kept = {laid.path for laid in sampler._laid}
    assert len(kept) == 2
    assert all(path.is_dir() == (path in kept) for _, _, path in seen)
    sampler.publish(None)
    assert sampler.adapter_digest == "base"


def damage(world, version):
    file = checkpoints.adapter_dir(world.run_dir, version.adapter_id) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def test_a_changed_adapter_is_refused_and_the_one_before_served_on(world, sampler, tools):
    good, bad = world.version(1), world.version(77)
    sampler.publish(good)
    damage(world, bad)
    with pytest.raises(DeliveryError) as caught:
        sampler.publish(bad)
    assert caught.value.code == "E_ADAPTER_DIGEST"
    assert caught.value.record_id == bad.adapter_id
    (group,) = sampler.sample([tools.ask(QUESTIONS[0])], n=2, seed=1)
    assert sampler.adapter_digest == good.digest
    assert world.gap(good, group) < MAX_GAP_NATS["float32"]


def test_an_adapter_that_vllm_refuses_is_a_delivery_error(world, sampler, monkeypatch):
    from spice_enterprise.training import vllm_sampler

    good, other = world.version(1), world.version(2)
    sampler.publish(good)
    files = dict(checkpoints.read_adapter(world.run_dir, other))
    files["adapter_config.json"] = files["adapter_config.json"].replace(b'"r":8', b'"r":64')
    wider = type(other)(**{f: getattr(other, f) for f in other.__slots__ if f not in ("adapter_id", "manifest")},
                        manifest=sealed.digest_bytes(files))  # fmt: skip
    monkeypatch.setattr(vllm_sampler, "open_version", lambda *_: files)
    before = set(sampler._shelf._root.iterdir())
    with pytest.raises(DeliveryError, match="vLLM refuses"):
        sampler.publish(wider)
    assert sampler.adapter_digest == good.digest
    assert set(sampler._shelf._root.iterdir()) == before


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(sampler, tools):
    with pytest.raises(SamplerError, match="500 new ones do not fit 512") as caught:
        sampler.sample([tools.ask(QUESTIONS[0], 500)], n=1, seed=1)
    assert caught.value.code == "E_CONTEXT"
    with pytest.raises(SamplerError, match="do not fit"):
        sampler.score([tools.ask(QUESTIONS[2] * 20)], [["yes"]])


def test_a_break_in_the_library_says_its_kind_and_nothing_else(world, sampler, tools, monkeypatch):
    def broken():
        raise RuntimeError("secret words of a prompt")

    with sampler.stream() as stream:
        stream.put("a", tools.ask(QUESTIONS[0], 4), n=1, seed=1)
        with monkeypatch.context() as patch:
            patch.setattr(world.engine._engine, "step", broken)
            with pytest.raises(SamplerError, match=r"RuntimeError") as caught:
                stream.take()
    assert "secret" not in caught.value.explain()
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("is_planned", [True, False])
def test_memory_is_given_back_and_taken_in_the_librarys_order_where_it_is_planned(world, monkeypatch, is_planned):
    calls = []
    library = SimpleNamespace(
        sleep=lambda level: calls.append(f"sleep {level}"),
        release_kv_cache_memory=lambda: calls.append("release"),
        wake_up=lambda tags: calls.append(tags[0]),
    )
    monkeypatch.setattr(world.engine, "_engine", library)
    monkeypatch.setattr(world.engine, "_is_cpu", False)
    monkeypatch.setattr(world.engine, "settings", replace(world.engine.settings, releases_kv=is_planned))
    sampler = world.make_sampler()
    sampler.park()
    sampler.unpark()
    assert calls == (["sleep 0", "release", "kv_cache", "scheduling"] if is_planned else [])


def test_greedy_completions_are_written_once_and_counted_n_times(sampler, tools):
    ((one,),) = sampler.sample([tools.ask(QUESTIONS[0], 4, temperature=0.0)], n=1, seed=1)
    (three,) = sampler.sample([tools.ask(QUESTIONS[0], 4, temperature=0.0)], n=3, seed=1)
    assert [key(c) for c in three] == [key(one)] * 3


def test_nothing_outside_was_asked_for(world):
    assert offline.GUARD.attempts == 0
