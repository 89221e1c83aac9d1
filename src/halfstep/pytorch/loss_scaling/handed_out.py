"""Which passes of ``backward`` leave gradients that no optimizer uses: those of adversarial inputs, of saliency maps.

No skipped step keeps what overflowed there from the script's own arithmetic, so such a pass is repeated under another
scale (repeats.py). It is known by its line, whose first pass is looked through for tensors that are no parameters and
that no optimizer holds; a pass that overflows is looked through again. A pass from another line costs nothing but the
look-up of the line.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.pytorch.loss_scaling.pass_gradients import Reached
from halfstep.pytorch.loss_scaling.pass_scales import Line, here


class HandedOut:
    """Knows the lines whose passes hand out gradients.

    Args:
        optimizers: all that the program has made.
        reached: what passes reach.
    """

    def __init__(self, optimizers: weakref.WeakSet[Optimizer], reached: Reached) -> None:
        self._optimizers, self._reached = optimizers, reached
        self._lines: dict[Line, bool] = {}
        self._line: Line = ()

    def begin_pass(self) -> None:
        """A pass is about to start, and its line is not known."""
        self._line = ()

    def here(self, leaves: Callable[[], Iterable[Tensor]]) -> bool:
        """Whether the pass about to start from this line hands out gradients.

        Args:
            leaves: those that it will reach; asked for once for each line.
        """
        self._line = here()
        if self._line not in self._lines:
            self._lines[self._line] = self._among(leaves())
        return self._lines[self._line] or any(tensor.retains_grad for tensor in self._reached.retained())

    def overflowed(self, leaves: Iterable[Tensor]) -> None:
        """The pass has been made once, and reached ``leaves``, which may have gradients that are not finite."""
        if self._line and self._among(leaves):
            self._lines[self._line] = True

    def _among(self, leaves: Iterable[Tensor]) -> bool:
        others = [leaf for leaf in leaves if not isinstance(leaf, nn.Parameter)]
        if not others:
            return False
        held = {id(p) for o in self._optimizers for group in o.param_groups for p in group["params"]}
        return any(id(leaf) not in held for leaf in others)
