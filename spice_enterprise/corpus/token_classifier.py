"""More detectors from a local directory: a transformers token classifier, or GLiNER for labels of your own.

In: text, and a directory with weights and tokenizer.
Out: spans under our labels.
Refuses: a directory without such a model (`E_NER_MISSING`), pickled weights or a model that brings code (`E_NER_UNSAFE`).
Not here: the default model (`presidio.py`). Nothing is downloaded, and no code of a model runs.

Pass one to `PresidioDetector(others=...)`: what it finds is added to the rest, never taken instead.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from spice_enterprise.corpus.windows import windows
from spice_enterprise.errors import MissingExtraError, ScrubError
from spice_enterprise.records import Span

CLASSIFIER_LABELS: Final[dict[str, str]] = {
    "PER": "PERSON", "PERSON": "PERSON", "NAME": "PERSON", "FIRSTNAME": "PERSON", "LASTNAME": "PERSON", "PATIENT": "PERSON",
    "LOC": "LOCATION", "LOCATION": "LOCATION", "GPE": "LOCATION", "CITY": "LOCATION", "COUNTRY": "LOCATION", "STATE": "LOCATION",
    "ORG": "ORGANIZATION", "ORGANIZATION": "ORGANIZATION", "COMPANY": "ORGANIZATION", "NORP": "DEMOGRAPHIC",
    "EMAIL": "EMAIL", "PHONE": "PHONE", "PHONE_NUMBER": "PHONE", "ADDRESS": "ADDRESS", "STREET": "ADDRESS", "ZIPCODE": "ADDRESS",
    "DATE": "DATE", "AGE": "AGE", "USERNAME": "USERNAME", "PASSWORD": "PASSWORD", "SECRET": "API_KEY",
    "ACCOUNT_NUMBER": "BANK_ACCOUNT",
    "IBAN": "IBAN", "CREDIT_CARD": "CREDIT_CARD", "SSN": "NATIONAL_ID", "PRIVATE_PERSON": "PERSON", "PRIVATE_ADDRESS": "ADDRESS",
    "PRIVATE_EMAIL": "EMAIL", "PRIVATE_PHONE": "PHONE", "PRIVATE_DATE": "DATE", "PRIVATE_URL": "URL",
}  # fmt: skip
"""What common models call things, and our labels. A model's other labels are left out."""
GLINER_LABELS: Final[dict[str, str]] = {
    "person": "PERSON",
    "organization": "ORGANIZATION",
    "location": "LOCATION",
    "address": "ADDRESS",
}
_WINDOW_CHARS: Final = 1_200
"""Below 512 tokens for text of any language that a word-piece tokenizer knows."""


@dataclass(frozen=True, kw_only=True)
class TokenClassifier:
    """A BERT-like named-entity model. Loads at the first text."""

    path: Path
    labels: Mapping[str, str] = field(default_factory=lambda: CLASSIFIER_LABELS)
    min_score: float = 0.5

    def detect(self, text: str) -> list[Span]:
        """Return what the model finds, window by window."""
        return [span for start, piece in windows(text, _WINDOW_CHARS) for span in self._in_piece(piece, start)]

    @cached_property
    def _pipeline(self) -> Any:
        require_safe_model(self.path)
        transformers = _module("transformers", "train")
        where = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.path, use_fast=True, **where)
        model = transformers.AutoModelForTokenClassification.from_pretrained(self.path, use_safetensors=True, **where)
        task = transformers.TokenClassificationPipeline
        return task(model=model, tokenizer=tokenizer, aggregation_strategy="simple", device="cpu")

    def _in_piece(self, piece: str, offset: int) -> Iterator[Span]:
        for found in self._pipeline(piece):
            label = self.labels.get(str(found["entity_group"]).upper().removeprefix("B-").removeprefix("I-"))
            score = float(found["score"])
            if label is not None and score >= self.min_score and found["start"] < found["end"]:
                start, end = offset + found["start"], offset + found["end"]
                yield Span(start=start, end=end, entity=label, score=score, detector="token_classifier")


@dataclass(frozen=True, kw_only=True)
class Gliner:
    """GLiNER: names the kinds of things to look for in words. Loads at the first text."""

    path: Path
    labels: Mapping[str, str] = field(default_factory=lambda: GLINER_LABELS)
    """What to look for, in words, and the label to report it under."""
    min_score: float = 0.5

    def detect(self, text: str) -> list[Span]:
        """Return what the model finds, window by window."""
        return [span for start, piece in windows(text, _WINDOW_CHARS) for span in self._in_piece(piece, start)]

    @cached_property
    def _model(self) -> Any:
        require_safe_model(self.path)
        return _module("gliner", "gliner").GLiNER.from_pretrained(str(self.path), local_files_only=True)

    def _in_piece(self, piece: str, offset: int) -> Iterator[Span]:
        for found in self._model.predict_entities(piece, list(self.labels), threshold=self.min_score):
            start, end = offset + found["start"], offset + found["end"]
            yield Span(start=start, end=end, entity=self.labels[found["label"]], score=float(found["score"]), detector="gliner")


def require_safe_model(path: Path) -> None:
    """Refuse a directory whose model is missing, pickled, or comes with code.

    Raises:
        ScrubError: `E_NER_MISSING` without a config and safetensors weights; `E_NER_UNSAFE` for pickles and code.
    """
    config = next((path / name for name in ("config.json", "gliner_config.json") if (path / name).is_file()), None)
    names = [file.name for file in path.iterdir()] if config is not None else []
    if any(name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".py")) for name in names) or _brings_code(config):
        raise ScrubError(
            "the model directory holds pickled weights or code",
            code="E_NER_UNSAFE",
            hint="convert the weights to safetensors, and use a model that needs no code of its own",
        )
    if config is None or not any(name.endswith(".safetensors") for name in names):
        raise ScrubError(
            "there is no model in the directory",
            code="E_NER_MISSING",
            hint="copy config.json, *.safetensors and the tokenizer files of the model there",
        )


def _brings_code(config: Path | None) -> bool:
    return config is not None and "auto_map" in json.loads(config.read_text(encoding="utf-8"))


def _module(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(
            f"the package {name} is not installed", code="E_MISSING_EXTRA", hint=f"pip install 'spice-enterprise[{extra}]'"
        ) from None
