"""A Challenger that flips coins against an honest one, through the whole stage: who earns more under which rules."""

import json
import math
import re
from statistics import mean

import pytest

from spice_enterprise.records import ScrubbedText
from spice_enterprise.selfplay.contracts import FREE_FORM_FIELDS

GROUP = 8
TANKS = 256
COIN = ("Does tank number {i}, as it is kept today, count as one of the greater tanks on the site?", "Yes", "No")
HONEST = ("Which service keeps the pump of tank number {i} on the site in order, be it day or night?", "Bergmann", "Hartmann")


def binomial(p):
    """How many of `TANKS` tasks are answered right 0, 1, ... times of `GROUP`; exact for p = 1/2."""
    shares = [math.comb(GROUP, k) * p**k * (1 - p) ** (GROUP - k) for k in range(GROUP + 1)]
    return [k for k, share in enumerate(shares) for _ in range(round(TANKS * share))]


def proposed(question, answer):
    fields = dict.fromkeys(FREE_FORM_FIELDS, "said") | {"answer_type": "String", "relevant_quotes": ["is kept on the site"]}
    return json.dumps({**fields, "question": question, "answer": answer})


@pytest.fixture
def earned(world, version):
    """Let a Challenger ask about every tank, with the Reasoner right as often as chance has it; return all it earned."""

    def earn(challenger, p, **settings):
        question, right, wrong = challenger
        rates = binomial(p)

        def script(prompt, j):
            number = int(re.search(r"tank number (\d+)", prompt.messages[-1].content).group(1))
            if world.is_challenger(prompt):
                return proposed(question.format(i=number), right)
            return rf"\boxed{{{right if j < rates[number] else wrong}}}"

        chunks = [
            world.chunk(
                ScrubbedText(f"The tank number {i} is kept on the site. The service that keeps its pump is Bergmann."), index=i
            )
            for i in range(len(rates))
        ]
        rules = {"contract": "full", "hint": "none", "regimes": ("closed_book",), "duplicate_penalty": 0.0, "max_rounds": 1}
        stage = world.stage(world.sampler(script), challenger_group=2, reasoner_group=GROUP, **rules, **settings)
        played = stage.play(chunks, version, step=1)
        return [r for item in played.rollouts if item.group.role == "challenger" for r in item.group.rollouts]

    return earn


def test_a_coin_flip_pays_under_the_papers_rules_and_not_under_chance_correction(earned):
    coin, honest = ({"challenger": COIN, "p": 0.5}, {"challenger": HONEST, "p": 0.4})
    paid = {
        reward: [mean(r.reward for r in earned(**who, reward=reward, admission="parsable")) for who in (coin, honest)]
        for reward in ("spice", "chance_corrected")
    }
    assert paid["spice"] == pytest.approx([0.909, 0.873], abs=0.002)
    assert paid["chance_corrected"] == pytest.approx([0.343, 0.873], abs=0.002)


def test_a_coin_flip_is_refused_where_proposals_are_checked(earned):
    assert {(r.reason, r.reward) for r in earned(COIN, 0.5, admission="checked")} == {("boolean", -0.1)}
    assert {r.reason for r in earned(HONEST, 0.4, admission="checked")} == {""}
