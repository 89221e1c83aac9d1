"""CUDA's autocast list on a CPU against CUDA's own autocast, which runs without a GPU on fake tensors."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from halfstep.errors import Unsupported
from halfstep.pytorch import devices
from halfstep.pytorch.autocast.lists import FP32_RESULT, LOWER, WIDEST, apply, listed

from ..autocast_lists import Case, cases
from ..conftest import Begin

LOW = (torch.float16, torch.bfloat16)
CASES = list(cases("cuda"))


@pytest.fixture
def cuda_lists() -> Iterator[None]:
    overrides = apply(as_on_cuda=True)
    yield
    overrides.remove()


@contextmanager
def autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Autocast by its switches: the context manager refuses a device that is not here."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


def in_low(value: Any, dtype: torch.dtype) -> Any:
    """16-bit arguments in the dtype of this autocast."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype is torch.float16 else value
    return tuple(in_low(v, dtype) for v in value) if isinstance(value, tuple) else value


def dtypes(value: Any) -> list[torch.dtype]:
    return [v.dtype for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Tensor)]


def to_fake_cuda(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return tuple(map(to_fake_cuda, value)) if isinstance(value, tuple) else value


@pytest.mark.filterwarnings("ignore:(?s).*deprecated:UserWarning")  # of the lists' own calls
@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.listed}-{case.name}")
def test_results_have_the_dtypes_that_cuda_gives(case: Case, dtype: torch.dtype, cuda_lists: None) -> None:
    args = in_low(case.args, dtype)
    if case.listed == "banned":
        with autocast("cpu", dtype), pytest.raises(RuntimeError, match=r"is refused by CUDA's autocast"):
            case.call(*args)
        return
    with autocast("cpu", dtype):
        got = dtypes(case.call(*args, **case.kwargs))
    assert got == expected(case, args, dtype)


def expected(case: Case, args: tuple[Any, ...], dtype: torch.dtype) -> list[torch.dtype]:
    """What CUDA's autocast makes of fake tensors; what cannot run on these, what the list says in so many words."""
    if case.listed == "torch_need_autocast_promote":
        return [torch.float32]
    if case.name == "equal":
        return []  # a bool, no tensor
    try:
        with FakeTensorMode(), autocast("cuda", dtype):
            return dtypes(case.call(*to_fake_cuda(args), **case.kwargs))
    except Exception:  # whatever fake tensors lack
        return [torch.float32 if "32" in case.listed else dtype]


def test_the_tables_name_operations_of_cudas_list() -> None:
    ours, theirs = listed("cpu"), listed("cuda")
    assert theirs >= {"mm", "softmax.int", "exp"}
    unknown = (LOWER | WIDEST | FP32_RESULT) - theirs
    assert all(not torch._C._dispatch_has_kernel(f"aten::{name}") or name in ours for name in unknown), (
        unknown
    )


def test_values_are_those_of_fp32_where_the_list_says_fp32(cuda_lists: None) -> None:
    """exp(12) does not fit fp16, a sum of 100,000 ones neither."""
    x = torch.full((100_000,), 12.0, dtype=torch.float16)
    with autocast("cpu", torch.float16):
        assert torch.equal(x.exp(), x.float().exp())
        assert torch.ones_like(x).sum().item() == 100_000
        assert torch.softmax(x[:7], 0).dtype is torch.float32
        assert torch.softmax(x[:7], 0, dtype=torch.float64).dtype is torch.float64
        assert F.layer_norm(x[:8], (8,)).dtype is torch.float32
        assert (x[:4].double().exp()).dtype is torch.float64


def test_nothing_changes_outside_autocast_and_all_is_put_back() -> None:
    x = torch.randn(8, dtype=torch.float16)
    overrides = apply(as_on_cuda=True)
    assert torch.softmax(x, 0).dtype is torch.float16
    overrides.remove()
    with autocast("cpu", torch.float16):
        assert torch.softmax(x, 0).dtype is torch.float16
        assert F.binary_cross_entropy(torch.rand(3), torch.rand(3)).dtype is torch.float32


def test_another_device_is_refused(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "accelerator", lambda: "mps")
    with pytest.raises(Unsupported) as caught:
        begin("bf16", as_on="cuda")
    assert str(caught.value) == (
        "--as-on cuda applies CUDA's autocast lists on a CPU, but this program uses mps; hide that device from it, or "
        "leave the option out."
    )


def test_emulation_needs_a_cpu(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "accelerator", lambda: "mps")
    with pytest.raises(Unsupported) as caught:
        begin("fp8", emulate=True)
    assert str(caught.value) == (
        "Precision fp8 cannot run here: halfstep runs it only emulated, and emulation needs a CPU; hide the mps device "
        "from the program."
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own
def test_compiled_code_has_cudas_list(begin: Begin) -> None:
    """What was compiled before is not taken for it; dtypes are CUDA's, values those of the eager program."""
    layer, x = torch.nn.Linear(8, 8), torch.randn(4, 8)

    def program(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.float16):
            low = layer(x)
            return low.softmax(-1), F.layer_norm(low * 100, (8,)).exp().sum(-1)

    torch.compiler.reset()
    before = dtypes(torch.compile(program)(x))
    torch.compiler.reset()
    begin("fp16")
    eager, compiled = program(x), torch.compile(program)(x)
    assert before == [torch.float16, torch.float16]
    assert dtypes(compiled) == dtypes(eager) == [torch.float32, torch.float32]
    for ours, theirs in zip(compiled, eager, strict=True):
        # fused code may leave out the rounding of low * 100 to fp16 and of low itself: 2^-11 each
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-10)


def test_gradients_flow_through_the_casts(begin: Begin) -> None:
    begun = begin("fp16", as_on="cuda")
    assert begun.arithmetic.ran_as.startswith("fp16 with CUDA's autocast lists")
    layer = torch.nn.Linear(4, 4)
    out = torch.softmax(layer(torch.randn(3, 4)), -1)
    assert out.dtype is torch.float32
    out.square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_softmax_and_norms_are_fp32_in_a_recipes_region(precision: str, begin: Begin) -> None:
    """Logits of 8 and 0: in 16 bits the log of the softmax is 0.0; in float64 the loss is log(1 + 3 exp(-8))."""
    begin(precision)
    net = torch.nn.Linear(4, 4, bias=False)
    net.weight.data = 8 * torch.eye(4)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return torch.log_softmax(self.net(x), -1)

    loss = F.nll_loss(Model()(torch.eye(4)), torch.arange(4))
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-8)), rel=1e-3)


def test_the_list_of_a_recipe_refuses_nothing(begin: Begin) -> None:
    """A CPU has a safe fp32 kernel for what CUDA's autocast refuses."""
    begin("bf16")
    with autocast("cpu", torch.bfloat16):
        assert F.binary_cross_entropy(torch.rand(3), torch.rand(3)).dtype is torch.float32


def test_graphs_are_cached_apart_from_those_of_plain_pytorch(begin: Begin) -> None:
    config = torch.compiler.config
    before = config.cache_key_tag
    takeover = begin("bf16")
    assert "CUDA's autocast list" in config.cache_key_tag
    takeover.remove()
    assert config.cache_key_tag == before
