import inspect

import pytest

from spice_enterprise.selfplay import reasoner
from spice_enterprise.selfplay.regimes import Shelf


def test_no_signature_has_a_chunk():
    for function in (reasoner.ask, reasoner.ask_open_book):
        assert "chunk" not in str(inspect.signature(function)).casefold()
    assert list(inspect.signature(reasoner.ask).parameters) == ["task", "config"]


def test_the_prompt_has_the_question_the_options_and_exactly_the_passages(world):
    task = world.task("B", "choice", options=("30 days", "45 days", "60 days", "90 days"), question="How long is it?")
    shelf = Shelf(chunks=(world.chunk("PASSAGE one"), world.chunk("PASSAGE two", index=1)))
    asked = reasoner.ask_open_book(task, shelf, world.config())
    last = asked.messages[-1].content
    assert last.count("PASSAGE") == 2
    assert last.endswith("Question: How long is it?\nA) 30 days\nB) 45 days\nC) 60 days\nD) 90 days")
    assert asked.template_id.startswith("reasoner.choice.open_book.")
    assert reasoner.ask(task, world.config()).template_id.startswith("reasoner.choice.no_book.")


@pytest.mark.parametrize("regime", ["self_contained", "closed_book"])
def test_a_shelf_is_refused_in_other_regimes(world, regime):
    task = world.task("45 days", regime=regime)
    with pytest.raises(ValueError, match=regime):
        reasoner.ask_open_book(task, Shelf(chunks=(world.chunk("PASSAGE"),)), world.config())


def test_the_gold_answer_is_not_in_the_prompt(world):
    asked = reasoner.ask(world.task("GOLD-77", question="How long is it?"), world.config())
    assert "GOLD-77" not in str([message.content for message in asked.messages]) + asked.prefill
