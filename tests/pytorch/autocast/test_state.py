"""Where autocast is in force, and the traps of its cache. Where PyTorch falls into one, a control test shows that."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.autocast import state

BF16 = torch.bfloat16


def endless_autocast() -> torch.autocast:
    region = torch.autocast("cpu", dtype=BF16)
    region.__enter__()
    return region


def losses_of_training(steps: int = 10) -> list[float]:
    """Plain SGD on one linear layer by an in-place update that no optimizer makes."""
    torch.manual_seed(1)
    model, x, y = nn.Linear(8, 1), torch.randn(32, 8), torch.randn(32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        loss = (model(x) - y).float().pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_an_endless_autocast_of_pytorchs_stops_learning() -> None:
    """The control: cached casts of the first step's weights are served for ever."""
    region = endless_autocast()
    try:
        losses = losses_of_training()
    finally:
        region.__exit__(None, None, None)
    assert losses == [losses[0]] * 10


def test_training_goes_on_in_the_recipe(begin) -> None:
    plain = losses_of_training()
    begin("bf16")
    losses = losses_of_training()
    assert losses[-1] < 0.8 * losses[0]
    # One rounding to bf16 of inputs and weights each: 2 * 2^-9 relative of outputs of order 1, squared.
    assert losses == pytest.approx(plain, rel=0.05)


