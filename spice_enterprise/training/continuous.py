"""Continuous batching: groups begin when there is room for them, and rows leave when they end.

In: groups of rows, each a prompt and how many completions of it are wanted.
Out: finished groups.
Refuses: nothing.
Not here: tokens to text and when a row ends (`hf_sampler.py`), keys and values (`group_cache.py`).

One forward pass writes one token of every row in flight. Every row draws from a stream of its own, so what it writes
does not depend on its neighbours.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from spice_enterprise.records import Prompt, StopReason
from spice_enterprise.training.cpu_linear import frozen_linear
from spice_enterprise.training.drawing import draw
from spice_enterprise.training.group_cache import Cohort, GroupCache
from spice_enterprise.training.memory import SAMPLER_KV_BYTES
from spice_enterprise.training.prefill import TokenIds, families, passes, read_beginning, read_prompts, shared_length
from spice_enterprise.training.qlora import LearnerModel

MAX_ROWS: Final = 128
"""Rows decoded together."""
MAX_KV_BYTES: Final = SAMPLER_KV_BYTES
"""Keys and values held at one time."""


@dataclass(slots=True)
class Row:
    """One completion being written."""

    place: tuple[int, int]
    """(prompt, completion)"""
    prompt: Prompt
    draws: random.Random
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop_reason: StopReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A prompt and its rows."""

    key: str
    prompt_ids: TokenIds
    rows: tuple[Row, ...]

    @property
    def kv_tokens(self) -> int:
        """Positions that its keys and values may take."""
        return len(self.prompt_ids) + sum(row.prompt.max_new_tokens for row in self.rows)


@dataclass(slots=True, kw_only=True)
class _Flight:
    """Rows that began together, in the order in which their cohort holds them."""

    cohort: Cohort
    rows: list[tuple[Row, Group]]

    def retire(self) -> list[Group]:
        """Drop the rows that ended; return the groups that are finished thereby."""
        finished: list[Group] = []
        before = len(self.rows)
        for place in reversed(range(before)):
            row, group = self.rows[place]
            if row.stop_reason is None:
                continue
            self.cohort.retire(place)
            self.rows[place] = self.rows[-1]
            self.rows.pop()
            if not any(other is group for _, other in self.rows):
                finished.append(group)
        if len(self.rows) < before:
            self.cohort.settle()
        return finished

    def kv_tokens(self) -> int:
        return self.cohort.kv_tokens(max(row.prompt.max_new_tokens for row, _ in self.rows))


class ContinuousBatch:
    """Groups waiting and in flight on one model. Call within `torch.no_grad()`, while the model speaks as it should."""

    def __init__(self, learner: LearnerModel, why_ended: Callable[[Row], StopReason | None]) -> None:
        """Decode with `learner`; `why_ended` says after each token why its row ends there, `None` when it goes on."""
        self._learner = learner
        self._why_ended = why_ended
        self._waiting: deque[Group] = deque()
        self._flights: list[_Flight] = []

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._waiting and not self._flights

    def put(self, group: Group) -> None:
        """Let a group wait for its turn; groups begin in the order they were put."""
        self._waiting.append(group)

    def step(self) -> list[Group]:
        """Write one token of every row in flight and begin what there is room for; return the groups this finished."""
        finished = self._write() if self._flights else []
        began = self._admissible()
        finished += [group for group in began if not group.rows]
        finished += self._begin([group for group in began if group.rows])
        self._flights = [flight for flight in self._flights if flight.rows]
        return finished

    def _admissible(self) -> list[Group]:
        """Take groups off the queue, in order, while there is room; a group that is alone always fits.

        Few at a time are not worth a pass of their own while many rows are in flight.
        """
        flying = sum(len(flight.rows) for flight in self._flights)
        rows, kv_tokens = flying, sum(flight.kv_tokens() for flight in self._flights if flight.rows)
        limit = MAX_KV_BYTES // self._learner.kv_bytes_per_token
        fitting = 0
        for group in self._waiting:
            rows, kv_tokens = rows + len(group.rows), kv_tokens + group.kv_tokens
            if (flying or fitting) and (rows > MAX_ROWS or kv_tokens > limit):
                break
            fitting += 1
        new = sum(len(self._waiting[i].rows) for i in range(fitting))
        is_worth_it = fitting == len(self._waiting) or 4 * new >= flying + new
        return [self._waiting.popleft() for _ in range(fitting)] if is_worth_it else []

    def _begin(self, groups: Sequence[Group]) -> list[Group]:
        """Read the prompts, and what those of a family begin with once for all; write every row's first token."""
        encoded = [group.prompt_ids for group in groups]
        return [group for places in families(encoded) for group in self._begin_family([groups[place] for place in places])]

    def _begin_family(self, groups: Sequence[Group]) -> list[Group]:
        encoded = [group.prompt_ids for group in groups]
        beginning = read_beginning(self._learner, encoded[0][: shared_length(encoded)])
        finished: list[Group] = []
        for places in passes(encoded):
            part = [groups[place] for place in places]
            hidden, caches = read_prompts(self._learner, [group.prompt_ids for group in part], beginning)
            rows = [(row, group) for group in part for row in group.rows]
            group_of_row = [i for i, group in enumerate(part) for _ in group.rows]
            flight = _Flight(cohort=Cohort(caches, [len(g.prompt_ids) for g in part], group_of_row), rows=rows)
            logits = frozen_linear(hidden, self._learner.head_weight)
            self._extend([row for row, _ in rows], logits[torch.tensor(group_of_row, device=logits.device)])
            finished += flight.retire()
            self._flights.append(flight)
        return finished

    def _write(self) -> list[Group]:
        """Run every row's newest token and write the next one."""
        pairs = [pair for flight in self._flights for pair in flight.rows]
        device = self._learner.device
        newest = torch.tensor(
            [[row.token_ids[-1], len(group.prompt_ids) + len(row.token_ids) - 1] for row, group in pairs], device=device
        )
        output = self._learner.hidden_states(
            newest[:, :1],
            position_ids=newest[:, 1:],
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),  # 4-D: taken as it is; ours is in the cache
            group_cache=GroupCache([flight.cohort for flight in self._flights]),
            use_cache=False,
        )
        last: Tensor = output.last_hidden_state[:, 0]
        self._extend([row for row, _ in pairs], frozen_linear(last, self._learner.head_weight))
        finished: list[Group] = []
        for flight in self._flights:
            flight.cohort.advance()
            finished += flight.retire()
        return finished

    def _extend(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Draw one token for every row and decide which rows end."""
        tokens, logps = draw(logits, [row.prompt.temperature for row in rows], [row.draws.random() for row in rows])
        for row, token, logp in zip(rows, tokens, logps, strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logp)
            row.stop_reason = self._why_ended(row)
