"""TRL's own loss code on the same batch gives the same gradient as ours, for each loss, on and off policy."""

import dataclasses
import json

import pytest
import torch

from spice_enterprise.records import Rollout, RolloutGroup
from spice_enterprise.training.advantages import centre
from spice_enterprise.training.learning import PolicyGradient
from spice_enterprise.training.losses import LossSettings, TokenBatch, policy_loss
from spice_enterprise.training.packing import pack_group, to_tensors
from spice_enterprise.training.scoring import selected_logprobs

trl = pytest.importorskip("trl", reason="TRL is not installed", exc_type=ImportError)

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PROMPTS = [list(range(10, 29)), list(range(60, 91))]
LENGTHS = [[7, 3, 12, 1], [5, 12, 2, 9]]
REWARDS = [[1.0, 0.0, 0.25, 0.5], [0.0, 1.0, 1.0, 0.0]]
L_MAX = 12
ROWS = 8
CLIP_HIGH = 0.28
LOSSES = {
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon": 0.2, "epsilon_high": CLIP_HIGH},
    "gspo": {"loss_type": "dr_grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.08},
    # TRL's bound of CISPO is the weight itself, and there is none below: ours lies under every ratio here
    "cispo": {"loss_type": "cispo", "epsilon": 0.2, "epsilon_high": 1.0 + CLIP_HIGH},
}
SETTINGS = {
    "dr_grpo": LossSettings(kind="dr_grpo", clip_low=0.2, clip_high=CLIP_HIGH, importance_cap=2.0),
    "gspo": LossSettings(kind="gspo", clip_low=0.05, clip_high=0.08, importance_cap=2.0),
    "cispo": LossSettings(kind="cispo", clip_low=0.99, clip_high=CLIP_HIGH, importance_cap=2.0),
}


def completions():
    generator = torch.Generator().manual_seed(4)
    return [[torch.randint(3, 264, (n,), generator=generator).tolist() for n in lengths] for lengths in LENGTHS]


def groups_of(parts):
    """Our groups, their sampler's log-probabilities far below any: the importance weight is then its cap for all."""
    return [
        RolloutGroup(
            role="reasoner", parent_id="p", prompt_token_ids=tuple(prompt),
            rollouts=tuple(
                Rollout(
                    role="reasoner", parent_id="p", adapter_id="a", adapter_digest="d", template_id="t", step=1, index=i,
                    token_ids=tuple(part), logprobs=(-50.0,) * len(part), text="", stop_reason="length", outcome="correct",
                    reason="", reward=reward,
                )
                for i, (part, reward) in enumerate(zip(completed, rewards, strict=True))
            ),
        )
        for prompt, completed, rewards in zip(PROMPTS, parts, REWARDS, strict=True)
    ]  # fmt: skip


@pytest.fixture
def learner(make_learner):
    return make_learner(quantization="none", moved=0.1)


@pytest.fixture
def rival(learner, tiny_path, tmp_path):
    """TRL's trainer around the same base with the same adapter; only its loss is asked for."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name, data in learner.adapter_files().items():
        (tmp_path / name).write_bytes(data)
    base = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)

    def make(kind):
        config = trl.GRPOConfig(
            output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, beta=0.0, temperature=1.0, num_generations=4,
            per_device_train_batch_size=ROWS, max_completion_length=L_MAX, gradient_checkpointing=False, report_to="none",
            **LOSSES[kind],
        )  # fmt: skip
        trainer = trl.GRPOTrainer(
            model=PeftModel.from_pretrained(base, str(tmp_path), is_trainable=True), args=config, reward_funcs=lambda **_: [0.0],
            train_dataset=Dataset.from_list([{"prompt": "a"}] * ROWS), processing_class=AutoTokenizer.from_pretrained(tiny_path),
        )  # fmt: skip
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def padded(values, *, is_left=False, filler=0):
    width = max(map(len, values))
    return torch.tensor([[filler] * (width - len(v)) + v if is_left else v + [filler] * (width - len(v)) for v in values])


def gradient_of_rival(trainer, parts, *, start=None, weights=None):
    """Run TRL's loss and return its gradient by our names, scaled to our divisor (rows times L_max)."""
    rows = [part for completed in parts for part in completed]
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    tokens = sum(map(len, rows))
    inputs = {
        "prompt_ids": padded(prompts, is_left=True),
        "prompt_mask": padded([[1] * len(p) for p in prompts], is_left=True),
        "completion_ids": padded(rows),
        "completion_mask": padded([[1] * len(r) for r in rows]),
        "advantages": torch.tensor([a for rewards in REWARDS for a in centre(rewards)]),
        "num_items_in_batch": torch.tensor(tokens),
    }
    if start is not None:
        inputs["old_per_token_logps"] = padded(start, filler=0.0)
    if weights is not None:
        trainer.use_vllm = True  # TRL weighs so only where vLLM wrote the completions
        inputs["importance_sampling_ratio"] = weights
    trainer.compute_loss(trainer.model, inputs).backward()
    factor = tokens / (ROWS * L_MAX) if trainer.loss_type == "cispo" else 1.0
    found = {name.replace(".default.", "."): p.grad * factor for name, p in trainer.model.named_parameters() if p.requires_grad}
    return torch.cat([found[name].flatten() for name in sorted(found)])


def ours(learner):
    return torch.cat([p.grad.flatten() for p in learner.parameters.values()])


def batch_of(learner, parts):
    rows = [row for g, prompt in enumerate(PROMPTS) for row in pack_group(prompt, parts[g], group=g, max_tokens=999)]
    return to_tensors(rows, learner.device)


def require_equal(name, expected, found):
    cosine = torch.nn.functional.cosine_similarity(expected.double(), found.double(), dim=0).item()
    error = ((expected - found).norm() / expected.norm()).item()
    print(json.dumps({"loss": name, "one_minus_cosine": 1 - cosine, "relative_error": error}))
    assert expected.norm() > 1e-4
    assert cosine > 0.9999
    assert error <= 1e-5


@pytest.mark.parametrize("kind", LOSSES)
def test_on_policy(kind, learner, rival, config):
    parts = completions()
    changes = {"loss": kind, "importance_cap": 1.0, "clip_low": 0.2, "clip_high": CLIP_HIGH}
    gradient = PolicyGradient(learner, config=config.model_copy(update=changes), l_max={"reasoner": L_MAX}, temperature=1.0)
    gradient.forward_backward(groups_of(parts))
    require_equal(f"{kind}, on policy", gradient_of_rival(rival(kind), parts), ours(learner))


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
def test_off_policy_where_ratios_are_clipped(kind, is_weighted, learner, rival):
    parts = completions()
    batch = batch_of(learner, parts)
    logps, _ = selected_logprobs(learner.completion_states(batch), learner.head_weight, batch.targets)
    generator = torch.Generator().manual_seed(9)
    start = logps.detach() + 0.4 * torch.randn(logps.shape, generator=generator).clamp(-2, 2)
    lengths = torch.tensor(batch.lengths)
    advantages = torch.tensor([a for rewards in REWARDS for a in centre(rewards)]).repeat_interleave(lengths)
    tokens = TokenBatch(
        start_logps=start, sampler_logps=start - 0.4 if is_weighted else start, advantages=advantages,
        divisors=torch.full_like(start, ROWS * L_MAX), completions=torch.arange(len(lengths)).repeat_interleave(lengths),
    )  # fmt: skip
    settings = SETTINGS[kind]
    free = dataclasses.replace(settings, clip_low=0.999, clip_high=1e6)
    assert not torch.isclose(policy_loss(logps, tokens, free), policy_loss(logps, tokens, settings))  # something is clipped
    policy_loss(logps, tokens, settings).backward()
    found = batch.split(start.tolist())
    weights = torch.full((ROWS, 1), 0.4).exp() if is_weighted else None
    expected = gradient_of_rival(rival(kind), parts, start=[values for _, values in found], weights=weights)
    require_equal(f"{kind}, off policy{', weighted' if is_weighted else ''}", expected, ours(learner))
