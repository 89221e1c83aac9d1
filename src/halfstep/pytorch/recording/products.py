"""Counts a step's matrix products by format, with PyTorch's profiler, which changes nothing in the program.

A dispatch mode would make Dynamo skip the program's compiled frames, and operations of higher order raise. The
profiler's observers sit in the dispatcher, below autocast, batching and compiled code. They get the shapes and types of
the operands of each call, also of calls in compiled code. The formulas are PyTorch's own
(``torch.utils.flop_counter``).
"""

from __future__ import annotations

import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from halfstep.pytorch.dtypes import format_name
from halfstep.pytorch.fp32_units import units_of
from halfstep.pytorch.recording.flops import EMULATED, FORMULAS, Product, odd_sizes
from halfstep.pytorch.recording.profiler import Profiler, of_the_step
from halfstep.pytorch.recording.timeline import CAST, CLOSURE, LOOK, OPTIMIZER_STEP

#: the profiler's name of a dtype -> the dtype
_DTYPES = {
    "float": torch.float32,
    "double": torch.float64,
    "c10::BFloat16": torch.bfloat16,
    "c10::Half": torch.float16,
    "c10::Float8_e4m3fn": torch.float8_e4m3fn,
    "c10::Float8_e5m2": torch.float8_e5m2,
    "c10::complex<float>": torch.complex64,
    "c10::complex<double>": torch.complex128,
    "signed char": torch.int8,
    "unsigned char": torch.uint8,
    "short int": torch.int16,
    "int": torch.int32,
    "long int": torch.int64,
    "long": torch.int64,
}

#: the names of the regions in which Dynamo and Inductor trace and compile; CUDA graphs are recorded in one, too
_COMPILING, _CUDA_GRAPH = " (dynamo_timed)", "CUDAGraph"
#: Inductor's compiled graphs; its templates of products are kernels that call no operator
_COMPILED_GRAPH, _TEMPLATES = "## Call CompiledFxGraph", ("triton_tem_", "micro_gemm")

#: the names of sums over ranks in the backends of torch.distributed
_REDUCES = re.compile(r"(gloo|nccl|xccl|ucc|mpi|hccl):_?(all_?)?reduce")

TEMPLATES = (
    "compiled code computed products in kernels of its own (max-autotune, flex_attention), not in operators"
)


@dataclass
class Counted:
    """The products of a step."""

    #: FLOPs by the format of the operands
    flops: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    odd: int = 0  #: FLOPs of products whose sizes do not suit matrix units
    #: FLOPs by format inside an optimizer's step (Muon's), which are not in the two others
    optimizer: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    #: bytes that ranks have summed (gradients), by the format of the sum
    reduced: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    absent: str = ""  #: why they could not be counted; empty if they were


class ProductCounter:
    """Counts the FLOPs of matrix products between :meth:`begin` and :meth:`end`, or as a context."""

    def __init__(self, emulated: str = "emulated") -> None:
        self._emulated = emulated
        self._profiler = Profiler(record_shapes=True)
        self.counted = Counted()

    @property
    def flops(self) -> dict[str, int]:
        """FLOPs by format of all products."""
        return self.counted.flops

    def begin(self) -> None:
        """Start to count, in every thread that takes part in the step."""
        self._profiler.begin()

    def end(self) -> None:
        """Stop, and count."""
        events = self._profiler.end()
        self.counted = count(of_the_step(events, self._profiler.beside), self._emulated)
        self.counted.absent = self._profiler.absent or self.counted.absent

    def __enter__(self) -> ProductCounter:
        self.begin()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()


def units_now(product: str) -> str:
    """The format of the units in which a product of fp32 numbers runs in this process, by its operator's name."""
    kind = "rnn" if "rnn" in product else "conv" if "conv" in product else "matmul"
    return units_of(kind, torch.cuda.is_initialized())


@dataclass
class _Found:
    """A product's event, the products inside it, and whether a cast for fp32 units is inside, too."""

    event: Any
    in_optimizer: bool
    inner: list[_Found] = field(default_factory=list)
    cast: bool = False


