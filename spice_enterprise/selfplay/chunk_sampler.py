"""Which chunks a step plays, and which old tasks it plays again.

In: the loop's uniform selection, the chunks training may see, which of them can be asked about, the archive before the step.
Out: as many chunks (`choose`), all of them from the library; tasks of the archive to attempt again (`replays`).
Refuses: nothing. Where every document is at its cap the cap gives way; where no chunk can be asked about, all are played.
Not here: the uniform selection itself (`loop.chunks_of_step`), and the archive's arithmetic.

Few documents are asked about many times, and attempts at one document compete on difficulty alone, so without a cap a run
circles around what pays. Every draw is named by (seed, step): a step that is made again chooses the same.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.records import Chunk, Task
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.archive import Archive

NEVER_PLAYED: Final = 0.125
"""Weight of a chunk without a result: half of what the best one can have."""
LEAST_WEIGHT: Final = 0.01
"""Of a chunk whose tasks taught nothing, or that never gave one: it may have changed its mind since, or the model its own."""


def choose(  # noqa: PLR0913 - a draw is named by seed and step
    given: Sequence[Chunk],
    library: Sequence[Chunk],
    archive: Archive,
    config: SelfplayConfig,
    *,
    seed: int,
    step: int,
    is_askable: Callable[[Chunk], bool],
) -> list[Chunk]:
    """Return the chunks of a step: `given`, except where the sampler, a document's cap or `is_askable` says otherwise.

    As many as `given`, from `library`; none twice unless `given` has it twice. `is_askable` is asked about no more chunks
    than are needed.
    """
    spare = _in_drawn_order(library, seed, step)
    given = _replaced(given, spare, is_askable)
    wanted = list(given)
    if config.chunk_sampler == "learnability":
        uniform = given[: len(given) - len(given) // 2]
        wanted = _filled(uniform, filter(is_askable, _by_learnability(spare, archive, seed, step)), given)
    elif config.chunk_sampler == "coverage":
        covered = sorted(spare, key=lambda chunk: archive.covered(chunk.chunk_id))
        wanted = _filled((), filter(is_askable, covered), given)
    return _below_cap(wanted, filter(is_askable, spare), _Room(archive, config, step)) if config.document_cap else wanted


def askable(
    given: Sequence[Chunk], library: Sequence[Chunk], *, seed: int, step: int, is_askable: Callable[[Chunk], bool]
) -> list[Chunk]:
    """Return `given` with every chunk that cannot be asked about replaced by another that can, while there is one."""
    return _replaced(given, _in_drawn_order(library, seed, step), is_askable)


def _replaced(given: Sequence[Chunk], spare: Sequence[Chunk], is_askable: Callable[[Chunk], bool]) -> list[Chunk]:
    used = {chunk.chunk_id for chunk in given}
    others = (chunk for chunk in spare if chunk.chunk_id not in used and is_askable(chunk))
    return [chunk if is_askable(chunk) else next(others, chunk) for chunk in given]


def replays(archive: Archive, config: SelfplayConfig, *, seed: int, step: int) -> tuple[Task, ...]:
    """Return tasks to attempt again: `replay_share * chunks_per_step` of them on average, as far as there are any."""
    draws = stream(seed, "replays", step)
    share = config.replay_share * config.chunks_per_step
    wanted = math.floor(share) + (draws.random() < share % 1.0)
    tasks = archive.frontier()
    return tuple(draws.sample(tasks, min(wanted, len(tasks))))


def task_room(document_id: str, archive: Archive, config: SelfplayConfig, *, step: int) -> int:
    """Return how many tasks a turn at a document may give: what its cap leaves, one where it gave way, at most `max_tasks`."""
    if not config.document_cap:
        return config.max_tasks
    left = config.document_cap - archive.tasks_of(document_id, since_step=step - config.document_cap_steps)
    return min(max(left, 1), config.max_tasks)


class _Room:
    """Which documents may have another chunk: those below their cap, and each of them once, for one turn may use it up."""

    def __init__(self, archive: Archive, config: SelfplayConfig, step: int) -> None:
        self._archive, self._cap = archive, config.document_cap
        self._since_step = step - config.document_cap_steps
        self._chosen: set[str] = set()

    def has(self, chunk: Chunk) -> bool:
        """True when a chunk of this document may be chosen."""
        document_id = chunk.document_id
        had = self._archive.tasks_of(document_id, since_step=self._since_step)
        return document_id not in self._chosen and had < self._cap

    def take(self, chunk: Chunk) -> None:
        """Count a chunk that was chosen."""
        self._chosen.add(chunk.document_id)


def _below_cap(wanted: Sequence[Chunk], spare: Iterable[Chunk], room: _Room) -> list[Chunk]:
    """Return `wanted` with every chunk of a full document replaced by a spare one of another, while there is one."""
    is_full = []
    for chunk in wanted:
        is_full.append(not room.has(chunk))
        if not is_full[-1]:
            room.take(chunk)
    others = _free(spare, room)
    return [next(others, chunk) if full else chunk for chunk, full in zip(wanted, is_full, strict=True)]


def _free(spare: Iterable[Chunk], room: _Room) -> Iterator[Chunk]:
    """Yield spare chunks of documents that have room; what is in the step already has none."""
    for chunk in spare:
        if room.has(chunk):
            room.take(chunk)
            yield chunk


def _filled(kept: Sequence[Chunk], preferred: Iterable[Chunk], given: Sequence[Chunk]) -> list[Chunk]:
    """Return `kept`, then the preferred chunks that are not among them, then what `given` has, as many as `given`."""
    used = {chunk.chunk_id for chunk in kept}
    others = (chunk for chunk in preferred if chunk.chunk_id not in used)
    chosen = [*kept, *islice(others, len(given) - len(kept))]
    return [*chosen, *given[len(chosen) :]]


def _in_drawn_order(library: Sequence[Chunk], seed: int, step: int) -> list[Chunk]:
    order = list(library)
    stream(seed, "spare_chunks", step).shuffle(order)
    return order


def _by_learnability(library: Sequence[Chunk], archive: Archive, seed: int, step: int) -> list[Chunk]:
    """Return the chunks in an order drawn by weight, without replacement.

    The largest u^(1/w) come first (Efraimidis and Spirakis 2006); logarithms, because u^100 is 0 soon.
    """
    draws = stream(seed, "learnability", step)
    keys = {chunk.chunk_id: -math.log(1.0 - draws.random()) / _weight(archive, chunk) for chunk in library}
    return sorted(library, key=lambda chunk: keys[chunk.chunk_id])


def _weight(archive: Archive, chunk: Chunk) -> float:
    learnable = archive.learnability(chunk.chunk_id)
    if learnable is None:
        return LEAST_WEIGHT if archive.covered(chunk.chunk_id) else NEVER_PLAYED
    return max(learnable, LEAST_WEIGHT)
