"""PyTorch's anomaly mode under a loss scale: the script does not hear of NaN that only the scale has made.

A scaled pass may overflow while the scale is being found, and infinity minus infinity is NaN. So the pass itself is not
checked. If a gradient is not finite after it, the pass is made again under a scale so low that nothing overflows, with
the check and without the script's hooks. It raises PyTorch's own error if an unscaled pass would; otherwise the step is
skipped, and the scale falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.loss_scaling.answers import Silent
from halfstep.pytorch.loss_scaling.gradient_pass import release_graph
from halfstep.pytorch.loss_scaling.gradients import all_finite, gradients_at
from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.loss_scaling.seeds import scaled_seeds

#: the scale of the pass that is checked: a gradient that overflows under it fits into fp16 under no scale
CHECKED = 2.0**-8


def checks() -> bool:
    """Whether the script lets PyTorch look for NaN in backward passes."""
    return torch.is_anomaly_enabled() and torch.is_anomaly_check_nan_enabled()


class Unchecked:
    """Switches anomaly mode's look for NaN off for one pass that keeps its graph; :meth:`look` does it afterwards.

    Args:
        given: the gradients that the script gives for them.
        keeps: whether the script keeps the graph.
    """

    def __init__(
        self,
        scaling: Scaling,
        grad: Callable[..., Any],
        outputs: tuple[Any, ...],
        given: Sequence[Tensor | None],
        keeps: bool,
    ) -> None:
        self._scaling, self._grad, self._outputs, self._given, self._keeps = (
            scaling,
            grad,
            outputs,
            given,
            keeps,
        )
        self._leaves = leaves_of(outputs)

    def __enter__(self) -> None:
        torch.set_anomaly_enabled(True, False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_anomaly_enabled(True, True)

    def look(self) -> None:
        """Raise PyTorch's error if an operation of the graph makes NaN by itself; free the graph.

        Raises:
            RuntimeError: as PyTorch's anomaly mode.
        """
        if self._leaves and not all_finite(gradients_at(self._leaves)):
            with self._scaling.running(scale=CHECKED, answers=Silent()):
                seeds = scaled_seeds(self._outputs, self._given, CHECKED)
                self._grad(self._outputs, self._leaves, seeds, retain_graph=True, allow_unused=True)
        if not self._keeps and all(isinstance(output, Tensor) for output in self._outputs):
            release_graph(self._scaling, self._grad, self._outputs, self._leaves)
