"""A close look at one step in JAX: the products in its program are counted, which costs the step nothing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
from keras.src.backend.jax import trainer

from halfstep.keras.dtypes import format_name
from halfstep.keras.recording.sample import Sample, Unknown
from halfstep.takeover.patches import Patches

NO_PROGRAM = "the step was not compiled as a whole, so there is no program to read"


class ProgramSample(Sample):
    """Reads the compiled program of the step."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self._step: Any = None
        self._shapes: Any = None
        self._watching = False

    def install(self, patches: Patches) -> None:
        patches.wrap(trainer, "jit", self._jit)

    def _jit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def jit(function: Any, /, *args: Any, **kwargs: Any) -> Any:
            compiled = original(function, *args, **kwargs)
            if getattr(function, "__name__", "") != "train_step":
                return compiled
            self._step = compiled
            return lambda *given: compiled(*self._seen(given))

        return jit

    def _seen(self, given: Any) -> Any:
        """``given``, whose shapes are noted now, because JAX reuses the buffers in the call."""
        if self._watching:
            self._look(lambda: setattr(self, "_shapes", shapes_of(given)))
        return given

    def open_eager(self) -> None:
        self.absent = NO_PROGRAM

    def watch(self, call: Callable[..., Any], args: Any, kwargs: Any, on_batch: Callable[[Any], Any]) -> Any:
        if self._step is None:
            self.absent = NO_PROGRAM
        self._watching = True
        try:
            result = call(*args, **kwargs)
        finally:
            self._watching = False
        if self._shapes is not None:
            self.look_into(self._step, self._shapes, {})
        return result

    def look_into(self, program: Any, args: Any, kwargs: Any, steps: int = 1) -> None:
        def read() -> None:
            # Traced with these shapes before, so the program comes from JAX's cache: the script's code does not run.
            flops = flops_of_jaxpr(program.trace(*args, **kwargs).jaxpr.jaxpr)
            self.flops = {name: count // max(1, steps) for name, count in flops.items()}

        self._look(read)


def shapes_of(values: Any) -> Any:
    """``values`` with each array replaced by its shape and dtype."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "shape") else x, values
    )


def flops_of_jaxpr(jaxpr: Any, times: int = 1) -> dict[str, int]:
    """FLOPs of the products in ``jaxpr``, by the format of their operands, if it runs so many ``times``.

    Raises:
        Unknown: there are products inside a loop whose number of turns is not in the program.
    """
    total: dict[str, int] = defaultdict(int)
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            flops = _dot(equation) if name == "dot_general" else _convolution(equation)
            dtype = equation.invars[0].aval.dtype.name
            total[format_name(dtype)] += times * flops
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
