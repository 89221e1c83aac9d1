"""Emulation: formats that have no tensors here, rounded exactly inside fp32 tensors.

Every matrix product, convolution and attention with fp32 operands on the CPU is replaced in PyTorch's dispatcher by one
whose operands are rounded (:mod:`halfstep.pytorch.emulation.ops`); sums and everything else stay fp32. It is replaced
at two dispatch keys: above autograd's, where backward products can be recognised, and below, for calls that never pass
autograd (inference mode, PyTorch's own fused kernels). So it works in every thread, when a checkpoint recomputes, and
in code that torch.compile traces.

The operations that CUDA's autocast casts down are emulated, such as matrix-vector products; but in tf32 these stay
fp32, since cuBLAS has no TF32 for them. Dot products and bilinear, which autocast leaves in fp32, stay fp32. PyTorch's
kernels that compute several products inside one call are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.pytorch.emulation import ops as emulation_ops
from halfstep.pytorch.emulation.ops import Emulation
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.products.dispatcher import Overrides, exists, own_kernel

KEYS = ("AutogradCPU", "CPU")

Product = Callable[..., Any]


def _mm(e: Emulation, a: Tensor, b: Tensor) -> Tensor:
    return emulation_ops.product(e, None, a, b)


def _addmm(e: Emulation, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return emulation_ops.product(e, bias, a, b, beta, alpha)


def _addbmm(e: Emulation, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """The sum over the batch is part of the contraction: (m, batch * k) by (batch * k, n)."""
    return emulation_ops.product(e, bias, a.transpose(0, 1).flatten(1), b.flatten(0, 1), beta, alpha)


def _addmm_activation(
    e: Emulation,
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    use_gelu: bool = False,
) -> Tensor:
    result = emulation_ops.product(e, bias, a, b, beta, alpha)
    return F.gelu(result, approximate="tanh") if use_gelu else F.relu(result)


def _mv(e: Emulation, a: Tensor, x: Tensor) -> Tensor:
    return emulation_ops.product(e, None, a, x.unsqueeze(1)).squeeze(1)


def _addmv(e: Emulation, bias: Tensor, a: Tensor, x: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    added = bias.unsqueeze(1) if bias.dim() else bias
    return emulation_ops.product(e, added, a, x.unsqueeze(1), beta, alpha).squeeze(1)


def _convolution(e: Emulation, *args: Any) -> Tensor:
    """``aten::_convolution``: the arguments of ``aten::convolution``, and flags for other devices."""
    return emulation_ops.convolution(e, *args[:9])


def _conv_tbc(e: Emulation, x: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """x (time, batch, in), weight (width, in, out): a convolution over time, with the axes in another order."""
    operands = x.permute(1, 2, 0), weight.permute(2, 1, 0), bias
    return emulation_ops.convolution(e, *operands, [1], [pad], [1], False, [0], 1).permute(2, 0, 1)


def _attention(
    e: Emulation,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T + mask) v, both products emulated; (batch, heads, length, width), and the logsumexp."""
    if key.shape[1] != query.shape[1]:  # grouped queries
        key, value = (t.repeat_interleave(query.shape[1] // key.shape[1], 1) for t in (key, value))
    scores = torch.matmul(query, key.mT) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        below = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~below, -math.inf)
    if attn_mask is not None:
        bias = (
            attn_mask
            if attn_mask.dtype is not torch.bool
            else torch.zeros_like(scores).masked_fill(~attn_mask, -math.inf)
        )
        scores = scores + bias
    weights = torch.softmax(scores, -1) if attn_mask is None else torch._safe_softmax(scores, -1)
    result = (
        torch.matmul(weights, value).transpose(1, 2).contiguous().transpose(1, 2)
    )  # PyTorch's own strides
    logsumexp = scores.detach().amax(-1) - weights.detach().amax(-1).log()
    return result, logsumexp


#: operation under ``aten`` -> (what computes it, how many leading arguments are float32 tensors or None)
_FUNCTIONAL: dict[str, tuple[Product, int]] = {
    "mm": (_mm, 2),
    "bmm": (_mm, 2),
    "addmm": (_addmm, 3),
    "baddbmm": (_addmm, 3),
    "addbmm": (_addbmm, 3),
    "_addmm_activation": (_addmm_activation, 3),
    "mv": (_mv, 2),
    "addmv": (_addmv, 3),
    "convolution": (emulation_ops.convolution, 3),
    "_convolution": (_convolution, 3),
    "_convolution.deprecated": (_convolution, 3),
    "conv_tbc": (_conv_tbc, 3),
    "_scaled_dot_product_flash_attention_for_cpu": (_attention, 3),
}
_WITH_OUT = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "_addmm_activation", "mv", "addmv")
_IN_PLACE = ("addmm", "baddbmm", "addbmm", "addmv")
#: fp32 in tf32: cuBLAS computes them outside of the matrix units
_VECTORS = ("mv", "addmv")
#: kernels with several products inside, and what to use instead
_REFUSED = {
    "_native_multi_head_attention": "torch.nn.MultiheadAttention",
    "_transformer_encoder_layer_fwd": "torch.nn.TransformerEncoderLayer",
}


