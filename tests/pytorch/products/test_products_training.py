"""16-bit products in fp32 units where training meets them: attention, networks, threads, recompute, compiled code."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from halfstep.pytorch.products import products

from ..conftest import Calls

LOW = (torch.bfloat16, torch.float16)
U32 = 2.0**-24


pytestmark = pytest.mark.usefixtures("products_kernel")


class Block(nn.Module):
    """A transformer block on (batch, length, 32), embedding and head included."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 32), nn.Linear(32, 50)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return self.head(x + self.mlp(self.norm2(x)))


def gpt() -> tuple[nn.Module, Tensor, Tensor]:
    return Block(), torch.randint(50, (4, 16)), torch.randint(50, (4 * 16,))


def conv_net() -> tuple[nn.Module, Tensor, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    return net, torch.randn(8, 3, 12, 12), torch.randint(10, (8,))


Network = Callable[[], tuple[nn.Module, Tensor, Tensor]]


def loss_of(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, -2).float(), y)


def gradients(network: Network, dtype: torch.dtype, enabled: bool = True) -> Tensor:
    """All gradients of one step of mixed precision, in one vector of float64."""
    torch.manual_seed(0)
    model, x, y = network()
    with torch.autocast("cpu", dtype=dtype, enabled=enabled):
        loss = loss_of(model, x, y)
    # The scale keeps small gradients inside fp16's range; it is a power of two, so it changes no digit.
    (loss * 1024).backward()
    return torch.cat([p.grad.flatten().double() / 1024 for p in model.parameters() if p.grad is not None])


class Float64Sums(TorchDispatchMode):
    """16-bit products summed in float64 and rounded to 16 bits: the exact answer, by another road."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = ("aten::mm", "aten::addmm", "aten::bmm", "aten::convolution", "aten::_scaled_dot_product")
        low = args[0].dtype if args and isinstance(args[0], Tensor) else None
        if low not in LOW or not func.name().startswith(known):
            return func(*args, **(kwargs or {}))
        out = func(*(a.double() if isinstance(a, Tensor) else a for a in args), **(kwargs or {}))
        if isinstance(out, Tensor):
            return out.to(low)
        return tuple(o if o is None else o.to(low) if o.ndim != 3 else o for o in out)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("network", [gpt, conv_net])
def test_gradients_of_a_step_against_float64_sums(network: Network, dtype: torch.dtype) -> None:
    """They differ by results moved over a tie, an ulp each: far less than 16 bits themselves differ from fp32."""
    with Float64Sums():
        exact = gradients(network, dtype)
    products.install([dtype])
    got = gradients(network, dtype)
    full = gradients(network, dtype, enabled=False)
    ulp = torch.finfo(dtype).eps
    assert (got - exact).norm() < ulp / 2 * exact.norm()
    assert (got - exact).norm() < (full - exact).norm() / 2


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T + bias) v, and the weights, as the formula has it."""
    weights = torch.softmax(scale * (q @ k.mT) + bias, dim=-1)
    return weights @ v, weights


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "own dtype", "fp32"])
def test_attention_is_rounded_once(mask: str, dtype: torch.dtype, calls: Calls) -> None:
    """Against float64, forward and backward; logsumexp stays fp32.

    A weight's relative error is at most that of its score, gamma_d sum|q||k| scale, twice (for the row's sum), and
    that of exp and division (32 units: the vectorised exp is good to 20 ulp); gradients multiply such terms.
    """
    q, k, v, g = (torch.randn(2, 3, 20, 8).to(dtype) for _ in range(4))
    below = torch.ones(20, 20, dtype=torch.bool).tril()
    given = {"bool": below, "own dtype": torch.randn(20, 20).to(dtype), "fp32": torch.randn(20, 20)}.get(mask)
    floor = (
        torch.zeros(20, 20).masked_fill(~below, -torch.inf)
        if mask in ("causal", "bool")
        else torch.zeros(20, 20)
    )
    bias = (floor if given is None or mask == "bool" else given).double()
    products.install([dtype])
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*leaves, attn_mask=given, is_causal=mask == "causal", scale=0.5)
    got = [out.detach(), *torch.autograd.grad(out, leaves, g)]
    q, k, v, g = (t.double() for t in (q, k, v, g))
    exact, weights = attention(q, k, v, bias, 0.5)
    # The kernel's backward pass is given the rounded result: row sums of g * result.
    slope = weights * (g @ v.mT - (g * got[0].double()).sum(-1, keepdim=True))
    exacts = [exact, 0.5 * slope @ k, 0.5 * slope.mT @ q, weights.mT @ g]
    steep = weights * (g.abs() @ v.abs().mT + (g * got[0].double()).abs().sum(-1, keepdim=True))
    sums = [weights @ v.abs(), 0.5 * steep @ k.abs(), 0.5 * steep.mT @ q.abs(), weights.mT @ g.abs()]
    noise = (2 * 0.5 * 8 * (q.abs() @ k.abs().mT).max() + 32 + 2 * 20 + 2 * 8) * U32
    for value, right, most in zip(got, exacts, sums, strict=True):
        assert value.dtype == dtype
        bound = noise * most + torch.finfo(dtype).eps / 2 * (right.abs() + noise * most)
        assert ((value.double() - right).abs() <= bound + torch.finfo(dtype).smallest_normal).all()
    names = [name for name in calls if "attention" in name]
    assert names == [
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ]


