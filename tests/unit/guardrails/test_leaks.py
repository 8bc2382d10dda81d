"""The per-step look counts what must not be written and never quotes it."""

import re
from dataclasses import replace

from spice_enterprise.guardrails.leaks import LeakMonitor
from spice_enterprise.records import Rollout, RolloutGroup, Span, Step

CANARY = "CANARY-0123456789abcdef"
STEP = Step(
    number=3,
    adapter_id="adapter_0",
    rollout_ids=(),
    is_applied=True,
    reward_mean=0.4,
    reward_std=0.3,
    challenger_reward_mean=0.2,
    reasoner_reward_mean=0.5,
    frac_zero_std=0.2,
    loss=0.01,
    grad_norm=0.8,
    kl_nats_per_token=0.0,
    entropy_nats_per_token=1.2,
    length_mean_tokens=30.0,
    invalid_rate=0.4,
    trained_tokens=100,
)


class Digits:
    """Finds long numbers, and calls capitalised words persons."""

    def detect(self, text: str) -> list[Span]:
        found = [(m, "PHONE") for m in re.finditer(r"\d{6,}", text)] + [(m, "PERSON") for m in re.finditer(r"[A-Z][a-z]+", text)]
        return [Span(start=m.start(), end=m.end(), entity=kind, score=1.0, detector="digits") for m, kind in found]


class Broken:
    """A detector that fails with the text in its message."""

    def detect(self, text: str) -> list[Span]:
        raise RuntimeError(text)


def _group(*texts: str) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            role="reasoner", parent_id="task_1", adapter_id="adapter_0", adapter_digest="d", template_id="t", step=3, index=i,
            token_ids=(), logprobs=(), text=text, stop_reason="stop", outcome="wrong", reason="", reward=0.0,
        )
        for i, text in enumerate(texts)
    )  # fmt: skip
    return RolloutGroup(role="reasoner", parent_id="task_1", prompt_token_ids=(), rollouts=rollouts)


def test_clean_rollouts_give_no_alert() -> None:
    groups = [_group("Maria paid 45 days late", "[PHONE_abc234] was called"), _group("")]
    assert LeakMonitor(Digits()).check(STEP, groups) == []


def test_a_canary_is_critical() -> None:
    (alert,) = LeakMonitor(Digits()).check(STEP, [_group(f"is {CANARY}!", CANARY), _group("CANARY-short")])
    assert (alert.monitor, alert.severity, alert.action, alert.value) == ("canary", "critical", "restore", 1.0)
    assert (alert.step, alert.step_id) == (3, STEP.step_id)


def test_examples_of_a_warm_up_are_not_what_the_model_wrote() -> None:
    taught = replace(_group(f"is {CANARY}!", "call 5551234567"), objective="supervised")
    assert LeakMonitor(Digits()).check(STEP, [taught]) == []


def test_personal_data_is_a_warning_counted_by_value() -> None:
    (alert,) = LeakMonitor(Digits()).check(STEP, [_group("call 5551234567", "or 5551234567", "or 7654321")])
    assert (alert.monitor, alert.value) == ("personal_data", 2.0)
    assert (alert.severity, alert.action) == ("warn", "log"), "a model invents such text: no reason to go back"


def test_a_blind_monitor_halts_and_still_reports_canaries() -> None:
    canary, blind = LeakMonitor(Broken()).check(STEP, [_group(CANARY)])
    assert canary.monitor == "canary"
    assert (blind.monitor, blind.severity, blind.action) == ("leak_detector", "critical", "halt")


def test_alerts_never_quote() -> None:
    alerts = LeakMonitor(Digits()).check(STEP, [_group(CANARY, "5551234567")]) + LeakMonitor(Broken()).check(
        STEP, [_group(CANARY)]
    )
    assert len(alerts) == 4
    for alert in alerts:
        assert CANARY not in repr(alert)
        assert "5551234567" not in repr(alert)
