"""The arithmetic of :func:`halfstep.pytorch.round_to`, on tensors of float32 or float64.

- :func:`cast`: there and back, where PyTorch has the format's dtype and rounds once (fp16, bf16, E5M2).
- :func:`drop_bits`: integer addition, where the format has the tensor's exponent range (bf16, tf32).
- :func:`scaled`: for everything else. With e = max(floor(log2|x|), min_exponent) and the quantum
  q = 2^(e - fraction_bits), x/q is rounded to a whole number and multiplied by q; powers of two only, so every
  product is exact, and signed zeros, NaN and infinity need no care.

A kernel writes its result into ``work.out`` and its intermediate tensors into ``work``'s buffers; if these are None,
each pass makes a new tensor, and torch.compile fuses the passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from halfstep.precisions.formats import Format, Overflow

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
CASTS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8_e5m2": torch.float8_e5m2}

#: dtype -> (exponent bits, fraction bits)
_LAYOUT = {torch.float32: (8, 23), torch.float64: (11, 52)}


@dataclass(frozen=True)
class Work:
    """Memory for a kernel's result and its intermediate tensors, of x's shape; None: new memory each time."""

    out: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None


@dataclass(frozen=True)
class Rounding:
    """How to round: a format, a mode, an overflow policy and a source of random numbers."""

    format: Format
    mode: str
    overflow: Overflow
    generator: torch.Generator | None = None

    def kernel(self, working: torch.dtype, compiling: bool) -> Kernel:
        """The fastest kernel that is exact for tensors of the dtype ``working``.

        inductor folds ``.to(float16).to(float32)`` away (pytorch#183761), so casts are for eager tensors only.
        """
        if contains(self.format, working):
            return keep
        castable = self.format.name in CASTS and working == torch.float32 and self.overflow != "nan"
        if castable and self.mode == "nearest_even" and not compiling:
            return cast
        return drop_bits if self.format.exponent_bits == _LAYOUT[working][0] else scaled


Kernel = Callable[[Tensor, Rounding, Work], Tensor]


def contains(format: Format, dtype: torch.dtype) -> bool:
    """Whether every finite number of the dtype is in the format, so that there is nothing to round."""
    info = torch.finfo(dtype)
    return format.machine_epsilon <= info.eps and format.largest >= info.max


def keep(x: Tensor, rounding: Rounding, work: Work) -> Tensor:
    """Round nothing; infinity follows the overflow policy."""
    if rounding.overflow == "infinity":
        return _store(x, work.out)
    if rounding.overflow == "nan":
        return _store(torch.where(torch.isinf(x), math.nan, x), work.out)
    largest = rounding.format.largest if rounding.format.largest <= torch.finfo(x.dtype).max else math.inf
    return torch.clamp(x, -largest, largest, out=work.out)


def cast(x: Tensor, rounding: Rounding, work: Work) -> Tensor:
    """Round to nearest even by PyTorch's own casts, which overflow to infinity."""
    low = CASTS[rounding.format.name]
    if rounding.overflow == "saturate":
        largest = rounding.format.largest
        x = torch.clamp(x, -largest, largest, out=_floats(work.first, x))
    if work.second is None or work.out is None:
        return x.to(low).to(x.dtype)
    narrow = work.second.view(low)[: x.numel()]
    narrow.copy_(x)
    return work.out.copy_(narrow)


def drop_bits(x: Tensor, rounding: Rounding, work: Work) -> Tensor:
    """Integer arithmetic on the bits of sign and magnitude: a carry out of the fraction raises the exponent."""
    integer = INTEGERS[x.dtype]
    dropped = _LAYOUT[x.dtype][1] - rounding.format.fraction_bits
    bits = x.view(integer)
    # NaN could lose its fraction, and become infinity, or carry into the sign. On a CPU a sum, a cheap pass over
    # cached memory, mostly shows that there is none; elsewhere reading it would be a synchronisation.
    clean = work.out is not None and math.isfinite(x.sum().item())
    nan = None if clean else torch.isnan(x)
    if rounding.mode == "nearest_even":
        odd = torch.bitwise_right_shift(bits, dropped, out=work.first)
        bits = odd.bitwise_and_(1).add_(bits).add_((1 << (dropped - 1)) - 1)
    elif rounding.mode == "stochastic":
        bits = bits + _random_bits(x, dropped, rounding.generator)
    out = None if work.out is None else work.out.view(integer)
    result = torch.bitwise_and(bits, -(1 << dropped), out=out).view(x.dtype)
    if nan is not None:
        result = torch.where(nan, math.nan, result) if out is None else result.masked_fill_(nan, math.nan)
    if rounding.overflow == "infinity":
        return result
    largest = rounding.format.largest
    if rounding.overflow == "saturate":
        return torch.clamp(result, -largest, largest, out=work.out)
    beyond = result.abs() > largest
    return torch.where(beyond, math.nan, result) if out is None else result.masked_fill_(beyond, math.nan)


def scaled(x: Tensor, rounding: Rounding, work: Work) -> Tensor:
    """Round x/q to a whole number, q the distance between neighbours in the format."""
    fmt, integer = rounding.format, INTEGERS[x.dtype]
    exponent_bits, fraction = _LAYOUT[x.dtype]
    bias = (1 << (exponent_bits - 1)) - 1
    exponent = torch.bitwise_and(x.view(integer), ((1 << exponent_bits) - 1) << fraction, out=work.first)
    lowest, highest = (fmt.min_exponent + bias) << fraction, (fmt.max_exponent + bias) << fraction
    exponent = torch.clamp(exponent, lowest, highest, out=work.first)
    power = exponent.view(x.dtype)  # 2^e
    one_over = torch.tensor((2 * bias << fraction), dtype=integer)
    per_quantum = torch.sub(one_over, exponent, out=work.second)
    per_quantum.add_(fmt.fraction_bits << fraction)  # bits of 1/q = 2^(fraction_bits - e)
    steps = torch.mul(x, per_quantum.view(x.dtype), out=_floats(work.second, x))
    rounded = _whole(steps, rounding).mul_(power)  # the result times 2^fraction_bits
    return _bounded(rounded, x, rounding, work.out)


def _whole(steps: Tensor, rounding: Rounding) -> Tensor:
    """x/q to a whole number; each of these keeps the sign of zero."""
    if rounding.mode == "nearest_even":
        return steps.round_()
    whole = steps.trunc()
    if rounding.mode == "stochastic":
        uniform = torch.rand(
            steps.shape, dtype=steps.dtype, device=steps.device, generator=rounding.generator
        )
        # d + uniform >= 1, written so that nothing is rounded
        up = (steps - whole).abs_() >= 1 - uniform
        whole += torch.copysign(up.to(steps.dtype), steps)
    return whole


def _bounded(rounded: Tensor, x: Tensor, rounding: Rounding, out: Tensor | None) -> Tensor:
    """Divide by 2^fraction_bits and apply the overflow policy."""
    fmt = rounding.format
    unit = math.ldexp(1.0, -fmt.fraction_bits)
    if rounding.mode == "toward_zero" and rounding.overflow != "saturate":
        finite = rounded.mul_(unit).clamp_(-fmt.largest, fmt.largest)
        beyond = x if rounding.overflow == "infinity" else torch.full_like(x, math.nan)
        return _store(torch.where(torch.isinf(x), beyond, finite), out)
    if rounding.overflow == "saturate":
        return torch.clamp(rounded.mul_(unit), -fmt.largest, fmt.largest, out=out)
    if rounding.overflow == "infinity":
        # up, so that numbers beyond the format are beyond the tensor's dtype, too, and down again
        room = math.ldexp(1.0, (1 << (_LAYOUT[x.dtype][0] - 1)) - 1 - fmt.max_exponent)
        return torch.mul(rounded.mul_(unit * room), 1 / room, out=out)
    rounded = rounded.mul_(unit)
    return _store(torch.where(rounded.abs() > fmt.largest, math.nan, rounded), out)


def _store(result: Tensor, out: Tensor | None) -> Tensor:
    return result if out is None else out.copy_(result)


def _floats(buffer: Tensor | None, x: Tensor) -> Tensor | None:
    return None if buffer is None else buffer.view(x.dtype)


def _random_bits(x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Whole numbers uniform in [0, 2^count)."""
    return torch.randint(
        0, 1 << count, x.shape, dtype=INTEGERS[x.dtype], device=x.device, generator=generator
    )
