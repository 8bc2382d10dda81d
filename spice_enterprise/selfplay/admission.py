"""Is a proposal fit to train on? Ordered checks, cheapest first.

In: a proposal, what it was asked for, and the archive of the run.
Out: `""` when it is admitted, else the reason code of the first check that refuses it.
Refuses: what `CHECKS` lists, in that order.
Not here: a model's opinion. No vote of the model in training decides what it is trained on; the frozen base is asked
    elsewhere (`base_check.py`) about what passed here.

unparsable, schema, type  no question or answer, or not what the contract demands (`contracts.py`)
placeholder          the answer stands for a removed value, or question or answer are the template's own words
boolean              the answer is yes, no, true or false: whoever flips a coin is right half of the time
injection            it repeats an order to a model, or a token of a chat template
reference            it points at "the text", or at "this agreement" where nobody sees one
shape                too short, too long, no question, an answer of many words, or options where there should be none
options              the options are not four different ones, one gives itself away, or one is a passage rather than an answer
giveaway             the question says the answer
quote                a quote does not stand in the chunk, or all of them are scraps
answer_not_in_chunk  the answer does not stand in the chunk
off_topic            no more than half of its content words stand in the chunk
copy                 a long question that is mostly copied word for word; where the Reasoner may not see the chunk, an option with
                     a span of it, and in closed book a question with one
duplicate            the archive has this very task already

What must stand in the chunk. Under the full contract an answer may be derived (a sum, a deadline, the option that follows):
that is what `self_contained` is for, so it need not stand anywhere; its quotes must. Where there are no quotes (the short
contract) or code offered the answer, the answer itself must stand there. What only an order to a model says does not count.
With `grounding: none` there is no chunk, so the checks that read it are left out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from string import punctuation
from typing import Final

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.selfplay.answers import kind_of, normalise, read_boolean, read_number
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.challenger import Plan, Proposal
from spice_enterprise.selfplay.contracts import CHOICE_FIELDS, FREE_FORM_FIELDS, are_distinct, split_options
from spice_enterprise.selfplay.injection import is_order, without_orders
from spice_enterprise.selfplay.spans import PLACEHOLDER

MIN_QUESTION_CHARS: Final = {"short": 12, "full": 60}
MAX_QUESTION_CHARS: Final = {"short": 240, "full": 2_000}
"""A question of the full contract states every fact that is needed."""
MAX_ANSWER_CHARS: Final = 80
MAX_ANSWER_WORDS: Final = {"short": 6, "full": 3}
"""Of a text answer. Values that code offers have up to six words."""
MIN_QUOTE_WORDS: Final = 3
MAX_LENGTH_RATIO: Final = 1.5
SHORT_DIFFERENCE_CHARS: Final = 4
"""Options whose lengths differ by no more say nothing by it: "5 %" and "12.5 %"."""
TOPIC_SHARE: Final = 0.5
COPY_NGRAM: Final = 4
COPY_MIN_WORDS: Final = 12
MAX_COPY_SHARE: Final = 0.6
SPAN_WORDS: Final = 8
"""So many words of a chunk in a row are a piece of it, not a fact."""
STEM: Final = 5
"""Words count as the same when their first letters agree: "pays", "payment" and "pay" are one matter."""

_SLICE_WORDS: Final = 200
_MARKS: Final = punctuation + "\u201c\u201d\u2018\u2019\u201e\u201a\u00ab\u00bb\u2013\u2014\u2026"
_TEMPLATE_WORDS: Final = frozenset(
    {"", "answer", "your answer", "short answer", "correct answer", "final answer", "solution", "your solution", "question"}
    | {"your question", "none", "n a", "unknown", "null", "string", "integer", "float", "expression", "answer here", "xxx"}
    | {normalise(description) for fields in (CHOICE_FIELDS, FREE_FORM_FIELDS) for description in fields.values()}
)
_REFERENCE: Final = re.compile(
    r"\b(?:according to|in|from|by|of|on|per|based on) (?:the|this|that) (?:given |provided |above |following |original )?"
    r"(?:text|passage|document|sentence|paragraph|excerpt|extract|article|snippet|context(?! of))\b"
    r"|\b(?:the|this) (?:passage|excerpt|extract|study|above|hints?)\b"
    r"|\b(?:mentioned|stated|described|listed|given|shown|quoted|provided) (?:above|below|here)\b|\bas (?:mentioned|stated) in\b"
    r"|\b(?:tables?|figures?|fig\.?|sections?|chapters?|appendix|exhibits?|footnotes?) \(?\d"
    r"|\b(?:hardening_process|hardening process|relevant_quotes|answer_quote|identified_\w+)\b",
    re.IGNORECASE,
)
_UNSEEN: Final = re.compile(
    r"\bthis (?:agreement|contract|lease|report|letter|e-?mail|memo(?:randum)?|policy|page|deed|statement|table|article|list)\b",
    re.IGNORECASE,
)
"""Points at a document that is not on the table, unless the Reasoner is given passages."""
_OPTION_BY_PLACE: Final = re.compile(
    r"\b(?:all|none|both|neither|any|some) of (?:the|these|those) ?(?:above|below|others?|options|answers|choices)?\b"
    r"|^(?:both |either |neither )?(?:options? )?\(?[A-D]\)? (?:and|or|nor) \(?[A-D]\)?$"
)
"""Means another one once the options are shuffled."""
_ORDINAL: Final = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b")
_FUNCTION_WORD: Final = re.compile(
    r"the|and|for|are|was|were|has|have|had|does|did|will|would|shall|should|can|could|may|might|must|been|being|that"
    r"|this|these|those|with|from|into|per|what|when|where|which|who|whom|whose|why|how|many|much|long|often|name|time"
    r"|date|number|percentage|you|your|they|their|there|its|his|her|our|any|all|each|every|not|but|than|then|about"
    r"|after|before|during|under|over|between"
)
"""What every question has; it says nothing about the matter."""


def refusal(proposal: Proposal, plan: Plan, *, config: SelfplayConfig, archive: Archive) -> str:
    """Return why `proposal` is refused, or `""`. Looks at the archive but does not change it.

    With `admission: parsable` only what cannot be read is refused, as in the paper.
    """
    if proposal.code or not proposal.question or not proposal.answer:
        return proposal.code or "unparsable"
    if config.admission == "parsable":
        return ""
    for check in CHECKS:
        if (config.grounding == "corpus" or not check.reads_chunk) and check.refuses(proposal, plan):
            return check.code
    is_held = archive.holds(chunk_id=plan.chunk.chunk_id, question=proposal.question, regime=plan.regime)
    return "duplicate" if is_held else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a single proposal."""

    code: str
    refuses: Callable[[Proposal, Plan], bool]
    reads_chunk: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """A chunk as the checks read it, without orders to a model."""

    plain: str = field(repr=False)
    """Case folded, in one line."""
    words: str = field(repr=False)
    """Its words without marks, with a space at both ends."""
    whole: str = field(repr=False)
    """As `_in_words` has it, orders to a model included."""
    stems: frozenset[str] = field(repr=False)


