"""What every page shares: escaping, harmless names, covered values."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.page import BLOCK, STYLE, document, file_name, hues, size_text, table, with_blocks, with_placeholders
from spice_enterprise.records import Redaction


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@sum", "'=x"])
def test_a_name_is_no_formula_where_it_is_pasted(name: str) -> None:
    assert file_name(name).startswith("&#x27;")


def test_a_name_cannot_hide_its_ending_or_speak_to_the_terminal() -> None:
    assert file_name("a\u202efdp.exe\x1b[2J\x00") == "a?fdp.exe?[2J?"
    assert file_name("<img src=x>") == "&lt;img src=x&gt;"


def test_a_page_fetches_nothing_and_has_both_lights() -> None:
    page = document("a <b>", "<p>x</p>")
    assert "<title>a &lt;b&gt;</title>" in page
    assert not re.search(r"<script|https?:|src=|@import|url\(", page)
    assert "prefers-color-scheme:dark" in STYLE
    assert "@media print" in STYLE


def test_table_cells_are_html_and_heads_are_not() -> None:
    assert table(("<a>",), [("<b>x</b>",)]).count("<b>x</b>") == 1
    assert "&lt;a&gt;" in table(("<a>",), [])


@pytest.mark.parametrize(("size", "text"), [(500, "0 KiB"), (2048, "2 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")])
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@given(st.lists(st.text(alphabet="ab<&\n", max_size=6), min_size=1, max_size=6))
def test_blocks_tell_nothing_about_the_value(pieces: list[str]) -> None:
    def page(value: str) -> str:
        text, redactions = "", []
        for piece in pieces:
            text += piece
            redactions.append(Redaction(start=len(text), end=len(text) + len(value), entity="PERSON"))
            text += value
        return with_blocks(text, redactions)

    assert page("[PERSON_AB]") == page("[PERSON_ABCDEFGHIJ]")
    assert page("[PERSON_AB]").count(BLOCK) == len(pieces)


def test_placeholders_are_marked_and_escaped() -> None:
    text = "see <[A_1]> & [B_2]"
    marked = with_placeholders(
        text, [Redaction(start=5, end=10, entity="A"), Redaction(start=14, end=19, entity="B")], hues("AB")
    )
    assert re.sub(r"</?mark[^>]*>", "", marked) == "see &lt;[A_1]&gt; &amp; [B_2]"
    assert marked.count("<mark ") == 2
    assert len(set(re.findall(r"--h:(\d+)", marked))) == 2
