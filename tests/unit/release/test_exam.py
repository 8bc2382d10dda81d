"""The exam is frozen, balanced, made of unseen text only, and never empty."""

from dataclasses import replace

import pytest

from spice_enterprise.config import ExamConfig
from spice_enterprise.errors import ReleaseError
from spice_enterprise.protocols import Corpus
from spice_enterprise.records import Chunk, Exam, ScrubbedText
from spice_enterprise.release.exam import (
    FactExaminer,
    continuations,
    exam_prompt,
    missing_words,
    overlapping_ids,
    overlapping_items,
)

PLACES = ("Arbor", "Bexley", "Calder", "Dunmore", "Elstow", "Farley")


def _chunk(document: int, text: str, index: int = 0, split: str = "unseen") -> Chunk:
    return Chunk(
        document_id=f"doc_{document}",
        index=index,
        text=ScrubbedText(text),
        redactions=(),
        split=split,  # type: ignore[arg-type]  # one of the two literals
        pii_policy_digest="sha256:p",
        token_count=50,
    )


def _text(i: int) -> str:
    return (
        f"The depot of {PLACES[i]} stores at most {110 + 7 * i} tonnes of grain. "
        f"The tenant of {PLACES[i]} pays a yearly rent of ${2 + i},{310 + i} to the owner. "
        f"The lease of {PLACES[i]} was signed on {i + 1} March 200{i}. "
        f"Either side may leave {PLACES[i]} with {20 + i} days of written notice."
    )


def _corpus(chunks: tuple[Chunk, ...]) -> Corpus:
    return Corpus(
        documents=(),
        chunks=chunks,
        rejections=(),
        removed=(),
        residual_findings=0,
        pii_policy_digest="sha256:p",
        ner_model="none",
        isolation="none",
        digest="sha256:corpus",
    )


CHUNKS = tuple(_chunk(i, _text(i)) for i in range(6))


def _exam(seed: int = 0, chunks: tuple[Chunk, ...] = CHUNKS, **settings: int) -> Exam:
    return FactExaminer(ExamConfig(**settings), seed).set_exam(_corpus(chunks))


def test_the_same_corpus_and_seed_give_the_same_digest() -> None:
    assert _exam().digest == _exam().digest
    assert _exam(chunks=CHUNKS[::-1]).digest == _exam().digest
    assert _exam(seed=1).digest != _exam().digest
    assert _exam(answer_tokens=17).settings_digest != _exam().settings_digest


def test_one_changed_character_moves_the_digest() -> None:
    changed = (*CHUNKS[:-1], replace(CHUNKS[-1], text=ScrubbedText(CHUNKS[-1].text.replace("grain", "grains"))))
    assert _exam(chunks=changed).digest != _exam().digest


def test_questions_are_balanced_and_capped() -> None:
    exam = _exam(questions_per_document=2)
    assert [sum(item.document_id == f"doc_{i}" for item in exam.items) for i in range(6)] == [2] * 6
    capped = _exam(questions_per_document=4, max_questions=9)
    counts = [sum(item.document_id == f"doc_{i}" for item in capped.items) for i in range(6)]
    assert sum(counts) == 9
    assert max(counts) - min(counts) == 1


def test_both_formats_occur_and_every_item_can_be_answered_from_its_passage() -> None:
    exam = _exam()
    assert {item.item_format for item in exam.items} == {"cloze", "choice"}
    for item in exam.items:
        assert item.claim == "transfer"
        assert item.question.replace("____", item.answer) in item.passage
        assert item.answer not in item.question


def test_choices_have_four_options_of_one_kind() -> None:
    for item in _exam().items:
        if item.item_format == "choice":
            assert len(set(item.options)) == 4
            assert item.options.count(item.answer) == 1
            assert len({option.startswith("$") for option in item.options}) == 1


def test_some_wrong_options_stand_in_the_passage_the_rest_in_other_documents() -> None:
    near = " The first fee is $77, the second fee is $88 and the third fee is $99 for every tenant."
    exam = _exam(chunks=tuple(_chunk(i, _text(i) + near.replace("7", f"7{i}").replace("8", f"8{i}")) for i in range(6)))
    counts = [
        sum(option != item.answer and option in item.passage for option in item.options)
        for item in exam.items
        if item.item_format == "choice" and item.answer.startswith("$")
    ]
    assert counts
    assert set(counts) == {2}


def test_the_place_of_the_answer_carries_no_information() -> None:
    places = {item.options.index(item.answer) for item in _exam().items if item.item_format == "choice"}
    assert len(places) > 1


def test_training_chunks_give_neither_questions_nor_distractors() -> None:
    train = tuple(_chunk(10 + i, _text(i).replace("20", "19"), split="train") for i in range(6))
    assert _exam(chunks=(*CHUNKS, *train)).items == _exam().items


