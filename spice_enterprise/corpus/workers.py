"""Several processes for the first pass. What they find does not depend on how many there are.

In: batches of documents with their bytes.
Out: their outcomes, in the order of the batches.
Refuses: nothing of its own; a document that takes its worker down twice is rejected (`E_LIMIT`), its neighbours are not.
Not here: what a worker does with a document (`preparing.py`).

A worker is `python -m spice_enterprise.corpus.workers`, spoken to over its pipes in lines of JSON and raw bytes: nothing is
pickled, the caller's own script is not run again, and the workspace key travels over the pipe only.
"""

import base64
import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import IO, Final, cast

from spice_enterprise import offline
from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus.detection import make_detector
from spice_enterprise.corpus.preparing import Outcome, Preparer, rejected
from spice_enterprise.corpus.scrub import Scrubber
from spice_enterprise.corpus.staging import Prepared
from spice_enterprise.errors import CorpusError, IntegrityError, SpiceError, boundary
from spice_enterprise.policy import PiiPolicy
from spice_enterprise.records import Document, Rejection, canonical_json, decode

_AHEAD: Final = 2
"""Batches that wait per worker, so that reading and scrubbing overlap while memory stays bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Documents that one worker takes at once."""

    documents: tuple[Document, ...]
    contents: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told when it starts."""

    config: IngestConfig
    policy: PiiPolicy
    key: bytes = field(repr=False)

    def preparer(self) -> Preparer:
        """Return a first pass with the default detectors."""
        scrubber = Scrubber(self.policy, make_detector(self.config), self.key)
        return Preparer(self.config, self.policy, scrubber, self.key)


class Workers:
    """A pool. Close it to end the processes."""

    def __init__(self, settings: WorkerSettings, count: int) -> None:
        """Start a worker when the first batch needs it, at most `count` of them."""
        self._settings = settings
        self._count = count
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(count):
            self._idle.put(None)
        self._live: set[_Worker] = set()
        self._is_closed = False
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix="spice-worker")

    def map(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Iterable[Outcome]]]:
        """Yield each batch with its outcomes, in order, drawing few batches ahead."""
        waiting: deque[tuple[Batch, Future[list[Outcome]]]] = deque()
        for batch in batches:
            waiting.append((batch, self._pool.submit(self._run, batch)))
            if len(waiting) > self._count * _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    def close(self) -> None:
        """End every worker, also in the middle of a batch: what it was doing is done again by the next run."""
        self._is_closed = True
        for worker in tuple(self._live):
            worker.end()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, batch: Batch) -> list[Outcome]:
        outcomes = self._ask(batch)
        if outcomes is not None or self._is_closed:
            return outcomes or []
        alone = [Batch(documents=(d,), contents=(c,)) for d, c in zip(batch.documents, batch.contents, strict=True)]
        return [self._ask_alone(single) for single in alone]

    def _ask_alone(self, batch: Batch) -> Outcome:
        outcomes = self._ask(batch)
        if outcomes is not None:
            return outcomes[0]
        return Outcome(result=rejected(batch.documents[0], "E_LIMIT", "scrubbing it broke the worker process"))

    def _ask(self, batch: Batch) -> list[Outcome] | None:
        """Return what an idle worker says; None when it died of it."""
        worker = self._idle.get()
        outcomes: list[Outcome] | None = None
        try:
            worker = worker or self._started()
            outcomes = worker.ask(batch)
        except (ConnectionError, ValueError, IntegrityError):
            return None
        finally:
            if outcomes is None and worker is not None:
                worker.end()
                self._live.discard(worker)
            self._idle.put(worker if outcomes is not None else None)
        return outcomes

    def _started(self) -> "_Worker":
        worker = _Worker(self._settings)
        self._live.add(worker)
        if self._is_closed:
            worker.end()  # closing did not see it
        return worker


class _Worker:
    """One process and its pipes."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._process = subprocess.Popen(
            # -P: a file of the documents' folder must not be imported in place of a library
            [sys.executable, "-P", "-m", "spice_enterprise.corpus.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # a traceback may quote the text that broke it
            stderr=subprocess.DEVNULL,
        )
        self._in = cast("IO[bytes]", self._process.stdin)
        self._out = cast("IO[bytes]", self._process.stdout)
        _say(self._in, {
            "config": settings.config.model_dump(mode="json"),
            "policy": settings.policy.model_dump(mode="json"),
            "key": base64.b64encode(settings.key).decode(),
        })  # fmt: skip

    def ask(self, batch: Batch) -> list[Outcome]:
        """Send a batch and return its outcomes. Raises `CorpusError` for broken machinery."""
        _say(
            self._in,
            [{"document": document, "size": len(c)} for document, c in zip(batch.documents, batch.contents, strict=True)],
        )
        for content in batch.contents:
            self._in.write(content)
        self._in.flush()
        answer = json.loads(self._out.readline())
        if "error" in answer:
            raise CorpusError(str(answer["error"]), code=str(answer["code"]), hint=str(answer["hint"]))
        return [_decoded(item) for item in answer["outcomes"]]

    def end(self) -> None:
        """Let the process go; it has nothing to save."""
        self._process.kill()
        for pipe in (self._in, self._out):
            with suppress(OSError):
                pipe.close()
        self._process.wait()


def _say(pipe: IO[bytes], value: object) -> None:
    pipe.write(canonical_json(value) + b"\n")
    pipe.flush()


def _encoded(outcome: Outcome) -> dict[str, object]:
    kind = "prepared" if isinstance(outcome.result, Prepared) else "rejection"
    return {kind: outcome.result, "originals": outcome.originals}


def _decoded(item: dict[str, object]) -> Outcome:
    cls: type[Prepared] | type[Rejection] = Prepared if "prepared" in item else Rejection
    result = decode(cls, cast("dict[str, object]", item.get("prepared") or item.get("rejection")))
    originals = cast("Sequence[tuple[str, str]]", item["originals"])
    return Outcome(result=result, originals=tuple((placeholder, value) for placeholder, value in originals))


# --- the worker's side ------------------------------------------------------------------------------------------------


def main() -> None:
    """Serve batches from stdin until it closes."""
    answers = sys.stdout.buffer
    told = json.loads(sys.stdin.buffer.readline())
    settings = WorkerSettings(
        config=IngestConfig.model_validate_json(json.dumps(told["config"])),
        policy=PiiPolicy.model_validate_json(json.dumps(told["policy"])),
        key=base64.b64decode(told["key"]),
    )
    offline.GUARD.start(is_offline=True)
    preparer: Preparer | None = None
    while line := sys.stdin.buffer.readline():
        batch = _received(json.loads(line), sys.stdin.buffer)
        try:
            with boundary("corpus"):
                preparer = preparer or settings.preparer()
                outcomes = list(preparer.prepare(batch.documents, batch.contents))
            _say(answers, {"outcomes": [_encoded(outcome) for outcome in outcomes]})
        except SpiceError as error:
            _say(answers, {"error": error.message, "code": error.code, "hint": error.hint})


def _received(header: Sequence[dict[str, object]], pipe: IO[bytes]) -> Batch:
    documents = tuple(decode(Document, cast("dict[str, object]", item["document"])) for item in header)
    return Batch(documents=documents, contents=tuple(pipe.read(cast("int", item["size"])) for item in header))


if __name__ == "__main__":
    main()
