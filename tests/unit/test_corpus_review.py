"""The review by hand: the sample, the marks, what they prove."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus_review import (
    MARKS,
    Sample,
    draw_sample,
    findings_of,
    read_marks,
    render_findings,
    sample_of_marks,
    share_of,
    write_marks,
    write_review_page,
)
from spice_enterprise.errors import ConfigError


@pytest.fixture
def sample(tmp_path: Path, make_corpus: Any) -> Sample:
    make_corpus(tmp_path, documents=10)
    return draw_sample(tmp_path, 6, 3)


def test_the_page_shows_every_chunk_of_the_sample(tmp_path: Path, sample: Sample) -> None:
    page = write_review_page(tmp_path, sample).read_text()
    assert all(chunk.chunk_id in page for chunk in sample.chunks)
    assert page.count('type="checkbox"') == 3 * sample.size
    assert "<script" not in page


def test_marks_go_round(tmp_path: Path, sample: Sample) -> None:
    path = tmp_path / MARKS
    said = {sample.chunks[0].chunk_id: "left", sample.chunks[2].chunk_id: "clean"}
    write_marks(path, sample, said)  # type: ignore[arg-type]
    assert read_marks(path, sample) == said
    assert sample_of_marks(path, tmp_path) == sample
    assert set(json.loads(path.read_bytes().splitlines()[1])) == {"chunk_id", "verdict"}


def other_sample(lines: list[Any]) -> None:
    lines[0]["seed"] = 4


def foreign_chunk(lines: list[Any]) -> None:
    lines[1]["chunk_id"] = "chunk_elsewhere"


def twice(lines: list[Any]) -> None:
    lines[2]["chunk_id"] = lines[1]["chunk_id"]


def unknown_word(lines: list[Any]) -> None:
    lines[1]["verdict"] = "Jane is named"


def a_note(lines: list[Any]) -> None:
    lines[1]["note"] = "Jane"


@pytest.mark.parametrize("change", [other_sample, foreign_chunk, twice, unknown_word, a_note])
def test_marks_of_anything_else_are_refused(tmp_path: Path, sample: Sample, change: Callable[[list[Any]], None]) -> None:
    path = tmp_path / MARKS
    write_marks(path, sample, {})
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(lines)
    path.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(ConfigError) as caught:
        read_marks(path, sample)
    assert caught.value.code == "E_REVIEW"
    assert "Jane" not in caught.value.explain()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b'{"sample": "5", "seed": 0}'])
def test_a_file_of_marks_says_which_sample(tmp_path: Path, sample: Sample, content: bytes) -> None:
    (tmp_path / MARKS).write_bytes(content)
    with pytest.raises(ConfigError, match=r"review\.jsonl:1"):
        sample_of_marks(tmp_path / MARKS, tmp_path)


def test_no_marks_prove_nothing(sample: Sample) -> None:
    with pytest.raises(ConfigError, match="no chunk has been marked"):
        findings_of(sample, {})


def test_findings_count_both_as_both(sample: Sample) -> None:
    ids = [chunk.chunk_id for chunk in sample.chunks]
    found = findings_of(sample, {ids[0]: "both", ids[1]: "left", ids[2]: "clean"})
    assert (found.left.count, found.too_much.count, found.checked, found.is_complete) == (2, 1, 3, False)
    assert found.left_ids == tuple(sorted(ids[:2]))
    assert "not complete" in render_findings(found)
    event = found.event("")
    assert event.event == "corpus.reviewed"
    assert dict(event.data)["left"] == 2


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (0, 500, 0.0, 0.00597),
        (0, 50, 0.0, 0.05816),
        (5, 100, 0.01991, 0.10225),
        (50, 50, 0.94184, 1.0),
        (3, 10, 0.08726, 0.60662),
    ],
)
def test_bounds_are_those_of_the_tables(count: int, of: int, low: float, high: float) -> None:
    found = share_of(count, of)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_bounds_hold_the_share_and_mirror(pair: tuple[int, int]) -> None:
    count, of = pair
    found, mirrored = share_of(count, of), share_of(of - count, of)
    assert found.low <= count / of <= found.high
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-9)
