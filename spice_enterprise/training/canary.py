"""A fixed set of texts by whose log-probabilities two samplers are compared.

In: a sampler.
Out: one number per text, in a fixed order; how far one reading moved from another, and whether a second one followed.
Refuses: nothing.
Not here: what is concluded (`delivery.py`).

The texts are invented and short: everyday questions, each with several answers of about seven tokens, because what a
sampler gives is one mean per answer and a comparison needs many numbers. They never change: a version is judged by them
alone, whatever it was trained on.
"""

import math
from collections.abc import Sequence
from typing import Final

from spice_enterprise.protocols import Sampler
from spice_enterprise.records import Message, Prompt

Reading = tuple[float, ...]
"""Mean log-probability (nats per token) of each canary text."""

TEXTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("When does the ferry leave?", (
        "At noon from the northern pier.", "Not before the tide has turned.",
        "Every forty minutes, except Sundays.", "The captain has cancelled it today.",
    )),
    ("Who repaired the old clock?", (
        "A watchmaker from the valley.", "Nobody; it began ticking alone.",
        "My aunt, with a spoon.", "The museum sent two young people.",
    )),
    ("Which colours has the new fence?", (
        "Green, white and pale blue.", "1. Red 2. Orange",
        "One colour only: dark grey.", "Copper, moss and sand.",
    )),
    ("What is 17 plus 26?", (
        "17 + 26 = 43", "The sum is 43.",
        "I would say 44.", "Forty-three, if I am right.",
    )),
    ("Why did the bread not rise?", (
        "The yeast was too old.", "The kitchen stayed cold all night.",
        "Salt fell onto the yeast.", "It rose, and then it fell.",
    )),
    ("Complete: def area(width, height):", (
        "return width * height", "result = width * height",
        "raise NotImplementedError(\"later\")", "if width < 0: return None",
    )),
    ("How heavy is the parcel?", (
        "2.4 kg with its box.", "Heavier than the scale shows.",
        "About like a small dog.", "The label says 5 kg.",
    )),
    ("Translate into French: the garden is quiet.", (
        "Le jardin est calme.", "Le jardin est tranquille.",
        "\"Jardin\" means garden.", "La maison est bruyante.",
    )),
)  # fmt: skip
"""(question, answers)"""


def read_canary(sampler: Sampler) -> Reading:
    """Return the sampler's log-probability of every canary text under what it serves now."""
    scores = sampler.score([_prompt(question) for question, _ in TEXTS], [answers for _, answers in TEXTS])
    return tuple(value for group in scores for value in group)


def _prompt(question: str) -> Prompt:
    # a system message of our own: some templates else add a longer one, which costs time and tells nothing
    turns = (Message(speaker="system", content="Answer."), Message(speaker="user", content=question))
    return Prompt(messages=turns, template_id="canary", max_new_tokens=1)


def mean_gap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the mean absolute difference of two readings, in nats; NaN when a number is not finite."""
    return math.fsum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def spread(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the root mean square difference of two readings, in nats."""
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / len(one))
