"""One chunk's turn in a step, as a play that asks for its groups: propose, admit, answer, and again where nothing is learned.

In: a chunk, the values of the step's chunks, the archive as it stood before the step.
Out: what the turn asked and heard, round by round.
Refuses: nothing; a proposal that is not fit is an `Attempt` with its reason.
Not here: other chunks (`episode.py`), waiting for completions (`streaming.py`), records (`scribe.py`).

Rounds follow one another until one has a valid proposal, at most `max_rounds`; rounds of the same prompt are one pool. If
nothing can be learned from it (all proposals earned the same and no task was answered both right and wrong) the chunk is
refilled: it proposes again, at most `refill_rounds` times, until a round has a signal. Every draw is named by (seed, role,
step, chunk, round), so a turn is the same whatever else is played beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import Grader
from spice_enterprise.records import Chunk, Completion, Prompt, Regime, Task, TaskFormat
from spice_enterprise.seeding import derive, stream
from spice_enterprise.selfplay import base_check
from spice_enterprise.selfplay.admission import refusal
from spice_enterprise.selfplay.answers import LETTERS, as_text, normalise
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.challenger import Plan, drawn_format, format_prompt, plan_chunk, read_format, read_proposal
from spice_enterprise.selfplay.chunk_sampler import task_room
from spice_enterprise.selfplay.grading import grade_completions
from spice_enterprise.selfplay.library import Library
from spice_enterprise.selfplay.options import arrange, distractors
from spice_enterprise.selfplay.reasoner import ask, ask_open_book
from spice_enterprise.selfplay.regimes import shelf
from spice_enterprise.selfplay.rewards import RewardRule
from spice_enterprise.selfplay.rounds import Answered, Attempt, Draft, Round, keep
from spice_enterprise.selfplay.spans import Hint
from spice_enterprise.selfplay.streaming import Ask, Play, Speaker

FORMATS: Final[tuple[TaskFormat, ...]] = ("free_form", "choice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What all turns of a step share."""

    config: SelfplayConfig
    seed: int
    step: int
    grader: Grader
    reward: RewardRule
    invalid_reward: float
    """What a proposal earns that is refused or cannot be read, in this step."""
    library: Library
    challenger: Speaker
    is_answered: bool = True
    """False: admitted tasks are not put to the Reasoner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatChoice:
    """The model's own choice of a format: its prompt, what it wrote, and what was read from it, None if nothing."""

    prompt: Prompt
    completion: Completion
    chosen: TaskFormat | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPlayed:
    """What one turn came to."""

    chunk: Chunk
    rounds: tuple[Round, ...]
    choice: FormatChoice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one chunk plays in one step."""

    name: str
    """Unique in the step; the beginning of the keys of its groups."""
    chunk: Chunk
    regime: Regime
    pool: Sequence[Hint] = field(repr=False)
    """Values that wrong options are made of, the chunk's own first."""
    first_round: int
    """A chunk that stands twice in a step goes on where its first turn may have ended."""
    archive: Archive = field(repr=False)
    """This turn's own copy: it learns the turn's tasks."""
    rules: Rules

    def play(self) -> Play[TurnPlayed]:
        """Play rounds until there is something to learn or the rounds are used up."""
        task_format, choice = yield from self._format()
        rounds: list[Round] = []
        while self._goes_on(rounds):
            number = self.first_round + self._asked(rounds)
            plan = self._plan(task_format, number)
            pooled = rounds.pop() if rounds and _is_same_pool(rounds[-1], plan) else None
            rounds.append((yield from self._round(plan, pooled, number=number)))
            for draft in rounds[-1].drafts:
                self.archive.add(draft.task, step=self.rules.step, document_id=self.chunk.document_id)
        return TurnPlayed(chunk=self.chunk, rounds=tuple(rounds), choice=choice)

    def _goes_on(self, rounds: Sequence[Round]) -> bool:
        config = self.rules.config
        first = next((i for i, played in enumerate(rounds) if played.drafts), None)
        if first is None:
            return self._asked(rounds) < config.max_rounds
        is_settled = not self.rules.is_answered or any(played.has_signal for played in rounds)
        return not is_settled and self._asked(rounds[first + 1 :]) < config.refill_rounds

    def _asked(self, rounds: Sequence[Round]) -> int:
        """Return how many times proposals were asked for."""
        return sum(len(played.attempts) for played in rounds) // self.rules.config.challenger_group

    def _format(self) -> Play[tuple[TaskFormat, FormatChoice | None]]:
        """Return the format of this turn: drawn, or chosen by the model; a choice that cannot be read is drawn."""
        rules, path = self.rules, (self.rules.step, self.chunk.chunk_id, self.first_round)
        drawn = drawn_format(self.chunk, rules.config, seed=rules.seed, step=rules.step)
        if drawn is not None:
            return drawn, None
        prompt = format_prompt(self.chunk, rules.config)
        seed = derive(rules.seed, "format", *path)
        ((completion,),) = yield [
            Ask(key=f"{self.name}/format", prompt=prompt, n=1, seed=seed, phase="challenger", speaker=rules.challenger)
        ]
        chosen = read_format(completion.text)
        choice = FormatChoice(prompt=prompt, completion=completion, chosen=chosen)
        instead: TaskFormat = stream(rules.seed, "format", *path).choice(FORMATS)
        return chosen or instead, choice

    def _plan(self, task_format: TaskFormat, number: int) -> Plan:
        rules = self.rules
        return plan_chunk(
            self.chunk,
            self.pool,
            rules.config,
            regime=self.regime,
            seed=rules.seed,
            step=rules.step,
            round_number=number,
            task_format=task_format,
        )

    def _round(self, plan: Plan, pooled: Round | None, *, number: int) -> Play[Round]:
        """Ask for one round of proposals, add it to its pool, and have the tasks of the kept ones answered."""
        rules, config, path = self.rules, self.rules.config, (self.rules.step, self.chunk.chunk_id, number)
        key, seed = f"{self.name}/{number}", derive(rules.seed, "challenger", *path)
        (drawn,) = yield [
            Ask(
                key=key,
                prompt=plan.prompt,
                n=config.challenger_group,
                seed=seed,
                phase="challenger",
                speaker=rules.challenger,
            )
        ]
        judged = [self._judge(plan, completion) for completion in drawn]
        checked, tasks = yield from self._checked(plan, judged, key)
        before = pooled.attempts if pooled else ()
        attempts, begun_at = (*before, *checked), pooled.number if pooled else number
        played = rewarded(Round(plan=plan, number=begun_at, attempts=attempts), rules)
        if not tasks:
            return played
        kept = keep(played.attempts, group=config.challenger_group, seed=rules.seed, path=path)
        played = replace(played, kept=kept, drafts=self._drafts(played, kept, tasks))
        return (yield from self._answered(played, key, path)) if rules.is_answered else played

    def _judge(self, plan: Plan, completion: Completion) -> Attempt:
        """Read one proposal and put it to the cheap checks."""
        proposal = read_proposal(plan, completion)
        reason = refusal(proposal, plan, config=self.rules.config, archive=self.archive)
        wrong = proposal.options
        if not reason and plan.task_format == "choice" and not wrong:
            wrong = distractors(proposal.answer, proposal.answer_kind, self.pool)
            reason = "" if wrong else "options"
        return Attempt(completion=completion, proposal=proposal, reason=reason, options=wrong)

    def _checked(self, plan: Plan, attempts: Sequence[Attempt], key: str) -> Play[tuple[list[Attempt], dict[str, Task]]]:
        """Have the frozen base vote on each different question; return the attempts, and the tasks that were admitted."""
        config = self.rules.config
        firsts: dict[str, Attempt] = {}
        for attempt in attempts:
            if not attempt.reason:
                firsts.setdefault(_question(attempt), attempt)
        tasks = {question: self._task(plan, attempt) for question, attempt in firsts.items()}
        if config.admission == "parsable" or not tasks or not (config.open_book_samples or config.closed_book_samples):
            return list(attempts), tasks
        asked = {
            question: base_check.asks(task, self.chunk, config, key=f"{key}/check{i}", seed=self.rules.seed)
            for i, (question, task) in enumerate(tasks.items())
        }
        heard = iter((yield [ask for asks in asked.values() for ask in asks]))
        found = {
            question: base_check.votes(tasks[question], [next(heard) for _ in asks], config, self.rules.grader)
            for question, asks in asked.items()
        }
        refused = {question: base_check.refusal_of(votes, config) for question, votes in found.items()}
        judged = [
            attempt if attempt.reason else replace(attempt, reason=refused[_question(attempt)], votes=found[_question(attempt)])
            for attempt in attempts
        ]
        return judged, {question: task for question, task in tasks.items() if not refused[question]}

    def _task(self, plan: Plan, attempt: Attempt) -> Task:
        proposal, is_choice = attempt.proposal, plan.task_format == "choice"
        options, answer = self._options(attempt) if is_choice else ((), proposal.answer)
        return Task(
            chunk_id=plan.chunk.chunk_id,
            rollout_id="",
            question=proposal.question,
            answer=answer,
            answer_kind="choice" if is_choice else proposal.answer_kind,
            task_format=plan.task_format,
            regime=plan.regime,
            options=options,
            option_sources=self._sources(attempt) if is_choice else (),
        )

    def _sources(self, attempt: Attempt) -> tuple[str, ...]:
        """Return the other chunks that wrong options made by code were taken from."""
        if attempt.proposal.options:
            return ()
        own = {hint.value for hint in self.pool if hint.chunk_id == self.chunk.chunk_id}
        taken = set(attempt.options) - own
        return tuple(sorted({hint.chunk_id for hint in self.pool if hint.value in taken}))

    def _options(self, attempt: Attempt) -> tuple[tuple[str, ...], str]:
        """Return the options as shown and the letter of the right one: in our order, or as written where all is played."""
        proposal = attempt.proposal
        if proposal.options and self.rules.config.admission == "parsable":
            return proposal.options, LETTERS[proposal.options.index(proposal.answer)]
        wrong = [option for option in attempt.options if option != proposal.answer]
        return arrange(proposal.answer, wrong, seed=self.rules.seed, question=proposal.question)

    def _drafts(self, played: Round, kept: Sequence[int], tasks: Mapping[str, Task]) -> tuple[Draft, ...]:
        """Return the different questions of the kept proposals, in the order drawn, at most `max_tasks`."""
        proposers: dict[str, list[int]] = {}
        for i in kept:
            if not played.attempts[i].reason:
                proposers.setdefault(_question(played.attempts[i]), []).append(i)
        rules = self.rules
        most = task_room(self.chunk.document_id, self.archive, rules.config, step=rules.step)
        return tuple(self._draft(tasks[question], positions) for question, positions in list(proposers.items())[:most])

    def _draft(self, task: Task, proposers: Sequence[int]) -> Draft:
        similarity = similarity_of(task, self.archive)
        is_near_copy = similarity >= self.rules.config.near_copy
        draft = draft_of(task, self.chunk, self.rules)
        return replace(draft, proposers=tuple(proposers), similarity=similarity, is_near_copy=is_near_copy)

    def _answered(self, played: Round, key: str, path: tuple[str | int, ...]) -> Play[Round]:
        """Let the Reasoner attempt every task, and reward the proposals for it."""
        rules = self.rules
        heard = yield [
            Ask(
                key=f"{key}/{i}",
                prompt=draft.prompt,
                n=rules.config.reasoner_group,
                seed=derive(rules.seed, "reasoner", *path, i),
                phase="reasoner",
            )
            for i, draft in enumerate(played.drafts)
        ]
        answers = tuple(graded(draft, completions, rules.grader) for draft, completions in zip(played.drafts, heard, strict=True))
        return rewarded(replace(played, answers=answers), rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A task of an earlier step, attempted again by the version that plays."""

    name: str
    draft: Draft
    rules: Rules

    def play(self) -> Play[Answered]:
        """Ask for one group of answers and grade them."""
        rules, task = self.rules, self.draft.task
        seed = derive(rules.seed, "replay", rules.step, task.task_id)
        ask = Ask(key=f"{self.name}/replay", prompt=self.draft.prompt, n=rules.config.reasoner_group, seed=seed, phase="reasoner")
        (completions,) = yield [ask]
        return graded(self.draft, completions, rules.grader)


def similarity_of(task: Task, archive: Archive) -> float:
    """Return how near the nearest earlier question is; with the passage before it, a question is about its own chunk."""
    return archive.similarity(task.question, chunk_id=task.chunk_id if task.regime == "open_book" else None)


def draft_of(task: Task, chunk: Chunk, rules: Rules) -> Draft:
    """Return a task as the Reasoner is asked it: the regime decides whether the passage is shown, among others."""
    regime, config = task.regime, rules.config
    if regime != "open_book":
        return Draft(task=task, prompt=ask(task, config))
    others = rules.library.near(task.question, chunk, n=config.distractor_passages)
    shown = shelf(regime, chunk, others, seed=rules.seed)
    passages = tuple(each.chunk_id for each in shown.chunks)
    return Draft(task=task, prompt=ask_open_book(task, shown, config), passages=passages)


def graded(draft: Draft, completions: Sequence[Completion], grader: Grader) -> Answered:
    """Return the answers to a draft with their grades."""
    return Answered(draft=draft, completions=tuple(completions), grades=grade_completions(draft.task, completions, grader))


def rewarded(played: Round, rules: Rules) -> Round:
    """Return the round with what each of its kept proposals earned; those whose task may not be trained on have none."""
    rewards = {i: rules.invalid_reward for i, attempt in enumerate(played.attempts) if attempt.reason}
    for answered in (played.answers[i] for i in played.fresh):
        penalty = rules.config.duplicate_penalty if answered.draft.is_near_copy else 0.0
        for position in answered.draft.proposers:
            rewards[position] = rules.reward(answered.correct, answered.draft.task) - penalty
    return replace(played, rewards=rewards)


def _is_same_pool(played: Round, plan: Plan) -> bool:
    """True when a round without a task yet asked the very same."""
    return not played.drafts and played.plan.prompt == plan.prompt and played.plan.task_format == plan.task_format


def _question(attempt: Attempt) -> str:
    """Return what makes two proposals one task: question, reference answer and the model's own options, as they sound."""
    proposal = attempt.proposal
    return "\n".join((normalise(proposal.question), *map(as_text, (proposal.answer, *sorted(proposal.options)))))
