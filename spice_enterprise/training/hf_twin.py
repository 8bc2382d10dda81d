"""A copy of the learner's model that only samples: the same NF4 values, written out.

In: what the learner was loaded from.
Out: a model to give to `HfSampler`; it holds no version until one is published there.
Refuses: nothing of its own.
Not here: the twin on disk that vLLM serves (`twin.py`).

4-bit kernels write slowly, above all on CPUs. And a copy can write the next step's rollouts in another thread while the
learner learns: nothing is shared between the two but files.
"""

import torch

from spice_enterprise.config import TrainingConfig
from spice_enterprise.protocols import BASE_DIGEST
from spice_enterprise.training.base_model import BaseModel
from spice_enterprise.training.qlora import LearnerModel


def load_twin(base: BaseModel, config: TrainingConfig, *, dtype: str, seed: int) -> LearnerModel:
    """Load the twin of `LearnerModel.load(base, config, seed=seed)`.

    Args:
        base: the learner's base.
        config: the learner's; its weights are quantised in the learner's dtype, as the learner does it.
        dtype: `float32` or `bfloat16`, of the twin's weights and activations, rounded to after that; `auto`: the learner's.
        seed: of the adapter nobody hears: B = 0 until a version is published.
    """
    twin = LearnerModel.load(base, config.model_copy(update={"dequantise": "always"}), seed=seed)
    if dtype != "auto":
        twin.round_base(getattr(torch, dtype))
    for parameter in twin.parameters.values():
        parameter.requires_grad = False
    twin.adapter_digest = BASE_DIGEST
    return twin
