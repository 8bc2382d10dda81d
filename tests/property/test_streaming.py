"""What a step plays does not depend on the order in which groups finish, nor on what is played beside a chunk."""

from hypothesis import given, settings
from hypothesis import strategies as st

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.episode import SelfplayStage, Speakers
from spice_enterprise.selfplay.spans import find_hints
from spice_enterprise.testing import DirectGrader, FakeTrainer, LineIngestor, MemorySource, StreamingScriptedSampler

LINES = (
    "The notice period is 45 days. The monthly fee is 12,480 euros.",
    "The pump delivers 320 litres. The tank holds 50 barrels.",
    "The notice period is 45 days. The pump was bought on 14 March 2019.",
    "The valve closes at 7 bar. The hose is 30 metres long.",
    "The deposit is 900 euros. The rent is 900 euros.",
)
CHUNKS = LineIngestor().ingest(MemorySource({"a.txt": "\n".join(LINES).encode(), "b.txt": b"x"}), lambda _: None).train
VALUES = [hint.value for chunk in CHUNKS for hint in find_hints(chunk.text)]
QUESTIONS = [" is the notice period?", " does the pump deliver?", " is the fee?", " long is the hose?", " whales?", ""]
VERSION = FakeTrainer().start()


def script(prompt, draws):
    return draws.choice(QUESTIONS) if prompt.template_id.startswith("challenger.") else f" {draws.choice(VALUES)}"


def any_order(seed):
    draws = stream(seed)
    return lambda keys: draws.sample(keys, draws.randint(1, len(keys)))


def play(chunks, *, finish=None, **changes):
    config = SelfplayConfig(
        challenger_group=3,
        reasoner_group=3,
        chunk_sampler="uniform",
        contract="short",
        challenger_tokens=96,
        reasoner_tokens=32,
        temperature=1.0,
        open_book_samples=0,
        replay_share=0.0,
        **changes,
    )
    sampler = StreamingScriptedSampler(script, finish=finish)
    sampler.publish(VERSION)
    stage = SelfplayStage(Speakers(player=sampler), grader=DirectGrader(KindVerifier()), config=config, seed=11)
    played = [stage.play(chunks, VERSION, step=step) for step in (1, 2)]
    return played, stage.archive.state(), sampler


PICKED = st.lists(st.sampled_from(CHUNKS), min_size=1, max_size=6)
SETTINGS = st.fixed_dictionaries(
    {
        "regimes": st.sampled_from([("open_book",), ("closed_book",), ("open_book", "closed_book")]),
        "formats": st.sampled_from(["free_form", "both"]),
        "refill_rounds": st.integers(0, 3),
        "max_tasks": st.integers(1, 3),
    }
)


@settings(max_examples=40, deadline=None)
@given(PICKED, SETTINGS, st.integers(0, 2**32))
def test_the_order_of_arrival_changes_nothing(chunks, changes, seed):
    expected = play(chunks, **changes)
    shuffled = play(chunks, finish=any_order(seed), **changes)
    assert shuffled[:2] == expected[:2]
    assert sorted(shuffled[2].events) == sorted(expected[2].events)


@settings(max_examples=30, deadline=None)
@given(PICKED, SETTINGS)
def test_every_completion_is_recorded_once_and_budgets_hold(chunks, changes):
    played, _, sampler = play(chunks, **changes)
    for step in played:
        rollouts = [rollout for record in step.rollouts for rollout in record.group.rollouts]
        assert len({rollout.rollout_id for rollout in rollouts}) == len(rollouts)
        assert {task.rollout_id for task in step.tasks} <= {rollout.rollout_id for rollout in rollouts}
        assert sum(record.is_trained for record in step.rollouts) == len(step.groups) <= 2 * len(chunks)
    every = [rollout for step in played for record in step.rollouts for rollout in record.group.rollouts]
    assert len(every) == 3 * sampler.calls
    proposals = sum(rollout.role == "challenger" for rollout in every)
    assert proposals <= 2 * len(chunks) * 3 * (3 + changes["refill_rounds"])


@settings(max_examples=20, deadline=None)
@given(st.permutations(CHUNKS), st.integers(1, 4))
def test_a_chunk_plays_the_same_in_other_company(chunks, count):
    """In open book with free answers and no passages of others nothing is shared between chunks."""
    changes = {"formats": "free_form", "refill_rounds": 1, "regimes": ("open_book",), "distractor_passages": 0}
    alone = {chunk.chunk_id: play([chunk], **changes)[0][0] for chunk in chunks[:count]}
    together = play(chunks[:count], **changes)[0][0]
    assert together.groups == tuple(group for chunk in chunks[:count] for group in alone[chunk.chunk_id].groups)
