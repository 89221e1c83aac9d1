"""The exact reference against NumPy, ml_dtypes and its own definition: the nearest number, ties to even."""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfstep.errors import UsageError
from halfstep.precisions.encoding import decode, encode
from halfstep.precisions.exact import floor_log2, round_exact
from halfstep.precisions.exact_blocks import round_tensor_exact
from halfstep.precisions.explain import explain
from halfstep.precisions.formats import FORMATS, Format, get, get_scalar

ML_DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
SCALARS = [row for row in FORMATS.values() if isinstance(row, Format)]
SIGNED = [row for row in SCALARS if not row.scale]
TINY = [row for row in SIGNED if row.bits <= 8]
finite = st.floats(allow_nan=False, allow_infinity=False)


def numbers(row: Format) -> list[float]:
    """The format's numbers from zero up."""
    return [decode(code, row) for code in range(row.largest_code + 1)]


def same(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


@pytest.mark.parametrize("row", [*TINY, get_scalar("fp16")], ids=lambda row: row.name)
def test_ties_go_to_the_even_code_and_their_neighbours_to_the_nearer_number(row: Format) -> None:
    values = numbers(row)
    step = 1 if row.bits <= 8 else 97
    for code in range(0, len(values) - 1, step):
        low, high = Fraction(values[code]), Fraction(values[code + 1])
        middle, hair = (low + high) / 2, (high - low) / 2**40
        even = low if code % 2 == 0 else high
        assert round_exact(middle, row) == even
        assert round_exact(middle - hair, row) == low
        assert round_exact(middle + hair, row) == high
        assert round_exact(-middle - hair, row) == -high
        assert round_exact(high - hair, row, "toward_zero") == low
        assert round_exact(hair - high, row, "toward_zero") == -low


@pytest.mark.parametrize("name", ML_DTYPES)
@given(x=st.floats(width=32))
@settings(max_examples=300)
def test_float32_rounds_as_in_ml_dtypes(name: str, x: float) -> None:
    row = get_scalar(name)
    with np.errstate(over="ignore"):
        expected = float(np.float32(x).astype(ML_DTYPES[name]))
    # ml_dtypes turns NaN into zero where the format has none; halfstep leaves it
    assert same(round_exact(x, row), math.nan if math.isnan(x) else expected)


@given(x=st.floats(width=32))
@settings(max_examples=300)
def test_e4m3_overflow_to_nan_is_that_of_ml_dtypes(x: float) -> None:
    expected = float(np.float32(x).astype(ml_dtypes.float8_e4m3fn))
    assert same(round_exact(x, "fp8_e4m3", overflow="nan"), expected)


@given(x=finite)
def test_fp32_rounds_as_numpy_does(x: float) -> None:
    with np.errstate(over="ignore"):
        assert same(round_exact(x, "fp32"), float(np.float64(x).astype(np.float32)))


@given(x=st.fractions())
def test_fp64_rounds_fractions_as_python_does(x: Fraction) -> None:
    assert round_exact(x, "fp64") == x.numerator / x.denominator


@pytest.mark.parametrize("row", SIGNED, ids=lambda row: row.name)
@given(x=finite)
@settings(max_examples=50)
def test_rounding_is_idempotent_odd_and_brackets(row: Format, x: float) -> None:
    down = round_exact(x, row, "toward_zero")
    near = round_exact(x, row)
    assert same(round_exact(near, row), near)
    assert same(round_exact(-x, row), -near)
    assert abs(down) <= abs(x)
    if abs(x) <= row.largest:
        assert near in (down, round_exact(x, row, "stochastic", random=1 - Fraction(1, 2**2000)))
        assert encode(near, row) >= 0


def test_float64_is_not_rounded_twice() -> None:
    x = 1 + 2.0**-11 + 2.0**-30
    assert round_exact(x, "fp16") == 1.0009765625
    assert float(np.float32(x).astype(np.float16)) == 1.0  # by way of float32 the tie is not seen


@pytest.mark.parametrize(
    ("x", "name", "overflow", "expected"),
    [(65519.999, "fp16", None, 65504.0), (65520.0, "fp16", None, math.inf), (-65520.0, "fp16", None, -math.inf),
     (65520.0, "fp16", "saturate", 65504.0), (65520.0, "fp16", "nan", math.nan),
     (math.inf, "fp16", "saturate", 65504.0),
     (464.0, "fp8_e4m3", "nan", 448.0), (464.001, "fp8_e4m3", "nan", math.nan), (-math.inf, "fp8_e4m3", None, -448.0),
     (61440.0, "fp8_e5m2", None, math.inf), (math.nan, "fp4_e2m1", None, math.nan), (7.0, "fp4_e2m1", None, 6.0),
     (2.0**-25, "fp16", None, 0.0), (-(2.0**-25), "fp16", None, -0.0), (2.0**-25 * 1.001, "fp16", None, 2.0**-24),
     (0.0, "e8m0", None, 2.0**-127), (-2.0, "e8m0", None, math.nan), (1.5, "e8m0", None, 2.0),
     (3e38, "e8m0", None, math.nan)],
)  # fmt: skip
def test_the_edges(x: float, name: str, overflow: str | None, expected: float) -> None:
    assert same(round_exact(x, name, overflow=overflow), expected)


def test_toward_zero_never_overflows_but_keeps_infinity() -> None:
    assert round_exact(1e300, "fp16", "toward_zero") == 65504
    assert round_exact(math.inf, "fp16", "toward_zero") == math.inf


def test_stochastic_takes_the_upper_number_with_the_right_share_of_random_fractions() -> None:
    x, shares = Fraction(3, 8) * Fraction(1, 8) + 1, Fraction(1, 64)  # 3/8 of the way from 1 to 1.125
    results = [round_exact(x, "e4m3", "stochastic", random=i * shares) for i in range(64)]
    assert set(results) == {1.0, 1.125}
    assert sum(map(Fraction, results)) / 64 == x


@given(x=st.fractions(min_value=Fraction(1, 10**40), max_value=10**40))
def test_floor_log2(x: Fraction) -> None:
    e = floor_log2(x)
    assert Fraction(2) ** e <= x < Fraction(2) ** (e + 1)


def test_what_round_exact_refuses() -> None:
    with pytest.raises(UsageError) as caught:
        round_exact(1.0, "fp16", "up")
    assert str(caught.value) == (
        "Unknown rounding mode 'up'; choose one of nearest_even, toward_zero, stochastic."
    )
    with pytest.raises(UsageError) as caught:
        round_exact(1.0, "fp16", "stochastic", random=1.0)
    assert str(caught.value) == "random is 1.0; it must be at least 0 and below 1."


@pytest.mark.parametrize(
    ("x", "name", "outcome", "value"),
    [(1.0, "fp16", "exact", 1.0), (0.1, "fp16", "rounded", 0.0999755859375),
     (1e-5, "fp16", "subnormal", 168 * 2.0**-24),
     (1e-8, "fp16", "flushed to zero", 0.0), (65520.0, "fp16", "overflow", math.inf), (464.0, "e4m3", "rounded", 448.0),
     (465.0, "e4m3", "overflow", 448.0), (math.inf, "e4m3", "overflow", 448.0), (math.inf, "fp16", "exact", math.inf),
     (math.nan, "fp16", "exact", math.nan), (math.nan, "fp4", "not representable", math.nan),
     (-1.0, "e8m0", "not representable", math.nan), (0.0, "fp16", "exact", 0.0), (3.0, "mxfp4", "exact", 3.0),
     (7.0, "mxfp4", "overflow", 6.0), (math.inf, "mxfp4", "overflow", math.nan)],
)  # fmt: skip
def test_explain(x: float, name: str, outcome: str, value: float) -> None:
    told = explain(x, get(name))
    assert told.outcome == outcome
    assert same(told.value, value)
    if math.isfinite(value) and math.isfinite(x) and x:
        assert told.relative_error == (value - x) / x


def test_explain_numbers_beyond_fp64() -> None:
    for row in FORMATS.values():
        for x in (Fraction(10) ** 400, Fraction(-10) ** 401):
            negative_scale = isinstance(row, Format) and row.scale and x < 0
            assert explain(x, row).outcome == ("not representable" if negative_scale else "overflow")
        told = explain(Fraction(1, 10**400), row)
        is_scale = isinstance(row, Format) and row.scale
        assert told.outcome == ("rounded" if is_scale else "flushed to zero")
        assert told.relative_error == (math.inf if is_scale else -1)


def test_mx_blocks_by_hand() -> None:
    told = round_tensor_exact([0.1, -0.2, 5.0, 0.0, -0.0], "mxfp4")
    # floor(log2 5) = 2 and the largest element exponent is 2: scale 1; 5 lies halfway between 4 and 6: even is 4
    assert told.scales == (1.0,)
    assert told.values == (0.0, -0.0, 4.0, 0.0, -0.0)
    assert math.copysign(1, told.values[1]) == -1


@given(values=st.lists(finite.filter(lambda v: abs(v) < 1e38), min_size=1, max_size=70))
@settings(max_examples=60)
def test_every_mx_element_is_the_nearest_or_the_largest(values: list[float]) -> None:
    row = get("mxfp6_e3m2")
    told = round_tensor_exact(values, row)
    grid = sorted({*numbers(row.element), *(-v for v in numbers(row.element))})
    for i, v in enumerate(values):
        scale = Fraction(told.scales[i // 32])
        quotient = Fraction(v) / scale
        at = bisect_left(grid, quotient)
        nearest = min(grid[max(at - 1, 0) : at + 1], key=lambda g: abs(Fraction(g) - quotient))
        assert abs(Fraction(told.elements[i]) - quotient) == abs(Fraction(nearest) - quotient) or (
            # fp32 between: the quotient itself may have lost bits below fp32's smallest numbers
            abs(quotient) < 2.0**-126
        )


def test_nvfp4_scales_by_hand() -> None:
    # tensor scale 2688 / 2688 = 1; block scales E4M3(2688 / 6) = 448 and E4M3(1 / 6) = 0.171875
    told = round_tensor_exact([2688.0] + [0.0] * 15 + [1.0, 0.5], "nvfp4")
    assert told.tensor_scale == 1.0
    assert told.scales == (448.0, 0.171875)
    assert told.values[0] == 2688.0
    assert told.values[16] == 6 * 0.171875
    assert told.values[17] == 3 * 0.171875


def test_a_block_with_infinity_or_nan_is_nan_and_the_next_is_not() -> None:
    for name in ("mxfp8", "nvfp4"):
        size = get(name).block
        told = round_tensor_exact([math.inf] + [1.0] * (2 * size - 1), name)
        assert all(math.isnan(v) for v in told.values[:size])
        assert not any(math.isnan(v) for v in told.values[size:])
