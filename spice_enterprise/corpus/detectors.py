"""Personal data that has a shape: all rules, and what runs them, offline and without any model.

In: text.
Out: spans of e-mail addresses, numbers, keys, ids beside their label, addresses, salutations and the like.
Refuses: nothing. Every expression is bounded, so the time is linear in the text.
Not here: the rules themselves (`*_rules.py`), names in running prose (`presidio.py`), what is done with a span (`scrub.py`).
"""

from collections.abc import Iterator
from typing import Final

from spice_enterprise.corpus.checks import NOT_NAMES, is_name
from spice_enterprise.corpus.indirect_rules import INDIRECT_RULES
from spice_enterprise.corpus.name_rules import NAME_RULES
from spice_enterprise.corpus.number_rules import NUMBER_RULES
from spice_enterprise.corpus.place_rules import PLACE_RULES
from spice_enterprise.corpus.rule import Rule
from spice_enterprise.corpus.secret_rules import SECRET_RULES
from spice_enterprise.records import Span

__all__ = ["ALL_RULES", "INDIRECT_LABELS", "LABELS", "NOT_NAMES", "RULES", "PatternDetector", "is_name"]

MIN_SCORE: Final = 0.4
"""Weaker matches count only beside a context word, which is Presidio's to see."""
RULES: Final[tuple[Rule, ...]] = (*SECRET_RULES, *NUMBER_RULES, *PLACE_RULES, *NAME_RULES)
"""What identifies somebody or something by itself."""
ALL_RULES: Final[tuple[Rule, ...]] = (*RULES, *INDIRECT_RULES)

INDIRECT_LABELS: Final = frozenset({"DATE", "DURATION", "MONEY", "QUANTITY", "AGE", "DEMOGRAPHIC", "TITLE", "CODE", "MISC"})
"""What points at somebody only together with other things."""
LABELS: Final = INDIRECT_LABELS | {rule.entity for rule in ALL_RULES} | {"PERSON", "ORGANIZATION", "LOCATION"}
"""Every label that detection may report."""


class PatternDetector:
    """Runs every rule over the text."""

    def __init__(self, rules: tuple[Rule, ...] = RULES) -> None:
        """Use `rules`; by default those for values that identify by themselves."""
        self._rules = rules

    def detect(self, text: str) -> list[Span]:
        """Return every match of every rule, in the order of the rules."""
        return list(self._found(text))

    def _found(self, text: str) -> Iterator[Span]:
        lowered = text.casefold()
        for rule in self._rules:
            if rule.cue in lowered and rule.score >= MIN_SCORE:
                yield from rule.spans(text)
