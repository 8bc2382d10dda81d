"""How to run: a tree of frozen, strict models, one section per stage.

In: defaults, then one YAML file, then CLI flags (in that order).
Out: a `JobConfig`; a stage receives only its own section.
Refuses: unknown keys (naming the nearest), wrong types and ranges, all problems at once and never with the value.
Not here: what is *allowed*. A number that a compliance owner would sign lives in `policies/` (`policy.py`).
"""

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spice_enterprise.errors import ConfigError
from spice_enterprise.records import Regime, digest_of

EMBEDDED_MODEL: Final = "embedded"
PAPER: Final[dict[str, dict[str, Any]]] = {
    "selfplay": {
        "steps": 640,
        "chunks_per_step": 8,
        "max_tasks": 8,
        "max_rounds": 128,
        "refill_rounds": 0,
        "formats": "model",
        "contract": "full",
        "hint": "none",
        "admission": "parsable",
        "open_book_samples": 0,
        "open_book_agree": 0,
        "reward": "spice",
        "relax_invalid": False,
        "duplicate_penalty": 0.0,
        "chunk_sampler": "uniform",
        "reasoner_task": "random",
        "document_cap": 0,
        "replay_share": 0.0,
    },
    "training": {"learning_rate": 1e-5, "warmup_steps": 0, "clip_high": 0.2, "mask_truncated": False},
}
"""SPICE as published (arXiv 2510.24684): up to 1,024 attempts, every readable task is played, the model chooses the format.
Its batch of 128 is read as 128 rollouts, that is 8 documents of 8 + 8. Documents were up to 5,992 tokens there; chunks are
`ingest.chunk_tokens` here. The learning rate is ten times the paper's 1e-6, which was for full fine-tuning: this learner
trains an adapter."""
PRESETS: Final[dict[str, dict[str, dict[str, Any]]]] = {"enterprise": {}, "paper": PAPER}
SMALL_MODEL_WEIGHTS: Final = 10**9
"""Models below it are asked the short contract."""
SHORT_TEMPERATURE: Final = 0.7
TOKENS: Final = {"short": (96, 32), "full": (1536, 2048)}
"""Most new tokens of (a proposal, an answer) by contract."""
MAX_CONFIG_BYTES: Final = 1 << 20


class Section(BaseModel):
    """A strict, frozen section: unknown keys are errors and inputs never appear in messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, strict=True, allow_inf_nan=False)


class IngestConfig(Section):
    """Reading, scrubbing, cutting, splitting."""

    chunk_tokens: int = Field(default=256, ge=16, le=8192)
    """Most tokens of the base model in one chunk."""
    min_chunk_tokens: int = Field(default=24, ge=1)
    """Shorter chunks are joined to a neighbour of the same section, or dropped when alone."""
    unseen_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of document families that training never sees."""
    exam_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of families kept for the exam alone; 0 lets the exam ask about the unseen ones."""
    sandbox: Literal["required", "best_effort"] = "best_effort"
    """`required` refuses to run where the parser child cannot be cut off from the network."""
    parser: Literal["native", "unstructured", "auto"] = "native"
    """`auto` gives the formats that the native parsers do not read to `unstructured`."""
    ocr: Literal["off", "auto"] = "off"
    """`auto` reads scanned pages with the `[ocr]` extra; `off` leaves a document without text out."""
    ner_model: str = EMBEDDED_MODEL
    """`embedded` (the packaged en_core_web_md) or a local path."""
    token_classifier: str | None = None
    """Local directory of a transformers token classifier that looks for names as well."""
    gliner: str | None = None
    """Local directory of a GLiNER model that looks for names as well."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that parse and scrub; each holds the NER model. The result is the same for any number."""
    near_duplicate: float = Field(default=0.8, gt=0.0, le=1.0)
    """Jaccard similarity of 5-word shingles from which two documents are one family."""
    acl_label: str = Field(default="", max_length=200)
    """Access-control label of documents whose source has none of its own."""
    max_file_bytes: int = Field(default=64 << 20, ge=1)
    max_documents: int = Field(default=100_000, ge=1)


