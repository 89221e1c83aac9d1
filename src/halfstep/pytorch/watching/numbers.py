"""How large the numbers of a tensor are: counts by exponent, exact, in the cheapest way that PyTorch has.

A histogram of binary exponents answers for every format, and for every loss scale 2^k (a shift by k bins), what
would be flushed to zero, become subnormal or overflow (Micikevicius et al. 2018, figures 2 and 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: of a larger tensor every k-th block is counted
LARGEST_COUNTED = 1 << 16
_BLOCK = 4096
_CHUNK = 1 << 18
_BIAS = 127
_NOT_FINITE = 255


def exponents(tensor: Tensor) -> list[int]:
    """256 counts by the exponent field of binary32: 0 holds zeros (and what binary32 has as subnormal), 255
    infinities and NaN, e + 127 the numbers in [2^e, 2^(e+1)). One pass over memory; on a GPU it synchronises.
    """
    flat = tensor.detach().reshape(-1)
    counts = torch.zeros(256, dtype=torch.int64, device=flat.device)
    for chunk in flat.split(_CHUNK):
        counts += torch.bincount(_fields(chunk), minlength=256)
    found: list[int] = counts.tolist()
    return found


def _fields(chunk: Tensor) -> Tensor:
    """The exponent fields, uint8; bf16 is the upper half of binary32, whose upper halves are read, too."""
    if chunk.dtype is torch.bfloat16:
        upper = chunk.contiguous().view(torch.int16)
    else:
        upper = chunk.to(torch.float32).contiguous().view(torch.int16)[1::2]
    return ((upper >> 7) & 255).to(torch.uint8)


#: formats -> what a fraction of binary32 is at least in a number that rounds up out of its binade: with the largest
#: exponent of the format it overflows (fp16: from 65520 on)
_TOPS = {name: ((1 << digits) - 1) << (23 - digits) for name, digits in (("fp16", 11), ("bf16", 8))}


def edges(tensor: Tensor) -> dict[str, dict[int, int]]:
    """Where rounding decides within a binade: by exponent, how many numbers are powers of two (``powers``), half of the
    smallest subnormal among them, and how many round up out of their binade in a format (by its name)."""
    bits = tensor.detach().reshape(-1).to(torch.float32).contiguous().view(torch.int32)
    fields, fractions = (bits >> 23) & 255, bits & 0x7FFFFF
    masks = {"powers": fractions == 0} | {name: fractions >= least for name, least in _TOPS.items()}
    found = {}
    for name, mask in masks.items():
        counts = torch.bincount(fields[mask], minlength=256).tolist()
        found[name] = {n - _BIAS: c for n, c in enumerate(counts) if c and 0 < n < _NOT_FINITE}
    return found


def largest(tensor: Tensor) -> float:
    """The largest magnitude; NaN where there is a NaN. The tensor is not empty."""
    low, high = torch.aminmax(tensor.detach())
    ends = torch.stack([low, high]).double().abs()
    return float(ends.max())


def thinned(tensor: Tensor) -> Tensor:
    """The tensor, or of a large one every k-th block of its memory."""
    if tensor.numel() <= LARGEST_COUNTED:
        return tensor
    flat = tensor.detach().reshape(-1)
    blocks = flat[: len(flat) // _BLOCK * _BLOCK].view(-1, _BLOCK)
    return blocks[:: -(-tensor.numel() // LARGEST_COUNTED)]


@dataclass
class Tally:
    """Numbers of one kind in one module, over a step.

    Attributes:
        counts: how many by exponent; the key -127 stands for zeros, 128 for what is not finite.
        edges: as :func:`edges`; with ``counts`` they tell exactly what 16-bit formats flush, and what overflows.
        largest: the largest finite magnitude.
        elements: how many there were; ``counted`` of them were looked at.
        dtype: the format that they are stored in.
        scale: they were multiplied by this (the loss scale); the exponents have it taken off.
    """

    counts: dict[int, int] = field(default_factory=dict)
    largest: float = 0.0
    elements: int = 0
    counted: int = 0
    dtype: str = ""
    scale: float = 1.0
    edges: dict[str, dict[int, int]] = field(default_factory=dict)

    def add(self, tensor: Tensor, dtype: str, scale: float = 1.0) -> None:
        """Count a tensor's numbers in; ``scale`` is a power of two."""
        if not tensor.numel():
            return
        with torch._C._AutoDispatchBelowAutograd():
            self._add(tensor.detach(), scale)
        self.dtype, self.scale = dtype, scale

    def _add(self, tensor: Tensor, scale: float) -> None:
        part = thinned(tensor)
        shift = 0 if scale == 1.0 else int(torch.frexp(torch.tensor(scale, dtype=torch.float64))[1]) - 1
        for index, count in enumerate(exponents(part)):
            if count:
                key = index - _BIAS - (shift if 0 < index < _NOT_FINITE else 0)
                self.counts[key] = self.counts.get(key, 0) + count
        for name, found in edges(part).items():
            kept = self.edges.setdefault(name, {})
            for exponent, count in found.items():
                kept[exponent - shift] = kept.get(exponent - shift, 0) + count
        top = largest(tensor) / scale
        if top - top == 0:
            self.largest = max(self.largest, top)
        self.elements += tensor.numel()
        self.counted += part.numel()

    def fields(self) -> dict[str, Any]:
        """As a record has it."""
        return {
            "counts": {str(key): count for key, count in sorted(self.counts.items())},
            "edges": {n: {str(e): c for e, c in sorted(found.items())} for n, found in self.edges.items()},
            "largest": self.largest,
            "elements": self.elements,
            "counted": self.counted,
            "dtype": self.dtype,
            "scale": self.scale,
        }
