import json
import re
from dataclasses import replace

import pytest

from spice_enterprise.errors import DeliveryError
from spice_enterprise.selfplay.rewards import challenger_reward

ONE = "The notice period is 45 days."
TWO = "The pump delivers 320 litres."


def stage(world, script, *, digest=None, **settings):
    sampler = world.sampler(script, **({"adapter_digest": digest} if digest else {}))
    return world.stage(sampler, **settings), sampler


def tasks_in(archive):
    """How many tasks it holds; tallies of a step are entries too."""
    return sum('"digest"' in entry for entry in archive.state())


def script_of(world, questions, answers):
    """Challenger completion j is `questions[j]`, reasoner completion j is `answers[j]`."""
    return lambda prompt, j: (questions if world.is_challenger(prompt) else answers)[j]


GOOD = (" is the notice period?", " does the notice period take?", " whales are there?", "")
HALF = (" 45 days", " 45", " 30 days", "")


def test_one_chunk_gives_a_group_per_role_with_exact_rewards(world, version):
    player, sampler = stage(world, script_of(world, GOOD, HALF))
    played = player.play([world.chunk(ONE)], version, step=7)
    challenger, reasoner = played.groups
    frontier = challenger_reward([True, False])
    assert (challenger.role, reasoner.role) == ("challenger", "reasoner")
    assert [r.outcome for r in challenger.rollouts] == ["valid", "valid", "refused", "refused"]
    assert [r.reason for r in challenger.rollouts] == ["", "", "off_topic", "shape"]
    assert [r.reward for r in challenger.rollouts] == [frontier, frontier, -0.1, -0.1]
    assert [r.outcome for r in reasoner.rollouts] == ["correct", "correct", "wrong", "wrong"]
    assert [r.reward for r in reasoner.rollouts] == [1.0, 1.0, 0.0, 0.0]
    assert [n for _, n, _ in sampler.calls] == [4, 4, 4], "one group of proposals, and one of answers for each of two tasks"


def test_every_record_names_its_parent(world, version):
    player, _ = stage(world, script_of(world, GOOD, HALF))
    chunk = world.chunk(ONE)
    played = player.play([chunk], version, step=7)
    proposed = {r.rollout_id for r in played.groups[0].rollouts if r.outcome == "valid"}
    tasks = {task.task_id: task for task in played.tasks}
    assert played.groups[0].parent_id == chunk.chunk_id
    assert {task.rollout_id for task in tasks.values()} == proposed
    assert {record.group.parent_id for record in played.rollouts if record.group.role == "reasoner"} == set(tasks)
    for record in played.rollouts:
        for rollout in record.group.rollouts:
            assert (rollout.adapter_id, rollout.adapter_digest, rollout.step) == (version.adapter_id, version.digest, 7)
            assert rollout.parent_id == record.group.parent_id
            assert len(rollout.token_ids) == len(rollout.logprobs)


def test_accounting_of_many_chunks(world, version):
    player, sampler = stage(world, script_of(world, GOOD, HALF))
    chunks = [world.chunk(ONE), world.chunk(TWO, index=1), world.chunk(ONE + " Whales are asked.", index=2)]
    played = player.play(chunks, version, step=1)
    trained = [record.group for record in played.rollouts if record.is_trained]
    assert tuple(trained) == played.groups
    by_chunk = [group.parent_id for group in trained if group.role == "challenger"]
    assert len(set(by_chunk)) == len(by_chunk)
    chunk_of = {task.task_id: task.chunk_id for task in played.tasks}
    assert sorted(chunk_of[g.parent_id] for g in trained if g.role == "reasoner") == sorted(by_chunk)
    ids = [r.rollout_id for record in played.rollouts for r in record.group.rollouts]
    assert len(set(ids)) == len(ids) == sum(n * len(prompts) for prompts, n, _ in sampler.calls)


def test_the_training_rows_are_the_completions_that_gave_p(world, version):
    player, _ = stage(world, script_of(world, GOOD, HALF))
    played = player.play([world.chunk(ONE)], version, step=1)
    attempted = [record for record in played.rollouts if record.group.role == "reasoner"]
    assert len(attempted) == 2
    assert [record.is_trained for record in attempted].count(True) == 1
    assert [r.text for r in played.groups[1].rollouts] == list(HALF)


