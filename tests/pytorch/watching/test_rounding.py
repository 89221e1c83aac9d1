"""What rounding does to operands, counted: held to exact arithmetic, number by number."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from halfstep import codec
from halfstep.diagnosis.evidence import Numbers
from halfstep.diagnosis.shares import shares
from halfstep.precisions.exact import round_exact
from halfstep.precisions.formats import BlockFormat, Format, get, get_scalar
from halfstep.pytorch.emulation.operands import round_operand
from halfstep.pytorch.watching.numbers import Tally
from halfstep.pytorch.watching.rounding import Rounded, in_units

FORMATS = ("tf32", "fp8_e4m3", "fp8_e5m2", "mxfp8_e4m3", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "nvfp4")


def wide(magnitude: float) -> Tensor:
    """40 by 70 numbers over some thirty binades, zeros among them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 70, generator=generator) * torch.exp2(
        torch.rand(40, 70, generator=generator) * 30 - 25
    )
    x[:, 3] = 0.0
    x[7] = 1.95
    return x * magnitude


@pytest.mark.parametrize("magnitude", [1.0, 1e-20, 3e25])
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_counted_is_what_rounding_does(name: str, axis: int, magnitude: float) -> None:
    x = wide(magnitude)
    counted = Rounded()
    counted.add(x, name, axis)
    rounded = round_operand(x, name, axis)
    flushed = (x != 0) & (rounded == 0)
    assert counted.flushed == int(flushed.sum())
    assert counted.nonzero == int((x != 0).sum())
    lost = math.fsum(abs(v) for v in x[flushed].tolist())
    assert counted.lost == pytest.approx(lost, rel=1e-12)
    whole = x.double().abs().sum(axis)
    share = torch.where(flushed, x, 0).double().abs().sum(axis) / whole
    assert counted.vectors == int((whole > 0).sum())
    assert counted.emptied == pytest.approx(float(share[whole > 0].sum()), rel=1e-12)


@pytest.mark.parametrize("name", FORMATS)
def test_subnormal_and_overflowing_numbers_by_exact_arithmetic(name: str) -> None:
    x, row = wide(1.0), get(name)
    counted = Rounded()
    counted.add(x, name, -1)
    units, element = in_units(x, row, -1)
    assert element == (row.element if isinstance(row, BlockFormat) else row)
    # the same digits, and exponents up to where nothing overflows
    endless = Format("endless", "", element.exponent_bits + 2, element.significand_bits, element.bias)
    subnormal = over = 0
    for value in units.flatten().tolist():
        exact = Fraction(abs(value))
        flushed = round_exact(abs(value), element) == 0
        subnormal += not flushed and 0 < exact < Fraction(element.smallest_normal)
        over += round_exact(abs(value), endless) > element.largest
    assert (counted.subnormal, counted.overflowing) == (subnormal, over)


def test_a_clamped_number_counts_by_what_it_loses() -> None:
    """MXFP4: the scale of a block up to 1.95 is 2^0 / 2^2; its largest number is 6/4."""
    counted = Rounded()
    counted.add(torch.full((2, 32), 1.95), "mxfp4", -1)
    assert counted.overflowing == 64
    assert counted.clamped / counted.magnitude == pytest.approx(1 - 1.5 / 1.95, rel=1e-6)


def test_a_convolutions_vectors_are_its_samples_and_its_filters() -> None:
    x = torch.ones(3, 4, 5, 5)
    x[0] *= 2.0**30
    for operand, axis in ((x, 1), (x.transpose(0, 1), 0)):
        counted = Rounded()
        counted.add(operand, "fp8_e4m3", axis)
        assert (counted.vectors, counted.emptied) == (3, 2.0)


def test_what_is_not_finite_is_not_counted() -> None:
    counted = Rounded()
    counted.add(torch.tensor([[1.0, math.inf, math.nan, 0.0]]), "fp8_e4m3", -1)
    assert (counted.nonzero, counted.flushed, counted.overflowing, counted.magnitude) == (1, 0, 0, 1.0)


def boundaries(format: str) -> list[float]:
    """Numbers on which rounding decides, each with its two neighbours in float32; and 2,000 others."""
    row = get_scalar(format)
    at = [
        float(row.flush_threshold), row.smallest_subnormal, row.smallest_normal, row.largest,
        float(row.overflow_threshold), 2.0**row.max_exponent, 1.0, 1.5 * row.smallest_subnormal,
    ]  # fmt: skip
    edges = torch.tensor([x for x in at if 2.0**-126 < x < 3.4e38], dtype=torch.float32)
    near = [torch.nextafter(edges, torch.full_like(edges, way)) for way in (0.0, math.inf)]
    other = torch.exp2(torch.rand(2000, generator=torch.Generator().manual_seed(1)) * 60 - 40)
    every = torch.cat([edges, *near, other])
    return [x for x in torch.cat([every, -every]).tolist() if 2.0**-126 <= abs(x) < math.inf]


@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**-7])
@pytest.mark.parametrize("format", ["fp16", "bf16"])
def test_shares_from_exponents_are_exactly_those_of_rounding(format: str, scale: float) -> None:
    """2^-25 becomes zero in fp16, a tie to even, and 65520 overflows: both lie within a bin of exponents."""
    row = get_scalar(format)
    true = boundaries(format)
    on_them = [x for x in true if 2.0**-126 <= abs(x) * scale < 3.4e38]
    tally = Tally()
    tally.add(torch.tensor(on_them, dtype=torch.float32) * scale, "fp32", scale=scale)
    numbers = codec.read(Numbers, tally.fields())
    found = shares(numbers, format, scale)
    flushed = subnormal = over = 0
    for value in on_them:
        scaled = abs(value) * scale
        rounded = round_exact(scaled, row)
        flushed += rounded == 0
        subnormal += rounded != 0 and scaled < row.smallest_normal
        over += math.isinf(rounded)
    assert found.flushed * len(on_them) == pytest.approx(flushed, abs=1e-6)
    assert found.subnormal * len(on_them) == pytest.approx(subnormal, abs=1e-6)
    assert found.overflowing * len(on_them) == pytest.approx(over, abs=1e-6)
