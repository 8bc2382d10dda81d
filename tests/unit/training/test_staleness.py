"""Which versions may have made the rollouts of a step."""

from dataclasses import dataclass

import pytest

from spice_enterprise.errors import StaleRolloutError
from spice_enterprise.training.staleness import staleness_of


@dataclass
class Made:
    adapter_digest: str
    rollout_id: str = "rollout_1"


@dataclass
class Group:
    rollouts: list[Made]
    objective: str = "policy"


@dataclass
class Version:
    digest: str = "now"
    adapter_id: str = "adapter_now"


def check(*groups, parent="before"):
    return staleness_of([Group([Made(digest) for digest in group]) for group in groups], Version(), parent_digest=parent)


def test_the_current_version_and_its_parent_are_told_apart():
    assert check(["now", "now"], ["now"]) == 0
    assert check(["before"], ["before", "before"]) == 1
    assert check() == 0


def test_a_version_that_equals_its_parent_is_current():
    assert check(["now"], parent="now") == 0


@pytest.mark.parametrize(
    ("groups", "parent"),
    [
        ([["before"]], None),
        ([["older"]], "before"),
        ([["now"], ["before"]], "before"),
        ([["before", "now"]], "before"),
        ([["before"], ["older"]], "before"),
    ],
)
def test_older_and_mixed_rollouts_are_refused(groups, parent):
    with pytest.raises(StaleRolloutError, match="another adapter than adapter_now") as caught:
        check(*groups, parent=parent)
    assert caught.value.record_id == "rollout_1"


def test_examples_are_taken_whoever_wrote_them():
    groups = [Group([Made(""), Made("older")], objective="supervised")]
    assert staleness_of(groups, Version(), parent_digest=None) == 0
