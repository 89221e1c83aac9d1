"""Emulated products: what is rounded to what, along which axis, forward and backward, and where it holds."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from halfstep.precisions.exact import round_exact
from halfstep.precisions.formats import Format, get, get_scalar
from halfstep.precisions.recipes import PRECISIONS, parse
from halfstep.pytorch.emulation.emulate import Emulated
from halfstep.pytorch.emulation.operands import round_operand, scale_exponent
from halfstep.pytorch.emulation.ops import Emulation
from halfstep.pytorch.rounding import native
from halfstep.pytorch.rounding.blocks import round_blocks

from ..products.test_products_training import conv_net, gpt
from ..referee import U32

RECIPES = [parse(name) for name in ("tf32", "fp8", "fp8-e5m2", "mxfp8", "mxfp6", "mxfp4", "nvfp4")]
EMULATIONS = [Emulation(r.name, r.compute, r.gradients) for r in RECIPES]
FP8 = next(e for e in EMULATIONS if e.precision == "fp8")
each_emulation = pytest.mark.parametrize("e", EMULATIONS, ids=lambda e: e.precision)


@pytest.fixture
def emulate() -> Iterator[Callable[[Emulation], Emulated]]:
    begun: list[Emulated] = []

    def start(emulation: Emulation) -> Emulated:
        begun.append(Emulated(emulation))
        return begun[-1]

    yield start
    for emulated in begun:
        emulated.remove()


def exact_operand(x: Tensor, name: str, axis: int) -> Tensor:
    """The definition, number by number in exact arithmetic (blocks: held to exact arithmetic in test_blocks)."""
    row = get(name)
    if not isinstance(row, Format):
        return (
            round_blocks(x.double(), row, axis).float()
            if row.tensor_scale is None
            else round_blocks(x, row, axis)
        )
    if row.bits > 8:
        return torch.tensor([round_exact(v, row) for v in x.flatten().tolist()]).reshape(x.shape)
    k = 0
    top = x.abs().max().item()
    if top:
        while top * 2.0**k > row.largest:
            k -= 1
        while top * 2.0 ** (k + 1) <= row.largest:
            k += 1
    rounded = [round_exact(v * 2.0**k, row) * 2.0**-k for v in x.double().flatten().tolist()]
    return torch.tensor(rounded).reshape(x.shape).float()


@pytest.mark.parametrize(
    "name", ["tf32", "fp8_e4m3", "fp8_e5m2", "mxfp8_e4m3", "mxfp6_e3m2", "mxfp4", "nvfp4"]
)
@pytest.mark.parametrize("magnitude", [1.0, 1e-20, 3e30])
def test_operands_are_rounded_as_defined(name: str, magnitude: float) -> None:
    x = torch.randn(40, 70, generator=torch.Generator().manual_seed(0)) * magnitude
    for axis in (0, 1, -1, -2):
        for given in (x, x.T.contiguous().T, x[:, ::2], torch.zeros(3, 3), x[:0]):
            assert torch.equal(
                round_operand(given, name, axis), exact_operand(given, name, axis) if given.numel() else given
            )


@pytest.mark.parametrize("magnitude", [1.0, 1e-38, 1e37])
@pytest.mark.parametrize(
    "name", ["tf32", "fp8_e4m3", "fp8_e5m2", "mxfp8_e4m3", "mxfp6_e3m2", "mxfp4", "nvfp4"]
)
def test_compiled_kernels_and_pytorchs_operations_agree_in_every_layout(
    name: str, magnitude: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.kernels() is None:
        pytest.skip("no C compiler")
    x = torch.randn(70, 40, 9) * torch.exp2(torch.rand(70, 40, 9) * 20 - 10) * magnitude
    x[3, 4, 5], x[10, 11, 2], x[:33, 7] = math.nan, math.inf, 0.0
    for given in (x, x.permute(2, 0, 1), x[:, ::2], x[0], x[0].T, x.mT, torch.zeros(3, 3)):
        for axis in range(-given.dim(), given.dim()):
            got = round_operand(given, name, axis)
            with monkeypatch.context() as patch:
                patch.setattr(native, "kernels", lambda: None)
                expected = round_operand(given, name, axis)
            assert torch.equal(got.nan_to_num(1.5), expected.nan_to_num(1.5))
            assert torch.equal(got.isnan(), expected.isnan())
            assert got.stride() == expected.stride()


def test_what_is_not_finite_is_not_hidden() -> None:
    x = torch.tensor([1.0, math.inf, -math.inf, math.nan, 300.0])
    got = round_operand(x, "fp8_e4m3", 0)
    assert got[[0, 4]].tolist() == [1.0, 304.0 if scale_exponent(300.0, get_scalar("e4m3")) else 288.0]
    assert torch.equal(got[1:3], x[1:3])
    assert got[3].isnan()


def test_the_scale_is_the_largest_power_of_two_that_fits() -> None:
    for name in ("fp8_e4m3", "fp8_e5m2"):
        row = get_scalar(name)
        for top in (
            row.largest,
            math.nextafter(row.largest, math.inf),
            row.largest / 2,
            1.0,
            1.75,
            3e38,
            1e-28,
        ):
            k = scale_exponent(top, row)
            assert top * 2.0**k <= row.largest < top * 2.0 ** (k + 1)
        assert math.ldexp(row.smallest_subnormal, -scale_exponent(1e-45, row)) == 2.0**-126


def close(got: Tensor, exact: Tensor, sums: Tensor, n: int) -> None:
    """n products summed in fp32: n u sum|a||b|, and one more for the reference's own rounding to fp32."""
    assert ((got.double() - exact).abs() <= (n + 4) * U32 * sums).all()


