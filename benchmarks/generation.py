"""Bench G: the HF sampler beside the library's `generate`, on prompts that are sampled eight times each.

In: the embedded model; documents cut to a number of tokens; a length per completion, drawn once.
Out: useful tokens per second, ratio of pairs and peak memory of each; whether greedy tokens are equal; the sampler's
    log-probabilities beside those of the learner's own forward pass; the written-out twin beside 4-bit kernels.
Refuses: with `--small`, a ratio under 60 % of the target.
Not here: how arms are run (`arms.py`).

Both arms write the same prompts and stop each row at the same length. `generate` gets the prompts duplicated, as trainers
call it, and computes until its longest row ends; the sampler reads each prompt once and drops rows as they end.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from benchmarks import arms

TARGET = 2.0


def draw_lengths(rows: int, longest: int, *, seed: int) -> list[int]:
    """Return a length per row: many short ones and a few long ones, the longest as given."""
    stream = random.Random(seed)  # noqa: S311 - reproducibility, not secrecy
    drawn = [min(longest, max(longest // 16, round(longest * stream.lognormvariate(-1.3, 0.7)))) for _ in range(rows)]
    drawn[stream.randrange(rows)] = longest
    return drawn


def draw_ids(settings: Mapping[str, Any], number: int) -> list[tuple[int, ...]]:
    """Return prompts of exactly the asked number of tokens, different in every iteration."""
    stream = random.Random(settings["seed"] + number)  # noqa: S311 - as above
    return [
        tuple(stream.randrange(1000, settings["vocabulary"]) for _ in range(settings["prompt_tokens"]))
        for _ in range(settings["prompts"])
    ]


def ours(settings: Mapping[str, Any]) -> arms.Run:
    """Set up `HfSampler` on the bare base, or on an adapter when asked for."""
    import torch  # noqa: PLC0415 - only in the arm's own process

    from spice_enterprise.records import Message, Prompt  # noqa: PLC0415 - as above

    torch.set_num_threads(settings["threads"])
    sampler = make_sampler(settings)
    learner = load_learner(settings) if settings.get("is_gap") else None
    is_greedy = settings.get("is_greedy", False)
    prompt = Prompt(
        messages=(Message(speaker="user", content=""),), template_id="", max_new_tokens=settings["longest"],
        temperature=0.0 if is_greedy else 1.0,
    )  # fmt: skip

    def run(number: int) -> arms.Work:
        encoded = iter(draw_ids(settings, number))
        lengths = draw_lengths(settings["prompts"] * settings["n"], settings["longest"], seed=number)
        sampler._tokenizer.encode_prompt = lambda _: next(encoded)
        sampler._why_ended = lambda row: (
            "length" if len(row.token_ids) >= lengths[row.place[0] * settings["n"] + row.place[1]] else None
        )
        started = time.perf_counter()
        groups = sampler.sample([prompt] * settings["prompts"], n=settings["n"], seed=number)
        wall_s = time.perf_counter() - started
        written = [list(c.token_ids) for group in groups for c in group]
        assert [len(ids) for ids in written] == lengths
        _keep(settings, "ours", written)
        figures = {"mean_dlogp": gap(groups[0], learner)} if learner is not None else {}
        return arms.Work(tokens=sum(lengths), wall_s=wall_s, figures=figures)

    return run


def rival(settings: Mapping[str, Any]) -> arms.Run:
    """Set up the library's model and `generate`."""
    import torch  # noqa: PLC0415 - only in the arm's own process
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList  # noqa: PLC0415 - as above

    torch.set_num_threads(settings["threads"])
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32, local_files_only=True).eval()
    model.generation_config.eos_token_id = None

    class AtLength(StoppingCriteria):
        def __init__(self, lengths: list[int], start: int) -> None:
            self.lengths, self.start = torch.tensor(lengths), start

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return input_ids.shape[1] - self.start >= self.lengths

    def run(number: int) -> arms.Work:
        encoded, n = draw_ids(settings, number), settings["n"]
        lengths = draw_lengths(settings["prompts"] * n, settings["longest"], seed=number)
        ids = torch.tensor([row for row in encoded for _ in range(n)])
        torch.manual_seed(number)
        criteria = StoppingCriteriaList([AtLength(lengths, ids.shape[1])])
        sampling = {"do_sample": False} if settings.get("is_greedy") else {"do_sample": True, "temperature": 1.0, "top_k": 0}
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=settings["longest"], pad_token_id=0,
            stopping_criteria=criteria, **sampling,
        )  # fmt: skip
        _keep(settings, "rival", [row[ids.shape[1] :][:k].tolist() for row, k in zip(out, lengths, strict=True)])
        return arms.Work(tokens=sum(lengths))

    return run


def load_learner(settings: Mapping[str, Any], *, is_twin: bool = False) -> Any:
    """Return the learner's model, or the twin of it."""
    from spice_enterprise.config import TrainingConfig  # noqa: PLC0415 - only in the arm's own process
    from spice_enterprise.training.base_model import BaseModel  # noqa: PLC0415 - as above
    from spice_enterprise.training.hf_twin import load_twin  # noqa: PLC0415 - as above
    from spice_enterprise.training.qlora import LearnerModel  # noqa: PLC0415 - as above

    base = BaseModel(path=Path(settings["model"]), name="base", digest="0" * 64)
    quantization: Literal["none", "nf4"] = "none" if settings.get("weights", "none") == "none" else "nf4"
    config = TrainingConfig(quantization=quantization, compute_dtype="float32", dequantise="never")
    return load_twin(base, config, dtype="auto", seed=1) if is_twin else LearnerModel.load(base, config, seed=1)


