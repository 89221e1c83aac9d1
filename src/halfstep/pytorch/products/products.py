"""16-bit products computed in fp32 units: kernels put before PyTorch's own for the CPU.

Where a CPU has no 16-bit units, PyTorch's bf16 and fp16 products are 4 to 300 times slower than fp32. These kernels
keep every tensor 16-bit and compute only the products in fp32 (:mod:`halfstep.pytorch.products.kernels`). They are
process-wide: they hold in every thread, in backward, in a checkpoint's recompute and in compiled code.

Two ways lead past them: products that inductor writes itself in C++ (``max_autotune``, flex attention) and its
``cpp_wrapper=True``, which links to PyTorch's kernels directly.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from halfstep.errors import UsageError
from halfstep.pytorch import capabilities
from halfstep.pytorch.capabilities import Support
from halfstep.pytorch.products.dispatcher import Overrides, exists, overload, own_kernel
from halfstep.pytorch.products.kernels import KINDS, OPERATIONS, Operation, applies, in_fp32
from halfstep.takeover import ProductsMode

#: For every kind of product, the dtypes that are computed in fp32.
Plan = Mapping[str, frozenset[torch.dtype]]

#: The 16-bit dtypes and the precision that :func:`halfstep.pytorch.capabilities.support` knows each by.
DTYPES: dict[torch.dtype, str] = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def choose(mode: ProductsMode, support: Support, kind: str = "product") -> bool:
    """Whether products of a 16-bit dtype are to be computed in fp32 units.

    Args:
        mode: ``native``, never; ``fp32``, always; ``auto``, where that is faster.
        support: what the CPU does for the dtype.
        kind: one of :data:`halfstep.pytorch.products.kernels.KINDS`; units that are fast as a whole may be slow at one.

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
    """For every kind of product, the dtypes of ``dtypes`` that go to fp32 units; kinds without any are left out.

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
        self._seen: set[str] = set()
        self._for_transposed = Overrides()
        self._undo = self._register() if hasattr(torch.library, "get_kernel") else _enter(planned)

    def _register(self) -> Callable[[], None]:
        """Put kernels before PyTorch's own: only those planned, since each costs its operation a Python call."""
        operations = _operations(self.plan)
        own = {name: own_kernel(name, "CPU") for op in operations for name in (op.name, op.base)}
        lasting = Overrides()
        for operation in operations:
            kernel = _kernel(operation, self.plan, own[operation.name], own[operation.base], self._seen)
            passing = operation.kind == "convolution" and operation.kind not in self.plan
            (self._for_transposed if passing else lasting).put(operation.name, "CPU", kernel)
        return lasting.remove

    def settle(self) -> None:
        """The program has made its first steps: one that convolves without transposing pays no more calls for that."""
        if "convolution" in self._seen and "transposed_convolution" not in self._seen:
            self._for_transposed.remove()

    def remove(self) -> None:
        """Put PyTorch's own kernels back. Removing again does nothing."""
        global _current
        undo, self._undo = self._undo, _nothing
        undo()
        self._for_transposed.remove()
        if _current is self:
            _current = None


_current: Products | None = None


def install(dtypes: Collection[torch.dtype], mode: ProductsMode = "fp32") -> Products:
    """Compute the CPU's products of ``dtypes`` (bfloat16, float16) in fp32 units from now on, in every thread.

    What is installed already stays if it is the same, and is replaced if it is not. A PyTorch that cannot hand out
    its kernels gets :func:`products_mode` instead: eager code of the calling thread only.

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


def _kernel(
    operation: Operation, planned: Plan, own: Callable[..., Any], base: Callable[..., Any], seen: set[str]
) -> Any:
    """The kernel put before ``own``; ``base`` is PyTorch's own of ``operation.base``; ``seen`` is told the kinds."""
    ever = frozenset[torch.dtype]().union(*(planned.get(kind, ()) for kind in operation.kinds))

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        if args[0].dtype in ever:
            kind = operation.kind_of(args)
            seen.add(kind)
            if applies(operation, planned.get(kind, frozenset()), args, kwargs):
                return in_fp32(operation, functools.partial(base, keyset), args, kwargs)
        return own(keyset, *args, **kwargs)

    return kernel


def products_mode(dtypes: Collection[torch.dtype], mode: ProductsMode = "fp32") -> TorchDispatchMode:
    """The same arithmetic as :func:`install`, for the eager code inside a ``with``.

    It has to surround ``backward`` too, holds in one thread, and compiled code does not see it.

    Raises:
        UsageError: a dtype or a mode that is not allowed.
    """
    return _Mode(plan(dtypes, mode))


class _Mode(TorchDispatchMode):
    def __init__(self, planned: Plan) -> None:
        TorchDispatchMode.__init__(self)
        self._plan = planned
        self._table = {overload(op.name): (op, overload(op.base)) for op in _operations(planned)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._table or not args[0].is_cpu:
            return func(*args, **kwargs)
        operation, base = self._table[func]
        if not applies(operation, self._plan.get(operation.kind_of(args), frozenset()), args, kwargs):
            return func(*args, **kwargs)
        return in_fp32(operation, base, args, kwargs)


def _enter(planned: Plan) -> Callable[[], None]:
    stack = contextlib.ExitStack()
    stack.enter_context(_Mode(planned))
    return stack.close


def _nothing() -> None:
    """What is left to undo after :meth:`Products.remove`."""
