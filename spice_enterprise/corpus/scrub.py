"""Decide, replace, confirm: the only maker of `ScrubbedText`.

In: the raw text of a whole document, a PII policy, a detector and the workspace key.
Out: text in which each removed value is a placeholder such as `[PERSON_k3f9ab]`, the same one in every document.
Refuses: to return text in which detection still finds something (`E_RESIDUE`); to run without a detector.
Not here: finding values (`detectors.py`, `presidio.py`), reversing the replacement (no originals are kept).

The order for one document: detect, drop what the policy keeps, settle overlaps, add every other mention of what was
found, replace; then detect again on the result until nothing is found. Scrubbing scrubbed text changes nothing.
"""

import base64
import dataclasses
import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

from spice_enterprise.config import EMBEDDED_MODEL
from spice_enterprise.corpus.detectors import NOT_NAMES
from spice_enterprise.corpus.sources import MEDIA_TYPES
from spice_enterprise.errors import ScrubError
from spice_enterprise.policy import PiiLabel, PiiPolicy, load_pii
from spice_enterprise.protocols import Detector
from spice_enterprise.records import Redaction, ScrubbedText, Span

MAX_ROUNDS: Final = 6
"""Detections until nothing new is found; text that needs more is refused."""
PLACEHOLDER: Final = re.compile(r"\[([A-Z][A-Z_]{1,30}?)(?:_[a-z2-7]{6})?\]")
_TAG_CHARS: Final = 6
"""30 bits of HMAC: two values share a tag with 50 % chance at 38,000 values of one kind."""
_TAGLESS: Final = frozenset({"drop"})
_RUN: Final = re.compile(r"[^\W_]+")
_WORD: Final = re.compile(r"(?<![\w@./\-])[^\W\d_]+(?![\w@/\-]|\.\w)")
"""A word of prose, not a piece of an address."""
_MAX_GAP_CHARS: Final = 3
_NAME_LABEL: Final = "PERSON"
_NAMED_LABELS: Final = frozenset({"PERSON", "ORGANIZATION", "LOCATION"})
"""Labels whose values are words: their other mentions count only where they are capitalised, full names excepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    """One scrubbed document."""

    text: ScrubbedText = field(repr=False)
    redactions: tuple[Redaction, ...]
    """Every placeholder of `text`, in order."""
    removed: tuple[tuple[str, int], ...]
    """(entity, values replaced), sorted by entity."""
    page_starts: tuple[int, ...]
    """Offsets into `text` where pages begin; the first is 0."""


class Lexicon:
    """Values already found, as sequences of letter-and-digit runs, so that punctuation and case do not hide a mention."""

    def __init__(self) -> None:
        self._by_first: dict[str, dict[tuple[str, ...], str]] = {}

    def add(self, value: str, entity: str) -> None:
        """Remember `value`. Single short runs are left out: they are found in too many other things."""
        runs = tuple(run.casefold() for run in _RUN.findall(value))
        if not runs or (len(runs) == 1 and not _is_telling(runs[0], entity)):
            return
        if all(run in NOT_NAMES or len(run) < 2 for run in runs):
            return
        self._by_first.setdefault(runs[0], {}).setdefault(runs, entity)

    def find(self, text: str) -> Iterator[Span]:
        """Yield the longest mention at each place, in time linear in the text."""
        runs = [(match.start(), match.end(), match.group()) for match in _RUN.finditer(text)] if self._by_first else []
        folded = [run.casefold() for _, _, run in runs]
        for i, first in enumerate(folded):
            for value in sorted(self._by_first.get(first, ()), key=len, reverse=True):
                last = i + len(value) - 1
                if tuple(folded[i : last + 1]) == value and self._is_mention(text, runs[i : last + 1], value):
                    entity = self._by_first[first][value]
                    yield Span(start=runs[i][0], end=runs[last][1], entity=entity, score=1.0, detector="mention")
                    break

    def _is_mention(self, text: str, runs: Sequence[tuple[int, int, str]], value: tuple[str, ...]) -> bool:
        """True when the runs stand close together and, for words, are capitalised; a full name may be all lower-case."""
        gaps = [text[a[1] : b[0]] for a, b in pairwise(runs)]
        if any(len(gap) > _MAX_GAP_CHARS for gap in gaps):
            return False
        entity = self._by_first[value[0]][value]
        small = [run[0].islower() and run not in _LOWER_PARTS for _, _, run in runs]
        is_lower_name = entity == _NAME_LABEL and len(value) > 1 and all(small) and not any(". " in gap for gap in gaps)
        return entity not in _NAMED_LABELS or not any(small) or is_lower_name


_LOWER_PARTS: Final = frozenset(
    {"de", "la", "van", "von", "der", "den", "zu", "du", "di", "da", "of", "and", "the", "s", "e", "y"}
)


def _is_telling(run: str, entity: str) -> bool:
    if entity in _NAMED_LABELS:
        return len(run) >= 3 and run not in NOT_NAMES
    return len(run) >= 5 and (any(c.isdigit() for c in run) or len(run) >= 8)


class Scrubber:
    """Applies one policy with one detector and one key. Knows the values of the run, in memory only."""

    def __init__(self, policy: PiiPolicy, detector: Detector, key: bytes) -> None:
        """Use `key` for the placeholders: the same key gives a value the same placeholder in every run."""
        self._policy = policy
        self._detector = detector
        self._key = key
        self._allowed = frozenset(_folded(value) for value in policy.allow)
        self._known = Lexicon()
        self._name_words: set[str] = set()

    def detect(self, text: str) -> list[Span]:
        """Return what would be removed from `text`: settled, without overlap, in order."""
        return self._find(text, _Mentions(text))

    def scrub_document(self, text: str) -> Scrubbed:
        """Scrub one whole document; form feeds in it are page borders.

        Raises:
            ScrubError: `E_RESIDUE` when detection still finds something after `MAX_ROUNDS` rounds.
        """
        mentions = _Mentions(text)
        removed: Counter[str] = Counter()
        for _ in range(MAX_ROUNDS):
            spans = self._find(text, mentions)
            if not spans:
                return _scrubbed(text, removed)
            removed.update(span.entity for span in spans)
            text = self._replace(text, spans, mentions)
        raise ScrubError(
            f"values are still found after {MAX_ROUNDS} rounds of scrubbing",
            code="E_RESIDUE",
            hint="the document is left out; tell us its kind if this happens often",
        )

    def sweep(self, scrubbed: Scrubbed) -> Scrubbed:
        """Replace what other documents of the run showed to be personal; the run's survivor scan."""
        spans = _settled([*self._known.find(scrubbed.text)], scrubbed.text)
        spans = [span for span in spans if not self._is_allowed(scrubbed.text[span.start : span.end])]
        if not spans:
            return scrubbed
        paged = _with_pages(scrubbed)
        removed = Counter(dict(scrubbed.removed)) + Counter(span.entity for span in spans)
        return _scrubbed(self._replace(paged, spans, _Mentions(paged)), removed)

    def survivors(self, text: str) -> int:
        """Return how many values of the run are readable in `text`, which may be a name or any other output."""
        return sum(1 for span in self._known.find(_masked(text)) if not self._is_allowed(text[span.start : span.end]))

    def scrub_name(self, name: str) -> str:
        """Return a relative path without what is detected in it; the suffix of a known kind of file stays."""
        stem, spoken, suffix = _spoken(name)
        # ids keep their hyphens and dots, names lose them: both readings in one go
        readings = f"{re.sub(r'[_+]', ' ', _masked(stem))}\n\n{spoken}"
        second = len(stem) + 2
        found = [
            dataclasses.replace(span, start=span.start - offset, end=span.end - offset)
            for span in self._detector.detect(readings)
            for offset in (0 if span.end <= len(stem) else second,)
            if span.start >= offset
        ]
        spans = self._kept_out(_settled(found, stem), stem)
        return self._replace(stem, spans, _Mentions(stem)) + suffix

    def sweep_name(self, name: str) -> str:
        """Return a scrubbed path without what the documents of the run showed to be personal, parts of names included."""
        stem, spoken, suffix = _spoken(name)
        parts = (m for m in _RUN.finditer(spoken) if m.group().casefold() in self._name_words)
        mentions = [Span(start=m.start(), end=m.end(), entity=_NAME_LABEL, score=1.0, detector="mention") for m in parts]
        spans = self._kept_out(_settled([*self._known.find(spoken), *mentions], stem), stem)
        return self._replace(stem, spans, _Mentions(stem)) + suffix

    def _find(self, text: str, mentions: "_Mentions") -> list[Span]:
        """Detect, and add the other mentions of everything found in this document so far."""
        masked = _masked(text)
        found = self._kept_out(_settled(self._detector.detect(masked), text), text)
        for span in found:
            mentions.add(text[span.start : span.end], span.entity)
        return self._kept_out(_settled([*found, *mentions.find(masked)], text), text)

    def _kept_out(self, spans: Iterable[Span], text: str) -> list[Span]:
        """Leave out what the policy keeps: labels with `keep`, scores below the threshold, allowed values."""
        return [
            span
            for span in spans
            if self._rule(span.entity).action != "keep"
            and span.score >= self._rule(span.entity).threshold
            and not self._is_allowed(text[span.start : span.end])
        ]

    def _rule(self, entity: str) -> PiiLabel:
        """Return the policy's rule for a label; a label the policy does not know is replaced."""
        return self._policy.labels.get(entity) or PiiLabel()

    def _is_allowed(self, value: str) -> bool:
        """True for an allowed value, also with a version or year behind it ("PostgreSQL 15.4")."""
        folded = _folded(value)
        return folded in self._allowed or re.sub(r" [\d.]+$", "", folded) in self._allowed

    def _replace(self, text: str, spans: Sequence[Span], mentions: "_Mentions") -> str:
        """Return `text` with each span as a placeholder, and remember the values for the other documents."""
        pieces = []
        end = 0
        for span in spans:
            value = text[span.start : span.end]
            self._remember(value, span.entity)
            pieces += [text[end : span.start], self._placeholder(span.entity, mentions.canonical(value, span.entity))]
            end = span.end
        return "".join([*pieces, text[end:]])

    def _remember(self, value: str, entity: str) -> None:
        """Keep a value that is surely personal wherever it stands: full names, and anything with digits or an @."""
        parts = name_parts(value) if entity == _NAME_LABEL else []
        self._name_words |= {part for part in parts if _is_telling(part, entity)}
        is_full_name = len(parts) >= 2
        is_exact = entity not in _NAMED_LABELS and entity != "DATE_OF_BIRTH" and bool(re.search(r"[\d@]", value))
        if is_full_name or is_exact:
            self._known.add(value, entity)

    def _placeholder(self, entity: str, canonical: str) -> str:
        if self._rule(entity).action in _TAGLESS:
            return f"[{entity}]"
        mac = hmac.new(self._key, f"{entity}|{canonical}".encode(), hashlib.sha256).digest()
        return f"[{entity}_{base64.b32encode(mac).decode()[:_TAG_CHARS].lower()}]"


