"""Values that stand verbatim in a passage and could be answers, found by code.

In: scrubbed text.
Out: `Hint`s in text order (dates, amounts, shares, measures, identifiers, table cells, names), the sentence around one, and
the words a question about it begins with.
Refuses: placeholders of removed values, overlaps, repeats, anything long.
Not here: which value is offered (`challenger.py`), wrong options made from values (`options.py`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.records import AnswerKind, ScrubbedText
from spice_enterprise.selfplay.answers import kind_of, read_number

MAX_HINT_WORDS: Final = 6
MAX_HINT_CHARS: Final = 60
MIN_CONTEXT_WORDS: Final = 2
"""Words a sentence must have besides the value: a lone heading or a header of a mail gives nothing to ask about."""

PLACEHOLDER: Final = re.compile(r"\[[A-Z][A-Z_]*(?:_[0-9A-Za-z]+)?\]")
"""What scrubbing leaves where it removed a value; never an answer."""

_MONTH: Final = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_AMOUNT: Final = r"(?<![\w.,/:-])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?: (?:thousand|million|billion))?"
_UNIT: Final = r"(?:[a-z]{2,12} )?(?:[a-z]{2,14}s|bar|kg|km|mm|cm|ml|kW|kWh|MB|GB|TB|Days|Hours)"
_NOT_A_NAME: Final = (
    r"(?!(?:The|This|That|These|Those|Section|Article|Exhibit|Schedule|Appendix|Agreement|Company|Party|Parties|Source|Dr|Mr|Mrs|Ms|Inc"
    r"|January|February|March|April|May|June|July|August|September|October|November|December)\b)"
)
_NAME: Final = rf"\b{_NOT_A_NAME}[A-Z][\w&-]*[a-z0-9]\b"
_TIME: Final = re.compile(r"\b\d{1,2}:\d{2}(?: ?[ap]m)?\b")
_SENTENCE_END: Final = re.compile(r"[.!?;](?=\s+[A-Z0-9\"'(\[])|\n")
_FINDERS: Final = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"\b\d{{1,2}} {_MONTH} \d{{4}}\b|\b{_MONTH} \d{{1,2}}, \d{{4}}\b",
        r"\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}\.\d{1,2}\.\d{4}\b",
        r"(?:^|[.;] )[A-Z][\w /()-]{1,30}: (?P<value>[^\s:;.][^:;.\n]{0,50}?)(?=[.;]?(?:\s|$))",
        r"\b[A-Z]{1,6}[-/]?\d[\dA-Za-z]*(?:[-/]\w+)*\b|\b[A-Z]{2,6} \d+\b",
        r"[€$£]\s?\d[\d,]*(?:\.\d+)?(?: (?:thousand|million|billion))?\b",
        rf"{_AMOUNT} ?(?:euros?|dollars?|pounds|EUR|USD|GBP|CHF)\b",
        rf"{_AMOUNT} ?(?:%|percent\b)",
        rf"{_AMOUNT} {_UNIT}\b",
        _TIME.pattern,
        rf"{_NAME}(?: (?:of |de )?{_NAME}){{1,3}}(?: \d+)?|{_NAME} \d+\b",
        rf"(?<=[a-z,;] ){_NAME}",
        rf"{_AMOUNT}(?<=\d\d)(?![\w%:/-]|[,.]\d)",
    )
)
"""Cheap and certain first: dates, `key: value` cells, identifiers, amounts, shares, measures, times, names, bare numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A value that stands verbatim in a chunk: `text[start:start + len(value)]`."""

    start: int
    value: str = field(repr=False)
    kind: AnswerKind


def find_hints(text: ScrubbedText) -> tuple[Hint, ...]:
    """Return the values that could be answers, in text order, without overlaps, repeats and placeholders."""
    taken = [match.span() for match in PLACEHOLDER.finditer(text)]
    hints: dict[str, Hint] = {}
    for start, value in _candidates(text):
        end = start + len(value)
        if any(start < stop and begin < end for begin, stop in taken) or not _is_short(value):
            continue
        taken.append((start, end))
        hint = Hint(start=start, value=value, kind=kind_of(value))
        if _says_something(sentence_around(text, hint), value):
            hints.setdefault(value.casefold(), hint)
    return tuple(sorted(hints.values(), key=lambda hint: hint.start))


def _candidates(text: str) -> Iterator[tuple[int, str]]:
    for finder in _FINDERS:
        for match in finder.finditer(text):
            group = "value" if "value" in finder.groupindex else 0
            yield match.start(group), match.group(group)


def _is_short(value: str) -> bool:
    return 1 <= len(value.split()) <= MAX_HINT_WORDS and len(value) <= MAX_HINT_CHARS


def _says_something(sentence: str, value: str) -> bool:
    rest = PLACEHOLDER.sub(" ", sentence).replace(value, " ")
    return len(re.findall(r"[A-Za-z]{2,}", rest)) >= MIN_CONTEXT_WORDS


def sentence_around(text: str, hint: Hint) -> str:
    """Return the sentence or line of `text` that holds `hint`, in one line."""
    end = hint.start + len(hint.value)
    before = max((match.end() for match in _SENTENCE_END.finditer(text, 0, hint.start)), default=0)
    after = _SENTENCE_END.search(text, end)
    return " ".join(text[before : after.start() + 1 if after else len(text)].split())


def opener(hint: Hint) -> str:
    """Return how a question about `hint` begins: it settles what is asked for, the model what it is asked about."""
    if hint.kind == "date":
        return "When"
    if _TIME.fullmatch(hint.value):
        return "At what time"
    quantity = read_number(hint.value)
    if quantity is None:
        return "What is the name of the" if hint.value.replace(" ", "").isalpha() else "What is the"
    if quantity.unit == "%":
        return "What percentage"
    if quantity.unit in ("eur", "usd", "gbp", "chf"):
        return "How much"
    words = re.search(r"[a-z].*", hint.value, re.IGNORECASE)
    return f"How many {words.group()}" if words else "What is the"
