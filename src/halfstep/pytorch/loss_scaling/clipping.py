"""Lets a scaler notice that gradients were clipped while they were still scaled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.utils import clip_grad
from torch.optim import Optimizer


class Clipping(NamedTuple):
    """A call of one of PyTorch's two clipping functions."""

    function: str
    limit: str  #: the name of the argument that would have to be scaled, too
    #: the id of a parameter whose gradient was clipped; PyTorch would not swap one with a weak reference
    parameter: int


_latest: Clipping | None = None


def watch() -> None:
    """Follow the two functions from now on, also where a program has imported their names already.

    So the functions they call are wrapped. In versions of PyTorch where they call others, nothing is noticed.
    """
    by_norm = getattr(clip_grad, "_clip_grads_with_norm_", None)
    if by_norm is not None and not hasattr(by_norm, "_watched"):
        clip_grad._clip_grads_with_norm_ = _noting(by_norm, "clip_grad_norm_", "max_norm")
    by_value: Any = clip_grad.clip_grad_value_
    inner = getattr(by_value, "__wrapped__", None)
    for cell in by_value.__closure__ or ():
        if cell.cell_contents is inner and inner is not None and not hasattr(inner, "_watched"):
            cell.cell_contents = by_value.__wrapped__ = _noting(inner, "clip_grad_value_", "clip_value")


def _noting(inner: Callable[..., Any], function: str, limit: str) -> Any:
    @functools.wraps(inner)
    def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        global _latest
        tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        _latest = Clipping(function, limit, id(tensors[0])) if tensors else None
        return inner(tensors, *args, **kwargs)

    clip._watched = True  # type: ignore[attr-defined]
    return clip


def clipped(optimizer: Optimizer) -> Clipping | None:
    """The latest clipping, if it clipped this optimizer's gradients and was not forgotten."""
    if _latest is None:
        return None
    return (
        _latest
        if any(id(p) == _latest.parameter for g in optimizer.param_groups for p in g["params"])
        else None
    )


def forget() -> None:
    """Forget the latest clipping: its gradients were not scaled."""
    global _latest
    _latest = None
