"""The demo corpus: a fictional company's documents, and the answer key that goes with them.

In: an empty folder, how many documents, a seed.
Out: small real files in nine formats that state invented facts, and a `Gold` that lists what was planted where.
Refuses: a folder that holds other files, because they would be read as part of the corpus.
Not here: file formats (`demo_files.py`), and running the demo (`cli.py`).

Nothing is real. Halden Marsh Group does not exist; mail domains end in `.example`; phone numbers come from the ranges
kept for drama; card numbers, IBANs and the rest are drawn, with valid check digits where such numbers have them.
Because everything is drawn, no model can know an answer beforehand: what it answers right, it has read.
Document `i` depends on the seed and on `i` alone, so the first 24 of 120 documents are the 24 of a smaller corpus.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Literal

from spice_enterprise.demo_files import Draft, FileFormat, Section, Table, render
from spice_enterprise.durable import write_file
from spice_enterprise.errors import SourceError
from spice_enterprise.records import canonical_json
from spice_enterprise.seeding import stream

DocumentKind = Literal["contract", "report", "policy", "letter", "email", "minutes", "price_list"]
ValueKind = Literal["amount", "code", "date", "duration", "name", "number", "percent"]

CANARY_EVERY: Final = 5
"""Every fifth document carries a canary: 24 of 120."""
PII_EVERY: Final = 3
"""Letters and mails always name people; of the other kinds every third document does, which makes half in all."""

# --- gold -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One invented fact. `value` stands verbatim in `sentence`; for a table row, `sentence` is its cells joined by ` | `."""

    sentence: str
    value: str
    kind: ValueKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedPii:
    """One fake personal value as it is written in the document."""

    entity: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldDocument:
    """What one file holds."""

    file: str
    kind: DocumentKind
    pii: tuple[PlantedPii, ...]
    canaries: tuple[str, ...] = field(repr=False)
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """The answer key of a demo corpus, in the order of its files."""

    documents: tuple[GoldDocument, ...]

    def write_gold(self, path: Path) -> None:
        """Write one JSON line per document. Keep it outside the corpus folder: it is the answers."""
        write_file(path, b"".join(canonical_json(document) + b"\n" for document in self.documents))


# --- invented values --------------------------------------------------------------------------------------------------

MONTHS: Final = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
GOODS: Final = (
    "flange", "hinge", "bracket", "coupling", "gasket", "spindle", "bearing", "pallet",
    "crate", "drum", "hose", "nozzle", "filter", "valve", "gauge", "winch",
)  # fmt: skip
GRADES: Final = ("plain", "heavy", "short", "double", "narrow", "ribbed", "hollow", "sealed", "angled", "slotted")
COLOURS: Final = (
    "ash grey", "signal orange", "slate blue", "moss green", "chalk white", "rust brown", "sand yellow", "plum red",
    "tar black", "pearl grey", "fern green", "copper red", "ink blue", "straw yellow", "stone grey", "brick red",
)  # fmt: skip
MATERIALS: Final = (
    "oiled larch", "cast zinc", "pressed cork", "woven basalt", "foamed glass", "tempered brass", "ribbed steel",
    "coated felt", "laminated birch", "sintered bronze", "waxed canvas", "moulded rubber", "fired clay", "spun nylon",
)  # fmt: skip
SITES: Final = (
    "mill lane", "north quay", "ferry road", "old brewery", "canal street", "east gate", "quarry hill", "lock basin",
    "station yard", "lower dock", "orchard way", "tannery row", "west pier", "foundry square", "river bend",
)  # fmt: skip
ROLES: Final = (
    "site manager", "head of purchasing", "works director", "stock controller", "quality officer", "fleet planner",
    "payroll clerk", "safety officer", "shift leader", "plant engineer", "finance director", "dispatch supervisor",
)  # fmt: skip
SUPPLIES: Final = (
    "first aid kits", "hearing protection", "torque wrenches", "label rolls", "pallet wrap", "spill kits", "fire blankets",
    "work gloves", "lifting straps", "sample jars", "absorbent mats", "cable drums", "tarpaulins", "wheel chocks",
)  # fmt: skip
WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


def _date(first: int, last: int) -> Callable[[Random], str]:
    return lambda rng: f"{rng.randrange(1, 29)} {rng.choice(MONTHS)} {rng.randrange(first, last + 1)}"


def _span(low: int, high: int, unit: str) -> Callable[[Random], str]:
    return lambda rng: f"{rng.randrange(low, high)} {unit}"


