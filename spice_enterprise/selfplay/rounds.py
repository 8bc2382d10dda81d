"""What one round at one chunk gave, and which round is learned from.

In: judged proposals, and the answers to the tasks made of them.
Out: rewards by position; whether there is anything to learn; the round and the task that are trained on.
Refuses: nothing.
Not here: asking (`turn.py`), records (`scribe.py`).

A group has a signal when its rewards are not all equal: without one every advantage is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from spice_enterprise.records import Completion, Prompt, Task
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.challenger import Plan, Proposal
from spice_enterprise.selfplay.rewards import challenger_reward

INVALID_REWARD: Final = challenger_reward((), valid=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One challenger completion as read and judged; `reason` is empty when it was admitted."""

    completion: Completion
    proposal: Proposal
    reason: str
    wrong_options: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task to be attempted, and which attempts of its round proposed it."""

    task: Task
    """Its `rollout_id` is still empty: a rollout's id covers its reward, which is known only after the answers."""
    proposers: tuple[int, ...]
    prompt: Prompt
    """What the Reasoner is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A draft with its answers; the very completions that gave `correct` are the training rows."""

    draft: Draft
    completions: tuple[Completion, ...]
    correct: tuple[bool, ...]
    is_repeat: bool = False
    """An earlier chunk of the step has the same task: recorded, and not trained on."""

    @property
    def is_mixed(self) -> bool:
        """True when neither all nor none of the answers are right."""
        return 0 < sum(self.correct) < len(self.correct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One group of attempts at one chunk, which share a prompt, and the answers to their tasks."""

    plan: Plan
    number: int
    attempts: tuple[Attempt, ...]
    answers: tuple[Answered, ...] = ()

    @property
    def fresh(self) -> tuple[int, ...]:
        """Positions of the answers that may be trained on."""
        return tuple(i for i, answered in enumerate(self.answers) if not answered.is_repeat)

    @property
    def earned(self) -> dict[int, float]:
        """Rewards by position, of the attempts whose task was attempted and may be trained on."""
        kept = [self.answers[i] for i in self.fresh]
        return {position: challenger_reward(a.correct) for a in kept for position in a.draft.proposers}

    @property
    def has_signal(self) -> bool:
        """True when the proposals' rewards differ, or some task was answered both right and wrong."""
        rewards = {*self.earned.values(), *(INVALID_REWARD for attempt in self.attempts if attempt.reason)}
        return bool(self.fresh) and (len(rewards) > 1 or any(self.answers[i].is_mixed for i in self.fresh))

    def place(self, position: int) -> int:
        """Number the attempts of all rounds through, so that equal texts of two rounds stay two rollouts."""
        return self.number * len(self.attempts) + position

    def choose_task(self, seed: int, step: int) -> int | None:
        """Return which answered task trains the Reasoner: a random one with right and wrong answers, else any."""
        mixed = [i for i in self.fresh if self.answers[i].is_mixed]
        draws = stream(seed, step, self.plan.chunk.chunk_id, "task", self.number)
        return draws.choice(mixed or self.fresh) if self.fresh else None


def trained_round(rounds: Sequence[Round]) -> Round | None:
    """Return the last round with a task, else None: a chunk plays on only until there is something to learn."""
    return next((played for played in reversed(rounds) if played.fresh), None)
