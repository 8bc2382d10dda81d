"""The door to the audit trail: read what happened, without the stages that did it.

In: a workspace, one of its run directories, or the audit folder itself.
Out: a `Trail` of records, oldest first.
Refuses: to write; to import any heavy library; a line that is not a record (`IntegrityError`).
Not here: whether the trail is whole and true: that is `audit/verify.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spice_enterprise import durable
from spice_enterprise.audit import records as _records
from spice_enterprise.audit.records import LogRecord
from spice_enterprise.errors import StoreError

_REMOVED = "removed_"


@dataclass(frozen=True, slots=True, kw_only=True)
class PiiSummary:
    """How many values of each kind were removed, and how many could still be found afterwards, over all runs."""

    removed: tuple[tuple[str, int], ...]
    residual: int


class Trail:
    """An audit log, read-only. Each call reads the file as it is now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def records(self) -> Iterator[LogRecord]:
        """Yield every record, oldest first. Raises `IntegrityError` E_AUDIT_RECORD at a line that is none."""
        for line in durable.read_lines(self.folder / "records.jsonl"):
            yield _records.parse(line)

    def events(self, name: str) -> list[LogRecord]:
        """Return the records of one event, oldest first. Raises `StoreError` E_AUDIT_EVENT for an unknown name."""
        if name not in _records.EVENTS:
            raise StoreError("unknown audit event", code="E_AUDIT_EVENT", hint="use a name from audit.records.EVENTS")
        return [record for record in self.records() if record.event == name]

    def pii_summary(self) -> PiiSummary:
        """Add up the newest `redaction.applied` of each run."""
        newest = {record.run: record for record in self.events("redaction.applied")}
        counts: dict[str, int] = {}
        for record in newest.values():
            for key, value in record.data.items():
                if isinstance(value, int):
                    counts[key] = counts.get(key, 0) + value
        removed = tuple((key.removeprefix(_REMOVED), n) for key, n in sorted(counts.items()) if key.startswith(_REMOVED))
        return PiiSummary(removed=removed, residual=counts.get("residual", 0))

    def trace(self, adapter_id: str) -> list[LogRecord]:
        """Return every record that names `adapter_id` (or any other id), oldest first."""
        return [record for record in self.records() if adapter_id in record.names()]


def open_trail(path: str | Path) -> Trail:
    """Find the audit log at `path`, in its `audit` folder, or in a folder above it.

    Raises `StoreError` E_NO_TRAIL when there is none.
    """
    start = Path(path).resolve()
    for place in (start, *start.parents):
        for folder in (place, place / "audit"):
            if (folder / "records.jsonl").is_file():
                return Trail(folder)
    raise StoreError(f"{start.name}: no audit log here or above", code="E_NO_TRAIL", hint="pass the workspace of a run")
