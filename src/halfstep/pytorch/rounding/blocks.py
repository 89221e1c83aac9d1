"""Round tensors to block formats (MX, NVFP4): numbers that share a scale.

The arithmetic is that of :mod:`halfstep.precisions.exact_blocks`, in the tensor's working dtype: float32, or
float64 for float64 tensors. The result is the dequantised number, in the tensor's own dtype.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfstep.errors import UsageError
from halfstep.precisions.formats import BlockFormat, get_block
from halfstep.pytorch.rounding.rounding import round_to, working_dtype


def round_blocks(
    x: Tensor,
    format: str | BlockFormat,
    axis: int = -1,
    *,
    mode: str = "nearest_even",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Round a tensor to a block format and back; x's shape and dtype, values of the format.

    Blocks run along ``axis``; the last one may be short. ``mode`` and ``generator`` apply to the elements; scales
    follow the standard. Elements beyond the largest number saturate. A block with NaN or infinity becomes NaN. The
    result carries no gradient.

    Raises:
        UsageError: not a block format, no such axis, or as :func:`halfstep.pytorch.round_to`.

    Example: ``round_blocks(torch.tensor([0.1, 0.2, 6.0]), "mxfp4")`` is 0, 0, 6.
    """
    fmt = get_block(format)
    working = working_dtype(x)
    dimensions = max(x.dim(), 1)  # a scalar is a block of one number
    if not -dimensions <= axis < dimensions:
        raise UsageError(
            f"axis is {axis}; a tensor of shape {tuple(x.shape)} has axes {-dimensions} to {dimensions - 1}."
        )
    with torch.no_grad():
        rows = (x if x.dim() else x.reshape(1)).to(working)
        elements, scale = in_blocks(rows, fmt, axis)
        elements = round_to(elements, fmt.element, mode, overflow="saturate", generator=generator)
        # a scale that is NaN makes the block NaN
        result = (elements * scale).flatten(-2)[..., : rows.shape[axis]]
        return result.movedim(-1, axis).reshape(x.shape).to(x.dtype)


def in_blocks(x: Tensor, fmt: BlockFormat, axis: int) -> tuple[Tensor, Tensor]:
    """x over its blocks' scales, (..., number of blocks, block), ``axis`` last; and the scales, (..., number, 1)."""
    blocks = _blocks(x.movedim(axis, -1), fmt.block)
    largest = blocks.abs().amax(-1, keepdim=True)  # NaN for a block with a NaN
    scale = _power_of_two(largest, fmt) if fmt.tensor_scale is None else _two_level(blocks, largest, fmt)
    return blocks / scale, scale


def _blocks(rows: Tensor, size: int) -> Tensor:
    """(..., n) -> (..., ceil(n / size), size), filled up with zeros, which change no maximum."""
    missing = -rows.shape[-1] % size
    padded = torch.nn.functional.pad(rows, (0, missing))
    return padded.reshape(*rows.shape[:-1], padded.shape[-1] // size, size)


def _power_of_two(largest: Tensor, fmt: BlockFormat) -> Tensor:
    """2^(floor(log2(largest)) - max_exponent of the element), within E8M0; NaN where largest is not finite."""
    mantissa, exponent = torch.frexp(largest)  # largest = mantissa * 2^exponent, 1/2 <= mantissa < 1
    lowest, highest = fmt.scale.min_exponent, fmt.scale.max_exponent
    power = (exponent - 1 - fmt.element.max_exponent).clamp(lowest, highest)
    power = torch.where(largest == 0, lowest, power)
    scale = torch.ldexp(torch.ones_like(largest), power)
    return torch.where(torch.isfinite(mantissa), scale, math.nan)


def _two_level(blocks: Tensor, largest: Tensor, fmt: BlockFormat) -> Tensor:
    """The block's scale, rounded to its format, multiplied by the tensor's scale."""
    assert fmt.tensor_scale is not None
    finite = torch.where(torch.isfinite(blocks), blocks, 0).abs()
    top = finite.amax() if finite.numel() else finite.new_zeros(())
    tensor_scale = round_to(top / fmt.largest, fmt.tensor_scale, overflow="saturate")
    tensor_scale = tensor_scale.clamp(min=fmt.tensor_scale.smallest_normal)
    ratio = (largest / fmt.element.largest) / tensor_scale
    scale = round_to(ratio, fmt.scale, overflow="saturate").clamp(min=fmt.scale.smallest_subnormal)
    return torch.where(torch.isfinite(largest), scale * tensor_scale, math.nan)