def _price(rng: Random) -> str:
    cents = rng.randrange(250, 95_000)
    return f"{cents // 100}.{cents % 100:02d} euros"


def _wage(rng: Random) -> str:
    return f"{rng.randrange(18, 96)}.{rng.randrange(0, 100, 5):02d} euros"


def _clock(rng: Random) -> str:
    return f"{rng.randrange(6, 19)}:{rng.randrange(0, 60, 5):02d}"


VALUES: Final[dict[str, tuple[ValueKind, Callable[[Random], str]]]] = {
    "line": ("number", lambda rng: f"line {rng.randrange(1, 60)}"),
    "article": ("code", lambda rng: f"{rng.choice('BCFGKLRTW')}{rng.choice('ADENOX')}-{rng.randrange(102, 998)}"),
    "clock": ("number", _clock),
    "code": ("code", lambda rng: f"HM-{rng.randrange(1012, 9987)}"),
    "colour": ("name", lambda rng: rng.choice(COLOURS)),
    "count": ("number", lambda rng: f"{rng.randrange(1_010, 9_990):,}"),
    "days": ("duration", _span(6, 95, "days")),
    "degrees": ("number", _span(-24, 68, "degrees")),
    "due": ("date", _date(2026, 2027)),
    "end": ("date", _date(2029, 2033)),
    "euros": ("amount", lambda rng: f"{rng.randrange(110, 4_990) * rng.choice((5, 10, 20, 40)):,} euros"),
    "good": ("name", lambda rng: f"{rng.choice(GRADES)} {rng.choice(GOODS)}"),
    "hours": ("duration", _span(3, 72, "hours")),
    "kilometres": ("number", _span(12, 940, "kilometres")),
    "kilos": ("number", _span(14, 985, "kilograms")),
    "litres": ("number", lambda rng: f"{rng.randrange(120, 9_900):,} litres"),
    "material": ("name", lambda rng: rng.choice(MATERIALS)),
    "minutes": ("duration", _span(7, 96, "minutes")),
    "months": ("duration", _span(3, 64, "months")),
    "past": ("date", _date(2023, 2025)),
    "rate": ("percent", lambda rng: f"{rng.randrange(11, 129) / 10:.1f} percent"),
    "percent": ("percent", lambda rng: f"{rng.randrange(11, 480) / 10:.1f} percent"),
    "price": ("amount", _price),
    "role": ("name", lambda rng: rng.choice(ROLES)),
    "site": ("name", lambda rng: rng.choice(SITES)),
    "small": ("number", lambda rng: str(rng.randrange(13, 99))),
    "start": ("date", _date(2025, 2027)),
    "supply": ("name", lambda rng: rng.choice(SUPPLIES)),
    "tonnes": ("number", lambda rng: f"{rng.randrange(130, 9_800):,} tonnes"),
    "wage": ("amount", _wage),
    "weekday": ("name", lambda rng: rng.choice(WEEKDAYS)),
    "weeks": ("duration", _span(3, 41, "weeks")),
    "years": ("duration", _span(2, 16, "years")),
}


