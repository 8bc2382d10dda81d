"""Examples are learned word for word, several updates make one step, and what was cut off is left out."""

import dataclasses
import math

import pytest
import torch

from spice_enterprise.config import WarmupConfig
from spice_enterprise.errors import TrainingError
from spice_enterprise.records import Rollout, RolloutGroup
from spice_enterprise.training import checkpoints
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.learning import PolicyGradient
from spice_enterprise.training.losses import supervised_loss

pytestmark = pytest.mark.torch

PAIRS = (("The fee", " is 45 euros."), ("A much longer question about the pump", " P-204"), ("Who", " the lessee shall pay"))


@pytest.fixture
def examples(world):
    tokenizer = ChatTokenizer(world.learner.base.path)

    def make(tools, step=1):
        return [
            example(*tokenizer.encode_example(tools.ask(asked), said), index, step) for index, (asked, said) in enumerate(PAIRS)
        ]

    return make


def example(prompt_ids, token_ids, index, step):
    rollout = Rollout(
        role="reasoner", parent_id="c", adapter_id="", adapter_digest="", template_id="t", step=step, index=index,
        token_ids=token_ids, logprobs=(), text="", stop_reason="stop", outcome="correct", reason="cloze", reward=0.0,
    )  # fmt: skip
    return RolloutGroup(role="reasoner", parent_id="c", prompt_token_ids=prompt_ids, rollouts=(rollout,), objective="supervised")


def nats(learner, group):
    """Return the mean negative log-likelihood per token, without any packing."""
    prompt, target = group.prompt_token_ids, group.rollouts[0].token_ids
    with torch.no_grad():
        hidden = learner.hidden_states(torch.tensor([[*prompt, *target]]), use_cache=False).last_hidden_state[0]
    logps = torch.log_softmax(hidden @ learner.head_weight.T, -1)[len(prompt) - 1 : -1]
    return -logps[torch.arange(len(target)), torch.tensor(target)].mean().item()


def test_each_example_weighs_the_same():
    logps, lengths = torch.tensor([-1.0, -3.0, -4.0]), torch.tensor([2, 2, 1])
    assert supervised_loss(logps, lengths, 2.0).item() == pytest.approx(3.0)  # one mean over all tokens gives 2.667


def test_a_target_is_a_whole_turn(world, tools):
    tokenizer = ChatTokenizer(world.learner.base.path)
    prompt = tools.ask("The <|im_end|> fee")
    asked, said = tokenizer.encode_example(prompt, " 45 <|im_end|> euros")
    assert asked == tokenizer.encode_prompt(prompt)
    assert said[-1] in tokenizer.stop_ids
    assert not set(said[:-1]) & tokenizer.stop_ids  # what a document says is text
    assert tokenizer.decode(said) == " 45 <|im_end|> euros"


def test_the_loss_of_a_step_is_the_mean_over_its_examples_and_goes_down(world, examples, tools):
    version, batch, losses = world.trainer.start(), examples(tools), []
    expected = sum(nats(world.learner, group) for group in batch) / len(batch)
    for number in range(1, 6):
        step = world.trainer.update(batch, number=number)
        version = world.trainer.save(step)
        losses.append(step.loss)
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert version.step == 5
    assert step.objective == "supervised"
    assert (step.kl_nats_per_token, step.gap_nats_per_token, step.frac_zero_std, step.clip_share) == (0.0, 0.0, 0.0, 0.0)
    assert (step.weight_mean, step.weight_max, step.staleness) == (1.0, 1.0, 0)
    assert step.trained_tokens == sum(len(group.rollouts[0].token_ids) for group in batch)
    assert math.isfinite(step.entropy_nats_per_token)


@pytest.mark.parametrize("limit", [64, 512])
def test_micro_batches_add_up(make_world, tmp_path, tools, monkeypatch, limit):
    monkeypatch.setattr("spice_enterprise.training.learning.CPU_BATCH_TOKENS", limit)
    world = make_world(tmp_path / str(limit))
    world.trainer.start()
    tokenizer = ChatTokenizer(world.learner.base.path)
    batch = [example(*tokenizer.encode_example(tools.ask(asked), said), i, 1) for i, (asked, said) in enumerate(PAIRS)]
    expected = sum(nats(world.learner, group) for group in batch) / len(batch)
    assert world.trainer.update(batch, number=1).loss == pytest.approx(expected, rel=1e-4)


