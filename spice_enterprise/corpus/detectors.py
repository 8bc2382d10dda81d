"""Personal data that has a shape: patterns with checksums and labels, offline and without any model.

In: text.
Out: spans of e-mail addresses, numbers, keys, ids beside their label, addresses, salutations and the like.
Refuses: nothing. Every expression is bounded, so the time is linear in the text.
Not here: names in running prose (`presidio.py`), and what is done with a span (`scrub.py`).

A rule marks its value with a group named `v`; without one the whole match is the value. Each rule carries texts that
must and must not match, written as `before{value}after`; the tests run them as a table.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.records import Span

UPPER: Final = "A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĘĚĞĢİĪŁŃŅŇŌŐŒŘŚŞŠŢŤŪŮŰŹŻŽΑ-ΩА-Я"
_WORD: Final = rf"[{UPPER}][^\W\d_]*(?:['’\-][^\W\d_]+){{0,2}}"
_PARTICLE: Final = r"(?:de la|de|del|della|van der|van den|van|von|zu|der|du|di|da|dos|bin|al|el|le|la|ten|ter|af)"
_INITIAL: Final = rf"[{UPPER}]\."
NAME: Final = rf"(?:{_INITIAL} ?){{0,2}}{_WORD}(?: (?:{_PARTICLE} )?(?:{_INITIAL}|{_WORD})){{0,3}}"
_FULL_NAME: Final = rf"(?:{_INITIAL} ?|{_WORD} ){{1,3}}(?:{_PARTICLE} )?{_WORD}"
_LAST_FIRST: Final = rf"{_WORD}(?: {_WORD})?, {_WORD}(?: (?:{_WORD}|{_INITIAL}))?"
_ANY_NAME: Final = rf"(?:{_LAST_FIRST}|{NAME})"
_HONORIFIC: Final = r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Dame|Herr|Frau|Mme|Monsieur|Madame|Señor|Señora)"
_MONTH: Final = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)
DATE: Final = (
    rf"(?:\d{{1,2}}[./\- ]\d{{1,2}}[./\- ]\d{{2,4}}|\d{{4}}[./\-]\d{{1,2}}[./\-]\d{{1,2}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?\.? {_MONTH}\.?,? \d{{4}}|{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})"
)
_IS: Final = r"(?:\s{0,3}(?:[:=#]|\bis\b|\bwas\b)\s{0,3}|\s{1,3})"
_NO: Final = r"(?:\s?(?:no\.?|nos\.?|number|num\.?|nr\.?|id(?:entifier)?|code|#))"
_ID: Final = r"(?=[A-Za-z/.\- ]{0,12}\d)[A-Za-z0-9](?:[A-Za-z0-9/.\-]{2,24}[A-Za-z0-9])"
_CITY: Final = rf"[{UPPER}](?:[^\W\d_]|['’]){{1,20}}(?:[ \-](?:[^\W\d_]|['’]){{1,20}}){{0,3}}"

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
"""
NOT_NAMES: Final = frozenset(_ORDINARY_WORDS.split())
"""Words that stand where names stand but are none. Ordinary words only: no list of names is used anywhere."""


ALSO_NAMES: Final = frozenset(
    {"april", "august", "branch", "day", "guest", "head", "june", "king", "law", "may", "page", "price", "will"}
)
"""Ordinary words that are also names: fine beside a word that is no ordinary one ("June Cox")."""


