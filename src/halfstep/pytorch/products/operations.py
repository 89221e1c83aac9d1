"""The arithmetic of a 16-bit matrix unit on a CPU that has none: the table of operations for which it is done.

For 16-bit operands ``a`` and ``b`` of a product::

    result = round16( sum over k of float32(a[i, k]) * float32(b[k, j]) )

Products of two bf16 or two fp16 numbers are exact in fp32 (8 + 8 and 11 + 11 bits of significand fit in 24), sums
are fp32, and the result is rounded once, to nearest even. A bias, ``alpha`` and ``beta`` take part before the
rounding. The fp32 copies hold only during the call; operands and results stay 16-bit.

One kernel computes every operation. It is written twice: in C++, and in Python for systems without a compiler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

Writes = Literal["new", "out", "self"]
WRITES: tuple[Writes, ...] = get_args(Writes)

#: kind of product -> the dtypes that are computed in fp32
Plan = Mapping[str, frozenset[torch.dtype]]


@dataclass(frozen=True)
class Variant:
    """Calls of an operation that are a separate kind of product, recognised by their arguments.

    Units that are fast for other calls may be slow for them; see ``slower`` in :mod:`halfstep.pytorch.capabilities`.
    """

    kind: str  #: the name of the kind, for the user
    position: int  #: the place of the argument that decides: a flag that is set, or a tensor
    shorter_than: int | None = None  #: the tensor's last dimension but one is smaller than this

    def holds(self, args: Sequence[Any]) -> bool:
        """Whether the call with ``args`` is of this kind."""
        told = args[self.position]
        return bool(told) if self.shorter_than is None else told.shape[-2] < self.shorter_than


@dataclass(frozen=True)
class Operation:
    """An operation of the dispatcher that computes products."""

    name: str  #: the overload's name under ``aten``, such as ``mm`` or ``addmm.out``
    kind: str  #: the kind of product, for the user and for :func:`halfstep.pytorch.products.products.choose`
    tensors: int  #: how many leading arguments are operands (some may be None)
    rounded: int = 1  #: how many leading results are 16-bit; attention's logsumexp, its second, stays fp32
    writes: Writes = "new"  #: a new tensor, the ``out=`` argument or the first operand
    variant: Variant | None = None  #: calls that are of another kind

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
    return Variant("transposed_convolution", position)


#: Queries are of shape (batch, heads, length, width). From 512 on, bf16 units win: 0.6 to 0.9 of fp32's time.
_SHORT = Variant("short_attention_backward", 1, shorter_than=512)


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
    Operation("convolution_backward", "convolution_backward", 3, rounded=3, variant=_transposed_at(7)),
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

KINDS: tuple[str, ...] = tuple(dict.fromkeys(kind for operation in OPERATIONS for kind in operation.kinds))
