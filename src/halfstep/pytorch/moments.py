"""The moments of a training: what the code around passes and steps tells the takeover that put it in force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

from halfstep.pytorch.loss_scaling.pass_gradients import Reached
from halfstep.pytorch.loss_scaling.pending_flag import Verdict


class Moments:
    """Nothing is done at any of them by itself."""

    @property
    def steps(self) -> int:
        """Optimizer steps so far."""
        return 0

    def scaled_by_hand(self, text: str) -> None:
        """A loss has a factor that is taken for a loss scale of the script's, in words."""

    def before_backward(self, outputs: Sequence[Tensor | GradientEdge], factor: float = 1.0) -> None:
        """A backward pass of the script's is about to start. Of a gradient edge the loss is not known.

        Args:
            outputs: what it starts from.
            factor: a loss scale of the script's own, which is no part of the loss that is recorded.
        """

    def begin_pass(self) -> None:
        """Gradients are about to be computed, by ``backward`` or ``autograd.grad``."""

    def passed_by(self, reached: Reached) -> None:
        """A scaled pass is over."""

    def after_backward(self) -> None:
        """A backward pass of the script's is over."""

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step, or to be kept from it."""

    def after_step(self, optimizer: Optimizer, verdict: bool | Verdict) -> None:
        """An optimizer has stepped, or was kept from it, or (a verdict that is not read yet) kept itself from it."""

    def manual_pass(self) -> None:
        """``autograd.grad`` has made gradients that the script may update weights by."""

    def manual_losses(self, losses: list[Tensor]) -> None:
        """A step without an optimizer is about to be counted, whose gradients are of ``losses``."""

    def after_manual_step(self, by: Any, finite: bool) -> None:
        """The script has updated weights without an optimizer; where gradients were not ``finite`` they are zero."""

    def restart(self, drops: str) -> None:
        """What was taken for steps so far was none: a warm-up, before there was an optimizer; nor is ``drops`` true."""

    def end_if_enough(self) -> None:
        """Raise EnoughSteps where ``--steps`` have been made."""

    def write(self, event: str, **fields: Any) -> None:
        """Write an event to the record, after the steps that came before it."""
