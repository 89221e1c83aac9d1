"""``bf16-lean:states=8bit``: an optimizer's moments are 8-bit numbers between steps, 256 of them with one fp32 scale.

torchao's own class for the state of 8-bit optimizers holds and rounds them, each to the nearest of 256 numbers
(arXiv 2110.02861). As in torchao's optimizers, the state of a small weight stays fp32, and that of a weight whose
numbers 256 does not divide. A state dict has fp32 numbers, which load without torchao.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Any

import torch
from torch import Tensor

from halfstep.errors import UsageError
from halfstep.pytorch.lean.split import CHUNK
from halfstep.pytorch.lean.states import NarrowStates

#: state that 8 bits can hold, by the names of torch.optim, and whether it has a sign: sums that only grow would stop
MOMENTS = {
    "exp_avg": True, "momentum_buffer": True, "exp_avg_sq": False, "max_exp_avg_sq": False, "square_avg": False
}  # fmt: skip

#: numbers of one scale
BLOCK = 256

#: as torchao has it
SMALLEST = 4096


class EightBitStates(NarrowStates):
    """Keeps moments in 8 bits between steps. Raises UsageError if torchao is not installed."""

    saved_narrow = False

    def __init__(self) -> None:
        if importlib.util.find_spec("torchao") is None:
            raise UsageError(
                "Option 'states=8bit' needs torchao, which is not installed; run pip install torchao, or write "
                "states=bf16."
            )

    def rows_together(self, weight: Tensor) -> int:
        """Rows whose numbers are whole blocks."""
        return BLOCK // math.gcd(BLOCK, weight.shape[1:].numel())

    def is_narrow(self, state: Tensor) -> bool:
        """Whether it is in 8 bits."""
        return type(state) is not Tensor and isinstance(state, _kind())

    def narrow(self, key: str, wide: Tensor, like: Tensor) -> Tensor | None:
        """8-bit memory for the moments of a weight that is large enough."""
        fits = like.numel() >= SMALLEST and like.numel() % BLOCK == 0
        if key not in MOMENTS or wide.dtype is not torch.float32 or not fits:
            return None
        made: Tensor = _kind().zeros(like.shape, MOMENTS[key], BLOCK, device=like.device)
        return made

    def wide(self, state: Tensor) -> Tensor:
        """What torchao makes of the 8-bit numbers and their scales."""
        return state.dequantize()

    def write(self, wide: Tensor, weight: Tensor, state: Tensor, key: str, begin: int) -> None:
        """Round fp32 rows, some at a time: torchao's rounding takes many times their memory."""
        together = self.rows_together(state)
        rows = max(1, CHUNK // (together * state.shape[1:].numel())) * together
        for first in range(0, wide.shape[0], rows):
            some = wide[first : first + rows]
            state[begin + first : begin + first + some.shape[0]].copy_(some.contiguous())


@functools.cache
def _kind() -> Any:
    """torchao's class, which can be copied from now on."""
    from torchao.optim.subclass_8bit import OptimState8bit

    def clone(func: object, types: object, args: Any, kwargs: object) -> Any:
        one = args[0]
        return OptimState8bit(
            one.codes.clone(), one.scale.clone(), one.qmap.clone(), one.signed, dtype=one.dtype
        )

    OptimState8bit.implements(torch.ops.aten.clone.default)(clone)
    return OptimState8bit
