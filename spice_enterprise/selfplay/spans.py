"""Values that stand verbatim in a passage and could be answers, found by code.

In: scrubbed text.
Out: `Hint`s in text order (dates, amounts, shares, measures, times, years, defined terms, identifiers, table cells, names),
each with the words a question about it begins with; the sentence around one.
Refuses: placeholders of removed values, overlaps, repeats, anything long, yes and no.
Not here: which value is offered (`challenger.py`), wrong options made from values (`options.py`).

Time is linear in the text, whatever stands in it: every repetition in a pattern is bounded, and a sentence is looked for no
further than `REACH` characters from the value.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.records import AnswerKind
from spice_enterprise.selfplay.answers import kind_of

MAX_HINT_WORDS: Final = 6
MAX_HINT_CHARS: Final = 60
MIN_CONTEXT_WORDS: Final = 2
"""Words a sentence must have besides the value: a lone heading or a header of a mail gives nothing to ask about."""
MAX_CHARS: Final = 100_000
"""Most characters looked at: no chunk is near as long, and hostile text costs no more than seconds."""
REACH: Final = 120
"""Most characters of a sentence shown before and after the value."""

PLACEHOLDER: Final = re.compile(r"\[[A-Z][A-Z_]{0,40}(?:_[0-9A-Za-z]{1,4096})?\]")
"""What scrubbing leaves where it removed a value; never an answer."""

_MONTH: Final = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_AMOUNT: Final = (
    r"(?<![\w.,/:-])(?:\d{1,3}(?:,\d{3}){1,5}(?:\.\d{1,6})?|\d{1,15}(?:\.\d{1,6})?)(?: (?:thousand|million|billion))?"
)
_NO_UNIT: Final = (
    r"(?!(?:of|to|in|and|or|for|at|by|the|as|is|was|were|from|with|on|that|which|its|this|has|does|us|thus|less|plus|unless|always"
    r"|perhaps|across|versus|contains|includes|states|means|becomes|remains|begins|ends|provides|requires|appears)\b)"
)
_UNIT: Final = (
    rf"(?:{_NO_UNIT}[a-z]{{2,12}} )?{_NO_UNIT}(?:[a-z]{{2,14}}s|bar|kg|km|mm|cm|ml|kW|kWh|MB|GB|TB|Days|Hours|Months|Years)"
)
_COUNT: Final = r"one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|eighteen|twenty|thirty|forty|fifty|sixty|ninety"
_NOT_A_NAME: Final = (
    r"(?!(?:The|This|That|These|Those|Such|Any|All|Each|Section|Sections|Article|Exhibit|Schedule|Appendix|Agreement|Company|Party"
    r"|Parties|Source|Dr|Mr|Mrs|Ms|Inc|January|February|March|April|May|June|July|August|September|October|November|December)\b)"
)
_NOT_A_TERM: Final = r"(?<!\b[Tt]he )(?<!\b[Aa]ny )(?<!\b[Aa] )(?<!\beach )(?<!\bsuch )(?<!\bits )(?<!\ball )(?<!\bother )"
"""A single capitalised word after these is a defined term in use ("the Territory"), of which nothing is said."""
_BEFORE_YEAR: Final = r"[Ii]n|[Ss]ince|[Ff]rom|until|by|[Aa]fter|[Bb]efore|around|to|and|of|early|late"
_NAME: Final = rf"\b{_NOT_A_NAME}[A-Z][\w&-]{{0,30}}[a-z0-9]\b"
_TERM: Final = r"[\"\u201c](?P<value>[A-Z][\w&/' -]{1,48}\w)[\"\u201d]"
_CALLED: Final = r"(?:(?:the|an?|each,? an?|together,? the|collectively,? the|hereinafter(?: \w{1,12}){0,4}),? )?"
_SENTENCE_END: Final = re.compile(r"[.!?;](?=\s+[A-Z0-9\"'(\[\u201c])|\n")

_Opener = str | Callable[["re.Match[str]"], str]


def _how_many(match: "re.Match[str]") -> str:
    words = re.search(r"[A-Za-z].*", match.group("unit") if "unit" in match.re.groupindex else match.group())
    return f"How many {words.group().lower() if words and words.group().istitle() else words.group()}" if words else "What is the"


def _named(match: "re.Match[str]") -> str:
    return "What is the name of the" if match.group().replace(" ", "").isalpha() else "What is the"


_FINDERS: Final[tuple[tuple["re.Pattern[str]", _Opener], ...]] = tuple(
    (re.compile(pattern, re.MULTILINE), begins)
    for pattern, begins in (
        (rf"\b\d{{1,2}} {_MONTH} \d{{4}}\b|\b{_MONTH} \d{{1,2}}, \d{{4}}\b", "When"),
        (r"\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}\.\d{1,2}\.\d{4}\b", "When"),
        (rf"{_TERM}\s(?:shall mean|means|has the meaning|is defined as)\b", "Which defined term"),
        (rf"\({_CALLED}{_TERM}\)", "Which defined term"),
        (r"\b[A-Z]{1,6}[-/]?\d[\dA-Za-z]{0,20}(?:[-/]\w{1,20}){0,6}\b|\b[A-Z]{2,6} \d{1,12}\b", "What is the"),
        (r"[€$£]\s?\d[\d,]{0,20}(?:\.\d{1,6})?(?: (?:thousand|million|billion))?\b", "How much"),
        (rf"{_AMOUNT} ?(?:euros?|dollars?|pounds|EUR|USD|GBP|CHF)\b", "How much"),
        (rf"{_AMOUNT} ?(?:%|percent\b)", "What percentage"),
        (r"(?<=\()(?P<value>\d{1,4})\)\s(?P<unit>(?:[a-z]{2,12} )?(?:[a-z]{2,14}s|Days|Months|Years|Hours))\b", _how_many),
        (rf"{_AMOUNT} {_UNIT}\b", _how_many),
        (rf"\b(?:{_COUNT})(?:-[a-z]{{3,5}})? (?P<unit>days|weeks|months|years|hours)\b", _how_many),
        (r"\b\d{1,2}:\d{2}(?: ?[ap]m)?\b", "At what time"),
        (r"(?:^|[.;] )[A-Z][\w /()-]{1,30}: (?P<value>[^\s:;][^:;\n]{0,50}?)(?=\s*(?:;|\.?$|\.\s))", "What is the"),
        (rf"\b(?:{_BEFORE_YEAR})\s(?P<value>1\d{{3}}|20\d{{2}})(?![\w%:/-]|[,.]\d)", "In what year"),
        (rf"{_NAME}(?: (?:of |de )?{_NAME}){{1,3}}(?: \d{{1,6}})?|{_NAME} \d{{1,6}}\b", _named),
        (rf"(?<=[a-z,;] ){_NOT_A_TERM}{_NAME}(?![\w /()-]{{0,30}}: )", _named),
        (rf"{_AMOUNT}(?<=\d\d)(?![\w%:/-]|[,.]\d)", "What is the"),
    )
)  # fmt: skip
"""Cheap and certain first: what an earlier one takes, a later one leaves alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A value that stands verbatim in a chunk: `text[start:start + len(value)]`."""

    start: int
    value: str = field(repr=False)
    kind: AnswerKind
    opener: str = field(default="What is the", repr=False)
    """How a question about it begins: it settles what is asked for, the model what it is asked about."""
    chunk_id: str = ""
    """The chunk it stands in, where the values of several stand together."""


def find_hints(text: str) -> tuple[Hint, ...]:
    """Return the values that could be answers, in text order, without overlaps, repeats and placeholders."""
    shown = text[:MAX_CHARS]
    taken = bytearray(len(shown))
    for match in PLACEHOLDER.finditer(shown):
        taken[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    hints: dict[str, Hint] = {}
    for start, value, begins in _candidates(shown):
        end = start + len(value)
        if not _is_short(value) or 1 in taken[start:end]:
            continue
        taken[start:end] = b"\1" * len(value)
        hint = Hint(start=start, value=value, kind=kind_of(value), opener=begins)
        if hint.kind != "boolean" and value.casefold() not in hints and _says_something(sentence_around(shown, hint), value):
            hints[value.casefold()] = hint
    return tuple(sorted(hints.values(), key=lambda hint: hint.start))


def _candidates(text: str) -> Iterator[tuple[int, str, str]]:
    for finder, begins in _FINDERS:
        group = "value" if "value" in finder.groupindex else 0
        for match in finder.finditer(text):
            yield match.start(group), match.group(group), begins if isinstance(begins, str) else begins(match)


def _is_short(value: str) -> bool:
    return 1 <= len(value.split()) <= MAX_HINT_WORDS and len(value) <= MAX_HINT_CHARS


def _says_something(sentence: str, value: str) -> bool:
    rest = PLACEHOLDER.sub(" ", sentence).replace(value, " ")
    return len(re.findall(r"[A-Za-z]{2,}", rest)) >= MIN_CONTEXT_WORDS


def sentence_around(text: str, hint: Hint) -> str:
    """Return the sentence or line of `text` that holds `hint`, in one line, at most `REACH` characters to each side."""
    end = hint.start + len(hint.value)
    begin, stop = max(0, hint.start - REACH), min(len(text), end + REACH)
    before = max((match.end() for match in _SENTENCE_END.finditer(text, begin, hint.start)), default=-1)
    after = _SENTENCE_END.search(text, end, stop)
    head = text[before : hint.start] if before >= 0 else _cut(text[begin : hint.start], is_cut=begin > 0, side=0)
    tail = text[end : after.start() + 1] if after else _cut(text[end:stop], is_cut=stop < len(text), side=-1)
    return " ".join(f"{head}{hint.value}{tail}".split())


def _cut(part: str, *, is_cut: bool, side: int) -> str:
    """Drop a word that was cut through, at the beginning (`side` 0) or the end (-1) of `part`."""
    words = re.split(r"(?<=\s)", part) if side == 0 else re.split(r"(?=\s)", part)
    return "".join(words[1:] if side == 0 else words[:-1]) if is_cut and len(words) > 1 else part