@each_emulation
def test_a_linear_layer_and_its_gradients(e: Emulation, emulate: Callable[[Emulation], Emulated]) -> None:
    x, weight, bias = torch.randn(33, 50), torch.randn(20, 50), torch.randn(20)
    slope = torch.randn(33, 20)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    emulate(e)
    out = F.linear(*leaves)
    out.backward(slope)
    f, g = e.forward, e.gradients

    def rounded(t: Tensor, name: str, axis: int) -> Tensor:
        return exact_operand(t, name, axis).double()

    a, b = rounded(x, f, 1), rounded(weight, f, 1)
    close(out.detach(), a @ b.T + bias, a.abs() @ b.abs().T + bias.abs(), 50)
    gradients = [leaf.grad for leaf in leaves]
    assert all(g is not None for g in gradients)
    a, b = rounded(slope, g, 1), rounded(weight, f, 0)
    close(gradients[0], a @ b, a.abs() @ b.abs(), 20)
    a, b = rounded(slope, g, 0), rounded(x, f, 0)
    close(gradients[1], a.T @ b, a.abs().T @ b.abs(), 33)
    close(gradients[2], slope.double().sum(0), slope.double().abs().sum(0), 33)


@each_emulation
@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_and_its_gradients(
    e: Emulation, transposed: bool, emulate: Callable[[Emulation], Emulated]
) -> None:
    """Blocks run over channels, and over the batch for the weight's gradient."""
    convolve = F.conv_transpose2d if transposed else F.conv2d
    x, weight = torch.randn(9, 40, 6, 6), torch.randn(*((40, 8) if transposed else (8, 40)), 3, 3)
    inputs, outputs = (0, 1) if transposed else (1, 0)
    leaves = [t.clone().requires_grad_() for t in (x, weight)]
    emulated = emulate(e)
    out = convolve(*leaves)
    slope = torch.randn(out.shape)
    out.backward(slope)
    emulated.remove()
    f, g = e.forward, e.gradients

    def wide(*operands: Tensor) -> list[Tensor]:
        return [t.double().requires_grad_() for t in operands]

    a, b = wide(exact_operand(x, f, 1), exact_operand(weight, f, inputs))
    close(out.detach(), convolve(a, b), convolve(a.abs(), b.abs()), 40 * 9)
    a, b = wide(x, exact_operand(weight, f, outputs))
    seed = exact_operand(slope, g, 1).double()
    exact = torch.autograd.grad(convolve(a, b), a, seed)[0]
    sums = torch.autograd.grad(convolve(a, b.abs()), a, seed.abs())[0]
    assert leaves[0].grad is not None
    assert leaves[1].grad is not None
    close(leaves[0].grad, exact, sums, 8 * 9)
    a, b = wide(exact_operand(x, f, 0), weight)
    seed = exact_operand(slope, g, 0).double()
    exact = torch.autograd.grad(convolve(a, b), b, seed)[0]
    sums = torch.autograd.grad(convolve(a.abs(), b), b, seed.abs())[0]
    close(leaves[1].grad, exact, sums, 9 * 64)


