"""Find verbatim facts in scrubbed text: one value, standing in a sentence that says what it is.

In: the scrubbed text of a chunk.
Out: `Fact`s, in reading order: the value, its kind and the sentence around it.
Refuses: placeholders, values that stand twice in the text, values whose sentence does not say what they are.
Not here: which facts become questions (`exam.py`). No model takes part.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from spice_enterprise.records import AnswerKind

BLANK: Final = "____"

_MONTH: Final = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
)
_DIGITS: Final = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_UNITS: Final = (
    "days?|weeks?|months?|years?|hours?|minutes?|seconds?|kilometres?|kilometers?|km|metres?|meters?|miles?|feet|"
    "kilograms?|kg|tonnes?|tons?|litres?|liters?|hectares?|acres?|degrees|MW|GW|kW|kWh|GB|TB|MB|GHz|MHz|mm|cm|mg|ml|"
    "employees|people|units|shares|copies|pages|customers|students|members|seats|votes|points"
)


class _Pattern(NamedTuple):
    """One kind of value. `form` narrows the kind, so that distractors look like the answer."""

    kind: str
    answer_kind: AnswerKind
    regex: re.Pattern[str]


_PATTERNS: Final = (
    _Pattern(
        "date",
        "date",
        re.compile(rf"(?P<value>\d{{4}}-\d{{2}}-\d{{2}}|\d{{1,2}} {_MONTH}\.? \d{{4}}|{_MONTH}\.? \d{{1,2}}, \d{{4}})"),
    ),
    _Pattern(
        "amount",
        "number",
        re.compile(
            rf"(?P<value>(?P<form>US\$|[$€£¥]|(?:USD|EUR|GBP|CHF)(?= )) ?(?:{_DIGITS})(?: (?:thousand|million|billion))?)",
        ),
    ),
    _Pattern("percentage", "number", re.compile(rf"(?P<value>{_DIGITS})(?P<form> ?%| percent\b| per cent\b)")),
    _Pattern("quantity", "number", re.compile(rf"(?P<value>{_DIGITS})[ -](?P<form>{_UNITS})\b")),
    _Pattern("identifier", "text", re.compile(r"(?P<value>[A-Z]{2,8}(?:-[A-Z0-9]{1,10}){0,3}-\d[A-Z0-9]{1,11})")),
    _Pattern("year", "number", re.compile(r"(?<=\b(?:in|of|by) )(?P<value>(?:1\d|20)\d{2})(?![\d,.]\d|-)")),
    _Pattern("name", "text", re.compile(r"(?<=[a-z,;] )(?P<value>[A-Z][a-z]+(?: [A-Z][a-z]+){1,3})\b")),
)
_CELL: Final = re.compile(r"(?P<key>[A-Z][A-Za-z][A-Za-z /()'&-]{1,38}[A-Za-z)]): +(?P<value>[^\s:|][^:|\n]{0,38}?)[.;]?")
_PLACEHOLDER: Final = re.compile(
    r"\[[A-Z][A-Z_]{1,30}(?:_(?:[a-z0-9]{6,16}|HASH_[a-z2-7]{26}|ENC_[a-z2-7]{26,8192}))?\]|\bCANARY-[0-9a-f]+"
)
_BORDER: Final = re.compile(r"(?<=[.!?])[\"')\u201d]?\s+(?=[A-Z\"'(\u201c\[])|\n\s*\n|\n(?=\s*[^a-z\s])")
_ABBREVIATION: Final = re.compile(
    r"\b(?:Inc|Corp|Ltd|Co|Mr|Mrs|Ms|Dr|Prof|No|Nos|St|vs|Art|Sec|Fig|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|[A-Z])\.$"
)
_POINTER: Final = re.compile(r"(?:It|Its|He|She|His|Her|They|Their|This|These|That|Those|Such|Here|There)\b")
_WORD: Final = re.compile(r"[A-Za-z]{3,}")
MIN_WORDS: Final = 5
MIN_LEAD_WORDS: Final = 2
MAX_SENTENCE_CHARS: Final = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One value and where it stands. `form` narrows `kind` ("quantity" of "days")."""

    kind: str
    form: str = field(repr=False)
    answer_kind: AnswerKind
    value: str = field(repr=False)
    question: str = field(repr=False)
    """The sentence with the value replaced by `____`."""


