"""Decide, replace, confirm: the only maker of `ScrubbedText`.

In: raw text of a whole document, a PII policy, a detector and the workspace key; later, the values of all documents.
Out: text in which each removed value is a placeholder such as `[PERSON_k3f7ab]`, the same one in every document.
Refuses: to return text in which the rules still find something (`E_RESIDUE`); to run without a detector.
Not here: finding values (`finding.py`), what stands in their place (`surrogates.py`), the order of the passes (`ingest.py`).

`Scrubber` knows one document and leaves long placeholders. `Sweeper` knows the values of all documents: it replaces what
only another document showed to be personal, and gives every placeholder its final form. In scrubbed text there is
nothing more to remove.
"""

import copy
import dataclasses
import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.corpus.finding import MODEL, NAME_LABEL, NAMED_LABELS, RUN, Mentions, find_all, is_telling, masked, settled
from spice_enterprise.corpus.people import name_parts
from spice_enterprise.corpus.quality import RunningLines
from spice_enterprise.corpus.sources import MEDIA_TYPES
from spice_enterprise.corpus.staging import Prepared
from spice_enterprise.corpus.surrogates import PLACEHOLDER, Placeholders, assign, render, tags_in
from spice_enterprise.corpus.values import Entry, ValueIndex, keyed_spelling
from spice_enterprise.errors import ScrubError
from spice_enterprise.policy import PiiPolicy, load_pii
from spice_enterprise.protocols import Detector
from spice_enterprise.records import Redaction, ScrubbedText, Span

FILLER: Final = "x"
_NEED_CONTEXT: Final = frozenset({"ORGANIZATION", "LOCATION", "DEMOGRAPHIC", "MISC"})
MAX_ROUNDS: Final = 4
"""Passes of the rules over their own result until nothing new is found; text that needs more is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    """One document after the first pass, with long placeholders and with form feeds between its pages."""

    text: ScrubbedText = field(repr=False)
    removed: tuple[tuple[str, int], ...]
    """(entity, values replaced), sorted by entity."""
    entries: tuple[Entry, ...] = field(repr=False)
    renderings: tuple[tuple[str, str], ...] = field(repr=False)
    name_parts: tuple[str, ...] = field(repr=False)
    words: tuple[str, ...] = field(repr=False)
    """Keyed digests of the words of its names of people, things and places: no invented value may have one."""
    people: tuple[tuple[str, str], ...] = field(repr=False)
    """(long placeholder, keyed spelling of the name), to tell who is who in other documents."""
    originals: tuple[tuple[str, str], ...] = field(repr=False)
    """(long placeholder, value), only when the policy keeps originals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One document in its final form."""

    text: ScrubbedText = field(repr=False)
    redactions: tuple[Redaction, ...]
    page_starts: tuple[int, ...]
    """Offsets into `text` where pages begin; the first is 0."""


class PolicyFilter:
    """What of a detector's findings the policy wants removed."""

    def __init__(self, policy: PiiPolicy) -> None:
        self._policy = policy
        self._allowed = frozenset(map(_folded, policy.allow))

    def __call__(self, spans: Iterable[Span], text: str) -> list[Span]:
        """Leave out what the policy keeps: labels with `keep`, scores below the threshold, allowed values."""
        return [span for span in spans if self._is_removed(span, text[span.start : span.end])]

    def allows(self, entity: str, value: str) -> bool:
        """True for an allowed value, also with a version or year behind it ("PostgreSQL 15.4")."""
        folded = _folded(value)
        if folded in self._allowed or re.sub(r" [\d.]+$", "", folded) in self._allowed:
            return True
        return self._policy.rule(entity).is_allowed(value)

    def _is_removed(self, span: Span, value: str) -> bool:
        rule = self._policy.rule(span.entity)
        return rule.action != "keep" and span.score >= rule.threshold and not self.allows(span.entity, value)


