"""Properties of the archive: a fold over its entries, whatever the order of adding, saving and taking copies."""

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.records import Task
from spice_enterprise.selfplay import archive as archives
from spice_enterprise.selfplay.archive import Archive

WORDS = st.sampled_from(["notice", "fee", "pump", "lease", "term", "audit"])
EVENT = st.tuples(
    st.integers(1, 6), WORDS, st.sampled_from(["chunk_1", "chunk_2"]), st.sampled_from(["self_contained", "open_book"]),
    st.lists(st.booleans(), max_size=4),
)  # fmt: skip
EVENTS = st.lists(EVENT, max_size=24).map(lambda events: sorted(events, key=lambda event: event[0]))
PROBES = ("What is the notice?", "Who pays the fee for the pump?")


def add(archive, event):
    step, word, chunk_id, regime, correct = event
    task = Task(
        chunk_id=chunk_id, rollout_id="", question=f"What is the {word}?", answer="a", answer_kind="text",
        task_format="free_form", regime=regime,
    )  # fmt: skip
    archive.add(task, step=step, document_id=f"doc_of_{chunk_id}", correct=correct)
    if step % 2:
        archive.note(step, valid=len(correct), proposals=9, chunk_ids=[chunk_id])


def build(events):
    archive = Archive()
    for event in events:
        add(archive, event)
    return archive


def seen(archive):
    """Everything an archive answers."""
    chunk_ids = ("chunk_1", "chunk_2")
    return (
        archive.state(),
        archive.frontier(),
        [archive.similarity(probe) for probe in PROBES],
        [archive.similarity(PROBES[0], chunk_id=chunk_id) for chunk_id in chunk_ids],
        [archive.learnability(chunk_id) for chunk_id in chunk_ids],
        [archive.covered(chunk_id) for chunk_id in chunk_ids],
        [archive.tasks_of(f"doc_of_{chunk_id}", since_step=since) for chunk_id in chunk_ids for since in range(8)],
    )


@given(EVENTS)
def test_its_strings_give_it_back(events):
    archive = build(events)
    assert seen(Archive(archive.state())) == seen(archive)


@given(EVENTS, st.integers(0, 7))
def test_before_a_step_is_what_stood_there(events, step):
    assert seen(build(events).before(step)) == seen(build([event for event in events if event[0] < step]))


@given(EVENTS, EVENTS)
def test_a_copy_and_its_origin_do_not_touch_each_other(events, more):
    archive = build(events)
    before = seen(archive)
    copy = archive.before(99)
    for event in more:
        add(copy, event)
    assert seen(archive) == before
    later = Archive(archive.state())
    for event in more:
        add(later, event)
    assert seen(later) == seen(copy)


@given(EVENTS, EVENTS)
def test_saving_in_between_changes_nothing_though_texts_are_dropped(events, more):
    later = [(step + 6, *rest) for step, *rest in more]
    whole, limit = build(events), archives.WHOLE_TASKS
    try:
        archives.WHOLE_TASKS = 2
        whole, saved = build(events), Archive(build(events).state())
        for event in later:
            add(whole, event)
            add(saved, event)
        assert seen(saved) == seen(whole)
        assert len(whole.frontier()) <= 2
    finally:
        archives.WHOLE_TASKS = limit


@given(EVENTS)
def test_only_mixed_tasks_are_replayed_and_cosines_are_cosines(events):
    archive = build(events)
    last = {
        (word, chunk_id if regime == "open_book" else ""): correct for _, word, chunk_id, regime, correct in events if correct
    }
    for task in archive.frontier():
        word = task.question.removeprefix("What is the ").removesuffix("?")
        correct = last[(word, task.chunk_id if task.regime == "open_book" else "")]
        assert 0 < sum(correct) < len(correct)
    assert all(-1.0 - 1e-9 <= archive.similarity(probe) <= 1.0 + 1e-9 for probe in PROBES)
    assert all(value is None or 0.0 <= value <= 0.25 for value in map(archive.learnability, ("chunk_1", "chunk_2")))
