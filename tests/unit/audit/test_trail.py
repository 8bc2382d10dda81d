"""The door: find a trail, read it, add up what was removed, follow an id."""

import pytest

from spice_enterprise.audit import PiiSummary, open_trail
from spice_enterprise.errors import StoreError
from spice_enterprise.records import AuditEvent


def test_a_trail_is_found_from_anywhere_inside(workspace) -> None:
    for place in (workspace.root, workspace.root / "audit", workspace.root / "job", workspace.root / "job" / "adapters"):
        assert open_trail(place).folder == workspace.root / "audit"


def test_no_trail(tmp_path) -> None:
    with pytest.raises(StoreError) as caught:
        open_trail(tmp_path)
    assert caught.value.code == "E_NO_TRAIL"


def test_records_and_events_come_oldest_first(workspace) -> None:
    trail = open_trail(workspace.root)
    assert [record.seq for record in trail.records()] == list(range(9))
    assert [record.data["gate_id"] for record in trail.events("gate.decided")] == ["gate_adapter_one", "gate_adapter_two"]
    with pytest.raises(StoreError, match="unknown audit event"):
        trail.events("no.such")


def test_the_newest_redaction_of_each_run_is_added_up(empty) -> None:
    for run, persons, residual in (("a", 9, 0), ("a", 2, 0), ("b", 3, 1)):
        data = (("residual", residual), ("removed_person", persons), ("removed_email_address", 1), ("share", 0.5))
        empty.log.append(AuditEvent(event="redaction.applied", run=run, data=data))
    assert open_trail(empty.root).pii_summary() == PiiSummary(removed=(("email_address", 2), ("person", 5)), residual=1)


def test_trace_follows_an_id(workspace) -> None:
    events = [record.event for record in open_trail(workspace.root).trace("adapter_one")]
    assert events == ["checkpoint.saved", "gate.decided", "promotion.executed", "rollback.executed"]