@each_emulation
def test_attention_is_two_products(e: Emulation, emulate: Callable[[Emulation], Emulated]) -> None:
    """The same formula written by hand, in the same arithmetic, forward and backward, is equal bit for bit."""
    q, k, v = (torch.randn(2, 3, 20, 16, requires_grad=True) for _ in range(3))
    emulate(e)
    below = torch.ones(20, 20, dtype=torch.bool).tril()
    scores = (q @ k.mT) * 0.25
    by_hand = torch.softmax(scores.masked_fill(~below, -math.inf), -1) @ v
    for given in ({"is_causal": True}, {"attn_mask": below}):
        out = F.scaled_dot_product_attention(q, k, v, **given)  # type: ignore[arg-type]
        assert torch.equal(out, by_hand)
        gradients = [
            torch.autograd.grad(o.square().sum(), (q, k, v), retain_graph=True) for o in (out, by_hand)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert not torch.allclose(by_hand, torch.nn.functional.dropout(v, 0.0))
    with torch.inference_mode():
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, is_causal=True), by_hand)


def variants(a: Tensor, b: Tensor, c: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Ways of writing c + a b, or a b alone (batch 3), that end at other operations of the dispatcher."""
    one, other = a[0], b[0]
    return {
        "mm": lambda: one @ other,
        "mm.out": lambda: torch.mm(one, other, out=torch.empty(0)),
        "einsum": lambda: torch.einsum("ik,kj->ij", one, other),
        "linear": lambda: F.linear(one, other.T.contiguous()),
        "linear of 3 dimensions": lambda: F.linear(one[None], other.T.contiguous())[0],
        "addmm": lambda: torch.addmm(torch.zeros(5), one, other),
        "addmm_": lambda: torch.zeros(4, 5).addmm_(one, other),
        "bmm": lambda: torch.bmm(a[:1], b[:1])[0],
        "baddbmm": lambda: torch.baddbmm(torch.zeros(5), a[:1], b[:1], alpha=2)[0] / 2,
        "addbmm": lambda: torch.addbmm(torch.zeros(4, 5), a[:1], b[:1]),
        "tensordot": lambda: torch.tensordot(one, other, 1),
        "vmap": lambda: torch.func.vmap(lambda row: row @ other)(one[:, None])[:, 0],
        "conv1d": lambda: F.conv1d(one[..., None], other.T[..., None])[..., 0],
    }  # fmt: skip


@pytest.mark.parametrize("name", list(variants(*(torch.zeros(1, 1, 1),) * 3)))
def test_every_way_to_a_product_is_emulated(name: str, emulate: Callable[[Emulation], Emulated]) -> None:
    a, b = torch.randn(3, 4, 32), torch.randn(3, 32, 5)
    exact = exact_operand(a[0], "fp8_e4m3", -1).double() @ exact_operand(b[0], "fp8_e4m3", -2).double()
    emulate(FP8)
    got = variants(a, b, a)[name]()
    assert (got.double() - exact).abs().max() < 1e-5
    with torch.inference_mode():
        assert torch.equal(variants(a, b, a)[name](), got)


@pytest.mark.parametrize("make", [
    lambda: nn.LSTM(8, 8, batch_first=True),
    lambda: nn.GRU(8, 8, batch_first=True),
    lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
])  # fmt: skip
def test_fused_layers_do_not_pass_it_by(
    make: Callable[[], nn.Module], emulate: Callable[[Emulation], Emulated]
) -> None:
    """With gradients, without them, in inference mode and while evaluating: the same products."""
    layer, x = make(), torch.randn(2, 5, 8)

    def out() -> Tensor:
        result = layer(x)
        return (result if isinstance(result, Tensor) else result[0]).clone()

    plain = out()
    emulate(FP8)
    got = out()
    assert not torch.allclose(got, plain, rtol=1e-3)
    layer.eval()
    with torch.no_grad():
        assert torch.equal(out(), got)
    with torch.inference_mode():
        assert torch.equal(out(), got)


def step(network: Callable[[], tuple[nn.Module, Tensor, Tensor]]) -> Tensor:
    torch.manual_seed(0)
    model, x, y = network()
    F.cross_entropy(model(x).flatten(0, -2), y).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("network", [gpt, conv_net])
def test_what_was_replaced_is_put_back(
    network: Callable[[], tuple[nn.Module, Tensor, Tensor]], emulate: Callable[[Emulation], Emulated]
) -> None:
    plain = step(network)
    emulated = emulate(FP8)
    assert not torch.allclose(step(network), plain)
    emulated.remove()
    emulated.remove()
    assert torch.equal(step(network), plain)


@each_emulation
@pytest.mark.parametrize("reentrant", [True, False])
def test_recompute_rounds_as_the_forward_pass_did(
    e: Emulation, reentrant: bool, emulate: Callable[[Emulation], Emulated]
) -> None:
    emulate(e)
    layer = nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 8))
    x = torch.randn(4, 40, requires_grad=True)
    plain = torch.autograd.grad(layer(x).square().sum(), x)[0]
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    assert torch.equal(x.grad, plain) if x.grad is not None else False


def test_every_thread_has_it(emulate: Callable[[Emulation], Emulated]) -> None:
    emulate(FP8)
    found: list[Tensor] = []
    worker = threading.Thread(target=lambda: found.append(step(conv_net)))
    worker.start()
    worker.join()
    assert torch.equal(found[0], step(conv_net))


@each_emulation
def test_second_derivatives(e: Emulation, emulate: Callable[[Emulation], Emulated]) -> None:
    """With create_graph the first derivatives are the same, and the second are near fp32's: no graph is cut."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(8, 2, 6, 6)

    def penalty() -> tuple[list[Tensor], Tensor]:
        parameters = list(net.parameters())
        first = torch.autograd.grad(net(x).square().mean(), parameters, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), parameters)
        return list(first), torch.cat([g.flatten() for g in second])

    _, plain = penalty()
    emulate(e)
    first, second = penalty()
    once = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, once, strict=True))
    assert torch.cosine_similarity(second, plain, dim=0) > 0.9


