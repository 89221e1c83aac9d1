"""round_blocks bit for bit against the exact reference, along any axis and with short last blocks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halfstep.errors import UsageError
from halfstep.precisions.exact_blocks import round_tensor_exact
from halfstep.precisions.formats import FORMATS, BlockFormat
from halfstep.pytorch.rounding.blocks import round_blocks

ROWS = [row for row in FORMATS.values() if isinstance(row, BlockFormat)]
NAMES = [row.name for row in ROWS]


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    nan = torch.isnan(expected)
    assert torch.equal(torch.isnan(got), nan)
    assert torch.equal(got[~nan], expected[~nan])
    assert torch.equal(torch.signbit(got[~nan]), torch.signbit(expected[~nan]))


def exactly(row: Tensor, name: str) -> Tensor:
    """A one-dimensional tensor by the reference."""
    working = "fp64" if row.dtype == torch.float64 else "fp32"
    values = round_tensor_exact(row.double().tolist(), name, working).values
    return torch.tensor(values, dtype=torch.float64).to(row.dtype)


def sample(n: int, spread: float, seed: int = 0) -> Tensor:
    """Normal numbers times powers of two from 2^-spread to 2^spread."""
    generator = torch.Generator().manual_seed(seed)
    exponents = (torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1) * spread
    return torch.randn(n, generator=generator, dtype=torch.float64) * torch.exp2(exponents)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_as_in_exact_arithmetic(name: str, dtype: torch.dtype) -> None:
    for n in (1, 15, 16, 33, 200):
        for spread in (1, 8, 120):
            x = sample(n, spread).to(dtype)
            x[::7] = 0
            assert_same(round_blocks(x, name), exactly(x, name))


@pytest.mark.parametrize("name", NAMES)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=40))
@settings(max_examples=60)
def test_any_float32(name: str, values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64).float()
    assert_same(round_blocks(x, name), exactly(x, name))


@pytest.mark.parametrize("name", NAMES)
def test_extremes(name: str) -> None:
    tiny, huge = 2.0**-149, torch.finfo(torch.float32).max
    for values in ([0.0, -0.0], [tiny, -tiny], [huge, 1.0], [huge, tiny, -huge], [math.inf, 1.0], [math.nan]):
        for fill in ([], [1.0] * 40):
            x = torch.tensor(values + fill)
            assert_same(round_blocks(x, name), exactly(x, name))
            assert_same(round_blocks(x.double(), name), exactly(x.double(), name))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_blocks_run_along_the_axis(axis: int) -> None:
    x = sample(37 * 3 * 5, 6).float().reshape(37, 3, 5)
    got = round_blocks(x, "mxfp8", axis)
    rows = x.movedim(axis, -1).reshape(-1, x.shape[axis])
    expected = torch.stack([exactly(row, "mxfp8") for row in rows])
    assert_same(got.movedim(axis, -1).reshape(rows.shape), expected)


def test_the_scale_of_the_tensor_is_that_of_the_whole_tensor() -> None:
    x = sample(64, 4).float()
    # rows of 16 are blocks of their own, so a matrix of four rows is the same as one row of four blocks
    assert_same(round_blocks(x.reshape(4, 16), "nvfp4").reshape(-1), exactly(x, "nvfp4"))


def test_nothing_and_one_number() -> None:
    for name in NAMES:
        assert round_blocks(torch.empty(3, 0), name).shape == (3, 0)
        assert round_blocks(torch.empty(0, 3), name).shape == (0, 3)
        assert_same(round_blocks(torch.tensor(0.7), name), exactly(torch.tensor([0.7]), name).reshape(()))


def test_stochastic_elements_are_unbiased() -> None:
    """Neighbours are 2 apart: the mean's standard deviation is at most 2 / (2 sqrt(n)), five are allowed."""
    n = 32 * 500
    x = torch.full((n,), 7.0)  # scale 2^(2 - 2) = 1; 7 lies beyond the largest, 6
    assert torch.equal(round_blocks(x, "mxfp4", mode="stochastic"), torch.full((n,), 6.0))
    x = torch.full((n,), 4.5)  # a quarter of the way from 4 to 6
    got = round_blocks(x, "mxfp4", mode="stochastic", generator=torch.Generator().manual_seed(0)).double()
    assert set(got.unique().tolist()) == {4.0, 6.0}
    assert abs(got.mean().item() - 4.5) <= 5 * 1 / math.sqrt(n)


def test_what_round_blocks_refuses() -> None:
    for call, sentence in (
        (lambda: round_blocks(torch.ones(3), "mxfp4", 1), "axis is 1; a tensor of shape (3,) has axes -1 to 0."),
        (lambda: round_blocks(torch.ones(3, dtype=torch.int32), "mxfp4"),
         "A tensor of torch.int32 cannot be rounded; give one of "
         "torch.float16, torch.bfloat16, torch.float32, torch.float64."),
        (lambda: round_blocks(torch.ones(3), "fp16"),
         f"fp16 is not a block format; choose one of {', '.join(NAMES)}, or use round_to."),
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == sentence
