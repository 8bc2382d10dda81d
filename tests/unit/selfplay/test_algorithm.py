"""The algorithm of SPICE on scripts: pools, subsamples, the frozen base's votes, formats, frozen challengers, replays."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from spice_enterprise.protocols import Grade
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.contracts import CHOICE_FIELDS
from spice_enterprise.selfplay.rewards import challenger_reward
from spice_enterprise.selfplay.rounds import kept_counts

ONE = "The notice period is 45 days. The pump delivers 320 litres."
QUESTION = " is the notice period?"


def by_role(world, proposal, answer):
    """Texts by role; each is a text or a function of (prompt, j)."""

    def script(prompt, j):
        chosen = proposal if world.is_challenger(prompt) else answer
        return chosen(prompt, j) if callable(chosen) else chosen

    return script


def proposals_of(played):
    return [r for item in played.rollouts if item.group.role == "challenger" for r in item.group.rollouts]


@pytest.mark.parametrize(
    ("valid", "invalid", "kept"),
    [
        (12, 4, (6, 2)), (1, 15, (1, 7)), (15, 1, (7, 1)), (16, 0, (8, 0)), (3, 1021, (1, 7)), (5, 11, (2, 6)), (7, 9, (4, 4)),
        (9, 7, (4, 4)), (0, 16, (0, 8)), (3, 2, (3, 2)),
    ],
)  # fmt: skip
def test_the_group_keeps_the_ratio_of_valid_and_invalid(valid, invalid, kept):
    assert kept_counts(valid, invalid, group=8) == kept


def test_attempts_of_one_prompt_are_a_pool_until_one_is_valid(world, version):
    asked = []

    def propose(prompt, j):
        asked.append(j)
        good = '45 days"\nQuestion: How long is the notice period?'
        return good if len(asked) == 11 else "nothing"

    sampler = world.sampler(by_role(world, propose, lambda p, j: " 45 days" if j < 2 else " 9"))
    player = world.stage(sampler, hint="none", max_rounds=5)
    played = player.play([world.chunk(ONE)], version, step=1)
    assert len(asked) == 12, "three rounds of four: the third has the first valid one"
    group, answers = played.groups
    assert Counter(r.outcome for r in group.rollouts) == {"valid": 1, "unparsable": 3}
    assert [r.index for r in group.rollouts] == sorted(r.index for r in group.rollouts)
    assert 10 in [r.index for r in group.rollouts]
    left = [r for item in played.rollouts if item.group.role == "challenger" and not item.is_trained for r in item.group.rollouts]
    assert (len(left), {(r.outcome, r.reward) for r in left}) == (8, {("unparsable", -0.1)})
    assert len({r.rollout_id for r in proposals_of(played)}) == 12
    assert len(answers.rollouts) == 4


def test_attempts_end_at_the_cap(world, version):
    sampler = world.sampler(by_role(world, "nothing", ""))
    played = world.stage(sampler, hint="none", max_rounds=6).play([world.chunk(ONE)], version, step=1)
    assert len(proposals_of(played)) == 24
    assert played.groups == played.tasks == ()


def test_valid_ones_left_out_of_the_subsample_earn_nothing_and_are_not_attempted(world, version):
    words = ["is", "was", "has", "gives", "takes", "needs", "wants", "means"]
    seen = []

    def propose(prompt, j):
        seen.append(j)
        if len(seen) <= 4:
            return "nothing"
        return f'45 days"\nQuestion: How long {words[j]} the notice period?'

    sampler = world.sampler(by_role(world, propose, " 45 days"))
    played = world.stage(sampler, hint="none", max_rounds=5).play([world.chunk(ONE)], version, step=1)
    counted = Counter((r.outcome, r.reason) for r in proposals_of(played))
    assert counted == {("unparsable", "unparsable"): 4, ("valid", ""): 2, ("valid", "not_kept"): 2}
    assert len(played.groups[0].rollouts) == 4
    assert len(played.tasks) == 2


def base_of(world, answer):
    return world.sampler(lambda prompt, j: answer(prompt, j), adapter_digest="base")


@pytest.mark.parametrize(("right", "is_admitted"), [(4, True), (3, True), (2, False), (0, False)])
def test_the_frozen_base_must_agree_three_times_of_four(world, version, right, is_admitted):
    sampler = world.sampler(by_role(world, QUESTION, " 45 days"))
    base = base_of(world, lambda prompt, j: " 45 days" if j < right else " 320")
    player = world.stage(sampler, base=base, open_book_samples=4, open_book_agree=3, max_rounds=1)
    played = player.play([world.chunk("The notice period is 45 days.")], version, step=1)
    assert bool(played.tasks) == is_admitted
    assert {a.open_book for a in played.admissions} == {right / 4}
    assert {a.code for a in played.admissions} == ({""} if is_admitted else {"base_open_book"})
    shown = base.calls[0][0][0].messages[-1].content
    assert "The notice period is 45 days." in shown
    if not is_admitted:
        assert {r.reward for r in proposals_of(played)} == {-0.1}, "a refused proposal gets rho, whatever the Reasoner knows"
        assert len(sampler.calls) == 1, "and costs no answer"


def test_a_question_that_needs_no_document_can_be_refused(world, version):
    sampler = world.sampler(by_role(world, QUESTION, " 45 days"))
    base = base_of(world, lambda prompt, j: " 45 days")
    player = world.stage(sampler, base=base, open_book_samples=4, closed_book_samples=2, max_rounds=1)
    played = player.play([world.chunk(ONE.split(". ")[0] + ".")], version, step=1)
    assert {(a.code, a.open_book, a.closed_book) for a in played.admissions} == {("base_closed_book", 1.0, 1.0)}
    prompts = [prompt for prompts, _, _ in base.calls for prompt in prompts]
    assert [("notice period is" in prompt.messages[-1].content) for prompt in prompts] == [True, False]


def test_the_bases_votes_do_not_depend_on_step_or_version(world, version):
    sampler = world.sampler(by_role(world, QUESTION, " 45 days"))
    base = base_of(world, lambda prompt, j: " 45 days")
    player = world.stage(sampler, base=base, open_book_samples=4, max_rounds=1)
    for step in (1, 7):
        player.remember(())
        player.play([world.chunk("The notice period is 45 days.")], version, step=step)
    first, second = base.calls
    assert first == second


def test_a_question_with_two_plausible_answers_is_stopped_by_the_base_and_not_by_the_reward(world, version):
    """Half of the Reasoner's answers are right, so the reward is at its best; the base, with the passage, is as split."""
    text = "The period is 45 days. The period is 90 days."
    half = lambda prompt, j: " 45 days" if j % 2 else " 90 days"  # noqa: E731
    sampler = world.sampler(by_role(world, " is the period?", half))
    unchecked = world.stage(sampler, admission="parsable", max_rounds=1).play([world.chunk(text)], version, step=1)
    assert challenger_reward([True, False]) in {r.reward for r in proposals_of(unchecked)}
    checked = world.stage(sampler, base=base_of(world, half), open_book_samples=4, max_rounds=1)
    played = checked.play([world.chunk(text)], version, step=1)
    assert {(r.reason, r.reward) for r in proposals_of(played)} == {("base_open_book", -0.1)}


