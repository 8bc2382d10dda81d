"""The one thread of a sampler server that may touch its sampler.

In: groups to write, calls to make and adapters to hold, from any thread, each with the adapter it must be done under.
Out: each one's result, or the reason why there is none.
Refuses: an adapter it does not hold; one whose files the sampler refuses, which changes nothing.
Not here: HTTP (`sampler_server.py`).

Groups that wait together are written together. One that needs another adapter waits until those before it are done:
what is served never changes under a group. The last few adapters are held, so two clients do not drive each other out.
"""

import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any, Final

from spice_enterprise.errors import SamplerError, SpiceError
from spice_enterprise.protocols import BASE_DIGEST, CompletionStream, StreamingSampler
from spice_enterprise.records import AdapterVersion, Prompt
from spice_enterprise.sealed import remove_directory, save_directory
from spice_enterprise.training.checkpoints import adapter_dir
from spice_enterprise.training.wire import RefusedError, SampleReply

MAX_HELD: Final = 4
"""Adapters held beside the bare base."""
MAX_FAILURES: Final = 3
"""Unexpected failures in a row after which the sampler counts as broken."""
GATHER_S: Final = 0.02
"""Quiet time after which the first groups of a stream begin: a client sends its groups one by one."""


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """Completions of one prompt, to be written beside others."""

    adapter_digest: str
    prompt: Prompt = field(repr=False)
    n: int
    seed: int
    future: "Future[SampleReply]" = field(default_factory=Future)
    """Cancelled when nobody waits for it any more."""


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """Something that needs the sampler to itself; `adapter_digest` None leaves what is served as it is."""

    adapter_digest: str | None
    work: Callable[[StreamingSampler], Any]
    future: "Future[Any]" = field(default_factory=Future)


