"""FLOPs of matrix products by dtype in a JAX program (a jaxpr), with the programs inside of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


class Unknown(Exception):
    """A product whose size or number the program does not tell; the message says which."""


def flops_of_jaxpr(jaxpr: Any, times: int = 1) -> dict[str, int]:
    """FLOPs of the products in ``jaxpr``, by the format of their operands, ``times`` over.

    Raises:
        Unknown: products inside a loop whose number of turns is not known before it runs.
    """
    total: dict[str, int] = defaultdict(int)
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            flops = _dot(equation) if name == "dot_general" else _convolution(equation)
            dtype = equation.invars[0].aval.dtype.name
            total[_FORMATS.get(dtype, dtype)] += times * flops
            continue
        turns = times * int(equation.params.get("length", 1)) if name == "scan" else times
        parts = [flops_of_jaxpr(inner, turns) for inner in _inside(equation)]
        if name == "cond":
            parts = [max(parts, key=lambda part: sum(part.values()))]
        if name == "while" and any(parts):
            raise Unknown(
                "there are products inside a loop, and the program does not tell how often it turns"
            )
        for part in parts:
            for key, value in part.items():
                total[key] += value
    return dict(total)


def _inside(equation: Any) -> Iterator[Any]:
    """The programs among an equation's parameters."""
    for value in equation.params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return int(2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted))


def _convolution(equation: Any) -> int:
    """2 x outputs x the elements of the kernel that meet in each; zeros put between inputs are not counted."""
    kernel = equation.invars[1].aval.shape
    outputs_of_kernel = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    dilation = math.prod(equation.params["lhs_dilation"])
    elements = math.prod(equation.outvars[0].aval.shape)
    return int(2 * elements * (math.prod(kernel) // outputs_of_kernel) // dilation)
