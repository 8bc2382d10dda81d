"""Is a proposal fit to train on? Ordered checks, cheapest first.

In: a proposal, its chunk and the archive of the run.
Out: `""` when it is admitted, else the reason code of the first check that refuses it.
Refuses: what `CHECKS` lists, in that order.
Not here: a model's opinion. No vote of the model in training decides what it is trained on.

unparsable           no question or no answer could be read
placeholder          the answer is a placeholder of a removed value or the template's own words
answer_not_in_chunk  the answer does not stand in the chunk
giveaway             the question says the answer
reference            the question points at "the text" instead of asking about the matter
shape                too short, too long, or no question mark
off_topic            no more than half of its content words stand in the chunk
copy                 a long question that is mostly copied word for word
duplicate            the archive has this very task already
"""

import re
from collections.abc import Callable
from typing import Final

from spice_enterprise.records import Chunk, Regime
from spice_enterprise.selfplay.answers import normalise, read_number
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.challenger import Proposal
from spice_enterprise.selfplay.spans import PLACEHOLDER

MIN_QUESTION_CHARS: Final = 12
MAX_QUESTION_CHARS: Final = 240
MAX_ANSWER_CHARS: Final = 80
TOPIC_SHARE: Final = 0.5
COPY_NGRAM: Final = 4
COPY_MIN_WORDS: Final = 12
MAX_COPY_SHARE: Final = 0.6
STEM: Final = 5
"""Words count as the same when their first letters agree: "pays", "payment" and "pay" are one matter."""

_TEMPLATE_WORDS: Final = frozenset(
    {"", "answer", "your answer", "short answer", "solution", "question", "none", "n a", "unknown"}
)
_REFERENCE: Final = re.compile(
    r"\b(?:according to|in|from|by|of|based on) (?:the|this|that) (?:given |above |following )?"
    r"(?:text|passage|document|sentence|paragraph|excerpt|article)\b"
    r"|\b(?:the|this) (?:passage|excerpt|study|above)\b|\bmentioned above\b|\b(?:table|figure|fig\.?|section) \d",
    re.IGNORECASE,
)
_ORDINAL: Final = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b")
_FUNCTION_WORD: Final = re.compile(
    r"the|and|for|are|was|were|has|have|had|does|did|will|would|shall|should|can|could|may|might|must|been|being|that"
    r"|this|these|those|with|from|into|per|what|when|where|which|who|whom|whose|why|how|many|much|long|often|name|time"
    r"|date|number|percentage|you|your|they|their|there|its|his|her|our|any|all|each|every|not|but|than|then|about"
    r"|after|before|during|under|over|between"
)
"""What every question has; it says nothing about the matter."""


def refusal(proposal: Proposal, chunk: Chunk, *, regime: Regime, archive: Archive) -> str:
    """Return why `proposal` is refused, or `""`. Looks at the archive but does not change it."""
    if not proposal.question or not proposal.answer:
        return "unparsable"
    for code, refuses in CHECKS:
        if refuses(proposal, chunk.text):
            return code
    return "duplicate" if archive.holds(chunk_id=chunk.chunk_id, question=proposal.question, regime=regime) else ""


def _is_placeholder(proposal: Proposal, text: str) -> bool:
    return bool(PLACEHOLDER.search(proposal.answer)) or normalise(proposal.answer).strip(" .") in _TEMPLATE_WORDS


def _is_ungrounded(proposal: Proposal, text: str) -> bool:
    return " ".join(proposal.answer.casefold().split()) not in " ".join(text.casefold().split())


def _is_giveaway(proposal: Proposal, text: str) -> bool:
    question, answer = normalise(proposal.question), normalise(proposal.answer)
    if f" {answer} " in f" {question} ":
        return True
    if proposal.answer_kind == "date" and set(answer.split()) <= set(_ORDINAL.sub(r"\1", question).split()):
        return True
    quantity = read_number(proposal.answer)
    numbers = re.findall(r"\d[\d.,]*", proposal.question) if quantity else []
    return any((said := read_number(number.rstrip(".,"))) and said.value == quantity.value for number in numbers if quantity)


def _is_reference(proposal: Proposal, text: str) -> bool:
    return _REFERENCE.search(proposal.question) is not None


def _is_misshapen(proposal: Proposal, text: str) -> bool:
    question = proposal.question
    fits = MIN_QUESTION_CHARS <= len(question) <= MAX_QUESTION_CHARS and len(proposal.answer) <= MAX_ANSWER_CHARS
    return not fits or not question.endswith("?")


def _is_off_topic(proposal: Proposal, text: str) -> bool:
    known = {word[:STEM] for word in normalise(text).split()}
    asked = [word for word in normalise(proposal.question).split() if len(word) > 2 and not _FUNCTION_WORD.fullmatch(word)]
    return sum(word[:STEM] in known for word in asked) <= TOPIC_SHARE * len(asked)


def _is_copy(proposal: Proposal, text: str) -> bool:
    words = normalise(proposal.question).split()
    if len(words) < COPY_MIN_WORDS:
        return False  # a short fact cannot be asked for without its own words
    source = f" {normalise(text)} "
    grams = [" ".join(words[i : i + COPY_NGRAM]) for i in range(len(words) - COPY_NGRAM + 1)]
    return sum(f" {gram} " in source for gram in grams) >= MAX_COPY_SHARE * len(grams)


CHECKS: Final[tuple[tuple[str, Callable[[Proposal, str], bool]], ...]] = (
    ("placeholder", _is_placeholder),
    ("answer_not_in_chunk", _is_ungrounded),
    ("giveaway", _is_giveaway),
    ("reference", _is_reference),
    ("shape", _is_misshapen),
    ("off_topic", _is_off_topic),
    ("copy", _is_copy),
)
"""Every check of a single proposal, in order: (reason code, refuses it?)."""
