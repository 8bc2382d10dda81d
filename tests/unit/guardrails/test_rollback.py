"""The version to return to is the newest that nothing critical is known about."""

import pytest

from spice_enterprise.errors import NoSafeVersionError
from spice_enterprise.guardrails.rollback import last_good, version_to_restore
from spice_enterprise.records import AdapterVersion, Alert, Severity


def _line(*steps: int) -> list[AdapterVersion]:
    """Version 0 and one version per step, each the child of the one before."""
    versions: list[AdapterVersion] = []
    for step in (0, *steps):
        versions.append(
            AdapterVersion(
                role="shared",
                parent_adapter_id=versions[-1].adapter_id if versions else None,
                step_id=f"step_{step}" if step else None,
                step=step,
                base_model="b",
                base_digest="b",
                corpus_digest="c",
                config_digest="k",
                manifest=(),
                digest=f"d{step}",
            )
        )
    return versions


def _alert(step: int, severity: Severity = "critical") -> Alert:
    return Alert(
        step_id=f"step_{step}", step=step, monitor="kl", value=1.0, limit=0.1, severity=severity, action="restore", reason="r"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("alerts", "before", "expected"),
    [
        ((), 4, 3),
        ((), 99, 3),
        ((), 2, 1),
        ((), 1, 0),
        ((_alert(4),), 4, 3),
        ((_alert(3), _alert(4)), 4, 2),
        ((_alert(2), _alert(4)), 4, 1),
        ((_alert(1), _alert(4)), 4, 0),
        ((_alert(3, "warn"), _alert(4)), 4, 3),
        ((_alert(0),), 1, 0),
        ((), 0, 0),
    ],
)
def test_last_good(alerts: tuple[Alert, ...], before: int, expected: int) -> None:
    version = last_good(_line(1, 2, 3), alerts, before_step=before)
    assert version is not None
    assert version.step == expected


def test_order_does_not_matter() -> None:
    assert last_good(reversed(_line(1, 2, 3)), (_alert(2),), before_step=4) == _line(1, 2, 3)[1]


def test_a_new_line_from_a_good_version_is_good() -> None:
    """Step 2 was bad; training went on from version 1 and made version 3."""
    versions = _line(1, 3)
    assert last_good(versions, (_alert(2), _alert(4)), before_step=4) == versions[2]


def test_nothing_to_return_to() -> None:
    versions = _line(1, 2)[1:]
    assert last_good(versions, (_alert(1),), before_step=3) is None
    with pytest.raises(NoSafeVersionError, match="no version from before step 3") as caught:
        version_to_restore(versions, (_alert(1),), before_step=3)
    assert caught.value.code == "E_NO_SAFE_VERSION"
    assert version_to_restore(_line(1, 2), (), before_step=3).step == 2
    assert last_good((), (), before_step=3) is None