@each_emulation
def test_functional_gradients(e: Emulation, emulate: Callable[[Emulation], Emulated]) -> None:
    emulate(e)
    layer, x = nn.Linear(40, 6), torch.randn(10, 40)
    expected = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]

    def loss(weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).square().sum()

    assert torch.equal(torch.func.grad(loss)(layer.weight.detach()), expected)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize("e", [FP8, EMULATIONS[-2]], ids=lambda e: e.precision)
def test_compiled_training(
    e: Emulation, emulate: Callable[[Emulation], Emulated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code rounds the same operands; a function compiled before is not taken from PyTorch's cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def compiled() -> tuple[nn.Module, Tensor, Tensor]:
        model, x, y = gpt()
        return torch.compile(model), x, y  # type: ignore[return-value]

    plain = step(compiled)
    torch._dynamo.reset()
    emulate(e)
    eager, got = step(gpt), step(compiled)
    # what inductor computes otherwise, in fp32, moves a few operands over a tie of the format
    assert (got - eager).norm() < 0.1 * (eager - plain).norm()


def test_sixteen_bit_and_double_products_are_left_alone(emulate: Callable[[Emulation], Emulated]) -> None:
    a = torch.randn(4, 6, dtype=torch.float64)
    low = a.bfloat16()
    expected = a @ a.T, low @ low.T, torch.eye(4).to_sparse() @ torch.ones(4, 2)
    emulate(FP8)
    assert torch.equal(a @ a.T, expected[0])
    assert torch.equal(low @ low.T, expected[1])
    assert torch.equal(torch.eye(4).to_sparse() @ torch.ones(4, 2), expected[2])


def test_what_only_emulation_runs() -> None:
    assert [p for p in PRECISIONS if parse(p).only_emulated] == [
        "fp8", "fp8-e4m3", "fp8-e5m2", "mxfp8", "mxfp6", "mxfp4", "nvfp4",
    ]  # fmt: skip
    assert parse("fp8").described == "fp8 (e4m3 forward, e5m2 backward)"
    assert parse("mxfp4").described == "mxfp4"
