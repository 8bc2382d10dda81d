"""The sampler on the learner's own module: no second copy of the weights, no mismatch, nothing to synchronise.

In: prompts; a saved adapter version to serve.
Out: completions with the log-probability of every token and the digest of the adapter that wrote them; scores.
Refuses: a version whose files are not its record's; to sample while the learner holds weights nobody saved.
Not here: attention over shared prompts (`attention.py`), templates (`chat.py`).

Each prompt is read once, however many completions it gets. Rows that end are dropped from the batch. Every row draws
from a stream of its own, named by (seed, prompt, completion), so what it writes does not depend on its neighbours.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache

from spice_enterprise.errors import DeliveryError, SamplerError
from spice_enterprise.records import AdapterVersion, Completion, Prompt, StopReason
from spice_enterprise.seeding import stream
from spice_enterprise.training.attention import GroupCache
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.delivery import open_version
from spice_enterprise.training.packing import PackedRow, fill_batches, pack_group, to_tensors
from spice_enterprise.training.qlora import BASE_DIGEST, UNSAVED, LearnerModel
from spice_enterprise.training.scoring import selected_logprobs

MAX_ROWS: Final = 128
"""Rows decoded together."""
MAX_KV_BYTES: Final = 1 << 30
"""Keys and values held at one time."""
MAX_PREFILL_TOKENS: Final = 4096
"""Padded prompt positions in one forward pass."""
MIN_SHARED_TOKENS: Final = 16
"""A shorter common beginning is not worth a pass of its own."""


@dataclass(slots=True)
class _Row:
    """One completion being written."""

    place: tuple[int, int]
    """(prompt, completion)"""
    prompt: Prompt
    prompt_length: int
    draws: random.Random
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop_reason: StopReason | None = None


class HfSampler:
    """Implements `protocols.Sampler` on a `LearnerModel`. Fresh, it serves the bare base."""

    def __init__(self, learner: LearnerModel, tokenizer: ChatTokenizer, *, run_dir: Path) -> None:
        self._learner = learner
        self._tokenizer = tokenizer
        self._run_dir = run_dir
        self._version: AdapterVersion | None = None

    @property
    def adapter_digest(self) -> str:
        """The digest of the version being served, `base` for the bare base."""
        return BASE_DIGEST if self._version is None else self._version.digest

    def publish(self, version: AdapterVersion | None) -> None:
        """Serve `version` from now on, `None` for the bare base.

        The files on disk are verified even when the learner already holds these weights.
        Raises `DeliveryError` (E_ADAPTER_DIGEST, E_DELIVERY); then what was served before stays.
        """
        if version is not None:
            self._load(version, open_version(self._run_dir, version))
        self._version = version

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        """Return `n` completions per prompt, in order; completion `j` of prompt `i` draws from the stream (seed, i, j).

        A log-probability is of the distribution at the prompt's temperature; of the unscaled one where decoding is
        greedy (temperature 0). Text ends before a stop string, while `token_ids` hold every token that was drawn.
        """
        encoded = [self._tokenizer.encode_prompt(prompt) for prompt in prompts]
        rows = [[_Row((i, j), prompt, len(encoded[i]), stream(seed, i, j)) for j in range(n)] for i, prompt in enumerate(prompts)]
        with torch.no_grad(), self._serving():
            for part in self._parts(encoded, prompts, n):
                self._write([encoded[i] for i in part], [row for i in part for row in rows[i]], n)
        return [[self._completion(row, encoded[i]) for row in group] for i, group in enumerate(rows)]

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the mean log-probability (nats per token, temperature 1) of each continuation after its prompt.

        Raises `SamplerError` for a continuation without tokens.
        """
        packed: list[PackedRow] = []
        scores: dict[tuple[int, int], float] = {}
        for i, (prompt, texts) in enumerate(zip(prompts, continuations, strict=True)):
            tokens = [self._tokenizer.encode_text(text) for text in texts]
            if not all(tokens):
                raise SamplerError("a continuation has no tokens to score", hint="leave empty options out")
            if tokens:
                packed += pack_group(self._tokenizer.encode_prompt(prompt), tokens, group=i, max_tokens=MAX_PREFILL_TOKENS)
        with torch.no_grad(), self._serving():
            for rows in fill_batches(packed, max_tokens=MAX_PREFILL_TOKENS):
                scores.update(self._score_rows(rows))
        return [[scores[i, j] for j in range(len(texts))] for i, texts in enumerate(continuations)]

    def _score_rows(self, rows: Sequence[PackedRow]) -> Iterator[tuple[tuple[int, int], float]]:
        batch = to_tensors(rows, self._learner.device)
        output = self._learner.hidden_states(
            batch.token_ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        )
        hidden = output.last_hidden_state.flatten(0, 1)[batch.heads]
        logps, _ = selected_logprobs(hidden, self._learner.head_weight, batch.targets)
        for place, values in batch.split(logps.tolist()):
            yield place, sum(values) / len(values)

    def _serving(self) -> AbstractContextManager[None]:
        """Make the module speak as the published version, or as the bare base."""
        if self._version is None:
            return self._learner.bare()
        if self._learner.adapter_digest != self._version.digest:
            self._load(self._version, open_version(self._run_dir, self._version))
        return nullcontext()

    def _load(self, version: AdapterVersion, files: dict[str, bytes]) -> None:
        if self._learner.adapter_digest == version.digest:
            return
        if self._learner.adapter_digest == UNSAVED:
            raise DeliveryError(
                f"the learner holds weights that were never saved; loading {version.adapter_id} would lose them",
                record_id=version.adapter_id,
                hint="save or restore the trainer's version, then publish it",
            )
        self._learner.load_adapter(files, digest=version.digest)

    def _parts(self, encoded: Sequence[tuple[int, ...]], prompts: Sequence[Prompt], n: int) -> Iterator[list[int]]:
        """Yield prompts to decode together, of similar length, within the limits on rows and on keys and values."""
        limit = MAX_KV_BYTES // self._learner.kv_bytes_per_token
        part: list[int] = []
        tails = 0
        for i in sorted(range(len(prompts)), key=lambda i: -len(encoded[i])):
            longest = len(encoded[part[0]]) if part else len(encoded[i])
            tails = max(tails, prompts[i].max_new_tokens)
            if part and ((len(part) + 1) * n > MAX_ROWS or (len(part) + 1) * (longest + n * tails) > limit):
                yield part
                part, tails = [], prompts[i].max_new_tokens
            part.append(i)
        if part:
            yield part

    def _write(self, encoded: Sequence[tuple[int, ...]], rows: list[_Row], n: int) -> None:
        """Write the completions of some prompts to their ends, all rows in step."""
        longest_tail = max(row.prompt.max_new_tokens for row in rows)
        logits, cache = self._read_prompts(encoded, n=n, max_new=longest_tail)
        logits = logits.repeat_interleave(n, dim=0)
        while True:
            self._extend(rows, logits)
            alive = [place for place, row in enumerate(rows) if row.stop_reason is None]
            if not alive:
                return
            if len(alive) < len(rows):
                cache.keep(torch.tensor(alive, device=self._learner.device))
                rows = [rows[place] for place in alive]
            logits = self._next_logits(rows, cache)

    def _read_prompts(self, encoded: Sequence[tuple[int, ...]], *, n: int, max_new: int) -> tuple[Tensor, GroupCache]:
        """Read every prompt once, and what they all begin with once for all.

        Returns the logits after each prompt [G, V] and the cache that rows continue from.
        """
        device, shared = self._learner.device, shared_length(encoded)
        beginning = self._read_beginning(encoded[0][:shared]) if shared else []
        width = max(len(ids) for ids in encoded) - shared
        per_pass = max(1, MAX_PREFILL_TOKENS // width)
        hidden: list[Tensor] = []
        passes: list[Any] = []
        for start in range(0, len(encoded), per_pass):
            rows = [ids[shared:] for ids in encoded[start : start + per_pass]]
            # padded on the right: with a causal mask no real position sees the padding, so no mask is needed here
            padded = torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows], device=device)
            places = torch.arange(shared, shared + width, device=device).expand(len(rows), -1)
            cache = _continuing(beginning, len(rows))
            output = self._learner.hidden_states(padded, position_ids=places, past_key_values=cache, use_cache=True)
            ends = torch.tensor([len(row) - 1 for row in rows], device=device)
            hidden.append(output.last_hidden_state[torch.arange(len(ends), device=device), ends])
            passes.append(output.past_key_values.layers)
        prompts = [
            (torch.cat([layer.keys for layer in layers]), torch.cat([layer.values for layer in layers]))
            for layers in zip(*passes, strict=True)
        ]
        lengths = torch.tensor([len(row) for row in encoded], device=device)
        return torch.cat(hidden) @ self._learner.head_weight.T, GroupCache(prompts, lengths, n=n, max_new=max_new)

    def _read_beginning(self, ids: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return per layer the keys and values [1, heads, tokens, width] of what all prompts begin with."""
        tokens = torch.tensor([list(ids)], device=self._learner.device)
        output = self._learner.hidden_states(tokens, past_key_values=DynamicCache(), use_cache=True)
        return [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def _next_logits(self, rows: Sequence[_Row], cache: GroupCache) -> Tensor:
        """Run each row's newest token and return the logits after it, [rows, V]."""
        device = self._learner.device
        output = self._learner.hidden_states(
            torch.tensor([[row.token_ids[-1]] for row in rows], device=device),
            position_ids=torch.tensor([[row.prompt_length + len(row.token_ids) - 1] for row in rows], device=device),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),  # 4-D: taken as it is; ours is in the cache
            past_key_values=cache,
            group_cache=cache,
            use_cache=True,
        )
        cache.advance()
        last: Tensor = output.last_hidden_state[:, 0]
        return last @ self._learner.head_weight.T

    def _extend(self, rows: Sequence[_Row], logits: Tensor) -> None:
        """Draw one token for every row and decide which rows end."""
        temperatures = torch.tensor([row.prompt.temperature or 1.0 for row in rows], device=logits.device)
        logps = torch.log_softmax(logits.float() / temperatures[:, None], dim=-1)
        chosen = _draw(logps, rows)
        picked = logps.gather(1, chosen[:, None])[:, 0].tolist()
        for row, token, logp in zip(rows, chosen.tolist(), picked, strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logp)
            row.stop_reason = self._why_ended(row)

    def _why_ended(self, row: _Row) -> StopReason | None:
        if row.token_ids[-1] in self._tokenizer.stop_ids:
            return "stop"
        if row.prompt.stop:
            # a stop string of c characters ends in the last 4c tokens at most: a token holds at least one of its bytes
            window = 4 * max(len(text) for text in row.prompt.stop) + 4
            recent = self._tokenizer.decode(row.token_ids[-window:])
            if any(text in recent for text in row.prompt.stop):
                return "stop"
        return "length" if len(row.token_ids) >= row.prompt.max_new_tokens else None

    def _completion(self, row: _Row, prompt_ids: tuple[int, ...]) -> Completion:
        text = self._tokenizer.decode(row.token_ids)
        ends = [place for stop in row.prompt.stop if (place := text.find(stop)) >= 0]
        return Completion(
            prompt_token_ids=prompt_ids,
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
            text=text[: min(ends)] if ends else text,
            stop_reason=row.stop_reason or "length",
            adapter_digest=self.adapter_digest,
        )


def shared_length(encoded: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all prompts begin with, leaving each at least one of its own; 0 when it is not worth it."""
    if len(encoded) < 2:
        return 0
    first, last = min(encoded), max(encoded)  # in dictionary order the outermost two differ earliest
    most = min(map(len, encoded)) - 1
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), most)
    return shared if (shared := min(same, most)) >= MIN_SHARED_TOKENS else 0


def _continuing(beginning: Sequence[tuple[Tensor, Tensor]], rows: int) -> DynamicCache:
    """Return a cache for `rows` prompts that all begin alike."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(beginning):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


def _draw(logps: Tensor, rows: Sequence[_Row]) -> Tensor:
    """Return one token per row by inverse transform; one number of the row's own stream decides. Greedy at temperature 0."""
    sums = logps.double().exp().cumsum(dim=-1)
    numbers = torch.tensor([row.draws.random() for row in rows], dtype=torch.float64, device=logps.device)
    drawn = torch.searchsorted(sums, (numbers * sums[:, -1])[:, None], right=True)[:, 0].clamp(max=logps.shape[-1] - 1)
    is_greedy = torch.tensor([row.prompt.temperature == 0.0 for row in rows], device=logps.device)
    return torch.where(is_greedy, logps.argmax(dim=-1), drawn)
