"""Every product against float64: fp32 sums, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.errors import UsageError
from halfstep.machine.support import Support
from halfstep.pytorch.products import products
from halfstep.pytorch.products.cpp_kernel import cpp_kernel
from halfstep.pytorch.products.operations import KINDS, Operation
from halfstep.pytorch.recording.profile import Profile

from ..conftest import Calls, compiled
from ..no_looks import NoLooks

LOW = (torch.bfloat16, torch.float16)
U32 = 2.0**-24  # unit roundoff of fp32

pytestmark = pytest.mark.usefixtures("products_kernel")


def half_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the distance between neighbours of ``dtype`` at ``x``: the most that one rounding moves ``x``."""
    smallest = torch.tensor(torch.finfo(dtype).smallest_normal, dtype=torch.float64)
    exponent = torch.frexp(x.abs().maximum(smallest)).exponent - 1
    return torch.ldexp(torch.full_like(x, torch.finfo(dtype).eps / 2), exponent)


def assert_rounded_once(got: Tensor, exact: Tensor, sums: Tensor, terms: float, dtype: torch.dtype) -> None:
    """|got - exact| <= gamma * sum|a||b| + half an ulp of the result.

    A sum of n products in fp32, in any order, is off by at most gamma = n u / (1 - n u) of the sum of magnitudes
    (Higham, Accuracy and Stability, 3.1); four roundings more are allowed for alpha, beta and a bias.
    """
    gamma = (terms + 4) * U32 / (1 - (terms + 4) * U32)
    noise = gamma * sums
    assert got.dtype == dtype
    assert got.shape == exact.shape
    excess = (got.double() - exact).abs() - noise - half_ulp(exact.abs() + noise, dtype)
    assert excess.max() <= 0 if excess.numel() else True


#: name -> (a function that is linear in each argument, or a sum of such; the arguments' shapes)
CASES: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "mm": (torch.mm, [(24, 40), (40, 33)]),
    "mm_nt": (lambda a, b: a @ b.t(), [(24, 40), (33, 40)]),
    "mm_tn": (lambda a, b: a.t() @ b, [(40, 24), (40, 33)]),
    "mm_sliced": (lambda a, b: a[:, ::2] @ b[1:, 3:], [(24, 40), (21, 33)]),
    "mm_expanded": (lambda a, b: a.expand(24, 40) @ b, [(1, 40), (40, 33)]),
    "mm_row": (torch.mm, [(1, 40), (40, 33)]),
    "mm_no_rows": (torch.mm, [(0, 40), (40, 33)]),
    "mm_no_terms": (torch.mm, [(24, 0), (0, 33)]),
    "addmm_bias": (torch.addmm, [(33,), (24, 40), (40, 33)]),
    "addmm_scaled": (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=3), [(24, 33), (24, 40), (40, 33)]),
    "bmm": (torch.bmm, [(3, 24, 40), (3, 40, 33)]),
    "bmm_nt": (lambda a, b: a @ b.mT, [(3, 24, 40), (3, 33, 40)]),
    "baddbmm": (lambda c, a, b: torch.baddbmm(c, a, b, alpha=0.25), [(24, 33), (3, 24, 40), (3, 40, 33)]),
    "addbmm": (torch.addbmm, [(24, 33), (3, 24, 40), (3, 40, 33)]),
    "linear_1d": (F.linear, [(40,), (33, 40), (33,)]),
    "linear_3d": (F.linear, [(2, 5, 40), (33, 40), (33,)]),
    "linear_no_bias": (F.linear, [(2, 5, 40), (33, 40)]),
    "einsum": (lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), [(2, 3, 9, 16), (2, 3, 7, 16)]),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [1, 0])), [(4, 5, 6), (6, 5, 7)]),
    "conv1d": (F.conv1d, [(2, 6, 20), (8, 6, 3), (8,)]),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), [(2, 6, 10, 10), (8, 6, 3, 3), (8,)]),
    "conv2d_strided": (lambda x, w: F.conv2d(x, w, stride=2), [(2, 6, 10, 10), (8, 6, 3, 3)]),
    "conv2d_dilated": (lambda x, w: F.conv2d(x, w, dilation=2), [(2, 6, 10, 10), (8, 6, 3, 3)]),
    "conv2d_depthwise": (lambda x, w: F.conv2d(x, w, groups=6), [(2, 6, 10, 10), (6, 1, 3, 3)]),
    "conv2d_channels_last": (
        lambda x, w: F.conv2d(x.contiguous(memory_format=torch.channels_last), w),
        [(2, 6, 10, 10), (8, 6, 3, 3)],
    ),
    "conv3d": (F.conv3d, [(1, 4, 6, 6, 6), (5, 4, 3, 3, 3), (5,)]),
    "conv_transpose1d": (F.conv_transpose1d, [(2, 6, 9), (6, 4, 3)]),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2),
        [(2, 6, 5, 5), (6, 4, 3, 3), (4,)],
    ),
    "conv_transpose3d": (F.conv_transpose3d, [(1, 4, 3, 3, 3), (4, 5, 3, 3, 3)]),
}

