from types import SimpleNamespace

import pytest

from spice_enterprise.records import Chunk, ScrubbedText, Task
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.chunk_sampler import choose, replays, task_room


def chunk(document, index=0):
    return Chunk(
        document_id=f"doc_{document}", index=index, text=ScrubbedText(f"{document} {index}"), redactions=(), split="train",
        pii_policy_digest="sha256:0", token_count=2,
    )  # fmt: skip


LIBRARY = [chunk(document, index) for document in range(6) for index in range(2)]


def played(archive, of, *, step, correct=(True, False), n=1):
    for i in range(n):
        task = Task(
            chunk_id=of.chunk_id, rollout_id="", question=f"What is {of.document_id} {of.index} {step} {i}?", answer="a",
            answer_kind="text", task_format="free_form", regime="self_contained",
        )  # fmt: skip
        archive.add(task, step=step, document_id=of.document_id, correct=correct)


@pytest.fixture
def scene(world):
    def chosen(given, archive, *, library=LIBRARY, step=60, seed=1, is_askable=lambda _: True, **settings):
        return choose(given, library, archive, world.config(**settings), seed=seed, step=step, is_askable=is_askable)

    return SimpleNamespace(chosen=chosen, config=world.config, archive=Archive())


# --- caps -------------------------------------------------------------------------------------------------------------


def test_the_uniform_selection_stands_while_no_document_is_full(scene):
    given = LIBRARY[::2][:4]
    played(scene.archive, given[0], step=59, n=2)
    assert scene.chosen(given, scene.archive) == given


@pytest.mark.parametrize("sampler", ["uniform", "learnability", "coverage"])
def test_a_chunk_that_cannot_be_asked_about_gives_way_to_one_that_can(scene, sampler):
    good = {one.chunk_id for one in LIBRARY[1::2]}
    for seed in range(5):
        chosen = scene.chosen(
            LIBRARY[:4], scene.archive, seed=seed, chunk_sampler=sampler, is_askable=lambda one: one.chunk_id in good
        )
        assert {one.chunk_id for one in chosen} <= good
        assert len({one.chunk_id for one in chosen}) == 4


def test_where_no_chunk_can_be_asked_about_all_are_played(scene):
    assert scene.chosen([LIBRARY[0], LIBRARY[4]], scene.archive, is_askable=lambda _: False) == [LIBRARY[0], LIBRARY[4]]


def test_no_more_chunks_are_looked_at_than_are_needed(scene):
    looked = []
    scene.chosen(LIBRARY[:1], scene.archive, document_cap=0, is_askable=lambda one: bool(looked.append(one)) or True)
    assert len(looked) == 1


def test_a_full_document_gives_way_to_one_below_its_cap(scene):
    given = [LIBRARY[0], LIBRARY[4]]
    played(scene.archive, LIBRARY[1], step=59, n=3)
    first, second = scene.chosen(given, scene.archive)
    assert first.document_id not in ("doc_0", "doc_2")
    assert second == LIBRARY[4]


def test_only_the_last_steps_count(scene):
    played(scene.archive, LIBRARY[0], step=9, n=3)
    assert scene.chosen([LIBRARY[0]], scene.archive, step=59) != [LIBRARY[0]]
    assert scene.chosen([LIBRARY[0]], scene.archive, step=60) == [LIBRARY[0]]


def test_one_document_is_not_taken_twice_in_a_step_while_others_can_be(scene):
    first, second = scene.chosen(LIBRARY[:2], scene.archive)
    assert first == LIBRARY[0]
    assert second.document_id != "doc_0"


def test_the_cap_gives_way_where_every_document_is_full(scene):
    for one in LIBRARY:
        played(scene.archive, one, step=59, n=3)
    assert scene.chosen(LIBRARY[:2], scene.archive) == LIBRARY[:2]


def test_without_a_cap_the_uniform_selection_stands(scene):
    played(scene.archive, LIBRARY[0], step=59, n=9)
    assert scene.chosen(LIBRARY[:2], scene.archive, document_cap=0) == LIBRARY[:2]


@pytest.mark.parametrize(("had", "cap", "room"), [(0, 3, 3), (2, 3, 1), (3, 3, 1), (9, 3, 1), (0, 9, 4), (5, 0, 4)])
def test_a_turn_may_give_what_the_cap_leaves(scene, had, cap, room):
    played(scene.archive, LIBRARY[0], step=59, n=had)
    config = scene.config(max_tasks=4, document_cap=cap)
    assert task_room("doc_0", scene.archive, config, step=60) == room


# --- other samplers ---------------------------------------------------------------------------------------------------


def test_half_of_the_chunks_go_where_something_can_be_learned(scene):
    good, solved = LIBRARY[2], LIBRARY[4]
    for one in LIBRARY:
        played(scene.archive, one, step=1, correct=(True, False) if one == good else (True, True))
    given = [LIBRARY[0], LIBRARY[6], LIBRARY[8], LIBRARY[10]]
    picks = [scene.chosen(given, scene.archive, seed=seed, chunk_sampler="learnability") for seed in range(200)]
    assert all(pick[:2] == given[:2] for pick in picks), "one half is uniform"
    share = {one.chunk_id: sum(one in pick[2:] for pick in picks) for one in (good, solved)}
    assert share[good.chunk_id] > 180
    assert 0 < share[solved.chunk_id] < 60, "what taught nothing keeps a small chance"


def test_a_chunk_that_was_never_played_is_worth_trying_and_a_barren_one_is_not(scene):
    scene.archive.note(1, valid=0, proposals=8, chunk_ids=[one.chunk_id for one in LIBRARY[2:]])
    fresh = LIBRARY[1]
    picks = [scene.chosen([LIBRARY[6], LIBRARY[8]], scene.archive, seed=s, chunk_sampler="learnability") for s in range(100)]
    assert sum(fresh in pick for pick in picks) + sum(LIBRARY[0] in pick for pick in picks) > 60


def test_coverage_takes_what_was_covered_least(scene):
    scene.archive.note(1, valid=0, proposals=8, chunk_ids=[one.chunk_id for one in LIBRARY[:10:2]])
    for one in LIBRARY[1:10:2]:
        played(scene.archive, one, step=1)
    chosen = scene.chosen(LIBRARY[:2], scene.archive, chunk_sampler="coverage", document_cap=0)
    assert {one.chunk_id for one in chosen} == {one.chunk_id for one in LIBRARY[10:]}


# --- replays ----------------------------------------------------------------------------------------------------------


def test_replays_are_as_many_as_asked_for_on_average(scene):
    for one in LIBRARY:
        played(scene.archive, one, step=1)
    config = scene.config(replay_share=0.15, chunks_per_step=8)
    drawn = [replays(scene.archive, config, seed=1, step=step) for step in range(400)]
    assert {len(tasks) for tasks in drawn} == {1, 2}
    assert sum(map(len, drawn)) / 400 == pytest.approx(1.2, abs=0.06)
    assert all(len(set(tasks)) == len(tasks) for tasks in drawn)
    assert drawn[3] == replays(Archive(scene.archive.state()), config, seed=1, step=3)


def test_there_is_nothing_to_replay_at_first_or_when_it_is_off(scene):
    assert replays(scene.archive, scene.config(replay_share=0.5), seed=1, step=1) == ()
    played(scene.archive, LIBRARY[0], step=1)
    assert replays(scene.archive, scene.config(replay_share=0.0), seed=1, step=1) == ()
    assert len(replays(scene.archive, scene.config(replay_share=0.5), seed=1, step=1)) == 1