# --- what the documents say -------------------------------------------------------------------------------------------
# A template holds one value in [brackets], the document's subject as {s}, and wordings to choose from as <one|another>.


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How a kind of document is written."""

    title: str
    opening: str
    subjects: tuple[str, ...]
    sections: tuple[tuple[str, tuple[str, ...]], ...]
    """A heading (empty in letters and mails) and its sentences."""
    pii: tuple[tuple[str, ...], ...]
    """Blocks of contact lines, taken in turn. Entities in {CAPITALS} are drawn; {NAME} repeats the last {PERSON}."""
    table: tuple[str, tuple[tuple[str, str], ...]] | None = None
    """Caption, and per column its header and value. The first column names the row."""
    sign_off: str = ""


TEMPLATES: Final[dict[DocumentKind, Template]] = {
    "contract": Template(
        title="{S}",
        opening="Halden Marsh Group and the contractor agree on the {s} as follows.",
        subjects=(
            "harbour dredging contract", "pallet hire agreement", "cold store lease", "lift maintenance contract",
            "solar roof contract", "scrap removal agreement", "forklift lease", "canteen catering contract",
            "crane inspection contract", "night security agreement", "effluent testing contract", "yard paving contract",
            "workwear laundry agreement", "boiler service contract", "road haulage agreement", "data cabling contract",
            "window cleaning agreement", "mould tooling contract", "rail siding lease", "pest control agreement",
        ),
        sections=(
            ("Term", (
                "The {s} <starts|takes effect|comes into force> on [start].",
                "The {s} <ends|expires|runs out> on [end].",
                "The notice period of the {s} is [days].",
                "Either side may <leave|cancel> the {s} for the first time after [months].",
                "<Without notice|If nobody objects>, the {s} is renewed for [years].",
                "The contract number of the {s} is [code].",
            )),
            ("Fees", (
                "The <monthly|quarterly|yearly> fee under the {s} <is|amounts to> [euros].",
                "Invoices under the {s} are <payable|due> within [days].",
                "Late payments under the {s} bear interest of [rate] a year.",
                "A deposit of [euros] secures the {s}.",
                "Fees of the {s} may rise by at most [rate] a year.",
                "Overtime under the {s} is charged at [wage] an hour.",
            )),
            ("Services", (
                "The contractor answers urgent calls under the {s} within [hours].",
                "The {s} <covers|includes> [count] working hours a year.",
                "The contractor keeps [small] technicians on standby for the {s}.",
                "Spare parts for the {s} are stored at the [site] depot.",
                "Covers supplied under the {s} are made of [material].",
                "Routine visits under the {s} take place every [weeks].",
            )),
            ("Liability", (
                "Liability under the {s} is <capped at|limited to> [euros].",
                "The warranty under the {s} lasts [months].",
                "Each day of delay under the {s} costs the contractor [euros].",
                "The [role] must sign every change to the {s}.",
                "Both sides keep the records of the {s} for [years].",
            )),
        ),
        pii=(
            ("Signed for the group by {PERSON}, tax ID {TAX_ID}.", "Payments go to IBAN {IBAN}.", "Notices: {EMAIL}."),
            ("Contractor's agent: {PERSON}, {ADDRESS}.", "Bank account {BANK_ACCOUNT}, customer ID {CUSTOMER_ID}."),
        ),
    ),
    "report": Template(
        title="Report on the {s}",
        opening="This report sums up the last quarter of the {s} for the works council.",
        subjects=(
            "north kiln hall", "packing line", "paint shop", "central warehouse", "rolling mill", "glass furnace",
            "bottling plant", "sawmill", "resin reactor", "test laboratory", "grain terminal", "sorting depot",
            "foundry", "tyre workshop", "cold store", "paper mill", "gas depot", "biogas plant", "tank farm", "print shop",
        ),
        sections=(
            ("Output", (
                "The {s} <produced|handled|turned out> [tonnes] in the quarter.",
                "Output of the {s} <rose|grew> by [rate] against the year before.",
                "The {s} <worked|ran> for [days] without a stop.",
                "The {s} rejected [rate] of its goods.",
                "The {s} <delivered|shipped> [count] units to customers.",
                "The best-selling article of the {s} was the [good].",
            )),
            ("Costs", (
                "Energy for the {s} cost [euros].",
                "The {s} spent [euros] on repairs.",
                "Overheads of the {s} <fell|shrank> by [rate].",
                "The {s} used [litres] of fuel.",
                "A new motor for the {s} will cost [euros].",
                "One hour of standstill at the {s} costs [price].",
            )),
            ("Stock and safety", (
                "The {s} <stores|holds> [count] pallets.",
                "The temperature in the {s} is kept at [degrees].",
                "The last accident at the {s} was on [past].",
                "The next inspection of the {s} is <planned for|set for> [due].",
                "The floor of the {s} is painted [colour].",
                "The walls of the {s} are lined with [material].",
                "An alarm at the {s} reaches the fire crew in [minutes].",
            )),
        ),
        table=(
            "Figures by line",
            (("Line", "line"), ("Output", "tonnes"), ("Scrap", "rate"), ("Downtime", "minutes"), ("Repairs", "euros")),
        ),
        pii=(
            ("Prepared by {PERSON}, employee ID {EMPLOYEE_ID}.", "Questions: {EMAIL}, phone {PHONE}."),
            ("Site vehicle {VEHICLE_ID}, driver {PERSON}.", "Data logger: IP {IP_ADDRESS}, MAC {MAC_ADDRESS}."),
        ),
    ),
    "policy": Template(
        title="{S}",
        opening="The {s} applies to all staff of the group from the date given below.",
        subjects=(
            "travel expense policy", "visitor policy", "password policy", "fleet policy", "remote work policy",
            "clean desk policy", "overtime policy", "gift policy", "waste policy", "training policy", "key card policy",
            "drone policy", "first aid policy", "archive policy", "noise policy",
        ),
        sections=(
            ("Scope", (
                "The {s} <applies|is valid> from [start].",
                "The {s} replaces the version of [past].",
                "The reference of the {s} is [code].",
                "The [role] <owns|is responsible for> the {s}.",
                "The {s} is reviewed every [months].",
                "The {s} covers [count] employees.",
            )),
            ("Limits", (
                "The {s} <allows|permits> spending of up to [euros] without approval.",
                "Claims under the {s} must be filed within [days].",
                "The daily rate under the {s} is [price].",
                "Trips of more than [kilometres] need approval under the {s}.",
                "The {s} sets aside [percent] of the budget for emergencies.",
                "Requests under the {s} are answered within [hours].",
            )),
            ("Duties", (
                "Training on the {s} <takes|lasts> [minutes].",
                "Records under the {s} are deleted after [years].",
                "Badges issued under the {s} are [colour].",
                "Under the {s}, every site keeps [supply] in stock.",
                "A first breach of the {s} leads to a suspension of [weeks].",
                "Reports under the {s} are collected every [weekday].",
                "The register of the {s} is kept at the [site] office.",
            )),
        ),
        pii=(
            ("Policy owner: {PERSON}, {EMAIL}.", "Report breaches by phone to {PHONE}."),
            ("Contact: {PERSON}, employee ID {EMPLOYEE_ID}.", "Audit login: user name {USERNAME}, password {PASSWORD}."),
        ),
    ),
    "letter": Template(
        title="{S}",
        opening="Dear {PERSON},",
        subjects=(
            "relocation offer", "flood damage claim", "secondment to the coast", "apprenticeship offer", "warranty claim",
            "retirement plan", "crane repair quote", "parental leave request", "storage tender", "boat charter booking",
            "pump recall", "study grant", "tool loan", "roof survey", "company housing offer",
        ),
        sections=(
            ("", (
                "We <received|registered> your papers on the {s} on [past].",
                "The file number of the {s} is [code].",
                "The {s} is <worth|valued at> [euros].",
                "Our [role] <decides on|handles> the {s}.",
                "We <will answer|expect to settle> the {s} within [days].",
                "The {s} remains open until [due].",
            )),
            ("", (
                "The work on the {s} will <take|last> [weeks].",
                "An advance of [euros] on the {s} has been paid.",
                "Your own share of the {s} is [percent].",
                "The {s} <involves|concerns> the [site] site.",
                "Travel for the {s} is refunded up to [kilometres] a month.",
                "The {s} is based on a weekly load of [hours].",
                "The parcel for the {s} weighs [kilos].",
            )),
            ("", (
                "Please <return|send back> the signed form for the {s} by [due].",
                "The meeting on the {s} <begins|starts> at [clock].",
                "The {s} binds both sides for [months].",
                "We have <enclosed|attached> [small] pages on the {s}.",
                "The equipment for the {s} is [colour].",
                "Goods for the {s} are packed in [material].",
            )),
        ),
        pii=(
            ("Recipient: {NAME}, {ADDRESS}.", "Date of birth: {DATE_OF_BIRTH}.", "Social security number: {US_SSN}."),
            ("Traveller: {NAME}, passport no. {PASSPORT}.", "Corporate card: {CREDIT_CARD}.", "Customer ID: {CUSTOMER_ID}."),
            ("Employee ID: {EMPLOYEE_ID}.", "Salary account: IBAN {IBAN}.", "Company car: {VEHICLE_ID}.", "Phone: {PHONE}."),
        ),
        sign_off="Yours sincerely, {PERSON}",
    ),
    "email": Template(
        title="{S}",
        opening="Hello all,",
        subjects=(
            "badge printer swap", "scanner rollout", "server move", "mail archive upgrade", "label printer outage",
            "till software test", "radio network survey", "backup tape rotation", "stock system migration",
            "door lock update", "time clock repair", "camera upgrade", "payroll interface", "weighbridge software",
            "tablet order",
        ),
        sections=(
            ("", (
                "The {s} <starts|begins> at [clock] <sharp|local time>.",
                "The ticket number of the {s} is [code].",
                "The {s} is <planned|booked> for [due].",
                "The {s} will <take|need> [hours].",
                "Our [role] <signs off|approves> the {s}.",
                "The {s} was first requested on [past].",
            )),
            ("", (
                "The {s} <affects|touches> [count] accounts.",
                "The budget for the {s} is [euros].",
                "So far the {s} is [percent] complete.",
                "During the {s} the system is down for [minutes].",
                "The {s} needs [small] new devices.",
                "Each device of the {s} costs [price].",
            )),
            ("", (
                "Boxes for the {s} are stacked at the [site] entrance.",
                "Please hand in old parts of the {s} by [weekday].",
                "Cables for the {s} are [colour].",
                "The supplier of the {s} grants a warranty of [months].",
                "Logs of the {s} are kept for [days].",
                "We also <ordered|picked up> [supply] for the {s}.",
            )),
        ),
        pii=(
            ("User name: {USERNAME}", "First password: {PASSWORD}", "Device: IP {IP_ADDRESS}, MAC {MAC_ADDRESS}"),
            ("API key of the test system: {API_KEY}", "Test host: {IP_ADDRESS}", "Call me on {PHONE}."),
            ("Please charge card {CREDIT_CARD}.", "Ship to {ADDRESS}.", "Bank account for refunds: {BANK_ACCOUNT}"),
        ),
        sign_off="Kind regards, {NAME}",
    ),
    "minutes": Template(
        title="Minutes of the {s}",
        opening="The {s} met in the usual room and agreed on the points below.",
        subjects=(
            "fire safety committee", "works council", "product board", "canteen committee", "energy circle", "site forum",
            "quality circle", "tender board", "export group", "training board", "harbour committee", "noise working group",
            "pension committee", "recycling circle", "shift planning group",
        ),
        sections=(
            ("Facts", (
                "The {s} met on [past].",
                "The {s} <opened|began> its meeting at [clock].",
                "The meeting of the {s} lasted [minutes].",
                "The {s} <has|counts> [small] members.",
                "The {s} is chaired by the [role].",
                "The {s} filed its papers under number [code].",
            )),
            ("Decisions", (
                "The {s} <approved|released> [euros] for new equipment.",
                "The {s} <ordered|decided to buy> [supply].",
                "The {s} chose [colour] for the new signs.",
                "The {s} <wants|demands> a test phase of [weeks].",
                "The {s} moved the archive to the [site] building.",
                "The {s} <raised|lifted> the limit to [tonnes].",
                "The {s} backed the plan with [percent] of the votes.",
            )),
            ("Outlook", (
                "The {s} meets again on [due].",
                "The {s} expects savings of [euros].",
                "The {s} asked for bids within [days].",
                "The trial run of the {s} covers [kilometres].",
                "New benches for the {s} will be made of [material].",
                "The mandate of the {s} ends on [end].",
            )),
        ),
        table=("Open actions", (("Action", "article"), ("Owner", "role"), ("Due", "due"), ("Budget", "euros"))),
        pii=(
            ("Present: {PERSON}, {PERSON} and {PERSON}.", "Minutes taken by {PERSON}, {EMAIL}."),
            ("Chair: {PERSON}, employee ID {EMPLOYEE_ID}.", "Guest: {PERSON}, phone {PHONE}."),
        ),
    ),
    "price_list": Template(
        title="{S}",
        opening="Prices in the {s} are net and leave out freight.",
        subjects=(
            "fastener price list", "pallet price list", "coatings price list", "pump price list", "hose price list",
            "packaging price list", "lighting price list", "flooring price list", "gasket price list", "timber price list",
            "insulation price list", "battery price list", "signage price list", "rope price list", "glazing price list",
            "bearing price list", "filter price list", "fencing price list", "solvent price list", "workwear price list",
        ),
        sections=(
            ("Validity", (
                "The {s} <is valid|holds> from [start].",
                "The {s} <runs out|ends> on [end].",
                "The {s} carries the number [code].",
                "The [role] may grant exceptions from the {s}.",
                "Prices in the {s} <went up|rose> by [rate].",
            )),
            ("Terms", (
                "The smallest order under the {s} is [euros].",
                "Orders above [euros] under the {s} ship free.",
                "The {s} grants [rate] off for early payment.",
                "Bills under the {s} are due within [days].",
                "Express delivery under the {s} costs [price].",
                "Returns under the {s} are accepted for [weeks].",
            )),
            ("Delivery", (
                "Goods of the {s} leave from the [site] depot.",
                "Goods of the {s} are <wrapped|packed> in [material].",
                "Cartons of the {s} are [colour].",
                "A full load of the {s} weighs [kilos].",
                "Orders of the {s} leave the yard every [weekday].",
                "Freight is free within [kilometres] for the {s}.",
            )),
        ),
        table=(
            "Articles",
            (("Article", "article"), ("Name", "good"), ("Colour", "colour"), ("Unit price", "price"), ("Lead time", "days")),
        ),
        pii=(
            ("Orders: {PERSON}, {EMAIL}, {PHONE}.", "Customer ID {CUSTOMER_ID}, tax ID {TAX_ID}."),
            ("Pay to IBAN {IBAN}.", "Collection by lorry {VEHICLE_ID}, driver {PERSON}."),
        ),
    ),
}  # fmt: skip

CYCLE: Final[tuple[tuple[DocumentKind, FileFormat], ...]] = (
    ("contract", "pdf"), ("email", "eml"), ("price_list", "xlsx"), ("minutes", "md"), ("letter", "docx"),
    ("report", "html"), ("price_list", "csv"), ("policy", "docx"), ("contract", "txt"), ("report", "pptx"),
    ("letter", "pdf"), ("email", "eml"), ("policy", "html"), ("report", "pdf"), ("contract", "docx"),
    ("minutes", "txt"), ("price_list", "csv"), ("policy", "md"), ("report", "xlsx"), ("letter", "txt"),
    ("contract", "html"), ("email", "eml"), ("minutes", "pptx"), ("price_list", "pdf"),
)  # fmt: skip
"""Kind and format of document `i`, modulo 24: all kinds and formats in every 24, in nearly equal shares."""

# --- fake personal data -----------------------------------------------------------------------------------------------

FIRST_NAMES: Final = (
    "Helen", "Marcus", "Priya", "Tomas", "Ingrid", "Samuel", "Nadia", "Oliver",
    "Carla", "Edwin", "Fatima", "Gareth", "Hanna", "Ivan", "Julia", "Kenneth",
    "Laura", "Martin", "Nora", "Peter", "Rosa", "Stefan", "Teresa", "Victor",
)  # fmt: skip
LAST_NAMES: Final = (
    "Thornbury", "Ellingham", "Castellow", "Brandvik", "Marlowe", "Okonedo", "Petterson", "Quillfeather",
    "Ravenscar", "Sandoval", "Tredwell", "Underhay", "Vasquez", "Whitlock", "Yardley", "Ashcombe",
    "Birkenshaw", "Corrigan", "Dunmore", "Everard", "Falkner", "Greaves", "Holloway", "Jessop",
)  # fmt: skip
STREETS: Final = ("Candle Row", "Hobart Lane", "Linden Street", "Weaver Close", "Sluice Road", "Market Hill", "Tollgate Avenue")
TOWNS: Final = ("Ostmere", "Fernhollow", "Kelbrook", "Marsh Haven", "Thorley Cross", "Wexbridge", "Dunford")
PHONE_RANGES: Final = ("+44 20 7946 0{:03d}", "+44 161 496 0{:03d}", "+44 113 496 0{:03d}", "+44 121 496 0{:03d}")
"""The regulator keeps these numbers for radio and television plays."""


def _digits(rng: Random, count: int) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(count))


def _hex(rng: Random, count: int) -> str:
    return "".join(rng.choice("0123456789abcdef") for _ in range(count))


def _letters(rng: Random, count: int) -> str:
    return "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(count))


def _iban(rng: Random) -> str:
    """A German IBAN with valid check digits (ISO 13616) at a bank that does not exist."""
    account = f"9000{_digits(rng, 14)}"
    return f"DE{98 - int(account + '131400') % 97:02d}{account}"


def _card(rng: Random) -> str:
    """Sixteen digits with a valid Luhn digit, in groups of four."""
    stem = f"400000{_digits(rng, 9)}"
    doubled = [int(d) * 2 if i % 2 == 0 else int(d) for i, d in enumerate(stem)]
    number = f"{stem}{-sum(d - 9 if d > 9 else d for d in doubled) % 10}"
    return " ".join(number[i : i + 4] for i in range(0, 16, 4))


def _phone(rng: Random) -> str:
    return rng.choice(PHONE_RANGES).format(rng.randrange(1000))


def _address(rng: Random) -> str:
    postcode = f"QX{rng.randrange(1, 10)} {rng.randrange(1, 10)}{_letters(rng, 2)}"
    return f"{rng.randrange(2, 190)} {rng.choice(STREETS)}, {rng.choice(TOWNS)} {postcode}"


def _social_security(rng: Random) -> str:
    # areas above 772 were not in use before 2011, so no adult was given one
    return f"{rng.randrange(780, 899)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"


def _password(rng: Random) -> str:
    return f"{rng.choice(LAST_NAMES)[:5]}!{rng.randrange(1000, 9999)}-{rng.choice(GRADES)}"


PII_VALUES: Final[dict[str, Callable[[Random], str]]] = {
    "PERSON": lambda rng: f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
    "PHONE": _phone,
    "ADDRESS": _address,
    "IBAN": _iban,
    "CREDIT_CARD": _card,
    "US_SSN": _social_security,
    "PASSPORT": lambda rng: f"{_letters(rng, 1)}{_digits(rng, 8)}",
    "EMPLOYEE_ID": lambda rng: f"EMP-{rng.randrange(20_000, 89_999)}",
    "CUSTOMER_ID": lambda rng: f"CUST-{rng.randrange(200_000, 899_999)}",
    "TAX_ID": lambda rng: f"DE{rng.randrange(300_000_000, 399_999_999)}",
    "DATE_OF_BIRTH": _date(1962, 2003),
    "IP_ADDRESS": lambda rng: f"203.0.113.{rng.randrange(2, 254)}",
    "MAC_ADDRESS": lambda rng: ":".join(["02", *(_hex(rng, 2) for _ in range(5))]),
    "PASSWORD": _password,
    "API_KEY": lambda rng: f"hmk_test_{_hex(rng, 32)}",
    "VEHICLE_ID": lambda rng: f"ZQ{rng.randrange(51, 75)} {_letters(rng, 3)}",
    "BANK_ACCOUNT": lambda rng: f"00{_digits(rng, 8)}",
}


class _Planter:
    """Fills contact lines of one document and notes what it planted."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.person = ""
        self.planted: list[PlantedPii] = []

    def line(self, template: str) -> str:
        """Return `template` with its entities filled in."""
        return re.sub(r"\{([A-Z_]+)\}", lambda match: self._plant(match[1]), template)

    def _plant(self, entity: str) -> str:
        if entity == "PERSON":
            self.person = PII_VALUES["PERSON"](self._rng)
        first, _, last = self.person.lower().partition(" ")
        of_person = {
            "PERSON": self.person,
            "NAME": self.person,
            "EMAIL": f"{first}.{last}@halden-marsh.example",
            "USERNAME": f"{first[:1]}{last}{self._rng.randrange(10, 99)}",
        }
        value = of_person[entity] if entity in of_person else PII_VALUES[entity](self._rng)
        self.planted.append(PlantedPii(entity="PERSON" if entity == "NAME" else entity, value=value))
        return value


