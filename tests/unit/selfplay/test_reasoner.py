import inspect

import pytest

from spice_enterprise.records import Completion, ScrubbedText
from spice_enterprise.selfplay import reasoner
from spice_enterprise.selfplay.answers import KindVerifier


def said(text):
    return Completion(prompt_token_ids=(), token_ids=(1,), logprobs=(-1.0,), text=text, stop_reason="stop", adapter_digest="x")


def test_no_signature_has_a_chunk():
    for function in (reasoner.ask, reasoner.grade_all):
        assert "chunk" not in str(inspect.signature(function)).casefold()
    assert inspect.signature(reasoner.ask).parameters["passages"].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_prompt_has_the_question_the_options_and_exactly_the_passages(world):
    task = world.task("B", "choice", options=("30 days", "45 days", "60 days", "90 days"), question="How long is it?")
    asked = reasoner.ask(task, world.config(), passages=(ScrubbedText("PASSAGE one"), ScrubbedText("PASSAGE two")))
    last = asked.messages[-1].content
    assert last.count("PASSAGE") == 2
    assert last.endswith("Question: How long is it?\nA) 30 days\nB) 45 days\nC) 60 days\nD) 90 days")
    assert asked.template_id == "reasoner.choice.open_book.v1"
    assert reasoner.ask(task, world.config()).template_id == "reasoner.choice.no_book.v1"


def test_the_gold_answer_is_not_in_the_prompt(world):
    asked = reasoner.ask(world.task("GOLD-77", question="How long is it?"), world.config())
    assert "GOLD-77" not in str([message.content for message in asked.messages]) + asked.prefill


@pytest.mark.parametrize(("text", "right"), [(" 45 days", True), (" 45 days.\nBecause", True), (" 30 days", False), ("", False)])
def test_grading_reads_the_answer_out_of_the_text(world, text, right):
    assert reasoner.grade_all(world.task("45 days", "number"), [said(text)], KindVerifier()) == (right,)
