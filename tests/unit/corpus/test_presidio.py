"""The NER leaf: digests, windows, and the traps of running Presidio on an NER-only pipeline."""

import shutil

import pytest

pytest.importorskip("presidio_analyzer", exc_type=ImportError)

from spice_enterprise.corpus import presidio
from spice_enterprise.corpus.presidio import PresidioDetector, ner_identity, resolve_ner_model
from spice_enterprise.errors import ScrubError
from spice_enterprise.records import Span


@pytest.fixture(scope="module")
def model():
    try:
        return resolve_ner_model("embedded")
    except ScrubError:
        pytest.skip("the NER model is not installed")


@pytest.fixture(scope="module")
def detector(model):
    return PresidioDetector(model, rules=())


@pytest.fixture(scope="module")
def full(model):
    return PresidioDetector(model)


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


def test_our_rules_are_presidio_recognisers_and_context_words_raise_their_scores(full):
    assert any(isinstance(one, presidio.RuleRecognizer) and one.context for one in full.registry.recognizers)
    assert ("9493 7477", "PHONE") in found(full, "You can reach the office at 9493 7477 today.")
    assert ("9493 7477", "PHONE") not in found(full, "The counter stood between 9493 7477 times and less.")


def test_a_recogniser_can_be_added_to_the_registry(model):
    from presidio_analyzer import Pattern, PatternRecognizer

    detector = PresidioDetector(model, rules=())
    pattern = Pattern("project", r"\bPRJ-\d{4}\b", 0.9)
    detector.registry.add_recognizer(PatternRecognizer(supported_entity="CASE_NUMBER", patterns=[pattern]))
    assert ("PRJ-4711", "CASE_NUMBER") in found(detector, "See PRJ-4711 please.")


def test_what_other_detectors_find_is_added(model):
    class Other:
        def detect(self, text):
            return [Span(start=0, end=5, entity="MISC", score=0.9, detector="other")]

    text = "Xyzzy and Karen Cannon came."
    assert {("Xyzzy", "MISC"), ("Karen Cannon", "PERSON")} <= found(PresidioDetector(model, rules=(), others=[Other()]), text)


def test_small_letters_and_capitals_hide_no_names(full):
    assert ("karen cannon", "PERSON") in found(full, "yesterday karen cannon flew from berlin to meet us.")
    assert ("KAREN CANNON", "PERSON") in found(full, "KAREN CANNON FLEW FROM BERLIN\n\nOrdinary words follow here.")


def test_indirect_identifiers_are_reported_under_their_own_labels(detector):
    text = "On 3 May 2001 the Polish nurse paid 500 dollars for three years."
    assert {("3 May 2001", "DATE"), ("three years", "DURATION")} <= {
        (v.removeprefix("the "), e) for v, e in found(detector, text)
    }
    assert found(detector, "Revenue of Q3 2024 under Incoterms 2020 grew.") == set()


def test_thinc_keeps_its_setting_outside(full):
    from thinc.api import get_current_ops

    before = get_current_ops().use_blis
    full.detect("Karen came.")
    assert get_current_ops().use_blis == before


@pytest.mark.parametrize("shape", ["word ", "A", "1 ", "Anna Weiss, ", "call 555 1234 "])
def test_time_stays_linear_in_one_long_line(full, shape, is_linear):
    full.detect("warm")
    assert is_linear(full.detect, (shape * 16_000)[:16_000])


@pytest.mark.slow
def test_more_than_a_million_characters(model):
    text = "Parts and prices are listed below. " * 29_000 + "Karen Cannon signed the list in Berlin."
    assert len(text) > 1_000_000
    values = found(PresidioDetector(model, rules=()), text)
    assert ("Karen Cannon", "PERSON") in values
