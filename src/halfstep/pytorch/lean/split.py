"""Splits an fp32 tensor into a bf16 tensor and an int16 tensor of remainders, and joins them again, exactly.

The bf16 number is the fp32 one rounded to nearest, halves away from zero. Of the fp32 number's bits u it is
(u + 0x8000) >> 16, and the lower half of u, as a signed number, is the remainder: u = (bf16 << 16) + remainder. Rounded
half to even, 65537 fp32 numbers would become one bf16 number, and no 16-bit remainder could tell them apart.

Every number comes back bit for bit: subnormal numbers, both zeros, infinities, and numbers so large that their bf16
number is infinity. A NaN stays a NaN and keeps its payload; a signalling one becomes quiet, as in any arithmetic.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfstep.pytorch.native.builder import FOLDER, library

SOURCE = FOLDER / "remainders.c"

#: how many elements PyTorch's operations split or join at a time, which keeps intermediate results small
CHUNK = 1 << 18

_HALF, _QUIET = 0x8000, 0x40


@dataclass(frozen=True, eq=False)
class Parts:
    """A tensor's numbers in two tensors of 16 bits, of one shape and with the same strides."""

    weight: Tensor  #: bf16
    remainder: Tensor  #: int16

    @classmethod
    def like(cls, weight: Tensor) -> Parts:
        """A bf16 tensor and remainders of zero."""
        return cls(weight, torch.zeros_like(weight, dtype=torch.int16))

    def empty(self) -> Tensor:
        """An fp32 tensor of the same shape and strides, for :func:`join`; its numbers are not set."""
        return torch.empty_like(self.weight, dtype=torch.float32)


def split(wide: list[Tensor], parts: list[Parts]) -> None:
    """Write fp32 tensors into ``parts``, one for each. The first call may compile, for a second."""
    _each(_split, wide, parts, joins=False)


def join(parts: list[Parts], wide: list[Tensor]) -> None:
    """Write ``parts`` into fp32 tensors, one for each. The first call may compile, for a second."""
    _each(_join, wide, parts, joins=True)


class Remainders:
    """The form of weights that are bf16 numbers with remainders.

    Attributes:
        exact: whether an fp32 number comes back as it was.
    """

    exact = True

    def parts(self, weight: Tensor) -> Parts:
        """Parts around an empty bf16 tensor."""
        return Parts.like(weight)

    def rows(self, parts: Parts, begin: int, end: int) -> Parts:
        """The parts of some rows, in the same memory."""
        return Parts(parts.weight[begin:end], parts.remainder[begin:end])

    def split(self, wide: list[Tensor], parts: list[Parts]) -> None:
        """Write fp32 tensors into parts."""
        split(wide, parts)

    def advance(self, parts: Iterable[Parts]) -> None:
        """Nothing: the next step needs no other random bits."""

    def resume(self, parts: Parts, steps: Tensor | int) -> None:
        """Nothing: there are no random bits."""

    def join(self, parts: list[Parts], wide: list[Tensor]) -> None:
        """Write parts into fp32 tensors."""
        join(parts, wide)


class _Tensor(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "remainder", "wide")),
        ("n", ctypes.c_int64),
    ]


def _each(
    eager: Callable[[Tensor, Tensor, Tensor], None], wide: list[Tensor], parts: list[Parts], joins: bool
) -> None:
    native, rows = kernels(), []
    for x, part in zip(wide, parts, strict=True):
        dense = _are_dense(x, part)
        if native is not None and dense and x.is_cpu:
            places = (part.weight.data_ptr(), part.remainder.data_ptr(), x.data_ptr())
            rows.append(_Tensor(*places, x.numel()))
        else:
            for chunk in _chunks(x, part, dense):
                eager(*chunk)
    if native is not None and rows:
        native.hs_remainders((_Tensor * len(rows))(*rows), len(rows), joins, torch.get_num_threads())


def _are_dense(x: Tensor, part: Parts) -> bool:
    """Whether all three lie in memory in the same order, without gaps."""
    if not part.weight.stride() == x.stride() == part.remainder.stride():
        return False
    return is_dense(x)


def is_dense(x: Tensor) -> bool:
    """Whether the numbers of ``x`` lie in memory without gaps, each once."""
    return x.is_contiguous() or torch._debug_has_internal_overlap(x) == 0


def _chunks(x: Tensor, part: Parts, dense: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The fp32 numbers, bf16 numbers and remainders, some elements at a time; tensors with gaps as a whole."""
    if not dense:
        yield x, part.weight, part.remainder
        return
    flat = [t.as_strided((t.numel(),), (1,)) for t in (x, part.weight, part.remainder)]
    yield from zip(*(t.split(CHUNK) for t in flat), strict=True)


def _split(wide: Tensor, weight: Tensor, remainder: Tensor) -> None:
    bits = wide.view(torch.int32)
    high = bits.add(_HALF).bitwise_right_shift_(16)
    high = torch.where(wide.isnan(), bits.bitwise_right_shift(16).bitwise_or_(_QUIET), high)
    weight.view(torch.int16).copy_(high)
    remainder.copy_(bits)  # its lower half


def _join(wide: Tensor, weight: Tensor, remainder: Tensor) -> None:
    low = remainder.to(torch.int32)
    low = torch.where(weight.isnan(), low.bitwise_and(0xFFFF), low)
    high = weight.view(torch.int16).to(torch.int32).bitwise_left_shift_(16)
    torch.add(high, low, out=wide.view(torch.int32))


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled pass, or None where it cannot be had."""
    found = library(SOURCE)
    if found is not None:
        found.hs_remainders.restype = None
        found.hs_remainders.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)
    return found
