"""fp32 operands and results of products in memory that is used again: it is still in the CPU's caches.

New memory's lines are fetched before they are written, which took 2 to 4 % of a small GPT's step; large pieces are
asked of the system page by page, which takes more. What they leave between them is hard to use, so that a small GPT's
peak memory falls, too; but what is held on to is held on to in the optimizer's step as well.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

#: elements: a smaller tensor's new memory is in the caches anyway, and a larger one is not to be held on to
SMALLEST, LARGEST = 1 << 14, 1 << 23


class Scratch(threading.local):
    """Each thread's own memory: as much as the largest operands and the largest result took, 32 MB each at most."""

    def __init__(self) -> None:
        self._operands: dict[int, Tensor] = {}
        self._result: Tensor | None = None

    def widened(self, x: Tensor, place: int) -> Tensor:
        """``x.float()``, of x's shape and strides; it holds until the next call for ``place`` in this thread."""
        n = x.numel()
        if not SMALLEST <= n <= LARGEST or not (x.is_contiguous() or (x.ndim > 1 and x.mT.is_contiguous())):
            return x.float()
        memory = self._operands.get(place)
        if memory is None or memory.numel() < n:
            memory = self._operands[place] = _empty(n)
        return memory.as_strided(x.shape, x.stride()).copy_(x)

    def result(self) -> Tensor:
        """For ``out=``, which gives it its shape; it holds until the next call in this thread."""
        if self._result is None:
            self._result = _empty(0)
        return self._result.resize_(0)

    def let_go(self) -> None:
        """The result has been read: hold on to its memory if it is not too large."""
        if self._result is not None and self._result.numel() > LARGEST:
            self._result = None


def _empty(n: int) -> Tensor:
    """fp32 of shape (n,); what is made inside ``inference_mode`` could not be written to outside."""
    with torch.inference_mode(False):
        return torch.empty(n, dtype=torch.float32, device="cpu")
