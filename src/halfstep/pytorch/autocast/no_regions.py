"""What a recipe that needs no autocast does at the moments of training: nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from halfstep.pytorch.patches import Patches

#: called with a module, its arguments and keyword arguments; returns the arguments to call it with
Entered = Callable[[nn.Module, Any, Any], tuple[Any, Any]]


class NoRegions:
    """The recipe needs no autocast (``as-is``, 16-bit weights)."""

    dtype: torch.dtype | None = None
    devices: tuple[str, ...] = ()

    def install(self, patches: Patches) -> None:
        """Nothing."""

    def adopt(self, optimizers: Iterable[Optimizer]) -> None:
        """The program made these before."""

    def leave(self) -> None:
        """Nothing."""

    def forget_casts(self) -> None:
        """Nothing."""

    def of_framework(self) -> AbstractContextManager[None]:
        """Nothing to enter."""
        return nullcontext()

    def want(self) -> None:
        """Nothing."""

    def weights_are_narrow(self) -> None:
        """Nothing is promoted."""

    def without_modules(self) -> None:
        """Nothing."""

    def on_entry(self, entered: Entered, opened: Callable[[], None] = lambda: None) -> None:
        """Nothing is entered."""

    def begin_pass(self) -> None:
        """Nothing."""

    def after_pass(self) -> None:
        """Nothing."""

    def after_pass_within(self) -> None:
        """Nothing."""

    def after_step(self) -> None:
        """Nothing."""

    def after_step_by_hand(self) -> None:
        """Nothing."""

    def after_first_step(self, optimizers: Iterable[Optimizer]) -> None:
        """Nothing."""

    def region(self) -> AbstractContextManager[None]:
        """Nothing to enter."""
        return nullcontext()

    def paused(self) -> AbstractContextManager[None]:
        """Nothing to pause."""
        return nullcontext()

    def resumed(self) -> AbstractContextManager[None]:
        """Nothing to resume."""
        return nullcontext()

    def aside(self) -> AbstractContextManager[None]:
        """Nothing to keep away."""
        return nullcontext()
