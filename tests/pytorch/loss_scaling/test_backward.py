"""True gradients: what a script sees under a loss scale is what it would see without one.

In fp32 a scale that is a power of two costs nothing, so every pattern must be bit-identical to plain PyTorch; in fp16
the gradients are held against float64 within a derived bound.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.loss_scaling import gradients as kernels

from ..conftest import Begin

pytestmark = pytest.mark.usefixtures("followed")

SCALED = "fp32:loss_scale=1024"
#: doubles after every step
MOVING = "fp32:loss_scale=dynamic:init_scale=1024:growth_interval=1"


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 8, generator=generator), torch.randn(12, 4, generator=generator)


def gradients(net: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters()]


def once() -> list[Tensor]:
    net, (x, y) = model(), data()
    (net(x) - y).square().mean().backward()
    return gradients(net)


def accumulated() -> list[Tensor]:
    net, (x, y) = model(), data()
    for part in range(3):
        (net(x[part::3]) - y[part::3]).square().mean().backward()
    return gradients(net)


def clipped() -> list[Tensor]:
    net, (x, y) = model(), data()
    (net(x) - y).square().mean().backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), 0.05)
    nn.utils.clip_grad_value_(net.parameters(), 0.01)
    return [norm, *gradients(net)]


def retained() -> list[Tensor]:
    net, (x, y) = model(), data()
    loss = (net(x) - y).square().mean()
    loss.backward(retain_graph=True)
    loss.backward()
    return gradients(net)


def several_losses() -> list[Tensor]:
    net, (x, y) = model(), data()
    out = net(x)
    torch.autograd.backward([(out - y).square().mean(), out.abs().mean()])
    return gradients(net)


def given_gradient() -> list[Tensor]:
    net, (x, _) = model(), data()
    out = net(x)
    out.backward(torch.linspace(-1, 1, out.numel()).reshape(out.shape))
    return gradients(net)


def named_inputs() -> list[Tensor]:
    net, (x, y) = model(), data()
    x.requires_grad_()
    (net(x) - y).square().mean().backward(inputs=[x, net[0].weight])
    assert net[2].weight.grad is None
    return [x.grad, net[0].weight.grad]


def input_gradient() -> list[Tensor]:
    """A leaf that no optimizer knows, as in adversarial training."""
    net, (x, y) = model(), data()
    x = x.clone().requires_grad_()
    (net(x) - y).square().mean().backward()
    return [x.grad, *gradients(net)]


def autograd_grad() -> list[Tensor]:
    net, (x, y) = model(), data()
    return list(torch.autograd.grad((net(x) - y).square().mean(), list(net.parameters())))


def gradient_penalty() -> list[Tensor]:
    net, (x, y) = model(), data()
    x = x.clone().requires_grad_()
    out = net(x)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    ((out - y).square().mean() + (slope.norm(dim=1) - 1).square().mean()).backward()
    return [slope.detach(), *gradients(net)]


def backward_of_backward() -> list[Tensor]:
    net, (x, y) = model(), data()
    with warnings.catch_warnings():  # PyTorch warns of the reference cycle, once a process
        warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
        (net(x) - y).square().mean().backward(create_graph=True)
    penalty = sum(p.grad.square().sum() for p in net.parameters())
    first = gradients(net)
    return [*first, *torch.autograd.grad(penalty, list(net.parameters()))]


def parameter_hooks() -> list[Tensor]:
    net, (x, y) = model(), data()
    seen: list[Tensor] = []
    net[0].weight.register_hook(lambda g: seen.append(g.clone()))
    net[2].weight.register_hook(lambda g: g.clamp(-0.01, 0.01))
    (net(x) - y).square().mean().backward()
    return [*seen, *gradients(net)]


def accumulated_grad_hooks() -> list[Tensor]:
    net, (x, y) = model(), data()
    seen: list[Tensor] = []
    for p in net.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    (net(x) - y).square().mean().backward()
    return [*seen, *gradients(net)]


def module_hooks() -> list[Tensor]:
    net, (x, y) = model(), data()
    seen: list[Tensor] = []
    net[1].register_full_backward_hook(lambda m, gi, go: seen.extend(g.clone() for g in (*gi, *go)))
    net[0].register_full_backward_pre_hook(lambda m, go: (go[0] * 0.5,))
    x = x.clone().requires_grad_()
    (net(x) - y).square().mean().backward()
    return [*seen, *gradients(net)]


def retain_grad() -> list[Tensor]:
    net, (x, y) = model(), data()
    hidden = net[0](x)
    for _ in range(2):  # asking twice is no mistake
        hidden.retain_grad()
    (net[2](net[1](hidden)) - y).square().mean().backward()
    return [hidden.grad, *gradients(net)]


def checkpointed() -> list[Tensor]:
    from torch.utils.checkpoint import checkpoint

    net, (x, y) = model(), data()
    x.requires_grad_()
    for reentrant in (True, False):
        (checkpoint(net, x, use_reentrant=reentrant) - y).square().mean().backward()
    return [x.grad, *gradients(net)]


def functional() -> list[Tensor]:
    net, (x, y) = model(), data()
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(p: dict[str, Tensor]) -> Tensor:
        return (torch.func.functional_call(net, p, (x,)) - y).square().mean()

    return list(torch.func.grad(loss)(parameters).values())


def zeroed_in_place() -> list[Tensor]:
    net, (x, y) = model(), data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)
        (net(x) - y).square().mean().backward()
        optimizer.step()
    return [*gradients(net), *(p.detach() for p in net.parameters())]


def tied_and_frozen() -> list[Tensor]:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
    head.weight = embedding.weight
    frozen = nn.Linear(8, 8).requires_grad_(False)
    tokens = torch.arange(12) % 10
    nn.functional.cross_entropy(head(frozen(embedding(tokens))), tokens).backward()
    assert frozen.weight.grad is None
    return [embedding.weight.grad]


def sparse() -> list[Tensor]:
    torch.manual_seed(0)
    embedding = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1, 1, 3])).square().sum().backward()
    gradient = embedding.weight.grad.to_dense()
    optimizer.step()
    return [gradient, embedding.weight.detach()]


def compressed() -> list[Tensor]:
    """A sparse weight in compressed rows, whose gradient is stored so, too."""
    with warnings.catch_warnings():  # PyTorch says once that this is in beta state
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        weight = torch.eye(3).to_sparse_csr().requires_grad_()
        torch.sparse.mm(weight, torch.linspace(0, 1, 6).reshape(3, 2)).square().sum().backward()
        return [weight.grad.to_dense()]


def float64_and_complex() -> list[Tensor]:
    torch.manual_seed(0)
    a = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    c = torch.randn(3, 3, dtype=torch.complex64, requires_grad=True)
    ((a @ a).square().sum() + (c @ c).abs().sum()).backward()
    return [a.grad, torch.view_as_real(c.grad)]


def generators() -> list[Tensor]:
    net, (x, y) = model(), data()
    loss = (net(x) - y).square().mean()
    found = torch.autograd.grad((part for part in [loss]), net.parameters(), retain_graph=True)
    torch.autograd.backward(part for part in [loss, loss * 2])
    (net(x) - y).square().mean().backward(inputs=(p for p in net.parameters()))
    return [*found, *gradients(net)]


def edges() -> list[Tensor]:
    """A gradient edge stands for a tensor, as in pipelines that have let go of it."""
    edge_of = torch.autograd.graph.get_gradient_edge
    net, (x, y) = model(), data()
    loss = (net(x) - y).square().mean()
    found = torch.autograd.grad(edge_of(loss), list(net.parameters()), retain_graph=True)
    torch.autograd.backward(edge_of(loss), retain_graph=True)
    torch.autograd.backward((edge_of(loss),), (torch.full((), 2.0),), retain_graph=True)
    loss.backward(inputs=[edge_of(net[0].weight)])
    return [*found, *gradients(net)]


def inner_inputs() -> list[Tensor]:
    """Gradients of tensors inside the graph, which PyTorch warns of where nobody asks it to keep them."""
    net, (x, y) = model(), data()
    hidden = net[0](x)
    loss = (net[2](net[1](hidden)) - y).square().mean()
    loss.backward(inputs=[hidden], retain_graph=True)
    first = hidden.grad
    loss.backward(inputs=[hidden, net[2].weight])
    return [first, hidden.grad, net[2].weight.grad]


def old_module_hooks() -> list[Tensor]:
    """``register_backward_hook``, deprecated for years and in many scripts still."""
    net, (x, y) = model(), data()
    seen: list[Tensor] = []
    everywhere = nn.modules.module.register_module_backward_hook(lambda m, gi, go: seen.append(go[0].clone()))
    net[1].register_backward_hook(lambda m, gi, go: (gi[0].clamp(-1e-3, 1e-3),))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using a non-full backward hook")
        (net[2](net[1](net[0](x))) - y).square().mean().backward()
    everywhere.remove()
    return [*seen, *gradients(net)]


def pickled_hooks() -> list[Tensor]:
    """A model that is pickled with its hooks, and a copy of it."""
    net, (x, y) = model(), data()
    net[2].register_full_backward_hook(clamped)
    net[1].register_full_backward_pre_hook(halved)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    for one in copies:
        (one(x.clone().requires_grad_()) - y).square().mean().backward()
    return [gradient for one in copies for gradient in gradients(one)]


def clamped(module: nn.Module, inwards: tuple[Tensor], outwards: tuple[Tensor]) -> tuple[Tensor]:
    return (inwards[0].clamp(-1e-2, 1e-2),)


def halved(module: nn.Module, outwards: tuple[Tensor]) -> tuple[Tensor]:
    return (outwards[0].clamp(-5e-3, 5e-3) * 0.5,)


def accumulated_graphs() -> list[Tensor]:
    """Gradients with a graph of their own, added up over two passes: the first is in use elsewhere already."""
    net, (x, y) = model(), data()
    weights = list(net.parameters())
    with warnings.catch_warnings():  # PyTorch warns of the reference cycle, once a process
        warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
        (net(x) - y).square().mean().backward(create_graph=True)
        early = sum(p.grad.square().sum() for p in weights)
        (net(x) - y).abs().mean().backward(create_graph=True)
    late = sum(p.grad.square().sum() for p in weights)
    return [*torch.autograd.grad(late, weights, retain_graph=True), *torch.autograd.grad(early, weights)]


def penalised_gradients() -> list[Tensor]:
    """A penalty on gradients that have a graph, added to those very gradients."""
    net, (x, y) = model(), data()
    with warnings.catch_warnings():  # PyTorch warns of the reference cycle, once a process
        warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
        (net(x) - y).square().mean().backward(create_graph=True)
    first = net[0].weight.grad
    sum(p.grad.square().sum() for p in net.parameters()).backward()
    assert net[0].weight.grad is first, "PyTorch adds in place"
    return [gradient.detach() for gradient in gradients(net)]


def learned_rate() -> list[Tensor]:
    """The gradient of an inner step is part of the outer loss's graph, and the tensor of it, too."""
    net, (x, _) = model(), data()
    rate, weight = torch.tensor(0.1, requires_grad=True), net[0].weight.clone()
    weight.retain_grad()
    (x @ weight.t()).square().mean().backward(retain_graph=True)
    (x @ (weight - rate * weight.grad).t()).square().mean().backward()
    return [rate.grad, net[0].weight.grad]


