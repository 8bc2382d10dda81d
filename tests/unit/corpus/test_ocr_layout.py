import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.ocr_layout import Piece, missing_spaces, page_lines, turned


def piece(text, left, top, *, width=None, height=20):
    return Piece(text=text, left=left, top=top, right=left + (width or 10 * len(text)), bottom=top + height)


def test_pieces_at_one_height_are_one_line_from_left_to_right():
    pieces = [piece("third", 0, 60), piece("second", 200, 2), piece("first", 0, 0)]
    assert page_lines(pieces) == ["first second", "third"]


def test_a_page_without_text_has_no_lines():
    assert page_lines([]) == []


def test_two_columns_below_a_title_are_read_one_after_the_other():
    title = piece("a title across the page", 0, 0, width=1000)
    left = [piece(f"left {i}", 0, 50 + 30 * i, width=450) for i in range(8)]
    right = [piece(f"right {i}", 550, 52 + 30 * i, width=450) for i in range(8)]
    found = page_lines([*right, title, *left])
    assert found == ["a title across the page", *(p.text for p in left), *(p.text for p in right)]


def test_a_table_is_read_across():
    cells = [piece(f"{name} {i}", x, 30 * i, width=90) for i in range(8) for x, name in ((0, "label"), (900, "value"))]
    assert page_lines(cells) == [f"label {i} value {i}" for i in range(8)]


def test_few_lines_side_by_side_are_rows():
    pieces = [piece(f"left {i}", 0, 30 * i, width=450) for i in range(3)]
    pieces += [piece(f"right {i}", 550, 30 * i, width=450) for i in range(3)]
    assert page_lines(pieces) == [f"left {i} right {i}" for i in range(3)]


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(1, 400)), max_size=40))
def test_nothing_is_lost_or_doubled(boxes):
    pieces = [piece(f"w{i}", left, top, width=width) for i, (left, top, width) in enumerate(boxes)]
    assert sorted(" ".join(page_lines(pieces)).split()) == sorted(p.text for p in pieces)


@pytest.mark.parametrize(
    ("turns", "expected"), [(0, (1, 2, 4, 6)), (1, (2, 96, 6, 99)), (2, (96, 44, 99, 48)), (3, (44, 1, 48, 4))]
)
def test_boxes_turn_with_the_page(turns, expected):
    assert turned((1, 2, 4, 6), (50, 100), turns) == expected


@given(st.integers(0, 3), st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(31, 60), st.integers(31, 60)))
def test_turning_is_what_turning_the_picture_does(turns, box):
    left, top, right, bottom = box
    page = np.zeros((70, 90), dtype=int)
    page[top:bottom, left:right] = 1
    rows, columns = np.nonzero(np.rot90(page, turns))
    found = turned(box, page.shape, turns)
    assert found == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def drawn(widths):
    """A line of bars 10 pixels wide with the given gaps between them, and where the bars stand."""
    crop = np.full((40, 10 * (len(widths) + 1) + sum(widths), 3), 255, dtype=np.uint8)
    positions = []
    x = 0
    for gap in [*widths, 0]:
        crop[8:32, x : x + 10] = 0
        positions.append(x + 5)
        x += 10 + gap
    return crop, positions


def test_a_swallowed_space_is_put_back():
    crop, positions = drawn([3, 3, 14, 3, 3])
    assert missing_spaces("abcdef", positions, crop) == "abc def"


def test_white_space_is_compared_with_the_spaces_that_were_seen():
    crop, positions = drawn([3, 14, 3, 14, 3, 11, 3, 9, 3])
    assert missing_spaces("ab cd efghij", positions, crop) == "ab cd ef ghij"


def test_letters_that_stand_apart_a_little_stay_together():
    crop, positions = drawn([5, 6, 5, 6])
    assert missing_spaces("ab-cd", positions, crop) == "ab-cd"


def test_a_thin_stroke_is_ink_and_a_speck_is_not():
    crop, positions = drawn([14, 14])
    crop[20:23, 10:24] = 0
    crop[5, 38] = 0
    assert missing_spaces("abc", positions, crop) == "ab c"


@given(st.text(alphabet="ab ", min_size=1, max_size=20), st.integers(0, 1000))
def test_only_spaces_are_added(text, seed):
    crop = np.random.default_rng(seed).integers(0, 255, (20, 200, 3), dtype=np.uint8)
    letters = len(text.replace(" ", ""))
    positions = [200 * (i + 0.5) / max(letters, 1) for i in range(letters)]
    assert missing_spaces(text, positions, crop).replace(" ", "") == text.replace(" ", "")
