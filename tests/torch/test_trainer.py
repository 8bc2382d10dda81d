"""The stage: exact steps, nothing stale or broken applied, every version on disk, resume bit for bit."""

import dataclasses
import math

import pytest
import torch

from spice_enterprise.errors import ConfigError, DeliveryError, IntegrityError, StaleRolloutError, TrainingError
from spice_enterprise.protocols import BASE_DIGEST
from spice_enterprise.training import checkpoints
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.trainer import QloraTrainer, Sampling

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
    trainer = QloraTrainer(world.learner, run_dir=world.run_dir, config=config, lineage=other, sampling=Sampling(l_max={}))
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
    run(world, [2], good)
    (checkpoints.state_dir(world.run_dir, 1) / "optimiser.safetensors").unlink()
    world.trainer.restore(good)
    assert checkpoints.state_steps(world.run_dir) == [2, 1]
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


def test_pruning_keeps_the_newest_states_and_their_adapters(make_world, tmp_path):
    run(make_world(tmp_path / "run"), [1])
    last = run(make_world(tmp_path / "run"), [2, 3, 4])
    assert {item.name for item in (tmp_path / "run" / "adapters").iterdir()} == {last.parent_adapter_id, last.adapter_id}
    assert checkpoints.state_steps(tmp_path / "run") == [4, 3]


def test_what_memory_had_room_for_goes_with_the_state(make_world, tmp_path):
    world = make_world(tmp_path / "run")
    first = run(world, [1])
    configured = world.trainer._gradient.limits
    world.trainer._gradient.limits = (100, 200)
    second = run(world, [2], first)
    resumed = make_world(tmp_path / "run")
    assert resumed.trainer.start() == second
    assert resumed.trainer._gradient.limits == (100, 200)
    resumed.trainer.restore(first)
    assert resumed.trainer._gradient.limits == configured
    smaller = make_world(tmp_path / "run", max_batch_tokens=64)
    smaller.trainer.start([second])
    assert smaller.trainer._gradient.limits == (64, 64), "never more than this session asks for"


def test_a_withheld_step_leaves_the_limits_as_they_were(world, monkeypatch):
    version = world.trainer.start()
    world.sampler.publish(version)
    groups = [with_rewards(group, [1.0] * 4) for group in world.play(version, 1)]
    before, original = world.trainer._gradient.limits, world.trainer._gradient.forward_backward

    def forward_backward(groups, **rest):
        world.trainer._gradient.limits = (100, 200)
        return original(groups, **rest)

    monkeypatch.setattr(world.trainer._gradient, "forward_backward", forward_backward)
    assert not world.trainer.update(groups, number=1).is_applied
    assert world.trainer._gradient.limits == before


def test_what_the_version_before_played_is_taken_after_its_files_are_gone(make_world, tmp_path):
    world = make_world(tmp_path / "run", max_staleness=1)
    versions = [run(world, [])]
    for number in (1, 2, 3):
        versions.append(run(world, [number], versions[-1]))
    twin = make_world(tmp_path / "other", max_staleness=1)
    run(twin, [1])
    twin.sampler.publish(versions[1])
    groups = twin.play(versions[1], 3)
    resumed = make_world(tmp_path / "run", max_staleness=1)
    assert resumed.trainer.start([versions[2]]) == versions[2]
    assert not checkpoints.adapter_dir(world.run_dir, versions[1].adapter_id).exists()
    assert resumed.trainer.update(groups, number=3).staleness == 1


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


class Cramped:
    """Stands in for `completion_states` and runs out of memory in chosen passes, or in those above a size."""

    def __init__(self, learner, *, fails=lambda call, positions: False, error=None):
        self._states, self._fails = learner.completion_states, fails
        self._error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.sizes = []

    def __call__(self, batch):
        self.sizes.append(batch.token_ids.numel())
        if self._fails(len(self.sizes), self.sizes[-1]):
            raise self._error
        return self._states(batch)


def prepared(world):
    version = world.trainer.start()
    world.sampler.publish(version)
    groups = [cut_short(group) for group in world.play(version, 1)]
    return version, groups


def gradients_of(world):
    """Remember the gradients the next update applies, in one vector."""
    kept, step = [], world.trainer._optimiser.step

    def keep(grad_norm, **rest):
        kept.append(torch.cat([p.grad.flatten() for p in world.learner.parameters.values()]).clone())
        step(grad_norm, **rest)

    world.trainer._optimiser.step = keep
    return kept


