"""Our side of the comparisons: sampler, trainer, save and publish as a job uses them.

In: the settings that `learning.py` makes.
Out: a step from prompts (`end_to_end`); a step from given completions (`replay`).
Refuses: nothing.
Not here: the rival (`trl_arm.py`).
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import Run, Settings, Work
from benchmarks.step_cases import fingerprint, prompt_of, replayed, rewards_of
from spice_enterprise.config import TrainingConfig
from spice_enterprise.records import AdapterVersion, Completion, Role, Rollout, RolloutGroup
from spice_enterprise.training.base_model import resolve_base_model
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.qlora import LearnerModel
from spice_enterprise.training.scoring import selected_logprobs
from spice_enterprise.training.trainer import Lineage, QloraTrainer, Sampling


class System:
    """Learner, trainer and sampler on a run directory of their own."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings["threads"])
        base = resolve_base_model(settings["model"], cache_dir=Path(settings["model"]).parent, is_offline=True)
        config = TrainingConfig(
            quantization=settings["quantization"], compute_dtype="float32", lora_rank=settings["rank"],
            lora_alpha=settings["rank"], learning_rate=settings["learning_rate"], warmup_steps=0,
            grad_clip=settings["grad_clip"], mask_truncated=False,
            activation_checkpointing="always" if settings["is_checkpointing"] else "never",
        )  # fmt: skip
        self._directory = tempfile.TemporaryDirectory()
        run_dir = Path(self._directory.name)
        longest = max(group["tail"] for step in settings["steps"] for group in step)
        self.learner = LearnerModel.load(base, config, seed=settings["seed"])
        self.tokenizer = ChatTokenizer(base.path)
        self.tokenizer.stop_ids = frozenset()  # lengths are forced: the rival may not end early either
        lineage = Lineage(base_model=base.name, base_digest=base.digest, corpus_digest="sha256:-", config_digest="sha256:-")
        l_max: dict[Role, int] = {"challenger": longest, "reasoner": longest}
        self.trainer = QloraTrainer(self.learner, run_dir=run_dir, config=config, lineage=lineage, sampling=Sampling(l_max=l_max))
        self.sampler = HfSampler(self.learner, self.tokenizer, run_dir=run_dir)
        self.version = self.trainer.start()
        self.sampler.publish(self.version)


def end_to_end(settings: Settings) -> Run:
    """Generate, learn, save and publish in every iteration."""
    system = System(settings)

    def run(number: int) -> Work:
        groups = settings["steps"][number]
        prompts = [prompt_of(group["text"], group["tail"]) for group in groups]
        wall, cpu = [time.perf_counter()], time.process_time()
        completions = system.sampler.sample(prompts, n=settings["n"], seed=settings["seed"] + number)
        wall.append(time.perf_counter())
        played = [group_of(system.version, found, group) for found, group in zip(completions, groups, strict=True)]
        step = system.trainer.update(played, number=number + 1)
        wall.append(time.perf_counter())
        system.version = system.trainer.save(step)
        system.sampler.publish(system.version)
        wall.append(time.perf_counter())
        assert step.is_applied
        return Work(
            tokens=useful_tokens(played),
            wall_s=wall[-1] - wall[0],
            cpu_s=time.process_time() - cpu,
            inputs=fingerprint([found[0].prompt_token_ids for found in completions]),
            figures={name: wall[i + 1] - wall[i] for i, name in enumerate(("generate_s", "learn_s", "publish_s"))},
        )

    return run


def replay(settings: Settings) -> Run:
    """Learn from completions that are given; what they are and how probable is found out before the clock starts."""
    system = System(settings)

    def run(number: int) -> Work:
        groups = settings["steps"][number]
        played = [_replayed_group(system, settings, (number, g)) for g in range(len(groups))]
        wall, cpu = time.perf_counter(), time.process_time()
        step = system.trainer.update(played, number=number + 1)
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        assert step.is_applied
        system.version = system.trainer.save(step)
        inputs = fingerprint([group.prompt_token_ids for group in played])
        return Work(tokens=useful_tokens(played), wall_s=wall_s, cpu_s=cpu_s, inputs=inputs)

    return run


def useful_tokens(groups: Sequence[RolloutGroup]) -> float:
    """Return the completion tokens of groups whose rewards differ."""
    useful = [group for group in groups if len({rollout.reward for rollout in group.rollouts}) > 1]
    return float(sum(len(rollout.token_ids) for group in useful for rollout in group.rollouts))


def group_of(version: AdapterVersion, completions: Sequence[Completion], group: dict[str, Any]) -> RolloutGroup:
    """Return rollouts with the stub's rewards."""
    rewards = rewards_of(group, len(completions))
    rollouts = tuple(
        Rollout(
            role="reasoner", parent_id="p", adapter_id=version.adapter_id, adapter_digest=found.adapter_digest,
            template_id="bench", step=version.step + 1, index=j, token_ids=found.token_ids, logprobs=found.logprobs,
            text=found.text, stop_reason=found.stop_reason, outcome="correct", reason="", reward=rewards[j],
        )
        for j, found in enumerate(completions)
    )  # fmt: skip
    return RolloutGroup(role="reasoner", parent_id="p", prompt_token_ids=completions[0].prompt_token_ids, rollouts=rollouts)


def _replayed_group(system: System, settings: Settings, place: tuple[int, int]) -> RolloutGroup:
    number, index = place
    group = settings["steps"][number][index]
    prompt = system.tokenizer.encode_prompt(prompt_of(group["text"], group["tail"]))
    vocabulary = system.learner.head_weight.shape[0]
    rows = replayed(settings["seed"], number, index, n=settings["n"], tail=group["tail"], vocabulary=vocabulary)
    completions = [
        Completion(prompt_token_ids=prompt, token_ids=tuple(row), logprobs=_logprobs(system.learner, prompt, row), text="",
                   stop_reason="length", adapter_digest=system.version.digest)
        for row in rows
    ]  # fmt: skip
    return group_of(system.version, completions, group)


def _logprobs(learner: LearnerModel, prompt: Sequence[int], row: Sequence[int]) -> tuple[float, ...]:
    """Score a completion in a pass of its own, without packing."""
    with torch.no_grad():
        hidden = learner.hidden_states(torch.tensor([[*prompt, *row]]), use_cache=False).last_hidden_state[0]
        logps, _ = selected_logprobs(hidden[len(prompt) - 1 : -1], learner.head_weight, torch.tensor(row))
    return tuple(logps.tolist())