def find_facts(text: str) -> list[Fact]:
    """Return the facts of one chunk in reading order, each value once."""
    facts = [fact for sentence in sentences(text) for fact in _facts_of(sentence)]
    return [fact for fact in facts if _is_led_up_to(fact) and _stands_once(fact.value, text) and not _is_given_away(fact)]


def values_of(text: str) -> list[tuple[str, str, str]]:
    """Return every (kind, form, value) of `text`, repeated or not: what a distractor may be drawn from."""
    return [(fact.kind, fact.form, fact.value) for sentence in sentences(text) for fact in _facts_of(sentence)]


def sentences(text: str) -> list[str]:
    """Cut at sentence ends and line borders; a line that goes on in lower case belongs to the one before."""
    pieces: list[str] = []
    start = 0
    for border in _BORDER.finditer(text):
        if _ABBREVIATION.search(text[start : border.start()]) and "\n" not in border.group():
            continue
        pieces.append(text[start : border.end()])
        start = border.end()
    pieces.append(text[start:])
    return [joined for piece in pieces if (joined := " ".join(piece.split()))]


def _facts_of(sentence: str) -> Iterator[Fact]:
    if cell := _CELL.fullmatch(sentence):
        if not _PLACEHOLDER.search(sentence):
            yield _cell_fact(cell["key"], cell["value"].strip())
        return
    if _names_its_subject(sentence):
        yield from _values_in(sentence)


def _cell_fact(key: str, value: str) -> Fact:
    kinds = (p for p in _PATTERNS if p.kind in ("date", "amount") and (m := p.regex.fullmatch(value)) and m["value"] == value)
    answer_kind = next((p.answer_kind for p in kinds), "number" if re.fullmatch(_DIGITS, value) else "text")
    return Fact(kind="cell", form=key.casefold(), answer_kind=answer_kind, value=value, question=f"{key}: {BLANK}")


def _values_in(sentence: str) -> Iterator[Fact]:
    """Yield the values of one sentence; an earlier pattern owns its characters."""
    taken = [match.span() for match in _PLACEHOLDER.finditer(sentence)]
    for pattern in _PATTERNS:
        for match in pattern.regex.finditer(sentence):
            start, end = match.span("value")
            if not _is_whole(sentence, start, end) or any(start < b and a < end for a, b in taken):
                continue
            taken.append(match.span())
            yield Fact(
                kind=pattern.kind,
                form=(match.groupdict().get("form") or "").strip().casefold().rstrip("s"),
                answer_kind=pattern.answer_kind,
                value=match["value"],
                question=sentence[:start] + BLANK + sentence[end:],
            )


def _is_whole(sentence: str, start: int, end: int) -> bool:
    """True when the match is no part of a longer word or number."""
    before, after = sentence[:start], sentence[end:]
    return not re.search(r"[\w$€£¥][.,/-]?$", before) and not re.match(r"\w|[.,/-]\d", after)


def _names_its_subject(sentence: str) -> bool:
    """True for a whole sentence that can be asked alone: ends as one, does not lean on the one before, says something."""
    is_whole = sentence[-1] in ".!?)\"'\u201d" and len(sentence) <= MAX_SENTENCE_CHARS
    is_asked_alone = sentence[0].isupper() or sentence[0] in "\"'(\u201c["
    return is_whole and is_asked_alone and not _POINTER.match(sentence) and len(_WORD.findall(sentence)) >= MIN_WORDS


def _is_led_up_to(fact: Fact) -> bool:
    """True when something stands before the blank that a model can go on from."""
    return fact.kind == "cell" or len(fact.question.split(BLANK)[0].split()) >= MIN_LEAD_WORDS


def _stands_once(value: str, text: str) -> bool:
    return len(re.findall(rf"(?<![\w.,]){re.escape(value)}(?![\w])(?![.,]\d)", " ".join(text.split()))) == 1


def _is_given_away(fact: Fact) -> bool:
    """True when the rest of the sentence holds the answer, or its digits."""
    rest, value = fact.question.casefold(), fact.value.casefold()
    digits = re.sub(r"\D", "", value)
    return value in rest or (len(digits) >= 2 and digits in re.sub(r"(?<=\d)[,.](?=\d)", "", rest))