class SelfplayConfig(Section):
    """What one step plays. The defaults are those of `preset: enterprise`; `PAPER` has those of the other."""

    steps: int = Field(default=150, ge=0, le=100_000)
    chunks_per_step: int = Field(default=8, ge=1)
    """Chunks played in a step (the paper's documents); how many rollouts one update takes is `training.train_batch_size`."""
    challenger_group: int = Field(default=8, ge=2)
    reasoner_group: int = Field(default=8, ge=2)
    max_tasks: int = Field(default=4, ge=1)
    """Most valid tasks of one chunk that the reasoner attempts."""
    max_rounds: int = Field(default=3, ge=1, le=128)
    """Rounds of `challenger_group` proposals until one is valid."""
    refill_rounds: int = Field(default=2, ge=0, le=8)
    """Further rounds for a chunk whose groups all carry no signal."""
    regimes: tuple[Regime, ...] = Field(default=(), max_length=3)
    """What the reasoner may see. Several: each chunk keeps one of them, drawn from the seed. None: `self_contained`, and
    `open_book` for a model that is asked the short contract, which cannot put all that is needed into a question."""
    distractor_passages: int = Field(default=2, ge=0, le=16)
    """Passages of other documents that `open_book` shows beside the right one."""
    formats: Literal["free_form", "choice", "both", "model"] = "both"
    """`both`: drawn evenly by chunk; `model`: the model chooses in a call of its own."""
    contract: Literal["auto", "short", "full"] = "auto"
    """What the challenger is asked for: a question and an answer, or the paper's whole JSON. `auto`: `full` from 10^9 weights."""
    hint: Literal["none", "span"] = "span"
    """`span`: code offers an answer that stands in the chunk and the challenger writes the question."""
    hint_values: Literal["auto", "all", "measures"] = "auto"
    """Which values are offered. `measures`: dates, times, years, amounts, shares and counts; chunks with one are played first,
    and names, defined terms and bare numbers are offered only where no chunk has one. `auto`: `measures` for a short contract,
    whose models make nothing of a name."""
    grounding: Literal["corpus", "none"] = "corpus"
    """`none`: the challenger sees no document. For comparison only."""
    challenger: Literal["trained", "frozen"] = "trained"
    """`frozen`: proposals come from the base, or from `challenger_model`, and only the reasoner learns."""
    roles: Literal["shared", "separate"] = "shared"
    """`separate`: each role learns in an adapter of its own, and only the Reasoner's becomes a version that can be released."""
    challenger_model: str | None = None
    """Local directory of another model that proposes, with `challenger: frozen`."""
    admission: Literal["checked", "parsable"] = "checked"
    """`parsable`: everything that can be read is played, as in the paper."""
    open_book_samples: int = Field(default=4, ge=0, le=64)
    """Answers of the frozen base, with the passage, that a proposal is checked by; 0 leaves the check out."""
    open_book_agree: int = Field(default=3, ge=0, le=64)
    """Fewest of them that must agree with the reference answer."""
    closed_book_samples: int = Field(default=0, ge=0, le=64)
    """Answers of the frozen base without the passage; a proposal that all of them get right is refused."""
    check_temperature: float = Field(default=0.3, ge=0.01, le=2.0)
    """Of the frozen base while it checks: low, because what it can read is asked, not how it roams."""
    reward: Literal["chance_corrected", "spice", "rzero", "azr", "spell", "threshold"] = "chance_corrected"
    """What a proposal earns for how often its task is answered right."""
    invalid_reward: float = Field(default=-0.1, ge=-1.0, le=0.0)
    """What a proposal earns that is refused or cannot be read."""
    relax_invalid: bool = True
    """Make that 0 while fewer than a fifth of the proposals were valid in each of the last ten steps."""
    duplicate_penalty: float = Field(default=0.25, ge=0.0, le=1.0)
    """What a proposal pays that is very near to an archived question."""
    near_copy: float = Field(default=0.85, gt=0.0, le=1.0)
    """Cosine from which a question counts as such."""
    embedder: str = "hashed"
    """`hashed`: n-grams of letters and words; or a local directory of a transformers encoder such as MiniLM."""
    reasoner_task: Literal["frontier", "random", "best_reward"] = "frontier"
    """Which task trains the reasoner. `frontier`: a random one that was answered both right and wrong, if there is one."""
    chunk_sampler: Literal["uniform", "learnability", "coverage"] = "learnability"
    """`learnability`: half of the chunks by p(1 - p) of their recent tasks; `coverage`: those with the fewest tasks first."""
    document_cap: int = Field(default=3, ge=0)
    """Most tasks of one document in `document_cap_steps`, as long as other documents have chunks to play; 0: no cap."""
    document_cap_steps: int = Field(default=50, ge=1)
    """Steps over which the tasks of a document are counted."""
    replay_share: float = Field(default=0.1, ge=0.0, le=0.5)
    """Share of a step's chunks that are replaced by a task of an earlier step that was answered both right and wrong."""
    challenger_tokens: int = Field(default=0, ge=0, le=65_536)
    """Most new tokens of a proposal; 0: 96 for a short contract, 1,536 for a full one."""
    reasoner_tokens: int = Field(default=0, ge=0, le=65_536)
    """Most new tokens of an answer; 0: 32 for a short contract, 2,048 for a full one."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """Of both roles while playing; the exam is greedy. 0: 1.0, and 0.7 for a short contract, whose models leave the matter."""
    measure_every: int = Field(default=20, ge=0)
    """Steps between measurements of the standing adapter on unseen documents, the first before step 1; 0: none."""
    general_items: str | None = None
    """File of multiple-choice items (JSON lines: question, choices, answer_index) that each measurement scores as well."""

    @model_validator(mode="after")
    def _can_agree(self) -> "SelfplayConfig":
        if 0 < self.open_book_samples < self.open_book_agree:
            raise ValueError("open_book_agree: more than the open_book_samples there are, so nothing could be admitted")
        return self

    @model_validator(mode="after")
    def _has_two_roles(self) -> "SelfplayConfig":
        if self.roles == "separate" and self.challenger == "frozen":
            raise ValueError("roles: separate is for a challenger that learns, and challenger is frozen")
        return self


class WarmupConfig(Section):
    """Supervised steps before self-play, where `warmup` asks for them."""

    steps: int = Field(default=20, ge=1, le=100_000)
    """Supervised steps; they come before those of self-play."""
    examples_per_step: int = Field(default=32, ge=1)
    """Most examples of one step."""
    learning_rate: float = Field(default=2e-4, gt=0.0, le=1.0)
    """Of AdamW in these steps, without a ramp."""


class TrainingConfig(Section):
    """The learner."""

    quantization: Literal["nf4", "none"] = "nf4"
    dequantise: Literal["auto", "never", "always"] = "auto"
    """Hold the NF4 weights dequantised (same function, more memory). `auto`: where 4-bit kernels are slow, that is on CPUs."""
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """`auto`: bfloat16 on an accelerator, float32 on a CPU."""
    activation_checkpointing: Literal["auto", "never", "always"] = "auto"
    """Recompute layers in the backward pass instead of keeping them. `auto`: on an accelerator."""
    lora_rank: int = Field(default=32, ge=1, le=512)
    lora_alpha: int = Field(default=32, ge=1)
    lora_targets: tuple[str, ...] = ("all-linear",)
    """Names of the linear maps that get an adapter (`q_proj`, ...), or `all-linear`. Never the head or the embeddings."""
    loss: Literal["dr_grpo", "gspo", "cispo"] = "dr_grpo"
    """Ratio and clip by token (`dr_grpo`), by sequence (`gspo`), or clipped weights that always keep a gradient (`cispo`).
    They differ for rollouts of the version before; on a version's own the ratio is 1."""
    learning_rate: float = Field(default=2e-5, gt=0.0, le=1.0)
    warmup_steps: int = Field(default=10, ge=0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    grad_clip: float = Field(default=0.5, gt=0.0)
    clip_low: float = Field(default=0.2, gt=0.0, lt=1.0)
    """How far below 1 the ratio to the policy that played may go; it is 1 unless `max_staleness` is 1."""
    clip_high: float = Field(default=0.28, gt=0.0)
    """How far above 1."""
    importance_cap: float = Field(default=2.0, ge=1.0)
    """Most that rounding between sampler and learner may weigh a token."""
    train_batch_size: int = Field(default=128, ge=2)
    """Most rollouts of one update; a step with more makes several, over whole groups in order."""
    mask_truncated: bool = True
    """Learn nothing from a completion that ended at its token limit."""
    max_batch_tokens: int = Field(default=16_384, ge=64)
    """Most packed positions in one forward pass; halved, and kept so, each time memory runs out."""
    max_staleness: Literal[0, 1] = 0
    """1: the next step is played by the version before while this one is learned; needs a sampler with weights of its own.
    Delivery is then proven by the canary at each publish; the gap of a step is recorded, and is the policy's own movement."""
    keep_states: int = Field(default=2, ge=2)
    """Learner states kept on disk, with their adapters."""
    keep_adapters_every: int = Field(default=0, ge=0)
    """Keep the adapter of every so many steps for good (for `crossplay`); 0 keeps only those of `keep_states`."""


PLAY_PATHS: Final = ("general_items", "challenger_model", "embedder")
"""Settings of self-play that may name a file or directory beside the config."""
NOT_IN_RESULT: Final = frozenset({"adapter_dir", "kv_cache_mib", "url", "token_file", "timeout_s"})
"""Settings of a sampler that say where things lie and how long to wait: a run may go on with others."""


class SamplerConfig(Section):
    """Who writes completions."""

    kind: Literal["hf", "vllm", "server"] = "hf"
    """`hf`: transformers in this process; `vllm`: vLLM in this process; `server`: `serve-sampler` on this machine."""
    weights: Literal["auto", "shared", "twin", "nf4"] = "auto"
    """What serves an NF4 base. `shared`: the learner's own module (only `hf`); `twin`: a copy with the same values written out;
    `nf4`: 4-bit kernels of a vLLM plug-in (GPU only). `auto`: `shared` for `hf`, `twin` else."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of weights and activations of a copy; `auto`: the learner's."""
    max_context_tokens: int = Field(default=4096, ge=64)
    """Longest prompt and completion together that vLLM reserves for."""
    kv_cache_mib: int | None = Field(default=None, ge=16)
    """Keys and values of vLLM; `None`: what the memory planner finds free, at most 4 GiB on a CPU."""
    adapter_dir: str | None = None
    """Where versions are laid for vLLM; `None`: memory (`/dev/shm`) where there is some, else the run directory."""
    url: str = Field(default="http://127.0.0.1:8761", pattern=r"^http://(127\.0\.0\.1|localhost|\[::1\]):\d{1,5}$")
    """Of the server; loopback only."""
    token_file: str | None = None
    """Where the server's token stands; `None`: `keys/sampler.token` in the workspace."""
    timeout_s: float = Field(default=120.0, gt=0.0)
    """Longest silence of a server before it counts as hung."""


class ExamConfig(Section):
    """The frozen questions."""

    questions_per_document: int = Field(default=5, ge=1, le=100)
    max_questions: int = Field(default=2_000, ge=1)
    recall_questions: int = Field(default=0, ge=0)
    """Questions about facts of trained documents, asked beside those about unseen ones: is a fact in the weights? Their marks
    decide nothing at the gate, whose leak check reads these answers like all others; `experiment` shows them."""
    answer_tokens: int = Field(default=16, ge=1)
    draws: int = Field(default=10_000, ge=100)
    """Bootstrap draws of the paired interval."""


class PolicyPaths(Section):
    """Where the policies are; `None` is the one shipped with the package."""

    pii: str | None = None
    guardrails: str | None = None
    gate: str | None = None


class TrackingConfig(Section):
    """The window: MLflow."""

    is_enabled: bool = True
    uri: str | None = None
    """`None`: `MLFLOW_TRACKING_URI`, else a SQLite file in the workspace."""
    experiment: str = Field(default="spice-enterprise", min_length=1)


class JobConfig(Section):
    """Everything a job needs to know."""

    corpus: str = Field(min_length=1)
    """A local folder."""
    name: str = Field(default="job", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """The run directory under the workspace, and the line of adapters in the registry."""
    workspace: str = "runs"
    """Keys, audit log, registry and MLflow files that runs share."""
    base_model: str = EMBEDDED_MODEL
    """`embedded`, a local directory, or a hub id when `offline: false`."""
    base_digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 the base model's manifest must have; refused when it does not."""
    offline: bool = True
    seed: int = Field(default=0, ge=0, lt=2**53)
    preset: Literal["enterprise", "paper"] = "enterprise"
    """Which values `build_config` and files begin from: `paper` reproduces SPICE as published."""
    warmup: Literal["none", "format", "facts"] = "none"
    """Supervised steps before self-play: `format` on the model's own admitted proposals, `facts` on rewritten chunks."""
    ingest: IngestConfig = IngestConfig()
    selfplay: SelfplayConfig = SelfplayConfig()
    warmup_training: WarmupConfig = WarmupConfig()
    training: TrainingConfig = TrainingConfig()
    sampler: SamplerConfig = SamplerConfig()
    exam: ExamConfig = ExamConfig()
    policies: PolicyPaths = PolicyPaths()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _has_its_preset(self) -> "JobConfig":
        for name, values in PRESETS[self.preset].items():
            if not set(values) <= getattr(self, name).model_fields_set:
                raise ValueError(f"preset: the values of {self.preset} are laid by build_config or a file, not here")
        return self

    @property
    def workspace_dir(self) -> Path:
        """The shared workspace."""
        return Path(self.workspace)

    @property
    def run_dir(self) -> Path:
        """This job's own directory."""
        return self.workspace_dir / self.name

    def sized(self, weights: int) -> "JobConfig":
        """Return this config with all settled that depends on how many weights the base model has."""
        play = self.selfplay
        by_size: Literal["short", "full"] = "short" if weights < SMALL_MODEL_WEIGHTS else "full"
        contract = by_size if play.contract == "auto" else play.contract
        asked, answered = TOKENS[contract]
        settled = {
            "contract": contract,
            "challenger_tokens": play.challenger_tokens or asked,
            "reasoner_tokens": play.reasoner_tokens or answered,
            "temperature": play.temperature or (1.0 if contract == "full" else SHORT_TEMPERATURE),
            "hint_values": play.hint_values if play.hint_values != "auto" else ("all" if contract == "full" else "measures"),
            "regimes": play.regimes or (("self_contained",) if contract == "full" else ("open_book",)),
        }
        return self.model_copy(update={"selfplay": play.model_copy(update=settled)})

    def digest(self) -> str:
        """`sha256:` over what decides the result; where things lie and what shows them does not."""
        dumped = self.model_dump(mode="json", exclude={"corpus", "workspace", "name", "tracking"})
        dumped["sampler"] = {key: value for key, value in dumped["sampler"].items() if key not in NOT_IN_RESULT}
        return digest_of(dumped)


def cache_dir() -> Path:
    """Return where converted base models are kept for all workspaces: `XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spice-enterprise"


def vault_key() -> str | None:
    """Return the vault's master key from the environment, for development; None when it is not set."""
    return os.environ.get("SPICE_VAULT_KEY")


def source_secret() -> str:
    """Return the password or token of a mailbox or wiki from the environment; empty when it is not set."""
    return os.environ.get("SPICE_SOURCE_SECRET", "")


def tracking_uri(config: JobConfig) -> str:
    """Return the MLflow URI: config, then `MLFLOW_TRACKING_URI`, then the workspace's SQLite file."""
    from_environment = os.environ.get("MLFLOW_TRACKING_URI")
    return config.tracking.uri or from_environment or f"sqlite:///{(config.workspace_dir / 'mlflow.db').resolve()}"


def tracking_host(config: JobConfig) -> str | None:
    """Return the host of an MLflow server, or None when tracking is off or a local file."""
    return urlsplit(tracking_uri(config)).hostname if config.tracking.is_enabled else None


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> JobConfig:
    """Read one YAML file and lay `overrides` (dotted keys) over it.

    Raises `ConfigError` (exit 2) listing every problem. Relative paths in the file are relative to the file.
    """
    data = read_yaml(path, ConfigError)
    here = path.parent.resolve()
    for key in ("corpus", "workspace"):
        if isinstance(data.get(key), str) and "://" not in data[key]:
            data[key] = str(here / data[key])
    if isinstance(data.get("base_model"), str) and (here / data["base_model"]).is_dir():
        data["base_model"] = str(here / data["base_model"])
    if isinstance(play := data.get("selfplay"), dict):
        near = {key: str(here / said) for key in PLAY_PATHS if isinstance(said := play.get(key), str) and (here / said).exists()}
        data["selfplay"] = {**play, **near}
    if isinstance(data.get("policies"), dict):
        data["policies"] = {k: str(here / v) if isinstance(v, str) else v for k, v in data["policies"].items()}
    return build_config({**data}, overrides, where=path.name)


def build_config(data: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, where: str = "config") -> JobConfig:
    """Validate settings; dotted `overrides` win. Raises `ConfigError` with all problems and their paths."""
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    for dotted, value in (overrides or {}).items():
        *parents, leaf = dotted.split(".")
        target = merged
        for parent in parents:
            if not isinstance(target.get(parent, {}), dict):
                raise ConfigError(f"{where}: {parent}: expected keys and values", hint="see docs/reference/config.md")
            target = target.setdefault(parent, {})
        target[leaf] = value
    return validate(JobConfig, _with_preset(merged), where, ConfigError)


def _with_preset(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the preset's values where nothing else was said; an unknown preset has none."""
    laid = PRESETS.get(str(said.get("preset", "enterprise")), {})
    sections = {
        name: {**values, **said.get(name, {})} for name, values in laid.items() if isinstance(said.get(name, {}), Mapping)
    }
    return {**said, **sections}


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], data: Mapping[str, Any], where: str, error_type: type[ConfigError]) -> M:
    """Build `model`, or raise one `error_type` that lists every problem with its path and without its value."""
    try:
        # through JSON, because strict JSON mode reads arrays as tuples and dates from text, yet refuses "3" for 3
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems = tuple(
            _describe(model, tuple(p["loc"]), p["type"], p["msg"])
            for p in error.errors(include_input=False, include_url=False, include_context=False)
        )
    head = problems[0] if len(problems) == 1 else f"{len(problems)} problems: " + "; ".join(problems)
    raise error_type(
        f"{where}: {head}", hint="correct the file; `spice-enterprise plan CONFIG` checks it without running", problems=problems
    )


def _describe(model: type[BaseModel], loc: tuple[int | str, ...], kind: str, message: str) -> str:
    path = ".".join(str(part) for part in loc)
    if kind != "extra_forbidden":
        return f"{path}: {message[0].lower()}{message[1:]}" if path else message
    known = _keys_at(model, loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
    nearest = f", did you mean {close[0]!r}?" if close else f", known here: {', '.join(sorted(known))}"
    return f"{path}: unknown key{nearest}"


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the (nested) model that `loc` leads to."""
    models = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        field = next((m.model_fields[part] for m in models if part in m.model_fields), None)
        # a part that is no field is the tag pydantic adds for the chosen member of a union
        models = _models_in(field.annotation) if field is not None else [m for m in models if _tag_of(m) == part]
    return sorted({name for m in models for name in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the model classes inside an annotation such as `tuple[A | B, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _models_in(arg)]


def _tag_of(model: type[BaseModel]) -> object:
    field = model.model_fields.get("type")
    return get_args(field.annotation)[0] if field is not None else None


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases (bombs), without duplicate keys and without tags."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # yaml's stubs leave it untyped
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and "\0" in value:
            raise yaml.MarkedYAMLError(problem="a NUL character", problem_mark=node.start_mark)
        return value


def _no_duplicates(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - yaml's signature
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.MarkedYAMLError(problem="duplicate key", problem_mark=key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


def read_yaml(path: Path, error_type: type[ConfigError]) -> dict[str, Any]:
    """Read one YAML mapping strictly: UTF-8, one document, no aliases, tags or duplicate keys.

    Raises `error_type` with line and column, never with content.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise error_type(f"{path}: no such file", hint="check the path") from None
    except OSError as error:
        raise error_type(f"{path}: cannot be read ({type(error).__name__})", hint="check the permissions") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise error_type(f"{path}: larger than {MAX_CONFIG_BYTES} bytes", hint="this is not a settings file")
    try:
        data = _StrictLoader(raw.decode("utf-8")).get_single_data()
    except UnicodeDecodeError:
        raise error_type(f"{path}: not UTF-8", hint="save it as UTF-8") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) if type(error) is yaml.MarkedYAMLError else None
        raise error_type(f"{path}{where}: {problem or 'not valid YAML'}", hint="correct the file") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise error_type(f"{path}: expected keys and values at the top level", hint="see docs/reference/config.md")
    return data