def count(
    events: Iterable[Any], emulated: str = "emulated", units: Callable[[str], str] = units_now
) -> Counted:
    """Count the products among Kineto's events, which have shapes.

    Args:
        units: the format of the units in which a product of fp32 numbers runs, by its operator's name.
    """
    events = list(events)
    counted = Counted()
    compiled = False
    for event in events:
        if _REDUCES.match(event.name()) and event.shapes() and (dtype := _DTYPES.get(event.dtypes()[0])):
            counted.reduced[format_name(dtype)] += math.prod(event.shapes()[0]) * dtype.itemsize
    for thread in _by_thread(events).values():
        for found in _outermost(thread):
            for product in _resolved(found, counted):
                name = emulated if product.name in EMULATED else _format(product, units)
                (counted.optimizer if found.in_optimizer else counted.flops)[name] += product.flops
                if not found.in_optimizer:
                    shapes = [shape for shape, _ in product.operands]
                    counted.odd += product.flops * odd_sizes(product.name.rpartition("::")[2], shapes)
        compiled = compiled or any(event.name().startswith(_COMPILED_GRAPH) for event in thread)
    if compiled and _has_templates():
        counted.absent = TEMPLATES
    return counted


def _by_thread(events: Iterable[Any]) -> dict[int, list[Any]]:
    """The events that matter, by thread and in order; an event comes before those inside it."""
    threads: dict[int, list[Any]] = defaultdict(list)
    for event in events:
        name = event.name()
        if name in FORMULAS or name in EMULATED or name in (CAST, CLOSURE) or _is_region(name):
            threads[event.start_thread_id()].append(event)
    for thread in threads.values():
        thread.sort(key=lambda event: (event.start_ns(), -event.end_ns()))
    return threads


def _is_region(name: str) -> bool:
    return _is_not_the_programs(name) or name.startswith((OPTIMIZER_STEP, _COMPILED_GRAPH))


def _is_not_the_programs(name: str) -> bool:
    """Whether the work inside is only a trace with empty tensors, a timing to choose a kernel, or a look."""
    return name == LOOK or (name.endswith(_COMPILING) and not name.startswith(_CUDA_GRAPH))


def _outermost(thread: Sequence[Any]) -> list[_Found]:
    """The products that lie in no other product and in no region of a compiler or a look."""
    outermost: list[_Found] = []
    around: list[tuple[int, str, _Found | None]] = []
    for event in thread:
        name, start = event.name(), event.start_ns()
        while around and around[-1][0] <= start:
            around.pop()
        outer = next((found for _, _, found in reversed(around) if found is not None), None)
        found = None
        if name == CAST and outer is not None:
            outer.cast = True
        elif (name in FORMULAS or name in EMULATED) and not any(
            _is_not_the_programs(region) for _, region, _ in around
        ):
            regions = [r for _, r, _ in around if r == CLOSURE or r.startswith(OPTIMIZER_STEP)]
            found = _Found(event, bool(regions) and regions[-1] != CLOSURE)
            (outermost if outer is None else outer.inner).append(found)
        around.append((event.end_ns(), name, found))
    return outermost


def _resolved(found: _Found, counted: Counted) -> list[Product]:
    """The products that an event counts as: itself, or the ones inside it.

    Batching (``vmap``), emulation and autocast show a product first as it was called, and inside it as it runs.
    Products in fp32 units (with a cast inside) count as they were called.
    """
    inner = [product for each in found.inner for product in _resolved(each, counted)]
    own = Product.of(found.event)
    if own is None:
        if not inner:
            counted.absent = f"the FLOPs of {found.event.name()} are not known from its operands' shapes"
        return inner
    emulated = any(product.name in EMULATED for product in inner)
    flops = sum(product.flops for product in inner)
    runs = emulated or flops > own.flops or (flops == own.flops and _kinds(inner) != _kinds([own]))
    return inner if runs and not found.cast else [own]


def _kinds(products: Iterable[Product]) -> set[str]:
    """The types of factors; a product under autocast may be called with several, and runs with one."""
    return {kind for product in products for _, kind in product.operands}


def _format(product: Product, units: Callable[[str], str]) -> str:
    """The format of a product's operands inside the matrix unit."""
    kind = product.operands[1][1]
    dtype = _DTYPES.get(kind)
    if dtype is torch.float32:
        return units(product.name)
    return kind.removeprefix("c10::").lower() if dtype is None else format_name(dtype)


def _has_templates() -> bool:
    """Whether the code that Inductor has written contains kernels for products."""
    codecache = sys.modules.get("torch._inductor.codecache")
    modules = [] if codecache is None else codecache.PyCodeCache.modules
    sources = (Path(module.__file__) for module in modules if module.__file__)
    return any(template in path.read_text() for path in sources if path.exists() for template in _TEMPLATES)
