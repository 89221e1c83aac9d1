"""Emulation: formats that have no tensors here, rounded exactly inside fp32 tensors.

Every matrix product, convolution and attention that has fp32 operands on the CPU is replaced in PyTorch's dispatcher by
one whose operands are rounded (:mod:`halfstep.pytorch.emulation_ops`); sums stay fp32, and so does all the rest.
It is replaced at two dispatch keys: above autograd's, where the backward products are known as such, and below, for
what never comes by autograd (inference mode, PyTorch's own fused kernels). No mode has to surround anything: it
holds in every thread, in a checkpoint's recompute, and in what torch.compile traces.

Matrix-vector and dot products stay fp32: no matrix unit computes those.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.pytorch import emulation_ops
from halfstep.pytorch.dispatcher import Overrides, exists, own_kernel
from halfstep.pytorch.emulation_ops import Emulation
from halfstep.pytorch.patches import Patches

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
    "convolution": (emulation_ops.convolution, 3),
    "_scaled_dot_product_flash_attention_for_cpu": (_attention, 3),
}
_WITH_OUT = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "_addmm_activation")
_IN_PLACE = ("addmm", "baddbmm", "addbmm")


class Emulated:
    """Every product of fp32 operands on the CPU emulated, in this process, until :meth:`remove`."""

    def __init__(self, emulation: Emulation) -> None:
        self._overrides = Overrides(traced=True)
        self._patches = Patches()
        for name, (compute, tensors) in _FUNCTIONAL.items():
            self._put(name, _functional(emulation, compute), tensors)
        for name in _WITH_OUT:
            self._put(f"{name}.out", _with_out(emulation, _FUNCTIONAL[name][0]), _FUNCTIONAL[name][1])
        for name in _IN_PLACE:
            self._put(f"{name}_", _in_place(emulation, _FUNCTIONAL[name][0]), 3)
        self._close_ways_past()

    def _put(self, name: str, compute: Callable[..., Any], tensors: int) -> None:
        if exists(name):
            for key in KEYS:
                self._overrides.put(name, key, _kernel(compute, own_kernel(name, key), tensors))

    def _close_ways_past(self) -> None:
        """oneDNN's LSTM and the fused encoder layer compute products of their own."""
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
