"""Many plays over one stream of completions: each goes on as soon as its own groups are finished.

In: plays as generators that ask for groups; a sampler.
Out: what each play returns, in the order the plays were given.
Refuses: a group of another adapter or another size than asked for; a stream that ends with groups still owed.
Not here: what is asked and what is made of it (`turn.py`).

Nothing here depends on the order in which groups finish: a play hears its groups in the order it asked for them, and
every group has a seed of its own. What is shared between plays is settled after the last one has ended.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from spice_enterprise.errors import DeliveryError, SamplerError
from spice_enterprise.protocols import CompletionStream, Sampler
from spice_enterprise.records import AdapterVersion, Completion, Prompt

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One group that a play wants; `key` is unique in its step."""

    key: str
    prompt: Prompt = field(repr=False)
    n: int
    seed: int


Play = Generator[Sequence[Ask], list[list[Completion]], T]
"""Yields groups to ask for (at least one), is sent their completions in the same order, returns its result."""


def play_together(
    plays: Sequence[Play[T]], stream: CompletionStream, *, version: AdapterVersion, is_stopped: Callable[[], bool]
) -> list[T]:
    """Let all plays ask at once and each go on by itself; return their results in order.

    Raises `DeliveryError` when another adapter than `version` answered, `SamplerError` E_STOPPED once `is_stopped`.
    """
    results: dict[int, T] = {}
    asked: dict[str, tuple[int, Ask]] = {}
    heard: list[dict[str, list[Completion]]] = [{} for _ in plays]
    wanted: list[Sequence[Ask]] = [() for _ in plays]

    def go_on(i: int) -> None:
        try:
            wanted[i] = plays[i].send([heard[i].pop(ask.key) for ask in wanted[i]]) if wanted[i] else next(plays[i])
        except StopIteration as end:
            results[i] = end.value
            return
        for ask in wanted[i]:
            asked[ask.key] = (i, ask)
            stream.put(ask.key, ask.prompt, n=ask.n, seed=ask.seed)

    for i in range(len(plays)):
        go_on(i)
    while asked:
        for key, completions in _finished(stream, asked, is_stopped):
            i, ask = asked.pop(key)
            _require(completions, ask, version)
            heard[i][key] = completions
            if len(heard[i]) == len(wanted[i]):
                go_on(i)
    return [results[i] for i in range(len(plays))]


def _finished(
    stream: CompletionStream, asked: dict[str, tuple[int, Ask]], is_stopped: Callable[[], bool]
) -> list[tuple[str, list[Completion]]]:
    """Return the groups that finished next: at least one, each of them owed."""
    if is_stopped():
        raise SamplerError("playing was stopped on request", code="E_STOPPED", hint="the same command continues")
    finished = stream.take()
    if not finished or any(key not in asked for key, _ in finished):
        raise SamplerError(f"the sampler's stream lost {len(asked)} groups or returned one twice", hint="a fault of the sampler")
    return finished


def _require(completions: Sequence[Completion], ask: Ask, version: AdapterVersion) -> None:
    if any(completion.adapter_digest != version.digest for completion in completions):
        raise DeliveryError(
            "the sampler answered with another adapter than the one that should play",
            record_id=version.adapter_id,
            hint="publish the version to the sampler before playing",
        )
    if len(completions) != ask.n:
        raise SamplerError(f"{len(completions)} completions came back, {ask.n} were asked for", hint="a fault of the sampler")


def open_stream(sampler: Sampler) -> AbstractContextManager[CompletionStream]:
    """Open the sampler's own stream; a sampler without one is asked group by group, with the same result."""
    opener: Any = getattr(sampler, "stream", None)
    return opener() if opener is not None else nullcontext(GroupByGroup(sampler))


class GroupByGroup:
    """A `CompletionStream` over a plain `Sampler`: one call per group, oldest first."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._waiting: deque[Ask] = deque()

    def put(self, key: str, prompt: Prompt, *, n: int, seed: int) -> None:
        """Keep a group until it is its turn."""
        if any(ask.key == key for ask in self._waiting):
            raise ValueError("a group with this key is in flight already")
        self._waiting.append(Ask(key=key, prompt=prompt, n=n, seed=seed))

    def take(self) -> list[tuple[str, list[Completion]]]:
        """Draw the oldest group."""
        if not self._waiting:
            return []
        ask = self._waiting.popleft()
        return [(ask.key, self._sampler.sample([ask.prompt], n=ask.n, seed=ask.seed)[0])]
