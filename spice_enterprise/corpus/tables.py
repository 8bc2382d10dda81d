"""Table rows as sentences of facts, from any format, and the tables that are files of their own.

In: rows of cell texts; the bytes of a CSV or TSV file.
Out: one line per row, `header: value; header: value`.
Refuses: ragged rows and unclosed quotes (`E_PARSE`, with the row), too many cells and huge fields (`E_LIMIT`).
Not here: where a format keeps its cells.
"""

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from spice_enterprise.corpus.plain_text import decode
from spice_enterprise.corpus.reading import MAX_CELLS, MAX_FIELD_CHARS, Notes, bad

_NUMBER: Final = re.compile(r"[-+$€£(]?\s?\d[\d.,]*\s?[%)]?")
_PERIOD: Final = re.compile(r"(?:[A-Za-z0-9 ]{1,12} )?(?:FY ?)?(?:19|20)\d\d")
_MAX_HEADER_CHARS: Final = 60
_DELIMITERS: Final = (",", ";", "\t", "|")
_QUOTED: Final = re.compile(r'"[^"]*+"')


def rows_as_text(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per table row that reads as facts.

    A first row of short texts without numbers, or of years, is the header of tables with three or more columns, and of
    two-column tables whose values are numbers; other two-column rows read as `name: value`.
    """
    squeezed = _without_empty_columns([[" ".join(cell.split()) for cell in row] for row in rows])
    filled = [row for row in squeezed if any(row)]
    titles = 0
    while titles < len(filled) and sum(map(bool, filled[titles])) == 1:
        titles += 1
    above, body = filled[:titles], filled[titles:]
    lines = [_plain_row(row) for row in above]
    if not _has_header(body):
        return lines + [_plain_row(row) for row in body]
    names = [name.rstrip(":") for name in body[0]]
    return lines + [_fact_row(names, row) for row in body[1:]]


def squared(rows: Sequence[list[str]]) -> list[list[str]]:
    """Return rows of equal length."""
    width = max((len(row) for row in rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _without_empty_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    width = max((len(row) for row in rows), default=0)
    used = [i for i in range(width) if any(i < len(row) and row[i] for row in rows)]
    return [[row[i] if i < len(row) else "" for i in used] for row in rows]


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    first = rows[0] if len(rows) > 1 else []
    if len(first) < 2 or not all(first[1:]) or not all(map(_is_name, first)):
        return False
    if len(first) > 2:
        return True
    return bool(first[0]) and all(_NUMBER.fullmatch(row[1]) for row in rows[1:] if len(row) > 1)


def _is_name(cell: str) -> bool:
    return len(cell) <= _MAX_HEADER_CHARS and (not re.search(r"\d", cell) or bool(_PERIOD.fullmatch(cell)))


def _fact_row(names: Sequence[str], row: Sequence[str]) -> str:
    cells = [(names[i] if i < len(names) else "", value) for i, value in enumerate(row) if value]
    return "; ".join(f"{name}: {value}" if name else value for name, value in cells)


def _plain_row(row: Sequence[str]) -> str:
    values = [value for value in row if value]
    if len(row) == 2 and len(values) == 2:
        return f"{values[0].rstrip(':')}: {values[1]}"
    return "; ".join(values)


# --- files that are tables --------------------------------------------------------------------------------------------


def read_csv(data: bytes, notes: Notes) -> list[str]:
    """Return a CSV or TSV file as one page of facts. Cells that a spreadsheet would compute are text."""
    notes.parser = "csv"
    text = decode(data, notes)
    csv.field_size_limit(MAX_FIELD_CHARS)
    rows = _rows(text, _delimiter(text))
    return ["\n".join(line for table in _tables(rows) for line in rows_as_text(table))]


def _delimiter(text: str) -> str:
    """Return the delimiter that most of the first lines hold equally often."""
    lines = [_QUOTED.sub("", line) for line in text[:16384].splitlines()[:30] if line.strip()]

    def evenness(delimiter: str) -> tuple[int, int]:
        counts = Counter(n for line in lines if (n := line.count(delimiter)))
        n, lines_with = max(counts.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
        return lines_with, n

    return max(_DELIMITERS, key=evenness)


def _rows(text: str, delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    cells = 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            cells += len(row)
            if cells > MAX_CELLS:
                raise bad("E_LIMIT", f"more than {MAX_CELLS} cells")
            rows.append(row)
    except csv.Error as error:
        if "field larger" in str(error):
            raise bad("E_LIMIT", f"row {len(rows) + 1} has a field of more than {MAX_FIELD_CHARS} characters") from None
        raise bad("E_PARSE", f"row {len(rows) + 1} of the table cannot be read") from None
    return rows


def _tables(rows: Sequence[list[str]]) -> list[list[list[str]]]:
    """Return the tables of a file. An empty row ends one, unless the next has as many fields: then it was only a gap.

    Raises:
        ParseError: `E_PARSE` for a row with another number of fields than its table: its values would stand under wrong names.
    """
    tables: list[list[list[str]]] = []
    widths: list[int] = []
    above = 0
    for is_table, block in itertools.groupby(rows, key=lambda row: any(cell.strip() for cell in row)):
        found = list(block)
        if is_table:
            width = _width(found, above)
            if widths and widths[-1] == width:
                tables[-1] += found
            else:
                tables.append(found)
                widths.append(width)
        above += len(found)
    return tables


def _width(table: Sequence[Sequence[str]], above: int) -> int:
    """Return how many fields the rows of a table have; a row of one field is a title."""
    counts = Counter(len(row) for row in table if len(row) > 1)
    usual = counts.most_common(1)[0][0] if counts else 1
    for number, row in enumerate(table, start=above + 1):
        if 1 < len(row) < usual or any(row[usual:]):
            raise bad("E_PARSE", f"row {number} of the table has another number of fields than the rest")
    return usual
