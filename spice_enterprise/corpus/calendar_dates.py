"""Dates as people write them: read the year, or move the date by some days and write it the same way.

In: the text of one date.
Out: its year, or another date with the same order, separators, padding and month names.
Refuses: what cannot be read with certainty as one day (None): the caller then puts a placeholder there.
Not here: finding dates in text (`detectors.py`), how far one is moved (`surrogates.py`).
"""

import re
from datetime import date
from typing import Final

_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_NAME: Final = "|".join(sorted({name for month in _MONTHS for name in (month, month[:3])} | {"sept"}, key=len, reverse=True))
_FORMS: Final = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"(?P<y>\d{4})(?P<sep>[-/.])(?P<m>\d{1,2})(?P=sep)(?P<d>\d{1,2})",
        r"(?P<d>\d{1,2})(?P<sep>[-/. ])(?P<m>\d{1,2})(?P=sep)(?P<y>\d{4})",
        rf"(?P<d>\d{{1,2}})(?P<th>st|nd|rd|th)?\.?(?: of)?[ -](?P<m>{_NAME})\.?,?[ -](?P<y>\d{{4}})",
        rf"(?P<m>{_NAME})\.? (?P<d>\d{{1,2}})(?P<th>st|nd|rd|th)?,? (?P<y>\d{{4}})",
    )
)
_YEAR: Final = re.compile(r"(?<!\d)(?:1[89]|20|21)\d{2}(?!\d)")


def year_of(text: str) -> str | None:
    """Return the one year that `text` names, or None."""
    years = set(_YEAR.findall(text))
    return years.pop() if len(years) == 1 else None


def moved(text: str, days: int) -> str | None:
    """Return the date in `text` moved by `days`, written as before, or None when it is not a whole date.

    Of 3/4/2021 the first number is taken as the day, and as the month where only that is a date: distances between dates of one
    document stay right as long as its author kept to one order.
    """
    found = next((match for form in _FORMS if (match := form.fullmatch(text.strip()))), None)
    if found is None:
        return None
    year, month, day = int(found["y"]), _month(found["m"]), int(found["d"])
    is_month_first = month > 12 >= day
    if is_month_first:
        month, day = day, month
    try:
        other = date.fromordinal(date(year, month, day).toordinal() + days)
    except (ValueError, OverflowError):
        return None
    first, second = (other.month, other.day) if is_month_first else (other.day, other.month)
    width = 2 if _is_padded(found) else 1
    parts = {"y": f"{other.year:04}", "d": f"{first:0{width}}", "m": _like_month(second, found["m"], width)}
    return _written(found, parts, other)


def _is_padded(found: re.Match[str]) -> bool:
    """True when numbers below ten are written with a zero."""
    numbers = [found[name] for name in "dm" if found[name].isdigit()]
    return any(n.startswith("0") for n in numbers) or (len(numbers) == 2 and all(len(n) == 2 for n in numbers))


def _month(written: str) -> int:
    """Return the number of a month that is written as a number or a name."""
    if written.isdigit():
        return int(written)
    return 1 + next(i for i, month in enumerate(_MONTHS) if month.startswith(written[:3].casefold()))


def _like_month(month: int, like: str, width: int) -> str:
    """Return a month as a number or name, long or short, capitalised as another one was."""
    if like.isdigit():
        return f"{month:0{width}}"
    name = _MONTHS[month - 1] if like.casefold() in _MONTHS else _MONTHS[month - 1][:3]
    return name.upper() if like.isupper() else name.capitalize()


def _written(found: re.Match[str], parts: dict[str, str], other: date) -> str:
    """Return the whole text with its parts exchanged."""
    groups = found.groupdict()
    if groups.get("th"):
        parts["th"] = "th" if 11 <= other.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(other.day % 10, "th")
    text = found.string
    for name in sorted(parts, key=found.start, reverse=True):
        text = text[: found.start(name)] + parts[name] + text[found.end(name) :]
    return text