def test_repeated_boilerplate_is_asked_once() -> None:
    copies = tuple(_chunk(i, _text(0)) for i in range(4))
    questions = [item.question for item in _exam(chunks=copies).items]
    assert len(questions) == len(set(questions)) > 0


def test_an_empty_exam_is_refused_without_quoting_text() -> None:
    with pytest.raises(ReleaseError, match=r"no question can be made from 1 unseen document\(s\)") as caught:
        _exam(chunks=(_chunk(0, "Nothing measurable stands here, CANARY-0123456789abcdef."),))
    assert caught.value.code == "E_EXAM_EMPTY"
    assert "CANARY" not in caught.value.explain()
    with pytest.raises(ReleaseError):
        _exam(chunks=())


def test_the_prompt_is_greedy_and_shows_the_passage_only_when_asked() -> None:
    item = _exam().items[0]
    shown = exam_prompt(item, with_passage=True, answer_tokens=16)
    bare = exam_prompt(item, with_passage=False, answer_tokens=16)
    assert shown.temperature == bare.temperature == 0.0
    assert shown.max_new_tokens == 16
    assert item.passage in shown.messages[-1].content
    assert item.passage not in "".join(message.content for message in bare.messages)
    assert shown.template_id != bare.template_id


def test_the_prompt_asks_for_the_answer_alone_and_holds_none() -> None:
    for item in _exam().items:
        prompt = exam_prompt(item, with_passage=False, answer_tokens=16)
        assert prompt.prefill == "Answer:"
        assert f"Sentence: {item.question}" in prompt.messages[-1].content
        assert item.answer not in prompt.messages[-1].content


def test_options_continue_the_prefill() -> None:
    for item in _exam().items:
        assert continuations(item) == [f" {option}" for option in item.options]


@pytest.mark.parametrize(
    ("question", "completion", "answer"),
    [
        ("He may leave with ____ days of notice.", " 45 days of notice. Else", "45"),
        ("He may leave with ____ days of notice.", " 45 days from then", "45"),
        ("He may leave with ____ days of notice.", " 45", "45"),
        ("The rent is ____, and it rises.", " $1,250.50, and it rises", "$1,250.50"),
        ("The rent is ____, and it rises.", " $1,250.50, but", "$1,250.50"),
        ("It ends on ____, as agreed.", " March 31, 1999, or so", "March 31, 1999"),
        ("The rate is ____% of it.", " 7.5% of it.", "7.5"),
        ("The rate is ____% of it.", " 7.5%", "7.5"),
        ("It starts on ____.", " 3 May 2027. Then it ends.", "3 May 2027"),
        ("It starts on ____.", " 3 May 2027", "3 May 2027"),
        ("Total due: ____", " 1,200\nDate: none", "1,200"),
        ("The fee of ____ a year is due.", " an apple a year is", "an apple"),
        ("The fee of ____ is due.", "\n\n $5 is due", "$5"),
        ("The fee of ____ is due.", " is due", ""),
        ("The fee of ____ is due.", "", ""),
    ],
)
def test_missing_words(question: str, completion: str, answer: str) -> None:
    assert missing_words(question, completion) == answer


def test_items_that_training_wrote_are_found() -> None:
    exam = _exam()
    item = exam.items[0]
    statement = item.question.replace("____", item.answer)
    assert overlapping_ids(exam, [f"so, {statement.upper()} indeed"]) == {item.item_id}
    assert overlapping_items(exam, [statement, statement]) == 1


def test_twelve_words_in_common_are_allowed_thirteen_are_not() -> None:
    text = "The northern grain depot near the old harbour wall stores at most 117 tonnes of barley each single winter."
    exam = _exam(chunks=(_chunk(0, text),))
    words = text.split()
    assert overlapping_items(exam, [" ".join(words[:12])]) == 0
    assert overlapping_items(exam, [" ".join(words[3:16])]) == 1
    assert overlapping_items(exam, []) == 0
    assert overlapping_items(exam, ["", " . "]) == 0


def test_recall_questions_are_about_trained_documents_and_stand_apart() -> None:
    trained = tuple(_chunk(10 + i, _text(i).replace("20", "19"), split="train") for i in range(6))
    plain, both = _exam(chunks=(*CHUNKS, *trained)), _exam(chunks=(*CHUNKS, *trained), recall_questions=5)
    recall = [item for item in both.items if item.claim == "recall"]
    assert both.items[: len(plain.items)] == plain.items
    assert {item.claim for item in plain.items} == {"transfer"}
    assert len(recall) == 5
    assert {item.chunk_id for item in recall} <= {chunk.chunk_id for chunk in trained}
