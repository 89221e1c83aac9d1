"""A loss scale that the script has written by hand: the large number that it multiplies its loss by before a pass.

``(loss * scale).backward()``, ``(loss * scale / n).backward()``, ``loss.backward(torch.tensor(scale))``: any large
constant counts, whether a power of two or not (scales that grow by 0.1 % per step are none).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from halfstep.pytorch.loss_scaling.repeats import Line, here
from halfstep.pytorch.unseen import unseen

#: the smallest and the largest factor that are taken for a loss scale; others are weights of a loss
OWN_SCALE = 2.0**10
LARGEST = 2.0**32

TOLD = (
    "a loss is multiplied by {factor:g} before its backward pass, which is taken for a loss scale of the script's: "
    "losses are recorded without it"
)

#: how many operations before the pass a factor is looked for in
_NEAR = 6
#: nodes of products and quotients, and where they keep what may be a constant
_FACTORS = {"MulBackward0": ("_saved_other", "_saved_self"), "DivBackward0": ("_saved_other",)}
#: nodes of one number that leave it as it is
_PASSING = ("ToCopyBackward0", "CloneBackward0", "ViewBackward0", "SqueezeBackward0", "SqueezeBackward1")


class ScriptScale:
    """Knows the lines of the script that start passes from a scaled loss.

    A line that once had a large factor has a scale in every other factor, too: the script may lower it at will.

    Args:
        tell: called once with a sentence where a factor that is no power of two, and may be a weight of the loss, is
            taken for a scale.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lines: set[Line] = set()

    def of(self, outputs: Sequence[Any], seeds: Any) -> tuple[bool, float]:
        """Whether the script scales the pass, and what its loss has been multiplied by for that.

        Read without a synchronisation: of a factor on a GPU it is not known.

        Args:
            outputs: what the pass starts from.
            seeds: the script's gradients of them, as it gives them.
        """
        if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].numel() != 1:
            return False, 1.0
        first = seeds[0] if isinstance(seeds, tuple | list) and seeds else seeds
        seed = _number(first)
        factor = max(_factors(outputs[0].grad_fn), default=None)
        if factor is None and seed is None:
            return False, 1.0
        line = here()
        largest = max(factor or 0.0, seed or 0.0)
        if OWN_SCALE <= largest <= LARGEST:
            if factor == largest and not self._lines and math.frexp(factor)[0] != 0.5:
                self._tell(TOLD.format(factor=factor))
            self._lines.add(line)
        if line not in self._lines:
            return False, 1.0
        return True, 1.0 if factor is None or (seed or 0.0) > factor else factor


def _factors(node: Any) -> Iterator[float]:
    """The constants that a loss has been multiplied by, the last first."""
    for _ in range(_NEAR):
        name = type(node).__name__
        if name not in _FACTORS and name not in _PASSING:
            return
        try:
            constants = [_number(getattr(node, side)) for side in _FACTORS.get(name, ())]
        except RuntimeError:  # freed: PyTorch complains about that itself
            return
        for constant in constants:
            if constant:
                yield 1 / constant if name == "DivBackward0" else constant
        node = next((edge for edge, _ in node.next_functions if edge is not None), None)


def _number(value: Any) -> float | None:
    """The value of a constant that the host has. One that is not finite scales nothing: it spoils a loss."""
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        return None
    if not value.is_cpu or value.requires_grad:
        return None
    with unseen():  # a mode of the script's would be handed a number in place of the tensor
        number = float(value.item())
    return number if math.isfinite(number) else None