class OfOld(torch.optim.Optimizer):
    """An optimizer that updates through ``.data``, and needs no grad mode for it."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.data.add_(p.grad.data, alpha=-0.1)


@pytest.mark.parametrize("look_between", [False, True])
def test_weights_updated_through_data_are_seen(begin, look_between: bool) -> None:
    """By hand after the backward pass, or by an optimizer, also where a forward pass came between the two."""
    begin("bf16")
    model, x = nn.Linear(8, 1, bias=False), torch.randn(32, 8)
    optimizer = OfOld(model.parameters(), {})
    for _ in range(3):
        model.zero_grad()
        model(x).float().square().mean().backward()
        if look_between:
            model(x)
            optimizer.step()
        else:
            model.weight.data.add_(model.weight.grad, alpha=-0.1)
        assert torch.equal(model(x), x.bfloat16() @ model.weight.bfloat16().T)


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.LBFGS])
def test_a_closure_runs_in_the_recipe(begin, cls: type) -> None:
    begin("bf16")
    model, x, seen = nn.Linear(8, 1), torch.randn(32, 8), set()
    optimizer = cls(model.parameters(), lr=0.1)
    model.register_forward_hook(lambda module, args, out: seen.add(out.dtype))

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert seen == {BF16}


@pytest.mark.parametrize(
    "region", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)]
)
def test_a_pass_without_gradients_leaves_the_next_one_whole(begin, region) -> None:
    begin("bf16")
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    with region():
        model(x)
    model(x).float().sum().backward()
    assert model.weight.grad is not None


def test_set_grad_enabled_as_a_function(begin) -> None:
    begin("bf16")
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    torch.set_grad_enabled(False)
    model(x)
    torch.set_grad_enabled(True)
    model(x).float().sum().backward()
    assert model.weight.grad is not None


def doubles_when_its_weight_does() -> bool:
    model, x = nn.Linear(4, 1, bias=False), torch.ones(1, 4)
    before = model(x)
    with torch.no_grad():
        model.weight.mul_(2)
    return torch.equal(model(x), 2 * before)


def test_weights_changed_under_no_grad_are_seen(begin) -> None:
    region = endless_autocast()
    assert not doubles_when_its_weight_does(), "the control: PyTorch's cache serves the old weight"
    region.__exit__(None, None, None)
    begin("bf16")
    assert doubles_when_its_weight_does()


def test_cast_weights_are_freed_as_the_backward_pass_comes_by(begin) -> None:
    """Held to its end, they would add the size of all weights to the peak of memory."""
    begin("bf16")
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    casts: list[weakref.ref[torch.UntypedStorage]] = []

    def saved(tensor: Tensor) -> Tensor:
        if tensor.dtype is BF16 and tensor.shape == (4, 4):
            casts.append(weakref.ref(tensor.untyped_storage()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        loss = model(torch.randn(2, 4, requires_grad=True)).float().sum()
    alive: list[list[bool]] = []
    for layer in model:
        layer.weight.register_hook(lambda _: alive.append([cast() is not None for cast in casts]))
    assert [cast() is not None for cast in casts] == [True, True, True]
    loss.backward()
    assert [sum(now) for now in alive] == [2, 1, 0]


class Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient.to(weight.dtype) @ weight, None


def test_a_custom_function_does_not_poison_the_cache(begin) -> None:
    """Its forward runs without gradients: a weight cast there must not be served to the layer after it."""
    begin("bf16")
    layer, x = nn.Linear(4, 4, bias=False), torch.randn(2, 4, requires_grad=True)
    Multiply.apply(x, layer.weight)
    layer(x).float().sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_region_inside_a_model_that_is_off_is_respected(begin, device: str) -> None:
    """Whatever device it names."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.autocast(device, enabled=False):
                product = x @ x
                assert product.dtype is self.inner(x).dtype is torch.float32
            assert self.inner(x).dtype is BF16
            return product, self.inner(x)

    begin("bf16")
    x = torch.randn(4, 4, requires_grad=True)
    Part()(x)[0].sum().backward()
    plain = x.detach().clone().requires_grad_()
    (plain @ plain).sum().backward()
    assert torch.equal(x.grad, plain.grad)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_a_region_that_is_off_computes_in_fp32_with_what_the_region_around_gave(
    begin, recipe: str, compiled: bool, device: str
) -> None:
    """In plain Python all operands are fp32; here PyTorch raised "expected m1 and m2 to have the same dtype"."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
            self.matrix = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            h = self.inner(x)
            with torch.autocast(device, enabled=False):
                return h, h @ self.matrix, h @ h.T, self.norm(h), torch.linalg.qr(h)[1].abs()

    begin(recipe)
    model = Part()
    results = (torch.compile(model, backend="aot_eager") if compiled else model)(torch.randn(4, 4))
    h, *found = (result.detach().double() for result in results)
    matrix = model.matrix.detach().double()
    norm = nn.functional.layer_norm(h, (4,))
    wanted = h @ matrix, h @ h.T, norm, torch.linalg.qr(h)[1].abs()
    assert torch.equal(h, h.to(BF16 if recipe == "bf16" else torch.float16).double()), "it is 16-bit"
    for got, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-5)  # 16 bits are off by 1e-3
    sum(result.sum() for result in results).backward()
    assert model.matrix.grad.dtype is model.inner.weight.grad.dtype is torch.float32


def test_the_backward_pass_of_an_fp32_region_is_fp32(begin) -> None:
    """Its matrix products have fp32 operands; an autocast still in force would round them to bf16."""
    x = torch.randn(64, 64, requires_grad=True)
    (x @ x).square().sum().backward()
    reference, x.grad = x.grad, None
    begin("bf16")
    with torch.autocast("cpu", enabled=False):
        loss = (x @ x).square().sum()
    loss.backward()
    assert torch.equal(x.grad, reference)


def test_float64_integer_and_complex_inputs_keep_their_dtype(begin) -> None:
    begin("bf16")
    for dtype in (torch.float64, torch.complex64, torch.int64):
        x = torch.ones(3, 3, dtype=dtype)
        assert (x @ x).dtype is dtype
    model = nn.Linear(3, 3).double()
    model(torch.randn(2, 3, dtype=torch.float64)).sum().backward()
    assert model.weight.dtype is torch.float64
    assert model.weight.grad.dtype is torch.float64


def test_an_optimizers_own_products_stay_in_fp32(begin) -> None:
    """Shampoo, Muon and their like multiply matrices in their step; updates are fp32."""

    class Whitening(torch.optim.Optimizer):
        seen: list[torch.dtype] = []

        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                product = p.grad @ p.grad.T
                self.seen.append(product.dtype)
                p.sub_(1e-3 * product @ p.grad)

    begin("bf16")
    layer = nn.Linear(4, 4, bias=False)
    optimizer = Whitening(layer.parameters(), {})
    layer(torch.randn(2, 4)).float().sum().backward()
    optimizer.step()
    assert Whitening.seen == [torch.float32]


def test_threads_started_by_the_program_run_in_the_recipe_too(begin) -> None:
    begin("bf16")
    seen: list[torch.dtype] = []
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    thread = threading.Thread(target=lambda: seen.append(model(torch.ones(2, 2)).dtype))
    thread.start()
    thread.join()
    assert seen == [BF16, torch.float32]


def test_checkpointing_recomputes_in_the_recipe(begin) -> None:
    from torch.utils.checkpoint import checkpoint

    begin("bf16")
    model, x = (
        nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)),
        torch.randn(4, 8, requires_grad=True),
    )
    gradients = []
    for use in (
        lambda: model(x),
        *(lambda r=r: checkpoint(model, x, use_reentrant=r) for r in (True, False)),
    ):
        model.zero_grad()
        use().float().sum().backward()
        gradients.append(model[0].weight.grad.clone())
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_pytorch_is_put_back_as_it_was(begin) -> None:
    before = (
        torch.no_grad.__exit__,
        torch.autograd.backward,
        torch.Tensor.register_hook,
        torch.optim.Optimizer.state_dict,
    )
    begin("fp16").remove()
    after = (
        torch.no_grad.__exit__,
        torch.autograd.backward,
        torch.Tensor.register_hook,
        torch.optim.Optimizer.state_dict,
    )
    assert before == after
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


class Noting(float):
    """A number that notes where PyTorch reads it."""

    def __new__(cls, value: float, seen: list[bool]) -> Noting:
        made = super().__new__(cls, value)
        made.seen = seen
        return made

    def __float__(self) -> float:
        self.seen.append(torch.is_autocast_enabled("cpu"))
        return super().__float__()


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
@pytest.mark.parametrize("clip", ["clip_grad_norm_", "clip_grad_value_"])
def test_gradients_are_clipped_outside_autocast(begin, recipe: str, clip: str) -> None:
    """As a hand-written region leaves it, which is around the forward pass: each operation costs more inside."""
    begin(recipe)
    layers = nn.Linear(4, 4), nn.Linear(4, 4)
    layers[1](layers[0](torch.ones(4, 4))).sum().backward()
    seen: list[bool] = []
    getattr(nn.utils, clip)([layers[0].weight], Noting(1.0, seen))
    assert seen
    assert not any(seen)
    assert layers[0].weight.grad.abs().max() <= 1.0


@pytest.mark.parametrize("captured", [False, True])
def test_a_captured_pass_does_not_bake_in_a_cast_of_before(
    begin, monkeypatch: pytest.MonkeyPatch, captured: bool
) -> None:
    """Not captured: the control, in which the script writes behind PyTorch's back, and finds the cast of before."""
    begin("bf16")
    net, x = nn.Sequential(nn.Linear(4, 4, bias=False)), torch.ones(2, 4)
    before = net(x).detach()
    for weight in net.parameters():
        weight.data.mul_(2)
    monkeypatch.setattr(state, "capturing", lambda: captured)
    assert torch.equal(net(x), before * (2 if captured else 1))


