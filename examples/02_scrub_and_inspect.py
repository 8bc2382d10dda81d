"""Scrub one letter and look at what went: kinds and places, and the text that a model would see.

In: a text with invented personal data.
Out: the scrubbed text and how many values of each kind were removed.
Refuses: to return text in which a value is still found (`ScrubError`, E_RESIDUE).
Not here: names in running prose where the NER model is not installed; then only the pattern rules look.
"""

import secrets

from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.corpus.scrub import Scrubber
from spice_enterprise.errors import ScrubError
from spice_enterprise.policy import load_pii
from spice_enterprise.protocols import Detector

LETTER = """Dear Ms Kramer,

the lease of Ingetraut Kramer runs for 48 months. Questions go to i.kramer@mail.example or +44 20 7946 0123.
The deposit of 3,200 EUR is paid back to DE89 3704 0044 0532 0130 00 within 30 days.
"""


def detector() -> Detector:
    """Return patterns and NER, or patterns alone where the model is not installed."""
    try:
        from spice_enterprise.corpus.presidio import PresidioDetector, resolve_ner_model  # noqa: PLC0415 - loads spaCy

        return PresidioDetector(resolve_ner_model("embedded"))
    except (ImportError, ScrubError):
        return PatternDetector()


def main() -> tuple[tuple[str, int], ...]:
    """Scrub the letter and print what happened."""
    scrubber = Scrubber(load_pii(), detector(), secrets.token_bytes(32))
    rendered, scrubbed = scrubber.scrub(LETTER)
    print(rendered.text)
    for entity, count in scrubbed.removed:
        print(f"{entity:<12} {count}")
    for redaction in rendered.redactions:
        print(f"{redaction.start:>4} to {redaction.end:<4} {redaction.entity}")
    return scrubbed.removed


if __name__ == "__main__":
    main()
