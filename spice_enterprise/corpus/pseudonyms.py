"""Invented values that read like real ones: names, companies, places, addresses, phones, mail addresses, logins.

In: a label and the random bits of a value's tag.
Out: candidates in a fixed order for that tag; the caller takes the first that is free.
Refuses: labels it has no words for (no candidates).
Not here: which candidate is taken (`surrogates.py`).

All words are put together from syllables chosen for this module. None is taken from a list of real names, and a candidate
that happens to be a real value of the corpus is passed over by the caller. Mail addresses lie under example.com and
example.org (RFC 2606), phone numbers in the ranges kept for fiction (555-0100 to 555-0199, +44 7700 900xxx).
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

MAX_TRIES: Final = 64
"""Candidates per value; then the placeholder stays."""


def _joined(heads: str, tails: str) -> tuple[str, ...]:
    """Return every head with every tail, as capitalised words."""
    return tuple((head + tail).capitalize() for head in heads.split() for tail in tails.split())


FIRST: Final = _joined(
    "ael bren cor dav elth fen gal hest ivr jor kel lun mer nev orl pel quen ros sel tam",
    "ira ano elle wyn icka ora ius etta arre ilo enne ovan ulie ast eth inde orin uve amar isse",
)
"""400 given names."""
LAST: Final = _joined(
    "asth bram cald dren eck fald grev hald ist jarn kest lorm mard nast olv pord quist rath strand tolv ulmv varr wend yald",
    "lowe mark brook field ridge wick ford combe hurst stead more thorn mere "
    "gate bury dale fell holt cott den croft vane wold sby lund",
)
"""600 family names."""
COMPANY: Final = _joined(
    "vel nor alt zen cor tri lum ard qua bex ven orb kal ter pyr sol myr dex fal hex",
    "mora tane via dyne lith vance tera nova plex gon ara wyn thix dora sys max rion tek lora bex",
)
"""400 words that companies are called by."""
PLACE: Final = _joined(
    "ond vell harr brun kest lind mall nord ost pell quar rost sten thal ull vinn wesk yarr zell amb",
    "wick haven mouth burg stad ford minster by ton leigh moor dorf heim port dale bridge field gate stow cliffe",
)
"""400 places."""
_COMPANY_KINDS: Final = (
    "Holdings",
    "Group",
    "Partners",
    "Works",
    "Systems",
    "Trading",
    "Logistics",
    "Services",
    "Industries",
    "Labs",
)
_STREET_KINDS: Final = ("Street", "Road", "Lane", "Avenue", "Way", "Close", "Row", "Terrace")
_DOMAINS: Final = ("example.com", "example.org")


class _Draws:
    """Numbers below a bound, one after the other, from the bits of a seed."""

    def __init__(self, seed: str) -> None:
        self._left = int.from_bytes(hashlib.sha256(seed.encode()).digest(), "big")

    def of(self, words: tuple[str, ...]) -> str:
        """Return one of the words."""
        return words[self.below(len(words))]

    def below(self, bound: int) -> int:
        """Return a number from 0 to `bound` - 1."""
        self._left, drawn = divmod(self._left, bound)
        return drawn


def _person(draws: _Draws) -> str:
    return f"{draws.of(FIRST)} {draws.of(LAST)}"


def _organization(draws: _Draws) -> str:
    return f"{draws.of(COMPANY)} {draws.of(COMPANY)} {draws.of(_COMPANY_KINDS)}"


def _location(draws: _Draws) -> str:
    return f"{draws.of(PLACE)}-{draws.of(PLACE)}" if draws.below(8) == 0 else draws.of(PLACE)


def _address(draws: _Draws) -> str:
    return f"{1 + draws.below(399)} {draws.of(LAST)} {draws.of(_STREET_KINDS)}, {draws.of(PLACE)}"


def _email(draws: _Draws) -> str:
    return f"{draws.of(FIRST)}.{draws.of(LAST)}{1 + draws.below(99)}@{draws.of(_DOMAINS)}".lower()


def _phone(draws: _Draws) -> str:
    if draws.below(64) == 0:
        return f"+44 7700 900{draws.below(1000):03}"
    return f"({200 + draws.below(800)}) 555-01{draws.below(100):02}"


def _username(draws: _Draws) -> str:
    return f"{draws.of(LAST)}{draws.of(FIRST)[0]}{10 + draws.below(990)}".lower()


_MAKERS: Final[dict[str, Callable[[_Draws], str]]] = {
    "PERSON": _person,
    "ORGANIZATION": _organization,
    "LOCATION": _location,
    "EMAIL": _email,
    "PHONE": _phone,
    "ADDRESS": _address,
    "USERNAME": _username,
}
LABELS: Final = frozenset(_MAKERS)
"""Labels that can be pseudonymised; values of others get a placeholder."""


def candidates(label: str, tag: str) -> Iterator[str]:
    """Yield invented values for the tag of a real one, always the same ones in the same order."""
    make = _MAKERS.get(label)
    for number in range(MAX_TRIES if make else 0):
        assert make is not None  # noqa: S101 - the range is empty without one
        yield make(_Draws(f"{label}|{tag}|{number}"))
