"""The corpus page and the card: counts, what to do, masked excerpts; the same corpus gives the same bytes."""

import re
from pathlib import Path
from typing import Any

import pytest

from spice_enterprise import advice
from spice_enterprise.corpus.corpus_files import CHUNKS, read_chunks
from spice_enterprise.corpus_page import EXCERPTS, draw, render_text, write_page
from spice_enterprise.errors import IntegrityError
from spice_enterprise.page import BLOCK
from spice_enterprise.policy import load_pii
from spice_enterprise.records import Rejection

REJECTIONS = (
    Rejection(uri="=HYPERLINK(1).pdf", code="E_ENCRYPTED", reason="needs a password", size_bytes=10),
    Rejection(uri="a\u202egpj.exe", code="E_UNSUPPORTED", reason="no parser", size_bytes=2_000),
    Rejection(uri="<b>.docx", code="E_NEW_ONE", reason="odd"),
)


def test_the_page_says_what_happened(tmp_path: Path, make_corpus: Any) -> None:
    manifest = make_corpus(tmp_path, documents=8, rejections=REJECTIONS)
    page = write_page(tmp_path, load_pii()).read_text()
    assert manifest.corpus_digest in page
    assert manifest.pii_policy_digest in page
    for section in (
        "What was read",
        "What was removed",
        "Files left out",
        "Invisible text",
        "Passages left out",
        "Before and after",
    ):
        assert f"<h2>{section}" in page
    assert advice.for_file("E_ENCRYPTED") in page
    assert advice.for_file("E_NEW_ONE") == "See docs/reference/errors.md."
    assert "&#x27;=HYPERLINK(1).pdf" in page
    assert "a?gpj.exe" in page
    assert "&lt;b&gt;.docx" in page
    assert "zero width" in page
    assert not re.search(r"<script|https?:|src=|url\(|<b>\.docx", page)


def test_excerpts_cover_values_and_escape_text(tmp_path: Path, make_corpus: Any) -> None:
    make_corpus(tmp_path, documents=8)
    page = write_page(tmp_path, load_pii()).read_text()
    before = re.findall(r"before</span>(.*?)</div>", page, re.DOTALL)
    assert len(before) == EXCERPTS
    assert all(BLOCK in passage and "[PERSON" not in passage for passage in before)
    assert "&lt;client&gt; &amp; recorded" in page


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path, make_corpus: Any) -> None:
    for name in ("one", "two"):
        make_corpus(tmp_path / name, documents=5, rejections=REJECTIONS)
        write_page(tmp_path / name, load_pii())
    assert (tmp_path / "one" / "report.html").read_bytes() == (tmp_path / "two" / "report.html").read_bytes()


def test_a_changed_corpus_gets_no_page(tmp_path: Path, make_corpus: Any) -> None:
    make_corpus(tmp_path)
    with (tmp_path / CHUNKS).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(IntegrityError) as caught:
        write_page(tmp_path, load_pii())
    assert caught.value.code == "E_CORPUS_FILES"


def test_a_long_chunk_is_cut_around_a_removed_value(tmp_path: Path, make_corpus: Any) -> None:
    long = "word " * 2_000 + "[PERSON_7QK2MA] " + "tail " * 2_000
    make_corpus(tmp_path, documents=2, texts=(long,))
    page = write_page(tmp_path, load_pii()).read_text()
    assert page.count(BLOCK) == 2
    assert len(page) < 40_000


def test_a_draw_is_random_repeatable_and_grows(tmp_path: Path, make_corpus: Any) -> None:
    make_corpus(tmp_path, documents=30)
    chunks = list(read_chunks(tmp_path))
    small, large = draw(iter(chunks), 5, seed=1), draw(iter(reversed(chunks)), 20, seed=1)
    assert small == large[:5]
    assert draw(iter(chunks), 5, seed=2) != small
    assert len({chunk.chunk_id for chunk in large}) == 20


def test_every_chunk_is_as_likely_as_any_other(tmp_path: Path, make_corpus: Any) -> None:
    make_corpus(tmp_path, documents=7)
    chunks = list(read_chunks(tmp_path))
    hits = {chunk.chunk_id: 0 for chunk in chunks}
    for seed in range(600):
        for chunk in draw(iter(chunks), 7, seed=seed):
            hits[chunk.chunk_id] += 1
    assert 150 < min(hits.values()) <= max(hits.values()) < 250  # 200 expected; six standard deviations are 69


def test_the_card(tmp_path: Path, make_corpus: Any) -> None:
    manifest = make_corpus(tmp_path, documents=8, rejections=REJECTIONS)
    card = render_text(manifest, tmp_path, connections_attempted=0)
    assert "0 outside connections attempted" in card.splitlines()[0]
    assert " chunks     24: train 18, unseen 6" in card
    assert "dropped 5: repeated 2, short 3" in card
    assert "E_ENCRYPTED              1  It needs a password." in card
    assert "person 16, email address 8" in card
    assert card.splitlines()[-1].endswith(f"spice-enterprise ingest review {tmp_path}")
    assert "\x1b" not in card


def test_advice_is_about_codes_that_exist() -> None:
    sources = "".join(path.read_text() for path in (Path(advice.__file__).parent / "corpus").glob("*.py"))
    assert not [code for code in (*advice.QUARANTINE, *advice.FLAGS) if f'"{code}"' not in sources]


def test_advice_is_one_or_two_sentences() -> None:
    for text in (*advice.QUARANTINE.values(), *advice.FLAGS.values()):
        assert text.endswith(".")
        assert len(text) < 125