@lru_cache(maxsize=32)
def _ground(text: str) -> _Ground:
    told = without_orders(text).split()
    slices = (told[i : i + _SLICE_WORDS] for i in range(0, len(told), _SLICE_WORDS))  # `normalise` reads so much at a time
    words = " ".join(normalise(" ".join(part)) for part in slices)
    stems = frozenset(word[:STEM] for word in words.split())
    return _Ground(plain=" ".join(told).casefold(), words=f" {words} ", whole=_in_words(text), stems=stems)


def _in_words(text: str) -> str:
    """Return what stands between white space, case folded and without marks at its ends, with a space at both ends."""
    return f" {' '.join(word.strip(_MARKS) or word for word in text.casefold().split())} "


def _stands_in(ground: _Ground, part: str) -> bool:
    """True when `part` stands in the chunk but for white space and case, not as a piece of a longer word or number."""
    plain = " ".join(part.casefold().split())
    found = ground.plain.find(plain)
    while found >= 0:
        before, after = ground.plain[max(found - 2, 0) : found], ground.plain[found + len(plain) :][:2]
        if not _BEGUN.search(before + plain[:1]) and not _GOES_ON.match(plain[-1:] + after):
            return True
        found = ground.plain.find(plain, found + 1)
    return False


_BEGUN: Final = re.compile(r"\w\w$|\d[.,]\d$")
_GOES_ON: Final = re.compile(r"\w\w|\d[.,]\d")


def _is_placeholder(proposal: Proposal, plan: Plan) -> bool:
    # a model may quote what stands for a removed value without its brackets
    names = {match.group()[1:-1] for match in PLACEHOLDER.finditer(plan.chunk.text)}
    values = (proposal.answer, *proposal.options)
    is_removed = any(PLACEHOLDER.search(value) or any(name in value for name in names) for value in values)
    own_words = {normalise(text).strip(" .") for text in (proposal.answer, proposal.question.rstrip("?"))}
    return is_removed or bool(own_words & _TEMPLATE_WORDS)


def _is_boolean(proposal: Proposal, plan: Plan) -> bool:
    """Among options too: where one is yes and one is no, nobody takes the others."""
    return read_boolean(proposal.answer) is not None


def _is_order(proposal: Proposal, plan: Plan) -> bool:
    return any(map(is_order, (proposal.question, proposal.answer, *proposal.options)))


def _is_reference(proposal: Proposal, plan: Plan) -> bool:
    is_unseen = plan.regime != "open_book" and _UNSEEN.search(proposal.question)
    return bool(is_unseen or _REFERENCE.search(proposal.question))


def _is_misshapen(proposal: Proposal, plan: Plan) -> bool:
    question, answer = proposal.question, proposal.answer
    fits = MIN_QUESTION_CHARS[plan.contract] <= len(question) <= MAX_QUESTION_CHARS[plan.contract]
    is_question = question.endswith("?") or plan.contract == "full"  # "Compute ..." will do there
    has_options = bool(split_options(question)[1])  # those of a choice were taken out of it
    return not (fits and is_question) or has_options or (not proposal.options and _is_long(answer, plan))


