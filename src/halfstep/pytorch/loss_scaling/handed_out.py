"""Finds passes of ``backward`` whose gradients no optimizer uses, such as those of adversarial inputs or saliency maps.

There no skipped step would keep an overflow out of the script's own arithmetic, so such a pass is repeated under
another scale (repeats.py). It is known by its line in the script: the first pass from a line is searched for tensors
that are no parameters and that no optimizer holds, and a pass that overflows is searched again. Any other pass costs
only the look-up of its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.pytorch.loss_scaling.pass_gradients import PassGradients
from halfstep.pytorch.loss_scaling.pass_scales import Line, here
from halfstep.takeover.identity import IdentitySet


class HandedOut:
    """Knows the lines whose passes give gradients to the script.

    Args:
        optimizers: all optimizers that the program has made.
    """

    def __init__(self, optimizers: IdentitySet[Optimizer], pass_gradients: PassGradients) -> None:
        self._optimizers, self._pass_gradients = optimizers, pass_gradients
        self._lines: dict[Line, bool] = {}
        self._line: Line = ()

    def begin_pass(self) -> None:
        """A pass is about to start: its line is not known yet."""
        self._line = ()

    def here(self, leaves: Callable[[], Iterable[Tensor]]) -> bool:
        """Whether the pass that is about to start from this line gives gradients to the script.

        Args:
            leaves: gives the leaves that it will reach; called once for each line.
        """
        self._line = here()
        if self._line not in self._lines:
            self._lines[self._line] = self._among(leaves())
        return self._lines[self._line] or any(
            tensor.retains_grad for tensor in self._pass_gradients.retained()
        )

    def overflowed(self, leaves: Iterable[Tensor]) -> None:
        """The pass was made, and the gradients of its ``leaves`` may not be finite."""
        if self._line and self._among(leaves):
            self._lines[self._line] = True

    def _among(self, leaves: Iterable[Tensor]) -> bool:
        others = [leaf for leaf in leaves if not isinstance(leaf, nn.Parameter)]
        if not others:
            return False
        held = {id(p) for o in self._optimizers for group in o.param_groups for p in group["params"]}
        return any(id(leaf) not in held for leaf in others)