class SamplerEngine:
    """Owns a sampler and the folder its adapters are read from."""

    def __init__(self, sampler: StreamingSampler, folder: Path) -> None:
        """Begin at once. `folder` is where `sampler` looks for published versions (`adapters/<adapter_id>`)."""
        self._sampler = sampler
        self._folder = folder
        self._held: OrderedDict[str, AdapterVersion] = OrderedDict()
        self._waiting: deque[Group | Call] = deque()
        self._changed = Condition()
        self._is_stopping = False
        self._ended = Event()
        self._failures = 0
        self._keys = itertools.count()
        Thread(target=self._run, name="sampler", daemon=True).start()

    # --- from any thread --------------------------------------------------------------------------------------------

    @property
    def adapter_digest(self) -> str:
        """Of what is being served."""
        return self._sampler.adapter_digest

    @property
    def held(self) -> tuple[str, ...]:
        """Digests of the adapters that may be asked for, oldest first."""
        return tuple(self._held)

    def submit(self, job: Group | Call) -> "Future[Any]":
        """Let `job` be done after those before it. Returns its future, which is cancelled when the engine ends first."""
        with self._changed:
            if self._ended.is_set():
                job.future.cancel()
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def stop(self, timeout_s: float) -> bool:
        """End after the token or call in hand; what waits is dropped. True when it ended within `timeout_s`."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        return self._ended.wait(timeout_s)

    def join(self) -> None:
        """Wait until it ends."""
        self._ended.wait()  # a `Thread.join` that a signal interrupts would take the thread for dead

    # --- its own thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._failures < MAX_FAILURES and (job := self._next()) is not None:
            if isinstance(job, Group):
                self._write(job)
            else:
                self._make(job)
        with self._changed:
            self._ended.set()
            for job in self._waiting:
                job.future.cancel()

    def _next(self) -> Group | Call | None:
        """Wait for the next job that somebody still waits for; None when it is time to stop."""
        with self._changed:
            while not self._is_stopping:
                while self._waiting:
                    if not (job := self._waiting.popleft()).future.cancelled():
                        return job
                self._changed.wait()
        return None

    def _make(self, call: Call) -> None:
        try:
            if call.adapter_digest is not None:
                self._serve(call.adapter_digest)
            self._settle(call, call.work(self._sampler))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client waits for an answer
            self._fail([call], error)

    def _write(self, first: Group) -> None:
        """Write a group and all that wait under the same adapter, in one stream."""
        in_flight: dict[str, Group] = {}
        try:
            self._serve(first.adapter_digest)
            with self._sampler.stream() as stream:
                self._put([first, *self._gather(first.adapter_digest)], stream, in_flight)
                while not self._is_stopping and not all(group.future.cancelled() for group in in_flight.values()):
                    for key, completions in stream.take():
                        self._settle(in_flight.pop(key), SampleReply(groups=(tuple(completions),)))
                    self._put(self._take_waiting(first.adapter_digest), stream, in_flight)
            for group in in_flight.values():
                group.future.cancel()
        except Exception as error:  # noqa: BLE001 - see above
            self._fail([first, *in_flight.values()], error)

    def _put(self, groups: list[Group], stream: CompletionStream, in_flight: dict[str, Group]) -> None:
        for group in groups:
            key = str(next(self._keys))
            try:
                stream.put(key, group.prompt, n=group.n, seed=group.seed)
            except Exception as error:  # noqa: BLE001 - one bad prompt must not take its neighbours along
                self._fail([group], error)
            else:
                in_flight[key] = group

    def _gather(self, adapter_digest: str) -> list[Group]:
        """Return the groups that wait, once no more of them come."""
        found: list[Group] = []
        while True:
            time.sleep(GATHER_S)
            more = self._take_waiting(adapter_digest)
            if not more:
                return found
            found += more

    def _take_waiting(self, adapter_digest: str) -> list[Group]:
        """Take the groups at the head of the queue that need this adapter; one that does not keeps its turn."""
        found: list[Group] = []
        with self._changed:
            while self._waiting:
                head = self._waiting[0]
                if not isinstance(head, Group) or head.adapter_digest != adapter_digest:
                    break
                found.append(head)
                self._waiting.popleft()
        return [group for group in found if not group.future.cancelled()]

    def _serve(self, adapter_digest: str) -> None:
        version = self._held.get(adapter_digest)
        if version is None and adapter_digest != BASE_DIGEST:
            raise RefusedError("adapter", "this adapter is not held here")
        if self._sampler.adapter_digest != adapter_digest:
            self._sampler.publish(version)

    def publish(self, sampler: StreamingSampler, version: AdapterVersion, files: Mapping[str, bytes]) -> str:
        """Write `files`, which match `version`, serve and hold it; return the digest that is then served. For a `Call`."""
        before = self._held.get(version.digest)
        is_known = before is not None and before.adapter_id == version.adapter_id
        if not is_known:
            save_directory(adapter_dir(self._folder, version.adapter_id), files)
        try:
            sampler.publish(version)
        except Exception:
            if not is_known:
                remove_directory(adapter_dir(self._folder, version.adapter_id))
            raise
        if before is not None and not is_known:
            remove_directory(adapter_dir(self._folder, before.adapter_id))
        self._held[version.digest] = version
        self._held.move_to_end(version.digest)
        while len(self._held) > MAX_HELD:
            _, oldest = self._held.popitem(last=False)
            remove_directory(adapter_dir(self._folder, oldest.adapter_id))
        return sampler.adapter_digest

    def _settle(self, job: Group | Call, result: Any) -> None:
        self._failures = 0
        with suppress(InvalidStateError):  # nobody waits for it any more
            job.future.set_result(result)

    def _fail(self, jobs: list[Group | Call], error: Exception) -> None:
        """Tell the clients; of a foreign exception only its type, since its text may quote a prompt."""
        if not isinstance(error, SpiceError):
            self._failures += 1
            error = SamplerError(f"the server's sampler failed with {type(error).__name__}", hint="look at the server")
        for job in jobs:
            with suppress(InvalidStateError):
                job.future.set_exception(error)
