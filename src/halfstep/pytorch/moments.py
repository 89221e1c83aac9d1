"""The moments of a training, as the code around backward passes and steps reports them to the takeover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

from halfstep.pytorch.loss_scaling.pass_gradients import PassGradients
from halfstep.pytorch.loss_scaling.pending_flag import Verdict


class Moments:
    """The moments; each does nothing by default."""

    @property
    def steps(self) -> int:
        """Optimizer steps so far."""
        return 0

    def scaled_by_hand(self, text: str) -> None:
        """A loss has a factor that looks like a loss scale of the script's own; ``text`` says so."""

    def before_backward(self, outputs: Sequence[Tensor | GradientEdge], factor: float = 1.0) -> None:
        """A backward pass of the script's is about to start.

        Args:
            outputs: what it starts from; for a gradient edge the loss is not known.
            factor: a loss scale of the script's own, which is no part of the loss that is recorded.
        """

    def begin_pass(self) -> None:
        """Gradients are about to be computed, by ``backward`` or ``autograd.grad``."""

    def passed_by(self, pass_gradients: PassGradients) -> None:
        """A scaled pass is over."""

    def after_backward(self) -> None:
        """A backward pass of the script's is over."""

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step, or to be kept from it."""

    def after_step(self, optimizer: Optimizer, verdict: bool | Verdict) -> None:
        """An optimizer has stepped or was kept from it; a verdict that is not read yet will tell which."""

    def manual_pass(self) -> None:
        """``autograd.grad`` has made gradients with which the script may update weights."""

    def manual_losses(self, losses: list[Tensor]) -> None:
        """A step without an optimizer, with the gradients of ``losses``, is about to be counted."""

    def after_manual_step(self, by: Any, finite: bool) -> None:
        """The script has updated weights without an optimizer; gradients that were not ``finite`` were set to zero."""

    def restart(self, drops: str) -> None:
        """The steps so far were a warm-up, before there was an optimizer: they and the note ``drops`` do not count."""

    def end_if_enough(self) -> None:
        """Raise EnoughSteps if as many steps as ``--steps`` asks for have been made."""

    def write(self, event: str, **fields: Any) -> None:
        """Write an event to the record, after the steps that came before it."""
