"""The sampler of a job whose completions are written by a server on the same machine.

In: prompts; a saved adapter version to serve.
Out: completions and scores under exactly this version, as if the server's sampler were in this process.
Refuses: a server with another base, precision or kind of weights, one that answers under another adapter, encodes prompts
    otherwise or is not the one that was there when the version was published (`DeliveryError`); completions that do not fit
    together (`SamplerError`).
Not here: connections (`server_line.py`), the server (`sampler_server.py`), the proof of a version (`delivery.py`).

A request names the adapter and the server it is meant for, and holds the seed of its completions. So a server that died may
simply be asked again: once the same one is back it is met anew, given the adapter again, and the groups are repeated. A
repeated group may have other neighbours in its batch: its numbers are the same up to rounding, and so are its tokens as long
as rounding turns none of them. One that came back as something else gets nothing before another version is published,
which is for its owner to prove.
"""

import math
import selectors
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from spice_enterprise.errors import DeliveryError, IntegrityError, SamplerError
from spice_enterprise.protocols import BASE_DIGEST
from spice_enterprise.records import AdapterVersion, Completion, Prompt
from spice_enterprise.training import wire
from spice_enterprise.training.delivery import open_version
from spice_enterprise.training.server_line import Exchange, LostError, ServerLine
from spice_enterprise.training.wire import (
    PROTOCOL,
    AdapterHead,
    Failure,
    Health,
    Identity,
    SampleReply,
    SampleRequest,
    ScoreReply,
    ScoreRequest,
    Served,
)

MAX_IN_FLIGHT: Final = 64
"""Groups a server is asked for at a time."""
MAX_ATTEMPTS: Final = 4
"""Of one request, when the server goes away or forgets in between."""
MAX_PROMPTS: Final = 32
"""In one request, where the answer does not depend on how prompts are divided."""

T = TypeVar("T")


