"""The NER leaf: digests, windows, and the traps of running Presidio on an NER-only pipeline."""

import shutil

import pytest

pytest.importorskip("presidio_analyzer", exc_type=ImportError)

from spice_enterprise.corpus import presidio
from spice_enterprise.corpus.presidio import PresidioDetector, ner_identity, resolve_ner_model
from spice_enterprise.errors import ScrubError


class Silent:
    """No rules: what is found comes from Presidio."""

    def detect(self, text):
        return []


@pytest.fixture(scope="module")
def model():
    try:
        return resolve_ner_model("embedded")
    except ScrubError:
        pytest.skip("the NER model is not installed")


@pytest.fixture(scope="module")
def detector(model):
    return PresidioDetector(model, Silent())


def found(detector, text):
    return {(text[s.start : s.end], s.entity) for s in detector.detect(text)}


def test_the_packaged_model_is_the_pinned_one(model):
    assert ner_identity(model).startswith("en_core_web_md-3.8.0@sha256:")


def test_a_missing_model_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ScrubError, match="not installed") as local:
        resolve_ner_model(str(tmp_path))
    monkeypatch.setattr(presidio, "MODEL_PACKAGE", "no_such_package_here")
    with pytest.raises(ScrubError) as embedded:
        resolve_ner_model("embedded")
    assert {local.value.code, embedded.value.code} == {"E_NER_MISSING"}
    assert local.value.exit_status() == 2


def test_changed_weights_are_refused(model, tmp_path, monkeypatch):
    package = tmp_path / "changed_model"
    shutil.copytree(model, package / "_model")
    (package / "__init__.py").write_text("raise RuntimeError('a data package need not run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(presidio, "MODEL_PACKAGE", "changed_model")
    assert resolve_ner_model("embedded") == package / "_model"
    (package / "_model" / "ner" / "model").write_bytes(b"other")
    with pytest.raises(ScrubError, match="ner/model is not the pinned one") as caught:
        resolve_ner_model("embedded")
    assert (caught.value.code, caught.value.exit_status()) == ("E_NER_DIGEST", 2)
    assert ner_identity(package / "_model").startswith("local@sha256:")


def test_names_in_prose_are_found(detector):
    text = "Yesterday Karen Cannon of Acme Logistics flew from Berlin to meet Herbert Kitzmann about the invoice."
    values = found(detector, text)
    assert ("Karen Cannon", "PERSON") in values
    assert ("Herbert Kitzmann", "PERSON") in values
    assert ("Berlin", "LOCATION") in values


def test_a_name_across_a_wrapped_line_is_one_name(detector):
    text = "The parties agreed that all notices have to be sent to Herbert\nKitzmann before the end of the month."
    assert ("Herbert\nKitzmann", "PERSON") in found(detector, text) or {
        ("Herbert", "PERSON"),
        ("Kitzmann", "PERSON"),
    } <= found(detector, text)


def test_context_words_still_raise_a_score(detector):
    """An NER-only pipeline has no lemmas; without the replacement the number beside its word stays below the limit."""
    assert ("123456789", "PASSPORT") in found(detector, "His passport number is 123456789 and he left.")
    assert ("123456789", "PASSPORT") not in found(detector, "The serial total is 123456789 and he left.")


def test_business_words_are_no_names(detector):
    text = "The Agreement and Exhibit B-3 are governed by Delaware law. The Services follow ISO/IEC 27001:2022."
    assert found(detector, text) == set()


def test_spans_are_the_same_twice_and_in_a_long_text(detector):
    text = ("Ordinary words about parts and prices without an end " * 60 + ". Karen Cannon signed.\n\n") * 3
    first = detector.detect(text)
    assert [s for s in first if text[s.start : s.end] == "Karen Cannon"]
    assert detector.detect(text) == first
    assert detector.detect("") == []


def test_windows_cover_the_text():
    text = "Alpha beta. " * 400 + "\n\n" + "x" * 5000 + "\fshort"
    windows = list(presidio._windows(text))
    assert "".join(window for _, window in windows) == text
    assert all(text[start : start + len(window)] == window for start, window in windows)
    assert max(len(window) for _, window in windows) <= presidio.WINDOW_CHARS


def test_the_cache_holds_no_text(detector):
    detector.detect("Karen Cannon came.")
    assert all(isinstance(digest, bytes) and len(digest) == 16 for digest in detector._found)