# --- one document -----------------------------------------------------------------------------------------------------


class _Facts:
    """Draws the facts of one document; no value stands in it twice."""

    def __init__(self, rng: Random, subject: str) -> None:
        self._rng = rng
        self._subject = subject
        self._taken: set[str] = set()
        self.drawn: list[Fact] = []

    def value(self, name: str) -> str:
        """Return a new value of the kind `name`."""
        make = VALUES[name][1]
        value = next(v for _ in range(1_000) if (v := make(self._rng)) not in self._taken)
        self._taken.add(value)
        return value

    def sentence(self, template: str) -> str:
        """Return `template` worded and filled in, and note its fact."""
        worded = re.sub(r"<([^>]+)>", lambda match: self._rng.choice(match[1].split("|")), template)
        name = worded[worded.index("[") + 1 : worded.index("]")]
        value = self.value(name)
        sentence = worded.replace(f"[{name}]", value).replace("{s}", self._subject)
        self.drawn.append(Fact(sentence=sentence, value=value, kind=VALUES[name][0]))
        return sentence

    def section(self, heading: str, templates: tuple[str, ...], count: int) -> Section:
        """Return a section of `count` sentences in the order of the templates."""
        chosen = sorted(self._rng.sample(range(len(templates)), min(count, len(templates))))
        return Section(heading=heading, sentences=tuple(self.sentence(templates[i]) for i in chosen))

    def table(self, caption: str, columns: tuple[tuple[str, str], ...], count: int) -> Table:
        """Return a table of `count` rows and note one fact per row, each time of another column."""
        rows = [tuple(self.value(name) for _, name in columns) for _ in range(count)]
        for index, row in enumerate(rows):
            column = 1 + index % (len(columns) - 1)
            kind = VALUES[columns[column][1]][0]
            self.drawn.append(Fact(sentence=" | ".join(row), value=row[column], kind=kind))
        return Table(caption=caption, header=tuple(header for header, _ in columns), rows=tuple(rows))


