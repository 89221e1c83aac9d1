"""Block formats in exact arithmetic: the slow, readable reference of :mod:`halfstep.pytorch.rounding.blocks`.

A block's numbers share a scale; an element is the number over the scale, rounded to the element's format:

    MX      scale = 2^(floor(log2(max|v|)) - max_exponent of the element), kept within E8M0
            element = round(v / scale)                                   (OCP MX v1.0, section 6.3)
    NVFP4   tensor scale = fp32(max|tensor| / (6 * 448))
            scale = E4M3(fp32(fp32(max|v| / 6) / tensor scale))
            element = round(fp32(v / fp32(scale * tensor scale)))        (NVIDIA, Pretraining LLMs with NVFP4, 2025)

Elements beyond the largest saturate. A block of zeros has the smallest scale. NaN or infinity in a block makes
its scale NaN, and so the whole block; the standards leave this open. Where NVFP4 would round a scale to zero,
it is the smallest number above zero instead, so that nothing is divided by zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from halfstep.precisions.exact import floor_log2, round_exact
from halfstep.precisions.formats import BlockFormat, Format, get_block, get_scalar


@dataclass(frozen=True)
class RoundedBlocks:
    """A tensor (a row of numbers) in a block format."""

    values: tuple[float, ...]  #: the numbers after rounding: element * scale (* tensor scale)
    elements: tuple[float, ...]  #: the elements, one a number; NaN in a block whose scale is NaN
    scales: tuple[float, ...]  #: the scales, one a block; the last block may be short
    tensor_scale: float  #: NVFP4's second scale; 1 elsewhere


def round_tensor_exact(
    values: Sequence[float], format: str | BlockFormat, working: str | Format = "fp32"
) -> RoundedBlocks:
    """Round a row of numbers to a block format.

    Args:
        working: the format of the tensor and of the arithmetic between the roundings above: ``fp32``, or
            ``fp64`` for a float64 tensor. Only NVFP4's scales depend on it.

    Raises:
        UsageError: not a block format.
    """
    fmt, arithmetic = get_block(format), get_scalar(working)
    tensor_scale = _tensor_scale(values, fmt, arithmetic)
    blocks = [values[start : start + fmt.block] for start in range(0, len(values), fmt.block)]
    scales = [_scale(block, fmt, arithmetic, tensor_scale) for block in blocks]
    rounded = [
        _element(v, fmt, arithmetic, scale, tensor_scale)
        for block, scale in zip(blocks, scales, strict=True)
        for v in block
    ]
    return RoundedBlocks(
        values=tuple(value for _, value in rounded),
        elements=tuple(element for element, _ in rounded),
        scales=tuple(scales),
        tensor_scale=tensor_scale,
    )


def _tensor_scale(values: Sequence[float], fmt: BlockFormat, working: Format) -> float:
    if fmt.tensor_scale is None:
        return 1.0
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    ratio = round_exact(Fraction(largest) / Fraction(fmt.largest), working)
    scale = round_exact(ratio, fmt.tensor_scale, overflow="saturate")
    return max(scale, fmt.tensor_scale.smallest_normal)


def _scale(block: Sequence[float], fmt: BlockFormat, working: Format, tensor_scale: float) -> float:
    if not all(math.isfinite(v) for v in block):
        return math.nan
    largest = Fraction(max(abs(v) for v in block))
    if fmt.scale.scale:
        if not largest:
            return fmt.scale.smallest_normal
        exponent = floor_log2(largest) - fmt.element.max_exponent
        lowest, highest = fmt.scale.min_exponent, fmt.scale.max_exponent
        return math.ldexp(1.0, min(max(exponent, lowest), highest))
    share = round_exact(largest / Fraction(fmt.element.largest), working)
    ratio = round_exact(Fraction(share) / Fraction(tensor_scale), working)
    return max(round_exact(ratio, fmt.scale, overflow="saturate"), fmt.scale.smallest_subnormal)


def _element(
    v: float, fmt: BlockFormat, working: Format, scale: float, tensor_scale: float
) -> tuple[float, float]:
    """The element and the number that it stands for."""
    if math.isnan(scale):
        return math.nan, math.nan
    total = round_exact(Fraction(scale) * Fraction(tensor_scale), working)
    quotient = math.copysign(round_exact(Fraction(v) / Fraction(total), working), v)
    element = round_exact(quotient, fmt.element, overflow="saturate")
    value = round_exact(Fraction(element) * Fraction(total), working)
    return element, math.copysign(value, v)