def test_the_model_may_choose_the_format_and_its_choice_is_never_trained_on(world, version):
    def script(prompt, j):
        if ".format" in prompt.template_id:
            return json.dumps(
                {"suitable_for_mcq": True, "suitable_for_free_form": False, "best_answer_type": None, "reason": "figures"}
            )
        return QUESTION if world.is_challenger(prompt) else " A"

    sampler = world.sampler(script)
    played = world.stage(sampler, formats="model", max_rounds=1).play([world.chunk(ONE)], version, step=1)
    assert {task.task_format for task in played.tasks} == {"choice"}
    [choice] = [item for item in played.rollouts if item.group.rollouts[0].reason == "format_choice"]
    assert (choice.is_trained, len(choice.group.rollouts), choice.group.rollouts[0].outcome) == (False, 1, "valid")


def test_a_run_of_choices_alone_plays_no_free_form(world, version):
    """A chunk whose values have no wrong ones is asked all the same; its proposals are refused for want of options."""
    sampler = world.sampler(by_role(world, " the workshop is in?", " A"))
    player = world.stage(sampler, formats="choice", max_rounds=2)
    played = player.play([world.chunk("The workshop is in Brno now.")], version, step=1)
    assert {(r.reason, r.reward) for r in proposals_of(played)} == {("options", -0.1)}
    assert played.tasks == played.groups == ()


def test_an_unreadable_choice_of_a_format_is_drawn(world, version):
    def script(prompt, j):
        if ".format" in prompt.template_id:
            return "?"
        return QUESTION if world.is_challenger(prompt) else ""

    formats = set()
    for seed in range(12):
        player = world.stage(world.sampler(script), formats="model", seed=seed, max_rounds=1)
        played = player.play([world.chunk(ONE)], version, step=1)
        formats |= {task.task_format for task in played.tasks}
        [choice] = [r for r in proposals_of(played) if r.reason == "format_choice"]
        assert choice.outcome == "unparsable"
    assert formats == {"choice", "free_form"}


