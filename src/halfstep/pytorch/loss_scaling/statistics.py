"""BatchNorm's running statistics, kept from what a skipped step fed them (pytorch#90342)."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from halfstep.patches import descendants
from halfstep.pytorch.patches import Patches

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Statistics:
    """Copies of the running statistics of every normalisation layer, as they were at the last step.

    Small (a few numbers a channel), copied by one fused call a step.
    """

    def __init__(self) -> None:
        self._layers: weakref.WeakSet[_NormBase] = weakref.WeakSet()
        self._saved: list[tuple[Tensor, Tensor]] = []
        self._fresh = False

    @property
    def kept(self) -> bool:
        """Whether there are copies that a skipped step would need."""
        return self._fresh

    def install(self, patches: Patches) -> None:
        """Look in before every normalisation layer's forward pass."""
        subclasses = [_NormBase, *descendants(_NormBase)]
        for cls in subclasses:
            if "forward" in vars(cls):
                patches.wrap(cls, "forward", self._before_forward)
        patches.set(_NormBase, "__init_subclass__", classmethod(self._subclassing(patches)))

    def _subclassing(self, patches: Patches) -> Callable[..., None]:
        """Look in at layers whose classes are made later, too, where they have a forward pass of their own."""

        def __init_subclass__(cls: Any, **kwargs: Any) -> None:
            super(_NormBase, cls).__init_subclass__(**kwargs)  # type: ignore[misc]
            if "forward" in vars(cls):
                patches.wrap(cls, "forward", self._before_forward)

        return __init_subclass__

    def _before_forward(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
            if layer.training and not torch.compiler.is_compiling():
                self.about_to_change(layer)
            return original(layer, *args, **kwargs)

        return forward

    def about_to_change(self, layer: _NormBase) -> None:
        """Save all layers' statistics once a step, before the first of them changes."""
        if layer not in self._layers:
            self._layers.add(layer)
            self._saved += self._copy([layer])
        elif not self._fresh:
            self._saved = self._copy(self._layers)
        self._fresh = True

    @staticmethod
    @torch.no_grad()
    def _copy(layers: Any) -> list[tuple[Tensor, Tensor]]:
        live = [b for layer in layers for name in _BUFFERS if (b := getattr(layer, name, None)) is not None]
        return [(buffer, buffer.clone()) for buffer in live]

    @torch.no_grad()
    def stepped(self, finite: bool) -> None:
        """Forget the copies after a step; put them back after a skipped one."""
        if not finite and self._fresh:
            for live, saved in self._saved:
                live.copy_(saved)
        self._fresh = False
