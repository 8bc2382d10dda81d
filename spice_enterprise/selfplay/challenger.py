"""Chunk to proposals: what the Challenger is asked, and what it wrote.

In: scrubbed chunks, and the completions of one round.
Out: a `Plan` per chunk and round (prompt, offered answer), and one `Proposal` per completion.
Refuses: nothing; a completion that is not what its contract demands is a `Proposal` with a code.
Not here: admission, rewards, and the choice of who is played (`episode.py`).

With `hint: span` code finds values that stand verbatim in the chunk, offers one, and the model only writes the question:
a small model cannot be trusted to copy its own answer, and a gold answer found by code is grounded by construction. One
round offers one span, because all rollouts of a group share one prompt; the next round offers another.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.records import AnswerKind, Chunk, Completion, Prompt, Regime, TaskFormat
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.answers import kind_of
from spice_enterprise.selfplay.challenger_prompts import challenger_full, challenger_pair, challenger_span, format_choice
from spice_enterprise.selfplay.contracts import Read, asked_in, pair_in, read_format, read_full
from spice_enterprise.selfplay.options import distractors
from spice_enterprise.selfplay.prompts import Contract, Decoding
from spice_enterprise.selfplay.spans import Hint, find_hints, sentence_around

__all__ = ["Plan", "Proposal", "drawn_format", "format_prompt", "plan_chunk", "read_format", "read_proposal"]

FREE_FORM_SHARE: Final = 0.5
"""Share of chunks played in free form where both formats are on."""
HARD_OPENERS: Final = ("Which defined term", "What is the name of the", "What is the")
"""Openers of the values that are offered last."""
FORMAT_TOKENS: Final = 192
"""Most new tokens of the choice of a format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one round asks about one chunk. `hint` None: the model finds the answer itself."""

    chunk: Chunk
    task_format: TaskFormat
    regime: Regime
    hint: Hint | None
    prompt: Prompt
    contract: Contract = "short"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What one challenger completion proposes."""

    question: str = field(repr=False)
    answer: str = field(repr=False)
    """With `options` the text of the right one."""
    answer_kind: AnswerKind
    quotes: tuple[str, ...] = field(default=(), repr=False)
    """What the model says stands in the chunk; the short contract has none."""
    options: tuple[str, ...] = field(default=(), repr=False)
    """Options the model wrote itself; empty where code makes them."""
    code: str = ""
    """Why it could not be read as its contract demands: `unparsable`, `schema` or `type`; else empty."""


def drawn_format(chunk: Chunk, config: SelfplayConfig, *, seed: int, step: int) -> TaskFormat | None:
    """Return the format of a chunk's turn, or None when the model is to choose it."""
    if config.formats == "model":
        return None
    if config.formats != "both":
        return config.formats
    return "free_form" if stream(seed, step, chunk.chunk_id, "format").random() < FREE_FORM_SHARE else "choice"


def format_prompt(chunk: Chunk, config: SelfplayConfig) -> Prompt:
    """Return the call in which the model chooses the format; `read_format` reads what it says."""
    decoding = Decoding(max_new_tokens=FORMAT_TOKENS, temperature=config.temperature)
    return format_choice(chunk.text if config.grounding == "corpus" else None, decoding=decoding)


def plan_chunk(  # noqa: PLR0913 - a draw is named by seed, step and round; format and regime are the caller's choices
    chunk: Chunk,
    pool: Sequence[Hint],
    config: SelfplayConfig,
    *,
    regime: Regime,
    seed: int,
    step: int,
    round_number: int,
    task_format: TaskFormat,
) -> Plan:
    """Choose the offered span for one chunk and round, from the seed alone, and word the prompt.

    A chunk without any findable value is asked the open way, whatever `hint` says. Under the short contract, whose options
    code makes, a chunk all of whose values lack wrong ones in `pool` is asked in free form, unless choices alone are on:
    what is proposed is then refused for want of options.
    """
    hints = _offered(chunk, config, stream(seed, step, chunk.chunk_id, "span"))
    if task_format == "choice" and config.contract != "full":
        choosable = [hint for hint in hints if distractors(hint.value, hint.kind, pool)]
        task_format = "choice" if choosable or not hints or config.formats == "choice" else "free_form"
        hints = choosable or hints
    hint = hints[round_number % len(hints)] if hints else None
    return Plan(
        chunk=chunk,
        task_format=task_format,
        regime=regime,
        hint=hint,
        prompt=_worded(chunk, hint, config, task_format, regime),
        contract="full" if config.contract == "full" else "short",
    )


def _offered(chunk: Chunk, config: SelfplayConfig, draws: random.Random) -> list[Hint]:
    """Return the values in the order of the rounds: measures and dates, then defined terms, names, and bare numbers last.

    A question about a measure names what is measured; a question about a name needs to know what the name stands for,
    which small models mostly invent.
    """
    if config.hint != "span" or config.grounding == "none":
        return []
    hints = list(find_hints(chunk.text))
    if config.hint_values == "measures":
        hints = [hint for hint in hints if is_measure(hint)] or hints
    draws.shuffle(hints)
    hints.sort(key=_rank)  # stable: shuffled within each
    return hints


def is_askable(chunk: Chunk, config: SelfplayConfig) -> bool:
    """True unless only measures are wanted and the chunk has none."""
    is_limited = config.hint == "span" and config.hint_values == "measures" and config.grounding == "corpus"
    return not is_limited or any(map(is_measure, find_hints(chunk.text)))


def is_measure(hint: Hint) -> bool:
    """True for dates, times, years, amounts, shares and counts: their question names what is measured."""
    return _rank(hint) == 0


def _rank(hint: Hint) -> int:
    """Return how hard it is to ask about such a value, by its opener."""
    return next((rank for rank, opener in enumerate(HARD_OPENERS, 1) if hint.opener == opener), 0)


def _worded(chunk: Chunk, hint: Hint | None, config: SelfplayConfig, task_format: TaskFormat, regime: Regime) -> Prompt:
    decoding = Decoding(max_new_tokens=config.challenger_tokens, temperature=config.temperature)
    passage = chunk.text if config.grounding == "corpus" else None
    if config.contract == "full":
        return challenger_full(passage, task_format, regime=regime, answer=hint.value if hint else "", decoding=decoding)
    if hint is None:
        return challenger_pair(passage, regime=regime, decoding=decoding)
    sentence = sentence_around(chunk.text, hint)
    return challenger_span(sentence, hint.value, opener=hint.opener, regime=regime, decoding=decoding)


def read_proposal(plan: Plan, completion: Completion) -> Proposal:
    """Read one completion as the plan's contract demands; never raises."""
    if plan.contract == "full":
        offered, kind = (plan.hint.value, plan.hint.kind) if plan.hint else ("", "text")
        return _proposal(read_full(completion.text, plan.task_format, offered=offered, offered_kind=kind))
    text = plan.prompt.prefill + completion.text
    if plan.hint is not None:
        question, answer, kind = asked_in(text), plan.hint.value, plan.hint.kind
    else:
        question, answer = pair_in(text)
        kind = kind_of(answer)
    is_read = bool(question and answer)
    return Proposal(question=question if is_read else "", answer=answer, answer_kind=kind, code="" if is_read else "unparsable")


def _proposal(read: Read) -> Proposal:
    return Proposal(
        question=read.question,
        answer=read.answer,
        answer_kind=read.answer_kind,
        quotes=read.quotes,
        options=read.options,
        code=read.code,
    )
