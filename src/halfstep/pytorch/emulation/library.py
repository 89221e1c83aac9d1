"""Emulated products as operations of the library ``halfstep``.

``halfstep::round`` rounds an operand, with a flag for gradients; ``halfstep::product``,
``halfstep::convolution`` and its backward are PyTorch's own fp32 kernels under other names: in the dispatcher and in
compiled graphs they are products whose operands are already rounded. ``precision`` names the recipe, for the count of
FLOPs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.emulation.operands import round_operand
from halfstep.pytorch.products.dispatcher import own_kernel

_GEOMETRY = (
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, "
    "SymInt groups"
)
_SCHEMAS = (
    "round(Tensor x, str format, int axis, bool gradient=False) -> Tensor",
    "product(Tensor? bias, Tensor a, Tensor b, Scalar beta, Scalar alpha, str precision) -> Tensor",
    f"convolution(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, str precision) -> Tensor",
    f"convolution_backward(Tensor gradient, Tensor x, Tensor weight, {_GEOMETRY}, bool[] mask, str precision) "
    "-> Tensor[]",
)
_LIBRARY = torch.library.Library("halfstep", "FRAGMENT")
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema, tags=(torch.Tag.needs_fixed_stride_order,))

_OWN = {
    name: own_kernel(name, "CPU")
    for name in ("mm", "addmm", "bmm", "baddbmm", "_convolution", "convolution_backward")
}
#: benchmark, deterministic, cudnn_enabled, allow_tf32: flags for other devices' libraries
_FLAGS = (False, False, True, True)
#: the operations: ``round``, ``product``, ``convolution``, ``convolution_backward``
ops = torch.ops.halfstep


def _product(
    keyset: torch._C.DispatchKeySet,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    beta: float,
    alpha: float,
    precision: str,
) -> Tensor:
    name = "mm" if a.dim() == 2 else "bmm"
    if bias is not None:
        name = "addmm" if name == "mm" else "baddbmm"
        added: Tensor = _OWN[name](keyset, bias, a, b, beta=beta, alpha=alpha)
        return added
    result: Tensor = _OWN[name](keyset, a, b)
    return result if alpha == 1 else result.mul_(alpha)


def _convolution(keyset: torch._C.DispatchKeySet, *args: Any) -> Tensor:
    # Not aten::convolution, which would call this operation through the dispatcher, where it is emulated, too.
    result: Tensor = _OWN["_convolution"](keyset, *args[:-1], *_FLAGS)
    return result


def _convolution_backward(keyset: torch._C.DispatchKeySet, *args: Any) -> list[Tensor]:
    *operands, mask, _ = args
    found = _OWN["convolution_backward"](keyset, *operands[:3], None, *operands[3:], [*mask, False])
    return [gradient for gradient in found if gradient is not None]


def _fake_product(bias: Tensor | None, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    return a.new_empty((*a.shape[:-1], b.shape[-1]))


def _fake_convolution(*args: Any) -> Tensor:
    result: Tensor = torch.ops.aten.convolution.default(*args[:-1])
    return result


def _fake_convolution_backward(*args: Any) -> list[Tensor]:
    *operands, mask, _ = args
    found = torch.ops.aten.convolution_backward.default(*operands[:3], None, *operands[3:], [*mask, False])
    return [gradient for gradient in found if gradient is not None]


_LIBRARY.impl("round", lambda x, format, axis, gradient=False: round_operand(x, format, axis), "CPU")
_LIBRARY.impl("product", _product, "CPU", with_keyset=True)
_LIBRARY.impl("convolution", _convolution, "CPU", with_keyset=True)
_LIBRARY.impl("convolution_backward", _convolution_backward, "CPU", with_keyset=True)
for _name, _fake in (
    ("round", lambda x, format, axis, gradient=False: torch.empty_like(x)),
    ("product", _fake_product),
    ("convolution", _fake_convolution),
    ("convolution_backward", _fake_convolution_backward),
):
    torch.library.register_fake(f"halfstep::{_name}", _fake, lib=_LIBRARY)
