"""vLLM in this process: the one module that speaks to the library.

In: what to start it with; token ids to continue or to score, each under an adapter that was loaded or under none.
Out: finished requests: the tokens that were drawn, their log-probabilities and why they ended.
Refuses: to start where the package is missing; an adapter that the library refuses.
Not here: prompts, seeds and versions (`vllm_sampler.py`), what can be served at all (`vllm_settings.py`).

No server and no second process: requests are put into the engine's queue and its steps are made here. So the engine
is used from one thread at a time. Written for vLLM 0.32; a test compares the signatures it relies on.
"""

import importlib.util
import itertools
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from spice_enterprise.errors import DeliveryError, MissingExtraError, SamplerError
from spice_enterprise.training.adapter_shelf import LaidAdapter

MAX_ROWS: Final = 128
"""Completions decoded together; more wait in the queue."""
BLOCK_TOKENS: Final = 32
"""Prompts are shared in whole blocks of so many tokens; the library's own choice on a CPU, 128, shares no short one."""
HELD_ADAPTERS: Final = 3
"""The current version, the one before, and the one being loaded."""

SHARE_OF_FREE: Final = 0.95
"""Of a card's free memory, that vLLM may look for at its start."""
LAYERS: Final = ("down_proj", "gate_proj", "gate_up_proj", "k_proj", "o_proj", "q_proj", "qkv_proj", "up_proj", "v_proj")
"""Linear maps of the supported architectures that adapters are served for; never the head or the embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the engine is started with."""

    model_path: Path
    dtype: Literal["bfloat16", "float32"]
    max_context_tokens: int
    kv_bytes: int
    max_rank: int
    """One of the ranks that vLLM reserves memory for."""
    is_nf4: bool = False
    """Hold the weights in 4 bits with the plug-in (CUDA only)."""
    releases_kv: bool = False
    """Give keys and values back while the learner works (CUDA only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A group: `n` continuations of one prompt. Continuation j draws from a generator seeded with `seed + j`."""

    token_ids: Sequence[int]
    n: int
    seed: int
    temperature: float
    max_new_tokens: int
    stop: tuple[str, ...]
    stop_ids: Collection[int]
    adapter: LaidAdapter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Every token that was drawn, with its log-probability in nats, of the distribution it was drawn from."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    is_stopped: bool
    """True when a stop token or stop string ended it, False when it ran out of tokens."""


