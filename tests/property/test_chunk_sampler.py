"""Properties of the choice of chunks: as many as given, from the library, none twice, documents within their cap."""

from collections import Counter

from hypothesis import assume, given
from hypothesis import strategies as st

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.loop import chunks_of_step
from spice_enterprise.records import Chunk, ScrubbedText, Task
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.chunk_sampler import choose, replays

STEP = 20


def chunk(document, index):
    return Chunk(
        document_id=f"doc_{document}", index=index, text=ScrubbedText(f"{document} {index}"), redactions=(), split="train",
        pii_policy_digest="sha256:0", token_count=2,
    )  # fmt: skip


@st.composite
def scenes(draw):
    """A library, a config, what was played before, and the uniform selection of a step."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    library = [chunk(document, index) for document, size in enumerate(sizes) for index in range(size)]
    config = SelfplayConfig(
        chunks_per_step=draw(st.integers(1, 8)),
        chunk_sampler=draw(st.sampled_from(["uniform", "learnability", "coverage"])),
        document_cap=draw(st.integers(0, 3)),
        document_cap_steps=draw(st.integers(1, 12)),
        replay_share=draw(st.sampled_from([0.0, 0.1, 0.5])),
    )
    archive = Archive()
    for i, step in enumerate(sorted(draw(st.lists(st.integers(1, STEP - 1), max_size=12)))):
        at = draw(st.sampled_from(library))
        task = Task(
            chunk_id=at.chunk_id, rollout_id="", question=f"What is {i}?", answer="a", answer_kind="text",
            task_format="free_form", regime="closed_book",
        )  # fmt: skip
        correct = draw(st.lists(st.booleans(), max_size=4))
        archive.add(task, step=step, document_id=at.document_id, correct=correct)
    given_chunks = chunks_of_step(library, draw(st.integers(1, 30)), config.chunks_per_step, 3)
    return given_chunks, library, archive, config


def chosen_of(scene, seed=1):
    given_chunks, library, archive, config = scene
    return choose(given_chunks, library, archive, config, seed=seed, step=STEP, is_askable=lambda _: True)


@given(scenes())
def test_as_many_as_given_and_all_of_the_library(scene):
    chosen = chosen_of(scene)
    assert len(chosen) == len(scene[0])
    assert {one.chunk_id for one in chosen} <= {one.chunk_id for one in scene[1]}


@given(scenes())
def test_none_twice_unless_it_was_given_twice_or_there_are_too_few(scene):
    assume(len(scene[1]) >= len(scene[0]))
    given_counts = Counter(one.chunk_id for one in scene[0])
    for chunk_id, count in Counter(one.chunk_id for one in chosen_of(scene)).items():
        assert count <= max(1, given_counts[chunk_id])


@given(scenes())
def test_caps_hold_as_long_as_others_have_chunks(scene):
    _, library, archive, config = scene
    assume(config.document_cap)
    chosen = chosen_of(scene)
    counts = Counter(one.document_id for one in chosen)
    since = STEP - config.document_cap_steps
    is_full = {one.document_id: archive.tasks_of(one.document_id, since_step=since) >= config.document_cap for one in library}
    is_over = any(count > (0 if is_full[document] else 1) for document, count in counts.items())
    spare = [one for one in library if not is_full[one.document_id] and not counts[one.document_id]]
    assert not (is_over and spare)


@given(scenes(), st.integers(0, 99))
def test_the_choice_is_named_by_seed_and_step(scene, seed):
    _, _, archive, config = scene
    assert chosen_of(scene, seed) == chosen_of(scene, seed)
    first = replays(archive, config, seed=seed, step=STEP)
    assert first == replays(Archive(archive.state()), config, seed=seed, step=STEP)
    assert len(first) <= config.replay_share * config.chunks_per_step + 1
    assert set(first) <= set(archive.frontier())
