"""round_to bit for bit against the exact reference, PyTorch's casts and ml_dtypes, eager and compiled."""

from __future__ import annotations

import math
import platform
import shutil
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halfstep.errors import UsageError
from halfstep.precisions.encoding import decode
from halfstep.precisions.exact import round_exact
from halfstep.precisions.formats import FORMATS, Format, get_scalar
from halfstep.pytorch.native.builder import library
from halfstep.pytorch.rounding import native, rounding
from halfstep.pytorch.rounding.rounding import round_to

ROWS = [row for row in FORMATS.values() if isinstance(row, Format) and not row.scale]
NAMES = [row.name for row in ROWS]
#: torch.compile warns of its own deprecated parts
upstream_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MODES = ("nearest_even", "toward_zero")
INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
TORCH_CASTS = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3": torch.float8_e4m3fn,
}
ML_DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}


@pytest.fixture(params=["PyTorch's operations", "kernels in C"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of rounding are held to the same: small tensors, too, go to the kernels in C."""
    if request.param == "kernels in C":
        if native.kernels() is None:
            pytest.skip("no C compiler")
        monkeypatch.setattr(rounding, "IN_C", 1)
    else:
        monkeypatch.setattr(native, "kernels", lambda: None)


def assert_same(got: Tensor, expected: Tensor) -> None:
    """Bit for bit, but NaN equals NaN."""
    assert got.dtype == expected.dtype
    nan = torch.isnan(expected)
    assert torch.equal(torch.isnan(got), nan)
    integer = INTEGERS[got.dtype]
    differ = (got.contiguous().view(integer) != expected.contiguous().view(integer)) & ~nan
    assert not differ.any(), (got[differ][:5], expected[differ][:5])


def exactly(x: Tensor, name: str, mode: str = "nearest_even", overflow: str | None = None) -> Tensor:
    rounded = [round_exact(v, name, mode, overflow=overflow) for v in x.double().flatten().tolist()]
    return torch.tensor(rounded, dtype=torch.float64).reshape(x.shape).to(x.dtype)


def all_patterns(dtype: torch.dtype) -> Tensor:
    """Every number of a 16-bit dtype, NaNs of every kind included."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


def critical(row: Format, dtype: torch.dtype) -> Tensor:
    """The format's numbers, the midpoints between them, and the neighbours of each in ``dtype``; the special ones."""
    step = 1 if row.bits <= 8 else max(1, row.largest_code // 500)
    codes = sorted(
        {*range(0, row.largest_code, step), *range(min(40, row.largest_code)), row.largest_code - 1}
    )
    low = torch.tensor([decode(code, row) for code in codes], dtype=torch.float64)
    high = torch.tensor([decode(code + 1, row) for code in codes], dtype=torch.float64)
    beyond = [row.largest * factor for factor in (1.01, 1.0625, 1.1, 2.0, 3.0)]
    edge = [float(row.overflow_threshold)] if row.max_exponent < 1000 else []
    extra = torch.tensor(
        [*beyond, *edge, math.inf, math.nan, 1e-45, 3e-39, 3e38, 5e-324], dtype=torch.float64
    )
    points = torch.cat([low, high, low / 2 + high / 2, extra]).to(dtype)
    near = [torch.nextafter(points, torch.full_like(points, to)) for to in (math.inf, -math.inf)]
    points = torch.cat([points, *near])
    return torch.cat([points, -points])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_numbers_midpoints_and_their_neighbours_are_as_in_exact_arithmetic(
    row: Format, dtype: torch.dtype, mode: str
) -> None:
    x = critical(row, dtype)
    for overflow in ("saturate", "infinity", "nan"):
        if (overflow == "infinity" and not row.infinities) or (overflow == "nan" and row.nan == "none"):
            continue
        assert_same(round_to(x, row, mode, overflow=overflow), exactly(x, row.name, mode, overflow))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_all_patterns_of_16_bits_are_as_in_exact_arithmetic(row: Format, dtype: torch.dtype) -> None:
    x = all_patterns(dtype)
    positive, negative = x[2**15 :], x[: 2**15]
    # a format that holds every number of the dtype has nothing to round
    wider = row.bits > 16
    assert_same(round_to(positive, row), positive if wider else exactly(positive, row.name))
    assert_same(round_to(negative, row), -round_to(positive, row))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TORCH_CASTS)
def test_all_patterns_of_16_bits_are_as_torch_casts_them(name: str, source: torch.dtype) -> None:
    x = all_patterns(source).float()
    assert_same(round_to(x, name), x.to(TORCH_CASTS[name]).float())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ML_DTYPES)
def test_the_top_16_bits_of_float32_with_any_low_bits_are_as_in_ml_dtypes(name: str) -> None:
    high = torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16
    low = torch.randint(0, 2**16, high.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    x = torch.cat([high | low, high | 1, high | 0x8000, high | 0x7FFF, high | 0xFFFF]).view(torch.float32)
    x = x[~torch.isnan(x)]  # ml_dtypes makes NaN zero where a format has none
    with np.errstate(over="ignore"):
        expected = torch.from_numpy(x.numpy().astype(ML_DTYPES[name]).astype(np.float32))
    overflow = "nan" if name == "fp8_e4m3" else None
    assert_same(round_to(x, name, overflow=overflow), expected)


@pytest.mark.usefixtures("way")
def test_every_nan_stays_nan() -> None:
    fractions = torch.tensor([1, 2, 0xFFF, 0x1000, 0x3FFFFF, 0x400000, 0x7FF000, 0x7FFFFF], dtype=torch.int32)
    nans = torch.cat([fractions | 0x7F800000, fractions | -0x800000]).view(torch.float32)
    for name in NAMES:
        for mode in (*MODES, "stochastic"):
            assert torch.isnan(round_to(nans, name, mode)).all(), (name, mode)


@pytest.mark.parametrize("name", NAMES)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=8))
@settings(max_examples=40)
def test_any_float32(name: str, values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64).float()
    assert_same(round_to(x, name), exactly(x, name))


