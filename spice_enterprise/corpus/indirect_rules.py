"""What points at somebody only together with other things: dates, durations, amounts, ages, occupations, plot numbers.

In: nothing; a table.
Out: rules.
Refuses: nothing.
Not here: how a rule is run (`rule.py`), the other tables (`detectors.py` joins them).
"""

from typing import Final

from spice_enterprise.corpus.rule import ANY_CASE, BY_LINE, HONORIFIC, MONTH, UPPER, Rule, rule
from spice_enterprise.corpus.vocabulary import CONDITIONS, COUNTED, JOB_ENDINGS, OCCUPATIONS, RELATIONS

_NUMBER_WORD: Final = (
    r"(?:(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[ \-](?:one|two|three|four|five|six|seven|eight|nine))?"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|half)"
)
_YEAR: Final = r"(?:1[5-9]|20)\d{2}"
_DAY: Final = r"(?:[0-3]?\d(?:st|nd|rd|th)?)"
_DAY_MONTH: Final = rf"{_DAY}(?:\.| of)? {MONTH}"
_ONE_DATE: Final = rf"(?:{_DAY_MONTH}\.?,? {_YEAR}|{_DAY_MONTH}|{MONTH}\.? {_DAY},? {_YEAR}|{MONTH}\.?,? {_YEAR})"
_CURRENCY: Final = (
    r"(?:EUR|USD|GBP|CHF|SEK|NOK|DKK|PLN|CZK|HUF|RON|BGN|TRY|TRL|YTL|RUB|RUR|UAH|JPY|CNY|RMB|INR|BRL|CAD|AUD|NZD|SGD|HKD|ZAR|MXN"
    r"|KRW|AED|SAR|ILS|THB|ATS|DEM|FRF|ITL|ESP|NLG|BEF|FIM|PTE|GRD|IEP|CYP|DM|US\$|[€$£¥₺₹])"
)
_CURRENCY_WORD: Final = (
    r"(?:euros?|dollars?|pounds?(?: sterling)?|cents?|pence|francs?|(?:deutsche? )?marks?|kron(?:or|er|a)|zlotys?|lir[ae]s?"
    r"|roubles?|rubles?|schillings?|forints?|korunas?|rupees?|yen|yuan|pesos?|rand|shekels?|dinars?|drachmas?|guilders?)"
)
_NUMBER: Final = r"(?:\d{1,3}(?:[.,  ‑’']\d{3}){1,5}|\d{1,12})(?:[.,]\d{1,2})?"
_SUM: Final = rf"{_NUMBER}(?: ?(?:million|billion|thousand|bn|mn|[mk])\b)?"
_UNIT: Final = (
    r"(?:(?:square|sq\.?|cubic) (?:met(?:re|er)s?|m|kilomet(?:re|er)s?|km|feet|ft)|kilomet(?:re|er)s?|met(?:re|er)s?"
    r"|centimet(?:re|er)s?|millimet(?:re|er)s?|litres?|liters?|hectares?|acres?|kilograms?|kilos?|grams?|tonn?es?|miles?|feet"
    r"|inches|km/h|mph|km|cm|mm|kg|ha|m²|m2|m³|sqm|m)"
)
_NUMBERED: Final = (
    r"(?:plot|parcel|block|lot|flat|title deed|land register|register|registration|entry|folio|permit|prisoner|regiment|record)s?"
)

