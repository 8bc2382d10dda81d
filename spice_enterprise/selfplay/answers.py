r"""Extract a short answer from model text and grade it against the reference.

In: what a model wrote, and a task.
Out: the answer text (`extract_answer`) and a verdict by answer kind (`KindVerifier`).
Refuses: nothing loudly. Whatever cannot be read is wrong, and an empty answer is never right.
Not here: symbolic mathematics (`expressions.py`), time limits (`grading.py`), and judging by a model.

An answer must *be* the value, not a sentence around it: "45 days" is right for "45", "It is 45 days" is not.

choice      the letter, or the option word for word: "A. Smith" is the option of that name, if there is one
number      in digits or as a word, with or without its unit, but not with another one; numbers of at most two decimals agree
            exactly, others to one part in a million. A reference with few digits is not a rough one: 2.49 is not 2.5. What may
            follow on one side is what it is counted by: "30 days after the notice" is right for "30 days"
date        the same day, unless it can be read in two ways
boolean     yes and true, no and false
list        the same set: order and repetition do not matter; `;`, a comma, "and" or a new line separates. A comma between a
            digit and three digits belongs to a number, and where there is a `;`, every comma belongs to its item
expression  the same by mathematics
text        the same words, without case, articles and punctuation, but with signs that change what is said: `>5`, `-3`, `C++`,
            `C#`, `BBB-`

All but expressions are one pass over at most `MAX_CHARS` characters, so hostile output cannot make grading slow.
"""

import re
import unicodedata
from datetime import date
from fractions import Fraction
from typing import Final, NamedTuple

from spice_enterprise.records import AnswerKind, Task
from spice_enterprise.selfplay import expressions

MAX_CHARS: Final = 4_000
MAX_OUTPUT_CHARS: Final = 65_536
"""How far from its end a model's text is searched for an answer."""
MAX_DIGITS: Final = 40
MAX_ITEMS: Final = 64
TOLERANCE: Final = Fraction(1, 10**6)
"""Relative, between numbers of which one has more than two decimals."""

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_QUOTES: Final = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb*_"
_ARTICLES: Final = frozenset({"a", "an", "the"})
_CURRENCIES: Final = {
    "€": "eur", "eur": "eur", "euro": "eur", "$": "usd", "us$": "usd", "usd": "usd", "dollar": "usd",
    "£": "gbp", "gbp": "gbp", "chf": "chf", "¥": "jpy", "jpy": "jpy", "yen": "jpy",
}  # fmt: skip
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_NUMBER_WORDS: Final = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_BOOLEANS: Final = {"yes": True, "true": True, "no": False, "false": False}
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH: Final = r"(?P<month>jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]{0,6}\.?"

