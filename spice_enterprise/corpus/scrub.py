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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

from spice_enterprise.config import EMBEDDED_MODEL
from spice_enterprise.corpus.finding import (
    NAME_LABEL,
    NAMED_LABELS,
    RUN,
    Lexicon,
    Mentions,
    is_telling,
    masked,
    name_parts,
    settled,
)
from spice_enterprise.corpus.sources import MEDIA_TYPES
from spice_enterprise.corpus.surrogates import PLACEHOLDER
from spice_enterprise.errors import ScrubError
from spice_enterprise.policy import PiiLabel, PiiPolicy, load_pii
from spice_enterprise.protocols import Detector
from spice_enterprise.records import Redaction, ScrubbedText, Span

MAX_ROUNDS: Final = 6
"""Detections until nothing new is found; text that needs more is refused."""
_TAG_CHARS: Final = 6
"""30 bits of HMAC: two values share a tag with 50 % chance at 38,000 values of one kind."""
_TAGLESS: Final = frozenset({"drop"})


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
        return self._find(text, Mentions(text))

    def scrub_document(self, text: str) -> Scrubbed:
        """Scrub one whole document; form feeds in it are page borders.

        Raises:
            ScrubError: `E_RESIDUE` when detection still finds something after `MAX_ROUNDS` rounds.
        """
        mentions = Mentions(text)
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
        spans = settled([*self._known.find(scrubbed.text)], scrubbed.text)
        spans = [span for span in spans if not self._is_allowed(scrubbed.text[span.start : span.end])]
        if not spans:
            return scrubbed
        paged = _with_pages(scrubbed)
        removed = Counter(dict(scrubbed.removed)) + Counter(span.entity for span in spans)
        return _scrubbed(self._replace(paged, spans, Mentions(paged)), removed)

    def survivors(self, text: str) -> int:
        """Return how many values of the run are readable in `text`, which may be a name or any other output."""
        return sum(1 for span in self._known.find(masked(text)) if not self._is_allowed(text[span.start : span.end]))

    def scrub_name(self, name: str) -> str:
        """Return a relative path without what is detected in it; the suffix of a known kind of file stays."""
        stem, spoken, suffix = _spoken(name)
        # ids keep their hyphens and dots, names lose them: both readings in one go
        readings = f"{re.sub(r'[_+]', ' ', masked(stem))}\n\n{spoken}"
        second = len(stem) + 2
        found = [
            dataclasses.replace(span, start=span.start - offset, end=span.end - offset)
            for span in self._detector.detect(readings)
            for offset in (0 if span.end <= len(stem) else second,)
            if span.start >= offset
        ]
        spans = self._kept_out(settled(found, stem), stem)
        return self._replace(stem, spans, Mentions(stem)) + suffix

    def sweep_name(self, name: str) -> str:
        """Return a scrubbed path without what the documents of the run showed to be personal, parts of names included."""
        stem, spoken, suffix = _spoken(name)
        parts = (m for m in RUN.finditer(spoken) if m.group().casefold() in self._name_words)
        mentions = [Span(start=m.start(), end=m.end(), entity=NAME_LABEL, score=1.0, detector="mention") for m in parts]
        spans = self._kept_out(settled([*self._known.find(spoken), *mentions], stem), stem)
        return self._replace(stem, spans, Mentions(stem)) + suffix

    def _find(self, text: str, mentions: "Mentions") -> list[Span]:
        """Detect, and add the other mentions of everything found in this document so far."""
        plain = masked(text)
        found = self._kept_out(settled(self._detector.detect(plain), text), text)
        for span in found:
            mentions.add(text[span.start : span.end], span.entity)
        return self._kept_out(settled([*found, *mentions.find(plain)], text), text)

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

    def _replace(self, text: str, spans: Sequence[Span], mentions: "Mentions") -> str:
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
        parts = name_parts(value) if entity == NAME_LABEL else []
        self._name_words |= {part for part in parts if is_telling(part, entity)}
        is_full_name = len(parts) >= 2
        is_exact = entity not in NAMED_LABELS and entity != "DATE_OF_BIRTH" and bool(re.search(r"[\d@]", value))
        if is_full_name or is_exact:
            self._known.add(value, entity)

    def _placeholder(self, entity: str, canonical: str) -> str:
        if self._rule(entity).action in _TAGLESS:
            return f"[{entity}]"
        mac = hmac.new(self._key, f"{entity}|{canonical}".encode(), hashlib.sha256).digest()
        return f"[{entity}_{base64.b32encode(mac).decode()[:_TAG_CHARS].lower()}]"


def _folded(value: str) -> str:
    return " ".join(value.split()).casefold()


def _spoken(name: str) -> tuple[str, str, str]:
    """Return a path's stem, the stem as prose of the same length (its parts apart, placeholders masked), and its suffix."""
    suffix = PurePosixPath(name).suffix
    suffix = suffix if suffix.lower() in MEDIA_TYPES else ""
    stem = name.removesuffix(suffix)
    return stem, re.sub(r"[_\-+.]", " ", masked(stem)), suffix


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