class Scrubber:
    """Applies one policy with one detector and one key, a document at a time. Remembers nothing of a document."""

    def __init__(self, policy: PiiPolicy, detector: Detector, key: bytes) -> None:
        """Use `key` for the placeholders: the same key gives a value the same placeholder in every run."""
        self._policy = policy
        self._detector = detector
        self._rules = PatternDetector()
        self._key = key
        self._placeholders = Placeholders(policy, key)
        self._index = ValueIndex(key)
        self._wanted = PolicyFilter(policy)

    def detect(self, text: str) -> list[Span]:
        """Return what would be removed from `text`: settled, without overlap, in order."""
        return self._find(text, Mentions(text), self._detector)

    def find_all(self, text: str) -> list[Span]:
        """Return everything that is found, also of kinds that the policy keeps."""
        return list(find_all(text, self._detector).spans)

    def scrub_document(self, text: str, *, document_key: str = "") -> Scrubbed:
        """Scrub one whole document; form feeds in it are page borders.

        Args:
            text: All of it: other mentions of a value may stand anywhere.
            document_key: What sets this document apart, for policies whose placeholders are per document.

        Raises:
            ScrubError: `E_RESIDUE` when the rules still find something after `MAX_ROUNDS` passes.
        """
        text = _without_foreign_placeholders(text)
        work = _Work(Mentions(text), self._placeholders, document_key)
        detector = self._detector
        for _ in range(MAX_ROUNDS):
            spans = self._find(text, work.mentions, detector)
            if not spans:
                return self._result(text, work)
            text = _replace(text, spans, work)
            # the model has read every word once; what it missed it misses again, the rules may find more
            detector = self._rules
        raise ScrubError(
            f"values are still found after {MAX_ROUNDS} passes of scrubbing",
            code="E_RESIDUE",
            hint="the document is left out; tell us its kind if this happens often",
        )

    def scrub(self, text: str) -> tuple[Rendered, Scrubbed]:
        """Scrub a text that stands alone; return its final form, and what the first pass counted.

        Raises `ScrubError` as `scrub_document` does.
        """
        scrubbed = self.scrub_document(text)
        index = ValueIndex(self._key)
        index.add(scrubbed.entries)
        sweeper = Sweeper(self._policy, self._key, index, frozenset(scrubbed.name_parts), frozenset(scrubbed.words))
        final = {**assign(tags_in(scrubbed.text), self._policy, sweeper.is_real), **dict(scrubbed.renderings)}
        return sweeper.with_final(final).render(scrubbed.text), scrubbed

    def scrub_name(self, name: str) -> str:
        """Return a relative path without what is detected in it; the suffix of a known kind of file stays."""
        stem, spoken, suffix = _spoken(_without_foreign_placeholders(name))
        # ids keep their hyphens and dots, names lose them: both readings in one go
        readings = f"{re.sub(r'[_+]', ' ', masked(stem))}\n\n{spoken}"
        second = len(stem) + 2
        found = [
            dataclasses.replace(span, start=span.start - offset, end=span.end - offset)
            for span in (*self._detector.detect(readings), *self._policy.find(readings))
            for offset in (0 if span.end <= len(stem) else second,)
            if span.start >= offset
        ]
        # a file name is no sentence: what the model calls an organisation or a place there is mostly neither
        telling = [span for span in found if span.entity not in _NEED_CONTEXT or span.detector != MODEL]
        spans = settled(self._wanted(telling, stem), stem)
        return _replace(stem, spans, _Work(Mentions(stem), self._placeholders, name)) + suffix

    def _find(self, text: str, mentions: Mentions, detector: Detector) -> list[Span]:
        """Detect, and add the other mentions of everything found in this document so far."""
        plain = masked(text)
        seen = [*detector.detect(plain), *self._policy.find(plain)]
        found = settled(self._wanted((span for span in seen if not mentions.is_term(span, text)), text), text)
        for span in found:
            mentions.add(text[span.start : span.end], span.entity)
        return settled(self._wanted([*found, *mentions.find(plain)], text), text)

    def _result(self, text: str, work: "_Work") -> Scrubbed:
        entries = {e.whole: e for v in work.values if (e := self._index.entry(v.value, v.entity, v.placeholder))}
        parts = {part for v in work.values if v.entity == NAME_LABEL for part in name_parts(v.value)}
        words = {run.casefold() for v in work.values if v.entity in NAMED_LABELS for run in RUN.findall(v.value)}
        return Scrubbed(
            text=ScrubbedText(text),
            removed=tuple(sorted(work.removed.items())),
            entries=tuple(entries[whole] for whole in sorted(entries)),
            renderings=tuple(sorted(work.renderings.items())),
            name_parts=tuple(sorted(_part_digest(self._key, p) for p in parts if is_telling(p, NAME_LABEL))),
            words=tuple(sorted(_part_digest(self._key, word) for word in words if is_telling(word, NAME_LABEL))),
            people=self._people(work.values),
            originals=self._originals(work.values),
        )

    def _people(self, values: "Sequence[_Value]") -> tuple[tuple[str, str], ...]:
        """Return who is named, unless the policy wants one person to look different in every document."""
        if self._policy.placeholders == "document":
            return ()
        names = {v.placeholder: v.canonical for v in values if v.entity == NAME_LABEL}
        return tuple(sorted((placeholder, keyed_spelling(self._key, name)) for placeholder, name in names.items()))

    def _originals(self, values: "Sequence[_Value]") -> tuple[tuple[str, str], ...]:
        if self._policy.originals != "vault":
            return ()
        return tuple(sorted({(v.placeholder, v.value) for v in values if self._policy.rule(v.entity).action != "drop"}))