def test_equal_questions_share_a_task(world, version):
    same = (" is the notice period?", " is the  Notice period?", " is the notice period?", " is the notice period?")
    player, sampler = stage(world, script_of(world, same, HALF))
    played = player.play([world.chunk(ONE)], version, step=1)
    assert len(played.tasks) == 1
    assert len(sampler.calls[1][0]) == 1
    assert {r.reward for r in played.groups[0].rollouts} == {challenger_reward([True, False])}


def test_valid_proposals_beyond_the_cap_leave_the_group(world, version):
    four = tuple(f" {verb} the notice period?" for verb in ("is", "has", "was", "gives"))
    player, _ = stage(world, script_of(world, four, HALF), max_tasks=2)
    played = player.play([world.chunk(ONE)], version, step=1)
    assert len(played.tasks) == 2
    assert len(played.groups[0].rollouts) == 2
    [left] = [record for record in played.rollouts if record.group.role == "challenger" and not record.is_trained]
    assert [(r.outcome, r.reason, r.reward) for r in left.group.rollouts] == [("valid", "not_attempted", 0.0)] * 2


def test_a_chunk_without_a_valid_task_is_only_counted(world, version):
    player, sampler = stage(world, script_of(world, ("",) * 4, HALF), max_rounds=3)
    played = player.play([world.chunk(ONE)], version, step=1)
    assert played.groups == ()
    assert played.tasks == ()
    assert [n for _, n, _ in sampler.calls] == [4, 4, 4]
    rollouts = [r for record in played.rollouts for r in record.group.rollouts]
    assert len(rollouts) == len({r.rollout_id for r in rollouts}) == 12
    assert {(r.outcome, r.reward) for r in rollouts} == {("refused", -0.1)}
    assert not any(record.is_trained for record in played.rollouts)


def test_a_later_round_replaces_the_group_and_earlier_ones_are_kept_as_records(world, version):
    def script(prompt, j):
        if not world.is_challenger(prompt):
            return HALF[j]
        return " does the pump deliver?" if "litres" in prompt.prefill else " whale sings?"

    text = "The pump delivers 320 litres. The tank holds 50 barrels."
    played = None
    for seed in range(20):  # a seed whose first round offers the other value
        player, sampler = stage(world, script, seed=seed)
        played = player.play([world.chunk(text)], version, step=1)
        if len(sampler.calls) == 3:
            break
    assert len(sampler.calls) == 3
    first, second = (record for record in played.rollouts if record.group.role == "challenger")
    assert (first.is_trained, second.is_trained) == (False, True)
    assert first.group.prompt_token_ids != second.group.prompt_token_ids
    assert [r.index for r in first.group.rollouts] == [0, 1, 2, 3]
    assert [r.index for r in second.group.rollouts] == [4, 5, 6, 7]


def test_a_task_with_mixed_answers_is_preferred(world, version):
    def script(prompt, j):
        if world.is_challenger(prompt):
            return GOOD[j]
        is_mixed = "does the notice period take" in prompt.messages[-1].content
        return HALF[j] if is_mixed else " 45 days"

    for seed in range(10):
        player, _ = stage(world, script, seed=seed)
        played = player.play([world.chunk(ONE)], version, step=1)
        assert {r.reward for r in played.groups[1].rollouts} == {0.0, 1.0}


def test_choice_tasks_have_four_options_and_the_letter_follows(world, version):
    def script(prompt, j):
        if world.is_challenger(prompt):
            return GOOD[j]
        letter = re.search(r"([A-D])\) 45 days", prompt.messages[-1].content).group(1)
        return f" {letter}" if j < 2 else " Boron"

    player, _ = stage(world, script, formats="choice")
    played = player.play([world.chunk(ONE)], version, step=1)
    for task in played.tasks:
        assert (task.task_format, task.answer_kind, len(set(task.options))) == ("choice", "choice", 4)
        assert task.options["ABCD".index(task.answer)] == "45 days"
    assert [r.reward for r in played.groups[1].rollouts] == [1.0, 1.0, 0.0, 0.0]