#: Their gradients are rounded again after the product: by a factor of 3, by the sum over an expanded axis.
ROUNDED_TWICE = {"addmm_scaled", "mm_expanded"}


def operands(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype) for shape in shapes]


def with_gradients(
    function: Callable[..., Tensor], values: list[Tensor], seed: Tensor | None
) -> list[Tensor]:
    """The result, and the gradient of every argument where ``seed`` comes back from it."""
    leaves = [v.detach().requires_grad_() for v in values]
    result = function(*leaves)
    if seed is None:
        return [result.detach()]
    return [result.detach(), *torch.autograd.grad(result, leaves, seed)]


def assert_case(function: Callable[..., Tensor], values: list[Tensor], backward: bool) -> None:
    dtype = values[0].dtype
    wide = [v.double() for v in values]
    shape = function(*values).shape
    seed = torch.randn(shape, dtype=torch.float64).to(dtype) if backward else None
    seeds = (
        [None] * 4 if seed is None else [seed, seed.double(), seed.double().abs(), torch.ones(shape).double()]
    )
    got = with_gradients(function, values, seeds[0])
    exact = with_gradients(function, wide, seeds[1])
    sums = with_gradients(function, [w.abs() for w in wide], seeds[2])
    terms = with_gradients(function, [torch.ones_like(w) for w in wide], seeds[3])
    for g, e, s, n in zip(got, exact, sums, terms, strict=True):
        assert_rounded_once(g, e, s, n.max().item() if n.numel() else 0.0, dtype)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", CASES)
def test_products_are_rounded_once(name: str, dtype: torch.dtype, calls: Calls) -> None:
    function, shapes = CASES[name]
    products.install([dtype])
    assert_case(function, operands(shapes, dtype), backward=name not in ROUNDED_TWICE)
    assert calls


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", ["mm", "mm_nt", "mm_tn", "linear_3d", "bmm", "conv2d", "conv2d_strided"])
def test_most_results_equal_pytorchs_own(name: str, dtype: torch.dtype) -> None:
    """They differ only where the order of the sum moves it over a tie: 0.02 % (bf16) to 0.2 % (fp16) were seen."""
    function, shapes = CASES[name]
    values = operands(shapes, dtype)
    own = function(*values)
    products.install([dtype])
    assert (function(*values) == own).double().mean() > 0.98


OUT = {
    "mm": (torch.mm, [(24, 40), (40, 33)]),
    "bmm": (torch.bmm, [(3, 24, 40), (3, 40, 33)]),
    "addmm": (torch.addmm, [(33,), (24, 40), (40, 33)]),
    "baddbmm": (torch.baddbmm, [(3, 24, 33), (3, 24, 40), (3, 40, 33)]),
    "addbmm": (torch.addbmm, [(24, 33), (3, 24, 40), (3, 40, 33)]),
    "_addmm_activation": (torch._addmm_activation, [(33,), (24, 40), (40, 33)]),
}


