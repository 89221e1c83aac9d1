"""PyTorch under Keras: its own takeover works below Keras's, and its backward passes follow Keras's loss scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from keras.src.backend.torch import numpy as operations
from keras.src.backend.torch.core import convert_to_tensor

from halfstep.keras.backends.base import Backend
from halfstep.keras.recording.sample import Sample
from halfstep.keras.recording.watched_torch import named_layers
from halfstep.precisions.loss_scale import LossScale, NoScale, StaticScale
from halfstep.precisions.recipes import Recipe
from halfstep.pytorch import capabilities
from halfstep.pytorch.recording.products import ProductCounter
from halfstep.pytorch.takeover import Takeover as TakeoverBelow
from halfstep.takeover.base import Options, Takeover
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.loops.base import OwnLoop, Parts


class PyTorch(Backend):
    """Eager steps, whose products and backward passes are PyTorch's takeover's."""

    name = "torch"
    title = "PyTorch"
    version = str(torch.__version__)
    adjacent_steps = True
    product_fields: Mapping[str, object] = {}  # they are in the event of PyTorch's takeover

    def attach(self, others: Sequence[Takeover]) -> None:
        self._below = next(other for other in others if isinstance(other, TakeoverBelow))
        self.emulated = self._below.arithmetic.emulated
        self._scaling = self._below.scaling
        self._before_scaled_loss: LossScale | None = None
        self._before_train_step: LossScale | None = None

    def device(self) -> str:
        return self._below.arithmetic.device

    def best(self) -> tuple[str, str]:
        return capabilities.best()

    def ran_as(self, options: Options) -> str:
        return self._below.arithmetic.ran_as

    def software_formats(self, recipe: Recipe) -> list[str]:
        return self._below.arithmetic.software_formats

    def mix_operands(self, narrow: str, patches: Patches) -> None:
        """Multiply fp16 matrices as such: on a CPU Keras widens them, as for versions of PyTorch without a kernel."""
        if narrow == "float16" and "fp16" not in self._below.arithmetic.software_formats:
            patches.wrap(operations, "matmul", _matmul_of_halves)

    def sample(self) -> Sample:
        return Sample(ProductCounter)

    def own_loop(self, parts: Parts) -> OwnLoop:
        from halfstep.keras.loops.torch import TorchLoop

        self._below.watch.name_parts(named_layers)
        loop = TorchLoop(parts, self._scaling, self._below.recorder, self._below.watch)
        self._below.give_way(loop.before_backward, parts.progress.check_kept)
        return loop

    def all_finite(self, grads: Sequence[Any]) -> Any:
        flags = [torch.isfinite(g).all() for g in grads if g is not None]
        return torch.stack(flags or [torch.tensor(True)]).all()

    def copied(self, value: Any) -> Any:
        return value.detach().clone()

    def loss_scaled(self, scale: Callable[[], Any] | None) -> None:
        """A loss that Keras has scaled must not be scaled again by ``backward``, nor its scale be taken for another."""
        scaled, self._scaling.factor_above = scale is not None, scale
        if scaled and self._before_scaled_loss is None:
            self._before_scaled_loss, self._scaling.loss_scale = self._scaling.loss_scale, NoScale()
        elif not scaled and self._before_scaled_loss is not None:
            self._scaling.loss_scale, self._before_scaled_loss = self._before_scaled_loss, None

    def train_step_scale(self, scale: Any) -> None:
        """``backward`` scales a loss that Keras has not scaled as its optimizer would. One synchronisation."""
        if not self._below.recipe.guards:
            return
        if scale is None and self._before_train_step is not None:
            self._scaling.loss_scale, self._before_train_step = self._before_train_step, None
        elif scale is not None and self._before_train_step is None and math.frexp(float(scale))[0] == 0.5:
            self._before_train_step = self._scaling.loss_scale
            self._scaling.loss_scale = StaticScale(float(scale))

    def stepped(self) -> None:
        """PyTorch's recorder keeps losses for a step of ``torch.optim``; the passes so far were not for one."""
        self._below.recorder.forget_passes()


def _matmul_of_halves(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def matmul(x1: Any, x2: Any) -> Any:
        x1, x2 = convert_to_tensor(x1), convert_to_tensor(x2)
        halves = x1.dtype is x2.dtype is torch.float16 and x1.device.type == x2.device.type == "cpu"
        return torch.matmul(x1, x2) if halves else original(x1, x2)

    return matmul
