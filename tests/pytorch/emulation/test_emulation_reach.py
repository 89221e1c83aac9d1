"""How far emulation reaches: other ways to a product, forward-mode derivatives, and what is refused in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from halfstep.precisions.recipes import parse
from halfstep.pytorch.emulation.emulate import Emulated
from halfstep.pytorch.emulation.operands import round_operand
from halfstep.pytorch.emulation.ops import Emulation

from ..referee import U32, judging

#: of PyTorch's own forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

RECIPES = [parse(name) for name in ("tf32", "fp8", "mxfp8", "mxfp4", "nvfp4")]
EMULATIONS = [Emulation(r.name, r.compute, r.gradients) for r in RECIPES]


@pytest.fixture(params=EMULATIONS, ids=lambda e: e.precision)
def e(request: pytest.FixtureRequest) -> Iterator[Emulation]:
    """An emulation in force."""
    emulated = Emulated(request.param)
    yield request.param
    emulated.remove()


def exact(a: Tensor, b: Tensor, e: Emulation) -> tuple[Tensor, Tensor]:
    """f(a) f(b) and |f(a)| |f(b)| with float64 sums."""
    left, right = round_operand(a, e.forward, -1).double(), round_operand(b, e.forward, -2).double()
    return left @ right, left.abs() @ right.abs()


def close(got: Tensor, expected: tuple[Tensor, Tensor], n: int) -> None:
    value, sums = expected
    assert ((got.double() - value).abs() <= (n + 8) * U32 * sums).all()


def test_a_matrix_by_a_vector(e: Emulation) -> None:
    """mv in its spellings; in tf32 fp32, for no matrix unit computes it."""
    a, x, bias = torch.randn(20, 70), torch.randn(70), torch.randn(20)
    if e.precision == "tf32":
        value = (a.double() @ x.double(), a.double().abs() @ x.double().abs())
    else:
        value, sums = exact(a, x.unsqueeze(1), e)
        value = (value.squeeze(1), sums.squeeze(1))
    for got in (a @ x, torch.mv(a, x, out=torch.empty(20)), torch.addmv(torch.zeros(20), a, x),
                torch.addmv(torch.tensor(0.0), a, x), torch.zeros(20).addmv_(a, x)):  # fmt: skip
        close(got, value, 70)
    linear, sums = exact(a, x.unsqueeze(1), e)
    close(F.linear(x, a), (linear.squeeze(1), sums.squeeze(1)), 70)  # PyTorch makes a matrix product of it
    scaled = torch.addmv(bias, a, x, beta=2.0, alpha=0.5)
    close(scaled, (2 * bias + 0.5 * value[0], 2 * bias.abs() + value[1]), 70)


def test_a_dot_product_stays_fp32(e: Emulation) -> None:
    """As under CUDA's autocast: optimizers' line searches are made of them."""
    a, b = torch.randn(70), torch.randn(70)
    close(torch.dot(a, b), (a.double() @ b.double(), a.double().abs() @ b.double().abs()), 70)


CONVOLUTIONS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "torch._convolution": (
        lambda x, w: torch._convolution(x, w, None, [1], [1], [1], False, [0], 1, False, False, True, True),
        (5, 7, 11),
        (6, 7, 3),
    ),
    "torch.conv_tbc": (lambda x, w: torch.conv_tbc(x, w, torch.zeros(6), 1), (11, 5, 7), (3, 7, 6)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_by_other_names_are_those_of_conv1d(name: str, e: Emulation) -> None:
    """Each product is judged by its operands, and result and gradients are conv1d's own."""
    call, of_x, of_w = CONVOLUTIONS[name]
    x, w = torch.randn(of_x, requires_grad=True), torch.randn(of_w, requires_grad=True)
    tbc = name == "torch.conv_tbc"
    with judging() as referee:
        got = call(x, w)
        slope = torch.randn(got.shape)
        got.backward(slope)
    assert {"convolution", "convolution_backward"} <= set(referee.judged)
    as_x, as_w = (x.permute(1, 2, 0), w.permute(2, 1, 0)) if tbc else (x, w)
    own_x, own_w = (t.detach().clone().requires_grad_() for t in (as_x, as_w))
    same = F.conv1d(own_x, own_w, padding=1)
    same.backward(slope.permute(1, 2, 0) if tbc else slope)
    pairs = [(got, same, (2, 0, 1)), (x.grad, own_x.grad, (2, 0, 1)), (w.grad, own_w.grad, (2, 1, 0))]
    for ours, theirs, axes in pairs:
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours, theirs.permute(axes) if tbc else theirs, rtol=1e-5, atol=1e-5)


def test_a_tangent_is_an_operand_like_any_other(e: Emulation) -> None:
    a, b, da, db = torch.randn(9, 70), torch.randn(70, 8), torch.randn(9, 70), torch.randn(70, 8)
    first, second = exact(da, b, e), exact(a, db, e)
    expected = first[0] + second[0], first[1] + second[1]
    value, moved = torch.func.jvp(torch.mm, (a, b), (da, db))
    close(value, exact(a, b, e), 70)
    close(moved, expected, 140)
    for trains in (False, True):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(a.clone().requires_grad_(trains), da) @ forward_ad.make_dual(b, db)
            close(forward_ad.unpack_dual(dual).tangent.detach(), expected, 140)
            assert dual.requires_grad is trains


def test_tangents_of_biases_and_convolutions(e: Emulation) -> None:
    """A layer is linear in what moves: its tangent is the layer of the tangent, without the bias."""
    layers: list[Any] = [nn.Linear(12, 5), nn.Conv2d(3, 5, 3, padding=1), nn.ConvTranspose1d(3, 5, 2)]
    for layer, shape in zip(layers, [(4, 12), (2, 3, 6, 6), (2, 3, 6)], strict=True):
        x, dx, dbias = torch.randn(shape), torch.randn(shape), torch.randn(5)
        parameters = {name: p.detach() for name, p in layer.named_parameters()}

        def call(x: Tensor, bias: Tensor, layer: Any = layer, parameters: Any = parameters) -> Tensor:
            result: Tensor = torch.func.functional_call(layer, {**parameters, "bias": bias}, (x,))
            return result

        _, moved = torch.func.jvp(call, (x, parameters["bias"]), (dx, dbias))
        torch.testing.assert_close(moved, call(dx, dbias), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap of an operation of ours, in a loop
def test_forward_and_reverse_mode_agree_on_the_jacobian() -> None:
    """In tf32, whose rounding of a column does not depend on the others."""
    emulated = Emulated(EMULATIONS[0])
    try:
        a, b = torch.randn(3, 6), torch.randn(6, 2)
        forward, reverse = (
            jac(lambda x: torch.tanh(x @ b))(a) for jac in (torch.func.jacfwd, torch.func.jacrev)
        )
    finally:
        emulated.remove()
    torch.testing.assert_close(forward, reverse, rtol=2e-3, atol=1e-5)  # tangents are rounded at other places


def test_kernels_with_products_inside_are_refused(e: Emulation) -> None:
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    with pytest.raises(
        RuntimeError,
        match=r"^torch\._native_multi_head_attention computes several products inside one kernel, which --emulate "
        r"cannot round; use torch\.nn\.MultiheadAttention, which halfstep has call them one by one\.$",
    ):
        torch._native_multi_head_attention(
            x, x, x, 8, 2, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight,
            attention.out_proj.bias,
        )  # fmt: skip
    with judging() as referee, torch.no_grad():
        attention.eval()(x, x, x)
    assert referee.judged["product"] >= 3
