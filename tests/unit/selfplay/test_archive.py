import pytest

from spice_enterprise.errors import IntegrityError
from spice_enterprise.protocols import Played, PlayedRollout
from spice_enterprise.records import Rollout, RolloutGroup, Task
from spice_enterprise.selfplay import archive as archives
from spice_enterprise.selfplay.archive import Archive, entries_of
from spice_enterprise.selfplay.embedding import HashedEmbedder

QUESTION = "What is the notice period?"
MIXED, RIGHT = (True, False, False, False), (True, True, True, True)


def asked(question=QUESTION, *, chunk_id="chunk_1", regime="self_contained", answer="45 days"):
    return Task(
        chunk_id=chunk_id,
        rollout_id="roll_1",
        question=question,
        answer=answer,
        answer_kind="number",
        task_format="free_form",
        regime=regime,
    )


def filled(*tasks, step=1, correct=()):
    archive = Archive()
    for task in tasks:
        archive.add(task, step=step, document_id="doc_1", correct=correct)
    return archive


def held(archive, chunk_id="chunk_1", question=QUESTION, regime="self_contained"):
    return archive.holds(chunk_id=chunk_id, question=question, regime=regime)


def group(role, parent_id, outcomes, *, reason=""):
    rollouts = tuple(
        Rollout(
            role=role, parent_id=parent_id, adapter_id="a", adapter_digest="d", template_id="t", step=1, index=i,
            token_ids=(), logprobs=(), text="", stop_reason="stop", outcome=outcome, reason=reason, reward=0.0,
        )
        for i, outcome in enumerate(outcomes)
    )  # fmt: skip
    return PlayedRollout(
        group=RolloutGroup(role=role, parent_id=parent_id, prompt_token_ids=(), rollouts=rollouts), is_trained=False
    )


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_open_book_questions_belong_to_their_chunk():
    archive = filled(asked(regime="open_book"))
    assert held(archive, regime="open_book")
    assert not held(archive, "chunk_2", regime="open_book")


def test_elsewhere_a_question_stands_alone():
    for regime in ("self_contained", "closed_book"):
        assert held(filled(asked(regime=regime)), "chunk_2", "what is NOTICE period", regime)


def test_a_step_sees_the_tasks_of_earlier_steps_only():
    archive = Archive()
    for step in (1, 2, 3):
        archive.add(asked(f"What is {step}?"), step=step, document_id="doc_1")
    archive.add(asked("What is 1?"), step=3, document_id="doc_1")
    earlier = Archive(archive.state()).before(3)
    assert [held(earlier, question=f"What is {step}?") for step in (1, 2, 3)] == [True, True, False]
    assert archive.tasks_of("doc_1", since_step=2) == 2, "one that is there already keeps the step that had it first"
    assert len(archive.state()) == 4, "a copy was taken"


def test_a_copy_may_be_added_to():
    archive = filled(asked("What is it?"))
    copy = archive.before(2)
    copy.add(asked(), step=2, document_id="doc_1", correct=MIXED)
    copy.note(2, valid=0, proposals=8, chunk_ids=["chunk_1"])
    assert held(copy)
    assert not held(archive)
    assert archive.similarity(QUESTION) < 0.9 < copy.similarity(QUESTION)
    assert (archive.frontier(), archive.covered("chunk_1"), len(archive.state())) == ((), 1, 1)


# --- similarity -------------------------------------------------------------------------------------------------------


def test_the_nearest_question_counts():
    archive = filled(asked(), asked("Who operates the pump?", chunk_id="chunk_2"))
    assert archive.similarity(QUESTION.upper()) == pytest.approx(1.0)
    assert 0.7 < archive.similarity("And what is the notice period?") < 1.0
    assert archive.similarity("How heavy is a whale?") < 0.3
    assert Archive().similarity(QUESTION) == 0.0


def test_a_question_that_belongs_to_its_chunk_is_compared_there():
    archive = filled(asked(regime="open_book"))
    assert archive.similarity(QUESTION, chunk_id="chunk_1") == pytest.approx(1.0)
    assert archive.similarity(QUESTION, chunk_id="chunk_2") == 0.0


def test_cosines_are_the_same_number_however_the_rows_came_in():
    archive = Archive()
    for i in range(700):  # more than two shelves of the newest
        archive.add(asked(f"What is the notice period of pump {i}?"), step=i, document_id="doc_1")
        if i in (255, 256, 257, 513):
            copy = archive.before(i)
    again = Archive(archive.state())
    for probe in (QUESTION, "Who pays the fee of pump 300?", "What is the notice period of pump 699?"):
        assert archive.similarity(probe) == again.similarity(probe)
    assert archive.similarity("What is the notice period of pump 3?") == pytest.approx(1.0)
    assert copy.similarity("What is the notice period of pump 699?") < 1.0


class LongVectors:
    """An embedder whose vectors are longer than float32 sums exactly, all of one sign."""

    def embed(self, texts):
        return [tuple(1.0 if (i + len(text)) % 3 else 0.5 for i in range(4096)) for text in texts]


def test_long_vectors_are_summed_exactly_too():
    archive = Archive(embedder=LongVectors())
    archive.add(asked("aa"), step=1, document_id="doc_1")
    assert archive.similarity("bb") == pytest.approx(1.0, abs=1e-12)
    assert archive.similarity("bbb") == pytest.approx(8 / 9, abs=0.01)


def test_a_vector_of_nothing_is_near_nothing():
    class Nothing:
        def embed(self, texts):
            return [(0.0, 0.0) for _ in texts]

    archive = Archive(embedder=Nothing())
    archive.add(asked(), step=1, document_id="doc_1")
    assert archive.similarity(QUESTION) == 0.0


