"""A close look at one step in TensorFlow: the products in its graph, or of its eager operations, are counted."""

from __future__ import annotations

import math
import re
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_callbacks

from halfstep.keras.dtypes import format_name
from halfstep.keras.recording.sample import Sample, Unknown

Shape = tuple[int, ...]
Attribute = Callable[[str], Any]
Formula = Callable[[Sequence[Shape], Shape, Attribute], int]


def _matmul(ins: Sequence[Shape], out: Shape, attribute: Attribute) -> int:
    a = ins[0]
    batch = attribute("transpose_a") is None
    transposed = bool(attribute("adj_x")) if batch else bool(attribute("transpose_a"))
    return 2 * math.prod(out) * a[-2 if transposed else -1]


def _convolution(result: int, kernel: int, inner: int = -1) -> Formula:
    """2 x the elements of the forward result x the elements of the kernel that meet in each of them.

    Args:
        result: which input of the operation has the shape of the forward result; -1 is the operation's own result.
        kernel: which one has the shape of the kernel.
        inner: the kernel's dimensions before this one meet in an element of the result.
    """

    def flops(ins: Sequence[Shape], out: Shape, attribute: Attribute) -> int:
        shapes = [*ins, out]
        return 2 * math.prod(shapes[result]) * math.prod(shapes[kernel][:inner])

    return flops


def _einsum(ins: Sequence[Shape], out: Shape, attribute: Attribute) -> int:
    equation = attribute("equation")
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    sizes: dict[str, int] = {}
    for labels, shape in zip(text.split("->")[0].split(","), ins, strict=False):
        before, dots, behind = labels.partition("...")
        spread = len(shape) - len(before) - len(behind) if dots else 0
        names = [*before, *(f".{spread - i}" for i in range(spread)), *behind]
        sizes.update(zip(names, shape, strict=True))
    return 2 * math.prod(sizes.values()) if len(ins) == 2 else 0


#: operation -> (formula, the input whose dtype counts)
_FORMULAS: dict[str, tuple[Formula, int]] = {
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), (_matmul, 0)),
    "Einsum": (_einsum, 0),
    "Conv2D": (_convolution(-1, 1), 0),
    "Conv3D": (_convolution(-1, 1), 0),
    "Conv2DBackpropInput": (_convolution(2, 1), 1),
    "Conv3DBackpropInputV2": (_convolution(2, 1), 1),
    "Conv2DBackpropFilter": (_convolution(2, -1), 0),
    "Conv3DBackpropFilterV2": (_convolution(2, -1), 0),
    "DepthwiseConv2dNative": (_convolution(-1, 1, inner=2), 0),
    "DepthwiseConv2dNativeBackpropInput": (_convolution(2, 1, inner=2), 1),
    "DepthwiseConv2dNativeBackpropFilter": (_convolution(2, -1, inner=2), 0),
}


def flops_of_graph(graph: Any, batch: int | None) -> dict[str, int]:
    """FLOPs of the products in ``graph``, by format.

    Args:
        graph: a FuncGraph, forward and backward pass of one step.
        batch: the size that stands for a leading dimension which the graph leaves open.

    Raises:
        Unknown: a product whose size cannot be told.
    """
    total: dict[str, int] = defaultdict(int)
    _walk(graph, batch, total)
    return dict(total)


def _walk(graph: Any, batch: int | None, total: dict[str, int]) -> None:
    for op in _needed(graph):
        if op.type in _FORMULAS:
            formula, typed = _FORMULAS[op.type]
            shapes = [_shape(tensor, batch) for tensor in op.inputs]
            flops = formula(shapes, _shape(op.outputs[0], batch), _attributes(op))
            total[_format(op.inputs[typed].dtype)] += flops
        for name in _functions(op):
            inner: dict[str, int] = defaultdict(int)
            _walk(_inner_graph(graph, name), batch, inner)
            turns = _turns(graph, op) if inner and op.type in _LOOPS else 1
            for key, value in inner.items():
                total[key] += turns * value


def _needed(graph: Any) -> list[Any]:
    """The operations that the results of ``graph`` depend on; others, such as the gradient of the batch, never run."""
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    needed: dict[int, Any] = {}
    while waiting:
        op = waiting.pop()
        if id(op) not in needed:
            needed[id(op)] = op
            waiting += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return list(needed.values())


_LOOPS = ("While", "StatelessWhile")

#: operations of a condition that only counts
_COUNTING = {"Placeholder", "Const", "Less", "LogicalAnd", "Identity"}


def _functions(op: Any) -> list[str]:
    """The functions that ``op`` calls; of the two branches of a condition the one that an ordinary step takes."""
    names = {"If": "then_branch", "StatelessIf": "then_branch", "While": "body", "StatelessWhile": "body"}
    name = names.get(op.type, "f" if op.type.endswith("PartitionedCall") else None)
    return [] if name is None else [op.get_attr(name).name]