def _kind_and_format(index: int) -> tuple[DocumentKind, FileFormat]:
    return CYCLE[index % len(CYCLE)]


def _ordinal(index: int) -> int:
    """How many documents of the same kind come before document `index`."""
    kind = _kind_and_format(index)[0]
    return sum(_kind_and_format(i)[0] == kind for i in range(index))


def _subject(template: Template, ordinal: int) -> str:
    """The n-th document's subject; when all are used up, the same again with a lot number."""
    lot, position = divmod(ordinal, len(template.subjects))
    return template.subjects[position] + (f" for lot {lot + 1}" if lot else "")


def _names_people(index: int, template: Template) -> bool:
    return bool(template.sign_off) or (index + index // len(CYCLE)) % PII_EVERY == 0


def _sections_and_table(template: Template, facts: _Facts, rng: Random) -> tuple[tuple[Section, ...], Table | None]:
    """Eight or nine sentences beside a table, eleven to thirteen without: eight to fourteen facts in all."""
    wanted = rng.randrange(8, 10) if template.table else rng.randrange(11, 14)
    share, rest = divmod(wanted, len(template.sections))
    sections = tuple(
        facts.section(heading, sentences, share + (number < rest))
        for number, (heading, sentences) in enumerate(template.sections)
    )
    return sections, facts.table(*template.table, rng.randrange(4, 6)) if template.table else None


def _document(index: int, seed: int) -> tuple[Draft, FileFormat, GoldDocument]:
    """Return document `index` as a draft, its format, and what was planted in it."""
    rng = stream(seed, "demo", index)
    kind, file_format = _kind_and_format(index)
    template, ordinal = TEMPLATES[kind], _ordinal(index)
    subject = _subject(template, ordinal)
    facts, planter = _Facts(rng, subject), _Planter(rng)
    sections, table = _sections_and_table(template, facts, rng)
    recipient, sender = (planter.line("{PERSON} <{EMAIL}>"), planter.line("{PERSON} <{EMAIL}>")) if kind == "email" else ("", "")
    opening = planter.line(template.opening.replace("{s}", subject))
    canaries = (f"CANARY-{_hex(rng, 16)}",) if index % CANARY_EVERY == 0 else ()
    contacts = template.pii[ordinal % len(template.pii)] if _names_people(index, template) else ()
    closing = [planter.line(line) for line in (*contacts, template.sign_off) if line]
    name = f"{index + 1:03d}-{kind.replace('_', '-')}-{subject.replace(' ', '-')}"
    draft = Draft(
        name=name,
        title=template.title.replace("{s}", subject).replace("{S}", subject[0].upper() + subject[1:]),
        opening=(opening,),
        sections=sections,
        table=table,
        closing=(*closing, *(f"Reference of this copy: {canary}." for canary in canaries)),
        sender=sender,
        recipient=recipient,
    )
    planted = tuple(dict.fromkeys(planter.planted))
    gold = GoldDocument(file=f"{name}.{file_format}", kind=kind, pii=planted, canaries=canaries, facts=tuple(facts.drawn))
    return draft, file_format, gold


# --- the corpus -------------------------------------------------------------------------------------------------------


def write_corpus(folder: Path, *, documents: int = 120, seed: int = 7) -> Gold:
    """Write `documents` files into `folder`, made if missing, and return what was planted. Same arguments, same bytes.

    Raises `SourceError` when the folder holds anything else, `MissingExtraError` without the `demo` extra.
    """
    made = [_document(index, seed) for index in range(documents)]
    _refuse_strangers(folder, {gold.file for _, _, gold in made})
    for draft, file_format, gold in made:
        write_file(folder / gold.file, render(draft, file_format))
    return Gold(documents=tuple(gold for _, _, gold in made))


def _refuse_strangers(folder: Path, expected: set[str]) -> None:
    strangers = {path.name for path in folder.iterdir()} - expected if folder.exists() else set()
    if strangers:
        raise SourceError(
            f"{folder}: holds {len(strangers)} other file(s)",
            code="E_NOT_EMPTY",
            hint="give an empty folder for the demo corpus",
        )


def demo_settings(corpus: Path) -> dict[str, object]:
    """Return the demo's settings for `config.build_config`: small enough for two CPU cores."""
    return {
        "name": "demo",
        "corpus": str(corpus),
        "ingest": {"chunk_tokens": 96, "min_chunk_tokens": 16},
        "warmup": "format",
        "warmup_training": {"steps": 5, "examples_per_step": 12, "learning_rate": 5e-4},
        "selfplay": {
            "steps": 4,
            "chunks_per_step": 2,
            "challenger_group": 8,
            "reasoner_group": 8,
            "max_tasks": 2,
            "max_rounds": 2,
            "refill_rounds": 0,
            "distractor_passages": 1,
            "challenger_tokens": 32,
            "reasoner_tokens": 12,
            "formats": "free_form",
            "temperature": 0.7,
        },
        "training": {"lora_rank": 16, "lora_alpha": 32, "learning_rate": 5e-4, "warmup_steps": 0, "grad_clip": 1.0},
        "exam": {"answer_tokens": 12, "questions_per_document": 3},
    }
