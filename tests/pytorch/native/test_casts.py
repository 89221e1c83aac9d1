"""``casts.c``: every number is cast as by PyTorch, whichever thread does it."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from halfstep.pytorch.native import builder as native
from halfstep.pytorch.products.cpp_kernel import CASTS

from ..conftest import compiled

KINDS = {(torch.bfloat16, "widen"): 0, (torch.float16, "widen"): 1, (torch.bfloat16, "round"): 2,
         (torch.float16, "round"): 3}  # fmt: skip
LOW = [torch.bfloat16, torch.float16]

#: none, one, some fewer and more than the CPU converts at once, and enough for one thread, two and all
SIZES = [0, 1, 7, 8, 15, 16, 17, 63, 65, 1000, 1 << 15, (1 << 15) + 1, 100_003, 1_000_037]


class _Cast(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_void_p),
        ("to", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("n", "row", "step")),
    ]


def cast(sources: list[Tensor], to: list[Tensor]) -> None:
    """Cast all of ``sources``, which have one or two dimensions, at once."""
    library = compiled(native.library(CASTS))
    widen = sources[0].dtype in LOW
    low = sources[0].dtype if widen else to[0].dtype
    rows = (_Cast * len(to))(
        *(
            (a.data_ptr(), b.data_ptr(), a.numel(), a.shape[-1], a.stride(0) if a.ndim > 1 else a.shape[-1])
            for a, b in zip(sources, to, strict=True)
        )
    )
    if library.hs_cast(rows, len(to), KINDS[low, "widen" if widen else "round"], torch.get_num_threads()):
        pytest.skip("this CPU has no such conversion")


def one(source: Tensor, dtype: torch.dtype) -> Tensor:
    result = torch.full_like(source, 7, dtype=dtype)
    cast([source], [result])
    return result


def same(a: Tensor, b: Tensor) -> bool:
    """Bit by bit, signs of zeros too, but for what a NaN carries."""
    bits = {2: torch.int16, 4: torch.int32}[a.element_size()]
    equal = (a.view(bits) == b.view(bits)) | (a.isnan() & b.isnan())
    return a.dtype is b.dtype and bool(equal.all())


def every(low: torch.dtype) -> Tensor:
    """All 65,536 numbers of a 16-bit format."""
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(low)


@pytest.mark.parametrize("low", LOW, ids=str)
def test_every_16_bit_number_is_widened_exactly(low: torch.dtype) -> None:
    assert same(one(every(low), torch.float32), every(low).float())


@pytest.mark.parametrize("low", LOW, ids=str)
def test_fp32_is_rounded_to_nearest_even(low: torch.dtype) -> None:
    """At every 16-bit number, halfway to the next, and one fp32 number to either side of those."""
    at = every(low).float()
    at = at[at.isfinite()].sort().values
    beyond = torch.tensor([65519.996, 65520.0, 65536.0, 3.3961e38, 3.4028235e38, torch.inf, torch.nan])
    points = torch.cat(
        [at, at[:-1] / 2 + at[1:] / 2, beyond, -beyond, torch.tensor([0.0, -0.0, 1e-45, -1e-45])]
    )
    numbers = torch.cat(
        [points, *(points.nextafter(points.new_tensor(end)) for end in (-torch.inf, torch.inf))]
    )
    assert same(one(numbers, low), numbers.to(low))


@pytest.mark.parametrize("low", LOW, ids=str)
def test_tensors_of_all_sizes_are_cast_at_once(low: torch.dtype) -> None:
    """And nothing beside them is written to."""
    wide = [torch.randn(n) for n in SIZES]
    rounded = [torch.full((n + 1,), 7, dtype=low) for n in SIZES]
    cast(wide, rounded)
    assert all(same(a[:-1], b.to(low)) and a[-1] == 7 for a, b in zip(rounded, wide, strict=True))
    again = [torch.full((n + 1,), 7.0) for n in SIZES]
    cast([x[:-1] for x in rounded], again)
    assert all(same(a[:-1], b[:-1].float()) and a[-1] == 7 for a, b in zip(again, rounded, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_does_all_of_it(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sources = [torch.randn(n).half() for n in (100_003, 5, 70_001)]
        results = [torch.full_like(x, 7, dtype=torch.float32) for x in sources]
        cast(sources, results)
    finally:
        torch.set_num_threads(before)
    assert all(same(a, b.float()) for a, b in zip(results, sources, strict=True))


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("row", [1, 32, 100, 256])
def test_rows_that_lie_apart_are_cast_side_by_side(row: int, low: torch.dtype) -> None:
    """Beside a dense tensor, in one thread and in several."""
    for rows in (1, 3, 700):
        whole = torch.randn(rows, row + 17)
        parts, dense = [whole[:, 5 : 5 + row], whole.to(low)[:, 5 : 5 + row]], torch.randn(70_001)
        rounded = [torch.full((rows, row), 7, dtype=low), torch.full((70_001,), 7, dtype=low)]
        cast([parts[0], dense], rounded)
        assert all(same(a, b.to(low)) for a, b in zip(rounded, (parts[0], dense), strict=True))
        wide = torch.full((rows, row), 7.0)
        cast([parts[1]], [wide])
        assert same(wide, parts[1].float())
