"""A cast of a whole module to 16 bits (``model.half()``, ``model.to(torch.bfloat16)``) yields to the recipe.

Every such cast, and every move to a device, goes through ``Module._apply(fn)``, where ``fn`` makes a new tensor from
each parameter, gradient and buffer. A tensor that ``fn`` would narrow keeps its values in float32, with the device and
the strides that ``fn`` gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.patches import Patches


def keep_values(
    asked: Callable[[torch.dtype], None], patches: Patches, applied: torch.dtype | None = None
) -> None:
    """Stop applying casts of modules to 16 bits, except casts to ``applied``.

    Args:
        asked: called with the dtype of a cast that is not applied.
        applied: the dtype of weights in the recipe, where that has 16 bits.
    """

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
            if not isinstance(fn, _Unnarrowed):
                fn = _Unnarrowed(fn, asked, applied)
            return original(module, fn, *args, **kwargs)

        return _apply

    patches.wrap(nn.Module, "_apply", wrap)


def sharing(original: Callable[..., Any], convert: Callable[[nn.Module], None]) -> Callable[..., Any]:
    """Convert weights before ``share_memory``: conversion later would move them into one process's own memory."""

    def share_memory(module: nn.Module) -> Any:
        convert(module)
        return original(module)

    return share_memory


class _Unnarrowed:
    """``fn`` without its cast to 16 bits. It is a class because a module passes its ``fn`` on to its children."""

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        asked: Callable[[torch.dtype], None],
        applied: torch.dtype | None,
    ) -> None:
        self._fn = fn
        self._asked = asked
        self._refused = tuple(dtype for dtype in SIXTEEN_BIT if dtype is not applied)

    def __call__(self, tensor: Tensor) -> Tensor:
        made = self._fn(tensor)
        if made.dtype not in self._refused or made.dtype is tensor.dtype or not tensor.is_floating_point():
            return made
        self._asked(made.dtype)
        if is_lazy(tensor):
            return made.to(torch.float32)  # its numbers will be drawn in float32
        if tensor.dtype is torch.float32 and _same_place(made, tensor):
            return tensor
        return torch.empty_like(made, dtype=torch.float32).copy_(tensor)


def _same_place(made: Tensor, tensor: Tensor) -> bool:
    return made.device == tensor.device and made.layout is tensor.layout and made.stride() == tensor.stride()
