"""The rows and their derived figures, against NumPy, ml_dtypes and PyTorch, and the bits of every pattern."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from halfstep.errors import UsageError
from halfstep.precisions.encoding import decode, encode
from halfstep.precisions.formats import FORMATS, SYNONYMS, BlockFormat, Format, get, get_block, get_scalar

REFERENCES = {
    "fp64": np.float64,
    "fp32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
SMALL = [name for name in (*REFERENCES, "e8m0") if name not in ("fp64", "fp32")]
SCALARS = [row for row in FORMATS.values() if isinstance(row, Format)]


def same(a: float, b: float) -> bool:
    """Equal, zeros by their sign, NaN by being NaN."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


@pytest.mark.parametrize("name", REFERENCES)
def test_figures_are_those_of_numpy_and_ml_dtypes(name: str) -> None:
    dtype = REFERENCES[name]
    info = ml_dtypes.finfo(dtype)
    row = get_scalar(name)
    assert row.bits == info.bits
    assert row.largest == float(info.max)
    assert row.smallest_normal == float(info.smallest_normal)
    assert row.smallest_subnormal == float(info.smallest_subnormal)
    assert row.machine_epsilon == float(info.eps)
    assert row.fraction_bits == info.nmant
    assert row.exponent_bits == info.nexp
    assert row.unit_roundoff == row.machine_epsilon / 2


@pytest.mark.parametrize("name", SMALL)
def test_every_pattern_decodes_as_in_ml_dtypes_and_encodes_back(name: str) -> None:
    dtype = {**REFERENCES, "e8m0": ml_dtypes.float8_e8m0fnu}[name]
    row = get_scalar(name)
    codes = np.arange(1 << row.bits, dtype=np.uint16 if row.bits == 16 else np.uint8)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        numbers = codes.view(dtype).astype(np.float64)
    for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
        value = decode(code, row)
        assert same(value, number), hex(code)
        if not math.isnan(value):
            assert encode(value, row) == code


def test_decode_of_tf32_is_decode_of_the_fp32_number_whose_high_bits_it_is() -> None:
    tf32, fp32 = get_scalar("tf32"), get_scalar("fp32")
    for code in range(0, 1 << 19, 37):
        assert same(decode(code, tf32), decode(code << 13, fp32))


@pytest.mark.parametrize("row", SCALARS, ids=lambda row: row.name)
def test_nan_encodes_to_a_code_that_is_nan_or_is_refused(row: Format) -> None:
    if row.nan == "none":
        with pytest.raises(
            UsageError, match=rf"^nan is not a number of {row.name}; round it to the format first"
        ):
            encode(math.nan, row)
    else:
        assert math.isnan(decode(encode(math.nan, row), row))


@pytest.mark.parametrize(
    ("value", "name"),
    [(0.1, "fp16"), (65520.0, "fp16"), (math.inf, "fp8_e4m3"), (449.0, "fp8_e4m3"), (-1.0, "e8m0"), (0.0, "e8m0"),
     (2.0**-25, "fp16"), (1.5, "e8m0"), (5e-324, "fp32")],
)  # fmt: skip
def test_what_is_not_in_a_format_has_no_code(value: float, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        encode(value, get_scalar(name))
    assert str(caught.value) == f"{value!r} is not a number of {name}; round it to the format first."


def test_a_code_that_is_too_wide_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        decode(256, get_scalar("fp8_e4m3"))
    assert str(caught.value) == "256 is not a bit pattern of fp8_e4m3; give a number from 0 to 0xff."


def test_the_thresholds_that_everybody_gets_wrong() -> None:
    fp16, e4m3 = get_scalar("fp16"), get_scalar("fp8_e4m3")
    assert fp16.overflow_threshold == 65520
    assert fp16.overflows_at_threshold
    assert fp16.flush_threshold == Fraction(1, 2**25)
    assert e4m3.overflow_threshold == 464
    assert not e4m3.overflows_at_threshold
    assert get_scalar("e8m0").flush_threshold == 0


@pytest.mark.parametrize("row", SCALARS, ids=lambda row: row.name)
def test_decimal_digits_survive_and_one_more_would_not(row: Format) -> None:
    digits, p = row.decimal_digits, row.significand_bits
    # Matula: every d-digit decimal survives exactly where 10^d < 2^(p-1)
    assert 10**digits <= 2 ** (p - 1) < 10 ** (digits + 1)


@pytest.mark.parametrize(
    ("name", "bits"), [("mxfp8", 8.25), ("mxfp6", 6.25), ("mxfp4", 4.25), ("nvfp4", 4.5)]
)
def test_bits_of_block_formats(name: str, bits: float) -> None:
    assert get(name).bits == bits


def test_ranges_of_block_formats() -> None:
    assert get("nvfp4").largest == 6 * 448
    assert get("mxfp4").largest == 6 * 2.0**127
    assert get("mxfp4").smallest_subnormal == 0.5 * 2.0**-127


def test_synonyms_lead_to_formats_and_hide_none() -> None:
    assert set(SYNONYMS.values()) <= set(FORMATS)
    assert not set(SYNONYMS) & set(FORMATS)


@pytest.mark.parametrize(
    ("given", "name"),
    [("half", "fp16"), ("torch.float16", "fp16"), ("BFloat16", "bf16"), ("e4m3", "fp8_e4m3"), ("fp8-e5m2", "fp8_e5m2"),
     ("torch.float8_e4m3fn", "fp8_e4m3"), ("MXFP8-E4M3", "mxfp8_e4m3"), ("double", "fp64")],
)  # fmt: skip
def test_get(given: str, name: str) -> None:
    assert get(given) is FORMATS[name]


def test_what_get_refuses() -> None:
    with pytest.raises(UsageError) as caught:
        get("fp12")
    assert str(caught.value) == f"Unknown format 'fp12'; choose one of {', '.join(FORMATS)}."
    with pytest.raises(UsageError) as caught:
        get_scalar("mxfp4")
    assert str(caught.value) == (
        "mxfp4 is a block format, its numbers share scales; use round_blocks for it."
    )
    with pytest.raises(UsageError, match=r"^fp16 is not a block format; choose one of mxfp8_e5m2, "):
        get_block("half")


def test_overflow_policies() -> None:
    assert get_scalar("fp16").overflow_policy(None) == "infinity"
    assert get_scalar("e4m3").overflow_policy(None) == "saturate"
    assert get_scalar("e4m3").overflow_policy("nan") == "nan"
    for name, policy, sentence in (
        ("e4m3", "infinity", "fp8_e4m3 has no infinity, so overflow='infinity' cannot be; use 'saturate'."),
        ("fp4", "nan", "fp4_e2m1 has no NaN, so overflow='nan' cannot be; use 'saturate'."),
        ("fp16", "wrap", "Unknown overflow policy 'wrap'; choose one of saturate, infinity, nan."),
    ):
        with pytest.raises(UsageError) as caught:
            get_scalar(name).overflow_policy(policy)
        assert str(caught.value) == sentence


def test_get_block_takes_a_row() -> None:
    row = FORMATS["nvfp4"]
    assert isinstance(row, BlockFormat)
    assert get_block(row) is row
