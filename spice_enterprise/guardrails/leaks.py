"""A cheap look at everything the models wrote in a step.

In: the rollouts of one step and a `Detector`.
Out: critical alerts that count canaries and personal data; never the values.
Refuses: to go on unseeing: a detector that breaks is itself an alert that halts.
Not here: the release's own look (`release/leak_checks.py`), copies of training text.

Placeholders (`[PERSON_k3f7ab]`) are what scrubbing put there and do not count. Neither do kinds that a model invents freely in
prose (names, places, dates): a hit there says nothing about the corpus.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from spice_enterprise.protocols import Detector
from spice_enterprise.records import Action, Alert, RolloutGroup, Step

CANARY: Final = re.compile(r"CANARY-[0-9a-f]{16}")
_PLACEHOLDER: Final = r"\[[A-Z][A-Z_]{1,30}(?:_(?:[a-z0-9]{6,16}|HASH_[a-z2-7]{26}|ENC_[a-z2-7]{26,8192}))?\]"
_NOT_LOOKED_AT: Final = re.compile(rf"{_PLACEHOLDER}|{CANARY.pattern}")
PROSE_KINDS: Final = frozenset({"PERSON", "ORGANIZATION", "LOCATION", "ADDRESS", "NRP", "DATE_TIME", "URL"})


@dataclass(frozen=True, slots=True)
class LeakMonitor:
    """The default leakage `Monitor`."""

    detector: Detector

    def check(self, step: Step, groups: Sequence[RolloutGroup]) -> list[Alert]:
        """Return an alert per kind of leak found in this step's rollouts. Does not raise."""
        # examples of the warm-up are texts of documents: what was planted there is in them, and the model wrote none of it
        texts = [rollout.text for group in groups if group.objective == "policy" for rollout in group.rollouts]
        canaries = {found for text in texts for found in CANARY.findall(text)}
        alerts = [_alert(step, "canary", len(canaries), "restore", "planted canaries were written")] if canaries else []
        try:
            personal = {value for text in texts for value in self._personal_data(text)}
        except Exception as error:  # noqa: BLE001 - a monitor must not raise, and must not look away either
            return [*alerts, _alert(step, "leak_detector", 1, "halt", f"the detector failed with {type(error).__name__}")]
        if personal:
            # a pattern cannot tell what a model invented from what it remembers: a canary can, so that one goes back
            alerts.append(_alert(step, "personal_data", len(personal), "log", "text shaped like personal data was written"))
        return alerts

    def _personal_data(self, text: str) -> set[str]:
        bare = _NOT_LOOKED_AT.sub(lambda match: " " * len(match.group()), text)
        spans = (span for span in self.detector.detect(bare) if span.entity.upper() not in PROSE_KINDS)
        return {value for span in spans if (value := bare[span.start : span.end].strip())}


def _alert(step: Step, monitor: str, count: int, action: Action, reason: str) -> Alert:
    return Alert(
        step_id=step.step_id,
        step=step.number,
        monitor=monitor,
        value=float(count),
        limit=0.0,
        severity="warn" if action == "log" else "critical",
        action=action,
        reason=reason,
    )
