import math

import pytest

from spice_enterprise.selfplay.embedding import DIMENSIONS, HashedEmbedder

NOTICE = "What is the notice period of the lease?"
PUMP = {
    30: 0.2357,
    63: 0.2357,
    95: 0.2357,
    100: -0.2357,
    168: -0.2357,
    177: -0.2357,
    198: -0.2357,
    218: -0.2357,
    250: 0.2357,
    254: 0.7071,
}
OTHERS = (
    "What is the monthly fee of the service?",
    "Who operates the pump in the basement?",
    "On which date was the lease signed?",
    "How many employees does the supplier have?",
    "Which court decides about disputes?",
)


def cosine(first, second):
    a, b = HashedEmbedder().embed([first, second])
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("near", "least"),
    [
        ("What is the notice period of the lease", 0.999),
        ("what is a NOTICE period of lease ?!", 0.999),
        ("What is the notice period of this lease?", 0.8),
        ("And what is the notice period of the lease?", 0.8),
        ("What is the lease notice period?", 0.6),
        ("What's the lease's notice period?", 0.45),
    ],
)
def test_a_rewording_is_nearer_than_any_other_question(near, least):
    assert cosine(NOTICE, near) > least
    assert cosine(NOTICE, near) > max(cosine(NOTICE, other) for other in OTHERS) + 0.1


def test_vectors_have_length_one_and_one_size_whatever_the_text():
    for text in (NOTICE, "", " ", "?!", "A", "notice " * 9_000, "ü漢字", "\0"):
        (vector,) = HashedEmbedder().embed([text])
        assert len(vector) == DIMENSIONS
        assert math.fsum(value * value for value in vector) == pytest.approx(1.0)


def test_the_vector_is_the_same_everywhere():
    (vector,) = HashedEmbedder().embed(["pump"])
    found = {i: round(value, 4) for i, value in enumerate(vector) if value}
    assert found == PUMP, "another hash would make the archives of running jobs worthless"
