"""What a job and its sampler server say to each other: records as JSON over loopback, adapters as their own bytes.

In: requests and replies as frozen records; an adapter's record and files.
Out: bytes, and records from bytes.
Refuses: fields and types that are not the record's, numbers out of range, files other than the two of an adapter.
Not here: sockets (`server_line.py`, `sampler_server.py`).

A prompt travels as its messages and is encoded by the server. Its token ids come back with every completion, and the
client compares them with its own: two tokenizers that differ are found at the first completion.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn, TypeVar

from spice_enterprise.config import JobConfig
from spice_enterprise.errors import DeliveryError, IntegrityError
from spice_enterprise.records import AdapterVersion, Completion, Prompt, decode, digest_of, encode_json
from spice_enterprise.sealed import digest_bytes

PROTOCOL: Final = 1
"""Version of everything here."""
HELLO: Final = "/v1/hello"
"""First on every connection: see `server_token.py`."""
NONCE_HEADER: Final = "Spice-Nonce"
HEALTH: Final = "/v1/health"
ADAPTERS: Final = "/v1/adapters"
SAMPLES: Final = "/v1/samples"
SCORES: Final = "/v1/scores"

MAX_HELLO_BYTES: Final = 1 << 10
MAX_REQUEST_BYTES: Final = 64 << 20
MAX_REPLY_BYTES: Final = 512 << 20
MAX_ADAPTER_BYTES: Final = 8 << 30
MAX_COMPLETIONS: Final = 4096
"""Of one prompt."""
ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
"""The files of an adapter, in the order of its manifest."""

Kind = Literal["adapter", "identity", "delivery", "loading", "sampler"]


def served_weights(config: JobConfig) -> str:
    """Return how a server of these settings holds the base, and so how a job of these settings wants it held."""
    if config.training.quantization == "none":
        return "base"
    return "nf4" if config.sampler.weights == "nf4" else "twin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a server is, for as long as its process lives."""

    kind: str
    """What samples: `hf` or `vllm`."""
    versions: tuple[tuple[str, str], ...]
    """(package, version), sorted by package."""
    base_digest: str
    """Of the base model, as in `AdapterVersion.base_digest`."""
    dtype: str
    """Of weights and activations."""
    weights: str
    """How the base is held: `served_weights`."""
    max_context_tokens: int
    protocol: int = PROTOCOL

    @property
    def digest(self) -> str:
        """`sha256:` over everything above; every request names it, so that another server is found at once."""
        return digest_of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The answer to `GET /v1/hello`: the server's nonce, and the proof that it knows the token."""

    nonce: str
    proof: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The answer to `GET /v1/health`."""

    identity: Identity
    adapter_digest: str
    """Of what is being served."""
    held: tuple[str, ...]
    """Digests of the adapters that may be asked for besides the bare base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """`POST /v1/samples`: `n` completions for each prompt, under exactly this adapter."""

    identity: str
    adapter_digest: str
    prompts: tuple[Prompt, ...] = field(repr=False)
    n: int
    seed: int

    def __post_init__(self) -> None:
        _require(bool(self.prompts), "prompts")
        _require(1 <= self.n <= MAX_COMPLETIONS, "n")
        for prompt in self.prompts:
            _require(prompt.max_new_tokens >= 1, "max_new_tokens")
            _require(math.isfinite(prompt.temperature) and prompt.temperature >= 0.0, "temperature")
            _require(all(prompt.stop), "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReply:
    """One group of completions per prompt, in order."""

    groups: tuple[tuple[Completion, ...], ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """`POST /v1/scores`: the mean log-probability of each continuation, under exactly this adapter."""

    identity: str
    adapter_digest: str
    prompts: tuple[Prompt, ...] = field(repr=False)
    continuations: tuple[tuple[str, ...], ...] = field(repr=False)

    def __post_init__(self) -> None:
        _require(len(self.prompts) == len(self.continuations), "continuations")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReply:
    """Nats per token, one row per prompt; and the adapter that gave them."""

    adapter_digest: str
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterHead:
    """The first line of `POST /v1/adapters`; the files' bytes follow it, in the order of the manifest."""

    identity: str
    version: AdapterVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The answer to `POST /v1/adapters`."""

    adapter_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request was refused.

    `adapter`: send it again; `identity`: this is another server than before; `loading`: ask again in a while.
    """

    kind: Kind
    code: str
    message: str
    hint: str = ""


class RefusedError(DeliveryError):
    """Something that the client can mend itself: `adapter` or `identity`, as in `Failure`."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


T = TypeVar("T")


def write_record(record: object) -> bytes:
    """Return `record` as one line of JSON. Floats keep every bit."""
    return json.dumps(encode_json(record), separators=(",", ":"), allow_nan=False).encode()


def read_record(cls: type[T], body: bytes) -> T:
    """Return the record in `body`. Raises `IntegrityError` naming a field, never a value."""
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise IntegrityError(f"{cls.__name__}: not JSON", code="E_RECORD") from None
    return decode(cls, data)


def write_adapter(head: AdapterHead, files: Mapping[str, bytes]) -> list[bytes]:
    """Return the body of `POST /v1/adapters` in parts, without copying the files."""
    return [write_record(head) + b"\n", *(files[entry.path] for entry in head.version.manifest)]


def read_adapter_files(version: AdapterVersion, body: memoryview) -> dict[str, bytes]:
    """Return the files that follow the head. Raises `IntegrityError` (E_ADAPTER_DIGEST) unless they are the record's."""
    if tuple(entry.path for entry in version.manifest) != ADAPTER_FILES:
        raise _wrong_adapter(version, "its manifest names other files than an adapter has")
    if sum(entry.size_bytes for entry in version.manifest) != len(body) or any(e.size_bytes < 0 for e in version.manifest):
        raise _wrong_adapter(version, "its files have another size")
    files: dict[str, bytes] = {}
    start = 0
    for entry in version.manifest:
        files[entry.path] = bytes(body[start : start + entry.size_bytes])
        start += entry.size_bytes
    if digest_bytes(files) != version.manifest or digest_of(version.manifest) != version.digest:
        raise _wrong_adapter(version, "its files do not match its digest")
    return files


def _wrong_adapter(version: AdapterVersion, what: str) -> IntegrityError:
    return IntegrityError(
        f"adapter of step {version.step} refused: {what}",
        code="E_ADAPTER_DIGEST",
        record_id=version.adapter_id,
        hint="send the files that were saved",
    )


def _require(is_good: bool, name: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not is_good:
        raise IntegrityError(f"{name}: out of range", code="E_RECORD")


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")
