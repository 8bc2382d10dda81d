from spice_enterprise.selfplay.archive import Archive

QUESTION = "What is the notice period?"


def test_open_book_questions_belong_to_their_chunk():
    archive = Archive()
    archive.add(chunk_id="chunk_1", question=QUESTION, regime="open_book")
    assert archive.holds(chunk_id="chunk_1", question=QUESTION, regime="open_book")
    assert not archive.holds(chunk_id="chunk_2", question=QUESTION, regime="open_book")


def test_elsewhere_a_question_stands_alone():
    for regime in ("self_contained", "closed_book"):
        archive = Archive()
        archive.add(chunk_id="chunk_1", question=QUESTION, regime=regime)
        assert archive.holds(chunk_id="chunk_2", question=QUESTION, regime=regime)


def test_state_restores_and_carries_no_text():
    archive = Archive()
    archive.add(chunk_id="chunk_1", question=QUESTION, regime="open_book")
    archive.add(chunk_id="chunk_0", question=QUESTION, regime="open_book")
    again = Archive(archive.state())
    assert again.state() == archive.state() == tuple(sorted(archive.state()))
    assert again.holds(chunk_id="chunk_0", question=QUESTION, regime="open_book")
    assert "notice" not in repr(archive.state())


def test_a_step_sees_the_tasks_of_earlier_steps_only():
    archive = Archive()
    for step in (1, 2, 3):
        archive.add(chunk_id=f"chunk_{step}", question=QUESTION, regime="open_book", step=step)
    archive.add(chunk_id="chunk_1", question=QUESTION, regime="open_book", step=3)
    earlier = Archive(archive.state()).before(3)
    seen = [earlier.holds(chunk_id=f"chunk_{step}", question=QUESTION, regime="open_book") for step in (1, 2, 3)]
    assert seen == [True, True, False]
    assert len(archive.state()) == 3, "a copy was taken"
