"""The leaf tensors that a backward pass will reach."""

from __future__ import annotations

import gc
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from halfstep.pytorch.patches import never_traced

_Accumulate = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]


@never_traced
def leaves_of(outputs: Iterable[Tensor | GradientEdge]) -> list[Tensor]:
    """Every leaf tensor that a backward pass from ``outputs`` accumulates a gradient into.

    It walks the graph in about 0.28 µs per node, 0.3 ms for 300 parameters under autocast; PyTorch spends half of that
    to make a Python object for each node. If there is a C++ compiler, the engine tells as the pass begins
    (scaled_pass.py). In Python there is no cheaper way that also finds leaves that no optimizer holds, such as an
    adversarial input: the engine's own order of execution takes longer to get.
    """
    collecting = gc.isenabled()
    gc.disable()  # thousands of short-lived objects would make Python search all other objects for garbage
    try:
        return _walk(list(outputs))
    finally:
        if collecting:
            gc.enable()


def _walk(outputs: list[Tensor | GradientEdge]) -> list[Tensor]:
    edges = [output for output in outputs if isinstance(output, GradientEdge)]
    tensors = [output for output in outputs if isinstance(output, Tensor)]
    leaves = [tensor for tensor in tensors if tensor.grad_fn is None and tensor.requires_grad]
    leaves += [edge.node.variable for edge in edges if type(edge.node) is _Accumulate]  # type: ignore[attr-defined]
    starts = [*(tensor.grad_fn for tensor in tensors), *(edge.node for edge in edges)]
    nodes = list(dict.fromkeys(node for node in starts if node is not None and type(node) is not _Accumulate))
    seen = set(nodes)
    for node in nodes:  # which grows meanwhile
        for after, _ in node.next_functions:
            if after in seen or after is None:
                continue
            seen.add(after)
            if type(after) is _Accumulate:
                leaves.append(after.variable)  # type: ignore[attr-defined]
            else:
                nodes.append(after)
    return leaves