def is_name(value: str) -> bool:
    """False for values that hold an ordinary word ("Dear Customer", "Name: Project X") or nothing else than initials."""
    words = [word.strip(".,'’").casefold() for word in value.split()]
    if any(word in NOT_NAMES and word not in ALSO_NAMES for word in words):
        return False
    return any(len(word) > 1 and word not in NOT_NAMES for word in words)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One shape of one kind of value."""

    rule_id: str
    entity: str
    pattern: re.Pattern[str]
    score: float
    check: Callable[[str], bool] | None = None
    is_grouped: bool = False
    """Groups of digits with blanks between: when the check fails, it is tried on fewer groups."""
    cue: str = ""
    """A character or lower-case word without which the pattern cannot match: texts without it are skipped."""
    hits: tuple[str, ...] = field(default=(), repr=False)
    misses: tuple[str, ...] = field(default=(), repr=False)

    def spans(self, text: str) -> Iterator[Span]:
        """Yield a span per match that passes the check."""
        group: str | int = "v" if "v" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text):
            start, end = match.span(group)
            value = self._passing(text[start:end])
            if value:
                end = start + len(value)
                yield Span(start=start, end=end, entity=self.entity, score=self.score, detector=self.rule_id)

    def _passing(self, value: str) -> str:
        """Return the value if it passes the check; of a grouped one the part that does, or nothing."""
        while value and self.check is not None and not self.check(value):
            # the number after a spaced number is matched too, so groups are dropped from the end
            shorter = re.match(r"(.+)[ \-]", value) if self.is_grouped else None
            value = shorter[1] if shorter else ""
        return value


def _rule(  # noqa: PLR0913 - a table row
    rule_id: str,
    entity: str,
    pattern: str,
    *,
    score: float = 0.9,
    check: Callable[[str], bool] | None = None,
    cue: str = "",
    is_grouped: bool = False,
    flags: re.RegexFlag = re.NOFLAG,
    hits: tuple[str, ...] = (),
    misses: tuple[str, ...] = (),
) -> Rule:
    compiled = re.compile(pattern, flags)
    return Rule(
        rule_id=rule_id,
        entity=entity,
        pattern=compiled,
        score=score,
        check=check,
        is_grouped=is_grouped,
        cue=cue,
        hits=hits,
        misses=misses,
    )


_I: Final = re.IGNORECASE
_M: Final = re.MULTILINE
_START: Final = r"(?<![\w.\-/+])"
_END: Final = r"(?![\w/\-])"

RULES: Final[tuple[Rule, ...]] = (
    _rule(
        "canary",
        "CANARY",
        r"\bCANARY-[0-9A-Fa-f]{8,64}\b",
        score=1.0,
        cue="canary-",
        hits=("see {CANARY-0123456789abcdef} here",),
        misses=("the canary-yellow paint", "CANARY-xyz"),
    ),
    _rule(
        "email",
        "EMAIL",
        r"(?<![\w.+%\-])[\w.+%\-]{1,64}@(?:[\w\-]{1,63}\.){1,6}[^\W\d_]{2,24}",
        score=1.0,
        cue="@",
        hits=("to {anna.weiss+x@mail.example.co.uk}.", "<{a_b@x-y.org}>"),
        misses=("meet @ noon", "user@host", "a@b"),
    ),
    _rule(
        "email_spelled",
        "EMAIL",
        r"\b[\w.\-]{2,40}\s?[\[(]\s?at\s?[\])]\s?[\w\-]{2,40}(?:\s?(?:[\[(]\s?dot\s?[\])]|\.)\s?[A-Za-z]{2,12}){1,3}",
        flags=_I,
        cue="at",
        hits=("write {anna.weiss (at) example (dot) com} now", "{anna[at]example.com}"),
        misses=("look (at) this",),
    ),
    _rule(
        "url_credentials",
        "URL_CREDENTIALS",
        r"\b[a-z][a-z0-9+.\-]{1,20}://[^\s/:@]{1,64}:[^\s/@]{1,128}@[^\s\"'<>)\]]{1,256}",
        score=1.0,
        flags=_I,
        cue="://",
        hits=("dsn {postgres://app:s3cr3t@db.local:5432/x} ok",),
        misses=("https://example.com:8080/a@b",),
    ),
    _rule(
        "profile_url",
        "USERNAME",
        r"\b(?:linkedin\.com/in|github\.com|twitter\.com|x\.com|facebook\.com)/(?P<v>[\w.\-]{3,40})",
        flags=_I,
        cue=".com/",
        hits=("see linkedin.com/in/{anna-weiss}",),
        misses=("linkedin.com/jobs",),
    ),
    _rule(
        "private_key",
        "API_KEY",
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{1,8192}-----END [A-Z ]{0,30}PRIVATE KEY-----",
        score=1.0,
        cue="private key",
        hits=("{-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----}",),
        misses=("the PRIVATE KEY is safe",),
    ),
    _rule(
        "known_key",
        "API_KEY",
        r"\b(?:sk-[\w\-]{16,200}|gh[pousr]_\w{20,255}|github_pat_\w{20,255}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w\-]{10,200}"
        r"|AIza[\w\-]{30,60}|glpat-[\w\-]{16,64}|eyJ[\w\-]{10,2000}\.[\w\-]{10,4000}\.[\w\-]{10,2000})",
        score=1.0,
        hits=("token={sk-Uc4mlADxXxz8mNkgG0au7f13}", "{AKIAIOSFODNN7EXAMPLE}"),
        misses=("a sk-ill", "AKIA is a prefix"),
    ),
    _rule(
        "prefixed_key",
        "API_KEY",
        r"\b[a-z]{2,8}_(?:test|live|prod|dev|sk|pk|key)_[A-Za-z0-9]{16,128}\b",
        score=1.0,
        cue="_",
        hits=("API key of the test system: {hmk_test_e60e7a79db70030eba4b287857662b06}.", "{pay_live_4eC39HqLyjWDarjtT1zdp7dc}"),
        misses=("unit_test_results", "a pre_prod_environment"),
    ),
    _rule(
        "long_hex",
        "API_KEY",
        r"(?<![\w-])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{32,128}(?![\w-])",
        score=0.9,
        hits=("the token is {e60e7a79db70030eba4b287857662b06}",),
        misses=("deadbeef", "12345678901234567890123456789012"),
    ),
    _rule(
        "labelled_key",
        "API_KEY",
        r"\b(?:api[_ \-]?key|access[_ \-]?key|secret(?:[_ \-]key)?|client[_ \-]secret|auth[_ \-]?token|token|bearer)"
        r"(?:\s{0,2}[:=]\s{0,2}|\s{1,2})[\"']?(?P<v>[\w\-./+]{12,512}=?=?)",
        flags=_I,
        check=is_secret,
        hits=("api_key = '{a8f5f167f44f4964e6c998de}'", "Bearer {abcDEF123456ghi}"),
        misses=("token of appreciation", "the secret ingredientsoffood"),
    ),
    _rule(
        "password_set",
        "PASSWORD",
        r"\b(?:password|passwd|passcode|pwd|passphrase)\s{0,2}[:=]\s{0,2}(?P<v>\S{3,64})",
        score=0.95,
        flags=_I,
        hits=("Password: {hunter2}", "pwd={x!9}"),
        misses=("the password policy", "password, please"),
    ),
    _rule(
        "password_said",
        "PASSWORD",
        r"\b(?:password|passwd|passcode|passphrase)\s{1,2}(?:is|was|to)?\s{0,2}(?P<v>[^\s,;]{4,64})",
        flags=_I,
        check=is_secret,
        cue="pass",
        hits=("password was {@ROz%ETS1vP7} (rotate!)", "password {w&v+iMj5aj3D}"),
        misses=("password is required", "password reset"),
    ),
    _rule(
        "pin",
        "PASSWORD",
        r"\bPIN(?: code)?\s{0,2}(?::|=|is|was)\s{0,2}(?P<v>\d{4,8})\b",
        cue="pin",
        hits=("PIN: {4711}",),
        misses=("PIN 3 of the connector",),
    ),
    _rule(
        "iban",
        "IBAN",
        r"\b[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?\b",
        score=1.0,
        check=passes_mod97,
        is_grouped=True,
        hits=("to {DE89 3704 0044 0532 0130 00}.", "{BE68 5390 0754 7034} 2024", "{GB77ZCWB86981454469934}"),
        misses=("DE00370400440532013000", "ISO27001"),
    ),
    _rule(
        "iban_label",
        "IBAN",
        r"\bIBAN\b[\s:]{0,3}(?P<v>[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){2,8})\b",
        cue="iban",
        hits=("IBAN: {DE00370400440532013000}",),
        misses=("IBAN required",),
    ),
    _rule(
        "card",
        "CREDIT_CARD",
        rf"{_START}\d{{4,6}}(?:[ \-]?\d{{2,6}}){{2,4}}{_END}",
        score=0.95,
        check=passes_luhn,
        is_grouped=True,
        hits=("card {4111 1111 1111 1111} 17", "{4065632556145682}"),
        misses=("4111 1111 1111 1112", "1234567890123"),
    ),
    _rule(
        "card_label",
        "CREDIT_CARD",
        r"\bcard(?:\s?(?:no\.?|number|#))?\s{0,2}:?\s{1,2}(?P<v>\d(?:[ \-]?\d){11,18})\b",
        flags=_I,
        cue="card",
        hits=("paid with card {213198378029867} on",),
        misses=("card 12 of 40",),
    ),
    _rule(
        "ssn",
        "US_SSN",
        r"(?<![\w\-])(?:[0-8]\d{2}-\d{2}-\d{4})(?![\w\-])",
        check=is_ssn,
        hits=("SSN {442-05-1915}",),
        misses=("000-12-3456", "5-442-05-1915", "44-205-1915"),
    ),
    _rule(
        "itin",
        "TAX_ID",
        r"(?<![\w\-])9\d{2}-[5-9]\d-\d{4}(?![\w\-])",
        hits=("ITIN {912-78-1234}",),
        misses=("912-18-1234",),
    ),
    _rule(
        "national_id",
        "NATIONAL_ID",
        rf"\b(?:national (?:id(?:entity|entification)?(?: card)?|identifier|insurance)|identity card|ID card"
        rf"|social security"
        rf"|personal id(?:entification)?|citizen|NI|NINO|NHS|Aadhaar|PESEL|CPF|NRIC|SSN){_NO}?{_IS}(?P<v>{_ID}"
        rf"|[A-Z]{{2}}(?: ?\d\d){{3}} ?[A-Z]"
        rf"|\d(?:[ .\-]?\d){{6,14}})(?![\w])",
        flags=_I,
        hits=("National identifier: {ZZ 57 01 48 T}", "National ID no. {133120319099888}", "NHS number: {943 476 5919}"),
        misses=("national identity", "social security benefits"),
    ),
    _rule(
        "nino",
        "NATIONAL_ID",
        r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d{2}){3} ?[A-D]\b",
        score=0.8,
        hits=("NI {AB 12 34 56 C}",),
        misses=("AB 12 34", "QQ 12 34 56 Z"),
    ),
    _rule(
        "tax_id",
        "TAX_ID",
        rf"\b(?:VAT|TVA|USt|tax(?:payer)?|TIN|EIN|steuer|UTR|GST|fiscal)(?:[ \-]?(?:reg(?:istration)?\.?"
        rf"|identification))?{_NO}?{_IS}"
        rf"(?P<v>{_ID})(?!\w)",
        flags=_I,
        hits=("VAT ID {NL469892044}, IBAN", "Tax number: {12/345/67890}"),
        misses=("tax is due", "VAT at 20%"),
        check=lambda value: sum(c.isdigit() for c in value) >= 6,
    ),
    _rule(
        "passport",
        "PASSPORT",
        rf"\bpassport{_NO}?{_IS}(?P<v>[A-Z]{{0,2}}\d[A-Z0-9]{{5,9}})\b",
        flags=_I,
        cue="passport",
        hits=("Passport no.: {C01X00T47}", "passport {123456789}"),
        misses=("passport holders",),
        check=lambda value: sum(c.isdigit() for c in value) >= 3,
    ),
    _rule(
        "employee_id",
        "EMPLOYEE_ID",
        rf"\b(?:employee|staff|personnel|payroll|badge|worker|HR)(?:{_NO}{_IS}|\s{{0,2}}[:=#]\s{{0,2}}"
        rf"|\s(?=[A-Z]{{0,3}}-?\d{{4}}))(?P<v>{_ID})(?!\w)",
        flags=_I,
        hits=("Employee no.: {E-90184}", "The badge number is {E-63926} and"),
        misses=("employee of 2020", "staff: 12 people"),
    ),
    _rule(
        "employee_code",
        "EMPLOYEE_ID",
        r"(?<![\w\-])(?:E|EMP|PN)-\d{4,8}(?![\w\-])",
        score=0.7,
        hits=("ask {E-90184} to",),
        misses=("E-12", "PN-12"),
    ),
    _rule(
        "customer_id",
        "CUSTOMER_ID",
        rf"\b(?:customer|client|member(?:ship)?|patient|policyholder|subscriber|student|account holder"
        rf"|MRN)(?:{_NO}{_IS}|\s{{0,2}}[:=#]\s{{0,2}})(?P<v>{_ID})(?!\w)",
        flags=_I,
        hits=("Customer ID: {CUST2246228}", "Patient no. {4471-22}"),
        misses=("customer: see section", "client no"),
    ),
    _rule(
        "customer_code",
        "CUSTOMER_ID",
        r"\b(?:CUST|CLNT|KD)-?\d{4,12}\b",
        score=0.7,
        hits=("for {CUST-88213}",),
        misses=("CUSTOM-1234", "CUST-12"),
    ),
    _rule(
        "case_number",
        "CASE_NUMBER",
        rf"\b(?:case|docket|matter|complaint|application|claim|petition|file)(?:s|{_NO}"
        rf"|\s?ref(?:erence)?\.?){_IS}(?P<v>{_ID})(?!\w)",
        flags=_I,
        hits=("Case no. {2021-CV-01234}", "(application no. {36244/06})"),
        misses=("case of 2020", "file is 20 MB", "applications 12"),
        check=lambda value: sum(c.isdigit() for c in value) >= 3,
    ),
    _rule(
        "application_number",
        "CASE_NUMBER",
        r"\bnos?\. ?(?P<v>\d{2,5}/\d{2})(?![\d/])",
        cue="no",
        flags=_I,
        hits=("no. {36244/06}",),
        misses=("36244/06", "no. 5/2020"),
    ),
    _rule(
        "bank_account",
        "BANK_ACCOUNT",
        rf"\b(?:(?:bank )?account|acct\.?|a/c|routing|sort[ \-]code|BLZ|ABA"
        rf"|BSB){_NO}?{_IS}(?P<v>\d(?:[ \-]?\d){{5,17}})(?![\w])",
        flags=_I,
        hits=("account no. {0532013000}", "sort code: {20-00-00}"),
        misses=("account 2020", "account balance 12,000.00"),
    ),
    _rule(
        "bic",
        "BANK_ACCOUNT",
        r"\b(?:BIC|SWIFT)(?:[ /](?:BIC|SWIFT|code))?[\s:]{1,3}(?P<v>[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?)\b",
        hits=("BIC: {COBADEFFXXX}",),
        misses=("SWIFT response",),
    ),
    _rule(
        "vin_label",
        "VEHICLE_ID",
        r"\b(?:VIN|chassis(?: no\.?| number)?|vehicle identification number)[\s:#]{1,3}(?P<v>[A-HJ-NPR-Z0-9]{11,17})\b",
        flags=_I,
        hits=("VIN: {1HGCM82633A004352}",),
        misses=("VIN missing",),
        check=lambda value: any(c.isdigit() for c in value),
    ),
    _rule(
        "vin",
        "VEHICLE_ID",
        r"\b(?=[A-HJ-NPR-Z]*\d)(?=\d*[A-HJ-NPR-Z])[A-HJ-NPR-Z0-9]{8}[0-9X][A-HJ-NPR-Z0-9]{8}\b",
        check=is_vin,
        hits=("car {1HGCM82633A004352}",),
        misses=("1HGCM82643A004352",),
    ),
    _rule(
        "plate",
        "VEHICLE_ID",
        r"\b(?:licen[cs]e plate|number plate|registration plate|plate(?: no\.?| number)"
        r"|Kennzeichen)[\s:]{1,3}(?P<v>[A-ZÄÖÜ0-9][A-ZÄÖÜ0-9 \-]{2,9}[A-Z0-9])\b",
        flags=_I,
        hits=("License plate: {B-MX 4711}",),
        misses=("plate heat exchanger",),
        check=lambda value: any(c.isdigit() for c in value),
    ),
    _rule(
        "plate_of_a_vehicle",
        "VEHICLE_ID",
        r"\b(?:car|lorry|truck|van|vehicle|trailer|bus)[\s:,]{1,3}(?P<v>[A-Z]{1,3}[ -]?\d{1,4}[ -]?[A-Z]{1,3})\b(?!-)",
        hits=("Collection by lorry {ZQ67 HRK}, driver", "Company car: {ZQ69 ZEM}.", "Site vehicle {ZQ56 RMN} is"),
        misses=("the lorry HM-4471 list", "the van stands in Hall B"),
    ),
    _rule(
        "driving_licence",
        "NATIONAL_ID",
        rf"\bdriv(?:er'?s?|ing) licen[cs]e{_NO}?{_IS}(?P<v>{_ID})(?!\w)",
        flags=_I,
        cue="driv",
        hits=("Driving licence no.: {MORGA657054SM9IJ}",),
        misses=("driving licence holders",),
    ),
    _rule(
        "birth",
        "DATE_OF_BIRTH",
        rf"\b(?:date of birth|birth ?(?:date|day)|DOB|D\.O\.B\.|born(?: on| in)?)[\s:]{{0,3}}(?:is |was "
        rf"|the )?(?P<v>{DATE}|(?<=born in )\d{{4}})",
        flags=_I,
        score=0.95,
        hits=("Date of birth: {18/09/1987}", "born on {May 08, 1991}.", "born in {1960}"),
        misses=("signed on 18/09/1987", "date of birth unknown"),
    ),
    _rule(
        "mac",
        "MAC_ADDRESS",
        r"(?<![\w:\-])(?:[0-9A-Fa-f]{2}([:\-]))(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:\-])",
        hits=("adapter {9a:bd:6c:2c:01:f7}.",),
        misses=("9a:bd:6c", "12:30:45"),
    ),
    _rule(
        "ipv4",
        "IP_ADDRESS",
        r"(?<![\w.])(?<!version )(?<!v)\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\d|\w)",
        check=is_ip,
        hits=("from {219.241.76.123} with",),
        misses=("version 4.11.2.8", "127.0.0.1", "999.1.1.1", "4.11.2"),
    ),
    _rule(
        "ipv6",
        "IP_ADDRESS",
        r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,7}(?![\w:])",
        check=is_ip,
        cue=":",
        hits=("from {2001:db8::8a2e:370:7334} at",),
        misses=("at 12:30:45", "ratio 1:2:3"),
    ),
    _rule(
        "phone_label",
        "PHONE",
        r"\b(?:tel(?:ephone)?|phone|mobile|cell|fax|call|direct|handy|tél)\.?(?:\s?(?:no\.?|number|line))?[\s:]{0,3}"
        r"(?:is\s|at\s)?(?P<v>[+(]{0,2}\d[\d ().\-/]{5,22}\d(?:\s?(?:x|ext\.?)\s?\d{1,6})?)(?!\w)",
        flags=_I,
        check=is_phone,
        hits=("tel. {01314960581}, with", "Mobile: {(211)901-3922}.", "phone number is {555 1234 567}"),
        misses=("call 12", "Phone: n/a"),
    ),
    _rule(
        "phone_international",
        "PHONE",
        r"(?<![\w.+])(?:\+|00(?=[1-9]))\d{1,3}[ .\-/]?(?:\(0\)"
        r"|\(\d{1,4}\))?[ .\-/]?\d[\d .\-/]{5,16}\d(?:\s?x\s?\d{1,6})?(?!\w)",
        check=is_phone,
        hits=("at {+49(0)6520220858}.", "{+1-878-954-1544x318}", "{001-277-804-8120x01327}"),
        misses=("+12 %", "00123"),
    ),
    _rule(
        "phone_us",
        "PHONE",
        r"(?<![\w.\-])(?:\(\d{3}\) ?|\d{3}[.\-])\d{3}[.\- ]\d{4}(?:\s?x\s?\d{1,6})?(?![\w\-])",
        score=0.8,
        check=is_phone,
        hits=("ring {652.665.6457x087} or", "{(584)628-7099}"),
        misses=("12-345-6789", "1.652.665.6457"),
    ),
    _rule(
        "phone_local",
        "PHONE",
        r"(?<![\w.,\-/])(?:\(0\d{2,5}\) ?\d[\d \-]{3,9}\d|0\d(?: \d{2}){4}|0\d{1,5} \d{3,8}(?: \d{3,4})?"
        r"|0\d{9,10})(?![\w\-/]|[.,]\d)",
        score=0.8,
        check=is_phone,
        hits=("| {02 41 91 64 24}", "{(01312) 70466}.", "{01632 960 781}", "{020 7946 0029}", "{09762 33501}"),
        misses=("0,123456789", "Part 0123"),
    ),
    _rule(
        "username",
        "USERNAME",
        r"\b(?:user(?:[ _\-]?(?:name|id))?|login(?:[ _\-]?(?:name|id))?|account name|screen name|handle|slack"
        r"|skype|AD login)"
        r"(?:\s{0,2}[:=]\s{0,2}|\s(?:is\s|was\s)?)[\"'@]?(?P<v>(?=[\w.\-]{0,31}[\d._\-])[A-Za-z][\w.\-]{2,31}\w)",
        flags=_I,
        check=is_user,
        hits=(
            "Audit login: user name {ptredwell12}, password",
            "user={kcannon44} token",
            "the AD login {kcannon44}. Please",
            "username: {anna.weiss}",
        ),
        misses=("user interface", "login page", "user manual"),
    ),
    _rule(
        "username_brackets",
        "USERNAME",
        r"\((?P<v>[a-z]{3,20}[._]?\d{1,4})\)",
        score=0.7,
        cue="(",
        hits=("Karl ({kmacdonald96}) connecting",),
        misses=("(b12)", "(see 12)"),
    ),
    _rule(
        "handle",
        "USERNAME",
        r"(?<![\w@./])@(?P<v>[A-Za-z][\w.]{2,29}\w)",
        score=0.6,
        cue="@",
        hits=("ping @{anna_weiss} today",),
        misses=("a@b.com", "@ 12"),
    ),
    _rule(
        "address_label",
        "ADDRESS",
        r"\b(?:(?:home|postal|mailing|billing|shipping|delivery|residential|street|private"
        r"|registered)\s)?address(?:es)?\s{0,2}[:=]\s{0,2}"
        r"(?P<v>[^\n;@]{8,120}\d[^\n;@]{0,60}?)(?=[;\n]|\.\s|\.?$)",
        flags=_I | _M,
        cue="address",
        hits=("Home address: {Studio 2, Adam Camp, New Ashleigh, CM8 7FW}\n",),
        misses=("address: unknown",),
    ),
    _rule(
        "address_us",
        "ADDRESS",
        rf"(?<![\w.])\d{{1,6}}[A-Za-z]? (?:[{UPPER}\d][\w.'’\-]{{0,20}} ){{0,5}}[{UPPER}][\w.'’\-]{{1,20}}\.?"
        r"(?:,? (?:Apt|Suite|Ste|Unit|Floor|#)\.? ?[\w\-]{1,6})?"
        rf"(?:,| –|\n|,\n) ?{_CITY}, ?[A-Z]{{2}}\.? \d{{5}}(?:-\d{{4}})?\b",
        hits=("at {993 Antonio Plains, Mariachester, DE 21697}? The",),
        misses=("12 Items, Total", "993 Antonio Plains"),
    ),
    _rule(
        "address_uk",
        "ADDRESS",
        rf"(?<![\w.])(?:(?:Studio|Flat|Unit|Apartment|Apt\.?"
        rf"|Suite) \d{{1,4}}[A-Za-z]?,? )?(?:\d{{1,5}}[A-Za-z]? )?{_CITY}(?:[,\n] ?{_CITY}){{0,3}}[,\n] ?"
        r"[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b",
        hits=("to {64 Jake Manor, South Kathleenburgh, BT9V 0PQ}?", "{Studio 2, Adam Camp, New Ashleigh, CM8 7FW}"),
        misses=("Section 4, AB 12",),
    ),
    _rule(
        "address_eu",
        "ADDRESS",
        rf"(?<![\w.])(?:[{UPPER}][\w.'’ßÀ-ž\-]{{1,30}} ){{0,3}}[{UPPER}][\w.'’ßÀ-ž\-]{{1,40}} \d{{1,4}}"
        rf"(?: ?[a-z])?(?:[\-/]\d{{1,4}})?(?:,|\n|,\n) ?(?:[A-Z]{{1,2}}-)?\d{{4,5}} {_CITY}",
        hits=("at {Rene-Henk-Allee 59, 05534 Bremen} (", "{Sevim-auch Schlauchin-Weg 9/8, 46717 Bremen}\n"),
        misses=("Tier 2, 12345 items",),
    ),
    _rule(
        "address_fr",
        "ADDRESS",
        rf"(?<![\w.])\d{{1,4}},? ?(?:bis |ter )?(?:rue|avenue|boulevard|chemin|place|impasse|allée|quai|via"
        rf"|viale|calle|piazza)\b[^\n,;:]{{2,50}}"
        rf"(?:(?:,|\n|,\n) ?\d{{5}} {_CITY})?",
        flags=_I,
        hits=("{489, chemin Geneviève Roche, 14726 Leleudan}\n", "{12 rue de la Paix}, then"),
        misses=("12, avenues of growth",),
    ),
    _rule(
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
    _rule(
        "strasse",
        "ADDRESS",
        rf"\b(?:[{UPPER}][\w.\-]{{1,20}} )?[{UPPER}][^\W\d_\-]{{1,24}}(?:-[{UPPER}]?[^\W\d_]{{1,24}}){{0,3}}-?"
        rf"(?:straße|strasse|str\.|weg|gasse|allee|platz|ring|damm|ufer"
        r"|Straße|Strasse|Weg|Gasse|Allee|Platz|Ring|Damm|Ufer) \d{1,4}[a-z]?(?:[\-/]\d{1,4})?\b",
        score=0.85,
        hits=("in der {Hauptstraße 12}, dann", "{Rosmarie-Jungfer-Weg 942}"),
        misses=("the ring 12",),
    ),
    _rule(
        "po_box",
        "ADDRESS",
        r"\bP\.?\s?O\.?\s?Box\s\d{1,6}\b|\bPostfach\s\d{1,6}\b",
        flags=_I,
        cue="o",
        hits=("{P.O. Box 1234}, Town",),
        misses=("box 1234",),
    ),
    _rule(
        "postcode_uk",
        "ADDRESS",
        r"\b[A-Z]{1,2}\d[A-Z\d]? \d[ABD-HJLNP-UW-Z]{2}\b",
        score=0.6,
        hits=("near {CM8 7FW}.",),
        misses=("CM 87", "Q3 2024"),
    ),
    _rule(
        "honorific",
        "PERSON",
        rf"\b{_HONORIFIC}\.? (?P<v>(?:{_INITIAL} ?){{0,2}}{_WORD}(?: (?:{_PARTICLE} )?{_WORD}){{0,2}})",
        check=is_name,
        hits=("a copy to Ms. {Gilbert} at", "Dr. {Hans Josef Karge} is"),
        misses=("Dr. of law", "Ms. The"),
    ),
    _rule(
        "salutation",
        "PERSON",
        rf"\b(?:Dear|Hi|Hello|Hey|Good (?:morning|afternoon|evening)|Hallo|Liebe|Lieber|Bonjour|Cher"
        rf"|Chère)[ ,]{{1,2}}(?:{_HONORIFIC}\.? )?(?P<v>{NAME})(?=\s{{0,2}}[,!:\n]|\s(?:and|und|et|&))",
        check=is_name,
        hits=("Hi {Bernt},\n", "Dear Mr. {Anton Weiss},", "Hello {Ana} and all"),
        misses=("Dear Customer,", "Hi all,"),
    ),
    _rule(
        "signature",
        "PERSON",
        rf"(?:(?:[Bb]est|[Kk]ind|[Ww]arm)?(?: [Rr]egards| wishes)|Regards|Best|Thanks|Thank you|Many thanks"
        rf"|Cheers|Sincerely|Yours (?:sincerely|truly|faithfully)|Gruß|Grüße|Cordialement)"
        rf"[,.!]?\s{{0,3}}\n\s{{0,3}}(?P<v>{NAME})(?=\s{{0,3}}(?:\n|$|[|,]))",
        check=is_name,
        hits=("Thanks,\n{Claire}\n--", "Best regards\n\n{Anna van Weiss}\nCFO"),
        misses=("Thanks,\nThe Team\n",),
    ),
    _rule(
        "name_label",
        "PERSON",
        rf"(?:^|(?<=[\n;|(])|(?<=[;|(] )|(?<=\. ))[ \t*\-]{{0,4}}(?:(?i:(?:full |first |last |family |given |sur"
        rf"|account holder |customer |employee |contact |patient |client |maiden )?name|employee|patient|claimant|defendant"
        rf"|plaintiff|(?:emergency |main )?contact(?: person)?|attn\.?|attention|attendees?|present|author"
        rf"|prepared by|written by|approved by|signed(?: by)?"
        rf"|reviewed by|reported by|reporter|assigned to|assignee|owner|manager|supervisor|line manager|cashier"
        rf"|bill to|ship to|sold to|payee|beneficiary|by|from|to|cc|bcc|witness"
        rf"|chair(?:man|person)?|recipient|sender|next of kin|spouse|landlord|tenant|doctor|nurse|interviewer"
        rf"|interviewee|candidate|driver|instructor|teacher))"
        rf"[*]{{0,2}}\s{{0,2}}:[*]{{0,2}}[ \t]{{0,3}}(?:{_HONORIFIC}\.? )?(?P<v>{_ANY_NAME})(?=\s{{0,3}}(?:$"
        rf"|[\n;,|<(\[.]| - | – |and\b))",
        flags=_M,
        check=is_name,
        hits=(
            "Name: {Ingetraut Kramer}\n",
            "Employee: {Macdonald, Karl}\n",
            "To: {Speer, Bernt} <",
            "Bill to: {NORMAN FIEBIG}\n",
            "x; Manager: {Ann Lee}; y",
        ),
        misses=("Name: Project Plan\n", "To: all\n", "Contact: see below"),
    ),
    _rule(
        "name_verb",
        "PERSON",
        rf"\b(?:[Rr]eporter|[Aa]ssigned to|[Aa]pologies from|[Pp]resent:|[Pp]repared by|[Ss]igned by"
        rf"|[Aa]pproved by|[Ee]scalated? to|[Aa]ttention of|[Ww]ritten by|[Cc]/o|on behalf of|onboarding of"
        rf"|[Mm]y name is|I am called)\s"
        rf"(?:{_HONORIFIC}\.? )?(?P<v>{_FULL_NAME})",
        check=is_name,
        hits=("Reporter {Karl Macdonald} (", "Assigned to {R. Hall}; x", "prepared by {N. Liebelt}"),
        misses=("Assigned to the team", "on behalf of the company"),
    ),
    _rule(
        "name_email",
        "PERSON",
        rf"(?P<v>{_ANY_NAME})\"? ?<[\w.+%\-]{{1,64}}@",
        check=is_name,
        cue="@",
        hits=("From: {Claire Delannoy} <c@x.org>", "{Speer, Bernt} <b@x.org>"),
        misses=("Support <a@x.org>",),
    ),
    _rule(
        "initialled",
        "PERSON",
        rf"(?<![\w.])(?:{_INITIAL} ?){{1,2}}(?:{_PARTICLE} )?[{UPPER}][^\W\d_]{{2,20}}(?:-[{UPPER}][^\W\d_]{{2,20}})?",
        score=0.7,
        check=is_name,
        hits=("and {N. Pereira}; apologies", "{J. R. van Tolk}"),
        misses=("S. Section", "a. Beta"),
    ),
    _rule(
        "company",
        "ORGANIZATION",
        rf"(?<![\w&])[{UPPER}][\w'’\-]{{1,30}}(?:(?:,? and |,? & |, | )[{UPPER}][\w'’\-]{{1,30}}){{0,4}},? "
        r"(?:Inc|Incorporated|Ltd|Limited|LLC|LLP|PLC|plc|GmbH|KGaA|KG|AG|SE|SARL|S\.A\.R\.L\.|S\.A\.S\.|S\.A\."
        r"|S\.p\.A\.|S\.r\.l\.|B\.V\.|N\.V\.|Corp|Corporation|Oy|AB|A/S|Pty|Co)(?!\w)\.?",
        score=0.85,
        hits=("between {Gröttner AG}, having", "{Peron Fernandez S.A.R.L.}, of", "{Davies, Lloyd and Cooper Ltd}"),
        misses=("the AG said", "se limited"),
    ),
)


class PatternDetector:
    """Runs every rule over the text."""

    def __init__(self, rules: tuple[Rule, ...] = RULES) -> None:
        """Use `rules`; the shipped ones by default."""
        self._rules = rules

    def detect(self, text: str) -> list[Span]:
        """Return every match of every rule, in the order of the rules."""
        lowered = text.casefold()
        return [span for rule in self._rules if rule.cue in lowered for span in rule.spans(text)]