class _Mentions:
    """What one document calls its people and things: other mentions, and which mentions are one person."""

    def __init__(self, text: str) -> None:
        self._lexicon = Lexicon()
        # a word that the document also writes in lower case is a word, not a name
        self._ordinary = frozenset(word for word in _WORD.findall(text) if word[0].islower())
        self._full_names: dict[str, set[str]] = {}

    def add(self, value: str, entity: str) -> None:
        """Remember a value; of a person also the parts of the name, of a mail address the name it spells."""
        if entity == "EMAIL":
            spelled = re.fullmatch(r"([^\W\d_]{2,})[._]([^\W\d_]{2,})@.*", value)
            if spelled:
                self.add(f"{spelled[1].title()} {spelled[2].title()}", _NAME_LABEL)
        if entity == _NAME_LABEL:
            self._add_person(value)
        elif entity not in _NAMED_LABELS or not self._is_ordinary(value):
            self._lexicon.add(value, entity)

    def find(self, text: str) -> Iterator[Span]:
        """Yield the mentions of everything remembered."""
        return self._lexicon.find(text)

    def canonical(self, value: str, entity: str) -> str:
        """Return one spelling for all mentions of a value; a part of a name stands for the one full name that has it."""
        if entity != _NAME_LABEL:
            return "".join(_RUN.findall(value)).casefold() or value
        parts = name_parts(value)
        owners = [self._full_names.get(part, set()) for part in parts if len(part) > 1]
        shared = set.intersection(*owners) if owners else set()
        return next(iter(shared)) if len(shared) == 1 else " ".join(parts) or value.casefold()

    def _add_person(self, value: str) -> None:
        parts = name_parts(value)
        self._lexicon.add(value, _NAME_LABEL)
        is_full = len(parts) >= 2 and all(len(part) > 1 for part in (parts[0], parts[-1]))
        if is_full:
            self._lexicon.add(" ".join(parts), _NAME_LABEL)
        for part in parts:
            if len(part) < 3 or part in _LOWER_PARTS or self._is_ordinary(part):
                continue
            self._lexicon.add(part, _NAME_LABEL)
            if is_full:
                self._full_names.setdefault(part, set()).add(" ".join(parts))

    def _is_ordinary(self, value: str) -> bool:
        runs = [run.casefold() for run in _RUN.findall(value)]
        return all(run in self._ordinary or run in NOT_NAMES for run in runs)


