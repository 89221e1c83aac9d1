"""16-bit tensors that a recipe made and that leave PyTorch, for NumPy or by DLPack, leave it as float32 copies.

NumPy has no bf16 (``TypeError``), and its sums of fp16 overflow. What a model returns is fp32 already; this is for code
inside a region, and for programs whose region lasts to the backward pass. Such a copy shares no memory with its tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.patches import Patches


def widen(dtype: torch.dtype, made_here: Callable[[], bool], patches: Patches) -> None:
    """Wrap the ways out of PyTorch.

    Args:
        dtype: the recipe's 16-bit dtype.
        made_here: tells whether 16-bit tensors that this thread holds may be the recipe's.
        patches: where the replaced methods are remembered.
    """

    def widening(original: Callable[..., Any]) -> Callable[..., Any]:
        def leave(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if tensor.dtype is dtype and made_here():
                tensor = tensor.float()
            return original(tensor, *args, **kwargs)

        return leave

    for name in ("numpy", "__dlpack__"):
        patches.wrap(Tensor, name, widening)
