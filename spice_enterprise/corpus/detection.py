"""The detectors that a config asks for, as one.

In: the ingest config.
Out: a detector that finds what any of them finds, and the names and digests of the models behind it.
Refuses: what a detector refuses when its model is missing or not the pinned one (`E_NER_MISSING`, `E_NER_DIGEST`).
Not here: what is done with what they find (`scrub.py`).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.presidio import PresidioDetector, ner_identity, resolve_ner_model
from spice_enterprise.corpus.token_classifier import Gliner, TokenClassifier, require_safe_model
from spice_enterprise.protocols import Detector


def make_detector(config: IngestConfig) -> Detector:
    """Return the rules and the NER model, with the local models that the config names beside them."""
    classifier = [TokenClassifier(path=Path(config.token_classifier))] if config.token_classifier else []
    gliner = [Gliner(path=Path(config.gliner))] if config.gliner else []
    return PresidioDetector(resolve_ner_model(config.ner_model), others=(*classifier, *gliner))


def ner_identity_of(config: IngestConfig) -> str:
    """Return name and digest of each model that looks for names, joined by ` + `."""
    return " + ".join([ner_identity(resolve_ner_model(config.ner_model)), *_others(config)])


def _others(config: IngestConfig) -> Iterator[str]:
    for kind, setting in (("token_classifier", config.token_classifier), ("gliner", config.gliner)):
        if setting:
            path = Path(setting)
            require_safe_model(path)
            yield f"{kind}@sha256:{_weights_digest(path)}"


def _weights_digest(path: Path) -> str:
    """Return one digest over the weights of a model directory."""
    whole = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")) + sorted(path.glob("*.onnx")):
        with file.open("rb") as weights:
            whole.update(f"{file.name}:{hashlib.file_digest(weights, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
