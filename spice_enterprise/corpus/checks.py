"""What a value must pass beyond its shape: check digits, ranges, and words that are no names.

In: a candidate value.
Out: whether it can be what its shape says.
Refuses: nothing.
Not here: the shapes (`rule.py` and the tables).
"""

import ipaddress
import re
from typing import Final

from spice_enterprise.corpus.rule import DATE, MONTH

_ORDINARY_WORDS: Final = """
a account accounting accounts action addendum address adjusted admin administration administrator agenda agreement all
an and annex annual answer any appendix april article assessment attachment attention audit auditor august author
badge bank board body boss branch budget building business buyer by candidate cc ceo cfo chair chairman chairperson
chapter chief clause clerk client cloud code colleague colleagues commercial committee company compliance conclusion
confidential consultant contact contract contractor controller coo copy cost council court cto customer customers data
date day days dear december delivery department deputy description desk developer development dinner director
directors division document documents draft due during each effective email employee employees employer engineer
engineering ensure everybody everyone exhibit expense facilities february figure file final finance first fiscal floor
folks form former founder friday friend friends from general goods governing group guest head headquarters held hello
help hi hiring holder home hour hours hr human iban id identification if incident information infrastructure
integration internal invoice invoices is issue it item items january july june keep kind king landlord law lead leader
legal lessee lessor level licensee licensor list location locations log logistics loss madam main maintenance
management manager managing march market marketing master may me meeting member members memo merger minutes mobile
monday month mr mrs ms name national net network new no note notes notice notices november number object october of
off office officer on open operation operations operator order organisation organization other our owner page paid
paragraph part participants parties partner partners party pay payment people person phone plan planning please policy
position post president price principal pro procedure process processing procurement product production program
programme project property protection provider public purchase purpose qty quality quantity quarter question re
reference regards region regional regulation remarks report request research residence resource resources respondent
response results revenue review risk role room safety sales saturday schedule scope second secretary section security
sees seller senior september service services session shall she shipping signatory signature signed sir sirs site
software staff standard statement status store strategy subject summary sunday supervisor supplier suppliers supply
support system systems table task tax team technical technology tel temporary tenant term terms test thank thanks that
the their there therefore these third this those thursday ticket title to today total training treasurer treasury
tuesday undersigned uniform unit update upper user vat vendor version vice view visitor vpn we wednesday week welcome
what when where whereas which who will witness work worker yes you your zone
affiliate affiliates amendment assets borrower borrowers disclosing distributor distributors dollars establishment execution
indemnified indemnifying intellectual investor investors lender lenders licensed logo manufacturer manufacturers products
promoter receiving recitals reseller resellers subcontractor subcontractors terminating territory trademark trademarks warranties
warranty witnesseth
"""
NOT_NAMES: Final = frozenset(_ORDINARY_WORDS.split())
"""Words that stand where names stand but are none. Ordinary words only: no list of names is used anywhere."""


_STOP_WORDS: Final = """
about above across after again against all almost alone along already also although always am among an and another any anyone
anything are around as at back be became because become been before being below between both but by call can cannot could did
do does done down due during each either else enough even ever every everyone everything few first for from full further get
give go had has have he her here hers herself him himself his how however if in indeed into is it its itself just keep last
least less made make many may me meanwhile might mine more most mostly move much must my myself namely neither never next no
nobody none nor not nothing now nowhere of off often on once one only onto or other others our ours out over own per perhaps
please put quite rather really same say see seem several she should show side since so some someone something sometimes still
such take than that the their them then there therefore these they this those though through thus to together too toward under
until up upon us used using various very via was we well were what whatever when where whether which while who whole whom whose
why will with within without would yet you your yours yourself want need like know think told said tell asked work works help
send sent find found look looking use new old good best great nice big small long little early late sure able possible happy
sorry yeah okay ok hey came come coming went going gone goes met meet meets meeting took taken gave given left leave ran run sat
stood brought bought sold paid pays lost wins won born died lived lives living moved moving started stopped opened closed
changed called asking talking speak speaking spoke written read reading flew fly drove drive walk walking eat ate drink sleep
play played watch watched listen heard hear felt feel feels kept held turn turned followed follow show showed shows add added
remove removed cancel block check update updated transfer receive received request requested visit visited travel travelling
today tomorrow yesterday tonight morning evening night week month year hour minute number numbers name names address email
website online account bank order orders payment money price list part place home house city country street road
restaurant office store shop school company business family friend friends child children kid kids wife husband mother father
brother sister son daughter man woman men women guy girl boy person human baby doctor food water coffee car bus train plane
taxi ticket book movie film show band album title story idea question answer problem reason example kind type color size
red blue green black white high low short full empty open free right wrong true false easy hard fast slow new next last
another everybody somebody nobody favorite favourite beautiful interesting important different difficult popular
sorry yeah okay ok hey thanks thank bye card credit number street phone money song songs people world life thing things way
"""
NEVER_NAMES: Final = NOT_NAMES | frozenset(_STOP_WORDS.split())
"""Words that a capital does not make a name, nor an initial before them ("A. Upon")."""

