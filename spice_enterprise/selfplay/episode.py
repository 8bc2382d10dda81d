"""The stage: some chunks, both roles, and the groups to learn from.

In: chunks, the version that plays, the number of the step.
Out: `Played`: groups to train on, the tasks behind them, every rollout with its outcome, reason and reward, and the verdict
    on every proposal.
Refuses: completions of another adapter than `version`, or than the frozen base where it should speak (`DeliveryError`).
Not here: what one chunk plays (`turn.py`), which chunks are played instead of those given (`chunk_sampler.py`).

All chunks are in flight at once, each at its own pace: a task is put to the Reasoner as soon as it is admitted, while
other chunks still write proposals. Tasks that two chunks of a step share are settled afterwards in the order of the
chunks, never of arrival: the first keeps it; for the others it is recorded as `repeated` and not trained on.

Where this differs from Algorithm 1 of SPICE, and why:

* With `hint: span` rounds ask different prompts, and a group shares one: such rounds are not pooled. The group is the last
  round with a task, which is the first with something to learn if there is one; the others are only recorded.
* Proposals with the same question and answer share one task and its pass rate, so `max_tasks` counts different ones. Valid
  proposals beyond it are recorded as `not_attempted` and leave the group: they have no pass rate, hence no reward.
* A chunk without a valid task gives no group to train on, only records.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import BASE_DIGEST, Effort, Embedder, Grader, Played, Sampler
from spice_enterprise.records import AdapterVersion, Chunk
from spice_enterprise.selfplay.archive import Archive, entries_of
from spice_enterprise.selfplay.challenger import is_askable
from spice_enterprise.selfplay.chunk_sampler import choose, replays
from spice_enterprise.selfplay.effort import Meter, MeteredGrader
from spice_enterprise.selfplay.embedding import HashedEmbedder
from spice_enterprise.selfplay.library import Library
from spice_enterprise.selfplay.regimes import regime_of
from spice_enterprise.selfplay.rewards import reward_rule
from spice_enterprise.selfplay.rounds import Answered, Draft, Round
from spice_enterprise.selfplay.scribe import Scribe, joined
from spice_enterprise.selfplay.spans import Hint, find_hints
from spice_enterprise.selfplay.streaming import Play, Speaker, open_lines, play_together
from spice_enterprise.selfplay.turn import Replay, Rules, Turn, TurnPlayed, draft_of, rewarded, similarity_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Speakers:
    """Who writes: the model in training, its frozen base, and, where proposals are not its own, who proposes."""

    player: Sampler
    base: Sampler | None = None
    """Needed by the checks of admission, and by a frozen challenger that is the base."""
    challenger: Sampler | None = None

    def of(self, version: AdapterVersion, config: SelfplayConfig) -> dict[Speaker, tuple[Sampler, str]]:
        """Return the samplers a play needs, with the digest that each must answer with."""
        found: dict[Speaker, tuple[Sampler, str]] = {"player": (self.player, version.digest)}
        if self.base is not None and config.admission == "checked":
            found["base"] = (self.base, BASE_DIGEST)
        if config.challenger == "frozen":
            frozen = self.challenger or self.base
            if frozen is None:
                raise ValueError("a frozen challenger needs a sampler: the base's, or one of its own")
            found["challenger"] = (frozen, frozen.adapter_digest)
        elif config.roles == "separate":
            if self.challenger is None:
                raise ValueError("separate roles need a sampler that speaks as the challenger")
            found["challenger"] = (self.challenger, self.challenger.adapter_digest)
        return found


class SelfplayStage:
    """Plays chunks with both roles; the default `Player`."""

    def __init__(
        self,
        speakers: Speakers,
        *,
        grader: Grader,
        config: SelfplayConfig,
        seed: int,
        library: Sequence[Chunk] = (),
        embedder: Embedder | None = None,
    ) -> None:
        """Take what stays the same for a run.

        Args:
            speakers: the samplers.
            grader: grades answers.
            config: the section, sized for the base model.
            seed: of the run.
            library: all train chunks; without them the chunks given to `play` are played as they are, and nothing comes back.
            embedder: finds near-copies and neighbours; None for hashed n-grams.
        """
        self._speakers = speakers
        self._grader = grader
        self._config = config
        self._seed = seed
        self._embedder = embedder or HashedEmbedder()
        self._library = Library(library, self._embedder)
        self._is_askable: dict[str, bool] = {}
        self._stopped = Event()
        self._meter: Meter | None = None
        self.archive = Archive(embedder=self._embedder)
        """Every task played so far; it moves only when a step has been played to its end."""

    @property
    def effort(self) -> Effort | None:
        """What the last finished play cost; None before the first."""
        return self._meter.effort() if self._meter else None

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Play each chunk once with both roles, or another in its place where the chunk sampler or a replay says so.

        Depends only on the arguments, the seed and the archive's tasks of earlier steps. Raises `DeliveryError` when a
        completion was made by another adapter than `version`, `SamplerError` E_STOPPED after `stop`.
        """
        rules = self._rules(step)
        drafts = self._replayed(rules)
        chosen = self._chosen(chunks, step)[: max(0, len(chunks) - len(drafts))]
        turns = self._turns(chosen, rules)
        played, replayed, meter = self._together(turns, drafts, rules, version)
        archive = self.archive.before(step)
        settled = [replace(turn, rounds=tuple(_settled(r, archive, rules, turn.chunk) for r in turn.rounds)) for turn in played]
        scribe = Scribe(version=version, rules=rules, is_challenger_trained=self._config.challenger == "trained")
        found = joined((*(scribe.turn(turn) for turn in settled), scribe.replays(replayed)))
        self._file(found, step)
        self._meter = meter
        return found

    def propose(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> list[TurnPlayed]:
        """Let exactly these chunks be proposed for and their proposals be admitted; nobody answers, nothing is remembered."""
        rules = replace(self._rules(step), is_answered=False)
        played, _, self._meter = self._together(self._turns(chunks, rules), (), rules, version)
        return played

    def recorded(self, turns: Sequence[TurnPlayed], version: AdapterVersion, *, step: int) -> Played:
        """Return what was proposed as records, none of them trained on."""
        scribe = Scribe(version=version, rules=self._rules(step), is_challenger_trained=False)
        return joined(map(scribe.turn, turns))

    def entries(self, played: Played, *, step: int) -> tuple[str, ...]:
        """Return the archive's entries of a play."""
        return entries_of(played, step=step, documents=self._library.documents, embedder=self._embedder)

    def remember(self, entries: Sequence[str]) -> None:
        """Take these entries of an archive as everything that was asked so far."""
        self.archive = Archive(entries, embedder=self._embedder)

    def stop(self) -> None:
        """Make a play that runs in another thread end soon."""
        self._stopped.set()

    def _chosen(self, chunks: Sequence[Chunk], step: int) -> list[Chunk]:
        if not self._library.chunks:
            return list(chunks)
        before, is_fit = self.archive.before(step), self.can_ask
        return choose(chunks, self._library.chunks, before, self._config, seed=self._seed, step=step, is_askable=is_fit)

    def can_ask(self, chunk: Chunk) -> bool:
        """Tell whether a chunk can be asked about; found out once."""
        known = self._is_askable.get(chunk.chunk_id)
        if known is None:
            known = self._is_askable[chunk.chunk_id] = is_askable(chunk, self._config)
        return known

    def _replayed(self, rules: Rules) -> list[Draft]:
        """Return the tasks of earlier steps that this step attempts again: those whose chunk is in the library."""
        tasks = replays(self.archive.before(rules.step), self._config, seed=self._seed, step=rules.step)
        found = ((task, self._library.find(task.chunk_id)) for task in tasks)
        return [draft_of(task, chunk, rules) for task, chunk in found if chunk]

    def _rules(self, step: int) -> Rules:
        config, before = self._config, self.archive.before(step)
        invalid = before.invalid_reward(step, config.invalid_reward) if config.relax_invalid else config.invalid_reward
        return Rules(
            config=config,
            seed=self._seed,
            step=step,
            grader=self._grader,
            reward=reward_rule(config.reward),
            invalid_reward=invalid,
            library=self._library,
            challenger="challenger" if config.challenger == "frozen" or config.roles == "separate" else "player",
        )

    def _turns(self, chunks: Sequence[Chunk], rules: Rules) -> list[Turn]:
        is_grounded = self._config.grounding == "corpus"  # else no value of a document may become a wrong option either
        hints = [_values_of(chunk) if is_grounded else () for chunk in chunks]
        seen: Counter[str] = Counter()
        turns = []
        for i, chunk in enumerate(chunks):
            turn = Turn(
                name=str(i),
                chunk=chunk,
                regime=regime_of(chunk, self._config.regimes, seed=self._seed),
                pool=_nearest_first(hints, i),
                first_round=seen[chunk.chunk_id] * (self._config.max_rounds + self._config.refill_rounds),
                archive=self.archive.before(rules.step),
                rules=rules,
            )
            seen[chunk.chunk_id] += 1
            turns.append(turn)
        return turns

    def _together(
        self, turns: Sequence[Turn], drafts: Sequence[Draft], rules: Rules, version: AdapterVersion
    ) -> tuple[list[TurnPlayed], list[Answered], Meter]:
        """Play turns and replays over the same streams."""
        self._stopped = stopped = Event()
        meter = Meter()
        metered = replace(rules, grader=MeteredGrader(rules.grader, meter))
        plays: list[Play[TurnPlayed | Answered]] = [replace(turn, rules=metered).play() for turn in turns]
        plays += [Replay(name=f"replay{i}", draft=draft, rules=metered).play() for i, draft in enumerate(drafts)]
        with open_lines(self._speakers.of(version, self._config)) as lines:
            found = play_together(plays, lines, is_stopped=stopped.is_set, meter=meter)
        played = [item for item in found if isinstance(item, TurnPlayed)]
        return played, [item for item in found if isinstance(item, Answered)], meter

    def _file(self, played: Played, step: int) -> None:
        """Let the archive learn what was played."""
        archive = self.archive.before(step)
        archive.take(self.entries(played, step=step))
        self.archive = archive


def _settled(played: Round, archive: Archive, rules: Rules, chunk: Chunk) -> Round:
    """Mark the tasks that `archive` holds already as repeats, and near-copies of earlier chunks; it learns the others."""

    def settle(answered: Answered) -> Answered:
        task = answered.draft.task
        is_known = archive.holds(chunk_id=task.chunk_id, question=task.question, regime=task.regime)
        if is_known and rules.config.admission == "checked":  # else everything that can be read is played
            return replace(answered, is_repeat=True)
        similarity = max(answered.draft.similarity, similarity_of(task, archive))
        draft = replace(answered.draft, similarity=similarity, is_near_copy=similarity >= rules.config.near_copy)
        return replace(answered, draft=draft)

    # proposals of one round ask about one matter: they are compared with all others, not with each other
    answers = tuple(map(settle, played.answers))
    for answered in answers:
        archive.add(answered.draft.task, step=rules.step, document_id=chunk.document_id, correct=answered.correct)
    drafts = tuple(answered.draft for answered in answers) or played.drafts
    return rewarded(replace(played, answers=answers, drafts=drafts), rules)


def _values_of(chunk: Chunk) -> tuple[Hint, ...]:
    return tuple(replace(hint, chunk_id=chunk.chunk_id) for hint in find_hints(chunk.text))


def _nearest_first(hints: Sequence[Sequence[Hint]], i: int) -> tuple[Hint, ...]:
    """Return the values of all chunks of the step, those of chunk `i` first."""
    return (*hints[i], *(hint for j, of_chunk in enumerate(hints) if j != i for hint in of_chunk))
