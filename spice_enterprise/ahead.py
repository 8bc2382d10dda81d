"""What each step plays: from the journal, now, or ahead of time while the step before it is learned.

In: a player, the run's store, how many versions a play may be behind.
Out: the play of a step, journalled before it is used.
Refuses: nothing of its own; what the player raises in the background is raised again where it is joined.
Not here: the order of the road (`loop.py`), which chunks a step plays, whether the learner takes what is behind.

With `max_staleness` 0 a step is played when it is its turn. With 1, step n + 1 is played by the version that stands before
step n's update, in one thread beside it, and joined and journalled before anything else is published or step n is
committed. So after a commit the next play is always in the journal, and a resumed run uses the very same one.

A play is used if the version that stands made it, or with `max_staleness` 1 its parent. After a step back to an older
version neither may be true, nor after a resume on a machine where a step that is made again gives another version: then
the play is thrown away and the step is played anew. That depends on records only, so a resumed run does it too.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from spice_enterprise.protocols import Played, Player
from spice_enterprise.records import AdapterVersion, Chunk
from spice_enterprise.store import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """The one play in the background."""

    number: int
    thread: threading.Thread
    result: Future[Played]


class Ahead:
    """Gives every step its play. Leaving the context stops and joins what is still being played."""

    def __init__(
        self, player: Player, store: RunStore, *, chunks_of: Callable[[int], Sequence[Chunk]], last_step: int, max_staleness: int
    ) -> None:
        self._player = player
        self._store = store
        self._chunks_of = chunks_of
        self._last_step = last_step
        self._max_staleness = max_staleness
        self._running: _Running | None = None

    def __enter__(self) -> "Ahead":
        """Begin with nothing in the background."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """End the background play, if any; what it made is lost and will be made again."""
        if self._running is not None:
            stop: Any = getattr(self._player, "stop", None)
            if stop is not None:
                stop()
            self._running.thread.join()

    def play(self, number: int, version: AdapterVersion) -> Played:
        """Return what step `number` played: from the journal if it is there and fits, else played now by `version`."""
        played = self._store.journalled(number)
        if played is None or not self._fits(played, version):
            played = self._player.play(self._chunks_of(number), version, step=number)
            self._store.journal(number, played)
        return played

    def begin(self, number: int, version: AdapterVersion) -> None:
        """Let `version` play step `number` in the background, where that is wanted and not done yet."""
        if not self._max_staleness or number > self._last_step or self._store.journalled(number) is not None:
            return
        result: Future[Played] = Future()
        chunks = self._chunks_of(number)
        play = _into(result, lambda: self._player.play(chunks, version, step=number))
        # a daemon, so that a second request to stop can end the process without waiting for it
        thread = threading.Thread(target=play, name=f"play-{number}", daemon=True)
        self._running = _Running(number=number, thread=thread, result=result)
        thread.start()

    def join(self) -> None:
        """Wait for the background play, if any, and journal it. Raises what it raised."""
        if self._running is not None:
            running = self._running
            running.thread.join()
            self._running = None
            self._store.journal(running.number, running.result.result())

    def _fits(self, played: Played, version: AdapterVersion) -> bool:
        rollouts = [rollout for item in played.rollouts for rollout in item.group.rollouts]
        made_by = {rollout.adapter_id for rollout in rollouts if rollout.adapter_id.startswith("adapter_")}
        parent = {version.parent_adapter_id} if self._max_staleness else set()
        return made_by <= {version.adapter_id} | parent


def _into(result: Future[Played], play: Callable[[], Played]) -> Callable[[], None]:
    """Return `play` with its outcome put into `result`."""

    def run() -> None:
        try:
            result.set_result(play())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever joins
            result.set_exception(error)

    return run
