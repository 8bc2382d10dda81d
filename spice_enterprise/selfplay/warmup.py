"""The warm-up as plays: supervised steps before self-play, of examples instead of rewards.

In: the train chunks of a step; for `format` the stage, so that the model proposes; a way to make text into tokens.
Out: `Played` with the examples of a step; a player that begins with them.
Refuses: chunks that training may not see (`ValueError`); `facts` where no chunk says anything (E_NO_EXAMPLES).
Not here: wording (`rewrites.py`), learning (`training/trainer.py`), when self-play begins (`config.warmup_training`).

facts    every chunk of the step gives some of its rewrites, one of each kind in turn
format   the model's own admitted proposals, for both roles; where they are too few, pairs that code makes of the values of
         train chunks. What code writes for the Challenger has to pass the checks of admission like any proposal. Under the
         full contract code writes for the Reasoner alone: nobody's thinking stands behind its questions.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, Final

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.errors import CorpusError
from spice_enterprise.protocols import Effort, MeteringPlayer, Played, Player, RememberingPlayer
from spice_enterprise.records import AdapterVersion, Chunk, Completion, Prompt, Task
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.admission import refusal
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.challenger import Plan, drawn_format, plan_chunk, read_proposal
from spice_enterprise.selfplay.chunk_sampler import askable
from spice_enterprise.selfplay.episode import SelfplayStage
from spice_enterprise.selfplay.examples import Encode, Example, played_of, written
from spice_enterprise.selfplay.options import arrange, distractors
from spice_enterprise.selfplay.reasoner import ask, ask_open_book
from spice_enterprise.selfplay.regimes import regime_of, shelf
from spice_enterprise.selfplay.rewrites import (
    Rewrite,
    answer_text,
    choice_of,
    question_about,
    require_train,
    rewrites_of,
    task_of,
)
from spice_enterprise.selfplay.rounds import Draft, Round
from spice_enterprise.selfplay.spans import Hint, find_hints, sentence_around
from spice_enterprise.selfplay.turn import TurnPlayed

OWN: Final = "own"
MADE: Final = "made"
PAIRS_PER_CHUNK: Final = 2
SEARCHED_PER_EXAMPLE: Final = 64
"""Most chunks that are looked through for one example: code finds no question about most values."""


def require_examples(chunks: Sequence[Chunk], config: SelfplayConfig) -> None:
    """Raise `CorpusError` E_NO_EXAMPLES unless some chunk gives the `facts` warm-up something to learn."""
    if not any(rewrites_of(chunk, config) for chunk in chunks):
        raise CorpusError(
            f"warmup: facts finds nothing to learn in {len(chunks)} train chunk(s)",
            code="E_NO_EXAMPLES",
            hint="take `warmup: none`, or give documents that state facts in sentences",
        )


class FactsWarmup:
    """Plays the rewrites of a step's chunks; implements `protocols.Player`."""

    def __init__(self, *, encode: Encode, config: SelfplayConfig, examples: int, seed: int) -> None:
        self._encode = encode
        self._config = config
        self._examples = examples
        self._seed = seed

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Return at most as many examples as a step takes, from every chunk about equally many."""
        share = -(-self._examples // max(1, len(chunks)))
        found = (self._of_chunk(chunk, place, step)[:share] for place, chunk in enumerate(chunks))
        return played_of(list(chain.from_iterable(found))[: self._examples], step=step)

    def _of_chunk(self, chunk: Chunk, place: int, step: int) -> list[Example]:
        """Return all rewrites of a chunk in the order of this step: shuffled, one of each kind in turn."""
        draws = stream(self._seed, "rewrites", step, place, chunk.chunk_id)
        rewrites = list(rewrites_of(chunk, self._config))
        draws.shuffle(rewrites)
        seen: Counter[str] = Counter()
        turns: list[tuple[int, Rewrite]] = []
        for rewrite in rewrites:
            turns.append((seen[rewrite.kind], rewrite))
            seen[rewrite.kind] += 1
        return [self._example(chunk, rewrite) for _, rewrite in sorted(turns, key=lambda pair: pair[0])]

    def _example(self, chunk: Chunk, rewrite: Rewrite) -> Example:
        return written(self._encode, rewrite.prompt, rewrite.text, role="reasoner", parent_id=chunk.chunk_id, source=rewrite.kind)


class FormatWarmup:
    """Plays both roles' examples of how to write; implements `protocols.Player`."""

    def __init__(
        self,
        stage: SelfplayStage,
        *,
        encode: Encode,
        config: SelfplayConfig,
        examples: int,
        seed: int,
        library: Sequence[Chunk],
    ) -> None:
        """Take what stays the same for a run; code makes pairs from any chunk of `library`."""
        self._stage = stage
        self._encode = encode
        self._config = config
        self._examples = examples
        self._seed = seed
        self._library = tuple(library)

    @property
    def effort(self) -> Effort | None:
        """What the last proposals cost."""
        return self._stage.effort

    def stop(self) -> None:
        """Make a play that runs in another thread end soon."""
        self._stage.stop()

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Let the model propose, and return the admitted proposals as examples beside all of them, filled up by code."""
        for chunk in (*chunks, *self._library):
            require_train(chunk)
        chosen = askable(chunks, self._library, seed=self._seed, step=step, is_askable=self._stage.can_ask)
        turns = self._stage.propose(chosen, version, step=step)
        recorded = self._stage.recorded(turns, version, step=step)
        own = self._own(turns, recorded, version)
        stream(self._seed, "own", step).shuffle(own)
        examples = list(islice(chain(chain.from_iterable(own), self._made(step)), self._examples))
        taught = played_of(examples, step=step)
        return Played(
            groups=taught.groups,
            tasks=(),
            rollouts=(*recorded.rollouts, *taught.rollouts),
            admissions=recorded.admissions,
        )

    def _own(self, turns: Sequence[TurnPlayed], recorded: Played, version: AdapterVersion) -> list[list[Example]]:
        """Return what each admitted question teaches: how it was asked, and how it is answered."""
        rollouts = [rollout for item in recorded.rollouts for rollout in item.group.rollouts]
        ids = {
            (rollout.parent_id, rollout.index): rollout.rollout_id for rollout in rollouts if rollout.reason != "format_choice"
        }
        every = [(turn.chunk.chunk_id, played, draft) for turn in turns for played in turn.rounds for draft in played.drafts]
        return [self._pair(ids, chunk_id, played, draft, version) for chunk_id, played, draft in every]

    def _pair(
        self, ids: dict[tuple[str, int], str], chunk_id: str, played: Round, draft: Draft, version: AdapterVersion
    ) -> list[Example]:
        group = self._config.challenger_group
        whole = [i for i in draft.proposers if played.attempts[i].completion.stop_reason == "stop"]
        parent_id = ids[chunk_id, played.place(draft.proposers[0], group=group)]
        text = answer_text(draft.task.answer, draft.prompt)
        plain = written(self._encode, draft.prompt, text, role="reasoner", parent_id=parent_id, source=OWN)
        answered = replace(plain, passages=draft.passages)
        if not whole or self._config.challenger == "frozen":
            return [answered]
        completion = played.attempts[whole[0]].completion
        asked = Example(
            role="challenger",
            parent_id=ids[chunk_id, played.place(whole[0], group=group)],
            source=OWN,
            template_id=played.plan.prompt.template_id,
            prompt_token_ids=completion.prompt_token_ids,
            token_ids=completion.token_ids,
            text=completion.text,
            logprobs=completion.logprobs,
            adapter_id=version.adapter_id,
            adapter_digest=completion.adapter_digest,
        )
        return [asked, answered]

    def _made(self, step: int) -> Iterator[Example]:
        """Yield pairs that code makes of train chunks, in an order of this step's own."""
        order = list(self._library)
        stream(self._seed, "made", step).shuffle(order)
        for chunk in order[: SEARCHED_PER_EXAMPLE * self._examples]:
            yield from chain.from_iterable(islice(self._made_of(chunk, step), PAIRS_PER_CHUNK))

    def _made_of(self, chunk: Chunk, step: int) -> Iterator[list[Example]]:
        hints = find_hints(chunk.text)
        for number, hint in enumerate(hints):
            plan = plan_chunk(
                chunk,
                hints,
                self._config,
                regime=regime_of(chunk, self._config.regimes, seed=self._seed),
                seed=self._seed,
                step=step,
                round_number=number,
                task_format=drawn_format(chunk, self._config, seed=self._seed, step=step) or "free_form",
            )
            offered = plan.hint or hint
            question = question_about(sentence_around(chunk.text, offered), offered)
            if question and (examples := self._made_pair(plan, offered, question, hints)):
                yield examples

    def _made_pair(self, plan: Plan, hint: Hint, question: str, pool: Sequence[Hint]) -> list[Example]:
        """Return both roles' examples of a question of code; nothing when admission would refuse it."""
        proposal = self._proposal_text(plan, hint, question)
        is_fit = proposal is None or not self._refusal(plan, proposal)
        task = self._task(plan, hint, question, pool) if is_fit else None
        if task is None:
            return []
        chunk_id, encode, prompt = plan.chunk.chunk_id, self._encode, self._asked(task, plan.chunk)
        text = answer_text(task.answer, prompt)
        answered = written(encode, prompt, text, role="reasoner", parent_id=chunk_id, source=MADE)
        if proposal is None:
            return [answered]
        return [written(encode, plan.prompt, proposal, role="challenger", parent_id=chunk_id, source=MADE), answered]

    def _proposal_text(self, plan: Plan, hint: Hint, question: str) -> str | None:
        """Return what the Challenger would have written after its prompt; None where code does not write for it."""
        if plan.contract == "full" or self._config.challenger == "frozen" or self._config.grounding == "none":
            return None
        if plan.hint is None:
            return f" {question}\nAnswer: {hint.value}"
        return question.removeprefix(hint.opener)

    def _refusal(self, plan: Plan, proposal: str) -> str:
        completion = Completion(
            prompt_token_ids=(), token_ids=(), logprobs=(), text=proposal, stop_reason="stop", adapter_digest=""
        )
        return refusal(read_proposal(plan, completion), plan, config=self._config, archive=Archive())

    def _task(self, plan: Plan, hint: Hint, question: str, pool: Sequence[Hint]) -> Task | None:
        task = task_of(plan.chunk, question, hint, regime=plan.regime)
        if plan.task_format == "free_form":
            return task
        wrong = distractors(hint.value, hint.kind, pool)
        return choice_of(task, *arrange(hint.value, wrong, seed=self._seed, question=question)) if wrong else None

    def _asked(self, task: Task, chunk: Chunk) -> Prompt:
        if task.regime == "open_book":
            return ask_open_book(task, shelf("open_book", chunk, (), seed=self._seed), self._config)
        return ask(task, self._config)


