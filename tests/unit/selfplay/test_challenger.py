import pytest

from spice_enterprise.records import Completion
from spice_enterprise.selfplay.challenger import plan_chunk, read_proposal


def planned(world, text=None, *, pool=(), round_number=0, seed=1, step=1, **settings):
    chunk = world.chunk(text or world.passage)
    return plan_chunk(chunk, pool, world.config(**settings), seed=seed, step=step, round_number=round_number)


def said(text):
    return Completion(prompt_token_ids=(), token_ids=(1,), logprobs=(-1.0,), text=text, stop_reason="stop", adapter_digest="x")


def test_a_round_offers_one_value_and_the_next_round_another(world):
    offered = [planned(world, round_number=n).hint.value for n in range(5)]
    assert len(set(offered)) == 5
    assert planned(world, round_number=5).hint.value == offered[0]


def test_measures_and_dates_are_offered_before_names(world):
    kinds = [planned(world, round_number=n).hint.kind for n in range(5)]
    assert kinds[:3].count("text") == 0
    assert set(kinds[3:]) == {"text"}


def test_the_plan_depends_on_seed_and_step_only(world):
    assert planned(world) == planned(world)
    assert len({planned(world, step=step).hint.value for step in range(20)}) > 1
    assert len({planned(world, seed=seed).hint.value for seed in range(20)}) > 1


def test_the_prompt_begins_the_question_and_names_the_answer(world):
    plan = planned(world, "The notice period is 45 days.")
    assert plan.prompt.template_id == "challenger.span.v1"
    assert plan.prompt.prefill == "Question: How many days"
    assert "Answer: 45 days" in plan.prompt.messages[-1].content


def test_a_chunk_without_values_is_asked_the_open_way(world):
    plan = planned(world, "nothing that could be offered stands here")
    assert plan.hint is None
    assert plan.prompt.template_id == "challenger.pair.v1"


def test_hint_none_asks_for_both(world):
    assert planned(world, hint="none").prompt.template_id == "challenger.pair.v1"


def test_both_formats_are_played_about_equally(world):
    formats = [planned(world, formats="both", step=step).task_format for step in range(200)]
    assert 70 <= formats.count("choice") <= 130


def test_a_value_without_wrong_options_is_asked_in_free_form(world):
    assert planned(world, "The workshop is in Brno now.", formats="choice").task_format == "free_form"
    assert planned(world, "The notice period is 45 days.", formats="choice").task_format == "choice"


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (" is the notice period?", "How many days is the notice period?"),
        (" is the notice period?\n", "How many days is the notice period?"),
        (" is the  notice period? Answer: 3\nmore", "How many days is the notice period?"),
        (" is", "How many days is"),
        ("", "How many days"),
    ],
)
def test_the_question_is_what_the_prompt_began_and_the_model_ended(world, text, question):
    proposal = read_proposal(planned(world, "The notice period is 45 days."), said(text))
    assert (proposal.question, proposal.answer, proposal.answer_kind) == (question, "45 days", "number")


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (" How long?\nAnswer: 45 days", "How long?", "45 days"),
        (" How long? Answer: 45 days.", "How long?", "45 days"),
        ("Question: How long?\nAnswer: 45 days\nQuestion: More?", "How long?", "45 days"),
        (" How long?", "", ""),
        ("", "", ""),
        ("Answer:", "", ""),
    ],
)
def test_a_pair_needs_both_parts(world, text, question, answer):
    proposal = read_proposal(planned(world, hint="none"), said(text))
    assert (proposal.question, proposal.answer) == (question, answer)


def test_proposals_do_not_print_their_text(world):
    plan = planned(world, "The notice period is 45 days.")
    assert "45" not in repr(read_proposal(plan, said(" CANARY?")))
    assert "CANARY" not in repr(read_proposal(plan, said(" CANARY?")))
