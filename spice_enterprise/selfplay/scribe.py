"""The records of one step: rollouts with rewards, tasks, verdicts, groups.

In: what turns and replays came to, with everything that was drawn.
Out: `Played`: every completion exactly once as a rollout, and which groups are trained on.
Refuses: nothing.
Not here: which task is trained on (`rounds.py`), what a rollout earns (`rewards.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from spice_enterprise.protocols import Grade, Played, PlayedRollout
from spice_enterprise.records import (
    AdapterVersion,
    Admission,
    Completion,
    Outcome,
    Prompt,
    Role,
    Rollout,
    RolloutGroup,
    Task,
)
from spice_enterprise.selfplay.rewards import reasoner_reward
from spice_enterprise.selfplay.rounds import Answered, Draft, Round, trained_round
from spice_enterprise.selfplay.turn import FormatChoice, Rules, TurnPlayed

UNREADABLE: Final = frozenset({"unparsable", "schema", "type"})
"""Codes of proposals that are not what their contract demands."""


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
    rules: Rules
    is_challenger_trained: bool = True

    def turn(self, played: TurnPlayed) -> Played:
        """Return everything one chunk gave. One round at most, and one of its tasks, is trained on."""
        trained = trained_round(played.rounds)
        chosen = [self._choice(played.choice, played.chunk.chunk_id)] if played.choice else []
        return joined((*chosen, *(self._round(one, is_trained=one is trained) for one in played.rounds)))

    def replays(self, answered: Sequence[Answered]) -> Played:
        """Return the tasks of earlier steps that were attempted again; those with right and wrong answers are trained on."""
        groups = [self._answers(item.draft.task, item) for item in answered]
        records = tuple(
            PlayedRollout(group=group, is_trained=item.is_mixed) for group, item in zip(groups, answered, strict=True)
        )
        return replace(_played(records, ()), replayed=tuple(item.draft.task for item in answered))

    def _choice(self, choice: FormatChoice, chunk_id: str) -> Played:
        """Return the model's choice of a format as a group of one that is never trained on."""
        mark = Mark(outcome="valid" if choice.chosen else "unparsable", reason="format_choice", reward=0.0)
        rows = (choice.completion.prompt_token_ids, [choice.completion], [mark], [0])
        group = self._group("challenger", chunk_id, choice.prompt, rows)
        return _played((PlayedRollout(group=group, is_trained=False),), ())

    def _round(self, played: Round, *, is_trained: bool) -> Played:
        """Return one round: the group, the attempts left out of it beside it, the answers, and every verdict."""
        kept = [i for i in played.kept if i in played.rewards]
        left_out = [i for i in range(len(played.attempts)) if i not in kept]
        outside, group = (self._proposals(played, positions) for positions in (left_out, kept))
        proposed = {r.index: r.rollout_id for r in (*outside.rollouts, *group.rollouts)}
        rollout_ids = [proposed[self._place(played, i)] for i in range(len(played.attempts))]
        tasks = tuple(replace(a.draft.task, rollout_id=rollout_ids[a.draft.proposers[0]]) for a in played.answers)
        records = [
            PlayedRollout(group=outside, is_trained=False),
            PlayedRollout(group=group, is_trained=is_trained and self.is_challenger_trained),
        ]
        rules = self.rules
        chosen = played.choose_task(rules.config.reasoner_task, seed=rules.seed, step=rules.step) if is_trained else None
        for i, (task, answered) in enumerate(zip(tasks, played.answers, strict=True)):
            records.append(PlayedRollout(group=self._answers(task, answered), is_trained=i == chosen))
        found = _played([record for record in records if record.group.rollouts], tasks)
        return replace(found, admissions=tuple(self._verdicts(played, rollout_ids, tasks)))

    def _verdicts(self, played: Round, rollout_ids: Sequence[str], tasks: Sequence[Task]) -> Iterable[Admission]:
        """Yield what was decided about every proposal that could be read."""
        of_position: dict[int, tuple[Draft, str]] = {
            i: (draft, task_id)
            for draft, task_id in zip(played.drafts, [task.task_id for task in tasks] or [""] * len(played.drafts), strict=True)
            for i in draft.proposers
        }
        for i, attempt in enumerate(played.attempts):
            draft, task_id = of_position.get(i, (None, ""))
            if attempt.reason not in UNREADABLE:
                yield Admission(
                    rollout_id=rollout_ids[i],
                    chunk_id=played.plan.chunk.chunk_id,
                    code=attempt.reason,
                    task_id=task_id,
                    similarity=draft.similarity if draft else 0.0,
                    is_near_copy=draft.is_near_copy if draft else False,
                    open_book=attempt.votes.open_book,
                    closed_book=attempt.votes.closed_book,
                    task_format=played.plan.task_format,
                    answer_kind=attempt.proposal.answer_kind,
                    question=attempt.proposal.question,
                    answer=attempt.proposal.answer,
                )

    def _place(self, played: Round, position: int) -> int:
        return played.place(position, group=self.rules.config.challenger_group)

    def _proposals(self, played: Round, positions: Sequence[int]) -> RolloutGroup:
        """Return the attempts at `positions` as one challenger group."""
        completions = [played.attempts[i].completion for i in positions]
        marks, places = [_mark(played, i) for i in positions], [self._place(played, i) for i in positions]
        prompt_ids = played.attempts[0].completion.prompt_token_ids
        return self._group("challenger", played.plan.chunk.chunk_id, played.plan.prompt, (prompt_ids, completions, marks, places))

    def _answers(self, task: Task, answered: Answered) -> RolloutGroup:
        """Return the attempts at one task as one reasoner group."""
        marks = [_graded(grade) for grade in answered.grades]
        prompt_ids = answered.completions[0].prompt_token_ids
        rows = (prompt_ids, answered.completions, marks, range(len(marks)))
        group = self._group("reasoner", task.task_id, answered.draft.prompt, rows)
        return replace(group, passages=answered.draft.passages)

    def _adapter_id(self, completion: Completion) -> str:
        """Return the version that wrote it; a frozen model has no version, and its digest stands for it."""
        is_own = completion.adapter_digest == self.version.digest
        return self.version.adapter_id if is_own else completion.adapter_digest

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
                adapter_id=self._adapter_id(completion),
                adapter_digest=completion.adapter_digest,
                template_id=prompt.template_id,
                step=self.rules.step,
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
    """Return the mark of one proposal; a valid one without a pass rate that may be trained on earns 0."""
    reason = played.attempts[position].reason
    if reason:
        outcome: Outcome = "unparsable" if reason in UNREADABLE else "refused"
        return Mark(outcome=outcome, reason=reason, reward=played.rewards[position])
    if (reward := played.rewards.get(position)) is not None:
        return Mark(outcome="valid", reason="", reward=reward)
    if position not in played.kept:
        return Mark(outcome="valid", reason="not_kept", reward=0.0)
    is_repeat = any(position in answered.draft.proposers for answered in played.answers)
    return Mark(outcome="valid", reason="repeated" if is_repeat else "not_attempted", reward=0.0)


def _graded(grade: Grade) -> Mark:
    outcome: Outcome = "correct" if grade.is_correct else "wrong"
    return Mark(outcome=outcome, reason=grade.code, reward=reasoner_reward(grade.is_correct))


def _played(records: Sequence[PlayedRollout], tasks: tuple[Task, ...]) -> Played:
    return Played(groups=tuple(r.group for r in records if r.is_trained), tasks=tasks, rollouts=tuple(records))


def joined(parts: Iterable[Played]) -> Played:
    """Return many plays as one, in order."""
    every = tuple(parts)
    return Played(
        groups=tuple(group for part in every for group in part.groups),
        tasks=tuple(task for part in every for task in part.tasks),
        rollouts=tuple(rollout for part in every for rollout in part.rollouts),
        admissions=tuple(admission for part in every for admission in part.admissions),
        replayed=tuple(task for part in every for task in part.replayed),
    )
