"""``tensor.data = data`` that keeps the tensor's AccumulateGrad node although the dtype changes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from torch import Tensor

from halfstep.pytorch.native.builder import FOLDER, library

SOURCE = FOLDER / "set_data.cpp"


@functools.cache
def data_setter() -> Callable[[Tensor, Tensor], None] | None:
    """A function that sets ``tensor.data`` and keeps hooks on the AccumulateGrad node; None without a compiler.

    The first call may compile, for a second.
    """
    found = library(SOURCE, ctypes.PyDLL)
    if found is None:
        return None
    function = found.hs_set_data
    function.restype, function.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p)

    def set_data(tensor: Tensor, data: Tensor) -> None:
        if function(tensor._cdata, data._cdata):
            raise RuntimeError(f"PyTorch refuses data of {data.dtype} to a tensor of {tensor.dtype}.")

    return set_data
