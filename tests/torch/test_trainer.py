"""The stage: exact steps, nothing stale or broken applied, every version on disk, resume bit for bit."""

import dataclasses
import math

import pytest
import torch

from spice_enterprise.errors import ConfigError, DeliveryError, IntegrityError, StaleRolloutError, TrainingError
from spice_enterprise.training import checkpoints
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.qlora import BASE_DIGEST
from spice_enterprise.training.trainer import QloraTrainer

pytestmark = pytest.mark.torch


def run(world, numbers, version=None):
    version = version or world.trainer.start()
    for number in numbers:
        _, version = world.step(version, number)
    return version


def with_rewards(group, rewards):
    rollouts = tuple(dataclasses.replace(r, reward=reward) for r, reward in zip(group.rollouts, rewards, strict=True))
    return dataclasses.replace(group, rollouts=rollouts)


def cut_short(group):
    """Give the rollouts different lengths: a beginning of a completion is as probable as it was."""
    rollouts = tuple(
        dataclasses.replace(r, token_ids=r.token_ids[: 8 - 2 * j], logprobs=r.logprobs[: 8 - 2 * j])
        for j, r in enumerate(group.rollouts)
    )
    return dataclasses.replace(group, rollouts=rollouts)


def test_a_step_learns_and_says_what_it_measured(world):
    version = world.trainer.start()
    assert (version.step, version.step_id, version.parent_adapter_id) == (0, None, None)
    world.sampler.publish(version)
    groups = world.play(version, 1)
    step = world.trainer.update(groups, number=1)
    rollouts = [r for g in groups for r in g.rollouts]
    assert step.is_applied
    assert step.adapter_id == version.adapter_id
    assert step.rollout_ids == tuple(r.rollout_id for r in rollouts)
    assert step.reward_mean == pytest.approx(sum(r.reward for r in rollouts) / 8)
    assert step.challenger_reward_mean == pytest.approx(sum(r.reward for r in groups[0].rollouts) / 4)
    assert step.reasoner_reward_mean == pytest.approx(sum(r.reward for r in groups[1].rollouts) / 4)
    assert step.trained_tokens == sum(len(r.token_ids) for r in rollouts)
    assert step.length_mean_tokens == pytest.approx(step.trained_tokens / 8)
    assert 0 < step.entropy_nats_per_token < math.log(264)
    assert 0 <= step.kl_nats_per_token < 1e-8
    assert step.grad_norm > 0
    assert step.frac_zero_std == 0
    saved = world.trainer.save(step)
    assert (saved.parent_adapter_id, saved.step_id, saved.step) == (version.adapter_id, step.step_id, 1)
    assert saved.digest != version.digest
    assert world.trainer.version == saved


def test_loss_is_the_closed_form_at_ratio_one(world):
    version = world.trainer.start()
    world.sampler.publish(version)
    groups = [cut_short(group) for group in world.play(version, 1)]
    expected = 0.0
    for group, l_max in zip(groups, (20, 10), strict=True):
        mean = sum(r.reward for r in group.rollouts) / 4
        expected -= sum((r.reward - mean) * len(r.token_ids) for r in group.rollouts) / l_max / 8
    assert abs(expected) > 0.1
    assert world.trainer.update(groups, number=1).loss == pytest.approx(expected, abs=1e-5)


def test_learning_raises_what_was_rewarded(world):
    version = world.trainer.start()
    world.sampler.publish(version)
    groups = [with_rewards(g, [1.0, 0.0, 0.0, 0.0]) for g in world.play(version, 1)]
    good, bad = groups[0].rollouts[0], groups[0].rollouts[1]
    assert good.token_ids != bad.token_ids
    prompt = groups[0].prompt_token_ids

    def gain(rollout):
        with torch.no_grad():
            out = world.learner.hidden_states(torch.tensor([[*prompt, *rollout.token_ids]]), use_cache=False).last_hidden_state[0]
        logps = torch.log_softmax(out @ world.learner.head_weight.T, -1)[len(prompt) - 1 : -1]
        return logps[torch.arange(len(rollout.token_ids)), torch.tensor(rollout.token_ids)].sum().item() - sum(rollout.logprobs)

    world.trainer.update(groups, number=1)
    assert gain(good) > 0 > gain(bad)


def test_leaving_out_groups_without_signal_and_splitting_batches_change_nothing(make_world, tmp_path, monkeypatch):
    norms = []
    for index, limit in enumerate((2048, 64)):
        monkeypatch.setattr("spice_enterprise.training.learning.CPU_BATCH_TOKENS", limit)
        monkeypatch.setattr("spice_enterprise.training.learning.CPU_ROW_TOKENS", limit)
        world = make_world(tmp_path / str(index))
        version = world.trainer.start()
        world.sampler.publish(version)
        groups = [cut_short(group) for group in world.play(version, 1, groups=3)]
        flat = with_rewards(groups[2], [0.3] * 4)
        step = world.trainer.update([*groups[:2], flat], number=1)
        assert step.frac_zero_std == pytest.approx(1 / 3)
        assert step.trained_tokens == sum(len(r.token_ids) for g in groups[:2] for r in g.rollouts)
        norms.append((step.loss, step.grad_norm))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5, abs=1e-6)
    assert norms[0][1] > 1e-2