@given(values=st.lists(st.floats(), min_size=1, max_size=8), name=st.sampled_from(NAMES))
@settings(max_examples=200)
def test_any_float64(values: list[float], name: str) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    assert_same(round_to(x, name), exactly(x, name))


def test_float64_is_rounded_once_where_torch_and_ml_dtypes_round_twice() -> None:
    x = torch.tensor([1 + 2.0**-11 + 2.0**-30], dtype=torch.float64)
    assert round_to(x, "fp16").item() == 1.0009765625
    assert x.to(torch.float16).item() == 1.0
    y = torch.tensor([1 + 2.0**-8 + 2.0**-30], dtype=torch.float64)
    assert round_to(y, "bf16").item() == 1.0078125
    assert float(y.numpy().astype(ml_dtypes.bfloat16)[0]) == 1.0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["fp16", "bf16", "tf32", "fp8_e5m2", "fp8_e4m3", "fp4_e2m1"])
def test_sizes_strides_and_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "CHUNK", 64)
    monkeypatch.setattr(rounding, "_BUFFERS", rounding._Buffers())
    generator = torch.Generator().manual_seed(1)
    for shape in ((), (0,), (1,), (63,), (64,), (65,), (3, 0, 2), (5, 7, 9)):
        x = torch.randn(shape, generator=generator)
        x.flatten()[3:4] = math.nan  # one chunk with NaN, the others without
        expected = exactly(x, name)
        assert_same(round_to(x, name), expected)
        out = torch.empty_like(x)
        assert round_to(x, name, out=out) is out
        assert_same(out, expected)
        assert_same(round_to(x, name, out=x), expected)
    wide = torch.randn(6, 40, generator=generator)
    assert_same(round_to(wide.T, name), exactly(wide.T, name))
    assert_same(round_to(wide[:, ::3], name), exactly(wide[:, ::3], name))
    strided = torch.empty(6, 40).T
    assert round_to(wide.T, name, out=strided) is strided
    assert_same(strided, exactly(wide.T, name))


def test_buffers_first_used_in_inference_mode_serve_outside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_BUFFERS", rounding._Buffers())
    with torch.inference_mode():
        round_to(torch.ones(3), "tf32")
    assert round_to(torch.tensor(1 + 2.0**-12), "tf32").item() == 1


