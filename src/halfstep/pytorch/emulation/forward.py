"""Forward-mode derivatives of emulated products: a tangent is an operand like any other, and rounded like one.

c = f(a) f(b)        c' = f(a') f(b) + f(a) f(b')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.autograd import forward_ad


def moving(*tensors: Tensor | None) -> bool:
    """Whether one of the tensors has a tangent."""
    return forward_ad._current_level >= 0 and any(tangent(t) is not None for t in tensors)


def tangent(x: Tensor | None) -> Tensor | None:
    """The tangent of x; None if it has none."""
    found: Tensor | None = None if x is None else forward_ad.unpack_dual(x).tangent
    return found


def point(x: Tensor) -> Tensor:
    """x without its tangent."""
    found: Tensor = forward_ad.unpack_dual(x).primal
    return found


def along(
    operands: Sequence[Tensor | None],
    function: Callable[..., Tensor],
    derivatives: Sequence[Callable[[Tensor], Tensor]],
) -> Tensor:
    """``function`` of operands with tangents, with its own tangent: the sum of the operands' ``derivative`` terms."""
    result = function(*(None if x is None else point(x) for x in operands))
    tangents = [
        (derive, t) for x, derive in zip(operands, derivatives, strict=True) if (t := tangent(x)) is not None
    ]
    moved = sum((derive(t) for derive, t in tangents[1:]), start=tangents[0][0](tangents[0][1]))
    dual: Tensor = forward_ad.make_dual(result, moved.expand_as(result).contiguous())
    return dual
