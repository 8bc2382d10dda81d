"""Which spellings of a name are one person: in one document, and across the documents of a run.

In: values that detection called persons.
Out: one spelling for all of them.
Refuses: to guess: a name that fits two people stays by itself.
Not here: finding the mentions (`finding.py`).
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

LOWER_PARTS: Final = frozenset(
    {"de", "la", "van", "von", "der", "den", "zu", "du", "di", "da", "of", "and", "the", "s", "e", "y"}
)
"""Small words inside names."""
_TITLES: Final = frozenset({"mr", "mrs", "ms", "miss", "mx", "dr", "prof", "professor", "sir", "dame", "herr", "frau", "mme"})


def name_parts(value: str) -> list[str]:
    """Return a person's name as lower-case parts, first name first, without titles and initials' dots."""
    last, comma, first = value.partition(",")
    spoken = f"{first} {last}" if comma and first.strip() else value
    parts = [part.strip(".,;:'’\"()").casefold() for part in spoken.split()]
    return [re.sub(r"['’]s$", "", part) for part in parts if part and part not in _TITLES]


def is_full(parts: list[str]) -> bool:
    """True for a first and a last name, neither an initial."""
    return len(parts) >= 2 and all(len(part) > 1 for part in (parts[0], parts[-1])) and parts[0] not in LOWER_PARTS


class People:
    """The people of one document."""

    def __init__(self) -> None:
        self._by_part: dict[str, set[str]] = {}
        self._by_letters: dict[str, str] = {}

    def add(self, parts: list[str]) -> None:
        """Remember a name. The same letters are the same name, however they are cut or accented ("Hansjosef")."""
        if not is_full(parts) and not _is_initialled(parts):
            return
        letters = _letters(parts)
        known = self._by_letters.get(letters, "")
        plain = " ".join(map(_plain, parts))
        name = self._by_letters[letters] = plain if len(plain) > len(known) else known
        for part in name.split():
            if len(part) > 2 and part not in LOWER_PARTS:
                self._by_part.setdefault(part, set()).add(letters)

    def canonical(self, value: str) -> str:
        """Return one spelling for all mentions of a person; a part of a name stands for the one full name that has it."""
        parts = [_plain(part) for part in name_parts(value)]
        spelled = " ".join(parts) or value.casefold()
        letters = _letters(parts)
        if letters in self._by_letters and is_full(parts):
            return self._by_letters[letters]
        owners = [self._by_part.get(part, set()) for part in parts if len(part) > 1 and part not in LOWER_PARTS]
        shared = [self._by_letters[one] for one in set.intersection(*owners)] if owners else []
        fitting = [name for name in shared if _fits(parts, name)]
        full = [name for name in fitting if is_full(name.split())] or fitting
        return full[0] if len(full) == 1 else spelled


def linked(names: Iterable[str]) -> Mapping[str, str]:
    """Return, for the canonical names of all documents, the full name that an initial and a last name can only stand for."""
    by_last: dict[str, set[str]] = {}
    every = set(names)
    for name in every:
        if is_full(name.split()):
            by_last.setdefault(name.split()[-1], set()).add(name)
    links = {}
    for name in every:
        parts = name.split()
        owners = [full for full in by_last.get(parts[-1], ()) if _fits(parts, full)] if _is_initialled(parts) else []
        if len(owners) == 1:
            links[name] = owners[0]
    return links


def _is_initialled(parts: list[str]) -> bool:
    return len(parts) >= 2 and len(parts[0]) == 1 and len(parts[-1]) > 1


def _fits(parts: list[str], name: str) -> bool:
    """True unless an initial contradicts the name: one before a last name stands for a first name."""
    *first, last = [part[0] for part in name.split()]
    fits_last = len(parts[-1]) > 1 or parts[-1] in (*first, last)
    return fits_last and all(part in first for part in parts[:-1] if len(part) == 1)


def _letters(parts: Iterable[str]) -> str:
    return "".join(char for part in parts for char in _plain(part) if char.isalnum())


def _plain(part: str) -> str:
    """Return a part of a name without accents and hyphens, as a mail address spells it."""
    return "".join(char for char in unicodedata.normalize("NFKD", part) if char.isalnum() or char == "'")
