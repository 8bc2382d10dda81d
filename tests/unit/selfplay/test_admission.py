import pytest

from spice_enterprise.selfplay.admission import refusal
from spice_enterprise.selfplay.answers import kind_of
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.challenger import Proposal

GOOD = ("How many days is the notice period?", "45 days")


def judged(world, question, answer, *, text=None, archive=None, regime="open_book"):
    chunk = world.chunk(text or world.passage)
    proposal = Proposal(question=question, answer=answer, answer_kind=kind_of(answer))
    return refusal(proposal, chunk, regime=regime, archive=archive or Archive())


@pytest.mark.parametrize(
    ("code", "refused", "admitted"),
    [
        ("unparsable", ("", "45 days"), GOOD),
        ("unparsable", (GOOD[0], ""), GOOD),
        ("placeholder", ("Who is the contact for the pump?", "[PERSON_k3f9]"), ("Is [PERSON_k3f9] in notice?", "45 days")),
        ("placeholder", (GOOD[0], "Your answer"), GOOD),
        ("answer_not_in_chunk", (GOOD[0], "46 days"), (GOOD[0], "45  Days")),
        ("giveaway", ("Is the notice period 45 days long?", "45 days"), GOOD),
        ("giveaway", ("Are 45.0 days the notice period?", "45 days"), ("Are 450 days the notice period?", "45 days")),
        ("giveaway", ("Is Hartmann Service at the pump?", "Hartmann Service"), ("Is Hartmann at the pump?", "45 days")),
        ("giveaway", ("Was the pump on March 14th, 2019?", "14 March 2019"), ("Was the pump in March?", "14 March 2019")),
        ("reference", ("According to the text, how many days is the notice period?", "45 days"), GOOD),
        ("reference", ("How many days does this passage give as notice period?", "45 days"), GOOD),
        ("reference", ("How many days of notice are in Table 2?", "45 days"), ("How many days, table or fee?", "45 days")),
        ("shape", ("Notice days", "45 days"), GOOD),
        ("shape", ("How many days is the notice period", "45 days"), GOOD),
        ("shape", ("Notice" + " period" * 60 + "?", "45 days"), GOOD),
        ("off_topic", ("How many days does a whale sleep in winter?", "45 days"), GOOD),
        ("off_topic", ("How many are there of it?", "45 days"), GOOD),
        (
            "copy",
            ("What is so that the monthly fee is 12,480 euros and is invoiced in advance pump?", "45 days"),
            ("How many days is the notice period where the monthly fee has to be paid in advance?", "45 days"),
        ),
    ],
)  # fmt: skip
def test_each_code_refuses_and_lets_pass(world, code, refused, admitted):
    assert judged(world, *refused) == code
    assert judged(world, *admitted) == ""


def test_an_exact_repeat_is_a_duplicate_but_for_case_and_marks(world):
    archive = Archive()
    archive.add(chunk_id=world.chunk().chunk_id, question=GOOD[0], regime="open_book")
    assert judged(world, "how many DAYS is the notice period ?", GOOD[1], archive=archive) == "duplicate"
    assert judged(world, "How many days does the notice period take?", GOOD[1], archive=archive) == ""


def test_checks_run_cheapest_first(world):
    everything_wrong = Proposal(question="whale 46 days", answer="46 days", answer_kind="number")
    assert refusal(everything_wrong, world.chunk(), regime="open_book", archive=Archive()) == "answer_not_in_chunk"