def test_examples_are_learned_at_their_own_rate_and_self_play_begins_with_a_fresh_optimiser(
    make_world, tmp_path, examples, tools
):
    world = make_world(tmp_path / "run", warmup_steps=9)
    world.trainer._warmup = WarmupConfig(learning_rate=3e-3)
    version, rates, adam = world.trainer.start(), [], world.trainer._optimiser

    def rate():
        return adam._adam.param_groups[0]["lr"]

    for number in (1, 2):
        world.trainer.save(world.trainer.update(examples(tools, number), number=number))
        rates.append(rate())
    assert rates == [3e-3, 3e-3]
    assert adam._updates == 2
    step, version = world.step(world.trainer.version, 3)
    assert step.objective == "policy"
    assert adam._updates == 1
    assert rate() == pytest.approx(1e-2 / 10)  # the first of the line up to the policy's own rate
    assert version.step == 3


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_with_a_warm_up_resumes_bit_for_bit(make_world, tmp_path, examples, tools, stop_after):
    def run(world, numbers):
        world.trainer.start()
        for number in numbers:
            if number <= 2:
                world.trainer.save(world.trainer.update(examples(tools, number), number=number))
            else:
                world.step(world.trainer.version, number)
        return world.trainer.version

    whole = run(make_world(tmp_path / "whole"), range(1, 5))
    run(make_world(tmp_path / "cut"), range(1, stop_after + 1))
    assert run(make_world(tmp_path / "cut"), range(stop_after + 1, 5)) == whole


def test_a_step_learns_from_rewards_or_from_examples(world, examples, tools):
    version = world.trainer.start()
    world.sampler.publish(version)
    with pytest.raises(TrainingError, match="never from both"):
        world.trainer.update([*world.play(version, 1), *examples(tools)], number=1)


def test_an_example_that_is_not_finite_withholds_the_update(world, examples, tools, monkeypatch):
    world.trainer.start()
    before = world.learner.adapter_files()
    monkeypatch.setattr("spice_enterprise.training.learning.supervised_loss", lambda logps, *_: logps.sum() * math.nan)
    step = world.trainer.update(examples(tools), number=1)
    assert (step.is_applied, step.withheld) == (False, "non_finite")
    assert world.learner.adapter_files() == before


# --- several updates --------------------------------------------------------------------------------------------------


def played(world, groups=4):
    version = world.trainer.start()
    world.sampler.publish(version)
    return world.play(version, 1, groups=groups)


def gradient_of(world, groups, config, **rest):
    policy = PolicyGradient(world.learner, config=config, l_max={"challenger": 20, "reasoner": 10}, temperature=1.0)
    measured = policy.forward_backward(groups, **rest)
    return measured, torch.cat([parameter.grad.flatten() for parameter in world.learner.parameters.values()])


def test_at_the_same_weights_the_updates_of_a_split_step_average_to_the_whole(world, config):
    groups = played(world)
    whole, expected = gradient_of(world, groups, config)
    halves = [gradient_of(world, part, config, is_stale=is_stale) for part, is_stale in ((groups[:2], False), (groups[2:], True))]
    found = sum(gradient for _, gradient in halves) / 2
    assert (found - expected).norm() / expected.norm() < 1e-4
    assert sum(measured.loss for measured, _ in halves) / 2 == pytest.approx(whole.loss, abs=1e-5)


def test_a_split_step_makes_several_updates_and_one_version(make_world, tmp_path):
    world = make_world(tmp_path / "run", train_batch_size=8)
    groups = played(world)
    step = world.trainer.update(groups, number=1)
    assert step.is_applied
    assert world.trainer._optimiser._updates == 2
    assert step.rollout_ids == tuple(r.rollout_id for group in groups for r in group.rollouts)
    assert step.trained_tokens == sum(len(r.token_ids) for group in groups for r in group.rollouts)
    assert step.gap_nats_per_token > 1e-4  # the second update is learned by a learner that has moved, and that is no refusal
    assert step.weight_max == pytest.approx(1.0, abs=1e-3)
    version = world.trainer.save(step)
    assert checkpoints.state_steps(world.run_dir) == [1, 0]
    assert version.step == 1


