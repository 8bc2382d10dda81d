"""The probe of the standing adapter: its questions, its numbers, its refusals."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from spice_enterprise.config import ExamConfig, SelfplayConfig
from spice_enterprise.errors import ConfigError, DeliveryError
from spice_enterprise.probes import (
    DEV_QUESTIONS,
    GENERAL_ITEMS,
    GeneralItem,
    StandingProbe,
    development_exam,
    read_general_items,
)
from spice_enterprise.protocols import Corpus, Played, PlayedRollout
from spice_enterprise.records import AdapterVersion, Chunk, Exam, Prompt, Rollout, RolloutGroup, ScrubbedText, Task
from spice_enterprise.release.exam import FactExaminer
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.testing import FakeTrainer, ScriptedSampler

PLACES = ("Arbor", "Bexley", "Calder", "Dunmore", "Elstow", "Farley")
PLAY = SelfplayConfig(contract="short", challenger_tokens=96, reasoner_tokens=32, reasoner_group=4, measure_every=5)


def chunk(document: int, text: str, index: int = 0, split: Any = "unseen") -> Chunk:
    return Chunk(
        document_id=f"doc_{document}", index=index, text=ScrubbedText(text), redactions=(), split=split,
        pii_policy_digest="sha256:p", token_count=50,
    )  # fmt: skip


def text_of(i: int, shift: int = 0) -> str:
    return (
        f"The depot of {PLACES[i]} stores at most {110 + 7 * i + shift} tonnes of grain. "
        f"The tenant of {PLACES[i]} pays a yearly rent of ${2 + i},{310 + i + shift} to the owner. "
        f"The lease of {PLACES[i]} was signed on {i + 1} March 200{i}. "
        f"Either side may leave {PLACES[i]} with {20 + i + shift} days of written notice."
    )


UNSEEN = tuple(chunk(i, text_of(i, 300 * index), index) for i in range(6) for index in range(2))
TRAIN = chunk(9, "The fee is 45 euros per month.", split="train")
CORPUS = Corpus(
    documents=(), chunks=(*UNSEEN, TRAIN), rejections=(), removed=(), residual_findings=0, pii_policy_digest="sha256:p",
    ner_model="none", isolation="none", digest="sha256:corpus",
)  # fmt: skip
EXAM = FactExaminer(ExamConfig(questions_per_document=2), seed=0).set_exam(CORPUS)
VERSION = FakeTrainer().start()


@cache
def dev() -> Exam:
    made = development_exam(CORPUS, EXAM, seed=0)
    assert made is not None
    return made


# --- the questions ----------------------------------------------------------------------------------------------------


def test_the_development_questions_are_not_the_exams() -> None:
    asked = {(item.chunk_id, item.answer) for item in EXAM.items}
    found = dev()
    assert 6 <= len(found.items) <= DEV_QUESTIONS
    assert not asked & {(item.chunk_id, item.answer) for item in found.items}
    assert not {item.question for item in EXAM.items} & {item.question for item in found.items}
    assert {item.item_format for item in found.items} == {"cloze", "choice"}
    assert TRAIN.chunk_id not in {item.chunk_id for item in found.items}


def test_they_are_fixed_by_the_seed_and_take_documents_in_turn() -> None:
    assert dev() == dev()
    assert [i.item_id for i in dev().items] != [i.item_id for i in (development_exam(CORPUS, EXAM, seed=1) or EXAM).items]
    assert len({item.document_id for item in dev().items[:6]}) == 6


def test_without_a_question_left_there_is_no_development_exam() -> None:
    every = FactExaminer(ExamConfig(questions_per_document=100), seed=0).set_exam(CORPUS)
    rest = development_exam(CORPUS, every, seed=0)
    assert rest is None or not {i.question for i in every.items} & {i.question for i in rest.items}
    assert development_exam(replace(CORPUS, chunks=(TRAIN,)), EXAM, seed=0) is None


# --- the numbers ------------------------------------------------------------------------------------------------------


def reader(prompt: Prompt, random: Random) -> str:
    """Answer development questions with the passage only, and tasks with 45."""
    shown = prompt.messages[-1].content
    if prompt.template_id.startswith("exam/"):
        return next((item.answer for item in dev().items if item.question in shown and item.passage in shown), "no")
    return " 45 euros"


def task(question: str = "How much is the fee per month?", answer: str = "45 euros", **changes: Any) -> Task:
    values: dict[str, Any] = {
        "chunk_id": TRAIN.chunk_id, "rollout_id": "roll_1", "question": question, "answer": answer, "answer_kind": "number",
        "task_format": "free_form", "regime": "self_contained",
    }  # fmt: skip
    return Task(**values | changes)


def answers(of: Task, marks: str, version: AdapterVersion = VERSION) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            role="reasoner", parent_id=of.task_id, adapter_id=version.adapter_id, adapter_digest=version.digest,
            template_id="t", step=1, index=i, token_ids=(1,), logprobs=(-1.0,), text="x", stop_reason="stop",
            outcome="correct" if mark == "+" else "wrong", reason="", reward=float(mark == "+"),
        )
        for i, mark in enumerate(marks)
    )  # fmt: skip
    return RolloutGroup(role="reasoner", parent_id=of.task_id, prompt_token_ids=(1,), rollouts=rollouts)


def played(*pairs: tuple[Task, RolloutGroup]) -> Played:
    groups = tuple(group for _, group in pairs)
    rollouts = tuple(PlayedRollout(group=group, is_trained=True) for group in groups)
    return Played(groups=groups, tasks=tuple(of for of, _ in pairs), rollouts=rollouts)


def probe(**changes: Any) -> StandingProbe:
    sampler, base = ScriptedSampler(reader), ScriptedSampler(reader, is_base=True)
    sampler.publish(VERSION)
    values: dict[str, Any] = {
        "sampler": sampler, "base_sampler": base, "verifier": KindVerifier(), "play": PLAY, "last_step": 20, "seed": 0,
        "dev": dev(), "chunks": {TRAIN.chunk_id: TRAIN},
    }  # fmt: skip
    return StandingProbe(**values | changes)


def test_when_it_is_due() -> None:
    assert [step for step in range(1, 21) if probe().is_due(step)] == [1, 6, 11, 16]
    assert not any(probe(last_step=4).is_due(step) for step in range(1, 5)), "a run of less than one interval"
    assert not any(probe(play=PLAY.model_copy(update={"measure_every": 0})).is_due(step) for step in range(1, 21))


def test_every_number_of_a_measurement() -> None:
    good, wrong = task(), task("What else is the fee?", "46 euros")
    found = probe().measure(VERSION, played((good, answers(good, "++--")), (wrong, answers(wrong, "+---"))), step=1)
    assert found["heldout"] == found["probe/dev_open_book"] == 1.0
    assert found["heldout_se"] == 0.0
    assert found["probe/dev_closed_book"] == 0.0
    assert found["probe/pass_at_1"] == found["probe/pass_at_8"] == found["probe/pass_at_32"] == 1.0
    assert found["probe/gold_audit"] == 0.5, "the base gives one of the two reference answers"
    assert found["probe/reward_minus_dev"] == pytest.approx((0.5 + 0.25) / 2 - 1.0)
    assert found["probe/regrade_shift"] in (0.5, -0.25), "one of the two tasks is answered anew, with 45 every time"
    assert "probe/general" not in found


def test_pass_at_k_is_the_chance_of_a_right_answer_among_k() -> None:
    def lucky(prompt: Prompt, random: Random) -> str:
        return reader(prompt, random) if prompt.temperature == 0.0 or random.random() < 0.3 else "no"

    sampler = ScriptedSampler(lucky)
    sampler.publish(VERSION)
    found = probe(sampler=sampler).measure(VERSION, played(), step=1)
    assert found["heldout"] == 1.0
    assert 0.2 < (once := found["probe/pass_at_1"]) < 0.4
    assert found["probe/pass_at_8"] == pytest.approx(1.0 - (1.0 - once) ** 8, abs=0.05)
    assert found["probe/pass_at_32"] > 0.99


def test_the_standard_error_is_that_of_a_share() -> None:
    half = {item.question for item in dev().items[::2]}

    def sometimes(prompt: Prompt, random: Random) -> str:
        return reader(prompt, random) if any(question in prompt.messages[-1].content for question in half) else "no"

    sampler = ScriptedSampler(sometimes)
    sampler.publish(VERSION)
    found, n = probe(sampler=sampler).measure(VERSION, played(), step=1), len(dev().items)
    p = found["heldout"]
    assert p == pytest.approx(0.5, abs=1 / n)
    assert found["heldout_se"] == pytest.approx((p * (1 - p) / n) ** 0.5)


def test_a_measurement_repeats_itself() -> None:
    one = task()
    play = played((one, answers(one, "+---")))
    assert probe().measure(VERSION, play, step=6) == probe().measure(VERSION, play, step=6)


def test_only_answers_of_this_version_without_passages_are_compared_with_new_ones() -> None:
    other = FakeTrainer()._version(VERSION, None)
    old, opened = task(), task(regime="open_book")
    assert "probe/regrade_shift" not in probe().measure(VERSION, played((old, answers(old, "++--", other))), step=1)
    assert "probe/regrade_shift" not in probe().measure(VERSION, played((opened, answers(opened, "++--"))), step=1)


def test_another_version_is_not_measured() -> None:
    unpublished = ScriptedSampler(reader)
    with pytest.raises(DeliveryError):
        probe(sampler=unpublished).measure(VERSION, played(), step=1)


def test_nothing_to_ask_gives_no_number() -> None:
    assert probe(dev=None).measure(VERSION, played(), step=1) == {}


def test_general_items_are_scored_by_their_likeliest_choice() -> None:
    class Scorer(ScriptedSampler):
        def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
            return [[-1.0 if option == " yes" else -2.0 for option in options] for options in continuations]

    sampler = Scorer(reader)
    sampler.publish(VERSION)
    items = [GeneralItem(question=f"{i}?", choices=("yes", "no"), answer="yes" if i < 3 else "no") for i in range(4)]
    assert probe(sampler=sampler, general=items).measure(VERSION, played(), step=1)["probe/general"] == 0.75


# --- the file of general-ability items --------------------------------------------------------------------------------


def item(**changes: Any) -> str:
    return json.dumps({"id": "x", "question": "Q?", "choices": ["a", "b"], "answer_index": 1} | changes)


def test_general_items_are_read_up_to_their_number(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join([item()] * (GENERAL_ITEMS + 5)), "utf-8")
    items = read_general_items(path)
    assert len(items) == GENERAL_ITEMS
    assert items[0] == GeneralItem(question="Q?", choices=("a", "b"), answer="b")


def test_all_problems_of_a_file_are_told_at_once_and_none_of_its_words(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    secret = "Zebra"
    bad = [
        "{" + secret, "[1]", item(question=""), item(choices=[secret]), item(choices="ab"), item(answer_index=2),
        item(answer_index=True), item(choices=[secret, 3]),
    ]  # fmt: skip
    path.write_text("\n".join([item(), *bad]), "utf-8")
    with pytest.raises(ConfigError) as caught:
        read_general_items(path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [f"line {i}" for i in range(2, 10)]
    assert secret not in caught.value.explain() + "".join(caught.value.problems)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_file_that_holds_nothing_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "items.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="general_items"):
        read_general_items(path)
