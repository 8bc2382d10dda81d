"""The first pass: one document at a time, from its bytes to scrubbed text. Needs nothing of the other documents.

In: a document with its bytes.
Out: a `Prepared` document, or the `Rejection` that says why there is none; the originals, for a vault that asks for them.
Refuses: files that do not parse, have no text, are in another language than the policy's detectors read, or keep residue.
Not here: what the documents show about one another (`finishing.py`); processes (`workers.py`).
"""

import dataclasses
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.quality import language_of
from spice_enterprise.corpus.reading import Parsed, ParseOptions
from spice_enterprise.corpus.sandbox import RawDocument, Sandbox, Unparsed
from spice_enterprise.corpus.scrub import Scrubber
from spice_enterprise.corpus.staging import Prepared
from spice_enterprise.errors import ScrubError
from spice_enterprise.policy import PiiPolicy
from spice_enterprise.records import Document, Rejection

Originals = tuple[tuple[str, str], ...]
"""(long placeholder, value) pairs. They are handed to the vault or dropped, and never written by this stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one document."""

    result: Prepared | Rejection
    originals: Originals = field(default=(), repr=False)
    """Empty unless the policy keeps originals in a vault."""


class Preparer:
    """Parses and scrubs."""

    def __init__(self, config: IngestConfig, policy: PiiPolicy, scrubber: Scrubber, key: bytes) -> None:
        self._policy = policy
        self._scrubber = scrubber
        self._key = key
        options = ParseOptions(carried=policy.carried_fields(), parser=config.parser, ocr=config.ocr)
        self._sandbox = Sandbox(is_required=is_required(config, policy), options=options)

    def prepare(self, documents: Sequence[Document], contents: Sequence[bytes]) -> Iterator[Outcome]:
        """Yield one outcome per document, in order; all are parsed first, because they share a parser child."""
        raw = [RawDocument(suffix=PurePosixPath(d.uri).suffix, data=data) for d, data in zip(documents, contents, strict=True)]
        parsed = self._sandbox.parse(raw)
        for document, result in zip(documents, parsed, strict=True):
            yield self._scrub(document, result)

    def _scrub(self, document: Document, parsed: Parsed | Unparsed) -> Outcome:
        if isinstance(parsed, Unparsed):
            return Outcome(result=rejected(document, parsed.code, parsed.reason))
        if parsed.ocr_confidence is not None and parsed.ocr_confidence < self._policy.fail_if.ocr_confidence_below:
            return Outcome(result=rejected(document, "E_OCR_CONFIDENCE", "a scanned page is too hard to read"))
        text = "\f".join(parsed.pages)
        try:
            scrubbed = self._scrubber.scrub_document(text, document_key=document.keyed_digest)
        except ScrubError as error:
            return Outcome(result=rejected(document, error.code, error.message))
        language = language_of(scrubbed.text)
        if language not in ("", self._policy.language):
            return Outcome(result=rejected(document, "E_LANGUAGE", f"the text is not in the policy's language ({language})"))
        return Outcome(
            result=Prepared(
                document=_described(document, parsed, language),
                text=scrubbed.text,
                removed=scrubbed.removed,
                entries=scrubbed.entries,
                renderings=scrubbed.renderings,
                name_parts=scrubbed.name_parts,
                words=scrubbed.words,
                people=scrubbed.people,
                text_digest=_text_digest(self._key, text),
                isolation=self._sandbox.isolation,
            ),
            originals=scrubbed.originals,
        )


def rejected(document: Document, code: str, reason: str) -> Rejection:
    """Return the rejection of a listed document."""
    return Rejection(uri=document.uri, code=code, reason=reason, size_bytes=document.size_bytes)


def _described(document: Document, parsed: Parsed, language: str) -> Document:
    """Return the document with what reading it showed."""
    return dataclasses.replace(
        document,
        media_type=parsed.media_type,
        parser=parsed.parser,
        language=language,
        pages=len(parsed.pages),
        hidden=parsed.hidden,
        flags=parsed.flags,
        ocr_confidence=parsed.ocr_confidence,
    )


def _text_digest(key: bytes, text: str) -> str:
    return hmac.new(key, b"text|" + " ".join(text.split()).encode(), hashlib.sha256).hexdigest()


def is_required(config: IngestConfig, policy: PiiPolicy) -> bool:
    """True when config or policy refuses to parse where the kernel cannot keep the child from the network."""
    return config.sandbox == "required" or policy.sources.require_isolation == "network"
