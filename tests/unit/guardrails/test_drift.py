"""Every hard rule fires on its fault, at its time, and on nothing else; nothing makes the monitor raise."""

import math
from collections.abc import Mapping
from typing import Any

import pytest

from spice_enterprise.guardrails.drift import HardRuleMonitor, make, number, observed
from spice_enterprise.policy import load_guardrails
from spice_enterprise.records import Rollout, RolloutGroup, Step

POLICY = load_guardrails()
INF, NAN = math.inf, math.nan


def _obs(step: int = 0, **changes: float | None) -> dict[str, float | None]:
    healthy = {
        "step": float(step), "reward_mean": 0.4 + 0.01 * (step % 7), "reward_std": 0.3, "frac_zero_std": 0.2, "loss": 0.01,
        "grad_norm": 0.8, "kl": 1e-4, "heldout": None, "heldout_se": None, "entropy": 1.2, "length_mean": 30.0,
        "n_rollouts": 64.0, "invalid_rate": 0.4,
    }  # fmt: skip
    return healthy | changes


def _first_alarm(*changes: Mapping[str, float | None]) -> int | None:
    """Feed healthy steps with `changes` laid over them; return the index of the first alarm."""
    monitor = make()
    return next((i for i, change in enumerate(changes) if monitor.update(_obs(i, **change)) is not None), None)


def test_a_healthy_run_is_quiet() -> None:
    assert _first_alarm(*[{}] * 500) is None


