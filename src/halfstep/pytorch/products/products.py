"""16-bit products computed in fp32 units: kernels put before PyTorch's own for the CPU.

Where a CPU has no 16-bit units, PyTorch's bf16 and fp16 products are 4 to 300 times slower than fp32. These kernels
keep every tensor 16-bit and compute only the products in fp32 (:mod:`halfstep.pytorch.products.operations`). They are
process-wide: they hold in every thread, in backward, in a checkpoint's recompute and in compiled code.

Two kinds of products do not use them: those that inductor itself writes in C++ (``max_autotune``, flex attention), and
those of its ``cpp_wrapper=True``, which links to PyTorch's kernels directly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import get_args

import torch

from halfstep.errors import UsageError
from halfstep.machine.support import Support
from halfstep.options import ProductsMode
from halfstep.pytorch import capabilities
from halfstep.pytorch.products import python_kernel
from halfstep.pytorch.products.cpp_kernel import cpp_kernel
from halfstep.pytorch.products.dispatcher import exists
from halfstep.pytorch.products.operations import KINDS, OPERATIONS, Operation, Plan

#: 16-bit dtype -> the name of its precision in :func:`halfstep.pytorch.capabilities.support`
DTYPES: dict[torch.dtype, str] = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def choose(mode: ProductsMode, support: Support, kind: str = "product") -> bool:
    """Whether products of a 16-bit dtype are to be computed in fp32 units.

    Args:
        mode: ``native``: never; ``fp32``: always; ``auto``: where that is faster.
        support: what the CPU can do for the dtype.
        kind: one of :data:`~halfstep.pytorch.products.operations.KINDS`; units that are fast in general may be slow for
            one kind.

    Raises:
        UsageError: another mode; the message lists what is allowed.
    """
    if mode not in get_args(ProductsMode):
        raise UsageError(f"--products was given {mode!r}; allowed are {', '.join(get_args(ProductsMode))}.")
    if mode != "auto":
        return mode == "fp32"
    return support.kind == "fp32_units" or kind in support.slower


def plan(
    dtypes: Collection[torch.dtype],
    mode: ProductsMode = "fp32",
    supported: Callable[[str], Support] = capabilities.support,
) -> Plan:
    """For every kind of product, those of ``dtypes`` that are computed in fp32 units; kinds without any are left out.

    Raises:
        UsageError: a dtype that is not bfloat16 or float16.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise UsageError(
                f"Products in fp32 units were asked for {dtype}; allowed are bfloat16 and float16."
            )
    support = {dtype: supported(DTYPES[dtype]) for dtype in dtypes}
    chosen = {kind: frozenset(d for d in dtypes if choose(mode, support[d], kind)) for kind in KINDS}
    return {kind: low for kind, low in chosen.items() if low}


class Products:
    """Kernels in force in this process, until :meth:`remove`.

    Attributes:
        plan: for every kind of product, the dtypes computed in fp32.
    """

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self._undo = _put(planned)

    def remove(self) -> None:
        """Put PyTorch's own kernels back. Removing again does nothing."""
        global _current
        undo, self._undo = self._undo, _nothing
        undo()
        if _current is self:
            _current = None


_current: Products | None = None


class Listening:
    """Notes which kinds of product are computed in fp32 units, between :meth:`begin` and :meth:`end`."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def begin(self) -> None:
        """Begin to note, in all threads."""
        self._names.clear()
        _listen(self._names.add)

    def end(self) -> list[str]:
        """Stop; returns the kinds that were noted, in alphabetical order."""
        _listen(None)
        planned = _current.plan if _current is not None else {}
        kinds = (
            next((k for k in op.kinds if k in planned), op.kind)
            for op in OPERATIONS
            if op.name in self._names
        )
        return sorted(set(kinds))


def _listen(function: Callable[[str], None] | None) -> None:
    python_kernel.listen(function)
    in_cpp = cpp_kernel() if _current is not None else None
    if in_cpp is not None:
        in_cpp.listen(function)


def install(dtypes: Collection[torch.dtype], mode: ProductsMode = "fp32") -> Products:
    """Compute the CPU's products of ``dtypes`` (bfloat16, float16) in fp32 units from now on, in every thread.

    Kernels that are already installed stay if they are the same, and are replaced otherwise.

    Raises:
        UsageError: a dtype or a mode that is not allowed.
    """
    global _current
    planned = plan(dtypes, mode)
    if _current is not None and _current.plan == planned:
        return _current
    if _current is not None:
        _current.remove()
    _current = Products(planned)
    return _current


def _operations(planned: Plan) -> list[Operation]:
    """The planned operations that this version of PyTorch has."""
    wanted = [op for op in OPERATIONS if not planned.keys().isdisjoint(op.kinds)]
    return [op for op in wanted if exists(op.name)]


def _put(planned: Plan) -> Callable[[], None]:
    """Put kernels before PyTorch's own: only the planned ones, since each adds a call to its operation."""
    operations = _operations(planned)
    if not operations:
        return _nothing
    in_cpp = cpp_kernel()
    return python_kernel.put(operations, planned) if in_cpp is None else in_cpp.put(operations, planned)


def _nothing() -> None:
    """Undoes nothing, after :meth:`Products.remove`."""
