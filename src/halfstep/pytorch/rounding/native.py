"""The rounding kernels in C, as functions of tensors.

If they cannot be compiled (:mod:`halfstep.pytorch.native.builder`), :mod:`halfstep.pytorch.rounding.kernels` does the
same work with PyTorch's operations.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from halfstep.precisions.formats import BlockFormat, Format, Overflow
from halfstep.pytorch.native.builder import FOLDER, library

SOURCE = FOLDER / "rounding.c"

#: with fewer elements a second thread costs more than it saves
_ONE_THREAD = 1 << 15

_OVERFLOW: dict[Overflow, int] = {"saturate": 0, "infinity": 1, "nan": 2}

_pointer, _size, _int, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "hs_round": (None, (_pointer, _pointer, _size, _int, _int, _int, _float, _int, _int)),
    "hs_drop": (None, (_pointer, _pointer, _size, _int, _int, _float, _int)),
    "hs_largest": (_float, (_pointer, _size, _int)),
    "hs_blocks": (
        None,
        (_pointer, _pointer, _size, _size, _size, *(_int,) * 5, _float, _float),
    ),
}


class Kernels:
    """The compiled kernels. Tensors are float32 on the CPU, contiguous; ``out`` may be ``x``."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library

    def round(
        self, x: Tensor, out: Tensor, fmt: Format, overflow: Overflow, shift: int = 0, keep: bool = False
    ) -> None:
        """Round x to nearest even in ``fmt``; ``shift``: round x * 2^shift instead; ``keep``: NaN and infinity stay."""
        n = x.numel()
        name, arguments = _arguments(fmt, overflow, shift, keep)
        getattr(self._library, name)(x.data_ptr(), out.data_ptr(), n, _threads(n), *arguments)

    def largest(self, x: Tensor) -> float:
        """The largest finite magnitude; 0 for an empty tensor."""
        found: float = self._library.hs_largest(x.data_ptr(), x.numel(), _threads(x.numel()))
        return found

    def blocks(self, x: Tensor, out: Tensor, fmt: BlockFormat, axis: int, tensor_scale: float) -> None:
        """Round x in blocks along ``axis``; ``tensor_scale``: for a format with two levels of scales, else 0."""
        axis %= x.dim()
        outer, inner = x.shape[:axis].numel(), x.shape[axis + 1 :].numel()
        element = fmt.element
        self._library.hs_blocks(
            x.data_ptr(), out.data_ptr(), outer, x.shape[axis], inner, _threads(x.numel()), fmt.block,
            element.fraction_bits, element.min_exponent, element.max_exponent, element.largest, tensor_scale,
        )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _arguments(fmt: Format, overflow: Overflow, shift: int, keep: bool) -> tuple[str, tuple[float, ...]]:
    """The kernel for a format, and its arguments."""
    largest = fmt.largest * 2.0**-shift
    if fmt.exponent_bits == 8:
        return "hs_drop", (23 - fmt.fraction_bits, largest, _OVERFLOW[overflow])
    return "hs_round", (fmt.fraction_bits, fmt.min_exponent - shift, largest, _OVERFLOW[overflow], keep)


def _threads(elements: int) -> int:
    return 1 if elements < _ONE_THREAD else torch.get_num_threads()


@functools.cache
def kernels() -> Kernels | None:
    """The compiled kernels, or None without a compiler. The first call may compile for a second or two."""
    found = library(SOURCE)
    return None if found is None else Kernels(found)