INDIRECT_RULES: Final[tuple[Rule, ...]] = (
    rule(
        "date",
        "DATE",
        rf"(?<![\w.\-/])(?:[Bb]etween {_ONE_DATE} and {_ONE_DATE}|{_DAY}(?:, {_DAY}){{0,3}}(?: and |/| to |[-–]| or ){_ONE_DATE}"
        rf"|{_DAY_MONTH}\.?,? {_YEAR}|{MONTH}\.? {_DAY},? {_YEAR}|{MONTH}\.?,? {_YEAR}|{_DAY_MONTH}|{MONTH} {_DAY})"
        r"(?![\w\-/]| ?%)",
        score=0.8,
        hits=(
            "on {17 March 2024}, and",
            "since {May 2001}.",
            "on {January 30, 2019}.",
            "by {8 October} at",
            "on {1st of June 1999};",
            "on {14 and 27 July 1999} and",
            "({between 5 May 2006 and 24 October 2008})",
        ),
        misses=("March on", "you may 2", "Section 4 may be", "1/2024", "7 and 8", "between 2 and 4"),
    ),
    rule(
        "date_numeric",
        "DATE",
        rf"(?<![\w.\-/])(?:[0-3]?\d([./])[0-3]?\d\1(?:{_YEAR}|\d\d)|{_YEAR}([-/.])[01]?\d\2[0-3]?\d"
        rf"(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{{1,6}})?)?Z?)?|[0-3]?\d-[01]?\d-{_YEAR})(?![\w\-/]|\.\d)",
        score=0.75,
        hits=("on {16.03.2020}.", "{2024-05-11T09:31:22Z} auth", "at {2010-03-10 19:00:35}.", "{5/4/1936}", "{08-11-2021} ok"),
        misses=("version 4.11.2.8", "1.2.3", "4.11.2", "12/2020"),
    ),
    rule(
        "clock",
        "DATE",
        r"(?<![\w.:,])(?:[01]?\d|2[0-3])(?:[.:][0-5]\d(?::[0-5]\d)?)? ?(?:[ap]\.m\.|[ap]m\b|noon\b|o['’]clock\b)",
        flags=ANY_CASE,
        score=0.7,
        hits=("at {12.45 p.m.} he", "{12 noon}", "at {5pm},"),
        misses=("5 people", "12:45"),
    ),
    rule(
        "year",
        "DATE",
        rf"\b(?:[Ii]n|[Ss]ince|[Ff]rom|[Uu]ntil|[Bb]etween|[Dd]uring|[Bb]y|[Bb]efore|[Aa]fter|year|early|late|mid|spring|summer"
        rf"|autumn|winter|born|(?:{_YEAR}(?:,| and| or| to)))[ -](?:the )?(?P<v>{_YEAR}(?:(?:[-–/]| to | and ){_YEAR})?s?)"
        r"(?![\w\-/]|[.,]\d| (?:%|[A-Z]{3}\b|percent))",
        score=0.7,
        hits=("in {1974} he", "from {1960 to 1979} she", "in the {1990s} and", "since {2001}."),
        misses=("Incoterms 2020", "ISO 27001:2022", "in 2000 EUR", "in 2020-44"),
    ),
    rule(
        "age",
        "AGE",
        rf"\b(?:(?:\d{{1,3}}|{_NUMBER_WORD})(?:[ -]years?[ -]old| years of age)"
        rf"|aged? (?:of |about )?(?:\d{{1,3}}|{_NUMBER_WORD}))\b",
        flags=ANY_CASE,
        score=0.8,
        hits=("is {41 years old} and", "a {six-year-old} boy", "at the {age of 35},", "a man {aged 27}."),
        misses=("aged care", "for 3 years", "ages ago"),
    ),
    rule(
        "money",
        "MONEY",
        rf"(?<![\w.,])(?:{_CURRENCY} ?{_SUM}(?!\d)|{_SUM} ?(?:(?:[{UPPER}][a-z]+ ){{0,2}}{_CURRENCY_WORD}\b|{_CURRENCY}(?![\w])))"
        rf"(?: \({_CURRENCY}\))?",
        score=0.8,
        hits=(
            "paid {EUR 12,500.00} to",
            "earns {183,000 EUR}. Dr",
            "sum of {16,985 Turkish liras (TRY)} plus",
            "{$1.5 million}, and",
            "about {350 euros}.",
            "{SEK 2,900,000} (",
        ),
        misses=("12,500.00", "A 12", "TRY", "ticket 531052"),
    ),
    rule(
        "measure",
        "QUANTITY",
        rf"(?<![\w.,/\-])(?:{_NUMBER}(?: ?x ?{_NUMBER})? ?{_UNIT}|{_NUMBER_WORD} {_UNIT})(?![\w²³\-/])",
        score=0.6,
        hits=("of {6,299 m²}, on", "at {26 km/h}.", "{15 x 10 mm}", "{three hectares} of"),
        misses=("12 months", "17 items"),
    ),
    rule(
        "share_of_hundred",
        "QUANTITY",
        r"(?<![\w.,])\d{1,3}(?: to \d{1,3}|[-–]\d{1,3})? ?%",
        score=0.5,
        hits=("a {50 to 79%} rating", "of {40%}."),
        misses=("99.95%", "3.1%"),
    ),
    rule(
        "counted",
        "QUANTITY",
        rf"\b(?:\d{{1,3}}(?:,\d{{3}})?|{_NUMBER_WORD}) (?:(?:other|more|further|different|co-)[ ]?)?(?:{COUNTED})\b",
        score=0.5,
        hits=("and {seven other persons}, accusing", "to {571 landowners}.", "of {ten plots of land}"),
        misses=("three years", "one of them", "12 items"),
    ),
    rule(
        "sentence",
        "QUANTITY",
        r"\blife imprisonment\b",
        cue="life",
        score=0.5,
        hits=("to {life imprisonment}.",),
        misses=("a life in prison",),
    ),
    rule(
        "form_of_address",
        "TITLE",
        rf"\b(?:{HONORIFIC}|mr|mrs|ms|dr)\b\.?(?= [^\W\d_])",
        score=0.4,
        hits=("to {Mr.} Weiss", "this is {mrs.} weiss"),
        misses=("Mr", "MS-DOS"),
    ),
    rule(
        "job_of_a_speaker",
        "TITLE",
        rf"(?<=[\w.]), (?:the|our|its|an?) (?P<v>[{UPPER}]?[\w, \-]{{3,70}}?),? (?:said|says|told|added|explained|stated)\b",
        score=0.5,
        hits=("Anna Weiss, the {Civil drafter}, said: I",),
        misses=("the Court said",),
    ),
    rule(
        "job_line",
        "TITLE",
        rf"^[ \t?*|>\-]{{0,6}}(?P<v>[^\W\d_][^\W\d_]*,?(?: (?:and |of |for )?[^\W\d_]+,?){{0,6}}? (?:{JOB_ENDINGS}))[ \t]*$",
        score=0.4,
        flags=ANY_CASE | BY_LINE,
        hits=("Anna Weiss\n{Surgical technologist}\nMuster AG", "{Training and development coordinator}"),
        misses=("The manager signed.", "Chief\n"),
    ),
    rule(
        "nationality",
        "DEMOGRAPHIC",
        rf"\b[{UPPER}][a-z]{{2,14}}(?:-[{UPPER}][a-z]{{2,14}})? "
        r"(?:nationals?|citizens?|nationality|citizenship|descent|origin)\b",
        score=0.7,
        hits=("a {French national}, Mr", "of {Turkish origin}."),
        misses=("a foreign national", "of unknown origin"),
        check=lambda value: (
            not value.startswith(("The ", "Any ", "No ", "Each ", "Foreign ", "Senior ", "All ", "Its ", "Their "))
        ),
    ),
    rule(
        "occupation",
        "DEMOGRAPHIC",
        rf"\b(?:(?:ballet|opera|school|university|medical|artillery|army|police|lorry) )?(?:{OCCUPATIONS})s?\b",
        score=0.5,
        hits=("employed as an {electrician} in", "former {ballet dancers} with", "a {primary school teacher} at"),
        misses=("an engineering firm", "the authority"),
    ),
    rule(
        "relation",
        "DEMOGRAPHIC",
        rf"\b(?:[Hh]is|[Hh]er|applicant['’]s) (?P<v>(?:late |elder |younger |former )?(?:{RELATIONS}))\b",
        score=0.5,
        hits=("by Ms Alkan, his {mother}.", "her {elder brother} was"),
        misses=("his motherland", "the children"),
    ),
    rule(
        "condition",
        "DEMOGRAPHIC",
        rf"\b(?:{CONDITIONS})\b",
        score=0.5,
        hits=("suffering from {paranoid schizophrenia}.", "the {arthrosis} at", "was {mentally ill}."),
        misses=("economic recovery", "a total loss"),
    ),
    rule(
        "numbered_thing",
        "CODE",
        rf"\b(?:(?:{_NUMBERED},? (?:no?s?\.?|numbers?)|sheet(?:/plan)?|block|plot) ?(?:[A-Z]?-?\d[\w./:\-]{{0,14}}\w|\d|[A-Z]\b)"
        r"(?:(?:, | and |,? of block )(?:\d[\d./:\-]{0,10}\d|\d|[A-Z]\b)){0,12}(?! [A-Z]{3}\b))",
        score=0.6,
        hits=(
            "on {plot no. 900 of block D} and",
            "under the {plots nos. 260, 268, 45, 119/5} and the",
            "under {registration no. D-4840}. On",
            "{sheet/plan 24}, at",
        ),
        misses=("Part No. 7741902-A", "block letters", "a plot twist", "invoice no. 12"),
    ),
    rule(
        "numbered_pair",
        "CODE",
        r"(?<![\w./§\-:,])(?!24/7|50/50)(?:(?:1[89]|20)\d\d[/:]\d{1,4}|\d{1,6}/\d{1,4}(?:[./]\d{1,3}){0,2})(?![\w/\-%:]|[.,]\d)",
        score=0.5,
        hits=("number {1971:437}, it", "and {122/2/4}, then", "of {5/48}."),
        misses=("24/7 support", "17/03/2020-a", "ISO/IEC 27001:2022"),
    ),
)
