"""PyTorch's takeover beneath Keras's on that backend: its backward passes follow the scale of Keras's optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from halfstep.precisions.loss_scale import LossScale, NoScale, StaticScale


class NullBeneath:
    """Another backend, or nothing beneath."""

    emulated = False

    @property
    def steps(self) -> int:
        """How many steps optimizers of ``torch.optim`` have made."""
        return 0

    def rests(self, rests: bool) -> None:
        """Keras has scaled the loss of the pass to come; or that step is over."""

    def step_scale(self, scale: Any) -> None:
        """A train_step begins whose optimizer has this scale; None: it is over."""

    def stepped(self) -> None:
        """An optimizer of Keras's has made a step: the backward passes so far were its own."""


class Beneath(NullBeneath):
    """What Keras tells it.

    Args:
        takeover: PyTorch's.
    """

    def __init__(self, takeover: Any) -> None:
        self.scaling = takeover.scaling
        self.emulated = bool(takeover.emulated)
        self._guards = bool(takeover.recipe.guards)
        self._give_way = takeover.give_way
        self._recorder = takeover.recorder
        self._resting: LossScale | None = None
        self._outside: LossScale | None = None

    @property
    def steps(self) -> int:
        return int(self._recorder.steps)

    def give_way(self, about_to_pass: Callable[[Sequence[Any]], None]) -> None:
        """Let Keras's layers and optimizers decide; what a backward pass starts from is told to ``about_to_pass``."""
        self._give_way(about_to_pass)

    def rests(self, rests: bool) -> None:
        """A loss that Keras has scaled must not be scaled again by ``backward``, nor its scale be taken for another."""
        self.scaling.scaled_above = rests
        if rests and self._resting is None:
            self._resting, self.scaling.loss_scale = self.scaling.loss_scale, NoScale()
        elif not rests and self._resting is not None:
            self.scaling.loss_scale, self._resting = self._resting, None

    def step_scale(self, scale: Any) -> None:
        """A loss that Keras has not scaled is, by ``backward``, as its optimizer would have it. One synchronisation."""
        if not self._guards:
            return
        if scale is not None and self._outside is None and math.frexp(float(scale))[0] == 0.5:
            self._outside, self.scaling.loss_scale = self.scaling.loss_scale, StaticScale(float(scale))
        elif scale is None and self._outside is not None:
            self.scaling.loss_scale, self._outside = self._outside, None

    def stepped(self) -> None:
        """PyTorch's recorder keeps their losses for a step of ``torch.optim``, which may be what trains instead."""
        self._recorder.forget_passes()