def test_no_signal_at_all_applies_nothing_yet_compares_sampler_and_learner(world):
    version = world.trainer.start()
    world.sampler.publish(version)
    groups = [with_rewards(g, [0.3] * 4) for g in world.play(version, 1)]
    step = world.trainer.update(groups, number=1)
    assert (step.is_applied, step.loss, step.grad_norm, step.trained_tokens, step.frac_zero_std) == (False, 0.0, 0.0, 0, 1.0)
    assert 0 <= step.kl_nats_per_token < 1e-8
    assert world.trainer.save(step) == version
    assert world.learner.adapter_digest == version.digest
    assert checkpoints.state_steps(world.run_dir) == [0]


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_withholds_the_update_and_is_recorded(world, reward):
    version = world.trainer.start()
    world.sampler.publish(version)
    groups = world.play(version, 1)
    step = world.trainer.update([with_rewards(groups[0], [reward, 0.0, 0.0, 1.0]), groups[1]], number=1)
    assert not step.is_applied
    assert not math.isfinite(step.reward_mean)
    assert not math.isfinite(step.loss)
    assert world.trainer.save(step) == version
    assert all(torch.isfinite(p).all() for p in world.learner.parameters.values())
    _, after = world.step(version, 2)  # the run goes on
    assert after.parent_adapter_id == version.adapter_id


def test_stale_rollouts_are_refused(world):
    first = world.trainer.start()
    world.sampler.publish(first)
    old = world.play(first, 1)
    second = run(world, [1], first)
    with pytest.raises(StaleRolloutError, match=f"another adapter than {second.adapter_id}") as caught:
        world.trainer.update(old, number=2)
    assert caught.value.record_id == old[0].rollouts[0].rollout_id


def test_an_update_must_be_saved_before_the_next(world):
    version = world.trainer.start()
    world.sampler.publish(version)
    groups = world.play(version, 1)
    world.trainer.update(groups, number=1)
    with pytest.raises(TrainingError, match="was not saved") as caught:
        world.trainer.update(groups, number=2)
    assert caught.value.code == "E_UNSAVED"


def test_a_rollout_needs_a_log_probability_per_token(world):
    version = world.trainer.start()
    world.sampler.publish(version)
    group = world.play(version, 1)[0]
    short = dataclasses.replace(group.rollouts[0], logprobs=group.rollouts[0].logprobs[:-1])
    with pytest.raises(TrainingError, match="one log-probability per token"):
        world.trainer.update([dataclasses.replace(group, rollouts=(short, *group.rollouts[1:]))], number=1)


class DeafSampler(HfSampler):
    """Stamps the published digest, and writes with the bare base."""

    def _serving(self):
        return self._learner.bare()


def test_a_sampler_that_ignores_the_adapter_is_caught_in_one_step(world):
    version = run(world, [1])
    deaf = DeafSampler(world.learner, world.sampler._tokenizer, run_dir=world.run_dir)
    deaf.publish(version)
    groups = world.play(version, 2, sampler=deaf)
    assert groups[0].rollouts[0].adapter_digest == version.digest != BASE_DIGEST
    with pytest.raises(DeliveryError, match=r"differ by .* nats per token under adapter_") as caught:
        world.trainer.update(groups, number=2)
    assert (caught.value.code, caught.value.record_id) == ("E_DELIVERY", version.adapter_id)
    assert world.learner.adapter_digest == version.digest  # no update was made
    world.step(version, 2)


