"""AdamW over the fp32 adapter, with a state that survives without pickle.

In: the adapter's parameters by name; the training section of the config.
Out: updated parameters; the state as safetensors bytes.
Refuses: a state that does not belong to these parameters.
Not here: whether an update may be applied (`trainer.py`).
"""

from collections.abc import Mapping
from typing import Final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from spice_enterprise.config import TrainingConfig
from spice_enterprise.errors import IntegrityError

COUNT: Final = "updates"
MOMENTS: Final = ("exp_avg", "exp_avg_sq")


class AdapterOptimiser:
    """AdamW with linear warm-up to a constant learning rate, and clipping by global norm."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> None:
        self._parameters = parameters
        self._config = config
        self._updates = 0
        self._adam = self._fresh()

    def clear(self) -> None:
        """Forget gradients."""
        self._adam.zero_grad(set_to_none=True)

    def grad_norm(self) -> float:
        """Return the global norm of the gradients, before any clip; NaN and infinity pass through."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def step(self, grad_norm: float, *, learning_rate: float | None = None) -> None:
        """Clip the gradients, whose norm is `grad_norm`, and update. The caller has checked that it is finite.

        `learning_rate`: instead of the one of this update.
        """
        torch.nn.utils.clip_grads_with_norm_(self._parameters.values(), self._config.grad_clip, torch.tensor(grad_norm))
        for group in self._adam.param_groups:
            group["lr"] = self.learning_rate() if learning_rate is None else learning_rate
        self._adam.step()
        self._updates += 1

    def learning_rate(self) -> float:
        """Return the rate of the next update: a line up to the configured rate over `warmup_steps`, then constant."""
        return self._config.learning_rate * min(1.0, (self._updates + 1) / (self._config.warmup_steps + 1))

    def save(self) -> bytes:
        """Return the number of updates and Adam's moments."""
        tensors: dict[str, Tensor] = {COUNT: torch.tensor(self._updates)}
        for name, parameter in self._parameters.items():
            for key in MOMENTS if parameter in self._adam.state else ():
                tensors[f"{key}.{name}"] = self._adam.state[parameter][key].cpu().contiguous()
        return save_tensors(tensors, metadata={"format": "pt"})

    def load(self, data: bytes | None) -> None:
        """Take over a saved state; `None` starts afresh. Raises `IntegrityError` (E_STATE_CORRUPT), changing nothing."""
        tensors = load_tensors(data) if data is not None else {COUNT: torch.tensor(0)}
        names = [f"{key}.{name}" for key in MOMENTS for name in self._parameters]
        if set(tensors) not in ({COUNT}, {COUNT, *names}):
            raise IntegrityError(
                "the optimiser state belongs to another adapter", code="E_STATE_CORRUPT", hint="check rank and base"
            )
        self._adam, self._updates = self._fresh(), int(tensors[COUNT])
        for name, parameter in self._parameters.items() if len(tensors) > 1 else ():
            moments = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in MOMENTS}
            self._adam.state[parameter] = {"step": torch.tensor(float(self._updates)), **moments}

    def _fresh(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            list(self._parameters.values()), lr=self._config.learning_rate, weight_decay=self._config.weight_decay, foreach=False
        )
