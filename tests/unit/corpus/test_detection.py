import pytest

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.detection import make_detector, ner_identity_of
from spice_enterprise.errors import ScrubError


def test_the_identity_names_every_model_and_changes_with_its_weights(tmp_path):
    plain = ner_identity_of(IngestConfig())
    assert plain.startswith("en_core_web_md-3.8.0@sha256:")
    (tmp_path / "config.json").write_text("{}")
    names = set()
    for weights in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        names.add(ner_identity_of(IngestConfig(token_classifier=str(tmp_path))))
    assert len(names) == 2
    assert all(name.startswith(f"{plain} + token_classifier@sha256:") for name in names)


def test_a_missing_model_refuses_before_anything_is_read(tmp_path):
    with pytest.raises(ScrubError) as caught:
        make_detector(IngestConfig(ner_model=str(tmp_path / "none")))
    assert caught.value.code == "E_NER_MISSING"
    with pytest.raises(ScrubError) as caught:
        ner_identity_of(IngestConfig(gliner=str(tmp_path / "none")))
    assert caught.value.code == "E_NER_MISSING"
