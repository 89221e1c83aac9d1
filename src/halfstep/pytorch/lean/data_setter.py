"""``tensor.data = data`` that leaves the tensor's AccumulateGrad node, though the dtype becomes another one."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from torch import Tensor

from halfstep.pytorch.native.builder import FOLDER, library

SOURCE = FOLDER / "set_data.cpp"


@functools.cache
def data_setter() -> Callable[[Tensor, Tensor], None] | None:
    """As ``tensor.data = data``, but hooks on the tensor's AccumulateGrad node stay; None without a compiler.

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
