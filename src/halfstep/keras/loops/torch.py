"""Loops of the script's own on the PyTorch backend: ``loss.backward()`` and the ``apply`` of an optimizer of Keras's.

PyTorch's takeover beneath has scaled the pass and handed out true gradients; here the step is left out where they
are not finite, and recorded. Optimizers of ``torch.optim`` are that takeover's own affair.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from halfstep.keras.recording.recorder import Seen
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]


class EagerLoops:
    """Every optimizer of Keras's outside of Keras's own training.

    Args:
        takeover: Keras's.
        scaling: the loss scale of PyTorch's takeover beneath.
    """

    def __init__(self, takeover: Takeover, scaling: Any) -> None:
        self._takeover = takeover
        self._scaling = scaling
        self._losses: list[Any] = []
        self._torch_steps = 0
        self._applying = False
        self._primary: weakref.ref[Any] | None = None

    @property
    def optimizer(self) -> Any:
        """The optimizer whose steps are counted: the first that ever stepped."""
        return None if self._primary is None else self._primary()

    def install(self, patches: Patches) -> None:
        """Guard and record."""
        patches.wrap(BaseOptimizer, "apply", self._apply)
        patches.wrap(LossScaleOptimizer, "apply", self._apply)

    def about_to_pass(self, outputs: Sequence[Any]) -> None:
        """A backward pass is about to start from ``outputs``; those of several passes add up."""
        scalars = [output.detach() for output in outputs if output.numel() == 1]
        if self._takeover.training:
            self._takeover.saw_pass(scalars)
        elif self._torch_steps == self._takeover.beneath.steps:
            self._losses += scalars
        else:  # those before were of a step of torch.optim
            self._losses, self._torch_steps = scalars, self._takeover.beneath.steps

    def _apply(self, original: Method) -> Method:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if self._takeover.training or self._applying:
                original(optimizer, grads, trainable_variables)
                return
            self._applying = True
            try:
                self._step(optimizer, original, list(grads), trainable_variables)
            finally:
                self._applying = False

        return apply

    def _step(self, optimizer: Any, original: Method, grads: list[Any], variables: Any) -> None:
        scaler, scale = self._takeover.scaler, self._scaling.value
        own = isinstance(optimizer, LossScaleOptimizer)
        if own:
            found = scaler.scale_of(optimizer)
            scaler.finite, scale = None, 1.0 if found is None else float(found)
        finite = True
        if self._takeover.recipe.guards and not own:
            # One synchronisation, as PyTorch's own GradScaler has.
            finite = all(bool(torch.isfinite(g).all()) for g in grads if g is not None)
            self._scaling.stepped(finite, self._takeover.steps)
            self._takeover.statistics.restore(finite)
        if finite:
            original(optimizer, grads, variables)
        if own and scaler.finite is not None:
            finite = bool(scaler.finite)
        if not own:
            self._takeover.loop_goes_on()
        self._takeover.loop_begins()
        self._takeover.beneath.stepped()
        if self.optimizer is None:
            self._primary = weakref.ref(optimizer)
        if self.optimizer is optimizer:
            losses, self._losses = self._losses, []
            loss = torch.stack([x.double().reshape(()) for x in losses]).sum() if losses else None
            self._takeover.progress.loop_stepped([Seen(loss, scale, finite)])
