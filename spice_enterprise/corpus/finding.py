"""Everything in one document that is personal: settle what the detectors found, and find every other mention of it.

In: raw text and the detectors' overlapping spans.
Out: spans without overlap, and the mentions of everything found so far; which spellings are one person.
Refuses: nothing.
Not here: what looks personal in the first place (`detectors.py`, `presidio.py`), what is put in its place (`scrub.py`).
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from spice_enterprise.corpus.checks import NOT_NAMES
from spice_enterprise.corpus.detectors import INDIRECT_LABELS
from spice_enterprise.corpus.people import LOWER_PARTS, People, is_full, name_parts
from spice_enterprise.corpus.surrogates import PLACEHOLDER
from spice_enterprise.protocols import Detector
from spice_enterprise.records import Span

MODEL: Final = "spacy"
"""The detector name of findings that have no other reason than the words around them."""
_TERM_LABELS: Final = frozenset({"ORGANIZATION", "LOCATION", "MISC"})
RUN: Final = re.compile(r"[^\W_]+")
_WORD: Final = re.compile(r"(?<![\w@./\-])[^\W\d_]+(?![\w@/\-]|\.\w)")
"""A word of prose, not a piece of an address."""
_MAX_GAP_CHARS: Final = 3
NAME_LABEL: Final = "PERSON"
NAMED_LABELS: Final = frozenset({"PERSON", "ORGANIZATION", "LOCATION"})
"""Labels whose values are words: their other mentions count only where they are capitalised, full names excepted."""


class Lexicon:
    """Values already found, as sequences of letter-and-digit runs, so that punctuation and case do not hide a mention."""

    def __init__(self) -> None:
        self._by_first: dict[str, dict[tuple[str, ...], str]] = {}

    def add(self, value: str, entity: str) -> None:
        """Remember `value`. Single short runs are left out: they are found in too many other things."""
        runs = tuple(run.casefold() for run in RUN.findall(value))
        if not runs or (len(runs) == 1 and not is_telling(runs[0], entity)):
            return
        if all(run in NOT_NAMES or len(run) < 2 for run in runs):
            return
        self._by_first.setdefault(runs[0], {}).setdefault(runs, entity)

    def find(self, text: str) -> Iterator[Span]:
        """Yield the longest mention at each place, in time linear in the text."""
        runs = [(match.start(), match.end(), match.group()) for match in RUN.finditer(text)] if self._by_first else []
        folded = [run.casefold() for _, _, run in runs]
        for i, first in enumerate(folded):
            for value in sorted(self._by_first.get(first, ()), key=len, reverse=True):
                last = i + len(value) - 1
                entity = self._by_first[first][value]
                if tuple(folded[i : last + 1]) == value and is_mention(text, runs[i : last + 1], entity):
                    yield Span(start=runs[i][0], end=runs[last][1], entity=entity, score=1.0, detector="mention")
                    break


def is_mention(text: str, runs: Sequence[tuple[int, int, str]], entity: str) -> bool:
    """True when (start, end, run) triples of a value's runs stand close together and, for words, are capitalised.

    A full name may be all lower-case.
    """
    gaps = [text[a[1] : b[0]] for a, b in pairwise(runs)]
    if any(len(gap) > _MAX_GAP_CHARS for gap in gaps):
        return False
    small = [run[0].islower() and run not in LOWER_PARTS for _, _, run in runs]
    is_lower_name = entity == NAME_LABEL and len(runs) > 1 and all(small) and not any(". " in gap for gap in gaps)
    return entity not in NAMED_LABELS or not any(small) or is_lower_name


def is_telling(run: str, entity: str) -> bool:
    """True when one run of letters and digits alone is enough to recognise a value by."""
    if entity in NAMED_LABELS:
        return len(run) >= 3 and run not in NOT_NAMES
    return len(run) >= 5 and (any(c.isdigit() for c in run) or len(run) >= 8)


class Mentions:
    """What one document calls its people and things: other mentions, and which mentions are one person."""

    def __init__(self, text: str) -> None:
        self._lexicon = Lexicon()
        # a word that the document also writes in lower case is a word, not a name
        self._ordinary = frozenset(word for word in _WORD.findall(text) if word[0].islower())
        self._people = People()

    def add(self, value: str, entity: str) -> None:
        """Remember a value; of a person also the parts of the name, of a mail address the name it spells.

        Indirect values are left out: a date or an amount that stands twice is found twice anyhow.
        """
        if entity in INDIRECT_LABELS:
            return
        if entity == "EMAIL":
            spelled = re.fullmatch(r"([^\W\d_]{2,})[._]([^\W\d_]{2,})@.*", value)
            if spelled:
                self.add(f"{spelled[1].title()} {spelled[2].title()}", NAME_LABEL)
        if entity == NAME_LABEL:
            self._add_person(value)
        elif entity not in NAMED_LABELS or not self._is_ordinary(value):
            self._lexicon.add(value, entity)

    def is_term(self, span: Span, text: str) -> bool:
        """True for what a model took for a thing's name but this document also writes in small letters ("the Services")."""
        value = text[span.start : span.end]
        return span.detector == MODEL and span.entity in _TERM_LABELS and not value.islower() and self._is_ordinary(value)

    def find(self, text: str) -> Iterator[Span]:
        """Yield the mentions of everything remembered."""
        return self._lexicon.find(text)

    def canonical(self, value: str, entity: str) -> str:
        """Return one spelling for all mentions of a value; a part of a name stands for the one full name that has it."""
        if entity != NAME_LABEL:
            return "".join(RUN.findall(value)).casefold() or value
        return self._people.canonical(value)

    def _add_person(self, value: str) -> None:
        parts = name_parts(value)
        self._lexicon.add(value, NAME_LABEL)
        self._people.add(parts)
        if is_full(parts):
            self._lexicon.add(" ".join(parts), NAME_LABEL)
        for part in parts:
            if len(part) < 3 or part in LOWER_PARTS or self._is_ordinary(part):
                continue
            self._lexicon.add(part, NAME_LABEL)

    def _is_ordinary(self, value: str) -> bool:
        runs = [run.casefold() for run in RUN.findall(value)]
        return all(run in self._ordinary or run in NOT_NAMES for run in runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything found in one document, before any policy."""

    spans: tuple[Span, ...]
    """Without overlap, in order."""
    mentions: Mentions


def find_all(text: str, detector: Detector, mentions: Mentions | None = None) -> Findings:
    """Detect once, and add every other mention of what was found; placeholders in `text` are passed over.

    Pass the `mentions` of an earlier call to find its values too.
    """
    known = Mentions(text) if mentions is None else mentions
    plain = masked(text)
    found = settled((span for span in detector.detect(plain) if not known.is_term(span, text)), text)
    for span in found:
        known.add(text[span.start : span.end], span.entity)
    return Findings(spans=tuple(settled([*found, *known.find(plain)], text)), mentions=known)


def masked(text: str) -> str:
    """Return text with each placeholder as a dull lower-case word of the same length, so that none is ever detected."""
    return PLACEHOLDER.sub(lambda match: "x" * len(match.group()), text)


def settled(spans: Iterable[Span], text: str) -> list[Span]:
    """Return spans without overlap, in order: same labels are joined, then the surer and longer one wins each place."""
    taken: list[Span] = []
    for span in sorted(_joined(spans), key=lambda s: (s.entity in INDIRECT_LABELS, -s.score, s.start - s.end, s.start, s.entity)):
        blocks = [(t.start, t.end) for t in taken if t.start < span.end and t.end > span.start]
        blocks += [m.span() for m in PLACEHOLDER.finditer(text, max(0, span.start - 64)) if m.start() < span.end]
        taken += _pieces(span, sorted(blocks), text)
    return sorted(taken, key=lambda span: span.start)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Join overlapping spans of one label."""
    joined: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.entity, s.start, s.end)):
        last = joined[-1] if joined else None
        if last is not None and last.entity == span.entity and span.start < last.end:
            joined[-1] = dataclasses.replace(last, end=max(last.end, span.end), score=max(last.score, span.score))
        else:
            joined.append(span)
    return joined


