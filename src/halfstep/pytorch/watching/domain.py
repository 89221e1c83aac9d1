"""Operations that are not defined for all numbers, and the numbers for which they have no finite result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: operation -> (which argument decides, what it must not be, in words)
_DOMAINS: Mapping[str, tuple[int, Callable[[Tensor], Tensor], str]] = {
    **{name: (1, lambda x: x == 0, "a division by zero") for name in ("div", "true_divide", "divide")},
    **{name: (0, lambda x: x == 0, "the logarithm of zero") for name in ("log", "log2", "log10")},
    "log1p": (0, lambda x: x == -1, "the logarithm of zero"),
    "rsqrt": (0, lambda x: x == 0, "one over the root of zero"),
    "reciprocal": (0, lambda x: x == 0, "one over zero"),
    "sqrt": (0, lambda x: x < 0, "the root of a negative number"),
    "acos": (0, lambda x: x.abs() > 1, "the arc cosine of a number beyond 1"),
    "asin": (0, lambda x: x.abs() > 1, "the arc sine of a number beyond 1"),
    "atanh": (0, lambda x: x.abs() >= 1, "the inverse hyperbolic tangent of a number from 1 on"),
    "logit": (0, lambda x: (x <= 0) | (x >= 1), "the logit of 0 or 1"),
    "addcdiv": (2, lambda x: x == 0, "a division by zero"),
    "_foreach_addcdiv": (2, lambda x: x == 0, "a division by zero"),
    "_foreach_div": (1, lambda x: x == 0, "a division by zero"),
}


def outside_domain(operation: str, args: Sequence[Any]) -> dict[str, object] | None:
    """``{"words": …, "count": …}`` if the operation got numbers for which it has no finite result; else None."""
    if operation == "pow":
        return _of_power(args)
    if operation not in _DOMAINS or len(args) <= _DOMAINS[operation][0]:
        return None
    position, outside, words = _DOMAINS[operation]
    given = args[position]
    if isinstance(given, int | float):
        given = torch.tensor(float(given))
    tensors = [given] if isinstance(given, Tensor) else list(given)
    count = sum(int(outside(t).sum()) for t in tensors if isinstance(t, Tensor))
    return {"words": words, "count": count} if count else None


def _of_power(args: Sequence[Any]) -> dict[str, object] | None:
    base, exponent = args[0], args[1]
    if not isinstance(base, Tensor) or not isinstance(exponent, int | float):
        return None
    if exponent < 0 and (zeros := int((base == 0).sum())):
        return {"words": f"zero to the power of {exponent:g}", "count": zeros}
    if exponent != int(exponent) and (negative := int((base < 0).sum())):
        return {"words": f"a negative number to the power of {exponent:g}", "count": negative}
    return None
