"""Memory for fp32 operands and results of products that is used again while it is still in the CPU's caches.

A CPU fetches the lines of new memory before it writes them, which took 2 to 4 % of a small GPT's step; large pieces
come from the system page by page, which takes longer. New pieces also leave gaps that are hard to use, so that a small
GPT's peak memory falls, too; but the memory kept here is also kept during the optimizer's step.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

#: elements: new memory of a smaller tensor is in the caches anyway, and memory of a larger one is not kept
SMALLEST, LARGEST = 1 << 14, 1 << 23


class Scratch(threading.local):
    """Each thread's own memory: as much as its largest operands and its largest result took, at most 32 MB each."""

    def __init__(self) -> None:
        self._operands: dict[int, Tensor] = {}
        self._result: Tensor | None = None

    def widened(self, x: Tensor, place: int) -> Tensor:
        """``x.float()`` with x's shape and strides, valid until the next call for ``place`` in this thread."""
        n = x.numel()
        if not SMALLEST <= n <= LARGEST or not (x.is_contiguous() or (x.ndim > 1 and x.mT.is_contiguous())):
            return x.float()
        memory = self._operands.get(place)
        if memory is None or memory.numel() < n:
            memory = self._operands[place] = _empty(n)
        return memory.as_strided(x.shape, x.stride()).copy_(x)

    def result(self) -> Tensor:
        """A tensor for ``out=``, which sets its shape; valid until the next call in this thread."""
        if self._result is None:
            self._result = _empty(0)
        return self._result.resize_(0)

    def let_go(self) -> None:
        """The result has been read: keep its memory unless it is too large."""
        if self._result is not None and self._result.numel() > LARGEST:
            self._result = None


def _empty(n: int) -> Tensor:
    """An fp32 tensor of shape (n,), made outside of ``inference_mode``, so that it can be written to anywhere."""
    with torch.inference_mode(False):
        return torch.empty(n, dtype=torch.float32, device="cpu")
