"""Rounds operands of emulated products exactly, inside fp32 tensors.

There are three ways, depending on the format:

- tf32: each number by itself; fp32's range needs no scale.
- fp8: a scale for the whole tensor, taken from the tensor itself ("current scaling"): 2^k with the largest k that
  keeps the largest magnitude within the format. Real recipes often divide by the maximum instead; with a power of two,
  scaling and unscaling are exact, so that only the format's rounding is seen.
- MX and NVFP4: a scale for each block along the axis over which the product sums, as the standards say
  (:mod:`halfstep.precisions.exact_blocks`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfstep.precisions.formats import BlockFormat, Format, get
from halfstep.pytorch.rounding import native
from halfstep.pytorch.rounding.blocks import round_blocks
from halfstep.pytorch.rounding.native import Kernels
from halfstep.pytorch.rounding.rounding import round_to


def round_operand(x: Tensor, format: str, axis: int) -> Tensor:
    """A product's operand in a format: x's shape, in float32, in new memory. The product sums over ``axis``.

    NaN and infinity stay unchanged, so that an emulated run hides no failure; a block with one becomes NaN.
    """
    # x's own strides, if x has no gaps: compiled code expects them
    out = torch.empty_like(x)
    compiled = native.kernels()
    if compiled is not None and x.numel():
        _in_c(compiled, x.detach(), out, get(format), axis)
        return out
    fmt = get(format)
    if isinstance(fmt, BlockFormat):
        return out.copy_(round_blocks(x, fmt, axis))
    return out.copy_(round_scaled(x, fmt) if needs_scale(fmt) else round_to(x, fmt))


def needs_scale(fmt: Format) -> bool:
    """Whether tensors of this format have one scale: formats of 8 bits and fewer need it, whose range is short."""
    return fmt.bits <= 8


def _in_c(compiled: Kernels, x: Tensor, out: Tensor, fmt: Format | BlockFormat, axis: int) -> None:
    """The same by the kernels in C, which need contiguous tensors: axes are put in the order of memory."""
    order = _memory_order(x)
    x, into = x.permute(order), out.permute(order)
    if not x.is_contiguous() or not into.is_contiguous():
        x = x.contiguous()
        into = torch.empty_like(x)
    if isinstance(fmt, BlockFormat):
        compiled.blocks(x, into, fmt, order.index(axis % len(order)), _tensor_scale(compiled, x, fmt))
    elif needs_scale(fmt):
        compiled.round(x, into, fmt, "saturate", scale_exponent(compiled.largest(x), fmt), keep=True)
    else:
        compiled.round(x, into, fmt, fmt.overflow)
    if into.data_ptr() != out.data_ptr():
        out.permute(order).copy_(into)


def _memory_order(x: Tensor) -> list[int]:
    """The axes, the one with the largest stride first."""
    if x.is_contiguous():
        return list(range(x.dim()))
    strides = x.stride()
    return sorted(range(x.dim()), key=lambda axis: (-strides[axis], axis))


def _tensor_scale(compiled: Kernels, x: Tensor, fmt: BlockFormat) -> float:
    """NVFP4's scale for the whole tensor; 0 if the format has none."""
    if fmt.tensor_scale is None:
        return 0.0
    return max(compiled.largest(x) / fmt.largest, fmt.tensor_scale.smallest_normal)


def round_scaled(x: Tensor, fmt: Format) -> Tensor:
    """round(x * 2^k) / 2^k, with :func:`scale_exponent`'s k for x's largest finite magnitude."""
    finite = torch.isfinite(x)
    top = torch.where(finite, x, 0).abs().amax().item() if x.numel() else 0.0
    k = scale_exponent(top, fmt)
    scaled = round_to(x * math.ldexp(1.0, k), fmt, overflow="saturate") * math.ldexp(1.0, -k)
    return torch.where(finite, scaled, x)


def scale_exponent(top: float, fmt: Format) -> int:
    """The largest k with ``top * 2^k <= fmt.largest``; less for 0, or if fp32 could not represent the spacing.

    The spacing of the format's subnormals, divided by 2^k, stays a normal float32 number, 2^-126 at least.
    """
    most = 126 + fmt.min_exponent - fmt.fraction_bits
    if top == 0:
        return 0
    mantissa, exponent = math.frexp(top)  # top = mantissa * 2^exponent, 1/2 <= mantissa < 1
    k = fmt.max_exponent + 1 - exponent
    return min(most, k if math.ldexp(mantissa, fmt.max_exponent + 1) <= fmt.largest else k - 1)
