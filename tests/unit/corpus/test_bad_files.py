import time

import pytest

from spice_enterprise.corpus.parsers import parse
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox, Unparsed
from spice_enterprise.errors import ParseError
from tests.unit.corpus.bad_files import BAD_FILES, SECRET, TEXT

MAX_S = 2.0


def outcome(bad):
    """(code or `text`, flags, message or text)"""
    try:
        parsed = parse(bad.make(), bad.suffix)
    except ParseError as error:
        return error.code, (), error.explain()
    return TEXT, parsed.flags, "\n".join(parsed.pages)


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: f"{bad.row} {bad.name}")
def test_a_bad_file_has_its_code_or_flag_and_is_done_with_soon(bad):
    started = time.monotonic()
    code, flags, words = outcome(bad)
    assert code in bad.codes
    if bad.flag:
        assert bad.flag in flags
    assert time.monotonic() - started < MAX_S
    if code != TEXT or bad.row in (12, 45):
        assert SECRET not in words
    if bad.row == 12:
        assert "Plain words" in words


def test_bad_files_do_not_harm_one_another_in_the_child():
    raw = [RawDocument(suffix=bad.suffix, data=bad.make()) for bad in BAD_FILES]
    healthy = RawDocument(suffix=".txt", data=b"healthy words")
    mixed = [document for bad in raw for document in (bad, healthy)]
    results = Sandbox(is_required=False).parse(mixed)
    assert all(not isinstance(result, Unparsed) for result in results[1::2])
    for bad, result in zip(BAD_FILES, results[::2], strict=True):
        assert (result.code if isinstance(result, Unparsed) else TEXT) in bad.codes, bad.name
        if isinstance(result, Unparsed):
            assert SECRET not in result.reason


def test_a_broken_table_is_named_by_its_row_only():
    rows = {bad.name: outcome(bad)[2] for bad in BAD_FILES if bad.row == 41}
    assert "row 3 " in rows["ragged csv"]
    assert "row 2 " in rows["unclosed quote"]
