"""Weights and state of an optimizer as they were, for a step that turns out bad when it has begun already."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def is_lbfgs(optimizer: Optimizer) -> bool:
    """One step of it may be all of a training, and it may have its closure's value as often as it likes."""
    return isinstance(optimizer, torch.optim.LBFGS)


def may_evaluate_again(optimizer: Optimizer) -> bool:
    """Whether weights may have moved before a later closure call; only LBFGS of torch's own does that."""
    cls = type(optimizer)
    return is_lbfgs(optimizer) or not cls.__module__.startswith("torch.optim")


def snapshot(optimizer: Optimizer) -> Callable[[], None]:
    """Copies of weights and state, taken before the optimizer moves anything; costs their memory for one step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    weights = [p.detach().clone() for p in parameters]
    state = {key: _copied(value) for key, value in optimizer.state.items()}

    @torch.no_grad()
    def restore() -> None:
        for parameter, saved in zip(parameters, weights, strict=True):
            parameter.copy_(saved)
        optimizer.state.clear()
        optimizer.state.update(state)

    return restore


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
