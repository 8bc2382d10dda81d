"""A tiny random model on disk, and groups played by it. One thread: results do not depend on the machine's load."""

import importlib.util
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from spice_enterprise.config import TrainingConfig
from spice_enterprise.records import Message, Prompt, Rollout, RolloutGroup

collect_ignore_glob = [] if importlib.util.find_spec("torch") and importlib.util.find_spec("bitsandbytes") else ["test_*.py"]

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
L_MAX = {"challenger": 20, "reasoner": 10}
KINDS = {"llama": "Llama", "mistral": "Mistral", "phi3": "Phi3", "qwen2": "Qwen2", "qwen3": "Qwen3"}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_tokenizer(path: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: i for i, name in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(["<tool_call>"])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}))
    (path / "chat_template.jinja").write_text(TEMPLATE)


def write_model(path: Path, kind: str = "llama") -> Path:
    import torch
    import transformers

    make_config = getattr(transformers, f"{KINDS[kind]}Config")
    make_model = getattr(transformers, f"{KINDS[kind]}ForCausalLM")
    extra = {"sliding_window": None} if kind in ("mistral", "phi3") else {}
    config = make_config(
        vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, initializer_range=0.15, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, **extra,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        make_model(config).save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def resolve(path):
    from spice_enterprise.training.base_model import resolve_base_model

    return resolve_base_model(str(path), cache_dir=path.parent, is_offline=True)


@pytest.fixture(scope="session")
def tiny_base(tiny_path):
    return resolve(tiny_path)


@pytest.fixture(scope="session")
def make_base(tmp_path_factory):
    def make(kind):
        return resolve(write_model(tmp_path_factory.mktemp("models") / kind, kind))

    return make


@pytest.fixture
def config():
    return TrainingConfig(
        lora_rank=4,
        lora_alpha=4,
        learning_rate=1e-2,
        warmup_steps=0,
        compute_dtype="float32",
        keep_states=2,
        mask_truncated=False,
    )


@pytest.fixture
def make_learner(tiny_base, config):
    import torch

    from spice_enterprise.training.qlora import LearnerModel

    def make(base=tiny_base, *, seed=11, moved=0.0, **changes):
        learner = LearnerModel.load(base, config.model_copy(update=changes), seed=seed)
        if moved:
            generator = torch.Generator().manual_seed(3)
            for parameter in learner.parameters.values():
                parameter.data += moved * torch.randn(parameter.shape, generator=generator)
        return learner

    return make


class World:
    """A learner, its trainer and its sampler on one run directory."""

    def __init__(self, base, run_dir, config, seed=11):
        from spice_enterprise.training.chat import ChatTokenizer
        from spice_enterprise.training.hf_sampler import HfSampler
        from spice_enterprise.training.qlora import LearnerModel
        from spice_enterprise.training.trainer import QloraTrainer, Sampling

        self.learner = LearnerModel.load(base, config, seed=seed)
        self.run_dir = run_dir
        self.trainer = QloraTrainer(
            self.learner, run_dir=run_dir, config=config, lineage=lineage_of(base), sampling=Sampling(l_max=L_MAX)
        )
        self.sampler = HfSampler(self.learner, ChatTokenizer(base.path), run_dir=run_dir)

    def play(self, version, step, *, groups=2, n=4, sampler=None):
        sampler = sampler or self.sampler
        prompts = [ask(f"question {step} {i}" * (i + 1), 8) for i in range(groups)]
        return [
            make_group(version, group, step=step, role="reasoner" if i % 2 else "challenger")
            for i, group in enumerate(sampler.sample(prompts, n=n, seed=100 + step))
        ]

    def step(self, version, number):
        self.sampler.publish(version)
        step = self.trainer.update(self.play(version, number), number=number)
        return step, self.trainer.save(step)


def lineage_of(base):
    from spice_enterprise.training.trainer import Lineage

    return Lineage(base_model=base.name, base_digest=base.digest, corpus_digest="sha256:c", config_digest="sha256:k")


def ask(text, max_new_tokens=8, **rest):
    return Prompt(messages=(Message(speaker="user", content=text),), template_id="t", max_new_tokens=max_new_tokens, **rest)


def make_group(version, completions, *, step=1, role="reasoner", rewards=None):
    rewards = rewards or [float(sum(c.token_ids) % 3) for c in completions[:-1]] + [5.0]
    rollouts = tuple(
        Rollout(
            role=role, parent_id="p", adapter_id=version.adapter_id, adapter_digest=c.adapter_digest, template_id="t", step=step,
            index=j, token_ids=c.token_ids, logprobs=c.logprobs, text=c.text, stop_reason=c.stop_reason,
            outcome="correct" if role == "reasoner" else "valid", reason="", reward=rewards[j],
        )
        for j, c in enumerate(completions)
    )  # fmt: skip
    return RolloutGroup(role=role, parent_id="p", prompt_token_ids=completions[0].prompt_token_ids, rollouts=rollouts)


@pytest.fixture
def world(tiny_base, tmp_path, config):
    return World(tiny_base, tmp_path / "run", config)


@pytest.fixture
def make_world(tiny_base, config):
    def make(run_dir, **changes):
        return World(tiny_base, run_dir, config.model_copy(update=changes))

    return make


@pytest.fixture
def tools():
    """The helpers above, for modules that cannot import this one."""
    return type(
        "Tools", (), {"ask": staticmethod(ask), "make_group": staticmethod(make_group), "lineage_of": staticmethod(lineage_of)}
    )
