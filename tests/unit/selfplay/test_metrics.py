"""Every metric of a step, on one small play whose numbers are worked out by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import VERIFIER_FAILURES, Effort, Played, PlayedRollout
from spice_enterprise.records import Admission, Rollout, RolloutGroup, Task
from spice_enterprise.selfplay.metrics import step_metrics
from spice_enterprise.selfplay.task_list import MAX_CHARS, task_lines

CONFIG = SelfplayConfig(open_book_samples=4, open_book_agree=3)
DOCUMENTS = {"chunk_a": "doc_1", "chunk_b": "doc_1"}


def rollout(parent: str, index: int, **changes: Any) -> Rollout:
    values: dict[str, Any] = {
        "role": "challenger", "parent_id": parent, "adapter_id": "adapter_0", "adapter_digest": "d", "template_id": "t.v1",
        "step": 1, "index": index, "token_ids": (1, 2), "logprobs": (-0.5, -0.5), "text": f"text {parent} {index}",
        "stop_reason": "stop", "outcome": "valid", "reason": "", "reward": 1.0,
    }  # fmt: skip
    return Rollout(**values | changes)


def answers(task: Task, marks: str, **changes: Any) -> RolloutGroup:
    """One reasoner group: `+` is right, `-` wrong."""
    rows = tuple(
        rollout(
            task.task_id,
            i,
            role="reasoner",
            outcome="correct" if mark == "+" else "wrong",
            reward=float(mark == "+"),
            **changes,
        )
        for i, mark in enumerate(marks)
    )
    return RolloutGroup(role="reasoner", parent_id=task.task_id, prompt_token_ids=(1,), rollouts=rows)


def proposals(parent: str, *rows: Rollout) -> RolloutGroup:
    return RolloutGroup(role="challenger", parent_id=parent, prompt_token_ids=(1,), rollouts=rows)


def task_of(source: Rollout, **changes: Any) -> Task:
    values: dict[str, Any] = {
        "chunk_id": source.parent_id, "rollout_id": source.rollout_id, "question": "What is red?", "answer": "45",
        "answer_kind": "number", "task_format": "free_form", "regime": "self_contained",
    }  # fmt: skip
    return Task(**values | changes)


def verdict(source: Rollout, task_id: str = "", **changes: Any) -> Admission:
    values: dict[str, Any] = {
        "rollout_id": source.rollout_id, "chunk_id": source.parent_id, "task_id": task_id,
        "code": "" if source.outcome == "valid" else source.reason,
        "task_format": "free_form", "answer_kind": "number", "question": "What is red?", "answer": "45",
    }  # fmt: skip
    return Admission(**values | changes)


GOOD = rollout("chunk_a", 0, reward=0.9)
SAME = rollout("chunk_a", 1, reward=0.9)
GIVEN = rollout("chunk_a", 2, outcome="refused", reason="giveaway", reward=-0.1)
TORN = rollout("chunk_a", 3, outcome="unparsable", reason="unparsable", reward=-0.1, stop_reason="length", token_ids=(1,) * 6)
FORMAT = rollout("chunk_b", 9, outcome="valid", reason="format_choice", reward=0.0, token_ids=(1,) * 100)
CHOICE = rollout("chunk_b", 0, reward=0.5)
LATE = rollout("chunk_b", 1, reason="not_attempted", reward=0.0)
UNFIT = rollout("chunk_b", 2, outcome="refused", reason="base_open_book", reward=-0.1)

FIRST = task_of(GOOD)
SECOND = task_of(
    CHOICE, task_format="choice", answer_kind="choice", answer="B", options=("1", "2", "3", "4"), question="Which is blue?"
)
OLD = task_of(GOOD, question="What was it before?", chunk_id="chunk_z", rollout_id="roll_old")


def play() -> Played:
    groups = (
        (proposals("chunk_a", GOOD, SAME, GIVEN, TORN), True),
        (answers(FIRST, "+++-"), True),
        (proposals("chunk_b", FORMAT), False),
        (proposals("chunk_b", LATE), False),
        (proposals("chunk_b", CHOICE, UNFIT), True),
        (answers(SECOND, "----"), False),
        (answers(OLD, "+-", token_ids=(1, 2, 3, 4)), True),
    )
    return Played(
        groups=tuple(group for group, is_trained in groups if is_trained),
        tasks=(FIRST, SECOND),
        rollouts=tuple(PlayedRollout(group=group, is_trained=is_trained) for group, is_trained in groups),
        admissions=(
            verdict(GOOD, FIRST.task_id, open_book=1.0, similarity=0.2),
            verdict(SAME, FIRST.task_id, open_book=1.0, similarity=0.2),
            verdict(GIVEN),
            verdict(CHOICE, SECOND.task_id, task_format="choice", open_book=0.75, closed_book=0.25,
                    similarity=0.95, is_near_copy=True),
            verdict(LATE, task_format="choice", open_book=0.75, similarity=0.1),
            verdict(UNFIT, task_format="choice", open_book=0.5),
        ),
        replayed=(OLD,),
    )  # fmt: skip


def measured(played: Played | None = None, effort: Effort | None = None) -> dict[str, float]:
    return step_metrics(played or play(), config=CONFIG, effort=effort, documents=DOCUMENTS)


EXPECTED = {
    # 7 proposals (the choice of a format is none): 4 valid, each kind of refusal once
    "tasks": 2, "valid_rate": 4 / 7, "refused/giveaway": 1 / 7, "refused/unparsable": 1 / 7, "refused/base_open_book": 1 / 7,
    "attempts_per_task": 3.5, "valid_rate/free_form": 2 / 3, "valid_rate/choice": 2 / 3, "refilled_share": 0,
    # open book asked five times: 1, 1, 0.75, 0.75, 0.5
    "open_book_rate": 0.8, "open_book_pass": 4 / 5, "closed_book_rate": 0.25,
    # first task: 1 - its blind pass rate 3/4, twice; second: 0.75 - 0.25 as asked; the others have no closed side
    "grounded_difficulty": (0.25 + 0.25 + 0.5) / 3,
    "pass_rate": 4 / 10, "pass_rate/fresh": 0.375, "pass_rate/replay": 0.5, "pass_rate/free_form": 0.75,
    "pass_rate/choice": 0.0, "pass_rate/kind_number": 0.75, "pass_rate/kind_choice": 0.0, "replayed_tasks": 1,
    "p_zero": 0.5, "p_one": 0.0, "p_frontier": 0.5, "p_decile/1": 0.5, "p_decile/8": 0.5, "p_decile/10": 0.0,
    "zero_advantage_share": 0.0, "zero_advantage_share/challenger": 0.0, "zero_advantage_share/reasoner": 0.0,
    # the one without room for it is not counted as a reward
    "reward/challenger": (0.9 + 0.9 - 0.1 - 0.1 + 0.5 - 0.1) / 6, "reward/reasoner": 0.4,
    "length_tokens/challenger": (6 * 2 + 6) / 7, "length_tokens/reasoner": (8 * 2 + 2 * 4) / 10,
    "truncated/challenger": 1 / 7, "truncated/reasoner": 0.0, "format_failures": 0.0,
    "choice_share": 0.5, "kind_share/number": 0.5, "kind_share/choice": 0.5, "top_answer_share": 1.0,
    "letter_share/A": 0.0, "letter_share/B": 1.0, "letter_chi_square": 3.0,
    "distinct_chunks": 2, "distinct_documents": 1,
    "similarity_max": 0.95, "similarity_mean": (0.2 + 0.2 + 0.95 + 0.1) / 4, "near_copy_share": 0.25,
    # what, is, red, which, is, blue
    "question_entropy_bits": 4 / 6 * math.log2(6) + 2 / 6 * math.log2(3),
    "sampled_tokens": 6 * 2 + 6 + 100 + 8 * 2 + 2 * 4, "tokens_per_task": 142 / 2,
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_each_number(name: str) -> None:
    assert measured()[name] == pytest.approx(EXPECTED[name])


def test_nothing_but_finite_numbers_and_no_more_names_than_these() -> None:
    found = measured()
    more = {f"p_decile/{i}" for i in range(1, 11)} | {"letter_share/C", "letter_share/D", "self_bleu", "cluster_entropy_bits"}
    assert set(found) - set(EXPECTED) == (more | {"zlib_ratio/challenger", "zlib_ratio/reasoner"}) - set(EXPECTED)
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_a_mean_of_nothing_is_left_out() -> None:
    empty = Played(groups=(), tasks=(), rollouts=())
    assert measured(empty) == {
        "tasks": 0.0, "replayed_tasks": 0.0, "refilled_share": 0.0, "distinct_chunks": 0.0, "distinct_documents": 0.0,
        "sampled_tokens": 0.0,
    }  # fmt: skip


def test_effort_by_phase() -> None:
    effort = Effort(seconds=(("challenger", 2.0), ("grading", 0.5)), tokens=(("admission", 60), ("challenger", 40)))
    found = measured(effort=effort)
    assert (found["seconds/challenger"], found["seconds/grading"], found["tokens/admission"]) == (2.0, 0.5, 60.0)
    assert found["tokens_per_task"] == 50.0


@pytest.mark.parametrize("code", VERIFIER_FAILURES)
def test_grades_that_the_verifier_did_not_give(code: str) -> None:
    failed = answers(FIRST, "--", reason=code)
    silent = answers(FIRST, "--", reason="no_answer")
    rollouts = tuple(PlayedRollout(group=group, is_trained=False) for group in (failed, silent))
    found = measured(Played(groups=(), tasks=(FIRST,), rollouts=rollouts))
    assert (found[f"grading/{code}"], found["format_failures"]) == (0.5, 0.5)


def test_codes_that_are_no_codes_and_chunks_of_nobody() -> None:
    odd = rollout("chunk_x", 0, outcome="refused", reason="Some words of a document", reward=-0.1)
    other = Played(groups=(), tasks=(task_of(odd),), rollouts=(PlayedRollout(group=proposals("chunk_x", odd), is_trained=True),))
    found = measured(other)
    assert found["refused/other"] == 1.0
    assert "distinct_documents" not in found


def test_examples_of_a_warm_up_are_only_counted() -> None:
    examples = replace(proposals("chunk_a", GOOD, SAME), objective="supervised")
    found = measured(Played(groups=(examples,), tasks=(), rollouts=(PlayedRollout(group=examples, is_trained=True),)))
    assert found["warmup_examples"] == 2.0
    assert "valid_rate" not in found
    assert "reward/challenger" not in found
    assert (
        task_lines(Played(groups=(), tasks=(), rollouts=(PlayedRollout(group=examples, is_trained=True),)), step=1, documents={})
        == []
    )


# --- the same play as lines for people --------------------------------------------------------------------------------


def test_one_line_per_question_in_the_order_they_were_proposed() -> None:
    lines = task_lines(play(), step=7, documents=DOCUMENTS)
    assert [(line.source, line.verdict) for line in lines] == [
        ("fresh", "admitted"),
        ("fresh", "giveaway"),
        ("fresh", "unparsable"),
        ("fresh", "not_attempted"),
        ("fresh", "admitted"),
        ("fresh", "base_open_book"),
        ("replay", "admitted"),
    ]
    assert {line.step for line in lines} == {7}


def test_a_task_is_told_with_all_that_became_of_it() -> None:
    first, *_, second, _, old = task_lines(play(), step=1, documents=DOCUMENTS)
    assert (first.task_id, first.chunk_id, first.document_id) == (FIRST.task_id, "chunk_a", "doc_1")
    assert (first.question, first.answer, first.options) == ("What is red?", "45", ())
    assert (first.pass_rate, first.reward, first.open_book, first.similarity, first.is_trained) == (0.75, 0.9, 1.0, 0.2, True)
    assert (second.answer, second.options, second.closed_book, second.is_trained) == ("B", ("1", "2", "3", "4"), 0.25, False)
    assert (old.source, old.pass_rate, old.reward, old.document_id, old.is_trained) == ("replay", 0.5, None, "", True)


def test_what_was_refused_is_told_with_its_question() -> None:
    _, given, torn, late, *_ = task_lines(play(), step=1, documents=DOCUMENTS)
    assert (given.question, given.answer, given.reward, given.pass_rate) == ("What is red?", "45", -0.1, None)
    assert (torn.question, torn.answer) == (TORN.text, "")
    assert (late.reward, late.task_id) == (None, "")


def test_a_long_unreadable_proposal_is_cut() -> None:
    long = replace(TORN, text="x" * 5000)
    played = Played(groups=(), tasks=(), rollouts=(PlayedRollout(group=proposals("chunk_a", long), is_trained=False),))
    (line,) = task_lines(played, step=1, documents={})
    assert len(line.question) == MAX_CHARS
