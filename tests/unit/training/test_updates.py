"""What a step's groups are to the learner: whole, of one objective, cut into updates."""

from dataclasses import replace

import pytest

from spice_enterprise.errors import TrainingError
from spice_enterprise.records import Objective, Role, Rollout, RolloutGroup
from spice_enterprise.training.updates import objective_of, require_whole, split_updates


def group(size: int, role: Role = "reasoner", *, objective: Objective = "policy", logprobs: int = 2) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            role=role, parent_id="p", adapter_id="a", adapter_digest="d", template_id="t", step=1, index=i, token_ids=(1, 2),
            logprobs=(-1.0,) * logprobs, text="", stop_reason="stop", outcome="valid", reason="", reward=0.0,
        )
        for i in range(size)
    )  # fmt: skip
    return RolloutGroup(role=role, parent_id="p", prompt_token_ids=(1,), rollouts=rollouts, objective=objective)


def chunk() -> list[RolloutGroup]:
    return [group(8, "challenger"), group(8)]


def sizes(groups: list[RolloutGroup], most: int) -> list[list[int]]:
    return [[len(part.rollouts) for part in update] for update in split_updates(groups, most=most)]


def test_a_step_that_fits_is_one_update_as_it_is() -> None:
    groups = [*chunk(), *chunk()]
    assert split_updates(groups, most=32) == [groups]
    assert split_updates([], most=32) == [[]]


def test_updates_are_of_about_equal_size_and_never_part_a_group() -> None:
    nine = [part for _ in range(9) for part in chunk()]
    assert [sum(update) for update in sizes(nine, 128)] == [80, 64]
    assert sizes([group(5), group(5), group(5)], 10) == [[5, 5], [5]]
    assert sizes([group(40)], 10) == [[40]]


def test_a_challenger_group_keeps_its_reasoner_group_where_both_fit() -> None:
    assert sizes([*chunk(), *chunk(), *chunk()], 24) == [[8, 8], [8, 8], [8, 8]]
    assert sizes([*chunk(), *chunk()], 12) == [[8], [8], [8], [8]]
    assert sizes([*chunk(), group(8)], 16) == [[8, 8], [8]]  # a replay stands alone


@pytest.mark.parametrize("most", [2, 7, 8, 16, 20, 33, 100])
def test_whatever_the_limit_every_group_is_there_once_in_order(most: int) -> None:
    groups = [*chunk(), group(3), *chunk(), group(1), group(9), *chunk()]
    updates = split_updates(groups, most=most)
    assert [part for update in updates for part in update] == groups
    largest = max(len(part.rollouts) for part in groups)
    assert all(sum(len(part.rollouts) for part in update) <= max(most, largest) for update in updates)


def test_all_groups_of_a_step_have_one_objective() -> None:
    assert objective_of([]) == "policy"
    assert objective_of([group(1), group(2)]) == "policy"
    assert objective_of([group(1, objective="supervised")]) == "supervised"
    with pytest.raises(TrainingError, match="never from both") as caught:
        objective_of([group(1), group(1, objective="supervised")])
    assert caught.value.code == "E_ROLLOUT"


def test_only_examples_may_come_without_log_probabilities() -> None:
    require_whole([group(2), group(2, objective="supervised"), group(2, objective="supervised", logprobs=0)])
    bare = group(1, objective="supervised", logprobs=0)
    empty = replace(bare, rollouts=(replace(bare.rollouts[0], token_ids=()),))
    for bad in (group(2, logprobs=0), group(2, objective="supervised", logprobs=1), empty):
        with pytest.raises(TrainingError, match="one log-probability per token"):
            require_whole([bad])
