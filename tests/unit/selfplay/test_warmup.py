"""What the steps of a warm-up learn, where it came from, and whose turn it is."""

from dataclasses import replace

import pytest

from spice_enterprise.errors import CorpusError
from spice_enterprise.selfplay.answers import extract_answer
from spice_enterprise.selfplay.examples import counts_of
from spice_enterprise.selfplay.task_list import task_lines
from spice_enterprise.selfplay.warmup import FactsWarmup, FormatWarmup, WarmedPlayer, require_examples

TEXTS = (
    "The monthly fee is 12,480 euros per site. Either party may end the lease after a year of notice in writing.",
    "The pump was commissioned on 14 March 2019 by the service team. The lessee shall pay 1,200 euros per month.",
    "The archive holds 320 boxes of files. The notice period is 45 days for both parties.",
)


def encode(prompt, text):
    shown = "".join(message.content for message in prompt.messages) + prompt.prefill
    return tuple(shown.encode()), (*text.encode(), 0)


def facts(world, examples=12, seed=3):
    return FactsWarmup(encode=encode, config=world.config(), examples=examples, seed=seed)


def formats(world, script, *, chunks, examples=12, **settings):
    base = {"base": settings.pop("base")} if "base" in settings else {}
    stage = world.stage(world.sampler(script), library=chunks, **base, **settings)
    return FormatWarmup(stage, encode=encode, config=world.config(**settings), examples=examples, seed=3, library=chunks)


def chunks_of(world):
    return [world.chunk(text, index=i) for i, text in enumerate(TEXTS)]


def taught(played):
    return [group.rollouts[0] for group in played.groups]


def test_facts_takes_from_every_chunk_and_says_from_what(world, version):
    played = facts(world).play(chunks_of(world), version, step=1)
    assert 9 <= len(played.groups) <= 12
    assert {group.parent_id for group in played.groups} == {chunk.chunk_id for chunk in chunks_of(world)}
    assert {group.objective for group in played.groups} == {"supervised"}
    assert all((r.adapter_id, r.adapter_digest, r.logprobs, r.stop_reason) == ("", "", (), "stop") for r in taught(played))
    assert {r.reason for r in taught(played)} >= {"cloze", "question", "continuation"}
    assert all(r.token_ids == (*r.text.encode(), 0) for r in taught(played))
    counts = dict(counts_of(played))
    assert counts["examples"] == len(played.groups) == sum(n for name, n in counts.items() if name.startswith("examples."))
    assert counts["target_tokens"] == sum(len(r.token_ids) for r in taught(played))


def test_a_step_depends_on_its_number_and_the_seed_alone(world, version):
    chunks = chunks_of(world)
    first = facts(world, 4).play(chunks, version, step=1)
    assert facts(world, 4).play(chunks, version, step=1) == first
    others = [facts(world, 4).play(chunks, version, step=2), facts(world, 4, seed=4).play(chunks, version, step=1)]
    assert all([r.text for r in taught(other)] != [r.text for r in taught(first)] for other in others)


def test_a_step_without_anything_to_learn_is_empty(world, version):
    played = facts(world).play([world.chunk("-")], version, step=1)
    assert (played.groups, counts_of(played)) == ((), ())
    assert facts(world).play([], version, step=1).groups == ()


def test_a_corpus_without_anything_to_learn_is_refused(world):
    with pytest.raises(CorpusError) as caught:
        require_examples([world.chunk("-"), world.chunk("? ! 1234", index=1)], world.config())
    assert caught.value.code == "E_NO_EXAMPLES"
    require_examples([world.chunk("-"), *chunks_of(world)], world.config())


def own_questions(prompt, j):
    return (" is the monthly fee per site?", " whales are there?", " is the fee for a site?", "")[j]


def test_format_learns_both_roles_of_what_was_admitted(world, version):
    chunk = world.chunk(TEXTS[0])
    played = formats(world, own_questions, chunks=(chunk,), examples=4).play([chunk], version, step=1)
    asked, answered = ([r for r in taught(played) if r.role == role and r.reason == "own"] for role in ("challenger", "reasoner"))
    proposals = {r.rollout_id: r for item in played.rollouts for r in item.group.rollouts if item.group.objective == "policy"}
    assert {r.text for r in asked} == {" is the monthly fee per site?", " is the fee for a site?"}
    assert {r.parent_id for r in (*asked, *answered)} <= {r for r, p in proposals.items() if p.outcome == "valid"}
    assert all(r.adapter_digest == version.digest and len(r.logprobs) == len(r.token_ids) for r in asked)
    assert all(r.adapter_digest == "" and r.text == '12,480 euros"' for r in answered)
    assert len(proposals) == 4
    assert not any(item.is_trained for item in played.rollouts if item.group.objective == "policy")
    counts = dict(counts_of(played))
    assert (counts["proposals.valid"], counts["proposals.refused"]) == (2, 2)
    assert played.tasks == ()


