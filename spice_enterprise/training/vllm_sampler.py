"""The sampler on vLLM in this process: a copy of the base, and one adapter directory per version.

In: prompts; a saved adapter version to serve.
Out: completions with the log-probability of every token and the digest of the adapter that was asked for; scores;
    groups in a stream, as they finish.
Refuses: a version whose files are not its record's or that vLLM cannot load (the one before is served on); a prompt
    longer than the context.
Not here: the library (`vllm_engine.py`), the directories (`adapter_shelf.py`).

Adapters are never merged and never loaded in place: each version has a name, number and path of its own, because vLLM
remembers prompts by name and path. Completion j of a prompt draws with the seed of the prompt plus j, whatever n is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from spice_enterprise.config import JobConfig
from spice_enterprise.errors import SamplerError
from spice_enterprise.protocols import BASE_DIGEST
from spice_enterprise.records import AdapterVersion, Completion, Prompt
from spice_enterprise.seeding import derive
from spice_enterprise.training.adapter_shelf import AdapterShelf, LaidAdapter, pick_parent
from spice_enterprise.training.base_model import BaseModel
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.delivery import open_version
from spice_enterprise.training.memory import MemoryPlan
from spice_enterprise.training.vllm_engine import Continuation, Request, VllmEngine
from spice_enterprise.training.vllm_settings import engine_settings, shelf_bytes


class VllmSampler:
    """Implements `protocols.StreamingSampler`. Fresh, it serves the bare base.

    Several may share one engine and one shelf: one serves the adapter, another the base, at no further memory.
    """

    def __init__(self, engine: VllmEngine, tokenizer: ChatTokenizer, *, run_dir: Path, shelf: AdapterShelf) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._run_dir = run_dir
        self._shelf = shelf
        self._laid: list[LaidAdapter] = []
        self._adapter: LaidAdapter | None = None

    @property
    def adapter_digest(self) -> str:
        """The digest of the version being served, `base` for the bare base."""
        return BASE_DIGEST if self._adapter is None else self._adapter.digest

    def publish(self, version: AdapterVersion | None) -> None:
        """Serve `version` from now on, `None` for the bare base. The version before stays loaded, older ones go.

        Raises `DeliveryError` (E_ADAPTER_DIGEST, E_DELIVERY); then what was served before stays.
        """
        if version is None:
            self._adapter = None
            return
        laid = self._shelf.lay(version, open_version(self._run_dir, version))
        try:
            self._engine.load(laid)
        except BaseException:
            self._shelf.remove(laid)
            raise
        self._adapter = laid
        self._laid.append(laid)
        while len(self._laid) > 2:
            old = self._laid.pop(0)
            self._engine.unload(old)
            self._shelf.remove(old)

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        """Return `n` completions per prompt, in order; completion `j` of prompt `i` draws from the stream (seed, i, j).

        A log-probability is of the distribution at the prompt's temperature; of the unscaled one where decoding is
        greedy (temperature 0). Text ends before a stop string, while `token_ids` hold every token that was drawn.
        """
        with self.stream() as stream:
            for i, prompt in enumerate(prompts):
                stream.put(str(i), prompt, n=n, seed=seed, place=i)
            groups: dict[str, list[Completion]] = {}
            while finished := stream.take():
                groups |= finished
        return [groups[str(i)] for i in range(len(prompts))]

    @contextmanager
    def stream(self) -> Iterator["VllmStream"]:
        """Open a stream; leaving it drops what is still in flight. What is served must not change while it is open."""
        stream = VllmStream(self._engine, self._tokenizer, adapter=self._adapter)
        try:
            yield stream
        finally:
            stream.drop()

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the mean log-probability (nats per token, temperature 1) of each continuation after its prompt.

        Raises `SamplerError` for a continuation without tokens, or one that is too long for the context.
        """
        sequences: list[tuple[int, ...]] = []
        lengths: list[int] = []
        for prompt, texts in zip(prompts, continuations, strict=True):
            beginning = self._tokenizer.encode_prompt(prompt)
            for tokens in (self._tokenizer.encode_text(text) for text in texts):
                if not tokens:
                    raise SamplerError("a continuation has no tokens to score", hint="leave empty options out")
                # vLLM draws one token more than it scores
                require_room(len(beginning), len(tokens) + 1, self._engine.settings.max_context_tokens)
                sequences.append((*beginning, *tokens))
                lengths.append(len(tokens))
        scored = self._engine.score(sequences, self._adapter) if sequences else []
        means = iter([sum(row[-length:]) / length for row, length in zip(scored, lengths, strict=True)])
        return [[next(means) for _ in texts] for texts in continuations]

    def beside(self) -> "VllmSampler":
        """Return a sampler on the same engine and shelf that serves the bare base until told otherwise."""
        return VllmSampler(self._engine, self._tokenizer, run_dir=self._run_dir, shelf=self._shelf)

    def park(self) -> None:
        """Give back the memory of keys and values while the learner works, where the layout says so."""
        self._engine.park()

    def unpark(self) -> None:
        """Take it again before the next sample."""
        self._engine.unpark()

    def close(self) -> None:
        """Stop the engine and remove the directories, also for others that share them."""
        self._engine.close()
        self._shelf.close()


