"""The stage: some chunks, both roles, and the groups to learn from.

In: chunks, the version that plays, the number of the step.
Out: `Played`: groups to train on, the tasks behind them, and every rollout with its outcome, reason and reward.
Refuses: completions of another adapter than `version` (`DeliveryError`).
Not here: refilling groups without signal, replay of old tasks, retrieval of distractor passages.

One step makes one sampler call per round of proposals and one for all answers: rows of different chunks batch well.

Where this differs from Algorithm 1 of SPICE, and why:

* A group shares one prompt, and rounds offer different spans, so the group is the *last* round and rounds are not pooled.
  Rounds before it hold no valid proposal; they are recorded and not trained on.
* Proposals with the same question share one task and its pass rate, so `max_tasks` counts different questions. Valid
  proposals beyond it are recorded as `not_attempted` and leave the group: they have no pass rate, hence no reward.
* A chunk without a valid task gives no group to train on, only records.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.errors import DeliveryError
from spice_enterprise.protocols import Played, PlayedRollout, Sampler, Verifier
from spice_enterprise.records import AdapterVersion, Chunk, Completion, Outcome, Prompt, Role, Rollout, RolloutGroup, Task
from spice_enterprise.seeding import derive, stream
from spice_enterprise.selfplay.admission import refusal
from spice_enterprise.selfplay.answers import normalise
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.challenger import Plan, Proposal, plan_chunk, read_proposal
from spice_enterprise.selfplay.options import arrange, distractors
from spice_enterprise.selfplay.reasoner import ask, grade_all
from spice_enterprise.selfplay.regimes import passages_for
from spice_enterprise.selfplay.rewards import challenger_reward, reasoner_reward
from spice_enterprise.selfplay.spans import Hint, find_hints

INVALID_REWARD: Final = challenger_reward((), valid=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One challenger completion as read and judged; `reason` is empty when it was admitted."""

    completion: Completion
    proposal: Proposal
    reason: str
    wrong_options: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One group of attempts at one chunk; they share a prompt."""

    plan: Plan
    number: int
    attempts: tuple[Attempt, ...]

    @property
    def admitted(self) -> tuple[int, ...]:
        """Positions of the admitted attempts."""
        return tuple(i for i, attempt in enumerate(self.attempts) if not attempt.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task to be attempted, and which attempts of its round proposed it."""

    task: Task
    """Its `rollout_id` is still empty: a rollout's id covers its reward, which is known only after the answers."""
    proposers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A draft with its answers; the very completions that gave `correct` are the training rows."""

    draft: Draft
    prompt: Prompt
    completions: tuple[Completion, ...]
    correct: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a rollout is worth: outcome, reason code, reward."""

    outcome: Outcome
    reason: str
    reward: float