def test_two_runs_give_the_same_bytes(make_world, tmp_path):
    digests = [run(make_world(tmp_path / name), [1, 2, 3]).digest for name in ("a", "b")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(make_world, tmp_path, stop_after):
    whole = run(make_world(tmp_path / "whole"), [1, 2, 3])
    run(make_world(tmp_path / "cut"), range(1, stop_after + 1))
    resumed = make_world(tmp_path / "cut")  # a new process knows nothing but the directory
    version = resumed.trainer.start()
    assert version.step == stop_after
    assert run(resumed, range(stop_after + 1, 4), version) == whole


def test_resume_passes_over_a_damaged_state_and_repairs_it(make_world, tmp_path):
    world = make_world(tmp_path / "run")
    last = run(world, [1, 2])
    (checkpoints.state_dir(world.run_dir, 2) / "optimiser.safetensors").write_bytes(b"")
    resumed = make_world(tmp_path / "run")
    version = resumed.trainer.start()
    assert version.step == 1
    assert run(resumed, [2], version) == last
    assert checkpoints.state_to_resume(tmp_path / "run").version.step == 2


def test_resume_takes_the_first_wanted_version_that_verifies(make_world, tmp_path):
    world = make_world(tmp_path / "run", keep_states=3)
    first = run(world, [1])
    second = run(world, [2], first)
    third = run(world, [3], second)
    assert make_world(tmp_path / "run").trainer.start([second, first]) == second
    (checkpoints.state_dir(world.run_dir, 3) / "optimiser.safetensors").unlink()
    assert make_world(tmp_path / "run").trainer.start([third, second]) == second
    with pytest.raises(IntegrityError, match="fits the run") as caught:
        make_world(tmp_path / "run").trainer.start([third])
    assert caught.value.code == "E_STATE_CORRUPT"


def test_resume_with_other_settings_is_refused_by_name(world, config, tools):
    world.trainer.start()
    other = dataclasses.replace(tools.lineage_of(world.learner.base), config_digest="sha256:other")
    trainer = QloraTrainer(world.learner, run_dir=world.run_dir, config=config, l_max={}, lineage=other)
    with pytest.raises(ConfigError, match="another config_digest") as caught:
        trainer.start()
    assert caught.value.code == "E_STATE_MISMATCH"


def test_restore_goes_back_to_weights_and_optimiser(make_world, tmp_path):
    world = make_world(tmp_path / "run", keep_states=4)
    good = run(world, [1, 2])
    expected = run(make_world(tmp_path / "other", keep_states=4), [1, 2, 4])
    run(world, [3], good)
    world.trainer.restore(good)
    assert world.trainer.version == good
    assert checkpoints.state_steps(world.run_dir) == [3, 2, 1, 0]  # until the step that went back is committed
    assert run(world, [4], good).digest == expected.digest
    assert checkpoints.state_steps(world.run_dir) == [4, 2, 1, 0]  # rejected work goes


def test_restore_of_a_version_whose_state_is_gone_starts_adam_afresh_and_survives_a_crash(make_world, tmp_path):
    world = make_world(tmp_path / "run")
    good = run(world, [1])
    world.trainer.protect(good.adapter_id)
    run(world, [2, 3, 4], good)
    assert checkpoints.state_steps(world.run_dir) == [4, 3]
    world.trainer.restore(good)
    assert checkpoints.state_steps(world.run_dir) == [4, 3, 1]
    resumed = make_world(tmp_path / "run")
    assert resumed.trainer.start([good]) == good
    assert run(resumed, [5], good) == run(world, [5], good)


def test_restore_refuses_changed_files(world):
    version = run(world, [1])
    file = checkpoints.adapter_dir(world.run_dir, version.adapter_id) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(IntegrityError) as caught:
        world.trainer.restore(version)
    assert caught.value.code == "E_ADAPTER_DIGEST"


def test_pruning_keeps_the_newest_states_and_what_is_protected(make_world, tmp_path):
    world = make_world(tmp_path / "run")
    zero = world.trainer.start()
    first = run(world, [1], zero)
    world.trainer.protect(first.adapter_id)
    last = run(make_world(tmp_path / "run"), [2, 3, 4], None)  # protection survives a restart
    names = {item.name for item in (tmp_path / "run" / "adapters").iterdir() if item.is_dir()}
    assert names == {first.adapter_id, last.parent_adapter_id, last.adapter_id}
    assert checkpoints.state_steps(tmp_path / "run") == [4, 3]


def test_a_sampler_that_served_an_older_version_does_not_disturb_the_next_step(make_world, tmp_path):
    world = make_world(tmp_path / "run", keep_states=4)
    first = run(world, [1])
    second = run(world, [2], first)
    expected = run(make_world(tmp_path / "other", keep_states=4), [1, 2, 3])
    world.sampler.publish(second)
    groups = world.play(second, 3)
    world.sampler.publish(first)  # someone measures an older version in between
    assert world.learner.adapter_digest == first.digest
    step = world.trainer.update(groups, number=3)
    assert world.trainer.save(step).digest == expected.digest


def test_nothing_works_before_start(world):
    with pytest.raises(TrainingError, match="was not started"):
        world.trainer.update([], number=1)


@pytest.mark.parametrize("changes", [{"dequantise": "never"}, {"compute_dtype": "bfloat16"}, {"quantization": "none"}])
def test_other_ways_to_hold_the_base_pass_the_delivery_check(make_world, tmp_path, changes):
    world = make_world(tmp_path / "run", **changes)
    version = run(world, [1, 2])
    step, last = world.step(version, 3)
    assert step.is_applied
    assert last.parent_adapter_id == version.adapter_id