class VllmStream:
    """Implements `protocols.CompletionStream`: each group is one request of the engine."""

    def __init__(self, engine: VllmEngine, tokenizer: ChatTokenizer, *, adapter: LaidAdapter | None) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._adapter = adapter
        self._asked: dict[str, tuple[str, Prompt, tuple[int, ...], int]] = {}
        """By request id: key, prompt, its token ids, how often each continuation counts."""

    def put(self, key: str, prompt: Prompt, *, n: int, seed: int, place: int = 0) -> None:
        """Begin a group. `place` is the prompt's place in a list that is sampled at once.

        Raises `ValueError` when `key` is in flight already, `SamplerError` (E_CONTEXT) when the prompt is too long.
        """
        if any(key == asked for asked, *_ in self._asked.values()):
            raise ValueError(f"group {key!r} is in flight already")
        token_ids = self._tokenizer.encode_prompt(prompt)
        require_room(len(token_ids), prompt.max_new_tokens, self._engine.settings.max_context_tokens)
        is_greedy = prompt.temperature == 0.0  # all n are the same, and the library writes one only
        request = Request(
            token_ids=token_ids,
            n=1 if is_greedy else n,
            seed=derive(seed, place) >> 1,  # room for adding j
            temperature=prompt.temperature,
            max_new_tokens=prompt.max_new_tokens,
            stop=prompt.stop,
            stop_ids=self._tokenizer.stop_ids,
            adapter=self._adapter,
        )
        self._asked[self._engine.begin(request)] = (key, prompt, token_ids, n if is_greedy else 1)

    def take(self) -> list[tuple[str, list[Completion]]]:
        """Work until at least one group is finished and return all that are; empty when nothing is in flight."""
        if not self._asked:
            return []
        found = []
        for request_id, parts in self._engine.wait(tuple(self._asked)).items():
            key, prompt, token_ids, times = self._asked.pop(request_id)
            found.append((key, [self._completion(part, prompt, token_ids) for part in parts] * times))
        return found

    def drop(self) -> None:
        """Forget what is in flight."""
        self._engine.drop(tuple(self._asked))
        self._asked.clear()

    def _completion(self, part: Continuation, prompt: Prompt, prompt_ids: tuple[int, ...]) -> Completion:
        return Completion(
            prompt_token_ids=prompt_ids,
            token_ids=part.token_ids,
            logprobs=part.logprobs,
            text=self._tokenizer.decode_until(part.token_ids, prompt.stop),
            stop_reason="stop" if part.is_stopped else "length",
            adapter_digest=BASE_DIGEST if self._adapter is None else self._adapter.digest,
        )


def open_vllm(base: BaseModel, config: JobConfig, layout: MemoryPlan, *, run_dir: Path, cache_dir: Path) -> VllmSampler:
    """Start vLLM for a job as the memory planner laid it out, and return its sampler: seconds to minutes.

    Raises what `engine_settings` and `VllmEngine` refuse, before the model is loaded where that can be known.
    """
    sampler = config.sampler
    if layout.work.sampler == "nf4":
        sampler = sampler.model_copy(update={"weights": "nf4"})
    settings = engine_settings(base, training=config.training, sampler=sampler, cache_dir=cache_dir, kv_bytes=layout.kv_bytes)
    settings = replace(settings, releases_kv=not layout.work.keeps_kv)
    needed = shelf_bytes(base, config.training.lora_rank)
    shelf = AdapterShelf(pick_parent(config.sampler.adapter_dir, run_dir=run_dir, needed_bytes=needed))
    return VllmSampler(VllmEngine(settings), ChatTokenizer(base.path), run_dir=run_dir, shelf=shelf)


def require_room(prompt_tokens: int, new_tokens: int, max_context_tokens: int) -> None:
    """Raise `SamplerError` (E_CONTEXT) with the numbers when a prompt and its completion do not fit."""
    if prompt_tokens + new_tokens > max_context_tokens:
        raise SamplerError(
            f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones do not fit {max_context_tokens}",
            code="E_CONTEXT",
            hint="raise sampler.max_context_tokens, or lower ingest.chunk_tokens or the completion's tokens",
        )
