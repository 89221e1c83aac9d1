"""PyTorch's ``swap_tensors`` refuses tensors that have weak references: halfstep drops its own before a swap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.patches import Patches


def before_swap(let_go: Callable[[Tensor], object], patches: Patches) -> None:
    """Call ``let_go``, which drops weak references, with each of two tensors that are about to be swapped."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def swap_tensors(t1: Tensor, t2: Tensor) -> Any:
            let_go(t1)
            let_go(t2)
            return original(t1, t2)

        return swap_tensors

    patches.wrap(torch.utils, "swap_tensors", wrap)
