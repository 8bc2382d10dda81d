"""Wrong options for a choice task, made by code.

In: the right answer, values found in the passages of the step, a seed.
Out: four options in a seeded order and the letter of the right one.
Refuses: to make options that are not four different values; the caller then gets nothing.
Not here: the question. A model that may write its own wrong options can make any question hard.

Real values of the same kind come first, because telling them apart needs reading; numbers and dates are then filled up with
near misses. The order is ours, so a model that prefers a letter gains nothing.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Final

from spice_enterprise.records import AnswerKind
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.answers import LETTERS, is_same, normalise, read_number
from spice_enterprise.selfplay.spans import Hint

WRONG_OPTIONS: Final = 3
_FACTORS: Final = (Fraction(2), Fraction(1, 2), Fraction(3, 2), Fraction(3), Fraction(5), Fraction(10))
_YEARS: Final = (1, -1, 2, -2)


def distractors(answer: str, kind: AnswerKind, pool: Sequence[Hint]) -> tuple[str, ...]:
    """Return three values that differ from `answer` and from each other, or an empty tuple. `pool`: nearest passages first."""
    alike = [hint.value for hint in pool if hint.kind == kind and _shape(hint.value, kind) == _shape(answer, kind)]
    found: list[str] = []
    for value in _in_turn(alike, _near_misses(answer, kind)):
        if not any(is_same(other, value, kind) for other in (answer, *found)):
            found.append(value)
        if len(found) == WRONG_OPTIONS:
            return tuple(found)
    return ()


def arrange(answer: str, wrong: Sequence[str], *, seed: int, question: str) -> tuple[tuple[str, ...], str]:
    """Return the options in the order of this seed and question, and the letter of `answer`."""
    options = [answer, *wrong]
    stream(seed, "options", normalise(question)).shuffle(options)
    return tuple(options), LETTERS[options.index(answer)]


def _in_turn(*sources: Iterable[str]) -> Iterator[str]:
    for source in sources:
        yield from source


def _shape(value: str, kind: AnswerKind) -> str:
    """Values of one shape cannot be told apart without reading: numbers by unit and spelling, words against identifiers."""
    if kind == "number":
        spelling = "digits" if any(map(str.isdigit, value)) else "words"
        return f"{spelling} {quantity.unit}" if (quantity := read_number(value)) else spelling
    return "words" if value.replace(" ", "").isalpha() else "identifier"


def _near_misses(answer: str, kind: AnswerKind) -> Iterator[str]:
    if kind == "date":
        year = re.search(r"\d{4}", answer)
        for shift in _YEARS if year else ():
            yield answer.replace(year.group(), str(int(year.group()) + shift)) if year else answer
    digits = re.search(r"\d[\d,]*(?:\.\d+)?", answer) if kind == "number" else None
    for factor in _FACTORS if digits else ():
        yield _scaled(answer, digits.group(), factor) if digits else answer


def _scaled(answer: str, digits: str, factor: Fraction) -> str:
    """Write `answer` with its number times `factor`, in the same style (decimals, thousands commas)."""
    places = len(digits.partition(".")[2])
    comma = "," if "," in digits else ""
    value = Fraction(digits.replace(",", "")) * factor
    return answer.replace(digits, f"{float(value):{comma}.{places}f}", 1)
