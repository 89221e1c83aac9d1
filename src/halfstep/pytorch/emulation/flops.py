"""FLOPs of emulated products, by the formulas of ``torch.utils.flop_counter``.

In :mod:`halfstep.pytorch.emulation.ops` a product's last argument is the recipe's name. Rounding counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.flop_counter import conv_flop_count


def emulated_flops(name: str, args: Sequence[Any], out: Any) -> dict[str, int]:
    """The FLOPs of a call of ``halfstep::name``, by precision; of what is no product, none."""
    return {args[-1]: _FORMULAS[name](args, out)} if name in _FORMULAS else {}


def _product(args: Sequence[Any], out: Any) -> int:
    """(m, k) by (k, n), or a batch of these: 2 m k n each."""
    _, a, b = args[:3]
    flops: int = 2 * math.prod(a.shape) * b.shape[-1]
    return flops


def _convolution(args: Sequence[Any], out: Any) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    return int(conv_flop_count(list(x.shape), list(weight.shape), list(out.shape), transposed))


def _convolution_backward(args: Sequence[Any], out: Any) -> int:
    """As much as the forward product for each gradient that is asked for."""
    slope, x, weight, transposed, mask = *args[:3], args[6], args[-2]
    flops: int = conv_flop_count(list(x.shape), list(weight.shape), list(slope.shape), transposed)
    return flops * int(sum(mask))


_FORMULAS: dict[str, Callable[[Sequence[Any], Any], int]] = {
    "product": _product,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
}
