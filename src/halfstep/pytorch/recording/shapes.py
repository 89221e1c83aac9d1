"""Tells whether a product's sizes suit the matrix units of GPUs and CPUs, which work on tiles of 8 and more."""

from __future__ import annotations

from collections.abc import Sequence

#: matrix units take 16-bit operands in tiles whose sides are multiples of 8; other sizes are padded or run elsewhere
TILE = 8


def odd_sizes(operation: str, operands: Sequence[Sequence[int]]) -> bool:
    """Whether a side of the product is no multiple of 8.

    Args:
        operation: its name, e.g. ``addmm``.
        operands: the shapes of its tensors, in order; for ``addmm`` and similar operations the bias comes first.
    """
    return any(side % TILE for side in _sides(operation, operands))


def _sides(operation: str, operands: Sequence[Sequence[int]]) -> Sequence[int]:
    """The sizes that the unit sees: m, k and n of a product, channels of a convolution, the width of a head."""
    if "attention" in operation:
        return operands["backward" in operation][-1:]
    if "convolution" in operation:
        weight = operands[2 if "backward" in operation else 1]
        return weight[:2]
    *_, a, b = operands
    return (*a[-2:], b[-1]) if len(a) > 1 and len(b) > 1 else ()
