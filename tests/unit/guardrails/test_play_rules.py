"""Rules over self-play: each fires on its fault, at its time, remembers across a restart, and keeps quiet otherwise."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from spice_enterprise.guardrails.play_rules import GENERAL, PlayMonitor
from spice_enterprise.policy import load_guardrails
from spice_enterprise.protocols import VERIFIER_FAILURES, MeasureMonitor, StatefulMonitor
from spice_enterprise.records import Alert, Rollout, RolloutGroup, Step, canonical_json

POLICY = load_guardrails()
LIMIT = POLICY.max_steps_without_task


def step_of(number: int = 1, **changes: Any) -> Step:
    values: dict[str, Any] = {
        "number": number, "adapter_id": "adapter_0", "rollout_ids": ("roll_1",), "is_applied": True, "reward_mean": 0.4,
        "reward_std": 0.3, "challenger_reward_mean": 0.2, "reasoner_reward_mean": 0.5, "frac_zero_std": 0.2, "loss": 0.01,
        "grad_norm": 0.8, "kl_nats_per_token": 1e-4, "entropy_nats_per_token": 1.2, "length_mean_tokens": 30.0,
        "invalid_rate": 0.4, "trained_tokens": 100,
    }  # fmt: skip
    return Step(**values | changes)


def group(role: Any, *marks: tuple[str, str]) -> RolloutGroup:
    """A group of (outcome, reason)."""
    rollouts = tuple(
        Rollout(
            role=role, parent_id="chunk_a", adapter_id="adapter_0", adapter_digest="d", template_id="t.v1", step=1, index=i,
            token_ids=(1,), logprobs=(-0.5,), text="x", stop_reason="stop", outcome=outcome, reason=reason, reward=0.0,
        )  # type: ignore[arg-type]  # tests name outcomes as plain strings
        for i, (outcome, reason) in enumerate(marks)
    )  # fmt: skip
    return RolloutGroup(role=role, parent_id="chunk_a", prompt_token_ids=(1,), rollouts=rollouts)


VALID = ("valid", "")
NONE = ("refused", "base_open_book")
TORN = ("unparsable", "unparsable")


def feed(monitor: PlayMonitor, plays: Sequence[Sequence[RolloutGroup]], **changes: Any) -> list[tuple[int, Alert]]:
    """Return the alerts with the number of the step they came at."""
    return [(i, alert) for i, groups in enumerate(plays, start=1) for alert in monitor.check(step_of(i, **changes), list(groups))]


def test_a_healthy_run_is_quiet() -> None:
    healthy = [group("challenger", VALID, NONE), group("reasoner", ("correct", ""), ("wrong", "no_answer"))]
    assert feed(PlayMonitor(POLICY), [healthy] * 100) == []


def test_no_valid_task_for_so_many_steps_halts_with_advice() -> None:
    ((number, alert),) = feed(PlayMonitor(POLICY), [[group("challenger", TORN, NONE)]] * LIMIT)
    assert (number, alert.monitor, alert.severity, alert.action) == (LIMIT, "no_tasks", "critical", "halt")
    assert (alert.value, alert.limit) == (LIMIT, LIMIT)
    assert alert.reason.startswith("E_NO_TASKS: ")
    assert all(word in alert.reason for word in ("`warmup: format`", "`hint: span`", "larger model"))


def test_one_valid_task_begins_the_count_anew() -> None:
    nothing, something = [group("challenger", TORN)], [group("challenger", TORN, VALID)]
    plays = [*[nothing] * (LIMIT - 1), something, *[nothing] * (LIMIT - 1)]
    assert feed(PlayMonitor(POLICY), plays) == []


def test_the_choice_of_a_format_is_no_task_and_a_replay_is_none_either() -> None:
    choice = group("challenger", ("valid", "format_choice"))
    replay = group("reasoner", ("correct", ""), ("wrong", ""))
    assert len(feed(PlayMonitor(POLICY), [[choice, replay]] * LIMIT)) == 1


def test_steps_of_the_warm_up_are_not_play() -> None:
    assert feed(PlayMonitor(POLICY), [[]] * (3 * LIMIT), objective="supervised", frac_zero_std=1.0) == []


def test_a_step_of_the_warm_up_without_an_example_is_not_play_either() -> None:
    monitor = PlayMonitor(POLICY, warmup_steps=3 * LIMIT)
    assert feed(monitor, [[]] * (3 * LIMIT), frac_zero_std=1.0) == []
    assert [number for number, _ in feed(monitor, [[]] * (4 * LIMIT))] == [4 * LIMIT], "counted from the first step of play on"


def test_what_is_measured_in_the_warm_up_ends_no_run() -> None:
    monitor = PlayMonitor(POLICY)
    warm = [alert for n in range(1, 20) for alert in monitor.check(step_of(n, heldout=0.5, objective="supervised"), [])]
    played = [monitor.check(step_of(n, heldout=0.3), [group("challenger", VALID)]) for n in range(20, 24)]
    assert warm == []
    assert [len(alerts) for alerts in played] == [0] * POLICY.max_flat_measurements + [1]


@pytest.mark.parametrize("code", VERIFIER_FAILURES)
def test_a_verifier_that_grades_nothing_halts_at_once(code: str) -> None:
    played = [group("challenger", VALID), group("reasoner", ("wrong", code), ("wrong", code))]
    ((_, alert),) = feed(PlayMonitor(POLICY), [played])
    assert (alert.monitor, alert.severity, alert.action) == ("verifier", "critical", "halt")
    assert alert.reason.startswith("E_VERIFIER_FAILED: ")
    assert "all 2 answers" in alert.reason


def test_a_verifier_that_grades_one_answer_goes_on() -> None:
    played = [group("challenger", VALID), group("reasoner", ("wrong", "verifier_raised"), ("wrong", ""))]
    assert feed(PlayMonitor(POLICY), [played]) == []


def test_an_answer_that_says_nothing_is_no_verdict() -> None:
    played = [group("challenger", VALID), group("reasoner", ("wrong", "verifier_raised"), ("wrong", "no_answer"))]
    assert [alert.monitor for _, alert in feed(PlayMonitor(POLICY), [played])] == ["verifier"]


def test_a_verifier_that_fails_on_every_vote_halts_before_anybody_answers() -> None:
    played = [group("challenger", ("refused", "ungraded"), ("refused", "off_topic"))]
    assert [alert.monitor for _, alert in feed(PlayMonitor(POLICY), [played])] == ["verifier"]
    voted = [group("challenger", ("refused", "ungraded"), ("refused", "base_open_book"))]
    assert feed(PlayMonitor(POLICY), [voted]) == []


def _open_book(share: float) -> list[RolloutGroup]:
    passed = round(10 * share)
    return [group("challenger", *[VALID] * passed, *[NONE] * (10 - passed))]


def test_the_open_book_share_may_not_fall_to_less_than_half() -> None:
    start = [_open_book(0.8)] * POLICY.open_book_reference_steps
    kept = [_open_book(0.4)] * (3 * POLICY.open_book_window)
    assert feed(PlayMonitor(POLICY), [*start, *kept]) == []
    fallen = feed(PlayMonitor(POLICY), [*start, *[_open_book(0.3)] * POLICY.open_book_window])
    ((number, alert),) = fallen
    assert number == POLICY.open_book_reference_steps + POLICY.open_book_window
    assert (alert.monitor, alert.action, alert.value, alert.limit) == (
        "open_book",
        "halt",
        pytest.approx(0.3),
        pytest.approx(0.4),
    )


def test_steps_in_which_the_base_was_not_asked_say_nothing_of_it() -> None:
    monitor = PlayMonitor(POLICY)
    feed(monitor, [_open_book(0.8)] * POLICY.open_book_reference_steps)
    assert feed(monitor, [[group("challenger", TORN)]] * (LIMIT - 1)) == []


def test_a_closed_book_refusal_passed_the_open_book_check() -> None:
    monitor = PlayMonitor(POLICY)
    feed(monitor, [_open_book(0.8)] * POLICY.open_book_reference_steps)
    known = [group("challenger", VALID, *[("refused", "base_closed_book")] * 3)]
    assert feed(monitor, [known] * 20) == []


def test_groups_that_teach_nothing_are_called_stalled_once_a_window() -> None:
    played = [group("challenger", VALID)]
    found = feed(PlayMonitor(POLICY), [played] * (2 * POLICY.zero_advantage_window), frac_zero_std=0.7)
    assert [number for number, _ in found] == [POLICY.zero_advantage_window, 2 * POLICY.zero_advantage_window]
    assert {(alert.monitor, alert.severity, alert.action) for _, alert in found} == {("stalled", "warn", "log")}
    assert feed(PlayMonitor(POLICY), [played] * 50, frac_zero_std=0.6) == []


def test_held_out_questions_that_stay_flat_end_the_run_without_an_open_alarm() -> None:
    monitor, found = PlayMonitor(POLICY), []
    for number, heldout in enumerate([0.4, None, 0.5, 0.5, None, 0.45, 0.49], start=1):
        found += monitor.check(step_of(number, heldout=heldout), [group("challenger", VALID)])
    (alert,) = found
    assert (alert.step, alert.monitor, alert.severity, alert.action) == (7, "heldout_flat", "warn", "halt")
    assert (alert.value, alert.limit) == (0.49, 0.5)


def test_a_better_measurement_begins_the_count_anew() -> None:
    monitor = PlayMonitor(POLICY)
    values = [0.4, 0.4, 0.4, 0.41, 0.41, 0.41, 0.42, 0.4]
    assert [a for v in values for a in monitor.check(step_of(heldout=v), [group("challenger", VALID)])] == []


def test_general_ability_may_fall_three_points() -> None:
    monitor = PlayMonitor(POLICY)
    assert monitor.check_measured(step_of(), {"probe/dev_open_book": 0.1}) == []
    assert monitor.check_measured(step_of(), {GENERAL: 0.5}) == []
    assert monitor.check_measured(step_of(), {GENERAL: 0.47}) == []
    (alert,) = monitor.check_measured(step_of(), {GENERAL: 0.465})
    assert (alert.monitor, alert.severity, alert.action) == ("general", "critical", "halt")
    assert (alert.value, alert.limit) == (pytest.approx(0.035), POLICY.max_general_loss)


def test_it_remembers_across_a_restart_at_any_step() -> None:
    plays = [*[_open_book(0.8)] * 25, *[_open_book(0.1)] * 12]

    def alerts(restart_at: int | None) -> list[Alert]:
        monitor, found = PlayMonitor(POLICY), []
        for i, groups in enumerate(plays):
            if i == restart_at:
                saved = json.loads(canonical_json(monitor.state()))
                monitor = PlayMonitor(POLICY)
                monitor.load(saved)
            found += monitor.check(step_of(i, heldout=0.5 - i / 100, frac_zero_std=0.9), groups)
            found += monitor.check_measured(step_of(i), {GENERAL: 0.9 - i / 1000})
        return found

    expected = alerts(None)
    assert {alert.monitor for alert in expected} == {"open_book", "stalled", "heldout_flat", "general"}
    assert all(alerts(at) == expected for at in range(len(plays)))


def test_it_is_a_monitor_that_remembers_and_hears_of_measurements() -> None:
    assert isinstance(PlayMonitor(POLICY), StatefulMonitor)
    assert isinstance(PlayMonitor(POLICY), MeasureMonitor)
