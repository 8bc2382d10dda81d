"""Which of a model's findings count, and under which of our labels.

In: a span that a named-entity model marked, with the model's label, and the text around it.
Out: our label, or nothing.
Refuses: nothing.
Not here: the model (`presidio.py`), values with a shape (`*_rules.py`).
"""

import re
from typing import Final

from spice_enterprise.corpus.checks import NOT_NAMES, is_name

NER_LABELS: Final[dict[str, str]] = {
    "PERSON": "PERSON",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "FAC": "LOCATION",
    "ORG": "ORGANIZATION",
    "NORP": "DEMOGRAPHIC",
    "DATE": "DATE",
    "TIME": "DATE",
    "MONEY": "MONEY",
    "QUANTITY": "QUANTITY",
    "EVENT": "MISC",
}
"""spaCy's labels that are used, and ours for them. Laws, products, percentages and bare numbers identify nobody."""

_NAMES: Final = frozenset({"PERSON", "LOCATION", "ORGANIZATION", "DEMOGRAPHIC"})
_FUNCTION_WORDS: Final = frozenset({"the", "a", "an", "of", "and", "for", "to", "in", "on", "at", "by", "with", "or"})
_ABBREVIATION_WORDS: Final = """
api b2b b2c bic capex cv dpa dpo ebit ebitda eea erp etc eu eur fte gaap gbp gdpr hr html http https iban icao iec
ieee ifrs iso it json kpi kyc llm ltd mfa nda nist no oem okr opex pdf po qa rfc rfp roi rsa saas sku sla sms sow sql
ssh sso ssn swift tcp tls udp uk un us usa usd utc vat vpn xml yaml incoterms kubernetes postgresql
"""
_ABBREVIATIONS: Final = frozenset(_ABBREVIATION_WORDS.split())
_IS_LAW: Final = re.compile(r" (?:law|Code|Act|Regulation|Directive)\b")
_WORD: Final = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*")
_UNIT: Final = re.compile(r"\b(?:years?|months?|weeks?|days?|hours?|minutes?|decades?|centur(?:y|ies))\b", re.IGNORECASE)
_AGE: Final = re.compile(r"\b(?:years?[ \-]old|years? of age|aged?|year[ \-]olds?)\b", re.IGNORECASE)
_CALENDAR: Final = re.compile(
    r"\b(?:1[5-9]|20)\d\ds?\b|\d{1,4}[./\-]\d{1,2}[./\-]\d{1,4}|\d\d?:\d\d|(?:^|[^a-z])(?:jan|feb|mar|apr|jun|jul|aug|sep|oct|nov|dec)"
    r"|\bmay\b|(?:mon|tues|wednes|thurs|fri|satur|sun)day\b|\b\d\d?(?:st|nd|rd|th) century",
    re.IGNORECASE,
)
_NUMBERED: Final = re.compile(
    r"(?:\b(?:incoterms|iso|iec|rfc|version|v|form|rev|no|nos|part|sku|section|article|art|schedule|exhibit|annex|tier|net|clause"
    r"|table|figure|chapter|windows|office|gdpr|act|regulation|standard|release|edition|q[1-4])[. ]{0,2}|[/:§#\-])$",
    re.IGNORECASE,
)
_CURRENCY: Final = re.compile(r"[€$£¥₺₹]|\b[A-Z]{3}\b|[a-z]{3,}")
_QUARTER: Final = re.compile(r"^(?:the )?(?:Q[1-4]|H[12]|FY)\b|quarter", re.IGNORECASE)
_COUNTED: Final = re.compile(
    r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty"
    r"|ninety|hundred|half|several|one)\b",
    re.IGNORECASE,
)


_DEGREE: Final = re.compile(r",? (?:MD|M\.D\.|PhD|Ph\.D\.|DDS|DVM|LLM|Esq\.?|Jr\.?|Sr\.?|MBA|CPA|RN)(?!\w)", re.IGNORECASE)


def with_degree(text: str, end: int) -> int:
    """Return where a person's name ends that the model found to end at `end`."""
    match = _DEGREE.match(text, end)
    return match.end() if match else end


def our_label(label: str, text: str, start: int, end: int) -> str | None:
    """Return our label for `text[start:end]`, or None for what the model calls a name or a date but is none."""
    ours = NER_LABELS.get(label)
    if ours is None:
        return None
    if ours in _NAMES:
        return ours if _is_named(ours, text, start, end) else None
    if ours == "DATE":
        return _kind_of_date(text, start, end)
    value = text[start:end]
    if ours == "MONEY":
        return ours if _CURRENCY.search(value) else None
    return ours if any(char.isalpha() for char in value) and not (ours == "MISC" and any(c.isdigit() for c in value)) else None


def _is_named(label: str, text: str, start: int, end: int) -> bool:
    """False for ordinary business words, numbers and lower case."""
    if label == "LOCATION" and _IS_LAW.match(text, end):
        return False
    words = [word for word in _WORD.findall(text[start:end]) if word.casefold() not in _FUNCTION_WORDS]
    telling = [word for word in words if not _is_ordinary(word.casefold())]
    is_capital = any(word[0].isupper() for word in telling)
    return is_capital and (label != "PERSON" or is_name(" ".join(words)))


def _is_ordinary(word: str) -> bool:
    return word in NOT_NAMES or word in _ABBREVIATIONS or any(c.isdigit() for c in word)


def _kind_of_date(text: str, start: int, end: int) -> str | None:
    """Return DATE, DURATION or AGE; None for quarters, versions, and phrases without a date such as "the same day"."""
    value = text[start:end]
    if _QUARTER.search(value) or _NUMBERED.search(text[max(0, start - 16) : start]):
        return None
    if _AGE.search(value):
        return "AGE"
    if _CALENDAR.search(value):
        return "DATE"
    return "DURATION" if _UNIT.search(value) and _COUNTED.search(value) else None
