"""Postal addresses: whole ones, streets, boxes and postcodes of several countries.

In: nothing; a table.
Out: rules.
Refuses: nothing.
Not here: how a rule is run (`rule.py`), the other tables (`detectors.py` joins them).
"""

from typing import Final

from spice_enterprise.corpus.address_block import whole_address
from spice_enterprise.corpus.checks import is_free_of_months, is_said_name
from spice_enterprise.corpus.rule import ANY_CASE, BY_LINE, CITY, PARTICLE, UPPER, WORD, Rule, rule
from spice_enterprise.corpus.vocabulary import STREET_ENDINGS, STREET_STARTS, STREET_WORDS

_IS_AT: Final = (
    r"(?:am|are|is|was|were|live[sd]?|living|resid(?:es?|ed|ing)|stay(?:s|ed|ing)?|based|arrived|born|grew up) (?:in|at)"
)
_WENT_TO: Final = r"(?:flew|travel(?:s|led|ling)?|moved|moving|going|headed) to"
_STREET_NAME: Final = (
    rf"(?:(?:{PARTICLE}|das|do|los|las|les|los|i) )?{WORD}\.?(?: (?:(?:{PARTICLE}|das|do|los|las|les|i|y) )?{WORD}\.?){{0,4}}"
)
_NUMBER_END: Final = r"(?![\w.%]\d|[\w%])"