def test_make_graphed_callables_finds_no_cache_of_casts(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses to run where autocast caches: in a program whose 16-bit numbers are promoted it is on."""
    seen: list[bool] = []
    monkeypatch.setattr(
        torch.cuda, "make_graphed_callables", lambda net, args: seen.append(torch.is_autocast_cache_enabled())
    )
    begin("bf16")
    torch.cuda.make_graphed_callables(nn.Linear(2, 2), ())
    assert seen == [False]
    assert torch.is_autocast_cache_enabled()


@pytest.fixture
def operation() -> Iterator[tuple[Callable[[Tensor, Tensor], Tensor], list[torch.dtype]]]:
    """A product that a script has made an operation of PyTorch's, and the dtypes that its backward has returned."""
    seen: list[torch.dtype] = []
    operation = torch.library.custom_op("halfstep_tests::product", mutates_args=())(_product)

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        seen.append((gradient @ weight).dtype)
        return gradient @ weight, gradient.T @ x

    operation.register_autograd(
        backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
    )
    yield operation, seen
    operation._lib._destroy()


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_the_backward_of_a_scripts_own_operation_is_in_the_region(begin, operation, recipe: str) -> None:
    """As that of its own Function: fp32 weights that its forward saved meet 16-bit gradients there, and it runs once."""
    product, seen = operation

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.weight = nn.Linear(8, 8), nn.Parameter(torch.randn(4, 8))

        def forward(self, x: Tensor) -> Tensor:
            return product(self.layer(x), self.weight)

    def gradient() -> Tensor:
        x = torch.linspace(-1, 1, 24).reshape(3, 8).requires_grad_()
        return torch.autograd.grad(Net()(x).square().sum() * 2.0**-14, x)[0]

    plain = gradient()
    seen.clear()
    takeover = begin(recipe)
    found = gradient()
    assert torch.allclose(found, plain, rtol=0.02, atol=0.02 * float(plain.abs().max()))
    assert seen == [takeover.regions.dtype]
