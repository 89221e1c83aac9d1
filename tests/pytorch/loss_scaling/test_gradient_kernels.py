"""The pass in C against PyTorch's own arithmetic: the same bits, the same verdict, and nothing touched that is not its."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from halfstep.pytorch.grad_scaler.grad_scaler import GradScaler
from halfstep.pytorch.grad_scaler.misuse import ScalerMisuse
from halfstep.pytorch.loss_scaling import gradients
from halfstep.pytorch.loss_scaling.gradient_kernels import SOURCE, GradientKernels, gradient_kernels
from halfstep.pytorch.native import builder as native

from ..conftest import compiled

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture
def kernels() -> GradientKernels:
    return compiled(gradient_kernels())


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [2.0**-16, 0.5, 2.0**16, 0.3, 1.0])
def test_multiplies_as_pytorch_does(kernels: GradientKernels, dtype: torch.dtype, factor: float) -> None:
    tensors = [
        (torch.randn(n) * 10.0 ** torch.randint(-7, 4, (n,))).to(dtype) for n in (0, 1, 7, 8, 9, 1000, 70_001)
    ]
    # PyTorch's kernel: the product in float32 (float64 of float64), rounded once
    work = torch.float64 if dtype is torch.float64 else torch.float32
    rounded = torch.tensor(factor, dtype=torch.float32 if work is torch.float32 else work)
    expected = [(t.to(work) * rounded).to(dtype) for t in tensors]
    bad, left = kernels.unscale_(tensors, factor)
    assert left == []
    assert bad == any(not torch.isfinite(t).all() for t in expected)
    assert all(same(t, e) for t, e in zip(tensors, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_finds_one_bad_number_wherever_it_is(
    kernels: GradientKernels, dtype: torch.dtype, value: float
) -> None:
    for n in (1, 5, 8, 17, 64):
        for position in range(n):
            tensors = [torch.ones(3, dtype=dtype), torch.ones(n, dtype=dtype)]
            tensors[1][position] = value
            for factor in (0.5, 1.0):
                assert kernels.unscale_(tensors, factor) == (True, [])
            assert tensors[0].tolist() == [0.5] * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_tests_the_product_and_not_the_factor(kernels: GradientKernels, dtype: torch.dtype) -> None:
    largest = torch.full((9,), torch.finfo(dtype).max, dtype=dtype)
    assert kernels.unscale_([largest.clone()], 1.0) == (False, [])
    assert kernels.unscale_([largest.clone()], 2.0) == (True, [])
    assert kernels.unscale_([largest.clone()], 0.5) == (False, [])


def test_serves_dense_tensors_in_any_order_of_dimensions(kernels: GradientKernels) -> None:
    image = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    dense = [
        image,
        torch.randn(5, 3).t(),
        torch.randn(4, 1, 3)[:, :, :],
        torch.randn(()),
        torch.randn(6)[1:4],
    ]
    expected = [t * 0.5 for t in dense]
    assert kernels.unscale_(dense, 0.5) == (False, [])
    assert all(torch.equal(t, e) for t, e in zip(dense, expected, strict=True))


def test_leaves_to_pytorch_what_is_not_dense(kernels: GradientKernels) -> None:
    base = torch.ones(4, 4)
    overlapping = torch.ones(9).as_strided((3, 3), (2, 2))  # its span is 9 numbers, but some are there twice
    odd = [
        base[:, :2],
        torch.ones(1, 4).expand(3, 4),
        overlapping,
        torch.ones(3, dtype=torch.int32),
        torch.ones(3, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.nn.Parameter(torch.ones(3)),
    ]
    plain = torch.ones(5)
    bad, left = kernels.unscale_([*odd, plain], 0.5)
    assert not bad
    assert all(a is b for a, b in zip(left, odd, strict=True))
    assert plain.tolist() == [0.5] * 5
    assert base.tolist() == [[1.0] * 4] * 4


def test_the_rest_is_done_by_pytorch() -> None:
    strided, sparse, plain = torch.ones(4, 4), torch.eye(3).to_sparse(), torch.ones(5)
    flags = gradients.multiply_and_test_([strided[:, :2], sparse, plain], 0.5)
    assert not any(flags)
    assert strided[0].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert sparse.to_dense().tolist() == (torch.eye(3) / 2).tolist()
    assert plain.tolist() == [0.5] * 5
    strided[3, 1] = math.inf
    assert any(gradients.multiply_and_test_([strided[:, :2], plain], 0.5))


def test_autograd_hears_of_the_writing(kernels: GradientKernels) -> None:
    x = torch.ones(3)
    kernels.unscale_([x], 1.0)
    assert x._version == 0
    kernels.unscale_([x], 0.5)
    assert x._version == 1


def test_threads_find_the_same(kernels: GradientKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    tensors = [torch.randn(100_000), torch.randn(3), torch.randn(40_001)]
    expected = [t * 0.25 for t in tensors]
    assert kernels.unscale_(tensors, 0.25) == (False, [])
    assert all(torch.equal(t, e) for t, e in zip(tensors, expected, strict=True))
    tensors[2][-1] = math.nan
    assert kernels.unscale_(tensors, 0.25) == (True, [])


@pytest.mark.parametrize("sparse", [False, True])
def test_a_refused_fp16_gradient_leaves_the_others_as_they_were(sparse: bool) -> None:
    full, half = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3).half())
    full.grad, half.grad = torch.ones(3), torch.ones(3).half()
    if sparse:
        half.grad = half.grad.to_sparse()
    optimizer, scaler = torch.optim.SGD([full, half], lr=1.0), GradScaler("cpu", init_scale=2.0)
    scaler.scale(torch.ones(()))
    with pytest.raises(
        ScalerMisuse, match="Attempting to unscale FP16 gradients; keep the parameters in float32"
    ):
        scaler.unscale_(optimizer)
    assert full.grad.tolist() == [1.0] * 3


@pytest.mark.parametrize("compiler", [True, False])
def test_without_a_compiler_pytorch_does_it(compiler: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiler:
        monkeypatch.setattr(gradients, "gradient_kernels", lambda: None)
    x = torch.tensor([2.0, 4.0])
    assert not any(gradients.multiply_and_test_([x], 0.5))
    assert x.tolist() == [1.0, 2.0]
    assert any(gradients.multiply_and_test_([torch.tensor([3e38])], 2.0))


def test_there_is_none_where_nothing_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    assert native.library.__wrapped__(SOURCE) is None


def test_what_did_not_compile_is_tried_again_with_another_compiler_only(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tries: list[str] = []
    monkeypatch.setattr(native, "_run", lambda command: bool(tries.append(command[0])))
    for compiler in ("one", "one", "another"):
        monkeypatch.setenv("CC", compiler)
        assert native.library.__wrapped__(SOURCE) is None
    assert tries == ["one"] * 3 + ["another"] * 3, "each way to compile once"


def test_a_compiler_that_was_killed_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """By Ctrl-C, say: neither is another way to compile the better one, nor has this one failed."""
    runs, compiler = tmp_path / "runs", tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\necho run >> {runs}\nkill -s INT $$\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(compiler))
    for _ in range(2):
        native.prepare([SOURCE])
    assert runs.read_text() == "run\n" * 2
    assert list((tmp_path / "halfstep").iterdir()) == []


def test_several_sources_are_compiled_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    both, compiled = threading.Barrier(2), []

    def compile_(source: Path, path: Path, *_: object) -> bool:
        both.wait(timeout=30)
        compiled.append(source.name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a library")
        return True

    monkeypatch.setattr(native, "_compile", compile_)
    sources = [tmp_path / name for name in ("one.c", "another.c")]
    for source in sources:
        source.write_text(source.name)
    for _ in range(2):  # the second time they are there
        native.prepare(sources)
    assert sorted(compiled) == ["another.c", "one.c"]
