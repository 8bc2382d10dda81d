"""Many plays over streams of completions: each goes on as soon as its own groups are finished.

In: plays as generators that ask for groups; one stream per speaker.
Out: what each play returns, in the order the plays were given.
Refuses: a group of another adapter or another size than asked for; a stream that ends with groups still owed.
Not here: what is asked and what is made of it (`turn.py`).

Nothing here depends on the order in which groups finish: a play hears its groups in the order it asked for them, and
every group has a seed of its own. What is shared between plays is settled after the last one has ended.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from spice_enterprise.errors import DeliveryError, SamplerError
from spice_enterprise.protocols import CompletionStream, Sampler
from spice_enterprise.records import Completion, Prompt
from spice_enterprise.selfplay.effort import Meter, Phase

T = TypeVar("T")

Speaker = Literal["player", "base", "challenger"]
"""The model in training, the frozen base, or a frozen model that proposes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One group that a play wants; `key` is unique in its step."""

    key: str
    prompt: Prompt = field(repr=False)
    n: int
    seed: int
    phase: Phase
    speaker: Speaker = "player"


Play = Generator[Sequence[Ask], list[list[Completion]], T]
"""Yields groups to ask for (at least one), is sent their completions in the same order, returns its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A speaker's stream, and the digest its completions must carry."""

    stream: CompletionStream
    adapter_digest: str


def play_together(
    plays: Sequence[Play[T]], lines: Mapping[Speaker, Line], *, is_stopped: Callable[[], bool], meter: Meter
) -> list[T]:
    """Let all plays ask at once and each go on by itself; return their results in order.

    Raises `DeliveryError` when a speaker answered with another adapter, `SamplerError` E_STOPPED once `is_stopped`.
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
            lines[ask.speaker].stream.put(ask.key, ask.prompt, n=ask.n, seed=ask.seed)

    for i in range(len(plays)):
        go_on(i)
    while asked:
        for key, completions in _finished(lines, asked, is_stopped, meter):
            i, ask = asked.pop(key)
            _require(completions, ask, lines[ask.speaker].adapter_digest)
            meter.drew(ask.phase, completions)
            heard[i][key] = completions
            if len(heard[i]) == len(wanted[i]):
                go_on(i)
    return [results[i] for i in range(len(plays))]


def _finished(
    lines: Mapping[Speaker, Line], asked: Mapping[str, tuple[int, Ask]], is_stopped: Callable[[], bool], meter: Meter
) -> list[tuple[str, list[Completion]]]:
    """Return the groups that finished next, of every speaker that has some in flight: each of them owed."""
    finished: list[tuple[str, list[Completion]]] = []
    for speaker, line in lines.items():
        owed = [ask for _, ask in asked.values() if ask.speaker == speaker]
        if not owed:
            continue
        if is_stopped():
            raise SamplerError("playing was stopped on request", code="E_STOPPED", hint="the same command continues")
        with meter.waiting(_rows(owed)):
            taken = line.stream.take()
        if not taken or any(key not in asked for key, _ in taken):
            raise SamplerError(
                f"the sampler's stream lost {len(owed)} groups or returned one twice", hint="a fault of the sampler"
            )
        finished += taken
    return finished


def _rows(owed: Sequence[Ask]) -> dict[Phase, int]:
    rows: Counter[Phase] = Counter()
    for ask in owed:
        rows[ask.phase] += ask.n
    return rows


def _require(completions: Sequence[Completion], ask: Ask, adapter_digest: str) -> None:
    if any(completion.adapter_digest != adapter_digest for completion in completions):
        raise DeliveryError(
            f"the sampler of the {ask.speaker} answered with another adapter than the one that should speak",
            record_id=adapter_digest,
            hint="publish the version to the sampler before playing",
        )
    if len(completions) != ask.n:
        raise SamplerError(f"{len(completions)} completions came back, {ask.n} were asked for", hint="a fault of the sampler")


@contextmanager
def open_lines(speakers: Mapping[Speaker, tuple[Sampler, str]]) -> Iterator[dict[Speaker, Line]]:
    """Open a stream per speaker, given its sampler and the digest that is expected of it."""
    with ExitStack() as stack:
        yield {
            speaker: Line(stream=stack.enter_context(open_stream(sampler)), adapter_digest=digest)
            for speaker, (sampler, digest) in speakers.items()
        }


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
        self._waiting.append(Ask(key=key, prompt=prompt, n=n, seed=seed, phase="challenger"))

    def take(self) -> list[tuple[str, list[Completion]]]:
        """Draw the oldest group."""
        if not self._waiting:
            return []
        ask = self._waiting.popleft()
        return [(ask.key, self._sampler.sample([ask.prompt], n=ask.n, seed=ask.seed)[0])]
