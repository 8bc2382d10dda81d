"""Products with frozen float32 weights on x86 CPUs, by oneDNN.

In: activations and a weight that is never trained.
Out: their product; gradients flow to the activations.
Refuses: nothing; elsewhere than on an x86 CPU, and for other dtypes, it is the library's own product.
Not here: the adapter's matrices, which are small and trained.

PyTorch gives float32 products to MKL, which takes its slower paths on other makers' CPUs: on an AMD EPYC oneDNN is 1.7 to
2.5 times as fast from 8 rows on. There a row's result does not depend on how many others there are either.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn

_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's own
_IS_FASTER = _HAS_ONEDNN and platform.machine().lower() in ("x86_64", "amd64")


class _Product(torch.autograd.Function):
    """x [..., in] times the frozen weight [out, in], plus bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _multiply(gradients[0], weight.t(), None), None, None


class FrozenLinear(nn.Linear):
    """An `nn.Linear` whose weight is never trained."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] times the weight, [..., out]."""
        return frozen_linear(x, self.weight, self.bias)


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias` for x [..., in] and a frozen weight [out, in]."""
    is_ours = _IS_FASTER and weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() > 0
    if not is_ours or weight.requires_grad:
        return nn.functional.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _multiply(x, weight, bias)
    product: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]  # torch's own
    return product


def use_frozen_linears(model: nn.Module) -> None:
    """Make every plain linear map of a frozen model multiply so."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
