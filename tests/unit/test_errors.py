"""Errors: one line, stable codes, nothing private."""

import errno

import pytest

from spice_enterprise import errors
from spice_enterprise.errors import ConfigError, CorpusError, SpiceError, StoreError, boundary, classify


def test_explain_is_one_line_with_code_where_and_hint() -> None:
    error = SpiceError("two\nlines", code="E_X", record_id="chunk_1", hint="do this")
    assert error.explain() == "E_X: two lines [chunk_1] -> do this"


def test_every_error_is_a_spice_error_with_its_own_code() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, SpiceError)]
    assert len({c.default_code for c in classes}) == len(classes)


def test_the_corpus_border_drops_the_original() -> None:
    with pytest.raises(CorpusError) as caught, boundary("corpus", "doc_1"):
        raise ValueError("private words of a document")
    assert "private" not in caught.value.explain()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert caught.value.record_id == "doc_1"
    assert caught.value.exit_status() == 1


def test_a_border_keeps_an_error_that_is_ours() -> None:
    with pytest.raises(ConfigError) as caught, boundary("corpus", "doc_1"):
        raise ConfigError("bad", hint="mend it")
    assert caught.value.code == "E_CONFIG"
    assert caught.value.record_id == "doc_1"


def test_a_full_disk_may_be_tried_again() -> None:
    error = classify(OSError(errno.ENOSPC, "full"), "training")
    assert isinstance(error, StoreError)
    assert (error.code, error.exit_status()) == ("E_DISK_FULL", 75)


@pytest.mark.parametrize(("code", "status"), [("E_LOCKED", 75), ("E_STOPPED", 75), ("E_OTHER", 1)])
def test_exit_status_follows_the_code(code: str, status: int) -> None:
    assert StoreError("x", code=code).exit_status() == status