class Emulated:
    """Emulates every product of fp32 operands on the CPU in this process, until :meth:`remove`."""

    def __init__(self, emulation: Emulation) -> None:
        self._overrides = Overrides(f"emulated: {emulation}")
        self._patches = Patches()
        left = _VECTORS if emulation.precision == "tf32" else ()
        for name, (compute, tensors) in _FUNCTIONAL.items():
            if name not in left:
                self._put(name, _functional(emulation, compute), tensors)
        for name in (n for n in _WITH_OUT if n not in left):
            self._put(f"{name}.out", _with_out(emulation, _FUNCTIONAL[name][0]), _FUNCTIONAL[name][1])
        for name in (n for n in _IN_PLACE if n not in left):
            self._put(f"{name}_", _in_place(emulation, _FUNCTIONAL[name][0]), 3)
        for name, instead in _REFUSED.items():
            self._put(name, _refusal(name, instead), 0)
        self._close_ways_past()

    def _put(self, name: str, compute: Callable[..., Any], tensors: int) -> None:
        if exists(name):
            for key in KEYS:
                self._overrides.put(name, key, _kernel(compute, own_kernel(name, key), tensors))

    def _close_ways_past(self) -> None:
        """Switch off oneDNN's LSTM and the fused encoder layer, which compute products inside their kernels."""
        self._patches.wrap(torch._VF, "lstm", _without_onednn)
        self._fast_attention = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)

    def remove(self) -> None:
        """Put PyTorch's own kernels back. Removing again does nothing."""
        self._overrides.remove()
        self._patches.undo()
        torch.backends.mha.set_fastpath_enabled(self._fast_attention)


def _kernel(compute: Callable[..., Any], own: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        for x in args[:tensors]:
            if x is not None and (x.dtype is not torch.float32 or x.layout is not torch.strided):
                return own(keyset, *args, **kwargs)
        return compute(*args, **kwargs)

    return kernel


def _refusal(name: str, instead: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"torch.{name} computes several products inside one kernel, which --emulate cannot round; use {instead}, "
            "which halfstep has call them one by one."
        )

    return refuse


def _functional(e: Emulation, compute: Product) -> Callable[..., Any]:
    return lambda *args, **kwargs: compute(e, *args, **kwargs)


def _with_out(e: Emulation, compute: Product) -> Callable[..., Any]:
    def computed(*args: Any, out: Tensor, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            result = compute(e, *args, **kwargs)
            return out.resize_(result.shape).copy_(result)

    return computed


def _in_place(e: Emulation, compute: Product) -> Callable[..., Any]:
    return lambda *args, **kwargs: args[0].copy_(compute(e, *args, **kwargs))


def _without_onednn(original: Callable[..., Any]) -> Callable[..., Any]:
    def lstm(*args: Any, **kwargs: Any) -> Any:
        enabled = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)  # the public context manager warns of TF32 as well
        try:
            return original(*args, **kwargs)
        finally:
            torch._C._set_mkldnn_enabled(enabled)

    return lstm