def test_a_choice_task_names_the_chunks_that_its_options_came_from(world, version):
    def script(prompt, j):
        return GOOD[j] if world.is_challenger(prompt) else " A"

    asked = world.chunk("The notice period is 45 days.")
    rival, other = world.chunk("The term of the lease is 90 days.", index=1), world.chunk("Nothing is said here.", index=2)
    player, _ = stage(world, script, formats="choice", document_cap=0)
    tasks = player.play([asked, rival, other], version, step=1).tasks
    sources = {task.chunk_id: task.option_sources for task in tasks if "90 days" in task.options}
    assert sources[asked.chunk_id] == (rival.chunk_id,)


def test_choice_without_a_hint_refuses_answers_that_have_no_rivals(world, version):
    script = script_of(world, ('Brno"\nQuestion: Which town is it in?',) * 4, HALF)
    player, _ = stage(world, script, formats="choice", hint="none", max_rounds=1)
    played = player.play([world.chunk("The town which is meant: Brno.")], version, step=1)
    assert {r.reason for record in played.rollouts for r in record.group.rollouts} == {"options"}


def test_exact_repeats_are_refused_in_later_steps_only_for_the_same_chunk(world, version):
    player, _ = stage(world, script_of(world, GOOD[:1] * 4, HALF), max_rounds=1)
    assert len(player.play([world.chunk(ONE)], version, step=1).tasks) == 1
    again = player.play([world.chunk(ONE)], version, step=2)
    assert {r.reason for record in again.rollouts for r in record.group.rollouts} == {"duplicate"}
    assert len(player.play([world.chunk(ONE, index=9)], version, step=3).tasks) == 1
    assert tasks_in(player.archive) == 2


def test_outside_open_book_a_question_of_two_chunks_belongs_to_the_first(world, version):
    player, _ = stage(world, script_of(world, GOOD[:1] * 4, HALF), regimes=("closed_book",), max_rounds=1)
    first, second = world.chunk(ONE), world.chunk(ONE, index=1)
    played = player.play([first, second], version, step=1)
    assert [task.chunk_id for task in played.tasks] == [first.chunk_id, second.chunk_id]
    assert [group.parent_id for group in played.groups] == [first.chunk_id, played.tasks[0].task_id]
    repeated = [r for record in played.rollouts if record.group.parent_id == second.chunk_id for r in record.group.rollouts]
    assert {(r.outcome, r.reason, r.reward) for r in repeated} == {("valid", "repeated", 0.0)}
    assert {task.rollout_id for task in played.tasks[1:]} <= {r.rollout_id for r in repeated}
    assert len({digest for entry in player.archive.state() if (digest := json.loads(entry).get("digest"))}) == 1


def test_a_chunk_that_stands_twice_in_a_step_plays_further_rounds(world, version):
    player, sampler = stage(world, script_of(world, GOOD, HALF), max_rounds=2, refill_rounds=1)
    played = player.play([world.chunk(ONE), world.chunk(ONE)], version, step=1)
    ids = [r.rollout_id for record in played.rollouts for r in record.group.rollouts]
    assert len(set(ids)) == len(ids) == sum(n for _, n, _ in sampler.calls)
    assert len({seed for _, _, seed in sampler.calls}) == len(sampler.calls)
    places = [r.index for record in played.rollouts if record.group.role == "challenger" for r in record.group.rollouts]
    assert sorted(places) == [0, 1, 2, 3, 12, 13, 14, 15]


def test_a_restored_archive_gives_the_same_next_step(world, version):
    first, _ = stage(world, script_of(world, GOOD, HALF))
    first.play([world.chunk(ONE)], version, step=1)
    second, _ = stage(world, script_of(world, GOOD, HALF))
    second.remember(first.archive.state())
    assert second.play([world.chunk(ONE)], version, step=2) == first.play([world.chunk(ONE)], version, step=2)


def test_the_archive_moves_only_when_a_step_was_played_to_its_end(world, version):
    def script(prompt, j):
        if not world.is_challenger(prompt):
            raise RuntimeError("sampler died")
        return GOOD[j]

    player, _ = stage(world, script)
    with pytest.raises(RuntimeError):
        player.play([world.chunk(ONE)], version, step=1)
    assert player.archive.state() == ()