def test_fake_and_batched_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert round_to(torch.empty(3), "fp8_e4m3").shape == (3,)
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    assert_same(torch.func.vmap(lambda row: round_to(row, "fp8_e4m3"))(x), exactly(x, "fp8_e4m3"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stochastic_is_the_exact_reference_with_the_same_random_fractions(
    name: str, dtype: torch.dtype
) -> None:
    row = get_scalar(name)
    x = critical(row, dtype)[:600]
    got = round_to(x, name, "stochastic", generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    if row.exponent_bits == {torch.float32: 8, torch.float64: 11}[dtype]:
        dropped = {torch.float32: 24, torch.float64: 53}[dtype] - row.significand_bits
        draws = torch.randint(0, 1 << dropped, x.shape, dtype=INTEGERS[dtype], generator=generator)
        fractions = [Fraction(draw, 1 << dropped) for draw in draws.tolist()]
    else:
        draws = torch.rand(x.shape, dtype=dtype, generator=generator)
        fractions = [Fraction(draw) for draw in draws.tolist()]
    expected = [
        round_exact(v, row, "stochastic", random=u)
        for v, u in zip(x.double().tolist(), fractions, strict=True)
    ]
    assert_same(got, torch.tensor(expected, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("name", ["bf16", "tf32", "fp16", "fp8_e4m3", "fp4_e2m1"])
def test_stochastic_rounding_is_unbiased(name: str) -> None:
    """Each result is a two-point variable on neighbours q apart: its variance is at most q^2/4.

    The mean of n has a standard deviation of at most q / (2 sqrt(n)); five of these are passed by chance once in
    two million. What the 24 random bits cannot say, 2^-24 q, is far below.
    """
    n, row = 20_000, get_scalar(name)
    for exponent, share in ((0, 0.3), (1, 0.01), (row.min_exponent - 1, 0.5), (row.min_exponent, 0.77)):
        quantum = 2.0 ** (max(exponent, row.min_exponent) - row.fraction_bits)
        x = torch.full((n,), 2.0**exponent + share * quantum)
        got = round_to(x, name, "stochastic", generator=torch.Generator().manual_seed(3)).double()
        assert len(got.unique()) == 2
        assert abs(got.mean().item() - x[0].item()) <= 5 * quantum / (2 * math.sqrt(n))


def test_stochastic_follows_its_seed() -> None:
    x = torch.linspace(0, 1, 1000)
    a, b, c = (
        round_to(x, "bf16", "stochastic", generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@upstream_warnings
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
)
@pytest.mark.parametrize("mode", MODES)
def test_compiled_rounding_is_the_eager_one(mode: str) -> None:
    """inductor folds casts away; the compiled kernels must not be casts."""
    names = ("fp16", "bf16", "tf32", "fp8_e5m2", "fp8_e4m3")
    x = torch.cat([critical(get_scalar(name), torch.float32) for name in names])

    def every(x: Tensor) -> list[Tensor]:
        return [round_to(x, name, mode) for name in names]

    compiled = torch.compile(every, fullgraph=True)(x)
    for got, expected in zip(compiled, every(x), strict=True):
        assert_same(got, expected)


def test_rounding_a_requires_grad_tensor_gives_no_gradient() -> None:
    assert not round_to(torch.ones(2, requires_grad=True), "bf16").requires_grad


def test_what_round_to_refuses() -> None:
    x = torch.ones(2)
    known = "torch.float16, torch.bfloat16, torch.float32, torch.float64"
    for call, sentence in (
        (lambda: round_to(torch.ones(2, dtype=torch.int64), "fp16"),
         f"A tensor of torch.int64 cannot be rounded; give one of {known}."),
        (lambda: round_to(torch.ones(2, dtype=torch.complex64), "fp16"),
         f"A tensor of torch.complex64 cannot be rounded; give one of {known}."),
        (lambda: round_to(x, "e8m0"),
         "e8m0 is a format of scales, not of tensors; use a block format and round_blocks."),
        (lambda: round_to(x, "mxfp4"),
         "mxfp4 is a block format, its numbers share scales; use round_blocks for it."),
        (lambda: round_to(x, "fp16", "up"),
         "Unknown rounding mode 'up'; choose one of nearest_even, toward_zero, stochastic."),
        (lambda: round_to(x, "fp16", out=torch.ones(3)),
         "out is (3,) torch.float32 on cpu; it must be like x, (2,) torch.float32 on cpu, or left out."),
        (lambda: round_to(x, "e4m3", overflow="infinity"),
         "fp8_e4m3 has no infinity, so overflow='infinity' cannot be; use 'saturate'."),
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == sentence


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_as_on_a_cpu(name: str) -> None:
    x = critical(get_scalar(name), torch.float32)
    for mode in MODES:
        assert_same(round_to(x.cuda(), name, mode).cpu(), round_to(x, name, mode))


def test_the_kernels_share_pytorchs_threads() -> None:
    """A second OpenMP in the process would wait for work, spinning, on the cores where PyTorch's threads want to run."""
    built_library = library(native.SOURCE)
    if built_library is None or platform.system() != "Linux":
        pytest.skip("no C compiler, or not Linux")
    built = Path(built_library._name).read_bytes()
    if b"GOMP_parallel" not in built:
        pytest.skip("not compiled with GCC's OpenMP")
    assert b"libgomp.so" not in built