ALSO_NAMES: Final = frozenset(
    {"april", "august", "branch", "day", "guest", "head", "june", "king", "law", "may", "page", "price", "will"}
)
"""Ordinary words that are also names: fine beside a word that is no ordinary one ("June Cox")."""


def is_name(value: str) -> bool:
    """False for values that hold an ordinary word ("Dear Customer", "Name: Project X") or nothing else than initials."""
    # an initial is no article: "A. Weiss"
    words = [word.strip(".,'’").casefold() for word in value.split() if not re.fullmatch(r"(?:\w\.-?)+", word)]
    if any(word in NOT_NAMES and word not in ALSO_NAMES for word in words):
        return False
    return any(len(word) > 1 and word not in NOT_NAMES for word in words)


def is_initialled(value: str) -> bool:
    """True for a name after an initial, False for the words after a letter that counts the items of a list."""
    return is_name(value) and value.split()[-1].casefold() not in NEVER_NAMES


def is_said_name(value: str) -> bool:
    """True for a name that only the words around it show to be one: no word of it may be an ordinary one."""
    return is_name(value) and all(word.strip(".").casefold() not in NEVER_NAMES - ALSO_NAMES for word in value.split())


def is_free_of_months(value: str) -> bool:
    """False for what is a date and not a street: "3 May 2001"."""
    return not re.search(rf"\b{MONTH}\b", value) and not any(word.casefold() in NOT_NAMES for word in value.split())


def passes_luhn(value: str) -> bool:
    """True when 13 to 19 digits have a valid check digit and are not one digit repeated."""
    digits = [int(c) for c in value if c.isdigit()]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def passes_mod97(value: str) -> bool:
    """True for an IBAN whose check digits fit."""
    plain = re.sub(r"[\s\-]", "", value).upper()
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def is_ssn(value: str) -> bool:
    """True unless area, group or serial is all zeros; the area is not checked further (numbers were re-issued)."""
    area, group, serial = value.split("-")
    return area != "000" and group != "00" and serial != "0000"


def is_ip(value: str) -> bool:
    """True for an IPv4 or IPv6 address that is not loopback or unspecified."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def is_phone(value: str) -> bool:
    """True for 7 to 15 digits that are neither a date nor a year range."""
    body = re.split(r"(?:x|ext)", value)[0]
    digits = [c for c in body if c.isdigit()]
    return 7 <= len(digits) <= 16 and not re.fullmatch(DATE, body.strip()) and len(set(digits)) > 2


def is_secret(value: str) -> bool:
    """True for text that looks chosen by a machine or a careful person: mixed kinds of characters."""
    kinds = sum(bool(re.search(p, value)) for p in (r"[a-z]", r"[A-Z]", r"\d", r"[^\w\s]"))
    return len(value) >= 4 and kinds >= 2 and not re.fullmatch(r"[A-Za-z][a-z]+[.,;:!?]?", value)


def is_vin(value: str) -> bool:
    """True when the ninth character is the check digit of a North American vehicle number."""
    digit = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", "12345678123457923456789" + "0123456789", strict=True))
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    rest = sum(int(digit[c]) * w for c, w in zip(value, weights, strict=True)) % 11
    return value[8] == ("X" if rest == 10 else str(rest))


def is_user(value: str) -> bool:
    """True for a login: letters with digits, dots or underscores, not an ordinary word."""
    return bool(re.search(r"[\d._\-]", value)) and bool(re.search(r"[A-Za-z]", value))