@pytest.mark.parametrize(
    ("shared_tokens", "fails", "error"),
    [
        (512, lambda call, positions: call in (1, 2), None),
        (64, lambda call, positions: call == 2, MemoryError()),
        (512, lambda call, positions: call == 1, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")),
        (64, lambda call, positions: positions > 60, None),
    ],
    ids=["twice", "in the second micro-batch", "the CPU's allocator", "above a size"],
)
def test_when_memory_runs_out_smaller_micro_batches_give_the_same_update(
    make_world, tmp_path, monkeypatch, shared_tokens, fails, error
):
    monkeypatch.setattr("spice_enterprise.training.learning.CPU_BATCH_TOKENS", shared_tokens)
    calm, cramped = (make_world(tmp_path / name) for name in ("calm", "cramped"))
    steps = []
    for world in (calm, cramped):
        _, groups = prepared(world)
        kept = gradients_of(world)
        if world is cramped:
            passes = Cramped(world.learner, fails=fails, error=error)
            monkeypatch.setattr(world.learner, "completion_states", passes)
        steps.append((world.trainer.update(groups, number=1), kept[0]))
    (whole, expected), (step, found) = steps
    assert step.is_applied
    assert ((found - expected).norm() / expected.norm()).item() < 1e-6
    assert step.loss == pytest.approx(whole.loss, rel=1e-5, abs=1e-7)
    assert step.trained_tokens == whole.trained_tokens  # nothing of the broken pass is counted
    assert step.gap_nats_per_token == pytest.approx(whole.gap_nats_per_token, abs=1e-6)
    assert step.batch_tokens < whole.batch_tokens == 2048
    assert passes.sizes[-1] <= step.batch_tokens
    version = world.trainer.save(step)
    world.sampler.publish(version)
    later = world.trainer.update(world.play(version, 2), number=2)
    assert later.batch_tokens == step.batch_tokens  # kept for the run


def test_a_completion_that_does_not_fit_is_an_error_with_the_arithmetic_and_changes_nothing(world, monkeypatch):
    _, groups = prepared(world)
    before = world.learner.adapter_files()
    longest = max(len(g.prompt_token_ids) + len(r.token_ids) for g in groups for r in g.rollouts)
    passes = Cramped(world.learner, fails=lambda call, positions: positions >= longest)
    monkeypatch.setattr(world.learner, "completion_states", passes)
    with pytest.raises(TrainingError, match=rf"one completion with its prompt: {longest} positions") as caught:
        world.trainer.update(groups, number=1)
    assert caught.value.code == "E_MEMORY"
    assert len(passes.sizes) < 12
    assert world.learner.adapter_files() == before
    assert all(p.grad is None for p in world.learner.parameters.values())
    monkeypatch.undo()
    assert world.trainer.update(groups, number=1).is_applied


def test_another_failure_is_not_taken_for_lack_of_memory(world, monkeypatch):
    _, groups = prepared(world)
    monkeypatch.setattr(
        world.learner, "completion_states", Cramped(world.learner, fails=lambda *_: True, error=RuntimeError("shapes differ"))
    )
    with pytest.raises(RuntimeError, match="shapes differ"):
        world.trainer.update(groups, number=1)


def test_micro_batches_never_split_a_completion(make_world, tmp_path, monkeypatch):
    world = make_world(tmp_path / "run", max_batch_tokens=64, loss="gspo")
    _, groups = prepared(world)
    places, states = [], world.learner.completion_states
    monkeypatch.setattr(world.learner, "completion_states", lambda batch: (places.extend(batch.source), states(batch))[1])
    world.trainer.update(groups, number=1)
    assert len(places) == len(set(places)) == 8


@pytest.mark.parametrize("loss", ["gspo", "cispo"])
def test_on_policy_the_other_losses_make_the_same_update(make_world, tmp_path, loss):
    gradients = []
    for kind in ("dr_grpo", loss):
        world = make_world(tmp_path / kind, loss=kind)
        _, groups = prepared(world)
        kept = gradients_of(world)
        assert world.trainer.update(groups, number=1).is_applied
        gradients.append(kept[0])
    assert ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item() < 1e-4


def test_recomputing_activations_changes_no_gradient(make_world, tmp_path):
    gradients = []
    for setting in ("never", "always"):
        world = make_world(tmp_path / setting, activation_checkpointing=setting)
        _, groups = prepared(world)
        kept, layers = gradients_of(world), []
        layer = world.learner._causal.model.layers[0]
        layer.register_forward_pre_hook(lambda *_, seen=layers: seen.append(1))
        world.trainer.update(groups, number=1)
        gradients.append((kept[0], len(layers)))
    (plain, once), (sparing, twice) = gradients
    assert ((plain - sparing).norm() / plain.norm()).item() < 1e-6
    assert twice == 2 * once


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_log_probability_that_is_not_finite_withholds_the_update(world, bad):
    version, groups = prepared(world)
    before = world.learner.adapter_files()
    broken = dataclasses.replace(groups[0].rollouts[1], logprobs=(bad, *groups[0].rollouts[1].logprobs[1:]))
    rollouts = (groups[0].rollouts[0], broken, *groups[0].rollouts[2:])
    step = world.trainer.update([dataclasses.replace(groups[0], rollouts=rollouts), groups[1]], number=1)
    assert (step.is_applied, step.withheld) == (False, "non_finite")
    assert not math.isfinite(step.gap_nats_per_token)
    assert world.trainer.save(step) == version
    assert world.learner.adapter_files() == before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_withholds_the_update(world, bad):
    _, groups = prepared(world)
    before, state = world.learner.adapter_files(), world.trainer._optimiser.save()
    parameter = list(world.learner.parameters.values())[3]
    handle = parameter.register_hook(lambda grad: torch.full_like(grad, bad))
    step = world.trainer.update(groups, number=1)
    handle.remove()
    assert (step.is_applied, step.withheld) == (False, "non_finite")
    assert math.isfinite(step.loss)
    assert not math.isfinite(step.grad_norm)
    assert (world.learner.adapter_files(), world.trainer._optimiser.save()) == (before, state)
    assert world.trainer.update(groups, number=2).is_applied


def test_what_was_withheld_and_why(world):
    _, groups = prepared(world)
    assert world.trainer.update([with_rewards(g, [0.3] * 4) for g in groups], number=1).withheld == "no_signal"
    step = world.trainer.update(groups, number=2)
    assert (step.withheld, step.staleness, step.is_applied) == ("", 0, True)
    assert 0 < step.gap_nats_per_token < 1e-4


def test_rollouts_of_the_parent_are_learned_from_where_that_is_allowed(make_world, tmp_path):
    world = make_world(tmp_path / "run", max_staleness=1, learning_rate=3e-2)
    first, groups = prepared(world)
    ahead = world.play(first, 2)  # played while the first step is learned
    second = world.trainer.save(world.trainer.update(groups, number=1))
    world.learner.load_adapter(checkpoints.read_adapter(world.run_dir, second), digest=second.digest)
    kept = gradients_of(world)
    step = world.trainer.update(ahead, number=2)
    assert (step.staleness, step.is_applied, step.adapter_id) == (1, True, second.adapter_id)
    assert step.gap_nats_per_token > 1e-3  # beyond what delivery allows to rollouts of the current version
    assert kept[0].norm() > 0
    third = world.trainer.save(step)
    with pytest.raises(StaleRolloutError, match="or, all of a step, its parent"):
        world.trainer.update(ahead, number=3)  # now two versions behind
    world.sampler.publish(third)
    fresh = world.play(third, 3)
    world.sampler.publish(second)
    mixed = [fresh[0], world.play(second, 3)[1]]
    with pytest.raises(StaleRolloutError):
        world.trainer.update(mixed, number=3)
    assert world.trainer.update(fresh, number=3).staleness == 0


def test_after_a_restore_the_parent_is_that_of_the_restored_version(make_world, tmp_path):
    world = make_world(tmp_path / "run", max_staleness=1, keep_states=4)
    _, groups = prepared(world)
    second = world.trainer.save(world.trainer.update(groups, number=1))
    world.sampler.publish(second)
    ahead = world.play(second, 2)
    _, third = world.step(second, 2)
    world.trainer.restore(second)
    assert world.trainer.update(groups, number=3).staleness == 1  # by `first`, the parent of what was restored
    world.trainer.restore(second)
    assert world.trainer.update(ahead, number=3).staleness == 0
    world.trainer.restore(second)
    world.sampler.publish(third)
    with pytest.raises(StaleRolloutError):
        world.trainer.update(world.play(third, 3), number=3)