class WarmedPlayer:
    """Plays the first steps with a warm-up and the others with another player; implements all that a player may offer."""

    def __init__(self, warmup: Player, player: Player, *, steps: int) -> None:
        """Let `warmup` play steps 1 to `steps`."""
        self._warmup = warmup
        self._player = player
        self._steps = steps
        self._last: Player | None = None

    @property
    def effort(self) -> Effort | None:
        """What the last finished play cost, where who played it knows."""
        return self._last.effort if isinstance(self._last, MeteringPlayer) else None

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Play one step with whoever's turn it is."""
        player = self._warmup if step <= self._steps else self._player
        played = player.play(chunks, version, step=step)
        self._last = player
        return played

    def entries(self, played: Played, *, step: int) -> tuple[str, ...]:
        """Return what is to be remembered of a play; of the warm-up nothing is."""
        is_remembered = step > self._steps and isinstance(self._player, RememberingPlayer)
        return self._player.entries(played, step=step) if is_remembered else ()  # type: ignore[attr-defined]  # it is one

    def remember(self, entries: Sequence[str]) -> None:
        """Pass on what was remembered."""
        if isinstance(self._player, RememberingPlayer):
            self._player.remember(entries)

    def stop(self) -> None:
        """Make a play that runs in another thread end soon."""
        for player in (self._warmup, self._player):
            stop: Any = getattr(player, "stop", None)
            if stop is not None:
                stop()
