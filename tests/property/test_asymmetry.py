"""Where a regime forbids passages, none reaches the Reasoner: planted strings, any chunks, any questions and options."""

import json
from collections.abc import Callable

from hypothesis import event, given, settings
from hypothesis import strategies as st

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import Played
from spice_enterprise.records import Chunk, Prompt, Regime, ScrubbedText
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.contracts import CHOICE_FIELDS
from spice_enterprise.selfplay.episode import SelfplayStage, Speakers
from spice_enterprise.selfplay.regimes import regime_of
from spice_enterprise.testing import DirectGrader, FakeTrainer, StreamingScriptedSampler

VERSION = FakeTrainer().start()
SPAN = 8
NOUNS = ["pump", "tank", "valve", "notice", "period", "fee", "rent", "deposit", "hose", "meter", "lease", "site"]
WORDS = st.lists(st.sampled_from(NOUNS), min_size=12, max_size=30)
TEXTS = st.lists(WORDS, min_size=2, max_size=4)
ASKED = st.sampled_from(["copies", "quotes", "honest"])


def planted(words: list[str], place: int) -> ScrubbedText:
    """A chunk whose every second word is a string that stands nowhere else."""
    marked = " ".join(f"{word} CANARY{place}x{i}" for i, word in enumerate(words))
    return ScrubbedText(f"The notice period is {45 + place} days. {marked}.")


def chunk_of(words: list[str], place: int) -> Chunk:
    return Chunk(
        document_id=f"doc_{place}",
        index=place,
        text=planted(words, place),
        redactions=(),
        split="train",
        pii_policy_digest="sha256:0",
        token_count=len(words),
    )


def config_of(regimes: tuple[Regime, ...], **settings: object) -> SelfplayConfig:
    fixed = {"challenger_group": 2, "reasoner_group": 2, "distractor_passages": 1, "refill_rounds": 0, "open_book_samples": 0}
    sizes = {"challenger_tokens": 96, "reasoner_tokens": 32, "temperature": 1.0, "replay_share": 0.0, "chunk_sampler": "uniform"}
    return SelfplayConfig(regimes=regimes, **{**fixed, **sizes, **settings})  # type: ignore[arg-type]  # validated by the model


def play(chunks: list[Chunk], regimes: tuple[Regime, ...], how: str, formats: str) -> tuple[Played, list[tuple[str, Prompt]]]:
    admission = "parsable" if how != "honest" else "checked"
    config = config_of(regimes, contract="short", formats=formats, admission=admission)
    asked: list[tuple[str, Prompt]] = []

    def script(prompt, draws):
        if not prompt.template_id.startswith("challenger."):
            asked.append((prompt.template_id, prompt))
            return " 45 days"
        said = {"copies": f" {chunks[0].text[:400]}?", "quotes": f" is {' '.join(chunks[0].text.split()[:11])}?"}
        return said.get(how, " is the notice period?")

    return staged(script, config, chunks), asked


def staged(script: Callable[..., str], config: SelfplayConfig, chunks: list[Chunk]) -> Played:
    sampler = StreamingScriptedSampler(script)
    sampler.publish(VERSION)
    stage = SelfplayStage(Speakers(player=sampler), grader=DirectGrader(KindVerifier()), config=config, seed=3, library=chunks)
    return stage.play(chunks, VERSION, step=1)


def shown(prompt: Prompt) -> str:
    return " ".join(f"{prompt.prefill} {' '.join(message.content for message in prompt.messages)}".split())


@settings(max_examples=60, deadline=None)
@given(
    TEXTS,
    st.sampled_from([("self_contained",), ("closed_book",), ("self_contained", "closed_book")]),
    ASKED,
    st.sampled_from(["free_form", "choice"]),
)
def test_no_span_of_a_passage_reaches_a_reasoner_but_by_the_question(texts, regimes, how, formats):
    chunks = [chunk_of(words, place) for place, words in enumerate(texts)]
    played, asked = play(chunks, regimes, how, formats)
    questions = {" ".join(task.question.split()) for task in played.tasks}
    for _, prompt in asked:
        text = shown(prompt)
        for question in questions:
            text = text.replace(question, " ")
        assert "CANARY" not in text
        for chunk in chunks:
            words = chunk.text.split()
            assert not any(" ".join(words[i : i + SPAN]) in text for i in range(len(words) - SPAN + 1))
            assert chunk.chunk_id not in text
            assert chunk.document_id not in text


def cut(text: str, begin: int, words: int) -> str:
    return " ".join(text.split()[begin : begin + words])


@settings(max_examples=60, deadline=None)
@given(
    WORDS,
    st.lists(st.integers(6, 24), min_size=4, max_size=4, unique=True),
    st.integers(3, 10),
    st.tuples(st.integers(0, 20), st.integers(0, 10)),
    st.sampled_from(["", ",", ".", ' "']),
    st.sampled_from(["self_contained", "closed_book"]),
)
def test_no_span_of_a_passage_reaches_a_reasoner_by_what_the_model_writes_itself(words, begins, length, stem, mark, regime):
    """Options are pieces of the chunk, and so is part of the question: what is admitted has no span beyond what is allowed."""
    chunk = chunk_of(words, 0)
    passage = chunk.text.casefold().split()
    asked: list[Prompt] = []
    options = [f"{cut(chunk.text, begin, length)}{mark}" for begin in begins]
    question = f"Which notice period of the pump and the lease would be due in days, {cut(chunk.text, *stem)}, for the tank?"
    said = dict.fromkeys(CHOICE_FIELDS, "said") | {
        "multiple_choice_question": "\n".join((question, *(f"{x}) {option}" for x, option in zip("ABCD", options, strict=True)))),
        "multiple_choice_correct": "A",
        "answer_quote": ["The notice period is 45 days."],
    }

    def script(prompt, draws):
        if prompt.template_id.startswith("challenger."):
            return json.dumps(said)
        asked.append(prompt)
        return r"\boxed{A}"

    config = config_of((regime,), contract="full", formats="choice", hint="none")
    played = staged(script, config, [chunk])
    event(",".join({a.code for a in played.admissions}) or "nothing")
    for prompt in asked:
        event("admitted")
        text = shown(prompt).casefold()
        if regime == "self_contained":
            text = text.replace(" ".join(question.casefold().split()), " ")
        assert not any(" ".join(passage[i : i + SPAN]) in text for i in range(len(passage) - SPAN + 1))


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.sampled_from(["free_form", "choice"]))
def test_each_chunk_of_a_mixed_job_keeps_to_its_own_regime(texts, formats):
    chunks = [chunk_of(words, place) for place, words in enumerate(texts)]
    regimes: tuple[Regime, ...] = ("open_book", "closed_book")
    played, asked = play(chunks, regimes, "honest", formats)
    assert {task.regime for task in played.tasks} <= set(regimes)
    of_chunk = {chunk.chunk_id: regime_of(chunk, regimes, seed=3) for chunk in chunks}
    assert all(task.regime == of_chunk[task.chunk_id] for task in played.tasks)
    for template_id, prompt in asked:
        assert ("CANARY" in shown(prompt)) == (".open_book." in template_id)