def test_logsumexp_stays_fp32() -> None:
    q = torch.randn(1, 2, 8, 16).half()
    own = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)
    products.install([torch.float16])
    out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)
    assert (out.dtype, logsumexp.dtype) == (own[0].dtype, own[1].dtype) == (torch.float16, torch.float32)
    assert out.stride() == own[0].stride()


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_through_the_math_path(dtype: torch.dtype, dropout: float) -> None:
    """A mask that trains, or dropout, goes by way of bmm; the result is what PyTorch's own fp32 bmm gives."""
    q, mask = torch.randn(2, 3, 20, 8).to(dtype), torch.zeros(20, 20, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    own = F.scaled_dot_product_attention(q, q, q, attn_mask=mask, dropout_p=dropout)
    products.install([dtype])
    torch.manual_seed(1)
    got = F.scaled_dot_product_attention(q, q, q, attn_mask=mask, dropout_p=dropout)
    assert (got.double() - own.double()).abs().max() <= 4 * torch.finfo(dtype).eps * own.abs().max().double()


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_recurrent_layers(cell: type[nn.LSTM], dtype: torch.dtype, calls: Calls) -> None:
    """Forward and backward, to a few ulp of 16 bits: every step of the recurrence rounds its state."""
    net = cell(12, 16, batch_first=True)
    x = torch.randn(3, 7, 12)
    wide, low = net.double(), cell(12, 16, batch_first=True).to(dtype)
    low.load_state_dict(net.state_dict())
    wide.load_state_dict({name: value.double() for name, value in low.state_dict().items()})
    products.install([dtype])
    results = []
    for model, given in ((low, x.to(dtype)), (wide, x.to(dtype).double())):
        out = model(given)[0]
        out.square().mean().backward()
        results.append(
            [out.detach().double(), *(p.grad.double() for p in model.parameters() if p.grad is not None)]
        )
    for got, exact in zip(*results, strict=True):
        assert (got - exact).norm() < 8 * torch.finfo(dtype).eps * exact.norm()
    assert calls


@pytest.mark.parametrize("network", [gpt, conv_net])
def test_fp32_training_is_bit_identical(network: Network, calls: Calls) -> None:
    own = gradients(network, torch.bfloat16, enabled=False)
    products.install(LOW)
    assert torch.equal(gradients(network, torch.bfloat16, enabled=False), own)
    assert calls == []


def test_every_thread_has_them(calls: Calls) -> None:
    products.install([torch.float16])
    expected = gradients(conv_net, torch.float16)
    here = threading.get_ident()
    calls.clear()
    a = torch.randn(9, 9).half()
    results: list[Tensor] = []
    worker = threading.Thread(target=lambda: results.append(a @ a))
    worker.start()
    worker.join()
    assert torch.equal(results[0], a @ a)
    assert [thread == here for thread in calls.threads] == [False, True]
    assert torch.equal(gradients(conv_net, torch.float16), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recompute_of_a_checkpoint(reentrant: bool, calls: Calls) -> None:
    products.install([torch.float16])
    layer = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).half()
    x = torch.randn(4, 8).half().requires_grad_()
    plain = torch.autograd.grad(layer(x).sum(), x)[0]
    once = len(calls)
    layer_out = checkpoint(layer, x, use_reentrant=reentrant)
    layer_out.sum().backward()
    assert torch.equal(x.grad, plain)
    assert len(calls) - once > once  # two products more: the forward pass again


def test_inference_mode_and_no_grad(calls: Calls) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).bfloat16()
    x = torch.randn(2, 3, 8, 8).bfloat16()
    products.install([torch.bfloat16])
    expected = net(x)
    with torch.inference_mode():
        inferred = net(x)
        assert inferred.is_inference()
    with torch.no_grad():
        assert not net(x).requires_grad
    assert torch.equal(inferred.clone(), expected.detach())
    assert len(calls) == 6


