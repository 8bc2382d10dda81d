"""Chunk to proposals: what the Challenger is asked, and what it wrote.

In: scrubbed chunks, and the completions of one round.
Out: a `Plan` per chunk and round (prompt, offered answer), and one `Proposal` per completion.
Refuses: nothing; a completion without a readable proposal is a `Proposal` without a question.
Not here: admission, rewards, and the choice of who is played (`episode.py`).

With `hint: span` code finds values that stand verbatim in the chunk, offers one, and the model only writes the question:
a small model cannot be trusted to copy its own answer, and a gold answer found by code is grounded by construction. One
round offers one span, because all rollouts of a group share one prompt; the next round offers another.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.records import AnswerKind, Chunk, Completion, Prompt, TaskFormat
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.answers import extract_answer, kind_of
from spice_enterprise.selfplay.options import distractors
from spice_enterprise.selfplay.prompts import Decoding, challenger_pair, challenger_span
from spice_enterprise.selfplay.spans import Hint, find_hints, opener, sentence_around

FREE_FORM_SHARE: Final = 0.5
"""Share of chunks played in free form where both formats are on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one round asks about one chunk. `hint` None: the model finds the answer itself."""

    chunk: Chunk
    task_format: TaskFormat
    hint: Hint | None
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What one challenger completion proposes; `question` is empty when it could not be read."""

    question: str = field(repr=False)
    answer: str = field(repr=False)
    answer_kind: AnswerKind


def plan_chunk(chunk: Chunk, pool: Sequence[Hint], config: SelfplayConfig, *, seed: int, step: int, round_number: int) -> Plan:
    """Choose format and offered span for one chunk and round, from the seed alone.

    A chunk without any findable value is asked the open way, whatever `hint` says. A span for which `pool` holds no
    wrong options is asked in free form.
    """
    hint = _offered(chunk, stream(seed, step, chunk.chunk_id, "span"), round_number) if config.hint == "span" else None
    decoding = Decoding(max_new_tokens=config.challenger_tokens, temperature=config.temperature)
    prompt = challenger_span(sentence_around(chunk.text, hint), hint.value, opener(hint), decoding) if hint else None
    return Plan(
        chunk=chunk,
        task_format=_format(chunk, hint, pool, config, stream(seed, step, chunk.chunk_id, "format").random()),
        hint=hint,
        prompt=prompt or challenger_pair(chunk.text, decoding),
    )


def _offered(chunk: Chunk, draws: random.Random, round_number: int) -> Hint | None:
    """Return the value for this round: another one every round; measures, dates and times before names and bare numbers.

    A question about a measure names what is measured; a question about a name needs to know what the name stands for,
    which small models mostly invent.
    """
    hints = list(find_hints(chunk.text))
    draws.shuffle(hints)
    hints.sort(key=lambda hint: opener(hint).startswith("What is the"))  # stable: shuffled within each
    return hints[round_number % len(hints)] if hints else None


def _format(chunk: Chunk, hint: Hint | None, pool: Sequence[Hint], config: SelfplayConfig, draw: float) -> TaskFormat:
    if config.formats == "free_form" or (config.formats == "both" and draw < FREE_FORM_SHARE):
        return "free_form"
    return "choice" if hint is None or distractors(hint.value, hint.kind, pool) else "free_form"


def read_proposal(plan: Plan, completion: Completion) -> Proposal:
    """Read the question (and, without a hint, the answer) from one completion; never raises."""
    question, rest = _split_question(plan.prompt.prefill + completion.text)
    if plan.hint is not None:
        return Proposal(question=question, answer=plan.hint.value, answer_kind=plan.hint.kind)
    answer = extract_answer(rest, "text") if re.search(r"answer\s?:", rest, re.IGNORECASE) else ""
    return Proposal(question=question if answer else "", answer=answer, answer_kind=kind_of(answer))


def _split_question(text: str) -> tuple[str, str]:
    """Return the first line up to its question mark, and what follows it."""
    body = re.sub(r"^(?:\s*(?:question|q)\s?:)+", "", text, flags=re.IGNORECASE).lstrip()
    line, _, below = body.partition("\n")
    asked, mark, after = line.partition("?")
    return " ".join((asked + mark).split()), f"{after}\n{below}"