def test_a_proposal_that_was_learned_is_listed_as_an_example(world, version):
    chunk = world.chunk(TEXTS[0])
    played = formats(world, own_questions, chunks=(chunk,), examples=2).play([chunk], version, step=1)
    verdicts = {line.question: line.verdict for line in task_lines(played, step=1, documents={})}
    assert sorted(verdicts.values()).count("example") == 1
    assert sorted(verdicts.values()).count("not_attempted") == 1, "there was no room for the other one"
    (learned,) = (question for question, verdict in verdicts.items() if verdict == "example")
    assert learned.endswith(taught(played)[0].text.strip())


def test_an_answer_from_passages_says_which_they_were(world, version):
    chunk, other = world.chunk(TEXTS[0]), replace(world.chunk(TEXTS[2]), document_id="doc_other")
    settings = {"regimes": ("open_book",), "distractor_passages": 1, "examples": 4}
    played = formats(world, own_questions, chunks=(chunk, other), **settings).play([chunk], version, step=1)
    answers = [group for group in played.groups if group.role == "reasoner" and group.rollouts[0].reason == "own"]
    assert answers
    assert all(set(group.passages) == {chunk.chunk_id, other.chunk_id} for group in answers)


def test_code_fills_up_with_what_admission_lets_pass(world, version):
    chunks = chunks_of(world)
    played = formats(world, lambda prompt, j: "", chunks=chunks).play(chunks[:1], version, step=1)
    made = [r for r in taught(played) if r.reason == "made"]
    assert dict(counts_of(played))["examples.challenger.made"] == dict(counts_of(played))["examples.reasoner.made"] >= 3
    assert " shall the lessee pay per month?" in {r.text for r in made if r.role == "challenger"}
    assert all(r.parent_id in {chunk.chunk_id for chunk in chunks} for r in made)


def test_a_choice_is_answered_by_its_letter(world, version):
    chunks = chunks_of(world)
    warmup = formats(world, lambda prompt, j: "", chunks=chunks, formats="choice", regimes=("self_contained",))
    answers = [r for r in taught(warmup.play(chunks[:1], version, step=1)) if r.role == "reasoner"]
    letters = {extract_answer(r.text, "choice") for r in answers}
    assert letters <= set("ABCD")
    assert len(letters) > 1


def test_under_the_full_contract_code_writes_for_the_reasoner_alone(world, version):
    chunks = chunks_of(world)
    played = formats(world, lambda prompt, j: "", chunks=chunks, contract="full").play(chunks[:1], version, step=1)
    assert {(r.role, r.reason) for r in taught(played)} == {("reasoner", "made")}
    assert all(r.text.startswith(r"\boxed{") for r in taught(played))


def test_a_frozen_challenger_learns_nothing(world, version):
    chunks = chunks_of(world)
    sampler = world.sampler(own_questions, adapter_digest="base")
    warmup = formats(world, own_questions, chunks=chunks, challenger="frozen", base=sampler)
    assert {r.role for r in taught(warmup.play(chunks, version, step=1))} == {"reasoner"}


@pytest.mark.parametrize("split", ["unseen", "exam"])
def test_chunks_that_training_may_not_see_are_refused(world, version, split):
    chunks = chunks_of(world)
    hidden = replace(chunks[2], split=split)
    with pytest.raises(ValueError, match="is not a train chunk"):
        facts(world).play([chunks[0], hidden], version, step=1)
    with pytest.raises(ValueError, match="is not a train chunk"):
        formats(world, own_questions, chunks=(*chunks, hidden)).play(chunks, version, step=1)


def test_the_warm_up_plays_first_and_is_not_remembered(world, version):
    chunks = chunks_of(world)

    def script(prompt, j):
        return own_questions(prompt, j) if world.is_challenger(prompt) else " 45 days"

    stage = world.stage(world.sampler(script), library=chunks)
    player = WarmedPlayer(facts(world), stage, steps=2)
    warm, play = (player.play(chunks[:1], version, step=step) for step in (2, 3))
    assert warm.groups[0].objective == "supervised"
    assert counts_of(play) == ()
    assert player.entries(warm, step=2) == ()
    assert player.entries(play, step=3) == stage.entries(play, step=3) != ()
    player.remember(player.entries(play, step=3))
    assert stage.archive.tasks_of("doc_1", since_step=0) > 0
    assert player.effort == stage.effort
    player.stop()


def test_who_played_last_says_what_it_cost(world, version):
    chunks = chunks_of(world)
    warmup = formats(world, own_questions, chunks=chunks)
    player = WarmedPlayer(warmup, facts(world), steps=1)
    player.play(chunks, version, step=1)
    assert player.effort is not None
    player.play(chunks, version, step=2)
    assert player.effort is None
    assert player.entries(warmup.play(chunks, version, step=1), step=2) == ()


def test_every_chunk_of_a_step_has_its_share(world, version):
    played = facts(world, 3).play(chunks_of(world), version, step=1)
    assert sorted(group.parent_id for group in played.groups) == sorted(chunk.chunk_id for chunk in chunks_of(world))


def test_what_admission_would_refuse_is_not_taught(world, version):
    chunk = world.chunk("The fee of section 4 is 45 euros per month.")
    played = formats(world, lambda prompt, j: "", chunks=(chunk,)).play([chunk], version, step=1)
    assert played.groups == (), "a question that points at a section is no example"