class SelfplayStage:
    """Plays chunks with both roles; the default `Player`."""

    def __init__(
        self, *, sampler: Sampler, verifier: Verifier, config: SelfplayConfig, seed: int, archive: Archive | None = None
    ) -> None:
        self._sampler = sampler
        self._verifier = verifier
        self._config = config
        self._seed = seed
        self.archive = archive or Archive()
        """Every task played so far; it moves only when a step has been played to its end."""

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Play each chunk once with both roles.

        Depends only on the arguments, the seed and the archive. Raises `DeliveryError` when a completion was made by
        another adapter than `version`.
        """
        rounds = self._challenge(chunks, version, step)
        archive = Archive(self.archive.state())
        drafts = [self._draft(played[-1], archive) for played in rounds]
        answers = self._answer(chunks, drafts, version, step)
        scribe = Scribe(version=version, step=step, seed=self._seed)
        played = _joined(scribe.chunk(rounds[i], answers[i]) for i in range(len(chunks)))
        self.archive = archive
        return played

    def _challenge(self, chunks: Sequence[Chunk], version: AdapterVersion, step: int) -> list[list[Round]]:
        """Return the rounds of each chunk: one per chunk, more for chunks without a valid proposal."""
        rounds: list[list[Round]] = [[] for _ in chunks]
        hints = [find_hints(chunk.text) for chunk in chunks]
        for number in range(self._config.max_rounds):
            pending = [i for i, played in enumerate(rounds) if not (played and played[-1].admitted)]
            if not pending:
                break
            pools = [_nearest_first(hints, i) for i in pending]
            plans = [
                plan_chunk(chunks[i], pool, self._config, seed=self._seed, step=step, round_number=number)
                for i, pool in zip(pending, pools, strict=True)
            ]
            drawn = self._sample(
                [plan.prompt for plan in plans], self._config.challenger_group, ("challenger", step, number), version
            )
            for i, plan, pool, completions in zip(pending, plans, pools, drawn, strict=True):
                attempts = tuple(self._judge(plan, pool, completion) for completion in completions)
                rounds[i].append(Round(plan=plan, number=number, attempts=attempts))
        return rounds

    def _judge(self, plan: Plan, pool: Sequence[Hint], completion: Completion) -> Attempt:
        proposal = read_proposal(plan, completion)
        reason = refusal(proposal, plan.chunk, regime=self._config.regime, archive=self.archive)
        wrong: tuple[str, ...] = ()
        if not reason and plan.task_format == "choice":
            wrong = distractors(proposal.answer, proposal.answer_kind, pool)
            reason = "" if wrong else "options"
        return Attempt(completion=completion, proposal=proposal, reason=reason, wrong_options=wrong)

    def _draft(self, played: Round, archive: Archive) -> list[Draft]:
        """Return the different questions of a round, in the order drawn, at most `max_tasks`; `archive` learns them."""
        proposers: dict[str, list[int]] = {}
        for i in played.admitted:
            proposers.setdefault(normalise(played.attempts[i].proposal.question), []).append(i)
        drafts: list[Draft] = []
        for positions in proposers.values():
            task = self._task(played.plan, played.attempts[positions[0]])
            known = archive.holds(chunk_id=task.chunk_id, question=task.question, regime=task.regime)
            if len(drafts) < self._config.max_tasks and not known:
                archive.add(chunk_id=task.chunk_id, question=task.question, regime=task.regime)
                drafts.append(Draft(task=task, proposers=tuple(positions)))
        return drafts

    def _task(self, plan: Plan, attempt: Attempt) -> Task:
        proposal, is_choice = attempt.proposal, plan.task_format == "choice"
        options: tuple[str, ...] = ()
        answer = proposal.answer
        if is_choice:
            options, answer = arrange(proposal.answer, attempt.wrong_options, seed=self._seed, question=proposal.question)
        return Task(
            chunk_id=plan.chunk.chunk_id,
            rollout_id="",
            question=proposal.question,
            answer=answer,
            answer_kind="choice" if is_choice else proposal.answer_kind,
            task_format=plan.task_format,
            regime=self._config.regime,
            options=options,
        )

    def _answer(
        self, chunks: Sequence[Chunk], drafts: Sequence[Sequence[Draft]], version: AdapterVersion, step: int
    ) -> list[list[Answered]]:
        """Let the Reasoner attempt every draft, in one sampler call; return the answers per chunk."""
        asked = [
            (i, draft, ask(draft.task, self._config, passages=passages_for(self._config.regime, chunks[i])))
            for i, of_chunk in enumerate(drafts)
            for draft in of_chunk
        ]
        answers: list[list[Answered]] = [[] for _ in chunks]
        drawn = self._sample([prompt for _, _, prompt in asked], self._config.reasoner_group, ("reasoner", step), version)
        for (i, draft, prompt), completions in zip(asked, drawn, strict=True):
            correct = grade_all(draft.task, completions, self._verifier)
            answers[i].append(Answered(draft=draft, prompt=prompt, completions=tuple(completions), correct=correct))
        return answers

    def _sample(
        self, prompts: Sequence[Prompt], n: int, path: tuple[str | int, ...], version: AdapterVersion
    ) -> list[list[Completion]]:
        """Draw `n` completions per prompt and make sure that `version` wrote all of them."""
        if not prompts:
            return []
        drawn = self._sampler.sample(prompts, n=n, seed=derive(self._seed, *path))
        if any(c.adapter_digest != version.digest for completions in drawn for c in completions):
            raise DeliveryError(
                "the sampler answered with another adapter than the one that should play",
                record_id=version.adapter_id,
                hint="publish the version to the sampler before playing",
            )
        return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Scribe:
    """Writes the records of one step: rollouts with rewards, tasks, groups."""

    version: AdapterVersion
    step: int
    seed: int

    def chunk(self, rounds: Sequence[Round], answers: Sequence[Answered]) -> Played:
        """Return everything one chunk gave. Only its last round and one of its tasks can be trained on."""
        *earlier, last = rounds
        earned = {i: challenger_reward(answered.correct) for answered in answers for i in answered.draft.proposers}
        left_out = [i for i in last.admitted if i not in earned]
        kept = self._proposals(last, [i for i in range(len(last.attempts)) if i not in left_out], earned)
        records = [PlayedRollout(group=self._proposals(r, range(len(r.attempts)), {}), is_trained=False) for r in earlier]
        records += [PlayedRollout(group=self._proposals(last, left_out, {}), is_trained=False)] if left_out else []
        records += [PlayedRollout(group=kept, is_trained=bool(answers))] if kept.rollouts else []
        proposed = {rollout.index: rollout.rollout_id for rollout in kept.rollouts}
        tasks = tuple(
            replace(answered.draft.task, rollout_id=proposed[_place(last, answered.draft.proposers[0])]) for answered in answers
        )
        chosen = self._choose(answers)
        for i, (task, answered) in enumerate(zip(tasks, answers, strict=True)):
            records.append(PlayedRollout(group=self._answers(task, answered), is_trained=i == chosen))
        return Played(groups=tuple(r.group for r in records if r.is_trained), tasks=tasks, rollouts=tuple(records))

    def _choose(self, answers: Sequence[Answered]) -> int | None:
        """Return which task trains the Reasoner: a random one that is neither always right nor always wrong, else any."""
        if not answers:
            return None
        mixed = [i for i, answered in enumerate(answers) if 0 < sum(answered.correct) < len(answered.correct)]
        return stream(self.seed, self.step, answers[0].draft.task.chunk_id, "task").choice(mixed or range(len(answers)))

    def _proposals(self, played: Round, positions: Sequence[int], earned: Mapping[int, float]) -> RolloutGroup:
        """Return the attempts at `positions` as one challenger group; `earned` has the rewards of the attempted ones."""
        completions = [played.attempts[i].completion for i in positions]
        marks = [_mark(played.attempts[i].reason, earned.get(i)) for i in positions]
        places = [_place(played, i) for i in positions]
        prompt_ids = played.attempts[0].completion.prompt_token_ids
        return self._group("challenger", played.plan.chunk.chunk_id, played.plan.prompt, (prompt_ids, completions, marks, places))

    def _answers(self, task: Task, answered: Answered) -> RolloutGroup:
        """Return the attempts at one task as one reasoner group."""
        marks = [
            Mark(outcome="correct" if is_right else "wrong", reason="", reward=reasoner_reward(is_right))
            for is_right in answered.correct
        ]
        prompt_ids = answered.completions[0].prompt_token_ids
        places = range(len(marks))
        return self._group("reasoner", task.task_id, answered.prompt, (prompt_ids, answered.completions, marks, places))

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


def _mark(reason: str, earned: float | None) -> Mark:
    """Return the mark of one proposal; a valid one that nobody attempted has no pass rate and earns 0."""
    if reason:
        return Mark(outcome="unparsable" if reason == "unparsable" else "refused", reason=reason, reward=INVALID_REWARD)
    if earned is None:
        return Mark(outcome="valid", reason="not_attempted", reward=0.0)
    return Mark(outcome="valid", reason="", reward=earned)


def _place(played: Round, position: int) -> int:
    """Number the attempts of all rounds through, so that equal texts of two rounds stay two rollouts."""
    return played.number * len(played.attempts) + position


def _nearest_first(hints: Sequence[Sequence[Hint]], i: int) -> tuple[Hint, ...]:
    """Return the values of all chunks of the step, those of chunk `i` first."""
    return (*hints[i], *(hint for j, of_chunk in enumerate(hints) if j != i for hint in of_chunk))


def _joined(parts: Iterable[Played]) -> Played:
    every = tuple(parts)
    return Played(
        groups=tuple(group for part in every for group in part.groups),
        tasks=tuple(task for part in every for task in part.tasks),
        rollouts=tuple(rollout for part in every for rollout in part.rollouts),
    )
