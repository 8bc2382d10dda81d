"""The detectors that a config asks for, as one.

In: the ingest config.
Out: a detector that finds what any of them finds, and the names and digests of the models behind it.
Refuses: what a detector refuses when its model is missing or not the pinned one (`E_NER_MISSING`, `E_NER_DIGEST`).
Not here: what is done with what they find (`scrub.py`).
"""

from collections.abc import Sequence

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.presidio import PresidioDetector, ner_identity, resolve_ner_model
from spice_enterprise.protocols import Detector
from spice_enterprise.records import Span


class Union:
    """Several detectors, of which each may find what the others miss."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = detectors

    def detect(self, text: str) -> list[Span]:
        """Return what any of them finds; spans may overlap."""
        return [span for detector in self._detectors for span in detector.detect(text)]


def make_detector(config: IngestConfig) -> Detector:
    """Return the rules and the NER model, with the classifiers that the config names beside them."""
    return PresidioDetector(resolve_ner_model(config.ner_model))


def ner_identity_of(config: IngestConfig) -> str:
    """Return name and digest of each model that looks for names, joined by `+`."""
    return ner_identity(resolve_ner_model(config.ner_model))
