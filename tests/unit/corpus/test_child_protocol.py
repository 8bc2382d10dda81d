import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.child_protocol import (
    MAX_EXPANDED_BYTES,
    MAX_MEMBERS,
    MAX_TEXT_CHARS,
    Contents,
    Header,
    Unparsed,
    check_size,
    decode_answer,
    decode_contents,
    is_safe_name,
    line_of,
    read_header,
    read_settings,
    settings_line,
)
from spice_enterprise.corpus.reading import MAX_PAGES, Parsed, ParseOptions
from spice_enterprise.errors import ParseError

GOOD = {
    "media_type": "text/plain", "pages": ["a"], "parser": "pypdfium2 5.15.2", "hidden": [["colour", 3]],
    "flags": ["E_OCR_NEEDED"], "ocr_pages": 1, "ocr_confidence": 0.5,
}  # fmt: skip


def line(**changes):
    return json.dumps({**GOOD, **changes}).encode() + b"\n"


def test_an_answer_comes_back_as_it_was():
    parsed = Parsed(media_type="text/plain", pages=("a", "b"), parser="x 1", hidden=(("tag", 2),), flags=("E_X",), ocr_pages=2,
                    ocr_confidence=0.25)  # fmt: skip
    assert decode_answer(line_of(parsed)) == parsed
    refused = Unparsed(code="E_LIMIT_DEPTH", reason="nested too deeply")
    assert decode_answer(line_of(refused)) == refused


def test_requests_come_back_as_they_were():
    header = Header(kind="expand", suffix=".zip", size_bytes=7)
    assert read_header(line_of(header)) == header
    options = ParseOptions(carried=("notes", "headers"), parser="auto", ocr="auto")
    assert read_settings(settings_line("ocr", "/x", options)) == ("ocr", "/x", options)


@pytest.mark.parametrize(
    "changes",
    [
        {"media_type": 1}, {"media_type": "x y"}, {"media_type": "a" * 101}, {"pages": []}, {"pages": "a"}, {"pages": [1]},
        {"pages": ["a"] * (MAX_PAGES + 1)}, {"parser": "a\nb"}, {"parser": None}, {"parser": "a" * 81}, {"hidden": {}},
        {"hidden": [["colour"]]}, {"hidden": [["colour", -1]]}, {"hidden": [["colour", True]]}, {"hidden": [["A Name", 1]]},
        {"hidden": [["a", 1]] * 65}, {"flags": ["boom"]}, {"flags": "E_X"}, {"flags": ["E_x"]}, {"flags": ["E_X"] * 65},
        {"ocr_pages": -1}, {"ocr_pages": True}, {"ocr_pages": 1.0}, {"ocr_pages": MAX_PAGES + 1}, {"ocr_confidence": 2.0},
        {"ocr_confidence": float("nan")}, {"ocr_confidence": "x"}, {"ocr_confidence": 1}, {"more": 1},
    ],
)  # fmt: skip
def test_a_wrong_field_is_no_answer(changes):
    assert decode_answer(line()) is not None
    assert decode_answer(line(**changes)) is None


def test_more_text_than_allowed_is_no_answer():
    half = "a" * (MAX_TEXT_CHARS // 2)
    assert decode_answer(line(pages=[half, half])) is not None
    assert decode_answer(line(pages=[half, half, "a"])) is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]\n", b"nonsense\n", b"{}\n", b"\xff\n", b'{"code": "boom", "reason": "x"}\n',
        b'{"code": "E_X", "reason": 1}\n', b'{"code": "E_X", "reason": "a\\nb"}\n', b'{"code": "E_X", "reason": ""}\n',
        b'{"code": "E_X", "reason": "x", "text": "y"}\n', b"[" * 100_000 + b"\n",
        b'{"code": "E_X", "reason": "' + b"x" * 201 + b'"}\n',
    ],
)  # fmt: skip
def test_nonsense_is_no_answer(data):
    assert decode_answer(data) is None
    assert decode_contents(data) is None


def test_text_is_normalised_again():
    assert decode_answer(line(pages=["a\u0000b\u202e"])).pages == ("ab",)


def test_the_child_refuses_what_the_parent_would_not_take():
    with pytest.raises(ParseError, match="more text"):
        check_size(Parsed(media_type="t", pages=("a",) * (MAX_PAGES + 1)))
    parsed = Parsed(media_type="t", pages=("a",))
    assert check_size(parsed) is parsed


def test_contents_within_limits():
    contents = Contents(members=(("a/b.txt", 3), ("c", 0)))
    assert decode_contents(line_of(contents)) == contents
    assert decode_contents(b'{"members": []}\n') == Contents(members=())
    assert decode_contents(b'{"code": "E_PATH", "reason": "x"}\n') == Unparsed(code="E_PATH", reason="x")


@pytest.mark.parametrize(
    "members",
    [
        [["a", MAX_EXPANDED_BYTES], ["b", 1]], [["a", 1]] * (MAX_MEMBERS + 1), [["a", 1.5]], [["a", True]], [[1, 1]],
        [["a", 1, 1]], "ab", [["../a", 1]],
    ],
)  # fmt: skip
def test_contents_beyond_limits(members):
    assert decode_contents(json.dumps({"members": members}).encode() + b"\n") is None


@pytest.mark.parametrize("name", ["a", "a/b", "a b/ü.txt", "..a", "a..", "a\u202eb"])
def test_names_inside_the_archive(name):
    assert is_safe_name(name)


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "./a", "../a", "a/../b", "a\\b", "C:/a", "a\0b", "a" * 1025, 7, None])
def test_names_that_leave_the_archive(name):
    assert not is_safe_name(name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*GOOD, "code", "reason", "members"]), inner),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_checked_or_refused(value):
    data = json.dumps(value).encode() + b"\n"
    answer = decode_answer(data)
    assert answer is None or isinstance(answer, Parsed | Unparsed)
    contents = decode_contents(data)
    assert contents is None or isinstance(contents, Contents | Unparsed)


@given(st.fixed_dictionaries({field.name: JSON for field in dataclasses.fields(Parsed)}))
def test_what_is_accepted_has_the_right_types(value):
    answer = decode_answer(json.dumps(value).encode() + b"\n")
    if answer is not None:
        assert all(isinstance(page, str) for page in answer.pages)
        assert isinstance(answer.ocr_pages, int)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_without_an_error(data):
    assert decode_answer(data) is None
