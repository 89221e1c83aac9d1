"""What PyTorch's engine knows of the backward pass that it has begun to execute."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from halfstep.pytorch import native

SOURCE = Path(__file__).with_name("graph_task.cpp")


@functools.cache
def leaves_under_way() -> Callable[[], list[Tensor] | None] | None:
    """A function for hooks: the leaf tensors that the pass under way will accumulate gradients into.

    It returns None outside of a backward pass.

    Returns:
        None where there is no compiler, or a PyTorch that has it otherwise. The first call may compile, for some
        seconds.
    """
    library = native.library(SOURCE, ctypes.PyDLL)
    if library is None:
        return None
    fill = library.hs_leaves
    fill.argtypes = (ctypes.py_object,)

    def leaves() -> list[Tensor] | None:
        found: list[Tensor] = []
        return found if fill(found) == 0 else None

    return leaves
