"""The kernel of :mod:`halfstep.pytorch.products.operations` in Python, for systems without a C++ compiler.

A call takes 6 to 12 us more than one of ``products.cpp``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from halfstep.passed_on import Keywords
from halfstep.pytorch.products.dispatcher import Overrides, own_kernel
from halfstep.pytorch.products.operations import Operation, Plan
from halfstep.pytorch.products.scratch import Scratch

_scratch = Scratch()
_listener: Callable[[str], None] | None = None


def listen(function: Callable[[str], None] | None) -> None:
    """Call ``function`` with the name of every operation computed in fp32; None stops it."""
    global _listener
    _listener = function


def put(operations: Sequence[Operation], planned: Plan) -> Callable[[], None]:
    """Put it before PyTorch's own kernels for the CPU; returns a function that takes it away."""
    own = {name: own_kernel(name, "CPU") for op in operations for name in (op.name, op.base)}
    overrides = Overrides()
    for operation in operations:
        kernel = _kernel(operation, planned, own[operation.name], own[operation.base])
        overrides.put(operation.name, "CPU", kernel)
    return overrides.remove


def _kernel(operation: Operation, planned: Plan, own: Callable[..., Any], base: Callable[..., Any]) -> Any:
    """The kernel put before ``own``; ``base`` is PyTorch's own of ``operation.base``."""
    ever = frozenset[torch.dtype]().union(*(planned.get(kind, ()) for kind in operation.kinds))

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        if args[0].dtype in ever:
            low = planned.get(operation.kind_of(args), frozenset[torch.dtype]())
            if applies(operation, low, args, kwargs):
                return in_fp32(operation, functools.partial(base, keyset), args, kwargs)
        return own(keyset, *args, **kwargs)

    return kernel


def applies(
    operation: Operation, low: Collection[torch.dtype], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Whether the operands are 16-bit tensors of one dtype in ``low``; PyTorch itself refuses operands that differ."""
    dtype: torch.dtype = args[0].dtype
    out = kwargs.get("out")
    if dtype not in low or (out is not None and out.dtype is not dtype):
        return False
    return all(x is None or x.dtype is dtype for x in args[1 : operation.tensors])


def in_fp32(operation: Operation, call: Callable[..., Any], args: Sequence[Any], kwargs: Keywords) -> Any:
    """Compute ``operation`` on 16-bit operands in fp32 and round once.

    Args:
        operation: what is computed; it ``applies`` to ``args`` and ``kwargs``, which are its own.
        call: PyTorch's own kernel of ``operation.base``, which gets the widened operands.

    Returns:
        The results of the operation, in the dtypes of PyTorch's own kernel.
    """
    if _listener is not None:
        _listener(operation.name)
    low = args[0].dtype
    out = args[0] if operation.writes == "self" else kwargs.get("out")
    named = {name: _widened(value, low) for name, value in kwargs.items() if name != "out"}
    rest = args[operation.tensors :]
    if operation.kind == "product":
        wide = [_scratch.widened(x, place) for place, x in enumerate(args[: operation.tensors])]
        result = call(*wide, *rest, **named, out=_scratch.result())
        rounded = result.to(low) if out is None else _written(out, result)
        _scratch.let_go()
        return rounded
    result = call(*(None if x is None else x.float() for x in args[: operation.tensors]), *rest, **named)
    layout = _layout(operation, args)
    if isinstance(result, torch.Tensor):
        return result.to(low, memory_format=layout)
    return tuple(_rounded(x, low, layout) if i < operation.rounded else x for i, x in enumerate(result))


def _widened(value: Any, low: torch.dtype) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype is low else value


def _rounded(value: Any, low: torch.dtype, layout: torch.memory_format) -> Any:
    """Round one of several results; an unwanted gradient is None, and a workspace keeps its bytes."""
    if not isinstance(value, torch.Tensor) or value.dtype is not torch.float32:
        return value
    return value.to(low, memory_format=layout if value.ndim == 5 else torch.preserve_format)


def _written(out: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Round while copying into ``out``. An ``out`` of another shape is resized, as in PyTorch."""
    if out.shape != result.shape:
        out.resize_(result.shape)
    return out.copy_(result)


def _layout(operation: Operation, args: Sequence[Any]) -> torch.memory_format:
    """The strides that PyTorch's own kernel would give, which compiled code expects.

    They differ from fp32's only in convolutions of volumes with channels last.
    """
    if not operation.name.startswith("convolution") or args[1].ndim != 5:
        return torch.preserve_format
    if operation.name == "convolution":
        (x, weight, bias, *geometry), bias_sizes = args[:9], None
    else:
        (_, x, weight, bias_sizes, *geometry), bias = args[:10], None
    backend = torch._C._select_conv_backend(x, weight, bias, *geometry, bias_sizes)
    return torch._C._conv_determine_backend_memory_format(x, weight, backend)
