"""fp32 numbers as bf16 and a remainder: rounded as exact arithmetic has it, and joined bit for bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from halfstep.precisions.exact import round_exact
from halfstep.pytorch.lean import split as module
from halfstep.pytorch.lean.split import CHUNK, Parts, join, split

from ..conftest import compiled

#: of a number's lower half: none, the smallest, those around half of the last place of bf16, and all
LOWER = (0, 1, 0x1234, 0x7FFF, 0x8000, 0x8001, 0xC0DE, 0xFFFF)


@pytest.fixture(params=["in C", "by PyTorch's operations"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pass in C, and PyTorch's operations, which do the same where there is no compiler."""
    if request.param == "in C":
        compiled(module.kernels())
    else:
        monkeypatch.setattr(module, "kernels", lambda: None)
    return str(request.param)


def of_bits(bits: Tensor) -> Tensor:
    """Whole numbers from 0 to 2^32 - 1 as the fp32 numbers with these bits."""
    return bits.to(torch.int32).view(torch.float32)


def parts_of(wide: Tensor) -> Parts:
    parts = Parts.like(torch.empty_like(wide, dtype=torch.bfloat16))
    split([wide], [parts])
    return parts


def joined(parts: Parts) -> Tensor:
    wide = parts.empty()
    join([parts], [wide])
    return wide


def made_quiet(wide: Tensor) -> Tensor:
    """Bits; signalling NaNs as quiet ones."""
    bits = wide.view(torch.int32)
    return torch.where(wide.isnan(), bits | 0x400000, bits)


def assert_exact(wide: Tensor) -> None:
    """It comes back; its bf16 numbers are NaN where it is; all others are the integers' rounding half away."""
    parts = parts_of(wide)
    assert torch.equal(joined(parts).view(torch.int32), made_quiet(wide))
    assert torch.equal(parts.weight.isnan(), wide.isnan())
    u = wide.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    sign, magnitude = u >> 31, u & 0x7FFFFFFF
    rounded = (sign << 15) | ((magnitude + 0x8000) >> 16)
    there = ~wide.isnan()
    assert torch.equal((parts.weight.view(torch.int16).to(torch.int64) & 0xFFFF)[there], rounded[there])


def test_every_upper_half_comes_back() -> None:
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    assert_exact(of_bits(torch.cat([upper | lower for lower in LOWER])))


def test_lower_halves_drawn_by_chance_come_back(long: bool) -> None:
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    for _ in range(1000 if long else 3):
        assert_exact(of_bits(upper | torch.randint(1 << 16, upper.shape)))


def half_away(x: float) -> float:
    """x to the nearest bf16 number by exact arithmetic; the one further from zero where two are as near."""
    below = round_exact(Fraction(x), "bf16", "toward_zero")
    quantum = Fraction(2) ** (max(math.frexp(x)[1] - 1, -126) - 7)
    above = Fraction(below) + math.copysign(1, x) * quantum
    nearest = Fraction(below) if abs(Fraction(x) - Fraction(below)) < quantum / 2 else above
    return math.copysign(math.inf if abs(nearest) >= 2**128 else float(nearest), x)


def finite_numbers() -> Iterator[float]:
    random = torch.Generator().manual_seed(0)
    some = torch.randint(0, 0x7F800000, (300,), generator=random).tolist()
    edges = (
        0,
        1,
        0x7FFF,
        0x8000,
        0x8001,
        0x7FFFFF,
        0x7F8000,
        0x800000,
        0x3F808000,
        0x7F7F7FFF,
        0x7F7F8000,
        0x7F7FFFFF,
    )
    for bits in (*edges, *some):
        for sign in (0, 1 << 31):
            yield struct.unpack("f", struct.pack("I", bits | sign))[0]


def test_halves_are_rounded_away_from_zero_as_exact_arithmetic_has_it() -> None:
    numbers = list(finite_numbers())
    weights = parts_of(torch.tensor(numbers)).weight.double().tolist()
    assert [w.hex() for w in weights] == [half_away(x).hex() for x in numbers]


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF80FFFF, 0x7FC00000])
def test_a_nan_stays_one_whatever_its_bits(bits: int) -> None:
    parts = parts_of(of_bits(torch.tensor([bits])))
    assert parts.weight.isnan().all()
    assert joined(parts).view(torch.int32).item() & 0xFFFFFFFF == bits | 0x400000


#: one and some numbers, and enough for all threads, with a rest
SHAPES = [(), (0,), (1,), (3, 5), (CHUNK + 1,), (3, 100_003)]


def test_many_tensors_at_once_of_every_shape_and_order_of_dimensions() -> None:
    wide = [torch.randn(shape) for shape in SHAPES]
    wide += [torch.randn(5, 7).t(), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)]
    wide += [torch.randn(6, 8)[::2, 1::3], torch.randn(3).expand(2, 3).clone().t()]
    parts = [Parts.like(torch.empty_like(x, dtype=torch.bfloat16)) for x in wide]
    split(wide, parts)
    back = [part.empty() for part in parts]
    join(parts, back)
    for x, part, again in zip(wide, parts, back, strict=True):
        assert torch.equal(again, x)
        assert torch.equal(part.weight, parts_of(x.contiguous()).weight)


def test_parts_of_a_larger_tensor_leave_the_rest_alone() -> None:
    wide, weight = torch.randn(4, 6), torch.zeros(4, 6, dtype=torch.bfloat16)
    part = Parts(weight[:, 1:3], torch.zeros(4, 6, dtype=torch.int16)[:, 1:3])
    split([wide[:, 1:3]], [part])
    assert torch.equal(joined(part), wide[:, 1:3])
    assert weight[:, 3:].eq(0).all()
    assert weight[:, 0].eq(0).all()