def _is_long(answer: str, plan: Plan) -> bool:
    return len(answer) > MAX_ANSWER_CHARS or (
        kind_of(answer) == "text" and plan.hint is None and len(answer.split()) > MAX_ANSWER_WORDS[plan.contract]
    )


def _has_bad_options(proposal: Proposal, plan: Plan) -> bool:
    options = proposal.options
    if not options:
        return False  # code makes them, and refuses where it cannot
    if not are_distinct(options) or proposal.answer not in options or max(map(len, options)) > MAX_ANSWER_CHARS:
        return True
    shortest, longest = min(map(len, options)), max(map(len, options))
    is_uneven = longest > max(MAX_LENGTH_RATIO * shortest, shortest + SHORT_DIFFERENCE_CHARS)
    return is_uneven or any(_gives_itself_away(option, proposal.question) for option in options)


def _gives_itself_away(option: str, question: str) -> bool:
    """A lone letter, an option that names others by their place, or words of the question; a number may well stand there."""
    if re.fullmatch(r"\(?[A-Za-z][).]?", option) or _OPTION_BY_PLACE.search(option):
        return True
    return kind_of(option) == "text" and _is_said(option, question)


def _is_said(value: str, question: str) -> bool:
    return f" {normalise(value)} " in f" {normalise(question)} "


_SAID_NUMBER: Final = re.compile(r"\d[\d.,]*|\b(?!(?i:one)\b)[A-Za-z]{3,9}(?:-[a-z]{3,5})?\b")
"""A number in a question, in digits or as a word; "one" is seldom meant as one."""


def _is_giveaway(proposal: Proposal, plan: Plan) -> bool:
    question, answer = normalise(proposal.question), normalise(proposal.answer)
    if _is_said(proposal.answer, proposal.question):
        return True
    if proposal.answer_kind == "date" and set(answer.split()) <= set(_ORDINAL.sub(r"\1", question).split()):
        return True
    quantity = read_number(proposal.answer)
    numbers = _SAID_NUMBER.findall(proposal.question) if quantity else []
    return any((said := read_number(number.rstrip(".,"))) and said.value == quantity.value for number in numbers if quantity)


def _is_misquoted(proposal: Proposal, plan: Plan) -> bool:
    if not proposal.quotes:
        return False
    ground = _ground(plan.chunk.text)
    is_scraps = all(len(quote.split()) < MIN_QUOTE_WORDS for quote in proposal.quotes)
    return is_scraps or not all(_stands_in(ground, quote) for quote in proposal.quotes)


def _is_ungrounded(proposal: Proposal, plan: Plan) -> bool:
    value = proposal.answer if plan.hint is None else plan.hint.value
    is_derived = plan.hint is None and bool(proposal.quotes)
    return not is_derived and not _stands_in(_ground(plan.chunk.text), value)


def _is_off_topic(proposal: Proposal, plan: Plan) -> bool:
    known = _ground(plan.chunk.text).stems
    asked = [word for word in normalise(proposal.question).split() if len(word) > 2 and not _FUNCTION_WORD.fullmatch(word)]
    return sum(word[:STEM] in known for word in asked) <= TOPIC_SHARE * len(asked)


def _is_copy(proposal: Proposal, plan: Plan) -> bool:
    ground, unseen = _ground(plan.chunk.text), () if plan.regime == "open_book" else proposal.options
    if plan.regime == "closed_book":
        unseen = (proposal.question, *unseen)
    return any(_holds_span(ground, text) for text in unseen) or _is_mostly_copied(ground, proposal.question)


def _holds_span(ground: _Ground, text: str) -> bool:
    words = _in_words(text).split()
    return any(f" {' '.join(words[i : i + SPAN_WORDS])} " in ground.whole for i in range(len(words) - SPAN_WORDS + 1))


def _is_mostly_copied(ground: _Ground, question: str) -> bool:
    words = normalise(question).split()
    if len(words) < COPY_MIN_WORDS:
        return False  # a short fact cannot be asked for without its own words
    grams = [" ".join(words[i : i + COPY_NGRAM]) for i in range(len(words) - COPY_NGRAM + 1)]
    return sum(f" {gram} " in ground.words for gram in grams) >= MAX_COPY_SHARE * len(grams)


CHECKS: Final = (
    Check(code="placeholder", refuses=_is_placeholder),
    Check(code="boolean", refuses=_is_boolean),
    Check(code="injection", refuses=_is_order),
    Check(code="reference", refuses=_is_reference),
    Check(code="shape", refuses=_is_misshapen),
    Check(code="options", refuses=_has_bad_options),
    Check(code="giveaway", refuses=_is_giveaway),
    Check(code="quote", refuses=_is_misquoted, reads_chunk=True),
    Check(code="answer_not_in_chunk", refuses=_is_ungrounded, reads_chunk=True),
    Check(code="off_topic", refuses=_is_off_topic, reads_chunk=True),
    Check(code="copy", refuses=_is_copy, reads_chunk=True),
)
"""Every check of a single proposal, in order; `duplicate` follows, because it asks the archive."""