def _turns(graph: Any, loop: Any) -> int:
    """How often ``loop`` turns: its limit, if its condition only counts, as that of a recurrent layer does.

    Raises:
        Unknown: the condition looks at values, or the limit (a sequence's length) is not in the graph.
    """
    condition = _inner_graph(graph, loop.get_attr("cond").name).get_operations()
    limit = loop.inputs[1]
    known = tf.get_static_value(limit.op.inputs[0] if limit.op.type == "Max" else limit)
    bounds = [tf.get_static_value(op.outputs[0]) for op in condition if op.type == "Const"]
    turns = [int(bound.max()) for bound in (known, *bounds) if bound is not None and bound.max() >= 0]
    if known is None or not turns or not {op.type for op in condition} <= _COUNTING:
        raise Unknown("there are products inside a loop, and the graph does not tell how often it turns")
    return min(turns)


def _inner_graph(graph: Any, name: str) -> Any:
    found = None
    while found is None and graph is not None:
        found = graph._get_function(name)
        graph = getattr(graph, "outer_graph", None)
    if found is None or getattr(found, "graph", None) is None:
        raise Unknown(
            f"the function {re.sub(r'_[0-9]+$', '', name)} that the graph calls cannot be looked into"
        )
    return found.graph


def _attributes(op: Any) -> Attribute:
    def attribute(name: str) -> Any:
        try:
            return op.get_attr(name)
        except ValueError:
            return None

    return attribute


def _shape(tensor: Any, batch: int | None) -> Shape:
    """The sizes of ``tensor``; an open one is the batch's, or what a reshape makes of it."""
    if tensor.shape.rank is None:
        raise Unknown(f"the graph does not tell the shape of {tensor.name}")
    sizes = list(tensor.shape)
    open_ones = [i for i, size in enumerate(sizes) if size is None]
    if not open_ones:
        return tuple(sizes)
    if len(open_ones) > 1 or batch is None:
        raise Unknown(f"the graph does not tell the shape {tensor.shape} of {tensor.name}")
    sizes[open_ones[0]] = batch
    if tensor.op.type == "Reshape":
        elements = math.prod(_shape(tensor.op.inputs[0], batch))
        sizes[open_ones[0]] = elements // max(1, math.prod(s for s in tensor.shape if s is not None))
    return tuple(sizes)


def _format(dtype: Any) -> str:
    if dtype == tf.float32 and tf.config.list_physical_devices("GPU"):
        return "tf32" if tf.config.experimental.tensor_float_32_execution_enabled() else "fp32"
    return format_name(str(dtype.name))


class EagerCounter:
    """Counts the products of eager operations while it is entered."""

    def __init__(self) -> None:
        self._found: dict[str, int] = defaultdict(int)
        self._failure: Exception | None = None

    @property
    def flops(self) -> dict[str, int]:
        """FLOPs by format; raises the error that prevented the counting, which no operation was disturbed by."""
        if self._failure is not None:
            raise self._failure
        return self._found

    def __enter__(self) -> EagerCounter:
        op_callbacks.add_op_callback(self._see)
        return self

    def __exit__(self, *exc: object) -> None:
        op_callbacks.remove_op_callback(self._see)

    def _see(
        self, op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None
    ) -> None:
        name = op_type.decode() if isinstance(op_type, bytes) else str(op_type)
        if graph is not None or name not in _FORMULAS:
            return
        try:
            self._count(name, inputs, attrs, outputs)
        except Exception as error:
            self._failure = error

    def _count(self, name: str, inputs: Any, attrs: Any, outputs: Any) -> None:
        formula, typed = _FORMULAS[name]
        table = {attrs[i]: attrs[i + 1] for i in range(0, len(attrs or ()) - 1, 2)}
        flops = formula([tuple(t.shape) for t in inputs], tuple(outputs[0].shape), table.get)
        self._found[_format(inputs[typed].dtype)] += flops


class GraphSample(Sample):
    """Reads the graph of the step, or counts its operations where it has none."""

    def __init__(self) -> None:
        super().__init__(EagerCounter)
        self._graph: weakref.ref[Any] | None = None

    def trace_begins(self) -> None:
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self._graph = None if graph is None else weakref.ref(graph)

    def open_eager(self) -> None:
        if self._graph is None:
            super().open_eager()

    def watch(self, call: Callable[..., Any], args: Any, kwargs: Any, on_batch: Callable[[Any], Any]) -> Any:
        if self._graph is None:
            return super().watch(call, args, kwargs, on_batch)
        result = call(*args, **kwargs)
        self._look(lambda: self._read(on_batch(result)))
        return result

    def _read(self, batch: Any) -> None:
        graph = None if self._graph is None else self._graph()
        if graph is None:
            self.absent = "the graph of the step was gone before it could be read"
        else:
            self.flops = flops_of_graph(graph, None if batch is None else int(batch))
