"""One chunk's turn in a step, as a play that asks for its groups: propose, admit, answer, and again where nothing is learned.

In: a chunk, the values of the step's chunks, the archive as it stood before the step.
Out: the chunk's rounds in order.
Refuses: nothing; a proposal that is not fit is an `Attempt` with its reason.
Not here: other chunks (`episode.py`), waiting for completions (`streaming.py`), records (`scribe.py`).

Rounds follow one another until one has a valid proposal, at most `max_rounds`. If nothing can be learned from it (all
proposals earned the same and no task was answered both right and wrong) the chunk is refilled: it proposes again about
another span, at most `refill_rounds` times, until a round has a signal. Every draw is named by (seed, role, step, chunk,
round), so a turn is the same whatever else is played beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import Verifier
from spice_enterprise.records import Chunk, Completion, Task
from spice_enterprise.seeding import derive
from spice_enterprise.selfplay.admission import refusal
from spice_enterprise.selfplay.answers import normalise
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.challenger import Plan, plan_chunk, read_proposal
from spice_enterprise.selfplay.options import arrange, distractors
from spice_enterprise.selfplay.reasoner import ask, grade_all
from spice_enterprise.selfplay.regimes import passages_for
from spice_enterprise.selfplay.rounds import Answered, Attempt, Draft, Round
from spice_enterprise.selfplay.spans import Hint
from spice_enterprise.selfplay.streaming import Ask, Play


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one chunk plays in one step."""

    name: str
    """Unique in the step; the beginning of the keys of its groups."""
    chunk: Chunk
    pool: Sequence[Hint] = field(repr=False)
    """Values that wrong options are made of, the chunk's own first."""
    first_round: int
    """A chunk that stands twice in a step goes on where its first turn may have ended."""
    step: int
    seed: int
    config: SelfplayConfig
    verifier: Verifier
    archive: Archive = field(repr=False)
    """This turn's own copy: it learns the turn's tasks."""

    def play(self) -> Play[list[Round]]:
        """Play rounds until there is something to learn or the rounds are used up."""
        rounds: list[Round] = []
        while self._goes_on(rounds):
            played = yield from self._round(self.first_round + len(rounds))
            rounds.append(played)
            for task in (answered.draft.task for answered in played.answers):
                self.archive.add(chunk_id=task.chunk_id, question=task.question, regime=task.regime, step=self.step)
        return rounds

    def _goes_on(self, rounds: Sequence[Round]) -> bool:
        valid = next((i for i, played in enumerate(rounds) if played.answers), None)
        if valid is None:
            return len(rounds) < self.config.max_rounds
        refills = len(rounds) - valid - 1
        return refills < self.config.refill_rounds and not any(played.has_signal for played in rounds)

    def _round(self, number: int) -> Play[Round]:
        config, path = self.config, (self.step, self.chunk.chunk_id, number)
        plan = plan_chunk(self.chunk, self.pool, config, seed=self.seed, step=self.step, round_number=number)
        key, seed = f"{self.name}/{number}", derive(self.seed, "challenger", *path)
        (drawn,) = yield [Ask(key=key, prompt=plan.prompt, n=config.challenger_group, seed=seed)]
        attempts = tuple(self._judge(plan, completion) for completion in drawn)
        played = Round(plan=plan, number=number, attempts=attempts)
        drafts = self._drafts(played)
        if not drafts:
            return played
        seeds = [derive(self.seed, "reasoner", *path, i) for i in range(len(drafts))]
        heard = yield [
            Ask(key=f"{key}/{i}", prompt=draft.prompt, n=config.reasoner_group, seed=seeds[i]) for i, draft in enumerate(drafts)
        ]
        return replace(played, answers=tuple(map(self._graded, drafts, heard)))

    def _judge(self, plan: Plan, completion: Completion) -> Attempt:
        proposal = read_proposal(plan, completion)
        reason = refusal(proposal, plan.chunk, regime=self.config.regimes[0], archive=self.archive)
        wrong: tuple[str, ...] = ()
        if not reason and plan.task_format == "choice":
            wrong = distractors(proposal.answer, proposal.answer_kind, self.pool)
            reason = "" if wrong else "options"
        return Attempt(completion=completion, proposal=proposal, reason=reason, wrong_options=wrong)

    def _drafts(self, played: Round) -> list[Draft]:
        """Return the different questions of a round, in the order drawn, at most `max_tasks`."""
        proposers: dict[str, list[int]] = {}
        for i, attempt in enumerate(played.attempts):
            if not attempt.reason:
                proposers.setdefault(normalise(attempt.proposal.question), []).append(i)
        passages = passages_for(self.config.regimes[0], self.chunk)
        drafts: list[Draft] = []
        for positions in list(proposers.values())[: self.config.max_tasks]:
            task = self._task(played.plan, played.attempts[positions[0]])
            prompt = ask(task, self.config, passages=passages)
            drafts.append(Draft(task=task, proposers=tuple(positions), prompt=prompt))
        return drafts

    def _task(self, plan: Plan, attempt: Attempt) -> Task:
        proposal, is_choice = attempt.proposal, plan.task_format == "choice"
        options: tuple[str, ...] = ()
        answer = proposal.answer
        if is_choice:
            options, answer = arrange(proposal.answer, attempt.wrong_options, seed=self.seed, question=proposal.question)
        return Task(
            chunk_id=plan.chunk.chunk_id,
            rollout_id="",
            question=proposal.question,
            answer=answer,
            answer_kind="choice" if is_choice else proposal.answer_kind,
            task_format=plan.task_format,
            regime=self.config.regimes[0],
            options=options,
        )

    def _graded(self, draft: Draft, completions: Sequence[Completion]) -> Answered:
        correct = grade_all(draft.task, completions, self.verifier)
        return Answered(draft=draft, completions=tuple(completions), correct=correct)
