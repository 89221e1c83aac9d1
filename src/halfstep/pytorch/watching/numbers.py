"""How large the numbers of a tensor are: exact counts by exponent, made in the cheapest way that PyTorch has.

A histogram of binary exponents answers for every format, and for every loss scale 2^k (a shift by k bins), what
would be flushed to zero, become subnormal or overflow (Micikevicius et al. 2018, figures 2 and 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfstep.record.watched import NumberCounts

#: in a larger tensor only every k-th block is counted
LARGEST_COUNTED = 1 << 15
_BLOCK = 4096
_CHUNK = 1 << 18
_BIAS = 127
_NOT_FINITE = 255


#: the least fraction bits of binary32 with which a number rounds up out of its binade in a format; with the format's
#: largest exponent it overflows (fp16: from 65520 on). A number that does so in fp16 does so in bf16.
_TOPS = {name: ((1 << digits) - 1) << (23 - digits) for name, digits in (("fp16", 11), ("bf16", 8))}

#: the edges that a number of each kind of :func:`_bins` counts for
_EDGES = ((), ("powers",), ("bf16",), ("bf16", "fp16"))


@dataclass(frozen=True)
class Histogram:
    """Counts by binary exponent."""

    #: counts by the exponent field of binary32, if not zero: 0 stands for zeros (and subnormal numbers of binary32),
    #: 255 for infinities and NaN, e + 127 for the numbers in [2^e, 2^(e+1))
    exponents: dict[int, int]
    #: by exponent, how many numbers are powers of two (``powers``), such as half of the smallest subnormal number, and
    #: how many round up out of their binade in a format (by its name): there rounding decides
    edges: dict[str, dict[int, int]]


def histogram(tensor: Tensor) -> Histogram:
    """Count the tensor's numbers by exponent. It takes a few passes over memory; on a GPU it synchronises."""
    flat = tensor.detach().reshape(-1)
    counts = torch.zeros(1024, dtype=torch.int64, device=flat.device)
    for chunk in flat.split(_CHUNK):
        counts += torch.bincount(_bins(chunk), minlength=1024)
    some = counts.nonzero().reshape(-1)
    exponents: dict[int, int] = {}
    edges: dict[str, dict[int, int]] = {"powers": {}, "fp16": {}, "bf16": {}}
    for place, count in zip(some.tolist(), counts[some].tolist(), strict=True):
        field, kind = divmod(place, 4)
        exponents[field] = exponents.get(field, 0) + count
        for name in _EDGES[kind] if 0 < field < _NOT_FINITE else ():
            edges[name][field - _BIAS] = edges[name].get(field - _BIAS, 0) + count
    return Histogram(exponents, edges)


def _bins(chunk: Tensor) -> Tensor:
    """4 × exponent field, + 1 for powers of two, + 2 for numbers that round up in bf16, + 3 for those also in fp16."""
    bits = chunk.to(torch.float32).contiguous().view(torch.int32)
    fractions = bits & 0x7FFFFF
    bins = (bits >> 21) & 0x3FC
    bins += fractions == 0
    bins += (fractions >= _TOPS["bf16"]) * 2
    bins += fractions >= _TOPS["fp16"]
    return bins


def largest(tensor: Tensor) -> float:
    """The largest magnitude; NaN where there is a NaN. The tensor is not empty."""
    tensor = tensor.detach()
    # PyTorch has casts for 8-bit numbers, and hardly any arithmetic.
    low, high = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    ends = torch.stack([low, high]).double().abs()
    return float(ends.max())


def thinned(tensor: Tensor) -> Tensor:
    """The tensor; for a large one every k-th block of its memory."""
    if tensor.numel() <= LARGEST_COUNTED:
        return tensor
    flat = tensor.detach().reshape(-1)
    blocks = flat[: len(flat) // _BLOCK * _BLOCK].view(-1, _BLOCK)
    return blocks[:: -(-tensor.numel() // LARGEST_COUNTED)]


class Tally(NumberCounts):
    """Counts of the numbers of one kind in one module during a step; ``edges`` as in :class:`Histogram`."""

    def add(self, tensor: Tensor, dtype: str, scale: float = 1.0) -> None:
        """Add a tensor's numbers, divided by the power of two ``scale``."""
        if not tensor.numel():
            return
        with torch._C._AutoDispatchBelowAutograd():
            self._add(tensor.detach(), scale)
        self.dtype, self.scale = dtype, scale

    def _add(self, tensor: Tensor, scale: float) -> None:
        part = thinned(tensor)
        shift = 0 if scale == 1.0 else int(torch.frexp(torch.tensor(scale, dtype=torch.float64))[1]) - 1
        seen = histogram(part)
        for index, count in seen.exponents.items():
            key = index - _BIAS - (shift if 0 < index < _NOT_FINITE else 0)
            self.counts[key] = self.counts.get(key, 0) + count
        for name, found in seen.edges.items():
            kept = self.edges.setdefault(name, {})
            for exponent, count in found.items():
                kept[exponent - shift] = kept.get(exponent - shift, 0) + count
        top = largest(tensor) / scale
        if top - top == 0:
            self.largest = max(self.largest, top)
        self.elements += tensor.numel()
        self.counted += part.numel()

    def fields(self) -> dict[str, object]:
        """The fields of the record's event."""
        return {
            "counts": {str(key): count for key, count in sorted(self.counts.items())},
            "edges": {n: {str(e): c for e, c in sorted(found.items())} for n, found in self.edges.items()},
            "largest": self.largest,
            "elements": self.elements,
            "counted": self.counted,
            "dtype": self.dtype,
            "scale": self.scale,
        }
