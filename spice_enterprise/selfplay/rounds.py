"""What the attempts at one chunk gave, and which of them are learned from.

In: judged proposals that share a prompt, and the answers to the tasks made of them.
Out: which attempts are kept; rewards by position; whether there is anything to learn; the task that trains the Reasoner.
Refuses: nothing.
Not here: asking (`turn.py`), what an answer is worth (`rewards.py`), records (`scribe.py`).

Rounds that ask the same prompt are one pool, as in Algorithm 1 of SPICE: of M attempts with V valid ones a group of G is
kept, in the same ratio. Rounds that offer another span ask another prompt and are a pool of their own. A group has a signal
when its rewards are not all equal: without one every advantage is zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from spice_enterprise.protocols import Grade
from spice_enterprise.records import Completion, Prompt, Task
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.base_check import Votes
from spice_enterprise.selfplay.challenger import Plan, Proposal

ReasonerTask = Literal["frontier", "random", "best_reward"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One challenger completion as read and judged; `reason` is empty when it was admitted."""

    completion: Completion
    proposal: Proposal
    reason: str
    options: tuple[str, ...] = field(default=(), repr=False)
    """Of a choice: all of them where the model wrote them, the wrong ones where code did."""
    votes: Votes = field(default_factory=Votes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task to be attempted, and which attempts of its round proposed it."""

    task: Task
    """Its `rollout_id` is still empty: a rollout's id covers its reward, which is known only after the answers."""
    prompt: Prompt
    """What the Reasoner is asked."""
    proposers: tuple[int, ...] = ()
    passages: tuple[str, ...] = ()
    """Ids of the chunks the prompt shows."""
    similarity: float = 0.0
    """Cosine to the nearest question asked before."""
    is_near_copy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A draft with its answers; the very completions that gave the grades are the training rows."""

    draft: Draft
    completions: tuple[Completion, ...]
    grades: tuple[Grade, ...]
    is_repeat: bool = False
    """An earlier chunk of the step has the same task: recorded, and not trained on."""

    @property
    def correct(self) -> tuple[bool, ...]:
        """The verdict of each answer."""
        return tuple(grade.is_correct for grade in self.grades)

    @property
    def is_mixed(self) -> bool:
        """True when neither all nor none of the answers are right."""
        return 0 < sum(self.correct) < len(self.correct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A pool of attempts at one chunk that share a prompt, the group kept of it, and the answers to its tasks."""

    plan: Plan
    number: int
    """Of its first round."""
    attempts: tuple[Attempt, ...]
    kept: tuple[int, ...] = ()
    """Positions of the group, in order."""
    drafts: tuple[Draft, ...] = ()
    answers: tuple[Answered, ...] = ()
    rewards: Mapping[int, float] = field(default_factory=dict)
    """By position: what an attempt earned, refused ones included; without those that have no pass rate of their own."""

    @property
    def fresh(self) -> tuple[int, ...]:
        """Positions of the answers that may be trained on."""
        return tuple(i for i, answered in enumerate(self.answers) if not answered.is_repeat)

    @property
    def has_signal(self) -> bool:
        """True when the proposals' rewards differ, or some task was answered both right and wrong."""
        rewards = {self.rewards[i] for i in self.kept if i in self.rewards}
        return bool(self.fresh) and (len(rewards) > 1 or any(self.answers[i].is_mixed for i in self.fresh))

    def place(self, position: int, *, group: int) -> int:
        """Number the attempts of all rounds of `group` through, so that equal texts of two rounds stay two rollouts."""
        return self.number * group + position

    def choose_task(self, how: ReasonerTask, *, seed: int, step: int) -> int | None:
        """Return which answered task trains the Reasoner; None without one."""
        if not self.fresh:
            return None
        draws = stream(seed, step, self.plan.chunk.chunk_id, "task", self.number)
        if how == "best_reward":
            return max(self.fresh, key=lambda i: self.rewards.get(self.answers[i].draft.proposers[0], 0.0))
        mixed = [i for i in self.fresh if self.answers[i].is_mixed] if how == "frontier" else []
        return draws.choice(mixed or list(self.fresh))


def kept_counts(valid: int, invalid: int, *, group: int) -> tuple[int, int]:
    """Return how many valid and invalid attempts a group keeps: their ratio, and at least one of each that exists.

    Ties round half to even.
    """
    total = valid + invalid
    size = min(group, total)
    if not valid or not invalid:
        return (size, 0) if valid else (0, size)
    kept = min(max(round(size * valid / total), 1), size - 1)
    return kept, size - kept


def keep(attempts: Sequence[Attempt], *, group: int, seed: int, path: tuple[str | int, ...]) -> tuple[int, ...]:
    """Return the positions of the attempts that stay in the group, in order: all of them where they fit."""
    if len(attempts) <= group:
        return tuple(range(len(attempts)))
    valid = [i for i, attempt in enumerate(attempts) if not attempt.reason]
    invalid = [i for i, attempt in enumerate(attempts) if attempt.reason]
    n_valid, n_invalid = kept_counts(len(valid), len(invalid), group=group)
    draws = stream(seed, *path, "keep")
    return tuple(sorted((*draws.sample(valid, n_valid), *draws.sample(invalid, n_invalid))))


def trained_round(rounds: Sequence[Round]) -> Round | None:
    """Return the last round with a task, else None: a chunk plays on only until there is something to learn."""
    return next((played for played in reversed(rounds) if played.fresh), None)