def test_a_frozen_challenger_proposes_and_only_the_reasoner_learns(world, version):
    player_sampler = world.sampler(lambda prompt, j: " 45 days" if j % 2 else " 9")
    base = base_of(world, lambda prompt, j: QUESTION)
    player = world.stage(player_sampler, base=base, challenger="frozen", max_rounds=1)
    played = player.play([world.chunk("The notice period is 45 days.")], version, step=1)
    assert [group.role for group in played.groups] == ["reasoner"]
    assert {r.adapter_digest for r in proposals_of(played)} == {"base"}
    assert {r.adapter_id for r in proposals_of(played)} == {"base"}
    assert not any(world.is_challenger(prompt) for prompts, _, _ in player_sampler.calls for prompt in prompts)


def test_a_task_with_both_answers_comes_back_and_is_graded_anew(world, version):
    rate = {"right": 2}
    sampler = world.sampler(by_role(world, QUESTION, lambda prompt, j: " 45 days" if j < rate["right"] else " 9"))
    texts = ["The notice period is 45 days.", *(f"The tank holds {i} litres." for i in range(1, 4))]
    chunks = [world.chunk(text, index=i) for i, text in enumerate(texts)]
    player = world.stage(sampler, replay_share=0.5, max_rounds=1, library=tuple(chunks))
    first = player.play(chunks, version, step=1)
    assert first.replayed == ()
    rate["right"] = 3
    for step in range(2, 9):
        played = player.play(chunks, version, step=step)
        if played.replayed:
            break
    assert set(played.replayed) <= set(first.tasks)
    groups = {item.group.parent_id: item for item in played.rollouts if item.group.role == "reasoner"}
    for task in played.replayed:
        item = groups[task.task_id]
        assert [r.outcome for r in item.group.rollouts].count("correct") == 3
        assert item.is_trained
    chunks_played = {g.group.parent_id for g in played.rollouts if g.group.role == "challenger"}
    assert len(chunks_played) + len(played.replayed) <= len(chunks)


def test_a_near_copy_of_an_older_question_pays(world, version):
    asked = iter([" is the notice period of the lease?"] * 4 + [" is the notice period of this lease?"] * 4)
    sampler = world.sampler(by_role(world, lambda p, j: next(asked), lambda p, j: " 45 days" if j % 2 else " 9"))
    player = world.stage(sampler, max_rounds=1, near_copy=0.6, duplicate_penalty=0.25)
    chunk = world.chunk("The notice period of the lease is 45 days.")
    first = player.play([chunk], version, step=1)
    second = player.play([chunk], version, step=2)
    assert {r.reward for r in proposals_of(first)} == {1.0}
    assert {r.reward for r in proposals_of(second)} == {0.75}
    assert {a.is_near_copy for a in second.admissions} == {True}
    assert min(a.similarity for a in second.admissions) >= 0.6


def test_the_best_rewarded_task_can_train_the_reasoner(world, version):
    def answer(prompt, j):
        return " 45 days" if j < (2 if "takes" in prompt.messages[-1].content else 1) else " 9"

    words = ("is", "takes", "was", "has")
    sampler = world.sampler(by_role(world, lambda p, j: f" {words[j]} the notice period?", answer))
    for seed in range(6):
        player = world.stage(sampler, reasoner_task="best_reward", max_rounds=1, seed=seed)
        played = player.play([world.chunk("The notice period is 45 days.")], version, step=1)
        assert [r.outcome for r in played.groups[1].rollouts].count("correct") == 2


def test_open_book_shows_the_passage_among_others_and_other_regimes_show_none(world, version):
    texts = [f"MARK{i} The tank holds {i}0 litres." for i in range(5)] + ["MARK9 The notice period is 45 days."]
    library = tuple(replace(world.chunk(text, index=i), document_id=f"doc_{i}") for i, text in enumerate(texts))
    for regime in ("open_book", "closed_book", "self_contained"):
        sampler = world.sampler(by_role(world, QUESTION, " 45 days"))
        player = world.stage(sampler, regimes=(regime,), distractor_passages=2, library=library, max_rounds=1)
        player.play([library[1], library[5]], version, step=1)
        shown = [p.messages[-1].content for prompts, _, _ in sampler.calls for p in prompts if not world.is_challenger(p)]
        assert shown
        assert {text.count("MARK") for text in shown} == ({3} if regime == "open_book" else {0})


