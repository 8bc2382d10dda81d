"""Optional detectors from a directory: what is refused, and what a tiny random model and a fake GLiNER return."""

import json
import sys
import types

import pytest

from spice_enterprise.corpus.token_classifier import Gliner, TokenClassifier, require_safe_model
from spice_enterprise.errors import MissingExtraError, ScrubError


def model_directory(path, *, config=None, files=("model.safetensors",)):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config or {}))
    for name in files:
        (path / name).write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("config", "files", "code"),
    [
        (None, ("pytorch_model.bin",), "E_NER_UNSAFE"),
        (None, ("model.safetensors", "pytorch_model.bin"), "E_NER_UNSAFE"),
        (None, ("model.safetensors", "modeling.py"), "E_NER_UNSAFE"),
        ({"auto_map": {"AutoModel": "m.M"}}, ("model.safetensors",), "E_NER_UNSAFE"),
        (None, (), "E_NER_MISSING"),
    ],
)
def test_unsafe_and_missing_models_are_refused(tmp_path, config, files, code):
    with pytest.raises(ScrubError) as caught:
        TokenClassifier(path=model_directory(tmp_path / "m", config=config, files=files)).detect("Anna came.")
    assert caught.value.code == code


def test_no_directory_is_a_missing_model(tmp_path):
    with pytest.raises(ScrubError) as caught:
        require_safe_model(tmp_path / "nowhere")
    assert caught.value.code == "E_NER_MISSING"


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gliner", None)
    with pytest.raises(MissingExtraError, match="gliner") as caught:
        Gliner(path=model_directory(tmp_path / "m")).detect("Anna came.")
    assert caught.value.hint == "pip install 'spice-enterprise[gliner]'"


LOADED = []


class FakeGliner:
    @classmethod
    def from_pretrained(cls, path, *, local_files_only):
        LOADED.append((path, local_files_only))
        return cls()

    def predict_entities(self, text, labels, *, threshold):
        start = text.find("Quux")
        return [] if start < 0 else [{"start": start, "end": start + 4, "label": labels[0], "score": 0.8}]


def test_gliner_findings_come_back_under_our_labels(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gliner", types.SimpleNamespace(GLiNER=FakeGliner))
    path = model_directory(tmp_path / "m", files=("model.safetensors",))
    text = "Ordinary words come first here. " * 60 + "Then Quux came."
    spans = Gliner(path=path, labels={"project": "MISC"}).detect(text)
    assert [(text[s.start : s.end], s.entity, s.detector) for s in spans] == [("Quux", "MISC", "gliner")]
    assert [(str(path), True)] == LOADED


@pytest.mark.torch
def test_a_local_model_runs_and_its_places_fit(tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(1)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "anna", "weiss", "came", "to", "town", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(vocab=dict(zip(words, range(len(words)), strict=True)))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label={0: "O", 1: "B-PER"}, label2id={"O": 0, "B-PER": 1},
    )  # fmt: skip
    model = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([-5.0, 5.0]))
    tokenizer.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model", safe_serialization=True)
    text = "anna weiss came to town. " * 60
    spans = TokenClassifier(path=tmp_path / "model").detect(text)
    assert spans
    assert {s.entity for s in spans} == {"PERSON"}
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    assert max(s.end for s in spans) > 1_400