@dataclass(frozen=True, slots=True)
class _Value:
    value: str
    entity: str
    placeholder: str
    canonical: str


@dataclass(slots=True)
class _Work:
    """What is known of a document while it is scrubbed."""

    mentions: Mentions
    placeholders: Placeholders
    document_key: str = ""
    renderings: dict[str, str] = field(default_factory=dict)
    removed: Counter[str] = field(default_factory=Counter)
    values: list[_Value] = field(default_factory=list)

    def replaced(self, entity: str, value: str) -> str:
        """Return the long placeholder of a value, and note what the policy lets stand in its place."""
        canonical = self.mentions.canonical(value, entity)
        placeholder = self.placeholders.placeholder(entity, value, canonical=canonical, document_key=self.document_key)
        self.values.append(_Value(value, entity, placeholder, canonical))
        shown = self.placeholders.rendering(entity, value, canonical=canonical, document_key=self.document_key)
        if shown is not None:
            self.renderings[placeholder] = shown
        return placeholder


def _replace(text: str, spans: Sequence[Span], work: _Work) -> str:
    """Return `text` with each span as a long placeholder, and note what was there."""
    pieces = []
    end = 0
    for span in spans:
        value = text[span.start : span.end]
        placeholder = work.replaced(span.entity, value)
        pieces += [text[end : span.start], placeholder]
        end = span.end
    work.removed.update(span.entity for span in spans)
    return "".join([*pieces, text[end:]])


class Sweeper:
    """Applies the values of all documents to one of them."""

    def __init__(
        self, policy: PiiPolicy, key: bytes, index: ValueIndex, name_parts: frozenset[str], words: frozenset[str] = frozenset()
    ) -> None:
        """Take what the first pass gathered: every value of the run, and keyed digests of parts of names and of their words."""
        self._wanted = PolicyFilter(policy)
        self._key = key
        self._index = index
        self._name_parts = name_parts
        self._words = words
        self._final: Mapping[str, str] = {}

    def with_final(self, final: Mapping[str, str]) -> "Sweeper":
        """Return a sweeper that knows what finally stands for each long placeholder."""
        named = copy.copy(self)
        named._final = final
        return named

    def is_real(self, candidate: str) -> bool:
        """True when an invented value reads like a real one of the corpus, or like a word of a real name."""
        digests = {_part_digest(self._key, run.casefold()) for run in RUN.findall(candidate)}
        return any(True for _ in self._index.find(candidate)) or not digests.isdisjoint(self._words | self._name_parts)

    def sweep(self, prepared: Prepared, running: RunningLines) -> Prepared:
        """Return a document without what other documents showed to be personal, and without its source's letterhead."""
        text = prepared.text
        removed_chars = 0
        for start, end in reversed(running.in_text(prepared.document.source_kind, text)):
            text = ScrubbedText(text[:start] + text[end:])
            removed_chars += end - start
        readings = self._readings(text)
        if not readings and text == prepared.text:
            return prepared
        for start, end, _, placeholder in reversed(readings):
            text = ScrubbedText(text[:start] + placeholder + text[end:])
        removed = Counter(dict(prepared.removed)) + Counter(entity for _, _, entity, _ in readings)
        document = prepared.document
        if removed_chars:
            document = dataclasses.replace(document, hidden=(*document.hidden, ("running_line", removed_chars)))
        return dataclasses.replace(prepared, document=document, text=text, removed=tuple(sorted(removed.items())))

    def render(self, text: ScrubbedText) -> Rendered:
        """Return a document in its final form; form feeds become page offsets."""
        final, redactions = render(text, self._final)
        starts = (0, *(i + 1 for i, char in enumerate(final) if char == "\f"))
        return Rendered(text=ScrubbedText(final.replace("\f", "\n")), redactions=redactions, page_starts=starts)

    def shown_in(self, text: ScrubbedText) -> tuple[tuple[str, str], ...]:
        """Return (what finally stands there, long placeholder) for every placeholder of a document."""
        return tuple(sorted((self._final.get(tag, tag), tag) for tag in tags_in(text)))

    def name(self, uri: str) -> str:
        """Return a scrubbed path without what the documents showed to be personal, parts of names included."""
        stem, spoken, suffix = _spoken(uri)
        found = [(r.start, r.end, r.placeholder) for r in self._index.find(spoken)]
        taken = {i for start, end, _ in found for i in range(start, end)}
        for run in RUN.finditer(spoken):
            if run.start() not in taken and self._is_name_part(run.group()):
                found.append((run.start(), run.end(), f"[{NAME_LABEL}]"))
        for start, end, placeholder in sorted(found, reverse=True):
            stem = stem[:start] + placeholder + stem[end:]
        return render(stem, self._final)[0] + suffix

    def survivors(self, text: str) -> int:
        """Return how many values of the run are readable in `text`, which may be a name or any other output."""
        return len(self._readings(text))

    def policed(self, spans: Iterable[Span], text: str) -> list[Span]:
        """Return the findings that the policy wants removed."""
        return self._wanted(spans, text)

    def _is_name_part(self, word: str) -> bool:
        return _part_digest(self._key, word.casefold()) in self._name_parts

    def _readings(self, text: str) -> list[tuple[int, int, str, str]]:
        return [
            (r.start, r.end, r.entity, r.placeholder)
            for r in self._index.find(masked(text))
            if not self._wanted.allows(r.entity, text[r.start : r.end])
        ]