def stepped_in_backward() -> list[Tensor]:
    """An optimizer a parameter, each stepped as soon as its gradient is there; the loss scale moves meanwhile."""
    net, (x, y) = model(), data()
    optimizers = {p: torch.optim.AdamW([p], lr=0.01) for p in net.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    seen: list[Tensor] = []
    net[0].weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    for _ in range(3):
        (net(x) - y).square().mean().backward()
    return [*seen, *(p.detach() for p in net.parameters())]


def asked_for_again() -> list[Tensor]:
    """Hooks ask for gradients of the very loss, before and while the pass comes by; others are there already."""
    net, (x, y) = model(), data()
    loss = (net(x) - y).square().mean()
    loss.backward(retain_graph=True)
    hidden = net[1](net[0](x))
    loss = (net[2](hidden) - y).square().mean()
    asked: list[Tensor] = []

    asking = False

    def hook(_: Tensor) -> None:
        nonlocal asking
        if not asking:  # it is called inside itself
            asking = True
            asked.extend(torch.autograd.grad(loss, [net[2].weight], retain_graph=True))
            asking = False

    loss.register_hook(hook)
    hidden.register_hook(hook)
    loss.backward(retain_graph=True)
    assert len(asked) == 2
    return [*gradients(net), *asked]


PATTERNS = [
    once, accumulated, asked_for_again, clipped, retained, several_losses, given_gradient, named_inputs, input_gradient, autograd_grad,
    gradient_penalty, backward_of_backward, parameter_hooks, accumulated_grad_hooks, module_hooks, retain_grad,
    checkpointed, functional, zeroed_in_place, tied_and_frozen, sparse, compressed, float64_and_complex, generators, edges,
    inner_inputs, old_module_hooks, pickled_hooks, accumulated_graphs,
    penalised_gradients, learned_rate, stepped_in_backward,
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
@pytest.mark.parametrize("recipe", ["fp32", SCALED, MOVING])
def test_bit_identical_in_fp32(begin, pattern: Callable[[], list[Tensor]], recipe: str) -> None:
    plain = pattern()
    begin(recipe)
    for ours, theirs in zip(pattern(), plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_bit_identical_by_pytorchs_own_kernels(
    begin, monkeypatch: pytest.MonkeyPatch, pattern: Callable[[], list[Tensor]]
) -> None:
    """As on a GPU, and where there is no C compiler."""
    plain = pattern()
    monkeypatch.setattr(kernels, "gradient_kernels", lambda: None)
    begin(SCALED)
    for ours, theirs in zip(pattern(), plain, strict=True):
        assert torch.equal(ours, theirs)


def test_gradients_that_the_graph_needs_as_they_were_are_not_written_over_silently(
    begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a gradient, without a graph of its own, cannot be told from others: the pass is refused by PyTorch."""
    begin(SCALED)
    for of_c in (True, False):
        if not of_c:
            monkeypatch.setattr(kernels, "gradient_kernels", lambda: None)
        weight, rate = torch.ones(3, requires_grad=True), torch.tensor(0.1, requires_grad=True)
        optimizer = torch.optim.SGD([weight, rate], lr=0.1)  # else ``.grad`` is set aside during a pass
        weight.square().sum().backward()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (weight.exp() - rate * weight.grad).sum().backward()
        del optimizer


@pytest.mark.parametrize(
    "pattern", [once, accumulated, retained, input_gradient, checkpointed, autograd_grad]
)
@pytest.mark.parametrize(("recipe", "roundoff"), [("bf16", 2.0**-9), ("fp16", 2.0**-12)])
def test_close_to_fp32_in_16_bits(
    begin, pattern: Callable[[], list[Tensor]], recipe: str, roundoff: float
) -> None:
    """Two layers: at most 8 roundings to 16 bits on any path, each a relative unit roundoff of the largest value; sums
    over 12 samples and 16 units add in fp32. Bound: 8 u * 12 of the gradient's largest element."""
    reference = pattern()
    begin(recipe)
    for ours, exact in zip(pattern(), reference, strict=True):
        assert (ours - exact).abs().max() <= 8 * 12 * roundoff * exact.abs().max()


def test_small_gradients_survive_fp16_only_with_the_scale(begin) -> None:
    """A gradient of 2^-26 is zero in fp16, and is exact under a scale of 2^16."""

    def gradient() -> Tensor:
        weight = torch.ones(4, 4, requires_grad=True)
        ((torch.eye(4) @ weight).float() * 2.0**-26).sum().backward()
        return weight.grad

    begin("fp16").remove()
    with torch.autocast("cpu", dtype=torch.float16):
        assert gradient().count_nonzero() == 0, "the control: without a scale it is flushed to zero"
    begin("fp16")
    assert torch.equal(gradient(), torch.full((4, 4), 2.0**-26))


def test_an_error_inside_backward_leaves_accumulated_gradients_alone(begin) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("boom")

    begin(SCALED)
    weight = torch.ones(3, requires_grad=True)
    weight.sum().backward()
    with pytest.raises(RuntimeError, match="boom"):
        (Fails.apply(weight.exp()).sum() + weight.sum()).backward()
    assert torch.isfinite(weight.grad).all()
    assert weight.grad.max() <= 2.0


def test_pytorchs_own_complaints_are_unchanged(begin) -> None:
    begin(SCALED)
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
        (torch.ones(3, requires_grad=True) * 2).backward()
    with pytest.raises(RuntimeError, match="real scalar outputs but got torch.complex64"):
        torch.ones(3, dtype=torch.complex64, requires_grad=True).sum().backward()
    with pytest.raises(RuntimeError, match="got 2 tensors and 1 gradients"):
        weight = torch.ones((), requires_grad=True)
        torch.autograd.backward([weight * 2, weight * 3], [torch.ones(())])
    with pytest.warns(UserWarning, match="empty generator, no gradient clipping"):
        nn.utils.clip_grad_norm_((p for p in ()), 1.0)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.ones(()).backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss = torch.ones(3, requires_grad=True).exp().sum()
        loss.backward()
        loss.backward()


def test_the_loss_a_script_prints_is_not_scaled(begin) -> None:
    net, (x, y) = model(), data()
    expected = (net(x) - y).square().mean().item()
    begin("fp32:loss_scale=65536")
    loss = (net(x) - y).square().mean()
    loss.backward()
    assert loss.item() == expected


def test_deepcopied_models_train_alike(begin) -> None:
    begin(SCALED)
    net, (x, y) = model(), data()
    twin = copy.deepcopy(net)
    for one in (net, twin):
        (one(x) - y).square().mean().backward()
    for a, b in zip(gradients(net), gradients(twin), strict=True):
        assert torch.equal(a, b)


def test_two_parameters_may_share_one_gradient(begin) -> None:
    """Its sum is scaled once and unscaled once, although it is reached twice."""

    def gradients() -> Tensor:
        first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        first.grad = second.grad = torch.full((3,), 0.5)
        for _ in range(2):
            (2 * first + 3 * second).sum().backward()
        assert first.grad is second.grad
        return first.grad

    plain = gradients()
    begin("fp32:loss_scale=1024")
    assert torch.equal(gradients(), plain)


Through = Callable[[Tensor, Tensor, Tensor], Any]


@pytest.mark.parametrize(
    "through",
    [
        lambda loss, w, y: torch.autograd.grad(loss, [w], retain_graph=True),
        lambda loss, w, y: torch.autograd.grad(loss, [w], create_graph=True),
        lambda loss, w, y: torch.autograd.grad(loss, [w, y], retain_graph=True),
        lambda loss, w, y: loss.backward(inputs=[w], retain_graph=True),
        lambda loss, w, y: loss.backward(inputs=[y], retain_graph=True),
        lambda loss, w, y: loss.backward(retain_graph=True),
    ],
    ids=["grad", "create_graph", "grad of it", "inputs", "input", "backward"],
)
def test_a_gradient_that_is_to_be_kept_inside_the_graph_is_true_whatever_pass_comes_by(
    begin: Begin, through: Through
) -> None:
    def kept() -> list[Tensor]:
        w = torch.linspace(0.1, 1, 3).requires_grad_()
        y, other = (w * 2).tanh(), w * 3
        for hidden in (y, other):
            hidden.retain_grad()
        loss = y.square().mean()
        other.sum().backward(retain_graph=True)
        untouched = other.grad
        through(loss, w, y)
        first = y.grad.detach().clone()
        through(loss, w, y)
        assert other.grad is untouched
        return [first, y.grad, other.grad]

    plain = kept()
    begin("fp32:loss_scale=1024")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept(), plain, strict=True))


FP16 = torch.float16


def test_a_pass_that_starts_in_fp16_starts_from_a_number(begin: Begin) -> None:
    """2^16 is infinite in fp16: such a pass is scaled by 2^15, which a scale that began there would be."""

    def gradients(recipe: str) -> list[Tensor]:
        takeover = begin(recipe)
        w = torch.linspace(0.1, 1, 6).reshape(2, 3).requires_grad_()
        with takeover.regions.region():
            out = torch.full((2, 2), 0.25) @ w
        assert out.dtype is FP16
        penalty = torch.autograd.grad(out, w, torch.ones_like(out), retain_graph=True)
        (mean := out.mean()).backward(retain_graph=True)
        edge = torch.autograd.graph.get_gradient_edge(mean)
        found = [*penalty, w.grad, *torch.autograd.grad(edge, w)]
        takeover.remove()
        return found

    low = gradients("fp16:init_scale=32768")
    assert all(gradient.isfinite().all() and gradient.any() for gradient in low)
    assert all(torch.equal(a, b) for a, b in zip(gradients("fp16:init_scale=65536"), low, strict=True))


def test_a_view_that_a_pass_cannot_start_from(begin: Begin) -> None:
    """PyTorch says so as soon as it is asked where the graph begins."""

    def outcome() -> str:
        base = torch.ones(2, 3, requires_grad=True) * 1
        first, _ = base.unbind()
        base.mul_(2)
        with pytest.raises(RuntimeError) as told:
            first.backward(torch.ones(3))
        return str(told.value)

    plain = outcome()
    begin(SCALED)
    torch.optim.SGD(
        [torch.zeros(1, requires_grad=True)], lr=0.1
    )  # else the graph is asked for its leaves before
    assert outcome() == plain
    assert "modified inplace" in plain
