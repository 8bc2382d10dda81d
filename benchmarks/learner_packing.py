"""The learner's pass over a group that shares its prompt, beside the same pass with a copy of the prompt per completion.

`python -m benchmarks.learner_packing [--prompt 1024] [--tail 128] [--pairs 5] [--small]`

In: the base model in fp32; completions of random tokens, their lengths drawn uniformly from 1 to `--tail`.
Out: completion tokens per second, forward and backward, and peak memory of each side; how far their losses are apart.
Refuses: losses or gradient norms that differ: then it would not be the same function.
Not here: other trainers (`learner_replay.py`).

Both sides run `PolicyGradient` with the same attention and head; the rival's only difference is a limit of positions so
low that every row holds one completion.
"""

import argparse
import json
import random
from typing import Any, Final

import torch

from benchmarks.arms import Arm, ArmError, Run, Settings, Work, add_arguments, as_json, compare, require, speed_ratio, table
from spice_enterprise.config import TrainingConfig, cache_dir
from spice_enterprise.records import Rollout, RolloutGroup
from spice_enterprise.training.base_model import resolve_base_model
from spice_enterprise.training.learning import PolicyGradient
from spice_enterprise.training.qlora import LearnerModel

FUNCTION: Final = "benchmarks.learner_packing:one_pass"
TARGET: Final = 5.0
SMALL_SHARE: Final = 0.6
TOLERANCE: Final = 1e-3
SIZE: Final = 8
"""Completions of the group."""


def one_pass(settings: Settings) -> Run:
    """Forward and backward over one group in every iteration."""
    torch.set_num_threads(settings["threads"])
    base = resolve_base_model(settings["model"], cache_dir=cache_dir(), is_offline=True)
    config = TrainingConfig(
        quantization="none",
        compute_dtype="float32",
        activation_checkpointing="never",
        max_batch_tokens=settings["batch_tokens"],
        mask_truncated=False,
    )
    learner = LearnerModel.load(base, config, seed=1)
    gradient = PolicyGradient(learner, config=config, l_max={"challenger": 128, "reasoner": 128}, temperature=1.0)
    vocabulary = learner.head_weight.shape[0]

    def run(number: int) -> Work:
        group = _group(settings, number, vocabulary)
        measured = gradient.forward_backward([group])
        norm = torch.nn.utils.get_total_norm([p.grad for p in learner.parameters.values() if p.grad is not None])
        return Work(tokens=float(measured.tokens), figures={"loss": measured.loss, "norm": float(norm)})

    return run


def _group(settings: Settings, number: int, vocabulary: int) -> RolloutGroup:
    draw = random.Random(f"{settings['seed']} {number}")  # noqa: S311 - token ids of a benchmark
    rollouts = tuple(
        Rollout(
            role="reasoner", parent_id="p", adapter_id="a", adapter_digest="d", template_id="bench", step=1, index=index,
            token_ids=tuple(tokens), logprobs=(-10.0,) * len(tokens), text="", stop_reason="length", outcome="correct",
            reason="", reward=float(index % 2),
        )
        for index in range(SIZE)
        for tokens in [draw.choices(range(3, vocabulary), k=draw.randint(1, settings["tail"]))]
    )  # fmt: skip
    prompt = tuple(draw.choices(range(3, vocabulary), k=settings["prompt"]))
    return RolloutGroup(role="reasoner", parent_id="p", prompt_token_ids=prompt, rollouts=rollouts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--model", default="embedded", help="`embedded` or a directory")
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of the prompt")
    parser.add_argument("--tail", type=int, default=128, help="most tokens of a completion")
    args = parser.parse_args()
    settings: dict[str, Any] = {"model": args.model, "prompt": args.prompt, "tail": args.tail, "seed": 20}
    if args.small:
        settings |= {"prompt": 512, "tail": 32}
    limits = {"prompt once": 16_384, "prompt copied": 64}
    arms = [
        Arm(name=name, function=FUNCTION, settings={**settings, "batch_tokens": limit}, threads=args.threads)
        for name, limit in limits.items()
    ]
    try:
        ours, rival = compare(arms, pairs=args.pairs, warmups=args.warmups)
    except ArmError as failure:
        raise SystemExit(str(failure)) from None
    for a, b in zip(ours.iterations, rival.iterations, strict=True):
        for name, value in a.figures.items():
            require(f"relative difference of {name}", abs(value / b.figures[name] - 1.0), at_most=TOLERANCE)
    print(f"\none group of {SIZE}, prompt of {settings['prompt']} tokens, completions of 1 to {settings['tail']}, fp32\n")
    print(table([ours, rival], rival=rival, unit="completion tok/s"))
    if args.json:
        args.json.write_text(json.dumps(as_json([ours, rival]), indent=1), encoding="utf-8")
    if args.small:
        require("times the speed of copied prompts", speed_ratio(ours, rival).median, at_least=TARGET * SMALL_SHARE)


if __name__ == "__main__":
    main()