class VllmEngine:
    """One vLLM engine on one model. Close it before another is started in the same process."""

    def __init__(self, settings: EngineSettings) -> None:
        """Load the model: seconds to minutes.

        Raises `MissingExtraError`, or `SamplerError` (E_SAMPLER) when the library does not start.
        """
        _require_packages(settings)
        self._is_cpu = not torch.cuda.is_available()
        self._numbers = itertools.count()
        self._finished: dict[str, Any] = {}
        self.settings = settings
        try:
            with _as_it_was(), self._plain():
                self._engine = _start(settings, is_cpu=self._is_cpu)
        except Exception as error:
            raise SamplerError(
                f"vLLM did not start ({type(error).__name__}: {_first_line(error)})",
                hint="see docs/how-to/sample_with_vllm.md; sampler.kind: hf needs no vLLM",
            ) from error

    def load(self, adapter: LaidAdapter) -> None:
        """Load an adapter's files. Raises `DeliveryError` when the library refuses them; then nothing changed."""
        try:
            is_loaded = self._engine.add_lora(_lora_request(adapter))
        except Exception as error:  # noqa: BLE001 - whatever it is, this adapter is not served
            raise _not_delivered(adapter, type(error).__name__) from None
        if not is_loaded or adapter.number not in self._engine.list_loras():
            raise _not_delivered(adapter, "not listed as loaded")

    def unload(self, adapter: LaidAdapter) -> None:
        """Let go of an adapter."""
        self._engine.remove_lora(adapter.number)

    def begin(self, request: Request) -> str:
        """Put a request into the queue and return its id."""
        from vllm import SamplingParams  # noqa: PLC0415 - optional, and seconds to import
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415 - as above

        params = SamplingParams(
            n=request.n,
            seed=request.seed,
            temperature=request.temperature,
            max_tokens=request.max_new_tokens,
            stop=list(request.stop),
            stop_token_ids=sorted(request.stop_ids),
            ignore_eos=True,  # the stop ids are ours, the same for every sampler
            logprobs=0,
            detokenize=bool(request.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return self._add(request.token_ids, params, request.adapter)

    def wait(self, ids: Collection[str]) -> dict[str, list[Continuation]]:
        """Work until one of `ids` at least is finished and return all of them that are, `n` continuations each.

        Raises `SamplerError` when the library breaks.
        """
        return {key: [_continuation(part) for part in output.outputs] for key, output in self._collect(ids).items()}

    def score(self, sequences: Sequence[Sequence[int]], adapter: LaidAdapter | None) -> list[list[float]]:
        """Return the log-probability (temperature 1) of every token but the first of each sequence after those before it."""
        from vllm import SamplingParams  # noqa: PLC0415 - as above
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415 - as above

        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        ids = [self._add(tokens, params, adapter) for tokens in sequences]
        outputs: dict[str, Any] = {}
        while left := [key for key in ids if key not in outputs]:
            outputs |= self._collect(left)
        return [
            [row[token].logprob for row, token in zip(outputs[key].prompt_logprobs[1:], tokens[1:], strict=True)]
            for key, tokens in zip(ids, sequences, strict=True)
        ]

    def drop(self, ids: Collection[str]) -> None:
        """Forget requests, finished or not."""
        self._engine.abort_request([key for key in ids if key not in self._finished])
        for key in ids:
            self._finished.pop(key, None)

    def park(self) -> None:
        """Give back the memory of keys and values until `unpark`; weights and adapters stay. Nothing may be in flight.

        It does nothing where the memory suffices for both, and on a CPU: the library has no such mode there.
        """
        if self.settings.releases_kv and not self._is_cpu:
            self._engine.sleep(level=0)
            self._engine.release_kv_cache_memory()

    def unpark(self) -> None:
        """Take the memory again, where it was given back."""
        if self.settings.releases_kv and not self._is_cpu:
            torch.cuda.empty_cache()  # what the learner has freed must be free for others
            self._engine.wake_up(tags=["kv_cache"])
            self._engine.wake_up(tags=["scheduling"])

    def close(self) -> None:
        """Free the model and what the library set up in this process. Idempotent."""
        if self._engine is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory  # noqa: PLC0415 - as above

        self._engine.engine_core.shutdown()
        self._engine = None
        cleanup_dist_env_and_memory()

    def _add(self, token_ids: Sequence[int], params: Any, adapter: LaidAdapter | None) -> str:
        key = f"r{next(self._numbers)}"
        try:
            (prompt,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": list(token_ids)}])
            self._engine.add_request(key, prompt, params, lora_request=_lora_request(adapter) if adapter else None)
        except Exception as error:  # noqa: BLE001 - its text may hold tokens of a prompt
            raise SamplerError(f"vLLM refused a request ({type(error).__name__})", hint="see the limits of the model") from None
        return key

    def _collect(self, ids: Collection[str]) -> dict[str, Any]:
        """Step until one of `ids` is finished; what finishes for others is kept for them."""
        while not (done := [key for key in ids if key in self._finished]):
            try:
                with self._plain():
                    outputs = self._engine.step()
            except Exception as error:  # noqa: BLE001 - its text may hold tokens of a prompt
                raise SamplerError(f"vLLM broke while writing ({type(error).__name__})", hint="run the job again") from None
            self._finished |= {output.request_id: output for output in outputs if output.finished}
            if not outputs and not self._engine.has_unfinished_requests():
                raise SamplerError("vLLM lost a request", hint="run the job again")
        return {key: self._finished.pop(key) for key in done}

    def _plain(self) -> AbstractContextManager[object]:
        """On a CPU, without a compiler: the library would build its small kernels with g++ first, for no gain."""
        stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager") if self._is_cpu else nullcontext()
        return stance


def _require_packages(settings: EngineSettings) -> None:
    wanted = ["vllm", "vllm_bnb_plugin"] if settings.is_nf4 else ["vllm"]
    for package in wanted:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"the package {package} is not installed", hint="pip install 'spice-enterprise[vllm]', or sampler.kind: hf"
            )


def _start(settings: EngineSettings, *, is_cpu: bool) -> Any:
    from vllm import EngineArgs  # noqa: PLC0415 - as above
    from vllm.v1.engine.llm_engine import LLMEngine  # noqa: PLC0415 - as above

    by_device: dict[str, Any] = {}
    if settings.is_nf4:
        from vllm_bnb_plugin import register  # noqa: PLC0415 - plug-ins are not searched for: they would run unasked

        register()
        by_device = {"quantization": "bitsandbytes", "load_format": "bitsandbytes"}
    if not is_cpu:  # the library wants this share of the card free, also where keys and values have a size of their own
        free, total = torch.cuda.mem_get_info()
        by_device["gpu_memory_utilization"] = SHARE_OF_FREE * free / total
    arguments = EngineArgs(
        model=str(settings.model_path),
        dtype=settings.dtype,
        max_model_len=settings.max_context_tokens,
        kv_cache_memory_bytes=settings.kv_bytes,
        max_num_seqs=MAX_ROWS,
        enable_lora=True,
        max_lora_rank=settings.max_rank,
        max_loras=2,
        # not the head: nothing is trained there, and on a CPU the library cannot score prompts with an adapter on it
        lora_target_modules=list(LAYERS),
        max_cpu_loras=HELD_ADAPTERS,
        enable_prefix_caching=True,
        block_size=BLOCK_TOKENS,
        logprobs_mode="processed_logprobs",
        hf_overrides={"head_dtype": "float32"},  # logits of 20 in bfloat16 are 0.06 nats off
        generation_config="vllm",  # the model's own file would set top-p and the like
        enable_sleep_mode=not is_cpu,
        enforce_eager=is_cpu,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        seed=0,
        **by_device,
    )
    return LLMEngine.from_engine_args(arguments)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what the library does to this process when it starts, and hold back its warnings."""
    set_threads = torch.set_num_threads
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads = set_threads


def _lora_request(adapter: LaidAdapter) -> Any:
    from vllm.lora.request import LoRARequest  # noqa: PLC0415 - as above

    return LoRARequest(adapter.name, adapter.number, str(adapter.path))


def _continuation(output: Any) -> Continuation:
    if output.finish_reason not in ("stop", "length"):
        raise SamplerError(f"vLLM ended a request with {output.finish_reason!r}", hint="run the job again")
    tokens = tuple(output.token_ids)
    logprobs = tuple(row[token].logprob for row, token in zip(output.logprobs, tokens, strict=True))
    return Continuation(token_ids=tokens, logprobs=logprobs, is_stopped=output.finish_reason == "stop")


def _not_delivered(adapter: LaidAdapter, why: str) -> DeliveryError:
    return DeliveryError(
        f"vLLM refuses adapter {adapter.name} ({why})", hint="the version before is still served; check rank and targets"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
