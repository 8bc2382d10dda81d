"""The records of one step: rollouts with rewards, tasks, groups.

In: the rounds of a chunk, with everything that was drawn.
Out: `Played`: every completion exactly once as a rollout, and which groups are trained on.
Refuses: nothing.
Not here: which round and task are trained on (`rounds.py`), what a rollout earns (`rewards.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from spice_enterprise.protocols import Played, PlayedRollout
from spice_enterprise.records import AdapterVersion, Completion, Outcome, Prompt, Role, Rollout, RolloutGroup, Task
from spice_enterprise.selfplay.rewards import reasoner_reward
from spice_enterprise.selfplay.rounds import INVALID_REWARD, Answered, Round, trained_round


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a rollout is worth: outcome, reason code, reward."""

    outcome: Outcome
    reason: str
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scribe:
    """Writes the records of one step."""

    version: AdapterVersion
    step: int
    seed: int

    def chunk(self, rounds: Sequence[Round]) -> Played:
        """Return everything one chunk gave. One round at most, and one of its tasks, is trained on."""
        trained = trained_round(rounds)
        return joined(self._round(played, is_trained=played is trained) for played in rounds)

    def _round(self, played: Round, *, is_trained: bool) -> Played:
        """Return one round: the valid proposals without a reward leave the group, the others stay beside the answers."""
        earned, every = played.earned, range(len(played.attempts))
        left_out = [i for i in every if not played.attempts[i].reason and i not in earned]
        kept = [i for i in every if i not in left_out]
        outside, group = (self._proposals(played, positions) for positions in (left_out, kept))
        proposed = {r.index: r.rollout_id for r in (*outside.rollouts, *group.rollouts)}
        tasks = tuple(
            replace(answered.draft.task, rollout_id=proposed[played.place(answered.draft.proposers[0])])
            for answered in played.answers
        )
        records = [PlayedRollout(group=outside, is_trained=False), PlayedRollout(group=group, is_trained=is_trained)]
        chosen = played.choose_task(self.seed, self.step) if is_trained else None
        for i, (task, answered) in enumerate(zip(tasks, played.answers, strict=True)):
            records.append(PlayedRollout(group=self._answers(task, answered), is_trained=i == chosen))
        return _played([record for record in records if record.group.rollouts], tasks)

    def _proposals(self, played: Round, positions: Sequence[int]) -> RolloutGroup:
        """Return the attempts at `positions` as one challenger group."""
        completions = [played.attempts[i].completion for i in positions]
        marks, places = [_mark(played, i) for i in positions], [played.place(i) for i in positions]
        prompt_ids = played.attempts[0].completion.prompt_token_ids
        return self._group("challenger", played.plan.chunk.chunk_id, played.plan.prompt, (prompt_ids, completions, marks, places))

    def _answers(self, task: Task, answered: Answered) -> RolloutGroup:
        """Return the attempts at one task as one reasoner group."""
        marks = [
            Mark(outcome="correct" if is_right else "wrong", reason="", reward=reasoner_reward(is_right))
            for is_right in answered.correct
        ]
        prompt_ids = answered.completions[0].prompt_token_ids
        rows = (prompt_ids, answered.completions, marks, range(len(marks)))
        return self._group("reasoner", task.task_id, answered.draft.prompt, rows)

    def _group(
        self,
        role: Role,
        parent_id: str,
        prompt: Prompt,
        rows: tuple[tuple[int, ...], Sequence[Completion], Sequence[Mark], Sequence[int]],
    ) -> RolloutGroup:
        prompt_ids, completions, marks, places = rows
        rollouts = tuple(
            Rollout(
                role=role,
                parent_id=parent_id,
                adapter_id=self.version.adapter_id,
                adapter_digest=completion.adapter_digest,
                template_id=prompt.template_id,
                step=self.step,
                index=place,
                token_ids=completion.token_ids,
                logprobs=completion.logprobs,
                text=completion.text,
                stop_reason=completion.stop_reason,
                outcome=mark.outcome,
                reason=mark.reason,
                reward=mark.reward,
            )
            for completion, mark, place in zip(completions, marks, places, strict=True)
        )
        return RolloutGroup(role=role, parent_id=parent_id, prompt_token_ids=prompt_ids, rollouts=rollouts)


def _mark(played: Round, position: int) -> Mark:
    """Return the mark of one proposal; a valid one whose task is not trained on earns 0."""
    reason = played.attempts[position].reason
    if reason:
        return Mark(outcome="unparsable" if reason == "unparsable" else "refused", reason=reason, reward=INVALID_REWARD)
    if (reward := played.earned.get(position)) is not None:
        return Mark(outcome="valid", reason="", reward=reward)
    is_repeat = any(position in answered.draft.proposers for answered in played.answers)
    return Mark(outcome="valid", reason="repeated" if is_repeat else "not_attempted", reward=0.0)


def _played(records: Sequence[PlayedRollout], tasks: tuple[Task, ...]) -> Played:
    return Played(groups=tuple(r.group for r in records if r.is_trained), tasks=tasks, rollouts=tuple(records))


def joined(parts: Iterable[Played]) -> Played:
    """Return many plays as one, in order."""
    every = tuple(parts)
    return Played(
        groups=tuple(group for part in every for group in part.groups),
        tasks=tuple(task for part in every for task in part.tasks),
        rollouts=tuple(rollout for part in every for rollout in part.rollouts),
    )
