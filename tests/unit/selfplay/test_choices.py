"""Options as they were written: in which order they are played, and what makes them two."""

import json

import pytest

from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.contracts import CHOICE_FIELDS
from spice_enterprise.selfplay.golden import read_golden

OPTIONS = ("45 days", "30 days", "60 days", "90 days")


@pytest.mark.parametrize("letter", "ABCD")
def test_what_the_model_wrote_as_options_is_played_as_written_where_all_is_played(world, version, letter):
    tasks = options_played(world, version, letter, admission="parsable")
    assert {(task.options, task.answer) for task in tasks} == {(OPTIONS, letter)}


def test_where_proposals_are_checked_the_order_is_ours_and_the_letter_follows(world, version):
    tasks = [task for seed in range(24) for task in options_played(world, version, "B", admission="checked", seed=seed)]
    assert len(tasks) == 24
    assert {task.options["ABCD".index(task.answer)] for task in tasks} == {"30 days"}
    assert {task.answer for task in tasks} == set("ABCD")
    assert all(sorted(task.options) == sorted(OPTIONS) for task in tasks)


def options_played(world, version, letter, **settings):
    listed = "".join(f"\n{name}) {option}" for name, option in zip("ABCD", OPTIONS, strict=True))
    asked = "The notice period of the pump is as the notice says. How many days are a part of the notice period of it?"
    said = dict.fromkeys(CHOICE_FIELDS, "said") | {
        "answer_quote": ["The notice period is 45 days."],
        "multiple_choice_question": asked + listed,
        "multiple_choice_correct": letter,
    }
    sampler = world.sampler(lambda prompt, j: json.dumps(said) if world.is_challenger(prompt) else r"\boxed{A}")
    stage = world.stage(sampler, contract="full", hint="none", formats="choice", max_rounds=1, **settings)
    return stage.play([world.chunk("The notice period is 45 days. The pump delivers 320 litres.")], version, step=1).tasks


def test_a_golden_file_may_have_options_that_differ_by_a_sign(tmp_path):
    row = {"id": "r1", "question": "Which?", "answer": "B", "kind": "choice", "given": "C#", "expected": True}
    (tmp_path / "g.jsonl").write_text(json.dumps({**row, "options": ["C", "C#", "C++"]}) + "\n")
    [found] = read_golden(tmp_path / "g.jsonl")
    assert KindVerifier().grade(found.task, found.given)
