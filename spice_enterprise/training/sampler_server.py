"""A sampler in a process of its own, for jobs on the same machine.

In: a sampler, who it is, a token, a port, a private folder for adapters.
Out: `/v1/health`, `/v1/adapters`, `/v1/samples` and `/v1/scores` (`wire.py`) until it is closed.
Refuses: requests meant for another server, adapters of another base, files that do not match their digest.
Not here: HTTP (`loopback_http.py`), the thread that owns the sampler (`sampler_engine.py`), the sampler (`served_sampler.py`).
"""

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from spice_enterprise.errors import DeliveryError, IntegrityError, SamplerError
from spice_enterprise.protocols import StreamingSampler
from spice_enterprise.training import wire
from spice_enterprise.training.loopback_http import LOOK_S, LoopbackListener, Route
from spice_enterprise.training.sampler_engine import Call, Group, SamplerEngine
from spice_enterprise.training.wire import (
    AdapterHead,
    Health,
    Identity,
    RefusedError,
    SampleReply,
    SampleRequest,
    ScoreReply,
    ScoreRequest,
    Served,
)

MAX_HEAD_BYTES: Final = 1 << 20
"""First line of a delivered adapter."""
STOP_S: Final = 3.0
"""Time the sampler gets to end."""

Request = TypeVar("Request", SampleRequest, ScoreRequest, AdapterHead)


class SamplerServer:
    """Answers jobs with a sampler that one thread owns."""

    def __init__(self, sampler: StreamingSampler, identity: Identity, folder: Path) -> None:
        """Own `sampler`, which reads published versions from `folder` (`adapters/<adapter_id>`)."""
        self._identity = identity
        self._engine = SamplerEngine(sampler, folder)

    @property
    def routes(self) -> dict[tuple[str, str], Route]:
        """What a `LoopbackListener` needs."""
        return {
            ("GET", wire.HEALTH): Route(begin=self._health),
            ("POST", wire.ADAPTERS): Route(begin=self._publish, max_bytes=wire.MAX_ADAPTER_BYTES),
            ("POST", wire.SAMPLES): Route(begin=self._sample, max_bytes=wire.MAX_REQUEST_BYTES),
            ("POST", wire.SCORES): Route(begin=self._score, max_bytes=wire.MAX_REQUEST_BYTES),
        }

    def wait(self) -> None:
        """Return only by an exception: `SamplerError` when the sampler broke, or whatever a signal handler raises."""
        self._engine.join()
        raise SamplerError("the sampler failed again and again", hint="start the server anew")

    def close(self) -> bool:
        """Stop the sampler. True when it ended within `STOP_S`; if not it goes on with the group in hand."""
        return self._engine.stop(STOP_S)

    def _health(self, _: bytes) -> "Future[Any]":
        engine = self._engine
        return _known(Health(identity=self._identity, adapter_digest=engine.adapter_digest, held=engine.held))

    def _publish(self, body: bytes) -> "Future[Any]":
        end = body.find(b"\n", 0, MAX_HEAD_BYTES)
        if end < 0:
            raise IntegrityError("AdapterHead: not a line", code="E_RECORD")
        version = self._meant_for_us(wire.read_record(AdapterHead, body[:end])).version
        if version.base_digest != self._identity.base_digest:
            raise DeliveryError(
                f"the adapter of step {version.step} belongs to another base model than this server's",
                record_id=version.adapter_id,
                hint="start the server with the job's own config",
            )
        files = wire.read_adapter_files(version, memoryview(body)[end + 1 :])

        def work(sampler: StreamingSampler) -> Served:
            return Served(adapter_digest=self._engine.publish(sampler, version, files))

        return self._engine.submit(Call(adapter_digest=None, work=work))

    def _sample(self, body: bytes) -> "Future[Any]":
        """One prompt is written beside other groups; several are one call, since each has its place in the seed."""
        request = self._meant_for_us(wire.read_record(SampleRequest, body))
        if len(request.prompts) == 1:
            group = Group(adapter_digest=request.adapter_digest, prompt=request.prompts[0], n=request.n, seed=request.seed)
            return self._engine.submit(group)

        def work(sampler: StreamingSampler) -> SampleReply:
            groups = sampler.sample(request.prompts, n=request.n, seed=request.seed)
            return SampleReply(groups=tuple(map(tuple, groups)))

        return self._engine.submit(Call(adapter_digest=request.adapter_digest, work=work))

    def _score(self, body: bytes) -> "Future[Any]":
        request = self._meant_for_us(wire.read_record(ScoreRequest, body))

        def work(sampler: StreamingSampler) -> ScoreReply:
            rows = sampler.score(request.prompts, request.continuations)
            return ScoreReply(adapter_digest=sampler.adapter_digest, rows=tuple(map(tuple, rows)))

        return self._engine.submit(Call(adapter_digest=request.adapter_digest, work=work))

    def _meant_for_us(self, request: Request) -> Request:
        if request.identity != self._identity.digest:
            raise RefusedError("identity", "this is another server than the one that was met")
        return request


@contextmanager
def listening(listener: LoopbackListener) -> Iterator[None]:
    """Within this block requests are answered: that it is loading, until `listener` has `routes`. Afterwards nobody listens."""
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": LOOK_S}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown()
        listener.server_close()


@contextmanager
def private_folder(parent: Path, port: int) -> Iterator[Path]:
    """Within this block there is an empty folder that only this user can enter; the port, which is ours, names it.

    What a killed server left there is removed. Raises `SamplerError` when somebody else has the name.
    """
    folder = parent / f"spice-sampler-{os.getuid()}-{port}"
    parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.getuid()):
        raise SamplerError(f"{folder.name}: belongs to somebody else", hint="choose another port, or set sampler.adapter_dir")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _known(result: object) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(result)
    return future