@pytest.mark.parametrize("key", ["reward_mean", "reward_std", "kl", "entropy"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_alarms_at_once(key: str, value: float) -> None:
    assert make().update(_obs(**{key: value})) == f"{key} is not finite"


@pytest.mark.parametrize("key", ["loss", "grad_norm"])
def test_one_withheld_update_is_tolerated_two_of_twenty_are_not(key: str) -> None:
    bad = {key: NAN}
    assert _first_alarm(bad, *[{}] * 30) is None
    assert _first_alarm(bad, *[{}] * 18, bad) == 19
    assert _first_alarm(bad, *[{}] * 19, bad) is None
    assert _first_alarm(bad, bad) == 1


def test_loss_and_grad_norm_of_one_step_count_once() -> None:
    assert _first_alarm({"loss": NAN, "grad_norm": INF}, *[{}] * 30) is None


@pytest.mark.parametrize("mean", [1.01, 10.0, -0.11, -5.0])
def test_rewards_outside_their_range_alarm_at_once(mean: float) -> None:
    assert "outside [-0.1, 1]" in (make().update(_obs(reward_mean=mean)) or "")


def test_the_ends_of_the_range_are_inside() -> None:
    assert _first_alarm({"reward_mean": 1.0}, {"reward_mean": -0.1}) is None
    assert "impossible" in (make().update(_obs(reward_std=1.2)) or "")
    assert "impossible" in (make().update(_obs(reward_std=-0.2)) or "")


def test_kl_above_its_limit_alarms_at_once() -> None:
    assert make().update(_obs(kl=POLICY.max_kl_nats_per_token)) is None
    assert make().update(_obs(kl=0.051)) == "kl 0.051 nats per token is above 0.05"


def test_grad_norm_must_be_high_twice_in_a_row() -> None:
    high = {"grad_norm": POLICY.max_grad_norm + 1}
    assert _first_alarm(high, {}, high, {}, high) is None
    assert _first_alarm({}, high, high) == 2


def test_a_frozen_grader_alarms_at_the_third_step() -> None:
    frozen = {"reward_mean": 0.5, "reward_std": 0.0}
    assert _first_alarm(frozen, frozen, frozen) == 2
    assert _first_alarm(frozen, frozen, {}, frozen, frozen) is None
    assert _first_alarm(*[{"reward_mean": 0.5}] * 9) is None
    assert _first_alarm(*[{"reward_std": 0.0}] * 9) is None


def test_too_few_usable_proposals_alarm_when_the_window_is_full() -> None:
    stuck = {"invalid_rate": 0.95}
    assert _first_alarm(*[stuck] * 20) == POLICY.valid_rate_window - 1
    assert _first_alarm(*[{"invalid_rate": 1.0}] * 8, *[{}] * 20) is None
    assert _first_alarm(*[{"invalid_rate": 0.9}] * 40) is None
    assert _first_alarm(*[{"invalid_rate": NAN}] * 10) == 9


def test_after_an_alarm_the_windows_start_empty() -> None:
    monitor = make()
    alarms = [monitor.update(_obs(i, invalid_rate=1.0)) is not None for i in range(30)]
    assert [i for i, alarm in enumerate(alarms) if alarm] == [9, 19, 29]


def test_several_reasons_are_told_together() -> None:
    assert make().update(_obs(kl=NAN, reward_mean=7.0)) == "kl is not finite; reward_mean 7 is outside [-0.1, 1]"


class Hostile:
    """Raises whatever is asked of it."""

    def __float__(self) -> float:
        raise RuntimeError("no")

    def __getitem__(self, key: str) -> float:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "obs",
    [
        {}, None, 3, "text", [], Hostile(), {"kl": "0.2"}, {"kl": Hostile()}, {"kl": 10**400}, {"kl": 1j}, {"kl": []}, {1: 2},
        {"kl": b"1"},
    ],
)  # fmt: skip
def test_nothing_makes_it_raise(obs: Any) -> None:
    monitor = make()
    for _ in range(25):
        monitor.update(obs)


def test_missing_is_not_measured_and_nonsense_is_not_a_number() -> None:
    assert number({}, "kl") is None
    assert number({"kl": None}, "kl") is None
    assert math.isnan(number({"kl": "0.2"}, "kl") or 0.0)
    assert number({"kl": True}, "kl") == 1.0
    assert make().update({}) is None
    assert make().update({"kl": "0.2"}) == "kl is not finite"  # type: ignore[dict-item]  # that is the point


def _step(number_: int = 1, **changes: Any) -> Step:
    values: dict[str, Any] = {
        "number": number_, "adapter_id": "adapter_0", "rollout_ids": ("roll_1",), "is_applied": True,
        "reward_mean": 0.4 + 0.01 * (number_ % 7), "reward_std": 0.3, "challenger_reward_mean": 0.2,
        "reasoner_reward_mean": 0.5, "frac_zero_std": 0.2, "loss": 0.01, "grad_norm": 0.8, "kl_nats_per_token": 1e-4,
        "entropy_nats_per_token": 1.2, "length_mean_tokens": 30.0, "invalid_rate": 0.4, "trained_tokens": 100,
    }  # fmt: skip
    return Step(**values | changes)


def test_a_breach_becomes_a_critical_alert_that_names_the_step() -> None:
    step = _step(4, kl_nats_per_token=0.2)
    (alert,) = HardRuleMonitor(POLICY).check(step, ())
    assert (alert.step_id, alert.step, alert.monitor) == (step.step_id, 4, "kl")
    assert (alert.severity, alert.action, alert.value, alert.limit) == ("critical", "restore", 0.2, 0.05)


def test_a_high_kl_and_a_withheld_update_are_warnings() -> None:
    kl, withheld = HardRuleMonitor(POLICY).check(_step(kl_nats_per_token=0.02, is_applied=False, loss=NAN), ())
    assert (kl.monitor, kl.severity, kl.limit) == ("kl", "warn", POLICY.warn_kl_nats_per_token)
    assert (withheld.monitor, withheld.severity, withheld.action) == ("withheld", "warn", "log")


def test_a_healthy_step_gives_no_alert() -> None:
    monitor = HardRuleMonitor(POLICY)
    assert [alert for i in range(50) for alert in monitor.check(_step(i), ())] == []


def test_the_monitor_keeps_its_own_memory() -> None:
    first, second = HardRuleMonitor(POLICY), HardRuleMonitor(POLICY)
    assert first.check(_step(1, loss=NAN), ()) == second.check(_step(1, loss=NAN), ()) == []
    (alert,) = first.check(_step(2, loss=NAN), ())
    assert alert.monitor == "non_finite_updates"


def test_a_step_of_the_warm_up_breaks_no_rule_of_play() -> None:
    monitor = HardRuleMonitor(POLICY)
    silent = {"objective": "supervised", "reward_mean": 0.0, "reward_std": 0.0, "invalid_rate": 1.0, "kl_nats_per_token": 9.0}
    assert [alert for i in range(30) for alert in monitor.check(_step(i, **silent), ())] == []
    (alert, _) = monitor.check(_step(30, **silent | {"loss": NAN, "is_applied": False}), ()) + monitor.check(
        _step(31, **silent | {"loss": NAN}), ()
    )
    assert alert.monitor == "withheld"


def test_the_choice_of_a_format_is_no_unusable_proposal() -> None:
    step = _step(1, invalid_rate=0.2)
    assert observed(step, [_format_choices()])["invalid_rate"] == 0.2


def _format_choices() -> RolloutGroup:
    rollout = Rollout(
        role="challenger", parent_id="chunk_a", adapter_id="a", adapter_digest="d", template_id="t", step=1, index=0,
        token_ids=(1,), logprobs=(-1.0,), text="x", stop_reason="stop", outcome="unparsable", reason="format_choice", reward=0.0,
    )  # fmt: skip
    return RolloutGroup(role="challenger", parent_id="chunk_a", prompt_token_ids=(1,), rollouts=(rollout,))


def test_a_family_with_lower_rewards_extends_the_range() -> None:
    low = _step(1, reward_mean=-0.5)
    assert [alert.monitor for alert in HardRuleMonitor(POLICY).check(low, ())] == ["reward_range"]
    assert HardRuleMonitor(POLICY, least_reward=-1.0).check(low, ()) == []
    (alert,) = HardRuleMonitor(POLICY, least_reward=-0.05).check(low, ())
    assert alert.limit == POLICY.reward_range[0]