@pytest.mark.parametrize("name", OUT)
def test_out_is_written_in_place(name: str, calls: Calls) -> None:
    function, shapes = OUT[name]
    values = operands(shapes, torch.float16)
    products.install([torch.float16])
    result = function(*values)
    fresh = torch.empty(0, dtype=torch.float16)
    strided = torch.empty(*result.shape, 2, dtype=torch.float16)[..., 0]
    for out in (fresh, torch.empty_like(result), strided):
        assert function(*values, out=out) is out
        assert torch.equal(out, result)
    assert calls == [name] + [f"{name}.out"] * 3


@pytest.mark.parametrize("name", ["addmm", "baddbmm", "addbmm"])
def test_in_place(name: str, calls: Calls) -> None:
    shapes = OUT[name][1]
    target, a, b = operands([(3, 24, 33) if name == "baddbmm" else (24, 33), *shapes[1:]], torch.bfloat16)
    products.install([torch.bfloat16])
    expected = getattr(torch, name)(target, a, b, beta=0.3)
    assert getattr(target, f"{name}_")(a, b, beta=0.3) is target
    assert torch.equal(target, expected)
    assert calls == [name, f"{name}_"]


def test_beta_zero_ignores_what_was_there() -> None:
    products.install([torch.float16])
    _, a, b = operands(CASES["addmm_bias"][1], torch.float16)
    assert torch.equal(torch.addmm(torch.full((33,), torch.nan).half(), a, b, beta=0), a @ b)


def test_sums_beyond_the_range_round_to_infinity() -> None:
    """fp16 ends at 65504; what fp32 sums to 65520 or more is infinity, and a sum may pass through it on its way."""
    products.install([torch.float16])
    a = torch.tensor([[65504.0, 16.0, 0.0], [65504.0, 15.0, 0.0], [65504.0, 65504.0, -65504.0]]).half()
    assert (a @ torch.ones(3, 1).half()).flatten().tolist() == [float("inf"), 65504.0, 65504.0]


@pytest.mark.parametrize("dtype", LOW)
def test_grouped_products(dtype: torch.dtype, calls: Calls) -> None:
    a, b = operands([(16, 24), (2, 24, 32)], dtype)
    products.install([dtype])
    got = F.grouped_mm(a, b, offs=torch.tensor([8, 16], dtype=torch.int32))
    assert torch.equal(got, torch.cat([a[:8] @ b[0], a[8:] @ b[1]]))
    assert calls


def test_unlike_dtypes_are_refused_in_pytorchs_words() -> None:
    low, full = torch.ones(3, 3).half(), torch.ones(3, 3)
    attempts: list[Callable[[], Any]] = [
        lambda: torch.mm(low, full),
        lambda: torch.addmm(full, low, low),
        lambda: torch.mm(low, low, out=full),
        lambda: torch.mm(low, torch.ones(2, 2).half()),
        lambda: F.conv1d(low[None], low[None], full[0]),
    ]
    own = [_message(attempt) for attempt in attempts]
    products.install([torch.float16])
    assert [_message(attempt) for attempt in attempts] == own


def _message(attempt: Callable[[], Any]) -> str:
    with pytest.raises(RuntimeError) as caught:
        attempt()
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.int64])
def test_other_dtypes_are_untouched(dtype: torch.dtype, calls: Calls) -> None:
    a, b, c = (x.mul(8).to(dtype) for x in operands([(24, 40), (40, 33), (33,)], torch.float32))
    own = [a @ b, torch.addmm(c, a, b), a[None] @ b[None]]
    products.install(LOW)
    assert all(map(torch.equal, own, [a @ b, torch.addmm(c, a, b), a[None] @ b[None]]))
    assert calls == []


def test_installing_again_changes_nothing_and_removing_restores(calls: Calls) -> None:
    a, b = operands([(24, 40), (40, 33)], torch.float16)
    own = a @ b
    first = products.install([torch.float16])
    assert products.install({torch.float16}) is first
    second = products.install(LOW)
    assert second is not first
    first.remove()
    assert torch.equal(a @ b, a @ b)
    assert calls == ["mm", "mm"]
    second.remove()
    second.remove()
    assert torch.equal(a @ b, own)
    assert calls == ["mm", "mm"]


