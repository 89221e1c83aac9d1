"""Loops of the script's own on the PyTorch backend: ``loss.backward()`` and the ``apply`` of an optimizer of Keras's.

PyTorch's takeover, which works below Keras's, has scaled the pass and unscaled the gradients. Here a step whose
gradients are not finite is left out, and every step is recorded. Optimizers of ``torch.optim`` are left to PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from halfstep.keras.loops.base import OwnLoop, Parts
from halfstep.keras.recording.watched_torch import WatchedSteps
from halfstep.keras.step import Seen
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.recording.recorder import NullRecorder
from halfstep.pytorch.watching.watch import NullWatch, Watch
from halfstep.takeover.patches import Patches


class TorchLoop(OwnLoop):
    """Steps that are made eagerly.

    Args:
        scaling: the loss scale of PyTorch's takeover.
        recorder: counts the steps of ``torch.optim``, and collects losses for them.
        watch: looks at the numbers of a training.
    """

    def __init__(self, parts: Parts, scaling: Scaling, recorder: NullRecorder, watch: NullWatch) -> None:
        super().__init__(parts)
        self._watch = watch
        self._scaling = scaling
        self._recorder = recorder
        self._losses: list[Any] = []
        self._torch_steps = 0

    def install(self, patches: Patches) -> None:
        patches.wrap(BaseOptimizer, "apply", self._outermost(self._guarded))
        patches.wrap(LossScaleOptimizer, "apply", self._outermost(self._by_itself))
        if isinstance(self._watch, Watch):
            WatchedSteps(self._watch, self._runtime).install(
                patches
            )  # around the guard, for steps it leaves out

    def before_backward(self, outputs: Sequence[Any]) -> None:
        """A backward pass is about to start from ``outputs``; the losses of several passes before one step add up."""
        losses = [output.detach() for output in outputs if output.numel() == 1]
        if self._step.training:
            self._step.pass_begins(losses)
        elif self._torch_steps == self._recorder.steps:
            self._losses += losses
        else:  # the losses so far were for a step of torch.optim
            self._losses, self._torch_steps = losses, self._recorder.steps

    def _guarded(
        self, optimizer: Any, apply: Callable[[], None], grads: Sequence[Any], variables: Any
    ) -> None:
        scale, finite = self._scaling.value, True
        if self._guards:
            # One synchronisation, as PyTorch's own GradScaler has.
            finite = bool(self._runtime.all_finite(grads))
            self._scaling.stepped(finite, self._progress.steps)
            self._statistics.restore(finite)
        if finite:
            apply()
        self._statistics.keep()
        self._stepped(optimizer, scale, finite)

    def _by_itself(
        self, optimizer: Any, apply: Callable[[], None], grads: Sequence[Any], variables: Any
    ) -> None:
        """A LossScaleOptimizer that the script made skips bad steps by itself."""
        scale = self._scaler.scale_of(optimizer)
        scale = 1.0 if scale is None else float(scale)
        self._step.begin_apply()
        apply()
        finite = self._step.finite
        self._stepped(optimizer, scale, finite is None or bool(finite))

    def _stepped(self, optimizer: Any, scale: float, finite: bool) -> None:
        self.stepped = True
        self._recorder.forget_passes()
        if self._is_primary(optimizer):
            losses, self._losses = self._losses, []
            loss = torch.stack([x.double().reshape(()) for x in losses]).sum() if losses else None
            self._progress.loop_stepped([Seen(loss, scale, finite)], optimizer)
