"""Two adapters on one learner: each learns from its own role's rollouts, and a run resumes with both, bit for bit."""

import dataclasses
import importlib.util

import pytest

from spice_enterprise.errors import DeliveryError, StaleRolloutError
from spice_enterprise.records import Message, Prompt

pytestmark = [pytest.mark.torch, pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")]

L_MAX = {"challenger": 20, "reasoner": 10}


def ask(text):
    return Prompt(messages=(Message(speaker="user", content=text),), template_id="t", max_new_tokens=8)


class Pair:
    """A learner with an adapter for each role, its trainer and both samplers on one run directory."""

    def __init__(self, base, run_dir, config, tools):
        from spice_enterprise.training.challenger_adapter import ChallengerAdapter
        from spice_enterprise.training.challenger_sampler import ChallengerSampler
        from spice_enterprise.training.chat import ChatTokenizer
        from spice_enterprise.training.hf_sampler import HfSampler
        from spice_enterprise.training.qlora import LearnerModel
        from spice_enterprise.training.trainer import QloraTrainer, Sampling

        self.learner, self.tools = LearnerModel.load(base, config, seed=11), tools
        self.challenger = ChallengerAdapter(self.learner)
        self.trainer = QloraTrainer(
            self.learner, run_dir=run_dir, config=config, lineage=tools.lineage_of(base), sampling=Sampling(l_max=L_MAX),
            challenger=self.challenger,
        )  # fmt: skip
        tokenizer = ChatTokenizer(base.path)
        self.reasons = HfSampler(self.learner, tokenizer, run_dir=run_dir)
        self.asks = ChallengerSampler(self.learner, tokenizer, run_dir=run_dir, challenger=self.challenger)

    def play(self, version, number, *, roles=("challenger", "reasoner")):
        self.reasons.publish(version)
        groups = []
        for role in roles:
            sampler = self.asks if role == "challenger" else self.reasons
            (drawn,) = sampler.sample([ask(f"{role} {number}")], n=4, seed=100 + number)
            groups.append(self.tools.make_group(version, drawn, step=number, role=role))
        return groups

    def step(self, version, number, **rest):
        step = self.trainer.update(self.play(version, number, **rest), number=number)
        return step, self.trainer.save(step)

    def weights(self):
        return self.challenger.state.weights


@pytest.fixture
def pair(tiny_base, config, tools, tmp_path):
    def make(name="run"):
        return Pair(tiny_base, tmp_path / name, config, tools)

    return make


def test_each_role_learns_in_its_own_adapter(pair):
    one = pair()
    start = one.trainer.start()
    assert one.asks.adapter_digest == start.digest, "both begin as the base"
    before = one.weights()
    step, version = one.step(start, 1)
    assert step.is_applied
    assert version.digest not in (start.digest, one.asks.adapter_digest)
    assert one.weights() != before
    assert one.learner.adapter_digest == version.digest, "the learner holds what is released"


def test_only_one_role_moves_where_only_one_was_played(pair):
    one = pair()
    start = one.trainer.start()
    before = one.weights()
    _, answered = one.step(start, 1, roles=("reasoner",))
    assert answered.digest != start.digest
    assert one.weights() == before
    _, asked = one.step(answered, 2, roles=("challenger",))
    assert asked.digest == answered.digest, "the same Reasoner"
    assert asked.adapter_id != answered.adapter_id, "at another step, with another Challenger"
    assert one.weights() != before


def test_a_role_learns_as_it_would_alone(pair):
    both, alone = pair("both"), pair("alone")
    first = both.step(both.trainer.start(), 1)[1]
    other = alone.step(alone.trainer.start(), 1, roles=("challenger",))[1]
    # the divisor counts the rollouts of the role alone, and AdamW's first update has the size of its rate
    assert both.weights() == alone.weights()
    assert first.digest != other.digest


def test_the_two_samplers_speak_differently_and_in_turn(pair):
    one = pair()
    version = one.trainer.start()
    for number in (1, 2, 3):
        _, version = one.step(version, number)
    one.reasons.publish(version)
    drawn = [[sampler.sample([ask("say")], n=2, seed=5)[0] for sampler in (one.asks, one.reasons)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    asked, answered = drawn[0]
    assert {c.adapter_digest for c in asked} == {one.challenger.digest}
    assert {c.adapter_digest for c in answered} == {version.digest}
    assert [c.logprobs for c in asked] != [c.logprobs for c in answered]


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(pair, stop_after):
    whole, first = pair("whole"), pair("cut")
    version = whole.trainer.start()
    cut = first.trainer.start()
    for number in (1, 2, 3):
        _, version = whole.step(version, number)
        if number <= stop_after:
            _, cut = first.step(cut, number)
    second = pair("cut")
    cut = second.trainer.start([cut])
    for number in range(stop_after + 1, 4):
        _, cut = second.step(cut, number)
    assert cut == version
    assert second.challenger.state == whole.challenger.state


def test_going_back_takes_both_back(pair):
    one = pair()
    _, good = one.step(one.trainer.start(), 1)
    kept = one.challenger.state
    one.trainer.update(one.play(good, 2), number=2)
    one.trainer.restore(good)
    assert one.challenger.state == kept
    _, later = one.step(good, 3)
    one.trainer.restore(good)
    assert one.challenger.state == kept
    assert later.digest != good.digest


@pytest.mark.parametrize("role", ["challenger", "reasoner"])
def test_a_number_that_is_not_finite_withholds_both(pair, role):
    one = pair()
    start = one.trainer.start()
    before = one.weights()
    groups = one.play(start, 1)
    broken = [
        dataclasses.replace(g, rollouts=tuple(dataclasses.replace(r, reward=float("nan")) for r in g.rollouts))
        if g.role == role else g
        for g in groups
    ]  # fmt: skip
    step = one.trainer.update(broken, number=1)
    assert (step.is_applied, step.withheld) == (False, "non_finite")
    assert one.trainer.save(step) == start
    assert one.weights() == before
    assert one.step(start, 2)[0].is_applied


def test_proposals_of_the_reasoner_are_refused(pair):
    one = pair()
    start = one.trainer.start()
    _, version = one.step(start, 1)
    groups = one.play(version, 2)
    one.reasons.publish(version)
    (drawn,) = one.reasons.sample([ask("challenger 2")], n=4, seed=102)
    with pytest.raises(StaleRolloutError, match="Challenger"):
        one.trainer.update([one.tools.make_group(version, drawn, step=2, role="challenger"), groups[1]], number=2)


def test_the_challenger_is_mute_while_weights_are_not_saved(pair):
    one = pair()
    start = one.trainer.start()
    one.trainer.update(one.play(start, 1), number=1)
    with pytest.raises(DeliveryError, match="never saved"):
        one.asks.sample([ask("say")], n=1, seed=1)


def test_a_version_holds_nothing_of_the_challenger(pair, tmp_path):
    one = pair()
    _, version = one.step(one.trainer.start(), 1)
    named = {path.name for path in (tmp_path / "run" / "adapters" / version.adapter_id).iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= named
    assert not any("challenger" in name for name in named)
