"""Which passages are near a question, and of which document each chunk is."""

import numpy as np
import pytest

from spice_enterprise.records import Chunk, ScrubbedText
from spice_enterprise.selfplay.library import Library

QUESTION = "How long is the notice period of the pump lease?"


def chunk(document, index, text):
    return Chunk(
        document_id=document, index=index, text=ScrubbedText(text), redactions=(), split="train", pii_policy_digest="sha256:0",
        token_count=len(text.split()),
    )  # fmt: skip


SOURCE = chunk("doc_1", 0, "pump lease notice period")
TWIN = chunk("doc_1", 1, "pump lease notice period again")
NEAR = chunk("doc_2", 0, "notice period of a lease")
FAR = chunk("doc_3", 0, "the weather")


class CountingEmbedder:
    """A text by which of these words it has: the more of a question's, the nearer."""

    WORDS = ("pump", "lease", "notice", "period")

    def __init__(self):
        self.asked = 0

    def embed(self, texts):
        self.asked += 1
        return np.array([[word in text for word in self.WORDS] for text in texts], dtype=float)


@pytest.fixture
def library():
    return Library([FAR, TWIN, NEAR, SOURCE], CountingEmbedder())


@pytest.mark.parametrize("n", [1, 2, 9])
def test_no_passage_of_the_sources_own_document_is_near(library, n):
    """Its other passages may say the same: beside the source they would be no distractors."""
    assert library.near(QUESTION, SOURCE, n=n) == (NEAR, FAR)[:n]


def test_the_source_needs_not_be_in_the_library(library):
    found = library.near(QUESTION, chunk("doc_9", 0, "elsewhere"), n=4)
    assert (set(found[:2]), found[2:]) == ({SOURCE, TWIN}, (NEAR, FAR))


def test_equally_near_ones_come_in_one_order():
    same = [chunk(f"doc_{i}", 0, "notice period") for i in range(2, 8)]
    orders = {Library(chunks, CountingEmbedder()).near(QUESTION, SOURCE, n=6) for chunks in (same, same[::-1])}
    assert len(orders) == 1


def test_nothing_is_embedded_until_a_neighbour_is_asked_for():
    embedder = CountingEmbedder()
    library = Library([NEAR, FAR], embedder)
    assert (library.near(QUESTION, SOURCE, n=0), embedder.asked) == ((), 0)
    assert Library([], embedder).near(QUESTION, SOURCE, n=3) == ()
    library.near(QUESTION, SOURCE, n=1)
    library.near(QUESTION, SOURCE, n=1)
    assert embedder.asked == 3, "the chunks once, each question once"


def test_a_chunk_is_found_by_its_id(library):
    assert library.find(NEAR.chunk_id) is NEAR
    assert library.find("chunk_none") is None
    assert library.documents == {SOURCE.chunk_id: "doc_1", TWIN.chunk_id: "doc_1", NEAR.chunk_id: "doc_2", FAR.chunk_id: "doc_3"}
