"""The stage: some chunks, both roles, and the groups to learn from.

In: chunks, the version that plays, the number of the step.
Out: `Played`: groups to train on, the tasks behind them, and every rollout with its outcome, reason and reward.
Refuses: completions of another adapter than `version` (`DeliveryError`).
Not here: what one chunk plays (`turn.py`), replay of old tasks, retrieval of distractor passages.

All chunks are in flight at once, each at its own pace: a task is put to the Reasoner as soon as it is admitted, while
other chunks still write proposals. Tasks that two chunks of a step share are settled afterwards in the order of the
chunks, never of arrival: the first keeps it; for the others it is recorded as `repeated` and not trained on.

Where this differs from Algorithm 1 of SPICE, and why:

* A group shares one prompt, and rounds offer different spans, so the group is *one* round and rounds are not pooled: the
  last with a task, which is the first with something to learn if there is one. The others are only recorded.
* Proposals with the same question share one task and its pass rate, so `max_tasks` counts different questions. Valid
  proposals beyond it are recorded as `not_attempted` and leave the group: they have no pass rate, hence no reward.
* A chunk without a valid task gives no group to train on, only records.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from threading import Event

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import Played, Sampler, Verifier
from spice_enterprise.records import AdapterVersion, Chunk
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.rounds import Answered, Round
from spice_enterprise.selfplay.scribe import Scribe, joined
from spice_enterprise.selfplay.spans import Hint, find_hints
from spice_enterprise.selfplay.streaming import open_stream, play_together
from spice_enterprise.selfplay.turn import Turn


class SelfplayStage:
    """Plays chunks with both roles; the default `Player`."""

    def __init__(
        self, *, sampler: Sampler, verifier: Verifier, config: SelfplayConfig, seed: int, archive: Archive | None = None
    ) -> None:
        self._sampler = sampler
        self._verifier = verifier
        self._config = config
        self._seed = seed
        self._stopped = Event()
        self.archive = archive or Archive()
        """Every task played so far; it moves only when a step has been played to its end."""

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        """Play each chunk once with both roles.

        Depends only on the arguments, the seed and the archive's tasks of earlier steps. Raises `DeliveryError` when a
        completion was made by another adapter than `version`, `SamplerError` E_STOPPED after `stop`.
        """
        self._stopped = stopped = Event()
        plays = [turn.play() for turn in self._turns(chunks, step)]
        with open_stream(self._sampler) as stream:
            rounds = play_together(plays, stream, version=version, is_stopped=stopped.is_set)
        archive = self.archive.before(step)
        settled = [[_settled(played, archive, step) for played in of_chunk] for of_chunk in rounds]
        scribe = Scribe(version=version, step=step, seed=self._seed)
        played = joined(map(scribe.chunk, settled))
        self.archive = archive
        return played

    def entries(self, played: Played, *, step: int) -> tuple[str, ...]:
        """Return the archive's entries of a play."""
        archive = Archive()
        for task in played.tasks:
            archive.add(chunk_id=task.chunk_id, question=task.question, regime=task.regime, step=step)
        return archive.state()

    def remember(self, entries: Sequence[str]) -> None:
        """Take these entries of an archive as everything that was asked so far."""
        self.archive = Archive(entries)

    def stop(self) -> None:
        """Make a play that runs in another thread end soon."""
        self._stopped.set()

    def _turns(self, chunks: Sequence[Chunk], step: int) -> list[Turn]:
        hints = [find_hints(chunk.text) for chunk in chunks]
        seen: Counter[str] = Counter()
        turns = []
        for i, chunk in enumerate(chunks):
            turn = Turn(
                name=str(i),
                chunk=chunk,
                pool=_nearest_first(hints, i),
                first_round=seen[chunk.chunk_id] * (self._config.max_rounds + self._config.refill_rounds),
                step=step,
                seed=self._seed,
                config=self._config,
                verifier=self._verifier,
                archive=self.archive.before(step),
            )
            seen[chunk.chunk_id] += 1
            turns.append(turn)
        return turns


def _settled(played: Round, archive: Archive, step: int) -> Round:
    """Mark the tasks that `archive` holds already as repeats; it learns the others."""

    def settle(answered: Answered) -> Answered:
        task = answered.draft.task
        if archive.holds(chunk_id=task.chunk_id, question=task.question, regime=task.regime):
            return replace(answered, is_repeat=True)
        archive.add(chunk_id=task.chunk_id, question=task.question, regime=task.regime, step=step)
        return answered

    return replace(played, answers=tuple(map(settle, played.answers)))


def _nearest_first(hints: Sequence[Sequence[Hint]], i: int) -> tuple[Hint, ...]:
    """Return the values of all chunks of the step, those of chunk `i` first."""
    return (*hints[i], *(hint for j, of_chunk in enumerate(hints) if j != i for hint in of_chunk))
