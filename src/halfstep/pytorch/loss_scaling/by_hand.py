"""Programs that update their weights by hand, with no optimizer of ``torch.optim``: a step is then a backward pass.

``p.data.add_(p.grad, alpha=-lr)`` leaves nothing to hook into, so the step ends where its gradients are there. It
cannot be kept from being made either: a step that must change nothing (invariant 3) is handed gradients of zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.recording.looking import PROFILED_STEP

if TYPE_CHECKING:
    from halfstep.pytorch.takeover import Takeover

TOLD = "the program has no optimizer of torch.optim: a step is a backward pass"
TOLD_OF_ZEROS = "; one whose gradients are not finite leaves zeros in .grad"


class ByHand:
    """Makes a step of each backward pass, until the program makes an optimizer.

    Attributes:
        active: whether it has made none so far.
        parameters: the leaves that the last pass reached, where anybody needs them: in the early steps that are
            looked at, and where bad steps are to change nothing.
    """

    def __init__(self, takeover: Takeover) -> None:
        self._takeover = takeover
        self._guards = takeover.recipe.guards
        self.active = True
        self.parameters: list[Tensor] = []

    def install(self, patches: Patches) -> None:
        """Notice the first optimizer."""
        patches.wrap(Optimizer, "__init__", self._noticing)

    def _noticing(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def __init__(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            self.active, self.parameters = False, []
            original(optimizer, *args, **kwargs)

        return __init__

    def about_to_pass(self, outputs: Sequence[Tensor | GradientEdge]) -> None:
        """A backward pass is about to start. Raises EnoughSteps where the program has made the last step asked for."""
        if not self.active:
            return
        self._takeover.end_if_enough()
        if self._guards or self._takeover.steps <= PROFILED_STEP:
            self.parameters = leaves_of(outputs)

    def passed(self) -> None:
        """``backward`` has filled ``.grad``."""
        if self.active:
            self._step([p.grad for p in self.parameters if p.grad is not None] if self._guards else [])

    def passed_grad(
        self, outputs: Sequence[Tensor | GradientEdge], gradients: Sequence[Tensor | None]
    ) -> None:
        """``torch.autograd.grad`` has returned ``gradients``, which are of no further graph."""
        if self.active:
            self._takeover.regions.forget_casts()
            self._takeover.recorder.backward([output for output in outputs if isinstance(output, Tensor)])
            self._step([gradient for gradient in gradients if gradient is not None])

    def _step(self, gradients: list[Tensor]) -> None:
        finite = not self._guards or self._takeover.scaling.tested.finite(gradients)
        if self._takeover.steps == 0:
            self._takeover.write("warning", text=TOLD + (TOLD_OF_ZEROS if self._guards else ""))
        if not finite:
            with torch.no_grad():
                torch._foreach_zero_(gradients)
        self._takeover.stepped(finite, counts=True, by=self)
        self._takeover.regions.after_step_by_hand()