NATIVE = Support("native", "it has units", ("transposed_convolution",))
FP32 = Support("fp32_units", "it has none")


@pytest.mark.parametrize(
    ("mode", "support", "kind", "expected"),
    [
        ("auto", NATIVE, "product", False),
        ("auto", NATIVE, "transposed_convolution", True),
        ("auto", FP32, "product", True),
        ("auto", Support("impossible", "no"), "product", False),
        ("native", FP32, "product", False),
        ("native", NATIVE, "transposed_convolution", False),
        ("fp32", NATIVE, "product", True),
    ],
)
def test_choose(mode: products.ProductsMode, support: Support, kind: str, expected: bool) -> None:
    assert products.choose(mode, support, kind) is expected


def test_plan_takes_over_only_what_is_slow() -> None:
    def supported(precision: str) -> Support:
        return NATIVE if precision == "bf16" else FP32

    both = frozenset(LOW)
    planned = products.plan(LOW, "auto", supported)
    assert planned == {kind: frozenset({torch.float16}) for kind in KINDS} | {"transposed_convolution": both}
    assert products.plan([torch.bfloat16], "native", supported) == {}


def test_a_kind_of_its_own_is_taken_over_alone(calls: Calls) -> None:
    x, w = operands([(2, 6, 5, 5), (6, 6, 3, 3)], torch.bfloat16)
    products._current = products.Products({"transposed_convolution": frozenset({torch.bfloat16})})
    F.conv2d(x, w)
    assert calls == []
    F.conv_transpose2d(x, w)
    assert calls == ["convolution"]


def test_a_convolutions_backward_pass_is_a_kind_of_its_own(calls: Calls) -> None:
    """Units for fp16 are fast at the forward pass, and up to 700 times slower than fp32 at this one."""
    x, w = operands([(2, 6, 5, 5), (6, 6, 3, 3)], torch.float16)
    products._current = products.Products({"convolution_backward": frozenset({torch.float16})})
    y = F.conv2d(x.requires_grad_(), w.requires_grad_())
    assert calls == []
    y.sum().backward()
    assert calls == ["convolution_backward"]


def test_casts_are_no_part_of_the_product_in_a_profile() -> None:
    products.install([torch.float16])
    a = torch.ones(256, 256).half()
    profile = Profile(NoLooks())
    profile.begin()
    profile.next_step()
    torch.mm(a, a)
    shares = profile.end()["time_shares"]
    assert shares["products"] > 0
    assert shares["casts"] > 0


def test_what_this_pytorch_lacks_is_named() -> None:
    kernel = compiled(cpp_kernel())
    with pytest.raises(RuntimeError, match=r"aten::no_such\.out"):
        kernel.put([Operation("no_such.out", "product", 2)], {})


def test_mistakes_are_told() -> None:
    with pytest.raises(UsageError) as caught:
        products.install([torch.float32])
    assert str(caught.value) == (
        "Products in fp32 units were asked for torch.float32; allowed are bfloat16 and float16."
    )
    with pytest.raises(UsageError) as caught:
        products.choose("fast", FP32)  # type: ignore[arg-type]
    assert str(caught.value) == "--products was given 'fast'; allowed are auto, native, fp32."


def test_the_kinds_that_are_computed_in_fp32_units_are_heard(products_kernel: str) -> None:
    """Those of a step that has them: a transposed convolution, and no attention."""
    heard = []
    slow = products.install([torch.bfloat16])
    for layer in (torch.nn.ConvTranspose2d(2, 2, 3), torch.nn.Linear(4, 4)):
        layer = layer.bfloat16()
        listening = products.Listening()
        listening.begin()
        layer(torch.ones(1, 2, 4, 4, dtype=torch.bfloat16)).sum().backward()
        heard.append(listening.end())
        layer(torch.ones(1, 2, 4, 4, dtype=torch.bfloat16))
        assert listening.end() == heard[-1]
    slow.remove()
    assert heard == [["convolution", "convolution_backward"], ["product"]]