def _part_digest(key: bytes, part: str) -> str:
    return hmac.new(key, b"name part|" + part.encode(), hashlib.sha256).hexdigest()[:24]


def _without_foreign_placeholders(text: str) -> str:
    """Return raw text in which nothing reads like a placeholder: what stands in brackets there is to be looked at."""
    return PLACEHOLDER.sub(lambda match: f"({match.group()[1:-1].replace('_', ' ')})", text)


def _folded(value: str) -> str:
    return " ".join(value.split()).casefold()


def _spoken(name: str) -> tuple[str, str, str]:
    """Return a path's stem, the stem as prose of the same length (its parts apart, placeholders masked), and its suffix."""
    suffix = PurePosixPath(name).suffix
    suffix = suffix if suffix.lower() in MEDIA_TYPES else ""
    stem = name.removesuffix(suffix)
    return stem, re.sub(r"[_\-+.]", " ", masked(stem)), suffix


def without_surrogates(text: str, redactions: Sequence[Redaction]) -> str:
    """Return text of the same length with filler for what was put in, so that an invented value is not taken for a real one."""
    for redaction in redactions:
        text = text[: redaction.start] + FILLER * (redaction.end - redaction.start) + text[redaction.end :]
    return text


def redactions_in(text: ScrubbedText) -> tuple[Redaction, ...]:
    """Return where the placeholders of `text` stand."""
    return tuple(Redaction(start=m.start(), end=m.end(), entity=m.group(1)) for m in PLACEHOLDER.finditer(text))


def redactions_between(redactions: Sequence[Redaction], start: int, end: int) -> tuple[Redaction, ...]:
    """Return the redactions inside `[start, end)`, with offsets from `start`."""
    return tuple(
        dataclasses.replace(r, start=r.start - start, end=r.end - start) for r in redactions if start <= r.start and r.end <= end
    )


def excerpt(text: ScrubbedText, start: int, end: int) -> ScrubbedText:
    """Return `text[start:end]`: a part of scrubbed text is scrubbed."""
    return ScrubbedText(text[start:end])


@lru_cache(maxsize=4)
def _default_scrubber(policy_path: str | None) -> Scrubber:
    """Return a scrubber with a policy, the packaged NER model and a key of this process."""
    # not at the top: loading a model library is for those who ask for the defaults
    from spice_enterprise.corpus.detection import make_detector  # noqa: PLC0415

    return Scrubber(load_pii(policy_path), make_detector(IngestConfig()), secrets.token_bytes(32))


def detect(text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, label) of everything that is found, also of kinds that the default policy keeps.

    `text[start:end]` is the value. Raises `ScrubError` when the NER model is missing: without it, names would go unseen.
    """
    return [(span.start, span.end, span.entity) for span in _default_scrubber(None).find_all(text)]


def scrub(text: str, policy: str | None = None) -> str:
    """Return `text` scrubbed under the shipped policy, or the policy file at the path `policy`.

    Placeholders are the same for one value within a process. Raises `ScrubError` rather than return text with residue.
    """
    rendered, _ = _default_scrubber(policy).scrub(text)
    return rendered.text