_FRACTION_MACRO: Final = re.compile(r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}")
_LETTER: Final = re.compile(r"\(?([A-Za-z])(?:[).:](?:\s.*)?)?", re.DOTALL)
_BARE_LETTER: Final = re.compile(r"\(?([A-Za-z])[).:]?")
_NUMBER: Final = re.compile(
    r"(?P<before>[€$£¥]|us\$|(?:eur|usd|gbp|chf|jpy)\b)?\s?(?P<sign>[-+−]?)\s?"
    r"(?P<digits>\d[\d.,'\u2019\u00a0\u202f ]*\d|\d|\.\d+)"
    r"(?:\s?/\s?(?P<below>\d{1,40}))?\s?(?P<after>[^\d]{0,40})"
)
_POWER: Final = re.compile(r"(?P<sign>e|\s?(?:[x×*]|\\times|\\cdot)\s?10\s?\^\s?\{?)(?P<exponent>[+\-−]?\d{1,2})(?!\d)\}?")
_BRACKETS: Final = re.compile(r"^(?:\\?\{|[\[(])|(?:\\?\}|[\])])$")
_LIST_SEPARATOR: Final = re.compile(r",? and |,(?!(?<=\d,)\d{3}(?!\d))")
_NUMBER_WORD: Final = re.compile(
    r"(?:(?P<tens>[A-Za-z]{5,7})-)?(?P<word>[A-Za-z]{3,9})(?P<digits>\s?\(\d{1,40}\))?(?P<unit>(?:\s[a-z][a-z -]{0,40})?)"
)
"""Words of a unit are in small letters: "Three Rivers" is a name."""
_TAIL: Final = re.compile(
    r"(?P<head>[^ ]+(?: [^ ]+){0,3}?) (?:of|per|in|on|at|for|from|to|by|before|after|following|prior to|during|since|until"
    r"|upon|under|with|between|among) (?P<rest>[^\d]+)"
)
_DAY_MONTH: Final = re.compile(rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?(?:\s+of)?\s+{_MONTH},?\s+(?P<year>\d{{4}})")
_MONTH_DAY: Final = re.compile(rf"{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}})")
_SIGN: Final = re.compile(r"<=|>=|[<>≤≥]|(?<![\w-])[-−](?=\.?\d)|(?<=\w)(?:\+\+|[+#]|-(?![\w-]))")
_SIGN_WORDS: Final = {
    "<": "less than", ">": "greater than", "<=": "at most", "≤": "at most", ">=": "at least", "≥": "at least",
    "-": "minus", "−": "minus", "+": "plus", "++": "plus plus", "#": "sharp",
}  # fmt: skip
_ISO: Final = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_NUMERIC_DATE: Final = re.compile(r"(\d{1,2})[./-](\d{1,2})[./-](\d{4})")


class Quantity(NamedTuple):
    """A number and its unit in one spelling (`""` when none was given)."""

    value: Fraction
    unit: str


def last_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` whose braces balance, or None."""
    open_at: list[int] = []
    found: tuple[int, int] | None = None
    for match in re.finditer(r"\\boxed\s?\{|\\.|[{}]", text, re.DOTALL):
        brace = match.group()
        if brace == "}" and open_at:
            start = open_at.pop()
            if start >= 0 and (found is None or start > found[0]):
                found = (start, match.start())
        elif brace.endswith("{") and brace != "\\{":
            open_at.append(match.end() if brace != "{" else -1)
    return text[slice(*found)] if found else None


def extract_answer(text: str, kind: AnswerKind) -> str:
    r"""Return the answer in model output: the last `\boxed{}`, else the first line after the last "Answer:", else the first line.

    Quotes and a final full stop are stripped, and for `choice` what stands around a bare letter. What follows a letter stays:
    only the options tell whether "A. Smith" is one of them.
    """
    end = text[-MAX_OUTPUT_CHARS:]
    answer = last_box(end)
    if answer is None:
        tail = end[match.end() :] if (match := _last_marker(end)) else text[:MAX_CHARS]
        answer = next((line for line in tail.splitlines() if line.strip()), "")
    answer = _unwrapped(answer, kind)
    return _bare_letter(answer) or answer if kind == "choice" else answer


def _last_marker(text: str) -> re.Match[str] | None:
    matches = list(re.finditer(r"\banswer\s?(?:is\s?)?:", text, re.IGNORECASE))
    return matches[-1] if matches else None


def _unwrapped(text: str, kind: AnswerKind) -> str:
    if kind != "expression":
        return strip_wrapping(text[:MAX_CHARS])
    return text[:MAX_CHARS].strip(' \t\r\n"`').rstrip(".")  # a prime, a star and a dollar sign are mathematics


def strip_wrapping(text: str) -> str:
    r"""Drop LaTeX wrappers, surrounding quotes and a final full stop."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s?\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[()\[\],;! ]|(?<!\w)\$(?=[^$\d])|\$$", " ", text)
    return text.strip().strip(_QUOTES).strip().rstrip(".").rstrip().strip(_QUOTES).strip()


def letter_of(text: str) -> str:
    """Return the option letter of "B", "(B)", "b." or "B) 45 days"; `""` for anything else, such as "Boron"."""
    match = _LETTER.fullmatch(text.strip())
    return match.group(1).upper() if match else ""


def _bare_letter(text: str) -> str:
    match = _BARE_LETTER.fullmatch(text.strip())
    return match.group(1).upper() if match else ""


def normalise(text: str) -> str:
    """Return `text` without case, articles, punctuation and extra whitespace; what is only those stays as it is."""
    folded = unicodedata.normalize("NFKC", text[:MAX_CHARS]).casefold()
    words = "".join(c if c.isalnum() else "" if c in "'\u2019" else " " for c in folded).split()
    kept = [word for word in words if word not in _ARTICLES]
    return " ".join(kept) or " ".join(folded.split())


def as_text(text: str) -> str:
    """Return what text answers are compared by: `normalise`, with every sign that changes what is said as a word."""
    folded = unicodedata.normalize("NFKC", text[:MAX_CHARS])
    return normalise(_SIGN.sub(lambda match: f" {_SIGN_WORDS[match.group()]} ", folded))


def read_number(text: str) -> Quantity | None:
    r"""Read one number: separators, currency, unit, percent, `1/2`, `\frac{1}{2}`, `1.5e-3`; None when it is not just that."""
    plain = _FRACTION_MACRO.sub(r"\1/\2", text[:MAX_CHARS]).replace("\\%", "%").replace("\\$", "$")
    plain, exponent = _split_power(_in_digits(plain.strip()).casefold())
    match = _NUMBER.fullmatch(plain)
    if match is None:
        return None
    value = _decimal(match["digits"])
    unit, scale = _unit(match["before"] or "", match["after"])
    if value is None or unit is None or (match["below"] and int(match["below"]) == 0):
        return None
    value = value * scale * Fraction(10) ** exponent / int(match["below"] or 1)
    return Quantity(-value if match["sign"] in ("-", "−") and match["sign"] else value, unit)


def _in_digits(text: str) -> str:
    """Return "thirty days", "thirty (30) days" and "twenty-five" with their number in digits; anything else as it is."""
    match = _NUMBER_WORD.fullmatch(text)
    if match is None:
        return text
    value = _NUMBER_WORDS.get(match["word"].lower())
    tens = _NUMBER_WORDS.get(match["tens"].lower()) if match["tens"] else 0
    if value is None or tens is None or (tens and not (tens >= 20 and value < 10)):
        return text
    said = (match["digits"] or "").strip(" ()")
    return f"{tens + value}{match['unit']}" if said in ("", str(tens + value)) else text


def _split_power(text: str) -> tuple[str, int]:
    """Return the text without its power of ten, and the exponent. "12E4" stays: it is an identifier."""
    match = _POWER.search(text)
    head = text[: match.start()] if match else ""
    if match is None or not head[-1:].isdigit() or (match["sign"] == "e" and "." not in head and match["exponent"][0].isdigit()):
        return text, 0
    return head + text[match.end() :], int(match["exponent"].replace("−", "-"))


def _decimal(digits: str) -> Fraction | None:
    """Read "12,480.50", "12.480,50", "12 480" or "0.5"; a lone separator before three digits is a thousands comma."""
    digits = re.sub(r"(?<=\d)['\u2019\u00a0\u202f ](?=\d{3}(?:\D|$))", "", digits)
    if len(digits) > MAX_DIGITS or re.search(r"[^\d.,]", digits):
        return None
    if "," in digits and "." in digits:
        thousands, point = (",", ".") if digits.rfind(".") > digits.rfind(",") else (".", ",")
        digits = digits.replace(thousands, "").replace(point, ".")
    elif digits.count(".") > 1:
        digits = digits.replace(".", "") if re.fullmatch(r"\d{1,3}(?:\.\d{3})+", digits) else digits
    elif "," in digits:
        digits = digits.replace(",", "" if re.fullmatch(r"\d{1,3}(?:,\d{3})+", digits) else ".")
    return Fraction(digits) if re.fullmatch(r"\d*\.?\d+", digits) else None


def _unit(before: str, after: str) -> tuple[str | None, int]:
    """Return (unit, scale); unit None when the words around the number are no unit."""
    words = [word.strip(".,;") for word in after.split()]
    scale = 1
    if words and words[0] in _SCALES:
        scale = _SCALES[words.pop(0)]
    if len(words) > 3 or any(map(_is_another, words)):
        return None, scale
    named = [
        _canonical_unit(word)
        for word in (before, *words)
        if word and word not in ("of", "per", "a", "an", "the", "each", "every")
    ]
    return " ".join(dict.fromkeys(named)), scale


def _canonical_unit(word: str) -> str:
    if word in ("percent", "%"):
        return "%"
    word = word[:-1] if len(word) > 3 and word.endswith("s") else word
    return _CURRENCIES.get(word, word)


def read_date(text: str) -> date | None:
    """Read an ISO date, "3 May 2027", "May 3, 2027" or a numeric date that has only one reading; None otherwise."""
    plain = " ".join(text[:100].casefold().split())
    if match := _ISO.fullmatch(plain):
        return _date(*(int(part) for part in match.groups()))
    if match := _DAY_MONTH.fullmatch(plain) or _MONTH_DAY.fullmatch(plain):
        return _date(int(match["year"]), _MONTHS.index(match["month"][:3]) + 1, int(match["day"]))
    if match := _NUMERIC_DATE.fullmatch(plain):
        first, second, year = (int(part) for part in match.groups())
        readings = {found for found in (_date(year, second, first), _date(year, first, second)) if found}
        return readings.pop() if len(readings) == 1 else None
    return None


def read_boolean(text: str) -> bool | None:
    """Read yes, no, true or false; None otherwise."""
    return _BOOLEANS.get(normalise(text))


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


def kind_of(answer: str) -> AnswerKind:
    """Return how a free-form reference answer is to be graded."""
    if read_date(answer) is not None:
        return "date"
    if read_number(answer) is not None:
        return "number"
    return "boolean" if read_boolean(answer) is not None else "text"


def is_same(expected: str, given: str, kind: AnswerKind) -> bool:
    """Compare two free-form answers; a value that cannot be read as its kind is compared as text. Symmetric but for expressions.

    An expression may take any time and memory: grade those in a `GuardedVerifier`.
    """
    if not expected.strip() or not given.strip():
        return False
    if kind == "expression":
        return _is_same_expression(expected, given)
    if kind == "list":
        return _has_same_items(expected, given)
    if as_text(expected) == as_text(given):
        return _is_same_sign(expected, given) if kind == "number" else True
    if kind == "number":
        return _is_same_quantity(read_number(expected), read_number(given)) or _is_same_counted(expected, given)
    if kind == "date":
        return (day := read_date(expected)) is not None and day == read_date(given)
    return kind == "boolean" and (truth := read_boolean(expected)) is not None and truth is read_boolean(given)


def _is_same_sign(expected: str, given: str) -> bool:
    first, second = read_number(expected), read_number(given)
    return (first is None and second is None) or _is_same_quantity(first, second)


def _is_same_quantity(first: Quantity | None, second: Quantity | None) -> bool:
    """Units may be missing or said more fully ("euros" and "euros per month"), but not differ."""
    if first is None or second is None or not _is_close(first.value, second.value):
        return False
    ours, theirs = set(first.unit.split()), set(second.unit.split())
    return ours <= theirs or theirs <= ours


def _is_same_counted(expected: str, given: str) -> bool:
    """True when one is the quantity and the other the same quantity with what it is counted by."""
    sides = ((expected, given), (given, expected))
    return any(not _TAIL.fullmatch(bare) and _is_same_quantity(read_number(bare), _counted(longer)) for bare, longer in sides)


def _counted(text: str) -> Quantity | None:
    """Return the quantity at the beginning of "30 days after the notice"; None where it is not followed so, or by another."""
    match = _TAIL.fullmatch(text[:MAX_CHARS])
    if match is None or any(map(_is_another, match["rest"].casefold().split())):
        return None
    return read_number(match["head"])


def _is_another(word: str) -> bool:
    """True for a word after which a second value stands, or that is one."""
    return word in _NUMBER_WORDS or word in ("or", "and")


def _is_close(first: Fraction, second: Fraction) -> bool:
    if first == second:
        return True
    has_few_decimals = (first * 100).denominator == (second * 100).denominator == 1
    return not has_few_decimals and abs(first - second) <= TOLERANCE * max(abs(first), abs(second))


def _is_same_expression(expected: str, given: str) -> bool:
    if "".join(expected.split()) == "".join(given.split()):
        return True
    first, second = read_number(expected), read_number(given)
    if first is not None and second is not None:
        return _is_same_quantity(first, second)  # mathematics would drop the units
    return expressions.is_equal(expected, given)


def _has_same_items(expected: str, given: str) -> bool:
    wanted, found = read_items(expected), read_items(given)
    if not wanted or not found:
        return expected.casefold().split() == given.casefold().split()
    has_all = all(any(_is_same_item(item, other) for other in found) for item in wanted)
    return has_all and all(any(_is_same_item(other, item) for item in wanted) for other in found)


def _is_same_item(first: str, second: str) -> bool:
    kind = kind_of(first)
    return is_same(first, second, kind if kind == kind_of(second) else "text")


def read_items(text: str) -> tuple[str, ...]:
    """Split a list; empty when there is nothing in it, or more than anybody asks for."""
    lines = ";".join(" ".join(line.split()) for line in text[:MAX_CHARS].splitlines() if line.strip())
    bare = _BRACKETS.sub("", lines)
    parts = re.split(r";| and ", bare) if ";" in bare else _LIST_SEPARATOR.split(bare)
    items = tuple(item for part in parts if (item := strip_wrapping(part)))
    return items if len(items) <= MAX_ITEMS else ()


class KindVerifier:
    """Grades by answer kind; the default `Verifier`."""

    def prepare(self, kind: AnswerKind) -> None:
        """Load what grading `kind` needs. Raises `MissingExtraError` for expressions without math-verify."""
        if kind == "expression":
            expressions.load()

    def grade(self, task: Task, answer: str) -> bool:
        """True when `answer` is right, or says what an alias says. Raises only what `prepare` does."""
        kind = task.answer_kind
        given = _unwrapped(answer, kind)
        if kind == "choice":
            return _is_option(task, given)
        return any(is_same(_unwrapped(expected, kind), given, kind) for expected in (task.answer, *task.aliases))


def _is_option(task: Task, given: str) -> bool:
    """The letter, or word for word the option that it stands for."""
    gold = letter_of(task.answer)
    if not gold or not given:
        return False
    if letter := _bare_letter(given):
        return letter == gold
    place, options = LETTERS.index(gold), [_in_one_line(option) for option in task.options]
    if (quoted := _in_one_line(given)) in options:
        return options[place : place + 1] == [quoted]
    if letter := letter_of(given):
        return letter == gold
    return place < len(task.options) and as_text(task.options[place]) == as_text(given)


def _in_one_line(text: str) -> str:
    return " ".join(strip_wrapping(text).casefold().split())
