"""An XLSX file's visible cells as facts.

In: the bytes of an XLSX file and what the run carries.
Out: a page per visible sheet; numbers, dates and shares as a reader sees them; formulas by their last result.
Refuses: what `ooxml.py` refuses, and too many cells (`E_LIMIT`).
Not here: hidden sheets, rows and columns, which are counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from importlib import import_module
from io import BytesIO
from typing import Any, Final

from spice_enterprise.corpus.ooxml import MAIN_PARTS, Package
from spice_enterprise.corpus.reading import MAX_CELLS, Notes, bad, carried_line, library
from spice_enterprise.corpus.tables import rows_as_text, squared

_S: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_REL_ID: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_TRUE: Final = ("1", "true")
_MAX_COLUMN: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a sheet's XML says beside its cells."""

    rows: frozenset[int]
    columns: frozenset[int]
    lines: tuple[str, ...]


def read_xlsx(data: bytes, notes: Notes) -> list[str]:
    """Return one page per sheet that is visible."""
    notes.parser = library("openpyxl")
    package = Package(data, MAIN_PARTS["xlsx"])
    workbook = import_module("openpyxl").load_workbook(BytesIO(data), read_only=True, data_only=True, keep_links=False)
    parts = _sheet_parts(package)
    pages = []
    cells = 0
    for sheet in workbook.worksheets:
        facts = _facts(package, parts.get(sheet.title, ""), notes)
        is_shown = sheet.sheet_state == "visible" or notes.carries("hidden")
        lines, seen = _sheet(sheet, facts, notes if is_shown else Notes(options=notes.options))
        cells += seen
        if cells > MAX_CELLS:
            raise bad("E_LIMIT", f"more than {MAX_CELLS} cells")
        if sheet.sheet_state != "visible":
            notes.drop("hidden_sheet", "".join(lines))
        if is_shown:
            pages.append("\n".join([f"# {sheet.title}", "", *lines, *facts.lines]) if lines or facts.lines else "")
    if pages and (properties := package.properties(notes)):
        pages[0] = "\n".join([pages[0], *properties])
    return pages


def _sheet_parts(package: Package) -> dict[str, str]:
    """Return sheet name to part."""
    main = MAIN_PARTS["xlsx"]
    relations = package.relations(main)
    sheets = package.tree(main).iter(f"{_S}sheet")
    return {e.get("name") or "": relations[i][1] for e in sheets if (i := e.get(_REL_ID) or "") in relations}


def _facts(package: Package, part: str, notes: Notes) -> _Facts:
    """Return the hidden rows and columns of a sheet, and its headers and comments as far as they are carried."""
    if part not in package:
        return _Facts(rows=frozenset(), columns=frozenset(), lines=())
    rows: set[int] = set()
    columns: set[int] = set()
    lines: list[str] = []
    number = 0
    for _, element in import_module("lxml.etree").iterparse(
        package.open(part), tag=(f"{_S}row", f"{_S}col", f"{_S}headerFooter"), resolve_entities=False, no_network=True
    ):
        if element.tag == f"{_S}headerFooter":
            lines += _margins(element, notes)
        elif element.tag == f"{_S}row":
            number = _number(element.get("r")) or number + 1
            if element.get("hidden") in _TRUE:
                rows.add(number)
        elif element.get("hidden") in _TRUE:
            columns.update(range(_number(element.get("min")), min(_number(element.get("max")), _MAX_COLUMN) + 1))
        element.clear()
    return _Facts(rows=frozenset(rows), columns=frozenset(columns), lines=(*lines, *_comments(package, part, notes)))


def _number(value: str | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0


def _margins(element: Any, notes: Notes) -> Iterator[str]:
    for child in element:
        name = str(child.tag).rsplit("}", 1)[-1]
        kind, label = ("headers", "Header") if name.endswith("Header") else ("footers", "Footer")
        if notes.carries(kind) and (child.text or "").strip():  # type: ignore[arg-type]
            yield carried_line(label, child.text)


def _comments(package: Package, part: str, notes: Notes) -> Iterator[str]:
    if not notes.carries("comments"):
        return
    for kind in ("comments", "threadedComment"):
        for name in package.related(part, kind):
            for comment in package.tree(name).iter():
                if str(comment.tag).rsplit("}", 1)[-1] in ("comment", "threadedComment"):
                    texts = (e.text or "" for e in comment.iter() if str(e.tag).rsplit("}", 1)[-1] in ("t", "text"))
                    yield carried_line("Comment", "".join(texts))


def _sheet(sheet: Any, facts: _Facts, notes: Notes) -> tuple[list[str], int]:
    """Return a sheet's rows as lines, and how many cells there were; an empty row ends one table and begins the next."""
    sheet.reset_dimensions()  # the declared size may lie
    lines: list[str] = []
    table: list[list[str]] = []
    cells = 0
    for number, row in enumerate(sheet.iter_rows(), start=1):
        cells += len(row)
        if cells > MAX_CELLS:
            raise bad("E_LIMIT", f"more than {MAX_CELLS} cells")
        values = _visible([_cell_text(cell) for cell in row], number, facts, notes)
        if values is None:
            continue
        if any(values):
            table.append(values)
        elif table:
            lines += [*rows_as_text(squared(table)), ""]
            table = []
    return lines + rows_as_text(squared(table)), cells


def _visible(values: list[str], number: int, facts: _Facts, notes: Notes) -> list[str] | None:
    """Return a row without its hidden cells; None for a hidden row."""
    if notes.carries("hidden"):
        return values
    if number in facts.rows:
        notes.drop("hidden_row", "".join(values))
        return None
    if not facts.columns:
        return values
    notes.drop("hidden_column", "".join(value for i, value in enumerate(values, start=1) if i in facts.columns))
    return [value for i, value in enumerate(values, start=1) if i not in facts.columns]


def _cell_text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "minutes")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (int, float)):
        return _number_text(value, str(getattr(cell, "number_format", "")))
    return str(value)


def _number_text(value: float, number_format: str) -> str:
    if number_format.endswith("%"):
        return f"{value * 100:.10g}%"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