class ServerSampler:
    """Implements `protocols.StreamingSampler` on a `SamplerServer`. Fresh, it serves the bare base."""

    def __init__(
        self,
        line: ServerLine,
        *,
        base_digest: str,
        dtype: str,
        weights: str,
        encode_prompt: Callable[[Prompt], tuple[int, ...]],
        run_dir: Path,
    ) -> None:
        """Connect when it is first used. What the server must have: `weights` are `base`, `twin` or `nf4`."""
        self._line = line
        self._wanted = {"protocol": PROTOCOL, "base_digest": base_digest, "dtype": dtype, "weights": weights}
        self._encode_prompt = encode_prompt
        self._run_dir = run_dir
        self._identity: Identity | None = None
        self._is_met = False
        self._version: AdapterVersion | None = None

    @property
    def adapter_digest(self) -> str:
        """The digest that every completion must carry; `base` for the bare base."""
        return BASE_DIGEST if self._version is None else self._version.digest

    @property
    def identity(self) -> Identity:
        """Who the server is. Raises `SamplerError` when it is away, `DeliveryError` when it is not the one it must be."""
        if self._identity is None or not self._is_met:
            self._identity = self._required(self._health().identity)
            self._is_met = True
        return self._identity

    def publish(self, version: AdapterVersion | None) -> None:
        """Serve `version` from now on, `None` for the bare base.

        The files on disk are verified, sent and verified again by the server.
        Raises `DeliveryError` (E_ADAPTER_DIGEST, E_ADAPTER, E_DELIVERY); then what was served before stays.
        """
        before = self._identity
        if (BASE_DIGEST if version is None else version.digest) != self.adapter_digest:
            self._identity = None  # whoever is there now: the version is new, so its owner proves it there
        try:
            if version is None:
                self.identity  # noqa: B018 - meets the server, so that another base is refused now and not later
            else:
                self._deliver(version)
        except BaseException:
            self._identity, self._is_met = before, False
            raise
        self._version = version

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        """Return `n` completions per prompt, in order; see `protocols.Sampler`."""
        # a drawn completion depends on its prompt's place in the request, a greedy one does not
        size = MAX_PROMPTS if all(prompt.temperature == 0.0 for prompt in prompts) else max(1, len(prompts))
        found: list[list[Completion]] = []
        for start in range(0, len(prompts), size):
            part = tuple(prompts[start : start + size])
            found += self.checked(self._ask(wire.SAMPLES, self.sample_request(part, n, seed), SampleReply), part, n)
        return found

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the mean log-probability (nats per token) of each continuation after its prompt."""
        texts = [tuple(of_prompt) for of_prompt in continuations]
        if len(texts) != len(prompts):
            raise ValueError("one row of continuations per prompt")
        rows: list[list[float]] = []
        for start in range(0, len(prompts), MAX_PROMPTS):
            part, of_part = tuple(prompts[start : start + MAX_PROMPTS]), tuple(texts[start : start + MAX_PROMPTS])
            reply = self._ask(wire.SCORES, self._score_request(part, of_part), ScoreReply)
            self._require_digest(reply.adapter_digest)
            if [len(row) for row in reply.rows] != [len(row) for row in of_part]:
                raise _malformed("scores")
            rows += map(list, reply.rows)
        return rows

    @contextmanager
    def stream(self) -> Iterator["ServerStream"]:
        """Open a stream of groups; leaving it hangs up on those in flight."""
        stream = ServerStream(self, self._line)
        try:
            yield stream
        finally:
            stream.close()

    # --- for the stream ---------------------------------------------------------------------------------------------

    def sample_request(self, prompts: tuple[Prompt, ...], n: int, seed: int) -> Callable[[], bytes]:
        """Return what writes the request, for whichever server is there when it is sent."""
        return lambda: wire.write_record(
            SampleRequest(identity=self.identity.digest, adapter_digest=self.adapter_digest, prompts=prompts, n=n, seed=seed)
        )

    def checked(self, reply: SampleReply, prompts: Sequence[Prompt], n: int) -> list[list[Completion]]:
        """Return the completions. Raises `DeliveryError` or `SamplerError` when they are not what was asked for."""
        if [len(group) for group in reply.groups] != [n] * len(prompts):
            raise _malformed("groups")
        for prompt, group in zip(prompts, reply.groups, strict=True):
            prompt_ids = self._encode_prompt(prompt)
            for completion in group:
                self._require_digest(completion.adapter_digest)
                if completion.prompt_token_ids != prompt_ids:
                    raise DeliveryError(
                        "the sampler server encodes prompts in another way than this job",
                        hint="let both use the same base model and versions of this package",
                    )
                _require_whole(completion, prompt)
        return [list(group) for group in reply.groups]

    def mend(self, failure: Failure) -> None:
        """Do what makes the same request possible again. Raises what the failure stands for when nothing does."""
        if failure.kind in ("identity", "loading"):
            self.forget_server()
        elif failure.kind == "adapter" and self._version is not None:
            if self._version.digest not in self._health().held:  # one delivery mends every group in flight
                self._deliver(self._version)
        else:
            raise _error_of(failure)

    def forget_server(self) -> None:
        """Meet the server anew before the next request; it must be the same one."""
        self._is_met = False

    # --- requests ---------------------------------------------------------------------------------------------------

    def _score_request(self, prompts: tuple[Prompt, ...], texts: tuple[tuple[str, ...], ...]) -> Callable[[], bytes]:
        return lambda: wire.write_record(
            ScoreRequest(identity=self.identity.digest, adapter_digest=self.adapter_digest, prompts=prompts, continuations=texts)
        )

    def _ask(self, path: str, body: Callable[[], bytes], reply: type[T]) -> T:
        for _ in range(MAX_ATTEMPTS):
            answer = self._line.ask("POST", path, [body()])
            if not isinstance(answer, Failure):
                return _read(reply, answer)
            self.mend(answer)
        raise self._line.away()

    def _deliver(self, version: AdapterVersion) -> None:
        files = open_version(self._run_dir, version)
        for _ in range(MAX_ATTEMPTS):
            head = AdapterHead(identity=self.identity.digest, version=version)
            answer = self._line.ask("POST", wire.ADAPTERS, wire.write_adapter(head, files))
            if isinstance(answer, Failure) and answer.kind == "identity":
                self.forget_server()
                continue
            if _read(Served, self._expect(answer)).adapter_digest != version.digest:
                raise DeliveryError("the sampler server serves another adapter than it was given", record_id=version.adapter_id)
            return
        raise self._line.away()

    def _expect(self, answer: bytes | Failure) -> bytes:
        if isinstance(answer, Failure):
            raise _error_of(answer)
        return answer

    def _health(self) -> Health:
        return _read(Health, self._expect(self._line.ask("GET", wire.HEALTH)))

    def _required(self, identity: Identity) -> Identity:
        """Return `identity`. Raises `DeliveryError` unless it may sample for this job, and under the version published last."""
        for name, value in self._wanted.items():
            if getattr(identity, name) != value:
                raise DeliveryError(
                    f"the sampler server has another {name.replace('_', ' ')} than this job",
                    hint="start it with the job's own config and the same version of this package",
                )
        if self._identity is not None and identity.digest != self._identity.digest:
            raise DeliveryError(
                "the sampler server came back as another one than the adapter was published to",
                record_id=self._version.adapter_id if self._version else None,
                hint="start it as it was, or run the same command again: the job then meets it anew",
            )
        return identity

    def _require_digest(self, digest: str) -> None:
        if digest != self.adapter_digest:
            raise DeliveryError(
                "the sampler server answered under another adapter than the one asked for",
                record_id=self._version.adapter_id if self._version else None,
                hint="do not trust what it wrote; restart it",
            )


@dataclass(slots=True, kw_only=True)
class _Asked:
    """One group until it is there."""

    prompt: Prompt = field(repr=False)
    n: int
    write_request: Callable[[], bytes]
    attempts: int = 0


class ServerStream:
    """Implements `protocols.CompletionStream`: one request per group, all in flight together."""

    def __init__(self, sampler: ServerSampler, line: ServerLine) -> None:
        self._sampler = sampler
        self._line = line
        self._groups: dict[str, _Asked] = {}
        self._waiting: deque[str] = deque()
        self._open: dict[str, Exchange] = {}
        self._selector = selectors.DefaultSelector()

    def put(self, key: str, prompt: Prompt, *, n: int, seed: int) -> None:
        """Begin a group. Raises `ValueError` when `key` is in flight already."""
        if key in self._groups:
            raise ValueError("this key is in flight")
        self._groups[key] = _Asked(prompt=prompt, n=n, write_request=self._sampler.sample_request((prompt,), n, seed))
        self._waiting.append(key)
        self._send()

    def take(self) -> list[tuple[str, list[Completion]]]:
        """Wait until at least one group is finished and return all that are; empty when nothing is in flight.

        Raises `SamplerError`: E_SAMPLER_HUNG when no group comes for `timeout_s`, E_SAMPLER_AWAY when the server stays
        away or goes away again and again.
        """
        done: list[tuple[str, list[Completion]]] = []
        self._line.listen()
        while self._groups and not done:
            self._send()
            ready = self._selector.select(self._line.patience_s)
            if not ready:
                raise self._line.hung()
            for event, _ in ready:
                done += self._receive(event.data)
        return done

    def close(self) -> None:
        """Hang up on everything in flight."""
        for exchange in self._open.values():
            exchange.close()
        self._selector.close()

    def _send(self) -> None:
        """Send what waits, as far as there is room."""
        while self._waiting and len(self._open) < MAX_IN_FLIGHT:
            key = self._waiting[0]
            try:
                exchange = self._line.send("POST", wire.SAMPLES, [self._groups[key].write_request()])
            except LostError:
                self._count_attempt(key)
                continue
            self._waiting.popleft()
            self._open[key] = exchange
            self._selector.register(exchange, selectors.EVENT_READ, key)

    def _receive(self, key: str) -> list[tuple[str, list[Completion]]]:
        """Return the group whose reply begins to come, or nothing when it has to be asked for again."""
        exchange = self._open.pop(key)
        self._selector.unregister(exchange)
        try:
            answer = self._line.receive(exchange)
        except LostError:
            self._ask_again(key)
            return []
        finally:
            exchange.close()
        if isinstance(answer, Failure):
            self._sampler.mend(answer)
            self._ask_again(key)
            return []
        asked = self._groups.pop(key)
        return [(key, self._sampler.checked(_read(SampleReply, answer), [asked.prompt], asked.n)[0])]

    def _ask_again(self, key: str) -> None:
        self._count_attempt(key)
        self._waiting.append(key)

    def _count_attempt(self, key: str) -> None:
        """Meet the server anew before the group is asked for again; it may be another one now."""
        self._groups[key].attempts += 1
        if self._groups[key].attempts >= MAX_ATTEMPTS:
            raise self._line.away()
        self._sampler.forget_server()


def _read(cls: type[T], body: bytes) -> T:
    try:
        return wire.read_record(cls, body)
    except IntegrityError as error:
        raise _malformed(error.message) from None


def _require_whole(completion: Completion, prompt: Prompt) -> None:
    tokens, logprobs = len(completion.token_ids), completion.logprobs
    if not 1 <= tokens <= prompt.max_new_tokens or len(logprobs) != tokens:
        raise _malformed("a completion's length")
    if not all(math.isfinite(value) and value <= 0.0 for value in logprobs):
        raise _malformed("a completion's log-probabilities")


def _malformed(what: str) -> SamplerError:
    hint = "restart it with the same version of this package"
    return SamplerError(f"the sampler server's reply cannot be used: {what}", hint=hint)


def _error_of(failure: Failure) -> SamplerError:
    cls = SamplerError if failure.kind == "sampler" else DeliveryError
    return cls(f"the sampler server refused: {failure.message}", code=failure.code, hint=failure.hint)