# --- what was learned -------------------------------------------------------------------------------------------------


def test_learnability_is_the_mean_over_recent_results():
    archive = filled(asked("What is a?"), correct=MIXED)
    archive.add(asked("What is b?"), step=1, document_id="doc_1", correct=RIGHT)
    archive.add(asked("What is c?"), step=1, document_id="doc_1")
    assert archive.learnability("chunk_1") == pytest.approx((0.25 * 0.75 + 0.0) / 2)
    assert archive.learnability("chunk_2") is None
    for i in range(archives.RECENT_TASKS):
        archive.add(asked(f"What is {i}?"), step=2, document_id="doc_1", correct=(True, False))
    assert archive.learnability("chunk_1") == 0.25


def test_only_tasks_with_right_and_wrong_answers_are_worth_replaying():
    archive = filled(asked("What is a?"), correct=MIXED)
    archive.add(asked("What is b?"), step=1, document_id="doc_1", correct=RIGHT)
    assert [task.question for task in archive.frontier()] == ["What is a?"]
    archive.add(asked("What is a?"), step=2, document_id="doc_1", correct=RIGHT)
    assert archive.frontier() == (), "the newest answers count"
    assert Archive(archive.state()).frontier() == ()


def test_the_newest_tasks_stay_whole_and_the_others_lose_their_text(monkeypatch):
    monkeypatch.setattr(archives, "WHOLE_TASKS", 2)
    archive = Archive()
    for word in ("alpha", "beta", "gamma"):
        archive.add(asked(f"What is {word}?"), step=1, document_id="doc_1", correct=MIXED)
    assert [task.question for task in archive.frontier()] == ["What is beta?", "What is gamma?"]
    assert "alpha" not in "".join(archive.state())
    assert "gamma" in "".join(archive.state())
    again = Archive(archive.state())
    assert again.frontier() == archive.frontier()
    assert held(again, question="What is alpha?")


def test_printing_shows_no_text():
    archive = filled(asked("What is alpha?"), correct=MIXED)
    assert "alpha" not in repr(archive) + repr(archive.__dict__)


# --- penalty of invalid proposals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("valid", "missing", "expected"),
    [
        ([1] * 10, None, 0.0),
        ([1] * 9 + [2], None, -0.1),
        ([2] + [1] * 9, None, -0.1),
        ([1] * 10, 4, -0.1),
    ],
)
def test_the_penalty_goes_when_hardly_anything_was_valid_for_ten_steps(valid, missing, expected):
    archive = Archive()
    for step, count in enumerate(valid, start=1):
        if step != missing:
            archive.note(step, valid=count, proposals=10)
    assert archive.invalid_reward(11, -0.1) == expected
    assert archive.invalid_reward(12, -0.1) == -0.1, "a step is missing"
    assert Archive(archive.state()).invalid_reward(11, -0.1) == expected


def test_steps_without_proposals_do_not_count_as_low():
    archive = Archive()
    for step in range(1, 11):
        archive.note(step, valid=0, proposals=0)
    assert archive.invalid_reward(11, -0.1) == -0.1


# --- entries ----------------------------------------------------------------------------------------------------------


def test_entries_of_a_play_give_the_archive_that_was_there():
    mixed, right, old = asked("What is a?"), asked("What is b?", chunk_id="chunk_2"), asked("What is old?")
    played = Played(
        groups=(),
        tasks=(mixed, right),
        replayed=(old,),
        rollouts=(
            group("challenger", "chunk_1", ["valid"], reason=archives.FORMAT_CHOICE),
            group("challenger", "chunk_1", ["valid", "refused", "unparsable"]),
            group("challenger", "chunk_3", ["refused"]),
            group("reasoner", mixed.task_id, ["correct", "wrong"]),
            group("reasoner", right.task_id, ["correct", "correct"]),
            group("reasoner", old.task_id, ["wrong", "wrong"]),
        ),
    )
    archive = filled(old, correct=MIXED)
    documents = {"chunk_1": "doc_1", "chunk_2": "doc_2"}
    archive.take(entries_of(played, step=5, documents=documents, embedder=HashedEmbedder()))
    assert [task.question for task in archive.frontier()] == ["What is a?"]
    assert (archive.tasks_of("doc_1", since_step=0), archive.tasks_of("doc_2", since_step=5)) == (2, 1)
    assert archive.tasks_of("doc_1", since_step=6) == 0
    assert [archive.covered(f"chunk_{i}") for i in (1, 2, 3, 4)] == [2, 1, 1, 0]
    assert archive._tallies[5].valid == 1
    assert archive._tallies[5].proposals == 4
    assert Archive(archive.state()).state() == archive.state()


def test_a_chunk_without_a_known_document_stands_for_itself():
    played = Played(groups=(), tasks=(asked(),), rollouts=())
    archive = Archive(entries_of(played, step=1, documents={}, embedder=HashedEmbedder()))
    assert archive.tasks_of("chunk_1", since_step=0) == 1


@pytest.mark.parametrize("entry", ["", "{", "[]", "7", '{"step":1}', "sha256:abc 3"])
def test_what_is_no_entry_is_refused_without_showing_it(entry):
    with pytest.raises(IntegrityError) as caught:
        Archive([entry])
    assert caught.value.code == "E_RECORD"
    assert "abc" not in caught.value.explain()


def test_a_vector_that_is_none_is_refused():
    (entry,) = filled(asked()).state()
    with pytest.raises(IntegrityError):
        Archive([entry.replace('"vector":"', '"vector":"?')])
