"""Refill rounds: which chunks go on, what is trained on, what is only recorded."""

import pytest

from spice_enterprise.selfplay.rewards import challenger_reward

TEXT = "The pump delivers 320 litres. The tank holds 50 barrels. The notice period is 45 days."
UNITS = {"litres": "320 litres", "barrels": "50 barrels", "days": "45 days"}


def right_answer(prompt):
    return " " + next(value for unit, value in UNITS.items() if f"How many {unit}" in prompt.messages[-1].content)


def script_with_signal_in(world, with_signal, questions=4):
    """All proposals are good; the answers to proposals of round `with_signal` (from 0) are half right, others all right."""
    rounds = []

    def script(prompt, j):
        if world.is_challenger(prompt):
            if j == 0:
                rounds.append(prompt.prefill)
            unit = next(unit for unit in UNITS if unit in prompt.prefill)
            subject = {"litres": "the pump", "barrels": "the tank", "days": "the notice period"}[unit]
            return f" {['does', 'will', 'can', 'may'][j % questions]} {subject} have?"
        return right_answer(prompt) if len(rounds) - 1 != with_signal or j % 2 else " 7"

    return script


def played_with(world, version, script, **settings):
    sampler = world.sampler(script)
    stage = world.stage(sampler, max_tasks=1, **settings)
    return stage.play([world.chunk(TEXT)], version, step=1), sampler, stage


def rounds_of(played):
    """(is trained, positions) of each group of proposals that kept a reward."""
    return [
        (record.is_trained, [r.index for r in record.group.rollouts])
        for record in played.rollouts
        if record.group.role == "challenger"
    ]


@pytest.mark.parametrize(("with_signal", "rounds", "trained"), [(0, 1, 0), (1, 2, 1), (2, 3, 2), (9, 3, 2)])
def test_a_chunk_without_signal_plays_on_until_it_has_one(world, version, with_signal, rounds, trained):
    script = script_with_signal_in(world, with_signal, questions=1)
    played, sampler, stage = played_with(world, version, script, refill_rounds=2)
    assert rounds_of(played) == [(i == trained, [4 * i + j for j in range(4)]) for i in range(rounds)]
    assert len(sampler.calls) == 2 * rounds
    assert len(played.tasks) == sum('"digest"' in entry for entry in stage.archive.state()) == rounds
    assert [group.role for group in played.groups] == ["challenger", "reasoner"]
    assert played.groups[1].parent_id == played.tasks[trained].task_id
    prompts = {prompts[0].prefill + prompts[0].messages[-1].content for prompts, _, _ in sampler.calls}
    assert len(prompts) == len(sampler.calls), "each round offers another span"
    ids = [r.rollout_id for record in played.rollouts for r in record.group.rollouts]
    assert len(set(ids)) == len(ids) == 8 * rounds


def test_without_refill_rounds_nothing_is_played_again(world, version):
    played, sampler, _ = played_with(world, version, script_with_signal_in(world, 9, questions=1))
    assert len(sampler.calls) == 2
    assert rounds_of(played) == [(True, [0, 1, 2, 3])]


def test_a_refused_proposal_beside_a_valid_one_is_a_signal(world, version):
    good = script_with_signal_in(world, 9, questions=1)
    played, sampler, _ = played_with(
        world, version, lambda p, j: "" if world.is_challenger(p) and j == 3 else good(p, j), refill_rounds=2
    )
    assert len(sampler.calls) == 2
    assert {r.reward for r in played.groups[0].rollouts} == {challenger_reward([True]), -0.1}


def test_a_refill_round_without_a_valid_proposal_leaves_the_round_before(world, version):
    good, asked = script_with_signal_in(world, 9, questions=1), []

    def script(prompt, j):
        if world.is_challenger(prompt):
            asked.append(j)
            return good(prompt, j) if len(asked) <= 4 else ""
        return right_answer(prompt)

    played, sampler, _ = played_with(world, version, script, refill_rounds=2)
    assert len(sampler.calls) == 4
    assert rounds_of(played) == [(True, [0, 1, 2, 3]), (False, [4, 5, 6, 7]), (False, [8, 9, 10, 11])]
    assert len(played.groups) == 2


def test_a_chunk_without_any_valid_proposal_is_not_refilled(world, version):
    played, sampler, _ = played_with(world, version, lambda prompt, j: "", max_rounds=2, refill_rounds=8)
    assert len(sampler.calls) == 2
    assert played.groups == ()


def test_a_refill_round_refuses_the_question_of_the_round_before(world, version):
    def script(prompt, j):
        return " is the notice period?" if world.is_challenger(prompt) else " 45 days"

    sampler = world.sampler(script)
    stage = world.stage(sampler, refill_rounds=1)
    played = stage.play([world.chunk("The notice period is 45 days.")], version, step=1)
    reasons = [[r.reason for r in record.group.rollouts] for record in played.rollouts if record.group.role == "challenger"]
    assert reasons == [[""] * 4, ["duplicate"] * 4]
    assert len(played.tasks) == 1
