"""Tells a scaler that gradients were clipped while they were scaled still."""

from __future__ import annotations

import functools
import weakref
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad
from torch.optim import Optimizer

#: a parameter of the latest ``clip_grad_norm_``
_latest: weakref.ref[Tensor] | None = None


def watch() -> None:
    """Look in at ``clip_grad_norm_`` from now on, also where a program has imported its name already."""
    inner = getattr(clip_grad, "_clip_grads_with_norm_", None)  # PyTorch's own; without it nothing is noticed
    if inner is None or hasattr(inner, "_watched"):
        return

    @functools.wraps(inner)
    def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        global _latest
        tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        _latest = weakref.ref(tensors[0]) if tensors else None
        return inner(tensors, *args, **kwargs)

    clip._watched = True  # type: ignore[attr-defined]
    clip_grad._clip_grads_with_norm_ = clip


def clipped(optimizer: Optimizer) -> bool:
    """Whether the latest clipping was of this optimizer's gradients, and was not forgotten."""
    parameter = _latest() if _latest is not None else None
    return parameter is not None and any(p is parameter for g in optimizer.param_groups for p in g["params"])


def forget() -> None:
    """What was clipped until now was not scaled."""
    global _latest
    _latest = None
