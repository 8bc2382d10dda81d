"""One shape of one kind of value: an expression with a check, and the pieces that expressions are made of.

In: text.
Out: spans of the values that match and pass the check.
Refuses: nothing. Every expression is bounded, so the time is linear in the text.
Not here: the tables of rules (`secret_rules.py` and its neighbours), the checks (`checks.py`).

A rule marks its value with a group named `v`; without one the whole match is the value. Each rule carries texts that
must and must not match, written as `before{value}after`; the tests run them as a table.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.records import Span

UPPER: Final = "A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĘĚĞĢİĪŁŃŅŇŌŐŒŘŚŞŠŢŤŪŮŰŹŻŽΑ-ΩА-Я"
WORD: Final = rf"[{UPPER}][^\W\d_]*(?:['’\-][^\W\d_]+){{0,2}}"
PARTICLE: Final = r"(?:de la|de|del|della|van der|van den|van|von|zu|der|du|di|da|dos|bin|al|el|le|la|ten|ter|af)"
INITIAL: Final = rf"[{UPPER}]\.(?:-[{UPPER}]\.)?"
NAME: Final = rf"(?:{INITIAL} ?){{0,2}}{WORD}(?: (?:{PARTICLE} )?(?:{INITIAL}|{WORD})){{0,3}}"
FULL_NAME: Final = rf"(?:{INITIAL} ?|{WORD} ){{1,3}}(?:{PARTICLE} )?{WORD}"
LAST_FIRST: Final = rf"{WORD}(?: {WORD})?, {WORD}(?: (?:{WORD}|{INITIAL}))?"
ANY_NAME: Final = rf"(?:{LAST_FIRST}|{NAME})"
HONORIFIC: Final = r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Dame|Herr|Frau|Mme|Monsieur|Madame|Señor|Señora)"
MONTH: Final = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)
DATE: Final = (
    rf"(?:\d{{1,2}}[./\- ]\d{{1,2}}[./\- ]\d{{2,4}}|\d{{4}}[./\-]\d{{1,2}}[./\-]\d{{1,2}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?\.? {MONTH}\.?,? \d{{4}}|{MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})"
)
IS: Final = r"(?:\s{0,3}(?:[:=#]|\bis\b|\bwas\b)\s{0,3}|\s{1,3})"
NO: Final = r"(?:\s?(?:no\.?|nos\.?|number|num\.?|nr\.?|id(?:entifier)?|code|#))"
ID: Final = r"(?=[A-Za-z/.\- ]{0,12}\d)[A-Za-z0-9](?:[A-Za-z0-9/.\-]{2,24}[A-Za-z0-9])"
CITY: Final = rf"[{UPPER}](?:[^\W\d_]|['’]){{1,20}}(?:[ \-](?:[^\W\d_]|['’]){{1,20}}){{0,3}}"
START: Final = r"(?<![\w.\-/+])"
END: Final = r"(?![\w/\-])"
ANY_CASE: Final = re.IGNORECASE
BY_LINE: Final = re.MULTILINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One shape of one kind of value."""

    rule_id: str
    entity: str
    pattern: re.Pattern[str]
    score: float
    check: Callable[[str], bool] | None = None
    grow: Callable[[str, int, int], tuple[int, int]] | None = None
    """Widens a value that passed to all that belongs to it."""
    is_grouped: bool = False
    """Groups of digits with blanks between: when the check fails, it is tried on fewer groups."""
    cue: str = ""
    """A character or lower-case word without which the pattern cannot match: texts without it are skipped."""
    context: tuple[str, ...] = ()
    """Words before the value that make it surer, for Presidio; a rule with `score` below 0.4 counts only beside one of them."""
    hits: tuple[str, ...] = field(default=(), repr=False)
    misses: tuple[str, ...] = field(default=(), repr=False)

    def spans(self, text: str) -> Iterator[Span]:
        """Yield a span per match that passes the check."""
        group: str | int = "v" if "v" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text):
            start, end = match.span(group)
            value = self._passing(text[start:end])
            if value:
                end = start + len(value)
                if self.grow is not None:
                    start, end = self.grow(text, start, end)
                yield Span(start=start, end=end, entity=self.entity, score=self.score, detector=self.rule_id)

    def _passing(self, value: str) -> str:
        """Return the value if it passes the check; of a grouped one the part that does, or nothing."""
        while value and self.check is not None and not self.check(value):
            # the number after a spaced number is matched too, so groups are dropped from the end
            shorter = re.match(r"(.+)[ \-]", value) if self.is_grouped else None
            value = shorter[1] if shorter else ""
        return value


def rule(  # noqa: PLR0913 - a table row
    rule_id: str,
    entity: str,
    pattern: str,
    *,
    score: float = 0.9,
    check: Callable[[str], bool] | None = None,
    grow: Callable[[str, int, int], tuple[int, int]] | None = None,
    cue: str = "",
    is_grouped: bool = False,
    flags: re.RegexFlag = re.NOFLAG,
    context: tuple[str, ...] = (),
    hits: tuple[str, ...] = (),
    misses: tuple[str, ...] = (),
) -> Rule:
    """Return one row of a table; the texts in `hits` mark the value with braces."""
    compiled = re.compile(pattern, flags)
    return Rule(
        rule_id=rule_id,
        entity=entity,
        pattern=compiled,
        score=score,
        check=check,
        grow=grow,
        is_grouped=is_grouped,
        cue=cue,
        context=context,
        hits=hits,
        misses=misses,
    )