PLACE_RULES: Final[tuple[Rule, ...]] = (
    rule(
        "address_label",
        "ADDRESS",
        r"\b(?:(?:home|postal|mailing|billing|shipping|delivery|residential|street|private"
        r"|registered)\s)?address(?:es)?\s{0,2}[:=]\s{0,2}"
        r"(?P<v>[^\n;@]{8,120}\d[^\n;@]{0,60}?)(?=[;\n]|\.\s|\.?$)",
        flags=ANY_CASE | BY_LINE,
        cue="address",
        hits=("Home address: {Studio 2, Adam Camp, New Ashleigh, CM8 7FW}\n",),
        misses=("address: unknown",),
    ),
    rule(
        "address_us",
        "ADDRESS",
        rf"(?<![\w.])\d{{1,6}}[A-Za-z]? (?:[{UPPER}\d][\w.'’\-]{{0,20}} ){{0,5}}[{UPPER}][\w.'’\-]{{1,20}}\.?"
        r"(?:,? (?:Apt|Suite|Ste|Unit|Floor|#)\.? ?[\w\-]{1,6})?"
        rf"(?:,| –|\n|,\n) ?{CITY}, ?[A-Z]{{2}}\.? \d{{5}}(?:-\d{{4}})?\b",
        hits=("at {993 Antonio Plains, Mariachester, DE 21697}? The",),
        misses=("12 Items, Total", "993 Antonio Plains"),
    ),
    rule(
        "address_uk",
        "ADDRESS",
        rf"(?<![\w.])(?:(?:Studio|Flat|Unit|Apartment|Apt\.?"
        rf"|Suite) \d{{1,4}}[A-Za-z]?,? )?(?:\d{{1,5}}[A-Za-z]? )?{CITY}(?:[,\n] ?{CITY}){{0,3}}[,\n] ?"
        r"[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b",
        hits=("to {64 Jake Manor, South Kathleenburgh, BT9V 0PQ}?", "{Studio 2, Adam Camp, New Ashleigh, CM8 7FW}"),
        misses=("Section 4, AB 12",),
    ),
    rule(
        "address_eu",
        "ADDRESS",
        rf"(?<![\w.])(?:[{UPPER}][\w.'’ßÀ-ž\-]{{1,30}} ){{0,3}}[{UPPER}][\w.'’ßÀ-ž\-]{{1,40}} \d{{1,4}}"
        rf"(?: ?[a-z])?(?:[\-/]\d{{1,4}})?(?:,|\n|,\n) ?(?:[A-Z]{{1,2}}-)?\d{{4,5}} {CITY}",
        hits=("at {Rene-Henk-Allee 59, 05534 Bremen} (", "{Sevim-auch Schlauchin-Weg 9/8, 46717 Bremen}\n"),
        misses=("Tier 2, 12345 items",),
    ),
    rule(
        "address_fr",
        "ADDRESS",
        rf"(?<![\w.])\d{{1,4}},? ?(?:bis |ter )?(?:rue|avenue|boulevard|chemin|place|impasse|allée|quai|via"
        rf"|viale|calle|piazza)\b[^\n,;:]{{2,50}}"
        rf"(?:(?:,|\n|,\n) ?\d{{5}} {CITY})?",
        flags=ANY_CASE,
        hits=("{489, chemin Geneviève Roche, 14726 Leleudan}\n", "{12 rue de la Paix}, then"),
        misses=("12, avenues of growth",),
    ),
    rule(
        "street",
        "ADDRESS",
        rf"(?<![\w.])\d{{1,6}}[A-Za-z]? (?:[{UPPER}][\w'’\-]{{0,20}}\.? ){{1,4}}(?:Street|St|Avenue|Ave|Road|Rd"
        rf"|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq"
        r"|Terrace|Close|Crescent|Highway|Hwy|Parkway|Pkwy|Way|Place|Pl|Row|Mews|Gardens"
        r"|Grove)\b\.?(?:,? (?:Apt|Suite|Ste|Unit|Floor)\.? ?[\w\-]{1,6})?",
        score=0.85,
        hits=("lives at {12 Old Mill Road} since", "{4567 Innovation Blvd}"),
        misses=("5 Road signs", "12 Ways to Drive"),
    ),
    rule(
        "strasse",
        "ADDRESS",
        rf"\b(?:[{UPPER}][\w.\-]{{1,20}} )?[{UPPER}][^\W\d_\-]{{1,24}}(?:-[{UPPER}]?[^\W\d_]{{1,24}}){{0,3}}-?"
        rf"(?:straße|strasse|str\.|weg|gasse|allee|platz|ring|damm|ufer"
        r"|Straße|Strasse|Weg|Gasse|Allee|Platz|Ring|Damm|Ufer) \d{1,4}[a-z]?(?:[\-/]\d{1,4})?\b",
        score=0.85,
        hits=("in der {Hauptstraße 12}, dann", "{Rosmarie-Jungfer-Weg 942}"),
        misses=("the ring 12",),
    ),
    rule(
        "unit",
        "ADDRESS",
        r"(?<![\w.#])(?i:suite|ste\.?|apt\.?|apartment|flat|unit) #?\d{1,5}[A-Za-z]?(?: [Bb]ox \d{1,6})?(?![\w.%]\d|[\w%])",
        score=0.9,
        grow=whole_address,
        hits=(
            "to {12 Rua Nova Alta 4 Apt. 125 Porto Grande}. I am",
            "\n{44\nMelum 50\nSuite 241\nVikstad\nSpain 96857}\n\nBest regards",
        ),
        misses=("the suite of tests", "flat 12.5% rate", "| Unit | Total |"),
    ),
    rule(
        "army_post",
        "ADDRESS",
        r"(?i:(?:(?:unit|psc|cmr) \d{1,5},? box \d{1,6}|us[a-z]{2,3} [^\W\d_]{2,20})?,?\s?\b[afd]po,? a[aep] \d{5}\b)",
        score=0.9,
        cue="po",
        hits=("to {Unit 6204 Box 9180\nDPO AA 32754}.", "{USNV Muster\nFPO AE 51332}"),
        misses=("the APO of 2012",),
    ),
    rule(
        "street_first",
        "ADDRESS",
        rf"(?<![\w.\-])(?:\d{{1,5}}[a-z]? )?(?i:{STREET_STARTS})(?<=[\w.]) {_STREET_NAME},? (?:n\.? ?º? ?)?"
        rf"\d{{1,5}}[a-z]?{_NUMBER_END}",
        score=0.9,
        grow=whole_address,
        hits=("at {Rua das Pedras 930, Campos}. It", "in {Via Giberti 75} now", "at {29 ul. Nowa 12 Warta}."),
        misses=("via e-mail in 2020 or", "the place for 3", "place of Work 3"),
    ),
    rule(
        "street_ending",
        "ADDRESS",
        rf"(?<![\w.])(?:\d{{1,5}}[a-z]? )?(?:[{UPPER}][\w.'’\-]{{1,20}} (?:(?:van|de|der|von|den) ){{0,2}}){{0,3}}"
        rf"[{UPPER}][\w\-]{{2,24}}?(?i:{STREET_ENDINGS}) \d{{1,5}}(?: ?[a-z])?(?:[\-/]\d{{1,4}})?{_NUMBER_END}",
        score=0.9,
        grow=whole_address,
        hits=("at {Veslebakken 48}, in", "the {Holmevej 34}\n", "{Sørendre Havnevej 65}"),
        misses=("the ring 12", "Part 12"),
    ),
    rule(
        "street_word",
        "ADDRESS",
        rf"(?<![\w.])(?:\d{{1,6}}[a-z]? ){{1,2}}(?:[{UPPER}\d][\w'’\-]{{0,20}}\.? ){{1,4}}?(?i:{STREET_WORDS})\b"
        rf"|(?<![\w.])the corner of [^\n.;]{{3,70}}?(?i:{STREET_WORDS})\b",
        score=0.9,
        grow=whole_address,
        hits=("at {58 2347 Lauzon Parkway}.", "meet at {the corner of Calle Alta and Lucchese Street} at"),
        misses=("12 ways to Drive", "the street"),
        check=lambda value: not value.split()[-1].islower() or value.startswith("the"),
    ),
    rule(
        "two_numbers",
        "ADDRESS",
        rf"(?<![\w.,/\-])\d{{1,5}} (?:{WORD}\.? (?:(?:{PARTICLE}|das|do|los|las) )?){{1,4}}\d{{1,5}}\.?"
        rf"(?=[ ]?[,\n][ ]?\n?[ ]?{WORD}|\n)",
        score=0.9,
        grow=whole_address,
        check=is_free_of_months,
        hits=("at {37 Parva Domus 6896, Pesconuovo, Latvia}.", "to {28 Alta Vista 35\nOesterbach}."),
        misses=("from 3 May 2001, He", "12 Items 3", "in 2 Tier 3 plans, Support"),
    ),
    rule(
        "whereabouts",
        "LOCATION",
        rf"\b(?:{_IS_AT}|{_WENT_TO}) (?P<v>{WORD}(?: (?:(?:{PARTICLE}|nad|u|am) )?{WORD}){{0,2}})",
        score=0.6,
        check=is_said_name,
        hits=("I am in {GROSS-SCHWEINBERG} for", "who lives in {Rio del Mar}.", "she arrived at {Cookville} at"),
        misses=("he is in Section 4", "are at Exhibit B", "is in the"),
    ),
    rule(
        "po_box",
        "ADDRESS",
        r"\b(?:P\.?\s?O\.?\s?Box|Postfach|Postbox|Apartado|Casella Postale|Boîte Postale|Postboks|Poste Restante),?\s\d{1,6}\b",
        flags=ANY_CASE,
        grow=whole_address,
        hits=("{P.O. Box 1234, Town}",),
        misses=("box 1234",),
    ),
    rule(
        "postcode_uk",
        "ADDRESS",
        r"\b[A-Z]{1,2}\d[A-Z\d]? \d[ABD-HJLNP-UW-Z]{2}\b",
        score=0.6,
        hits=("near {CM8 7FW}.",),
        misses=("CM 87", "Q3 2024"),
    ),
)
