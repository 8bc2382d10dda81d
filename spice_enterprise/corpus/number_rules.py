"""Numbers that name one person, account or thing: checksums where they exist, the label beside the number otherwise.

In: nothing; a table.
Out: rules.
Refuses: nothing.
Not here: how a rule is run (`rule.py`), the other tables (`detectors.py` joins them).
"""

from typing import Final

from spice_enterprise.corpus.checks import is_phone, is_ssn, is_vin, passes_luhn, passes_mod97
from spice_enterprise.corpus.rule import ANY_CASE, END, ID, IS, NO, START, Rule, rule

NUMBER_RULES: Final[tuple[Rule, ...]] = (
    rule(
        "iban",
        "IBAN",
        r"\b[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?\b",
        score=1.0,
        flags=ANY_CASE,
        check=passes_mod97,
        is_grouped=True,
        hits=("to {DE89 3704 0044 0532 0130 00}.", "{BE68 5390 0754 7034} 2024", "{GB77ZCWB86981454469934}"),
        misses=("DE00370400440532013000", "ISO27001"),
    ),
    rule(
        "iban_label",
        "IBAN",
        r"\bIBAN\b[\s:]{0,3}(?P<v>[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){2,8})\b",
        cue="iban",
        hits=("IBAN: {DE00370400440532013000}",),
        misses=("IBAN required",),
    ),
    rule(
        "card",
        "CREDIT_CARD",
        rf"{START}\d{{4,6}}(?:[ \-]?\d{{2,6}}){{2,4}}{END}",
        score=0.95,
        check=passes_luhn,
        is_grouped=True,
        hits=("card {4111 1111 1111 1111} 17", "{4065632556145682}"),
        misses=("4111 1111 1111 1112", "1234567890123"),
    ),
    rule(
        "card_label",
        "CREDIT_CARD",
        r"\bcard(?:\s?(?:no\.?|number|#))?\s{0,2}:?\s{1,2}(?P<v>\d(?:[ \-]?\d){11,18})\b",
        flags=ANY_CASE,
        cue="card",
        hits=("paid with card {213198378029867} on",),
        misses=("card 12 of 40",),
    ),
    rule(
        "ssn",
        "US_SSN",
        r"(?<![\w\-])(?:[0-8]\d{2}-\d{2}-\d{4})(?![\w\-])",
        check=is_ssn,
        hits=("SSN {442-05-1915}",),
        misses=("000-12-3456", "5-442-05-1915", "44-205-1915"),
    ),
    rule(
        "itin",
        "TAX_ID",
        r"(?<![\w\-])9\d{2}-[5-9]\d-\d{4}(?![\w\-])",
        hits=("ITIN {912-78-1234}",),
        misses=("912-18-1234",),
    ),
    rule(
        "national_id",
        "NATIONAL_ID",
        rf"\b(?:national (?:id(?:entity|entification)?(?: card)?|identifier|insurance)|identity card|ID card"
        rf"|social security"
        rf"|personal id(?:entification)?|citizen|NI|NINO|NHS|Aadhaar|PESEL|CPF|NRIC|SSN){NO}?{IS}(?P<v>{ID}"
        rf"|[A-Z]{{2}}(?: ?\d\d){{3}} ?[A-Z]"
        rf"|\d(?:[ .\-]?\d){{6,14}})(?![\w])",
        flags=ANY_CASE,
        hits=("National identifier: {ZZ 57 01 48 T}", "National ID no. {133120319099888}", "NHS number: {943 476 5919}"),
        misses=("national identity", "social security benefits"),
    ),
    rule(
        "nino",
        "NATIONAL_ID",
        r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d{2}){3} ?[A-D]\b",
        score=0.8,
        hits=("NI {AB 12 34 56 C}",),
        misses=("AB 12 34", "QQ 12 34 56 Z"),
    ),
    rule(
        "tax_id",
        "TAX_ID",
        rf"\b(?:VAT|TVA|USt|tax(?:payer)?|TIN|EIN|steuer|UTR|GST|fiscal)(?:[ \-]?(?:reg(?:istration)?\.?"
        rf"|identification))?{NO}?{IS}"
        rf"(?P<v>{ID})(?!\w)",
        flags=ANY_CASE,
        hits=("VAT ID {NL469892044}, IBAN", "Tax number: {12/345/67890}"),
        misses=("tax is due", "VAT at 20%"),
        check=lambda value: sum(c.isdigit() for c in value) >= 6,
    ),
    rule(
        "passport",
        "PASSPORT",
        rf"\bpassport{NO}?{IS}(?P<v>[A-Z]{{0,2}}\d[A-Z0-9]{{5,9}})\b",
        flags=ANY_CASE,
        cue="passport",
        hits=("Passport no.: {C01X00T47}", "passport {123456789}"),
        misses=("passport holders",),
        check=lambda value: sum(c.isdigit() for c in value) >= 3,
    ),
    rule(
        "employee_id",
        "EMPLOYEE_ID",
        rf"\b(?:employee|staff|personnel|payroll|badge|worker|HR)(?:{NO}{IS}|\s{{0,2}}[:=#]\s{{0,2}}"
        rf"|\s(?=[A-Z]{{0,3}}-?\d{{4}}))(?P<v>{ID})(?!\w)",
        flags=ANY_CASE,
        hits=("Employee no.: {E-90184}", "The badge number is {E-63926} and"),
        misses=("employee of 2020", "staff: 12 people"),
    ),
    rule(
        "employee_code",
        "EMPLOYEE_ID",
        r"(?<![\w\-])(?:E|EMP|PN)-\d{4,8}(?![\w\-])",
        score=0.7,
        hits=("ask {E-90184} to",),
        misses=("E-12", "PN-12"),
    ),
    rule(
        "customer_id",
        "CUSTOMER_ID",
        rf"\b(?:customer|client|member(?:ship)?|patient|policyholder|subscriber|student|account holder"
        rf"|MRN)(?:{NO}{IS}|\s{{0,2}}[:=#]\s{{0,2}})(?P<v>{ID})(?!\w)",
        flags=ANY_CASE,
        hits=("Customer ID: {CUST2246228}", "Patient no. {4471-22}"),
        misses=("customer: see section", "client no"),
    ),
    rule(
        "customer_code",
        "CUSTOMER_ID",
        r"\b(?:CUST|CLNT|KD)-?\d{4,12}\b",
        score=0.7,
        hits=("for {CUST-88213}",),
        misses=("CUSTOM-1234", "CUST-12"),
    ),
    rule(
        "case_number",
        "CASE_NUMBER",
        rf"\b(?:case|docket|matter|complaint|application|claim|petition|file)(?:s|{NO}"
        rf"|\s?ref(?:erence)?\.?){IS}(?P<v>{ID})(?!\w)",
        flags=ANY_CASE,
        hits=("Case no. {2021-CV-01234}", "(application no. {36244/06})"),
        misses=("case of 2020", "file is 20 MB", "applications 12"),
        check=lambda value: sum(c.isdigit() for c in value) >= 3,
    ),
    rule(
        "application_number",
        "CASE_NUMBER",
        r"\bnos?\. ?(?P<v>\d{2,5}/\d{2})(?![\d/])",
        cue="no",
        flags=ANY_CASE,
        hits=("no. {36244/06}",),
        misses=("36244/06", "no. 5/2020"),
    ),
    rule(
        "bank_account",
        "BANK_ACCOUNT",
        rf"\b(?:(?:bank )?account|acct\.?|a/c|routing|sort[ \-]code|BLZ|ABA"
        rf"|BSB){NO}?{IS}(?P<v>\d(?:[ \-]?\d){{5,17}})(?![\w])",
        flags=ANY_CASE,
        hits=("account no. {0532013000}", "sort code: {20-00-00}"),
        misses=("account 2020", "account balance 12,000.00"),
    ),
    rule(
        "bic",
        "BANK_ACCOUNT",
        r"\b(?:BIC|SWIFT)(?:[ /](?:BIC|SWIFT|code))?[\s:]{1,3}(?P<v>[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?)\b",
        hits=("BIC: {COBADEFFXXX}",),
        misses=("SWIFT response",),
    ),
    rule(
        "vin_label",
        "VEHICLE_ID",
        r"\b(?:VIN|chassis(?: no\.?| number)?|vehicle identification number)[\s:#]{1,3}(?P<v>[A-HJ-NPR-Z0-9]{11,17})\b",
        flags=ANY_CASE,
        hits=("VIN: {1HGCM82633A004352}",),
        misses=("VIN missing",),
        check=lambda value: any(c.isdigit() for c in value),
    ),
    rule(
        "vin",
        "VEHICLE_ID",
        r"\b(?=[A-HJ-NPR-Z]*\d)(?=\d*[A-HJ-NPR-Z])[A-HJ-NPR-Z0-9]{8}[0-9X][A-HJ-NPR-Z0-9]{8}\b",
        check=is_vin,
        hits=("car {1HGCM82633A004352}",),
        misses=("1HGCM82643A004352",),
    ),
    rule(
        "plate",
        "VEHICLE_ID",
        r"\b(?:licen[cs]e plate|number plate|registration plate|plate(?: no\.?| number)"
        r"|Kennzeichen)[\s:]{1,3}(?P<v>[A-ZÄÖÜ0-9][A-ZÄÖÜ0-9 \-]{2,9}[A-Z0-9])\b",
        flags=ANY_CASE,
        hits=("License plate: {B-MX 4711}",),
        misses=("plate heat exchanger",),
        check=lambda value: any(c.isdigit() for c in value),
    ),
    rule(
        "plate_of_a_vehicle",
        "VEHICLE_ID",
        r"\b(?:car|lorry|truck|van|vehicle|trailer|bus)[\s:,]{1,3}(?P<v>[A-Z]{1,3}[ -]?\d{1,4}[ -]?[A-Z]{1,3})\b(?!-)",
        hits=("Collection by lorry {ZQ67 HRK}, driver", "Company car: {ZQ69 ZEM}.", "Site vehicle {ZQ56 RMN} is"),
        misses=("the lorry HM-4471 list", "the van stands in Hall B"),
    ),
    rule(
        "driving_licence",
        "NATIONAL_ID",
        rf"\bdriv(?:er'?s?|ing) licen[cs]e{NO}?{IS}(?P<v>{ID})(?!\w)",
        flags=ANY_CASE,
        cue="driv",
        hits=("Driving licence no.: {MORGA657054SM9IJ}",),
        misses=("driving licence holders",),
    ),
    rule(
        "phone_label",
        "PHONE",
        r"\b(?:tel(?:ephone)?|phone|mobile|cell|fax|call|direct|handy|tél)\.?(?:\s?(?:no\.?|number|line))?[\s:]{0,3}"
        r"(?:is\s|at\s)?(?P<v>[+(]{0,2}\d[\d ().\-/]{5,22}\d(?:\s?(?:x|ext\.?)\s?\d{1,6})?)(?!\w)",
        flags=ANY_CASE,
        check=is_phone,
        hits=("tel. {01314960581}, with", "Mobile: {(211)901-3922}.", "phone number is {555 1234 567}"),
        misses=("call 12", "Phone: n/a"),
    ),
    rule(
        "phone_international",
        "PHONE",
        r"(?<![\w.+])(?:\+|00(?=[1-9]))\d{1,3}[ .\-/]?(?:\(0\)"
        r"|\(\d{1,4}\))?[ .\-/]?\d[\d .\-/]{5,16}\d(?:\s?x\s?\d{1,6})?(?!\w)",
        check=is_phone,
        hits=("at {+49(0)6520220858}.", "{+1-878-954-1544x318}", "{001-277-804-8120x01327}"),
        misses=("+12 %", "00123"),
    ),
    rule(
        "phone_us",
        "PHONE",
        r"(?<![\w.\-])(?:\(\d{3}\) ?|\d{3}[.\-])\d{3}[.\- ]\d{4}(?:\s?x\s?\d{1,6})?(?![\w\-])",
        score=0.8,
        check=is_phone,
        hits=("ring {652.665.6457x087} or", "{(584)628-7099}"),
        misses=("12-345-6789", "1.652.665.6457"),
    ),
    rule(
        "phone_area",
        "PHONE",
        r"(?<![\w.\-/])\(0?\d{1,4}\)[ \-]?\d{2,4}(?:[ \-]?\d{2,4}){1,3}(?![\w\-/]|[.,]\d)",
        score=0.75,
        check=is_phone,
        cue="(",
        hits=("at {(03) 5327 5996}.", "{(91) 5676-6953}", "at {(37) 788-063},"),
        misses=("(12) items", "(2) 500"),
    ),
    rule(
        "phone_grouped",
        "PHONE",
        r"(?<![\w.,\-/:#])0\d{1,4}(?:(?:[ \-/]\d{2,4}){2,4}|[\-/ ]\d{6,8})(?![\w\-/]|[.,]\d)",
        score=0.75,
        check=is_phone,
        hits=("at {0660 565 36 45}.", "{041 541 67 61}", "on {06-65334860}"),
        misses=("01-02-2020", "0123-45"),
    ),
    rule(
        "phone_in_context",
        "PHONE",
        r"(?<![\w.,\-/:#])(?:\+?\d{1,5}(?:[ .\-]\d{2,4}){1,4}|\d{2,3} \d{5,8}|\d{9,11})(?![\w\-/]|[.,]\d)",
        score=0.3,
        check=lambda value: is_phone(value) or (sum(c.isdigit() for c in value) == 6 and " " in value),
        # "call" would never count: Presidio passes over what spaCy calls a stop word
        context=("phone", "answer", "reach", "ring", "dial", "tel", "mobile", "fax", "sms", "message", "contact"),
        hits=("at {9493 7477}.", "{33 93 31} or", "{20-32-85-26}"),
        misses=("in 2020", "12.50", "17.03.2020"),
    ),
    rule(
        "phone_local",
        "PHONE",
        r"(?<![\w.,\-/])(?:\(0\d{2,5}\) ?\d[\d \-]{3,9}\d|0\d(?: \d{2}){4}|0\d{1,5} \d{3,8}(?: \d{3,4})?"
        r"|0\d{9,10})(?![\w\-/]|[.,]\d)",
        score=0.8,
        check=is_phone,
        hits=("| {02 41 91 64 24}", "{(01312) 70466}.", "{01632 960 781}", "{020 7946 0029}", "{09762 33501}"),
        misses=("0,123456789", "Part 0123"),
    ),
)