def test_effort_is_split_by_phase(world, version):
    sampler = world.sampler(by_role(world, QUESTION, " 45 days"))
    base = base_of(world, lambda prompt, j: " 45 days")
    player = world.stage(sampler, base=base, open_book_samples=4, max_rounds=1)
    assert player.effort is None
    player.play([world.chunk("The notice period is 45 days.")], version, step=1)
    tokens, seconds = dict(player.effort.tokens), dict(player.effort.seconds)
    assert tokens == {"challenger": 16, "admission": 8, "reasoner": 8}
    assert set(seconds) == {"challenger", "admission", "reasoner", "grading"}
    assert min(seconds.values()) >= 0.0


def test_a_verifier_is_asked_with_the_task_as_it_is_played(world, version):
    kinds = set()

    class Noting(KindVerifier):
        def grade(self, task, answer):
            kinds.add((task.answer_kind, task.regime))
            return super().grade(task, answer)

    sampler = world.sampler(by_role(world, QUESTION, " 45 days"))
    world.stage(sampler, verifier=Noting(), regimes=("closed_book",)).play([world.chunk(ONE)], version, step=1)
    assert kinds == {("number", "closed_book")}


def test_what_is_parsable_is_played_again_in_later_steps_and_other_chunks(world, version):
    """In the paper a repeated question pays like a new one."""
    sampler = world.sampler(by_role(world, QUESTION, lambda p, j: " 45 days" if j % 2 else " 9"))
    player = world.stage(sampler, admission="parsable", max_rounds=1, regimes=("closed_book",), duplicate_penalty=0.0)
    chunks = [world.chunk("The notice period is 45 days."), world.chunk("The notice period is 45 days.", index=1)]
    for step in (1, 2):
        played = player.play(chunks, version, step=step)
        assert len(played.groups) == 4
        assert {r.reward for r in proposals_of(played)} == {1.0}


@pytest.mark.parametrize(("relax", "reward"), [(True, 0.0), (False, -0.1)])
def test_what_an_invalid_proposal_earns_after_ten_bad_steps(world, version, relax, reward):
    player = world.stage(world.sampler(by_role(world, "nothing", "")), hint="none", max_rounds=1, relax_invalid=relax)
    earned = []
    for step in range(1, 13):
        played = player.play([world.chunk(ONE)], version, step=step)
        earned.append({r.reward for r in proposals_of(played)})
    assert earned[:10] == [{-0.1}] * 10
    assert earned[10:] == [{reward}] * 2


def test_one_stem_with_two_sets_of_options_is_two_tasks(world, version):
    def propose(prompt, j):
        options = ("45 days", "30 days", "60 days", "90 days") if j < 2 else ("45 days", "10 days", "20 days", "80 days")
        asked = "How long is the notice period? " + " ".join(f"{letter}) {o}" for letter, o in zip("ABCD", options, strict=True))
        fields = dict.fromkeys(CHOICE_FIELDS, "x") | {
            "answer_quote": ["The notice period is 45 days."],
            "multiple_choice_question": asked,
            "multiple_choice_correct": "A",
            "correct_answer": "45 days",
        }
        return json.dumps(fields)

    sampler = world.sampler(by_role(world, propose, r"\boxed{A}"))
    player = world.stage(sampler, contract="full", hint="none", formats="choice", admission="parsable", max_rounds=1)
    played = player.play([world.chunk(ONE)], version, step=1)
    assert sorted(task.options for task in played.tasks) == sorted(
        [("45 days", "30 days", "60 days", "90 days"), ("45 days", "10 days", "20 days", "80 days")]
    ), "as written: all that can be read is played as it stands"


def test_a_verifier_that_fails_on_votes_is_not_taken_for_a_bad_question(world, version):
    class Failing:
        def grade_all(self, task, answers):
            return tuple(Grade(is_correct=False, code="verifier_raised") for _ in answers)

    sampler = world.sampler(by_role(world, QUESTION, " 45 days"))
    player = world.stage(sampler, base=base_of(world, lambda p, j: " 45 days"), open_book_samples=4, max_rounds=1)
    player._grader = Failing()
    played = player.play([world.chunk("The notice period is 45 days.")], version, step=1)
    assert {a.code for a in played.admissions} == {"ungraded"}


def test_answers_that_differ_in_a_sign_are_two_tasks(world, version):
    def propose(prompt, j):
        return f'{">5" if j % 2 else "<5"} units"\nQuestion: How many units are allowed?'

    sampler = world.sampler(by_role(world, propose, "x"))
    player = world.stage(sampler, hint="none", admission="parsable", max_rounds=1)
    played = player.play([world.chunk("Allowed are >5 units, not <5 units.")], version, step=1)
    assert sorted(task.answer for task in played.tasks) == ["<5 units", ">5 units"]