def _pieces(span: Span, blocks: Sequence[tuple[int, int]], text: str) -> Iterator[Span]:
    """Yield what is left of a span outside `blocks`, trimmed; nothing is left of bits without two letters or digits."""
    start = span.start
    for block_start, block_end in [*blocks, (span.end, span.end)]:
        end = min(block_start, span.end)
        # what a policy names is removed as it stands, however short
        piece = ((start, end) if start < end else None) if span.detector == POLICY else _trimmed(text, start, end, span.entity)
        if piece is not None:
            yield dataclasses.replace(span, start=piece[0], end=piece[1])
        start = max(start, block_end)


POLICY: Final = "policy"
"""What `policy.py` calls a finding of its own lists and patterns."""
_EDGE: Final = " \t\n\f\r,;:'’\"“”"
_NAMED_EDGE: Final = _EDGE + ".()[]<>|*#&/–-"


def _trimmed(text: str, start: int, end: int, entity: str) -> tuple[int, int] | None:
    edge = _NAMED_EDGE if entity in NAMED_LABELS else _EDGE
    if entity in NAMED_LABELS and text[start:end].endswith(("'s", "’s")):
        end -= 2
    while start < end and text[start] in edge:
        start += 1
    if entity == "ORGANIZATION" and re.search(r"\.\w\.$", text[start:end]):
        return start, end  # "S.A." keeps its last dot
    while start < end and text[end - 1] in edge:
        end -= 1
    is_something = sum(c.isalnum() for c in text[start:end]) >= 2 and text[start:end].casefold() not in LOWER_PARTS
    return (start, end) if is_something else None