def name_parts(value: str) -> list[str]:
    """Return a person's name as lower-case parts, first name first, without titles and initials' dots."""
    last, comma, first = value.partition(",")
    spoken = f"{first} {last}" if comma and first.strip() else value
    parts = [part.strip(".,;:'’\"()").casefold() for part in spoken.split()]
    return [re.sub(r"['’]s$", "", part) for part in parts if part and part not in _TITLES]


_TITLES: Final = frozenset({"mr", "mrs", "ms", "miss", "mx", "dr", "prof", "professor", "sir", "dame", "herr", "frau", "mme"})


def _folded(value: str) -> str:
    return " ".join(value.split()).casefold()


def _masked(text: str) -> str:
    """Return text with each placeholder as a dull lower-case word of the same length, so that none is ever detected."""
    return PLACEHOLDER.sub(lambda match: "x" * len(match.group()), text)


def _spoken(name: str) -> tuple[str, str, str]:
    """Return a path's stem, the stem as prose of the same length (its parts apart, placeholders masked), and its suffix."""
    suffix = PurePosixPath(name).suffix
    suffix = suffix if suffix.lower() in MEDIA_TYPES else ""
    stem = name.removesuffix(suffix)
    return stem, re.sub(r"[_\-+.]", " ", _masked(stem)), suffix


