"""How play went, read from a run's journal: at the start, after the warm-up, at the end. Worked out by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spice_enterprise import experiment_page
from spice_enterprise.outcomes import PlaySummary, summarise_play
from spice_enterprise.protocols import Played, PlayedRollout
from spice_enterprise.records import Objective, Rollout, RolloutGroup
from spice_enterprise.store import RunStore


def group(role: Any, step: int, outcomes: Sequence[str], objective: Objective = "policy") -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            role=role, parent_id="chunk_a", adapter_id="adapter_0", adapter_digest="d", template_id="t.v1", step=step, index=i,
            token_ids=(1, 2), logprobs=(-0.5, -0.5), text="x", stop_reason="stop", outcome=outcome, reason=objective, reward=0.0,
        )  # type: ignore[arg-type]  # tests name outcomes as plain strings
        for i, outcome in enumerate(outcomes)
    )  # fmt: skip
    return RolloutGroup(role=role, parent_id="chunk_a", prompt_token_ids=(1,), rollouts=rollouts, objective=objective)


def proposed(step: int, valid: int) -> RolloutGroup:
    return group("challenger", step, ["valid"] * valid + ["refused"] * (10 - valid))


def examples(step: int) -> list[RolloutGroup]:
    return [group("challenger", step, ["valid"], "supervised"), group("reasoner", step, ["correct"], "supervised")]


def summary(folder: Path, plays: Sequence[Sequence[RolloutGroup]]) -> PlaySummary:
    store = RunStore(folder)
    for number, groups in enumerate(plays, start=1):
        rollouts = tuple(PlayedRollout(group=g, is_trained=True) for g in groups)
        store.journal(number, Played(groups=tuple(groups), tasks=(), rollouts=rollouts))
    return summarise_play(store)


def admitted(found: PlaySummary) -> list[float | None]:
    return [None if rates is None else rates.admitted for rates in (found.start, found.warmed, found.end)]


PLAY = [[proposed(n, valid), group("reasoner", n, ["correct", "wrong"])] for n, valid in enumerate([6, 6, 7, 8, 9], start=4)]


def test_three_rates_of_a_run_that_learned_to_write_first(tmp_path: Path) -> None:
    warm = [[proposed(n, valid), *examples(n)] for n, valid in enumerate([1, 1, 4], start=1)]
    found = summary(tmp_path, [*warm, *PLAY])
    assert admitted(found) == [pytest.approx(0.1), pytest.approx(0.6), pytest.approx(0.85)]
    assert found.start is not None
    assert found.start.right is None, "what code answered is no answer of the model"
    assert found.end is not None
    assert found.end.right == 0.5
    assert found.sampled_tokens == 2 * (8 * 10 + 5 * 2), "examples were not sampled"


def test_examples_of_facts_are_no_proposals(tmp_path: Path) -> None:
    warm = [[group("reasoner", n, ["correct"] * 3, "supervised")] for n in range(1, 4)]
    found = summary(tmp_path, [*warm, *PLAY])
    assert admitted(found) == [pytest.approx(0.6), pytest.approx(0.6), pytest.approx(0.85)]
    assert found.start is not None
    assert found.start.right == 0.5


def test_a_warm_up_alone_has_no_rate_after_it(tmp_path: Path) -> None:
    found = summary(tmp_path, [[proposed(1, 1), *examples(1)], [proposed(2, 2), *examples(2)], [proposed(3, 3), *examples(3)]])
    assert admitted(found) == [pytest.approx(0.15), None, pytest.approx(0.25)]


def test_without_a_warm_up_play_begins_at_the_start(tmp_path: Path) -> None:
    assert admitted(summary(tmp_path, PLAY)) == [pytest.approx(0.6), pytest.approx(0.6), pytest.approx(0.85)]


@pytest.mark.parametrize(
    ("rates", "shown"),
    [
        ((0.1, 0.6, 0.85), "10% -> 60% -> 85%"),
        ((0.6, 0.6, 0.85), "60% -> 85%"),
        ((0.15, None, 0.25), "15% -> 25%"),
        ((None, 0.5, 0.5), "– -> 50% -> 50%"),
        ((None, None, None), "–"),
    ],
)
def test_the_page_shows_the_road(rates: tuple[float | None, ...], shown: str) -> None:
    assert experiment_page._road(rates) == shown


def test_rates_of_nothing_are_none(tmp_path: Path) -> None:
    found = summary(tmp_path, [])
    assert (found.start, found.warmed, found.end) == (None, None, None)