def test_a_step_that_is_played_again_does_not_meet_its_own_tasks(world, version):
    player, _ = stage(world, script_of(world, GOOD, HALF))
    player.play([world.chunk(TWO, index=7)], version, step=1)
    first = player.play([world.chunk(ONE)], version, step=2)
    state = player.archive.state()
    assert player.play([world.chunk(ONE)], version, step=2) == first
    assert player.archive.state() == state


def test_same_seed_same_step_and_other_seed_other_draws(world, version):
    chunks = [world.chunk(world.passage), world.chunk(TWO, index=1)]
    plays = []
    for seed in (1, 1, 2):
        player, sampler = stage(world, script_of(world, GOOD, HALF), seed=seed, formats="both")
        plays.append((player.play(chunks, version, step=1), [seed for _, _, seed in sampler.calls]))
    assert plays[0] == plays[1]
    assert plays[0][1] != plays[2][1]


def test_another_adapter_is_refused_without_a_trace_of_text(world, version):
    player, _ = stage(world, script_of(world, (" CANARY?",) * 4, HALF), digest="sha256:" + "f" * 64)
    with pytest.raises(DeliveryError) as caught:
        player.play([world.chunk(ONE + " CANARY")], version, step=1)
    assert caught.value.code == "E_DELIVERY"
    assert caught.value.record_id == version.digest
    assert "another adapter" in caught.value.message
    assert "CANARY" not in caught.value.explain()


def test_nothing_to_play_gives_nothing(world, version):
    player, sampler = stage(world, script_of(world, GOOD, HALF))
    played = player.play([], version, step=1)
    assert (played.groups, played.tasks, played.rollouts, sampler.calls) == ((), (), (), [])


def test_a_custom_verifier_grades(world, version):
    class Never:
        def grade(self, task, answer):
            return False

    player, _ = stage(world, script_of(world, GOOD, HALF), verifier=Never())
    played = player.play([world.chunk(ONE)], version, step=1)
    assert {r.reward for r in played.groups[1].rollouts} == {0.0}


WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima", "mike"]


@pytest.mark.parametrize("regime", ["self_contained", "closed_book", "open_book"])
@pytest.mark.parametrize("formats", ["free_form", "choice"])
def test_asymmetry(world, version, regime, formats):
    """Outside open book no 8-token span of the chunk, no gold and no id reaches the Reasoner."""
    chunk = world.chunk(f"The notice period is 45 days. {' '.join(f'{w} CANARY{i}' for i, w in enumerate(WORDS))}.")
    player, sampler = stage(world, script_of(world, GOOD, HALF), regimes=(regime,), formats=formats)
    played = player.play([chunk], version, step=1)
    asked = [p for prompts, _, _ in sampler.calls for p in prompts if not world.is_challenger(p)]
    assert asked
    words = chunk.text.split()
    spans = [" ".join(words[i : i + 8]) for i in range(len(words) - 7)]
    for prompt in asked:
        shown = prompt.prefill + "\n".join(message.content for message in prompt.messages)
        if regime == "open_book":
            assert shown.count(chunk.text) == 1
            continue
        assert "CANARY" not in shown
        assert not any(span in " ".join(shown.split()) for span in spans)
        assert "45 days" not in shown or formats == "choice"
        assert not any(name in shown for name in (chunk.chunk_id, played.tasks[0].task_id, "roll_"))


def test_records_of_a_step_do_not_print_text(world, version):
    player, _ = stage(world, script_of(world, (" is the CANARY notice period?",) * 4, HALF))
    played = player.play([replace(world.chunk(ONE))], version, step=1)
    assert played.tasks
    assert "CANARY" not in repr(played)
    assert "45 days" not in repr(played)


def test_proposals_are_about_the_chunks_given_and_no_others(world, version):
    given, other = world.chunk("Hartmann Service keeps the pump."), world.chunk(ONE, index=1)
    player, _ = stage(world, script_of(world, GOOD, HALF), library=[given, other], hint_values="measures")
    (turn,) = player.propose([given], version, step=1)
    assert turn.chunk == given
    played = player.play([given], version, step=1)
    assert {item.group.parent_id for item in played.rollouts if item.group.role == "challenger"} == {
        world.chunk(ONE, index=1).chunk_id
    }