def _settled(spans: Iterable[Span], text: str) -> list[Span]:
    """Return spans without overlap, in order: same labels are joined, then the surer and longer one wins each place."""
    taken: list[Span] = []
    for span in sorted(_joined(spans), key=lambda s: (-s.score, s.start - s.end, s.start, s.entity)):
        blocks = [(t.start, t.end) for t in taken if t.start < span.end and t.end > span.start]
        blocks += [m.span() for m in PLACEHOLDER.finditer(text, max(0, span.start - 48)) if m.start() < span.end]
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
        piece = _trimmed(text, start, min(block_start, span.end), span.entity)
        if piece is not None:
            yield dataclasses.replace(span, start=piece[0], end=piece[1])
        start = max(start, block_end)


_EDGE: Final = " \t\n\f\r,;:'’\"“”"
_NAMED_EDGE: Final = _EDGE + ".()[]<>|*#&/–-"


def _trimmed(text: str, start: int, end: int, entity: str) -> tuple[int, int] | None:
    edge = _NAMED_EDGE if entity in _NAMED_LABELS else _EDGE
    if entity in _NAMED_LABELS and text[start:end].endswith(("'s", "’s")):
        end -= 2
    while start < end and text[start] in edge:
        start += 1
    if entity == "ORGANIZATION" and re.search(r"\.\w\.$", text[start:end]):
        return start, end  # "S.A." keeps its last dot
    while start < end and text[end - 1] in edge:
        end -= 1
    is_something = sum(c.isalnum() for c in text[start:end]) >= 2
    return (start, end) if is_something else None


def redactions_in(text: ScrubbedText) -> tuple[Redaction, ...]:
    """Return where the placeholders of `text` stand."""
    return tuple(Redaction(start=m.start(), end=m.end(), entity=m.group(1)) for m in PLACEHOLDER.finditer(text))


def excerpt(text: ScrubbedText, start: int, end: int) -> ScrubbedText:
    """Return `text[start:end]`: a part of scrubbed text is scrubbed."""
    return ScrubbedText(text[start:end])


def _scrubbed(text: str, removed: Counter[str]) -> Scrubbed:
    """Make the record, with form feeds turned into page offsets."""
    starts = (0, *(i + 1 for i, char in enumerate(text) if char == "\f"))
    clean = ScrubbedText(text.replace("\f", "\n"))
    return Scrubbed(text=clean, redactions=redactions_in(clean), removed=tuple(sorted(removed.items())), page_starts=starts)


def _with_pages(scrubbed: Scrubbed) -> str:
    """Return the text with its page borders as form feeds again, so that they survive a replacement."""
    chars = list(scrubbed.text)
    for start in scrubbed.page_starts[1:]:
        chars[start - 1] = "\f"
    return "".join(chars)


@lru_cache(maxsize=1)
def _default_scrubber() -> Scrubber:
    """Return a scrubber with the shipped policy, the packaged NER model and a key of this process."""
    # not at the top: loading a model library is for those who ask for the defaults
    from spice_enterprise.corpus.presidio import PresidioDetector, resolve_ner_model  # noqa: PLC0415

    return Scrubber(load_pii(), PresidioDetector(resolve_ner_model(EMBEDDED_MODEL)), secrets.token_bytes(32))


def detect(text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, label) of what the default policy removes; `text[start:end]` is the value.

    Raises `ScrubError` when the NER model is missing: without it, names would go unseen.
    """
    return [(span.start, span.end, span.entity) for span in _default_scrubber().detect(text)]


def scrub(text: str) -> str:
    """Return `text` scrubbed under the default policy. Raises `ScrubError` rather than return text with residue."""
    return _default_scrubber().scrub_document(text).text
