"""What points at somebody only together with other things: dates, durations, amounts, ages, occupations, plot numbers.

In: nothing; a table.
Out: rules.
Refuses: nothing.
Not here: how a rule is run (`rule.py`), the other tables (`detectors.py` joins them), nationalities (`presidio.py`).
"""

from typing import Final

from spice_enterprise.corpus.rule import ANY_CASE, MONTH, Rule, rule

_NUMBER_WORD: Final = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[ \-](?:one|two|three|four|five|six|seven|eight|nine))?"
    r"|hundred|half)"
)
_COUNT: Final = rf"(?:\d{{1,4}}(?:[.,]\d{{1,2}})?|{_NUMBER_WORD}|several|a few|many|another|an?)"
_UNIT: Final = r"(?:years?|months?|weeks?|days?|hours?|minutes?|decades?)"
_DAY: Final = r"(?:\d{1,2}(?:st|nd|rd|th)?)"
_YEAR: Final = r"(?:1[5-9]|20)\d{2}"
_CURRENCY: Final = (
    r"(?:EUR|USD|GBP|CHF|SEK|NOK|DKK|PLN|CZK|HUF|RON|BGN|TRY|TRL|YTL|RUB|UAH|JPY|CNY|RMB|INR|BRL|CAD|AUD|NZD|SGD|HKD|ZAR|MXN|KRW"
    r"|ATS|DEM|FRF|ITL|ESP|NLG|BEF|FIM|PTE|GRD|IEP|CYP|[€$£¥₺₹]|US\$)"
)
_CURRENCY_WORD: Final = (
    r"(?:euros?|dollars?|pounds?(?: sterling)?|cents?|pence|francs?|marks?|kron(?:or|er|a)|zlotys?|lir[ae]s?|roubles?|rubles?"
    r"|schillings?|forints?|korunas?|rupees?|yen|yuan|pesos?|rand|shekels?|dinars?)"
)
_AMOUNT: Final = r"\d{1,3}(?:[., ‑]\d{3}){1,5}(?:[.,]\d{1,2})?(?![\d])|\d{1,12}(?:[.,]\d{1,2})?"
_AMOUNT_IN: Final = rf"(?:{_AMOUNT})(?: (?:million|billion|thousand|bn|m|k)\b)?"

INDIRECT_RULES: Final[tuple[Rule, ...]] = (
    rule(
        "date",
        "DATE",
        rf"(?<![\w.\-/])(?:(?:{_DAY}(?:\.| of)? )?{MONTH}\.?(?: {_DAY})?,? {_YEAR}|{_DAY}\.? {MONTH}|{MONTH}\.? {_DAY})(?![\w\-/])",
        score=0.8,
        hits=("on {17 March 2024}, and", "since {May 2001}.", "on {January 30, 2019}.", "by {8 October} at", "in {1st of June 1999}"),
        misses=("March on", "may 2", "Section 4 May be"),
    ),
)
