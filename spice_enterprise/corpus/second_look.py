"""A second, independent look at scrubbed text: Presidio's own recognisers, none of our rules and no model.

In: scrubbed text.
Out: spans of what still passes a checksum or is a mail or network address; none when scrubbing did its work.
Refuses: nothing.
Not here: what a run does about a finding (`scrub.py`).

Only recognisers that hardly ever fire on ordinary text take part: those with check digits, and addresses of the net.
"""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from typing import Any, Final

from spice_enterprise.corpus.checks import is_ip
from spice_enterprise.corpus.finding import masked
from spice_enterprise.corpus.presidio import as_span
from spice_enterprise.corpus.windows import windows
from spice_enterprise.records import Span

_WINDOW_CHARS: Final = 16_000
"""Presidio gives up an expression after a minute and says so in a log only: no window takes it that long."""
_CHECKED: Final = (
    "CreditCardRecognizer", "IbanRecognizer", "CryptoRecognizer", "NhsRecognizer", "InAadhaarRecognizer", "PlPeselRecognizer",
    "TrNationalIdRecognizer", "EsNifRecognizer", "EsNieRecognizer", "FiPersonalIdentityCodeRecognizer", "DeTaxIdRecognizer",
    "DeSocialSecurityRecognizer", "DeIdCardRecognizer", "ItFiscalCodeRecognizer", "ThTninRecognizer", "KrRrnRecognizer",
    "SePersonnummerRecognizer", "ZaIdNumberRecognizer", "AuTfnRecognizer", "AuMedicareRecognizer", "MedicalLicenseRecognizer",
)  # fmt: skip
_SHAPED: Final = ("IpRecognizer", "MacAddressRecognizer")
_CERTAIN: Final = 1.0
_LABELS: Final[dict[str, str]] = {
    "CREDIT_CARD": "CREDIT_CARD",
    "IBAN_CODE": "IBAN",
    "CRYPTO": "BANK_ACCOUNT",
    "EMAIL_ADDRESS": "EMAIL",
    "IP_ADDRESS": "IP_ADDRESS",
    "MAC_ADDRESS": "MAC_ADDRESS",
}


class SecondLook:
    """The second detector of the confirm pass. Deterministic, offline, linear in the text."""

    def detect(self, text: str) -> list[Span]:
        """Return what is still found in `text`; placeholders are passed over."""
        plain = masked(text)
        found = {span for start, piece in windows(plain, _WINDOW_CHARS) for span in self._in_piece(piece, start)}
        return sorted(found, key=lambda span: (span.start, span.end, span.entity, span.detector))

    @cached_property
    def _recognizers(self) -> list[tuple[Any, bool]]:
        """(recogniser, whether a finding counts only when its check digits fit)."""
        presidio = import_module("presidio_analyzer.predefined_recognizers")
        checked = [(getattr(presidio, name)(), True) for name in _CHECKED]
        return [*checked, *((getattr(presidio, name)(), False) for name in _SHAPED), (_email_recognizer(presidio), True)]

    def _in_piece(self, piece: str, offset: int) -> Iterator[Span]:
        for recognizer, is_checked in self._recognizers:
            for result in recognizer.analyze(piece, recognizer.supported_entities, None):
                span = as_span(result)
                value = piece[span.start : span.end]
                if (is_checked and span.score < _CERTAIN) or (result.entity_type == "IP_ADDRESS" and not _is_outside(value)):
                    continue
                label = _LABELS.get(result.entity_type, "NATIONAL_ID")
                yield dataclasses.replace(span, start=span.start + offset, end=span.end + offset, entity=label)


def _is_outside(value: str) -> bool:
    """False for short forms such as "::" or "1::2", which ordinary text has too."""
    return is_ip(value.partition("/")[0]) and sum(char.isalnum() for char in value) >= 6


def _email_recognizer(presidio: Any) -> Any:
    """Return Presidio's recogniser with the packaged list of domain endings: as shipped it fetches a newer one."""
    extract = import_module("tldextract").TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(presidio.EmailRecognizer):  # type: ignore[misc]  # loaded at run time
        def validate_result(self, pattern_text: str) -> bool:
            return bool(extract(pattern_text).fqdn)

    return OfflineEmailRecognizer()
