"""The sampler on transformers, on the learner's own module or on a copy that only samples.

In: prompts; a saved adapter version to serve.
Out: completions with the log-probability of every token and the digest of the adapter that wrote them; scores.
Refuses: a version whose files are not its record's; to sample while the learner holds weights nobody saved; a prompt
    that does not fit the model's context together with its completion.
Not here: how rows are decoded (`continuous.py`), attention over shared prompts (`group_cache.py`), templates (`chat.py`).

On the learner's own module there is no second copy of the weights and nothing to synchronise, but sampling and learning
take turns. A sampler on a copy (`hf_twin.py`) may run in a thread of its own while the learner learns.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from spice_enterprise.errors import DeliveryError, SamplerError
from spice_enterprise.protocols import BASE_DIGEST
from spice_enterprise.records import AdapterVersion, Completion, Prompt, StopReason
from spice_enterprise.seeding import stream
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.continuous import ContinuousBatch, Group, Row
from spice_enterprise.training.delivery import open_version
from spice_enterprise.training.packing import PackedRow, fill_batches, pack_group, to_tensors
from spice_enterprise.training.prefill import MAX_PREFILL_TOKENS
from spice_enterprise.training.qlora import UNSAVED, LearnerModel
from spice_enterprise.training.scoring import selected_logprobs


class HfSampler:
    """Implements `protocols.StreamingSampler` on a `LearnerModel`. Fresh, it serves the bare base."""

    def __init__(self, learner: LearnerModel, tokenizer: ChatTokenizer, *, run_dir: Path, bare_digest: str = BASE_DIGEST) -> None:
        """Take the model; `bare_digest` is what it serves without an adapter, where it is not the base of the run."""
        self._learner = learner
        self._bare_digest = bare_digest
        self._tokenizer = tokenizer
        self._run_dir = run_dir
        self._version: AdapterVersion | None = None

    @property
    def adapter_digest(self) -> str:
        """The digest of the version being served; without one `base`, or the digest of another model."""
        return self._bare_digest if self._version is None else self._version.digest

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
        groups = [self._group(prompt, n=n, seed=seed, place=i) for i, prompt in enumerate(prompts)]
        batch = ContinuousBatch(self._learner, self._why_ended)
        for group in groups:
            batch.put(group)
        with self._speaking():
            while not batch.is_idle:
                batch.step()
        return [self._completions(group) for group in groups]

    @contextmanager
    def stream(self) -> Iterator["HfStream"]:
        """Open a stream; leaving it drops what is still in flight.

        Between two calls of `take` the same module may be used otherwise. Not from two threads at a time.
        """
        yield HfStream(self, ContinuousBatch(self._learner, self._why_ended))

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the mean log-probability (nats per token, temperature 1) of each continuation after its prompt.

        Raises `SamplerError` for a continuation without tokens, or one that is too long for the model (E_CONTEXT).
        """
        packed: list[PackedRow] = []
        scores: dict[tuple[int, int], float] = {}
        for i, (prompt, texts) in enumerate(zip(prompts, continuations, strict=True)):
            tokens = [self._tokenizer.encode_text(text) for text in texts]
            if not all(tokens):
                raise SamplerError("a continuation has no tokens to score", hint="leave empty options out")
            if tokens:
                prompt_ids = self._tokenizer.encode_prompt(prompt)
                self._require_room(len(prompt_ids), max(map(len, tokens)))
                packed += pack_group(prompt_ids, tokens, group=i, max_tokens=MAX_PREFILL_TOKENS)
        with self._speaking():
            for rows in fill_batches(packed, max_tokens=MAX_PREFILL_TOKENS):
                scores.update(self._score_rows(rows))
        return [[scores[i, j] for j in range(len(texts))] for i, texts in enumerate(continuations)]

    def _score_rows(self, rows: Sequence[PackedRow]) -> Iterator[tuple[tuple[int, int], float]]:
        batch = to_tensors(rows, self._learner.device)
        logps, _ = selected_logprobs(self._learner.completion_states(batch), self._learner.head_weight, batch.targets)
        for place, values in batch.split(logps.tolist()):
            yield place, sum(values) / len(values)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Within this block the module speaks as the published version, or as the bare base, and keeps no gradients."""
        with torch.no_grad(), self._serving():
            yield

    def _serving(self) -> AbstractContextManager[None]:
        """Make the module speak as the published version, or as the bare base."""
        if self._version is None:
            return self._learner.bare()
        if self._learner.adapter_digest != self._version.digest:
            self._load(self._version, open_version(self._run_dir, self._version))
        return nullcontext()

    def _load(self, version: AdapterVersion, files: dict[str, bytes]) -> None:
        if self._learner.adapter_digest != version.digest:
            self._require_saved(version.adapter_id)
            self._learner.load_adapter(files, digest=version.digest)

    def _require_saved(self, wanted: str) -> None:
        """Raise `DeliveryError` while the learner holds weights that loading the adapter `wanted` would lose."""
        if self._learner.adapter_digest == UNSAVED:
            raise DeliveryError(
                f"the learner holds weights that were never saved; loading {wanted} would lose them",
                record_id=wanted,
                hint="save or restore the trainer's version, then publish it",
            )

    def _group(self, prompt: Prompt, *, n: int, seed: int, place: int = 0, key: str = "") -> Group:
        """Return `n` rows that continue prompt number `place`. Raises `SamplerError` (E_CONTEXT) when they cannot fit."""
        prompt_ids = self._tokenizer.encode_prompt(prompt)
        self._require_room(len(prompt_ids), prompt.max_new_tokens)
        rows = tuple(Row(place=(place, j), prompt=prompt, draws=stream(seed, place, j)) for j in range(n))
        return Group(key=key, prompt_ids=prompt_ids, rows=rows)

    def _require_room(self, prompt_tokens: int, new_tokens: int) -> None:
        limit = self._learner.max_context_tokens
        if prompt_tokens + new_tokens > limit:
            raise SamplerError(
                f"a prompt of {prompt_tokens} tokens and up to {new_tokens} new ones exceed the model's {limit}",
                code="E_CONTEXT",
                hint="use shorter chunks, fewer new tokens, or a model with a longer context",
            )

    def _why_ended(self, row: Row) -> StopReason | None:
        if row.token_ids[-1] in self._tokenizer.stop_ids:
            return "stop"
        if row.prompt.stop:
            # a stop string of c characters ends in the last 4c tokens at most: a token holds at least one of its bytes
            window = 4 * max(len(text) for text in row.prompt.stop) + 4
            recent = self._tokenizer.decode(row.token_ids[-window:])
            if any(text in recent for text in row.prompt.stop):
                return "stop"
        return "length" if len(row.token_ids) >= row.prompt.max_new_tokens else None

    def _completions(self, group: Group) -> list[Completion]:
        return [self._completion(row, group.prompt_ids) for row in group.rows]

    def _completion(self, row: Row, prompt_ids: tuple[int, ...]) -> Completion:
        return Completion(
            prompt_token_ids=prompt_ids,
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
            text=self._tokenizer.decode_until(row.token_ids, row.prompt.stop),
            stop_reason=row.stop_reason or "length",
            adapter_digest=self.adapter_digest,
        )


class HfStream:
    """Implements `protocols.CompletionStream` for a `HfSampler`."""

    def __init__(self, sampler: HfSampler, batch: ContinuousBatch) -> None:
        self._sampler = sampler
        self._batch = batch
        self._adapter_digest = sampler.adapter_digest
        self._in_flight: set[str] = set()

    def put(self, key: str, prompt: Prompt, *, n: int, seed: int) -> None:
        """Begin a group; its prompt is read, beside others put meanwhile, in the next `take` that has room for it.

        Raises `ValueError` when `key` is in flight already, `SamplerError` (E_CONTEXT) when the prompt cannot fit the model.
        """
        if key in self._in_flight:
            raise ValueError("a group of this key is in flight already")
        self._batch.put(self._sampler._group(prompt, n=n, seed=seed, key=key))
        self._in_flight.add(key)

    def take(self) -> list[tuple[str, list[Completion]]]:
        """Decode until at least one group is finished and return all that are; empty when nothing is in flight.

        Raises `DeliveryError` when another version is served now than when the stream was opened.
        """
        if self._sampler.adapter_digest != self._adapter_digest:
            raise DeliveryError(
                "another version was published while a stream was open", hint="close the stream before publishing"
            )
        finished: list[Group] = []
        with self._sampler._speaking():
            while not finished and not self._batch.is_idle:
                finished = self._batch.step()
        self._in_flight -= {group.key for group in finished}
        return [(group.key, self._sampler._completions(group)) for group in finished]
