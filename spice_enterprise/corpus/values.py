"""Every value a run removed, as keyed digests: an exact search that keeps no value.

In: values as they stood in a document, with the placeholder that took their place.
Out: where any of them can still be read in another text, whatever its case, spacing or punctuation.
Refuses: single common words, which stand in too many other things; `finding.py` cleans their own document of them.
Not here: which mentions of a value belong to one person (`finding.py`).

A value is the sequence of its letter-and-digit runs. The index holds a keyed digest of the first run, to fail fast, and one
of the whole sequence, so that it may lie on disk between an interruption and the next start.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from spice_enterprise.corpus.checks import NOT_NAMES
from spice_enterprise.corpus.detectors import INDIRECT_LABELS
from spice_enterprise.corpus.finding import NAMED_LABELS, RUN, is_mention
from spice_enterprise.corpus.people import LOWER_PARTS

MAX_RUNS: Final = 16
"""Longer values are known by their first runs: nothing else begins with so many of the same."""
_DIGEST_BYTES: Final = 12
_ORDINARY_LABELS: Final = INDIRECT_LABELS | {"DATE_OF_BIRTH"}
"""Kinds whose values are ordinary elsewhere: the same date is another fact in another document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One value: keyed digests in hex, its length in runs, its label and what stands in its place."""

    first: str
    whole: str
    length: int
    entity: str
    placeholder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A value that can still be read: `text[start:end]`."""

    start: int
    end: int
    entity: str
    placeholder: str


class ValueIndex:
    """Values of many documents, searched all at once in time linear in the text."""

    def __init__(self, key: bytes) -> None:
        """Use the workspace key: without it nobody can test a guess against the digests."""
        self._key = hashlib.blake2b(b"spice value index", key=key[:64], digest_size=32).digest()
        self._lengths: dict[bytes, tuple[int, ...]] = {}
        self._entries: dict[bytes, Entry] = {}
        self._seen_words: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, value: str, entity: str, placeholder: str) -> Entry | None:
        """Return the entry of a value, or None when it is not telling enough to be looked for in other documents."""
        runs = [run.casefold() for run in RUN.findall(value)][:MAX_RUNS]
        if entity in _ORDINARY_LABELS or not _is_telling(runs, entity):
            return None
        return Entry(
            first=self._digest(runs[0]).hex(),
            whole=self._digest("\x1f".join(runs)).hex(),
            length=len(runs),
            entity=entity,
            placeholder=placeholder,
        )

    def add(self, entries: Iterable[Entry]) -> None:
        """Look for these values too. The first placeholder given for a value stays."""
        for entry in entries:
            first, whole = bytes.fromhex(entry.first), bytes.fromhex(entry.whole)
            if whole in self._entries:
                continue
            self._entries[whole] = entry
            self._lengths[first] = tuple(sorted({*self._lengths.get(first, ()), entry.length}, reverse=True))
        self._seen_words.clear()

    def find(self, text: str) -> Iterator[Reading]:
        """Yield the longest value at each place, without overlap."""
        runs = [(match.start(), match.end(), match.group()) for match in RUN.finditer(text)] if self._entries else []
        folded = [run.casefold() for _, _, run in runs]
        free = 0
        for i, word in enumerate(folded):
            if i < free:
                continue
            for length in self._lengths_from(word):
                entry = self._entries.get(self._digest("\x1f".join(folded[i : i + length])))
                if entry and entry.length == length and is_mention(text, runs[i : i + length], entry.entity):
                    yield Reading(
                        start=runs[i][0], end=runs[i + length - 1][1], entity=entry.entity, placeholder=entry.placeholder
                    )
                    free = i + length
                    break

    def _lengths_from(self, word: str) -> tuple[int, ...]:
        """Return the lengths of the values that begin with `word`; most words begin none and are hashed once."""
        known = self._seen_words.get(word)
        if known is None:
            if len(self._seen_words) > 200_000:
                self._seen_words.clear()
            known = self._seen_words[word] = self._lengths.get(self._digest(word), ())
        return known

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=_DIGEST_BYTES).digest()


def _is_telling(runs: Sequence[str], entity: str) -> bool:
    """True when finding these runs elsewhere can hardly be chance."""
    if not runs or all(run in NOT_NAMES or len(run) < 2 for run in runs):
        return False
    if entity in NAMED_LABELS:
        return (
            sum(len(run) > 1 for run in runs) >= 2 and sum(run not in NOT_NAMES and run not in LOWER_PARTS for run in runs) >= 2
        )
    if len(runs) == 1:
        return len(runs[0]) >= 5 and (any(c.isdigit() for c in runs[0]) or len(runs[0]) >= 8)
    return sum(len(run) for run in runs) >= 6


def keyed_spelling(key: bytes, name: str) -> str:
    """Return a name that cannot be read without the key but compares as the name does.

    Equal parts are equal, and a part begins with its initial: `people.linked` sees that "a brandt" can be "anna brandt".
    """
    return " ".join(part if part in LOWER_PARTS else _keyed_part(key, part) for part in name.split())


def _keyed_part(key: bytes, part: str) -> str:
    initial = hashlib.blake2b(b"initial|" + part[0].encode(), key=key[:64], digest_size=8).digest()
    # a character outside of any script in use, one of a million
    sign = chr(0x10000 + int.from_bytes(initial, "big") % 0xFFFFE)
    rest = hashlib.blake2b(b"part|" + part.encode(), key=key[:64], digest_size=_DIGEST_BYTES).hexdigest()
    return sign if len(part) == 1 else sign + rest