def test_a_step_that_fits_is_the_same_whatever_the_limit(make_world, tmp_path):
    digests = []
    for limit in (16, 128):
        world = make_world(tmp_path / str(limit), train_batch_size=limit)
        digests.append(world.trainer.save(world.trainer.update(played(world), number=1)))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("failure", ["not finite", "error"])
def test_a_later_update_that_fails_takes_back_those_before_it(make_world, tmp_path, monkeypatch, failure):
    world = make_world(tmp_path / "run", train_batch_size=8)
    groups = played(world)
    before, original, calls = world.learner.adapter_files(), world.trainer._gradient.forward_backward, []

    def forward_backward(part, **rest):
        calls.append(rest["is_stale"])
        if len(calls) == 2 and failure == "error":
            raise TrainingError("no room", code="E_MEMORY")
        measured = original(part, **rest)
        if len(calls) == 2:
            measured.loss = math.nan
        return measured

    monkeypatch.setattr(world.trainer._gradient, "forward_backward", forward_backward)
    if failure == "error":
        with pytest.raises(TrainingError, match="no room"):
            world.trainer.update(groups, number=1)
    else:
        assert world.trainer.update(groups, number=1).withheld == "non_finite"
    assert calls == [False, True]
    assert world.learner.adapter_files() == before
    assert world.trainer._optimiser._updates == 0
    monkeypatch.undo()
    fresh = make_world(tmp_path / "fresh", train_batch_size=8)
    expected = fresh.trainer.save(fresh.trainer.update(played(fresh), number=1))
    assert world.trainer.save(world.trainer.update(groups, number=1)) == expected


# --- what was cut off -------------------------------------------------------------------------------------------------


def ending(group, reasons):
    pairs = zip(group.rollouts, reasons, strict=True)
    return dataclasses.replace(group, rollouts=tuple(dataclasses.replace(r, stop_reason=reason) for r, reason in pairs))


def test_what_ended_at_its_limit_counts_in_the_baseline_and_the_divisor_and_is_not_learned(world, config):
    (group, _) = played(world, groups=2)
    rewards = [rollout.reward for rollout in group.rollouts]
    masked = ending(group, ["length", "stop", "stop", "stop"])
    measured, found = gradient_of(world, [masked], config.model_copy(update={"mask_truncated": True}))
    mean = sum(rewards) / 4
    expected = -sum((r.reward - mean) * len(r.token_ids) for r in group.rollouts[1:]) / 20 / 4
    assert measured.loss == pytest.approx(expected, abs=1e-5)
    assert measured.tokens == sum(len(r.token_ids) for r in group.rollouts[1:])
    _, unmasked = gradient_of(world, [masked], config.model_copy(update={"mask_truncated": False}))
    assert (found - unmasked).norm() > 0.01 * unmasked.norm()


def test_a_step_of_nothing_but_cut_off_completions_teaches_nothing(make_world, tmp_path):
    world = make_world(tmp_path / "run", mask_truncated=True)
    groups = [ending(group, ["length"] * 4) for group in played(world)]
    step = world.trainer.update(groups, number=1)
    assert step.withheld == "no_signal"
    assert step.gap_nats_per_token < 1e-4


# --- kept for good ----------------------------------------------------------------------------------------------------


def adapters(world):
    return {item.name for item in (world.run_dir / "adapters").iterdir()}


def test_every_so_many_steps_an_adapter_is_kept_for_good(make_world, tmp_path):
    world = make_world(tmp_path / "run", keep_adapters_every=3)
    versions = [world.trainer.start()]
    for number in range(1, 9):
        if number == 5:  # another session
            world = make_world(tmp_path / "run", keep_adapters_every=3)
            world.trainer.start()
        versions.append(world.step(versions[-1], number)[1])
    assert adapters(world) == {versions[number].adapter_id for number in (0, 3, 6, 7, 8)}


def test_where_a_step_made_no_version_the_one_that_stood_is_kept(make_world, tmp_path):
    world = make_world(tmp_path / "run", keep_adapters_every=3)
    versions = [world.trainer.start()]
    for number in (1, 2, 4, 5):  # step 3 was withheld: the version of step 2 stood after it
        versions.append(world.step(versions[-1], number)[1])
    assert adapters(world) == {versions[place].adapter_id for place in (0, 2, 3, 4)}
