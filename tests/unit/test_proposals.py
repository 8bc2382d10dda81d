"""The parts of `benchmarks/proposals.py` that need no model."""

import argparse
import json
from random import Random

import pytest

from benchmarks import proposals
from spice_enterprise.testing import ScriptedSampler

TEXT = "The notice period of the lease is 45 days. The monthly fee is 12,480 euros. It was signed on 14 March 2019 in Brno. "
ARGS = argparse.Namespace(
    role="train", chunks=4, min_chars=60, max_chars=140, samples=4, agree=3, temperatures=[1.0], regime="open_book",
    formats="free_form", temperature=1.0, hint_values="all",
)  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text").mkdir()
    entries = []
    for name, role in (("a", "train"), ("b", "train"), ("c", "unseen")):
        (tmp_path / "text" / f"{name}.txt").write_text(TEXT * 3 + name, encoding="utf-8")
        entries.append(json.dumps({"doc_id": name, "role": role, "file": f"text/{name}.txt"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(entries), encoding="utf-8")
    return tmp_path


def test_passages_have_the_asked_length_and_whole_sentences():
    pieces = list(proposals.cut(TEXT * 3, 60, 140))
    assert len(pieces) >= 3
    assert all(60 <= len(piece) <= 140 and piece.endswith(".") for piece in pieces)
    assert list(proposals.cut("TOTALS 1 2 3. " * 40, 60, 140)) == []


def test_only_documents_of_the_role_are_read_each_in_turn(corpus):
    assert [name for name, _ in proposals.passages(corpus, "train")] == ["a", "b"]
    assert [name for name, _ in proposals.passages(corpus / "text", "train")] == ["a", "b", "c"]
    listing = corpus / "documents.jsonl"
    listing.write_text(json.dumps({"doc_id": "d", "role": "train", "text": TEXT}), encoding="utf-8")
    assert list(proposals.passages(listing, "train")) == [("d", TEXT)]
    chunks = proposals.load_chunks(argparse.Namespace(**{**vars(ARGS), "corpus": str(corpus)}))
    assert {chunk.document_id for chunk in chunks[:2]} == {"a", "b"}
    assert len(chunks) == 4
    measures = argparse.Namespace(**{**vars(ARGS), "corpus": str(corpus), "hint_values": "measures", "chunks": 9})
    assert all(any(c.isdigit() for c in chunk.text) for chunk in proposals.load_chunks(measures))


@pytest.mark.parametrize("formats", ["free_form", "choice"])
def test_shares_follow_what_is_said(corpus, formats):
    args = argparse.Namespace(**{**vars(ARGS), "corpus": str(corpus), "formats": formats})
    chunks = proposals.load_chunks(args)
    config = proposals.settings(args, "short", "span").model_copy(update={"check_temperature": 1.0})
    pool = [hint for chunk in chunks for hint in proposals.find_hints(chunk.text)]

    def propose(prompt, random: Random):
        return " is said of the notice period, the monthly fee or the day it was signed?" if random.random() < 0.5 else ""

    judged = proposals.propose(chunks, config, ScriptedSampler(propose), n=8, seed=1)
    assert len(judged) == 32
    proposals.ask_base(judged, config, ScriptedSampler(lambda *_: "nothing"), pool=pool, seed=1)
    found = proposals.figures(judged, args)
    assert found["parsable"] == 1.0
    assert 0.0 < found["fit"] < 1.0
    assert found["agreed@1"] == found["admitted@1"] == 0.0
    answers = {
        proposals.task_of(each, pool, seed=1).question: proposals.task_of(each, pool, seed=1)
        for each in judged
        if not each.reason
    }

    def knows(prompt, random: Random):
        return next(task.answer for question, task in answers.items() if question in prompt.messages[-1].content)

    proposals.ask_base(judged, config, ScriptedSampler(knows), pool=pool, seed=1)
    found = proposals.figures(judged, args)
    assert found["agreed@1"] == 1.0
    assert found["admitted@1"] == found["fit"]


def test_a_row_shows_the_mean_and_the_range():
    assert proposals.line("short, span", [{"fit": 0.25}, {"fit": 0.75}]) == "| short, span | 0.500 (0.250-0.750) |"
