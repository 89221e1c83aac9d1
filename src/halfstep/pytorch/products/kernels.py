"""The arithmetic of a matrix unit on a CPU that has none for 16 bits: one table of operations, one kernel.

For 16-bit operands ``a`` and ``b`` of a product::

    result = round16( sum over k of float32(a[i, k]) * float32(b[k, j]) )

Products of two bf16 or two fp16 numbers are exact in fp32 (8 + 8 and 11 + 11 bits of significand fit in 24), sums
are fp32, and the result is rounded once, to nearest even. A bias, ``alpha`` and ``beta`` take part before the
rounding. The fp32 copies hold only during the call; operands and results stay 16-bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from halfstep.pytorch.products.scratch import Scratch

Writes = Literal["new", "out", "self"]


@dataclass(frozen=True)
class Variant:
    """Calls of an operation that are a kind of their own, told by their arguments.

    They are those that units fast at the rest may be slow at; see ``slower`` in :mod:`halfstep.pytorch.capabilities`.
    """

    kind: str
    holds: Callable[[Sequence[Any]], bool]


@dataclass(frozen=True)
class Operation:
    """One entry of the dispatcher that computes products.

    Attributes:
        name: the overload's name under ``aten``, as ``mm`` or ``addmm.out``.
        kind: what it is to the user and to :func:`halfstep.pytorch.products.products.choose`.
        tensors: how many leading arguments are operands (some may be None).
        rounded: how many leading results are 16-bit; attention's logsumexp, its second, stays fp32.
        writes: a new tensor, the ``out=`` argument or the first operand.
        variant: calls that are of another kind.
    """

    name: str
    kind: str
    tensors: int
    rounded: int = 1
    writes: Writes = "new"
    variant: Variant | None = None

    @property
    def base(self) -> str:
        """The overload that computes the value for all variants: for a product with ``out=``, else the functional."""
        name = self.name.removesuffix(".out").removesuffix("_")
        return f"{name}.out" if self.kind == "product" else name

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that a call can be."""
        return (self.kind,) if self.variant is None else (self.kind, self.variant.kind)

    def kind_of(self, args: Sequence[Any]) -> str:
        """The kind that the call with ``args`` is."""
        return self.variant.kind if self.variant is not None and self.variant.holds(args) else self.kind


def _transposed_at(position: int) -> Variant:
    return Variant("transposed_convolution", lambda args: bool(args[position]))


#: Queries are of shape (batch, heads, length, width). From 512 on, bf16 units win: 0.6 to 0.9 of fp32's time.
_SHORT = Variant("short_attention_backward", lambda args: args[1].shape[-2] < 512)


def _with_variants(name: str, tensors: int) -> tuple[Operation, ...]:
    return (
        Operation(name, "product", tensors),
        Operation(f"{name}.out", "product", tensors, writes="out"),
        Operation(f"{name}_", "product", tensors, writes="self"),
    )


#: Every CPU kernel that eager PyTorch, autograd and inductor's generated code reach for a product of 16-bit tensors:
#: linear, matmul, einsum, bilinear, GRU cells and the math path of attention arrive at mm, addmm and bmm. Dot and
#: matrix-vector products are absent: PyTorch's own sum in fp32, and reading the matrix is all that they cost.
OPERATIONS: tuple[Operation, ...] = (
    Operation("mm", "product", 2),
    Operation("mm.out", "product", 2, writes="out"),
    Operation("bmm", "product", 2),
    Operation("bmm.out", "product", 2, writes="out"),
    *_with_variants("addmm", 3),
    *_with_variants("addbmm", 3),
    *_with_variants("baddbmm", 3),
    Operation("_addmm_activation", "product", 3),
    Operation("_addmm_activation.out", "product", 3, writes="out"),
    Operation("convolution", "convolution", 3, variant=_transposed_at(6)),
    Operation("convolution_backward", "convolution", 3, rounded=3, variant=_transposed_at(7)),
    Operation("_scaled_dot_product_flash_attention_for_cpu", "attention", 3),
    Operation(
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        "attention_backward",
        5,
        rounded=3,
        variant=_SHORT,
    ),
    Operation("mkldnn_rnn_layer", "recurrent", 7, rounded=3),
    Operation("mkldnn_rnn_layer_backward", "recurrent", 13, rounded=7),
)

_scratch = Scratch()

KINDS: tuple[str, ...] = tuple(dict.fromkeys(kind for operation in OPERATIONS for kind in operation.kinds))


def applies(
    operation: Operation, low: Collection[torch.dtype], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Whether the operands are 16-bit tensors of one dtype in ``low``; PyTorch refuses unlike ones in its own words."""
    dtype: torch.dtype = args[0].dtype
    out = kwargs.get("out")
    if dtype not in low or (out is not None and out.dtype is not dtype):
        return False
    return all(x is None or x.dtype is dtype for x in args[1 : operation.tensors])


def in_fp32(
    operation: Operation, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """Compute ``operation`` on 16-bit operands in fp32 and round once.

    Args:
        operation: what is computed; it ``applies`` to ``args`` and ``kwargs``, which are its own.
        call: PyTorch's own kernel of ``operation.base``, which is given the widened operands.

    Returns:
        What the operation returns, in the dtypes that PyTorch's own has.
    """
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
    """Round one of several results: a gradient not asked for is None, a workspace keeps its bytes."""
    if not isinstance(value, torch.Tensor) or value.dtype is not torch.float32:
        return value
    return value.to(low, memory_format=layout if value.ndim == 5 else torch.preserve_format)


def _written(out: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Round into ``out``, in the pass that copies. An ``out`` of another shape is resized, as in PyTorch."""
    if out.shape != result.shape:
        out.resize_(result.shape)
    return out.copy_(result)


def _layout(operation: Operation, args: Sequence[Any]) -> torch.memory_format:
    """The strides that PyTorch's own kernel would give: compiled code has been told to expect them.

    They differ from fp32's only in convolutions of volumes with channels last.
    """
    if operation.kind != "convolution" or args[1].ndim != 5:
        return torch.preserve_format
    if operation.name == "convolution":
        (x, weight, bias, *geometry), bias_sizes = args[:9], None
    else:
        (_, x, weight, bias_sizes, *geometry), bias = args[:10], None
    backend = torch._C._select_conv_backend(x, weight, bias, *geometry, bias_sizes)
    return torch._C._conv_determine_backend_memory_format(x, weight, backend)
