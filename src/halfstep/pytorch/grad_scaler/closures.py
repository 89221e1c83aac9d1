"""Steps whose closure computes the gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from halfstep.passed_on import Keywords
from halfstep.pytorch.loss_scaling.snapshot import may_evaluate_again, snapshot


class NotFinite(Exception):
    """Raised in a closure to leave the optimizer's step: the gradients are not finite."""


def split_closure(
    args: tuple[Any, ...], kwargs: Keywords
) -> tuple[Callable[[], Any] | None, tuple[Any, ...], Keywords]:
    """The closure, which torch's optimizers take first, and the other arguments."""
    if "closure" in kwargs:
        return kwargs["closure"], args, {key: kwargs[key] for key in kwargs if key != "closure"}
    if args and callable(args[0]):
        return args[0], args[1:], kwargs
    return None, args, kwargs


def step_or_undo(
    optimizer: Optimizer, closure: Callable[[], Any], *args: Any, **kwargs: Any
) -> tuple[bool, Any]:
    """Step ``optimizer``, unless ``closure`` raises NotFinite: then weights and state are as before.

    Returns:
        Whether the step was made; and what ``optimizer.step`` returned, None for a step that was not made.
    """
    undo = snapshot(optimizer) if may_evaluate_again(optimizer) else None
    try:
        return True, optimizer.step(closure, *args, **kwargs)
    except NotFinite:
        if undo is not None:  # else the optimizer evaluates its closure once, before it writes
            undo()
        return False, None
