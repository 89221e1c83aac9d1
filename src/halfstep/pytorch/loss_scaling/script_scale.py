"""Finds a loss scale that the script applies by hand: a large number by which it multiplies its loss before a pass.

``(loss * scale).backward()``, ``(loss * scale / n).backward()``, ``loss.backward(torch.tensor(scale))``: any large
constant counts, whether it is a power of two or not (scales that grow by 0.1 % per step are no powers of two).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from halfstep.pytorch.loss_scaling.pass_scales import Line, here
from halfstep.pytorch.unseen import unseen

#: the smallest and the largest factor that count as a loss scale; others are weights of a loss
OWN_SCALE = 2.0**10
LARGEST = 2.0**32

TOLD = (
    "a loss is multiplied by {factor:g} before its backward pass, which is taken for a loss scale of the script's: "
    "losses are recorded without it"
)

#: the largest ratio of a loss scale to that of the pass before: it is halved or doubled, with some room
_LEAST_MOVE, _MOST_MOVE = 0.45, 2.2

#: a factor is looked for in this many operations before the pass
_NEAR = 6
#: nodes of products and quotients -> the attribute that may be a constant
_FACTORS = {"MulBackward0": ("_saved_other", "_saved_self"), "DivBackward0": ("_saved_other",)}
#: nodes of one number that do not change it
_PASSING = ("ToCopyBackward0", "CloneBackward0", "ViewBackward0", "SqueezeBackward0", "SqueezeBackward1")


class ScriptScale:
    """Knows the lines of the script that start passes from a scaled loss.

    A factor that moves by more than a loss scale does is a weight of the loss, for example a reward, and no scale. For
    a line that began with a power of two, losses are recorded without the factor, and the record says so.

    Args:
        tell: called with that sentence, once for each such line.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        #: the last factor of each line, and whether its losses are recorded without it
        self._scales: dict[Line, tuple[float, bool]] = {}

    def of(self, outputs: Sequence[Any], seeds: Any) -> tuple[bool, float]:
        """Whether the script scales the pass, and the factor by which it has multiplied the loss.

        It does not synchronise, so a factor on a GPU stays unknown.

        Args:
            seeds: the gradients that the script gives for them, in its own form.
        """
        if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].numel() != 1:
            return False, 1.0
        first = seeds[0] if isinstance(seeds, tuple | list) and seeds else seeds
        seed = _number(first) or 0.0
        factor = max(_factors(outputs[0].grad_fn), default=0.0)
        seeded = OWN_SCALE <= seed <= LARGEST
        if not self._scales and not factor >= OWN_SCALE:
            return seeded, 1.0
        line = here()
        last, without = self._scales.get(line, (0.0, False))
        moved = last > 0.0 and _LEAST_MOVE * last <= factor <= _MOST_MOVE * last
        if not moved and not OWN_SCALE <= factor <= LARGEST:
            self._scales.pop(line, None)
            return seeded, 1.0
        if not moved:
            without = last == 0.0 and math.frexp(factor)[0] == 0.5
            if without:
                self._tell(TOLD.format(factor=factor))
        self._scales[line] = factor, without
        return True, factor if without and factor >= seed else 1.0


def _factors(node: Any) -> Iterator[float]:
    """The constants by which a loss has been multiplied, the last one first."""
    for _ in range(_NEAR):
        name = type(node).__name__
        if name not in _FACTORS and name not in _PASSING:
            return
        try:
            constants = [_number(getattr(node, side)) for side in _FACTORS.get(name, ())]
        except RuntimeError:  # the graph was freed: PyTorch itself will raise
            return
        for constant in constants:
            if constant:
                yield 1 / constant if name == "DivBackward0" else constant
        node = next((edge for edge, _ in node.next_functions if edge is not None), None)


def _number(value: Any) -> float | None:
    """The value of a constant in host memory; None for one that is not finite, which would be no scale."""
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        return None
    if not value.is_cpu or value.requires_grad:
        return None
    with unseen():  # a mode of the script would get a number instead of the tensor
        number = float(value.item())
    return number if math.isfinite(number) else None