@pytest.mark.parametrize("network", [gpt, conv_net])
def test_backward_inside_autocast(network: Network) -> None:
    """Many scripts call backward inside autocast: the products of fp32 copies must not be cast down again."""
    products.install([torch.bfloat16])
    outside = gradients(network, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gradients(network, torch.bfloat16), outside)


def test_fake_tensors_compute_nothing(calls: Calls) -> None:
    products.install(LOW)
    with FakeTensorMode():
        x = torch.empty(2, 3, 8, 8, dtype=torch.float16, requires_grad=True)
        out = F.conv2d(x, torch.empty(4, 3, 3, 3, dtype=torch.float16))
        out.sum().backward()
        assert (out @ out.mT).shape == (2, 4, 6, 6)
        assert x.grad is not None
        assert x.grad.dtype == torch.float16
    assert torch.mm(
        torch.empty(3, 4, device="meta").half(), torch.empty(4, 5, device="meta").half()
    ).shape == (3, 5)
    assert calls == []


def strides(
    convolution: Callable[..., Tensor], ndim: int, layout: torch.memory_format
) -> list[tuple[int, ...]]:
    """Of the result and both gradients."""
    x, w = (torch.randn(2 * i, 4, *[7 - 2 * i] * (ndim - 2)).half() for i in (1, 2))
    leaves = [t.contiguous(memory_format=layout).requires_grad_() for t in (x, w)]
    out = convolution(*leaves)
    seed = torch.ones_like(out).contiguous(memory_format=layout)
    return [t.stride() for t in (out, *torch.autograd.grad(out, leaves, seed))]


@pytest.mark.parametrize("channels_last", [False, True])
def test_strides_are_pytorchs_own(channels_last: bool) -> None:
    """Compiled code has been told to expect them; fp32 convolutions of volumes have others."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for convolution, ndim in ((F.conv2d, 4), (F.conv_transpose2d, 4), (F.conv3d, 5), (F.conv_transpose3d, 5)):
        layout = formats[ndim] if channels_last else torch.contiguous_format
        own = strides(convolution, ndim, layout)
        installed = products.install([torch.float16])
        assert strides(convolution, ndim, layout) == own
        installed.remove()


def test_export(calls: Calls) -> None:
    products.install([torch.float16])
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).half()
    x = torch.randn(3, 8).half()
    program = torch.export.export(net, (x,))
    assert calls == []
    assert torch.equal(program.module()(x), net(x))
    assert calls


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize("network", [pytest.param(gpt, marks=pytest.mark.long), conv_net])
def test_compiled_training(
    network: Network, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """inductor's code reaches the same kernels, and its gradients are eager's but for its own roundings elsewhere."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    products.install([torch.float16])
    eager = gradients(network, torch.float16)
    kinds = {name.removesuffix(".out") for name in calls}
    calls.clear()

    def compiled() -> tuple[nn.Module, Tensor, Tensor]:
        model, x, y = network()
        model.compile()
        return model, x, y

    got = gradients(compiled, torch.float16)
    assert (got - eager).norm() < 4 * torch.finfo(torch.float16).eps * eager.norm()
    assert {name.removesuffix(".out") for name in calls} == kinds