def make_sampler(settings: Mapping[str, Any]) -> Any:
    """Return a sampler of the base, its weights held as `settings` say."""
    from spice_enterprise.training.chat import ChatTokenizer  # noqa: PLC0415 - only in the arm's own process
    from spice_enterprise.training.hf_sampler import HfSampler  # noqa: PLC0415 - as above

    path = Path(settings["model"])
    return HfSampler(load_learner(settings, is_twin=settings.get("weights") == "twin"), ChatTokenizer(path), run_dir=path)


def gap(group: Any, learner: Any) -> float:
    """Return mean |dlogp| between a group's log-probabilities and those of a learner's own forward pass."""
    import torch  # noqa: PLC0415 - only in the arm's own process

    from spice_enterprise.training.packing import pack_group, to_tensors  # noqa: PLC0415 - as above
    from spice_enterprise.training.scoring import selected_logprobs  # noqa: PLC0415 - as above

    rows = pack_group(group[0].prompt_token_ids, [c.token_ids for c in group], group=0, max_tokens=1 << 20)
    with torch.no_grad(), learner.bare():
        batch = to_tensors(rows, learner.device)
        logps, _ = selected_logprobs(learner.completion_states(batch), learner.head_weight, batch.targets)
    return float((logps - torch.tensor([logp for c in group for logp in c.logprobs])).abs().mean())


def _keep(settings: Mapping[str, Any], name: str, written: list[list[int]]) -> None:
    if settings.get("is_greedy"):
        Path(settings["folder"], f"{name}.json").write_text(json.dumps(written), encoding="utf-8")


def check(settings: Mapping[str, Any], *, threads: int) -> str:
    """Write greedily with both; say how many rows are equal token by token, and how far the log-probabilities are."""
    with tempfile.TemporaryDirectory() as folder:
        given = {**settings, "is_greedy": True, "is_gap": True, "folder": folder}
        measured = compare(given, threads=threads, pairs=1, warmups=0)
        first, second = (json.loads(Path(folder, f"{name}.json").read_text(encoding="utf-8")) for name in ("ours", "rival"))
    same = sum(a == b for a, b in zip(first, second, strict=True))
    distance = measured[0].figure("mean_dlogp")
    return f"greedy: {same} of {len(first)} rows equal token by token; mean |dlogp| to the learner's forward pass {distance:.2g}"


def compare(settings: Mapping[str, Any], *, threads: int, pairs: int, warmups: int) -> list[arms.Measured]:
    """Run the sampler and `generate` in turns."""
    sides = [
        arms.Arm(name="HF sampler", function="benchmarks.generation:ours", settings=settings, threads=threads),
        arms.Arm(name="generate", function="benchmarks.generation:rival", settings=settings, threads=threads),
    ]
    return arms.compare(sides, pairs=pairs, warmups=warmups)


def compare_weights(settings: Mapping[str, Any], *, threads: int, pairs: int) -> list[arms.Measured]:
    """Run the sampler on the twin and on 4-bit kernels in turns."""
    sides = [
        arms.Arm(name=name, function="benchmarks.generation:ours", settings={**settings, "weights": weights}, threads=threads)
        for name, weights in (("twin", "twin"), ("NF4", "nf4"))
    ]
    return arms.compare(sides, pairs=pairs, warmups=1)


def main() -> None:
    """Run the comparisons and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    arms.add_arguments(parser)
    parser.add_argument("--model", type=Path, help="directory of a model; the embedded one when left out")
    parser.add_argument("--case", choices=["long", "short", "weights", "all"], default="all")
    args = parser.parse_args()
    model, vocabulary = find_model(args.model)
    common = {"model": str(model), "vocabulary": vocabulary, "n": 8, "seed": 100}
    cases = {"long": (512, 1, 64), "short": (128, 2, 128)} if not args.small else {"long": (256, 1, 24)}
    found: dict[str, list[arms.Measured]] = {}
    for name, (prompt_tokens, prompts, longest) in cases.items():
        if args.case in (name, "all"):
            settings = {**common, "prompt_tokens": prompt_tokens, "prompts": prompts, "longest": longest}
            found[name] = measured = compare(settings, threads=args.threads, pairs=args.pairs, warmups=args.warmups)
            print(f"\n{name}: {prompts} prompts of {prompt_tokens} tokens, 8 completions each, longest {longest}\n")
            print(arms.table(measured, rival=measured[1]))
            print(f"\nratio of pairs: {arms.speed_ratio(measured[0], measured[1])}")
            print(check(settings, threads=args.threads))
            if args.small:
                arms.require("sampler over generate", arms.speed_ratio(*measured).median, at_least=0.6 * TARGET)
    if args.case in ("weights", "all") and not args.small:
        settings = {**common, "prompt_tokens": 64, "prompts": 1, "longest": 16, "is_gap": True}
        found["weights"] = measured = compare_weights(settings, threads=args.threads, pairs=args.pairs)
        print("\nNF4 weights, written out or multiplied by 4-bit kernels: 1 prompt of 64 tokens, 8 completions, longest 16\n")
        print(arms.table(measured, rival=measured[1], unit="tok/s"))
        print(arms.figures(measured))
    if args.json is not None:
        args.json.write_text(json.dumps({name: arms.as_json(each) for name, each in found.items()}, indent=1), encoding="utf-8")


def find_model(given: Path | None) -> tuple[Path, int]:
    """Return the model's directory and how many tokens it knows."""
    from spice_enterprise.config import cache_dir  # noqa: PLC0415 - the arms' processes need none of it
    from spice_enterprise.training.base_model import resolve_base_model  # noqa: PLC0415 - as above

    model = resolve_base_model(str(given or "embedded"), cache_dir=cache_dir(), is_offline=True).path
    return model, int(json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"])


if __name__ == "__main__":
    main()
