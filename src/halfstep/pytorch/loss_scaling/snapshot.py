"""Copies of an optimizer's weights and state, for a step that turns out to be bad after it has begun."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def is_lbfgs(optimizer: Optimizer) -> bool:
    """Whether it is LBFGS, which may evaluate its closure many times, and make a whole training of one step."""
    return isinstance(optimizer, torch.optim.LBFGS)


def may_evaluate_again(optimizer: Optimizer) -> bool:
    """Whether it may call its closure again after weights have moved; of torch's own optimizers only LBFGS does."""
    cls = type(optimizer)
    return is_lbfgs(optimizer) or not cls.__module__.startswith("torch.optim")


def snapshot(optimizer: Optimizer) -> Callable[[], None]:
    """Copy weights and state before the optimizer moves anything; it takes their memory for one step.

    Returns:
        What restores them.
    """
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
