"""Where a step's time goes: every instant of a profiled step belongs to one kind of work, so the shares sum to one.

On a CPU an instant belongs to the innermost operation that runs then: to its kind, or to that of the nearest operation
around it that has one. On a GPU it belongs to the kernel that runs then: to the kind of the operation that launched it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

#: the kinds of work; an instant at which several streams work belongs to the first of their kinds in this order
PRODUCTS, OTHER, CASTS, OPTIMIZER, DATA, HOST = "products", "other", "casts", "optimizer", "data", "host"
KINDS = (PRODUCTS, OTHER, CASTS, OPTIMIZER, DATA, HOST)

_PRODUCTS = re.compile(
    r"aten::((add|addb|b|badd?b|_scaled_)?mm|(add)?mv|linear|matmul|mkldnn_linear|mkldnn_rnn_layer|_cudnn_rnn)"
    r"(_backward)?$|.*(convolution|conv\dd|attention)"
)
#: regions of the profiler -> the kind of everything that runs inside
OPTIMIZER_STEP = "Optimizer."
_REGIONS = ((OPTIMIZER_STEP, OPTIMIZER), ("enumerate(DataLoader)", DATA))

#: the profiler's name for a compiled forward pass, and inductor's name for its code, in a backward pass, too
_COMPILED = ("Torch-Compiled Region", "## Call CompiledFxGraph")

#: inductor's own kernels; its templates are those of products
_COMPILED_KERNEL = re.compile(r"triton_|.*cpp_fused")

#: the names of kernels of products in cuBLAS, cuDNN, CUTLASS, FlashAttention, rocBLAS and Triton's templates
_PRODUCT_KERNEL = re.compile(
    r"gemm|gemv|nvjet|cutlass|xmma|convolve|conv2d|dgrad|wgrad|flash|fmha|sdpa|Cijk_|triton_tem_",
    re.IGNORECASE,
)

#: the work of :mod:`halfstep.pytorch.products` around a product in fp32 units
CAST = "halfstep: cast"

#: computations that only check the program's own
LOOK = "halfstep: look"

#: the region of an optimizer's closure: a forward and a backward pass inside the optimizer's step
CLOSURE = "halfstep: closure"


@dataclass(frozen=True, slots=True)
class Event:
    """An operation of the profile, times in ns; ``thread`` is the profiler's number for it."""

    name: str
    start: int
    end: int
    thread: int = 0
    #: the number of an operation; device work has the number of the operation that launched it
    correlation: int = 0


def kind_of(event: Event) -> str:
    """The kind of an operation by itself; empty for one that only contains others."""
    name = event.name
    region = next((kind for start, kind in _REGIONS if name.startswith(start)), "")
    if region:
        return region
    if _COMPILED_KERNEL.match(name):  # its name has those of all operations that are fused in it
        return PRODUCTS if name.startswith("triton_tem_") else OTHER
    if _PRODUCTS.match(name):
        return PRODUCTS
    if name in ("aten::_to_copy", CAST):
        return CASTS
    if name.startswith(_COMPILED):
        return OTHER
    return ""


def kinds(events: Sequence[Event]) -> list[tuple[Event, str]]:
    """The events of one thread in order, each with its kind: its own, or that of the nearest event around it.

    Everything inside an optimizer's step or a data loader belongs to these, except an optimizer's closure. An operation
    without any kind is ``other``.
    """
    found: list[tuple[Event, str]] = []
    around: list[tuple[int, str]] = []
    for event in sorted(events, key=lambda e: (e.start, -e.end)):
        while around and around[-1][0] <= event.start:
            around.pop()
        outer = around[-1][1] if around and event.name != CLOSURE else ""
        kind = outer if outer in (OPTIMIZER, DATA) else kind_of(event) or outer
        if not kind and event.name.startswith("aten::"):
            kind = OTHER
        around.append((event.end, kind))
        found.append((event, kind or HOST))
    return found


def host_time(found: Iterable[tuple[Event, str]], start: int, end: int) -> dict[str, int]:
    """Nanoseconds between ``start`` and ``end`` by the kind of the innermost event; ``host`` outside of all events."""
    spent: dict[str, int] = defaultdict(int)
    open_: list[tuple[int, str]] = []
    at = start
    for event, kind in found:
        if event.end <= start or event.start >= end:
            continue
        while open_ and open_[-1][0] <= event.start:
            at = _spend(spent, at, *open_.pop())
        at = _spend(spent, at, event.start, open_[-1][1] if open_ else HOST)
        open_.append((min(event.end, end), kind))
    while open_:
        at = _spend(spent, at, *open_.pop())
    _spend(spent, at, end, HOST)
    return dict(spent)


def _spend(spent: dict[str, int], at: int, until: int, kind: str) -> int:
    spent[kind] += max(until - at, 0)
    return max(at, until)


def device_time(
    device: Iterable[tuple[Event, str]], host: Iterable[tuple[Event, str]], start: int, end: int
) -> dict[str, int]:
    """Nanoseconds of a GPU by kind; while it idles, ``data`` if the host loads data then, else ``host``.

    Args:
        device: the work of the GPU in all streams, with its kinds.
        host: the operations of the thread that trains, with their kinds.
        start, end: the step, in ns.
    """
    changes: list[tuple[int, int, str]] = []
    loading = [(event, "loading") for event, kind in host if kind == DATA]
    for event, kind in [*device, *loading]:
        if event.end > start and event.start < end:
            changes += [(max(event.start, start), 1, kind), (min(event.end, end), -1, kind)]
    spent: dict[str, int] = defaultdict(int)
    running: dict[str, int] = defaultdict(int)
    at = start
    for when, change, kind in sorted(changes):
        at = _spend(spent, at, when, _first(running))
        running[kind] += change
    _spend(spent, at, end, HOST)
    return dict(spent)


def _first(running: Mapping[str, int]) -> str:
    busy = next((kind for kind in KINDS if running.get(kind)), None)
    return busy or (DATA if running.get("loading") else HOST)


def launched(device: Iterable[Event], host: Iterable[tuple[Event, str]]) -> list[tuple[Event, str]]:
    """The device work with the kind of the operation that launched it; a copy from the host is ``data``.

    No operation launches the work that a CUDA graph replays: there a kernel's own name tells whether it is a product.
    """
    by_operation = {event.correlation: kind for event, kind in host if event.correlation}
    return [(event, _kind_on_device(event, by_operation.get(event.correlation, OTHER))) for event in device]


def _kind_on_device(event: Event, launched_by: str) -> str:
    if "HtoD" in event.name:
        return DATA
    if launched_by not in (OTHER, HOST):
        return launched_by
    return PRODUCTS if _PRODUCT_KERNEL.search(event.name) else OTHER


def shares(spent: Mapping[str, int]) -> dict[str, float]:
    """Each kind's share of the step; they sum to one. Kinds without any time are left out."""
    total = sum(spent.values())
    return {kind: spent[kind] / total for kind in KINDS if spent.get(kind)} if total else {}
