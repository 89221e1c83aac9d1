"""Where the ``step`` of an optimizer is found: on its class, and in the closures of schedulers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from torch.optim import Optimizer

from halfstep.takeover.patches import descendants


def let_schedulers_call(
    optimizers: Iterable[Optimizer], instead: dict[Callable[..., Any], Callable[..., Any]]
) -> None:
    """Replace the ``step`` that schedulers call: it is in the closure of the ``step`` that they give an optimizer."""
    for optimizer in optimizers:
        for cell in getattr(vars(optimizer).get("step"), "__closure__", None) or ():
            with suppress(ValueError, TypeError):  # an empty cell, or one with something unhashable
                cell.cell_contents = instead.get(cell.cell_contents, cell.cell_contents)


def classes_with_a_wrapped_step() -> list[type[Optimizer]]:
    """The optimizer classes that have an instance: PyTorch has wrapped their step, and will not do it again."""
    return [cls for cls in descendants(Optimizer) if getattr(vars(cls).get("step"), "hooked", False)]
