"""The NF4 base written out: the same values in a plain model directory, for samplers without 4-bit kernels.

In: a base model; the dtype the learner quantises in and the one the sampler computes in.
Out: a directory of safetensors and JSON beside the other converted models, written once and verified when it is used again.
Refuses: a twin whose files were changed since.
Not here: serving it (`vllm_sampler.py`), the learner's own weights (`qlora.py`).

A sampler on the original weights would be another model: 0.075 nats per token away from the NF4 learner, the twin 0.003.
"""

import shutil
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from spice_enterprise.sealed import MANIFEST, write_manifest
from spice_enterprise.training.base_model import DATA_SUFFIXES, BaseModel, written_once
from spice_enterprise.training.qlora import packing_device, pick_device, quantise_linears

INDEX_SUFFIX: Final = ".index.json"


def write_twin(base: BaseModel, *, cache_dir: Path, learner_dtype: torch.dtype, dtype: torch.dtype) -> Path:
    """Return the directory of the twin, writing it the first time.

    The weights are quantised in `learner_dtype`, as the learner does it, and only then rounded to `dtype`.
    Raises `IntegrityError` (E_MODEL_DIGEST) when the files of an earlier time were changed.
    """
    name = Path(base.name).name
    target = cache_dir / f"{name}-{base.digest[:12]}-nf4-{_short(learner_dtype)}-{_short(dtype)}"
    return written_once(target, lambda staged: _write(base.path, staged, learner_dtype, dtype), what="the written-out base")


def _write(source: Path, target: Path, learner_dtype: torch.dtype, dtype: torch.dtype) -> None:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library's own
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(source), dtype=learner_dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    quantise_linears(model, device=packing_device(pick_device()), is_written_out=True)
    model.to("cpu", dtype).save_pretrained(target)
    for item in source.iterdir():
        # the model's own settings say nothing that changed, and the library would add its version to them
        if item.suffix in DATA_SUFFIXES - {".safetensors"} and item.name != MANIFEST and not item.name.endswith(INDEX_SUFFIX):
            shutil.copyfile(item, target / item.name)
    write_manifest(target)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
