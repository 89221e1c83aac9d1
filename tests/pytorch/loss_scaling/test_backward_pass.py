"""What ``backward`` leaves in ``.grad`` where no optimizer uses it: true, and finite wherever it is finite unscaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.loss_scaling import gradient_pass

from ..conftest import Begin

pytestmark = pytest.mark.usefixtures("followed")

#: a weight of the loss that overflows under 65536
WEIGHT = 2.0**12


def a_net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype)


def attack(dtype: torch.dtype = torch.float32, seen: list[str] | None = None) -> list[Tensor]:
    """Fast gradients by sign, twice; gradients of weights add up, and one of an inner tensor is kept."""
    net, x = a_net(dtype), torch.linspace(-1, 1, 48).reshape(6, 8).to(dtype).requires_grad_()
    found = []
    for _ in range(2):
        hidden = net[:2](x)
        hidden.retain_grad()
        hidden.register_hook(lambda _: seen.append("hook") if seen is not None else None)
        (nn.functional.cross_entropy(net[2](hidden), torch.arange(6) % 4) * WEIGHT).backward()
        found += [x.grad.clone(), hidden.grad, net[0].weight.grad.clone()]
        x.grad = None
    return found


def test_gradients_are_finite_and_accurate(begin: Begin) -> None:
    """At most 24 roundings on a path through two layers, each relative to the largest number; sums are in fp32."""
    exact = attack(torch.float64)
    takeover = begin("fp16")
    seen: list[str] = []
    for ours, true in zip(attack(seen=seen), exact, strict=True):
        assert (ours - true).norm() <= 24 * 2.0**-11 * true.norm()
    assert (takeover.steps, takeover.skipped) == (2, 0)
    assert len(seen) == 2


def test_the_graph_is_released_by_python_too(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no kernel can be compiled: a second pass is refused in PyTorch's words."""
    monkeypatch.setattr(gradient_pass, "release", lambda outputs, inputs: False)
    begin("fp16")
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * 2.0**-10).square().sum()
    loss.backward()
    assert torch.equal(weight.grad, torch.full((3,), 2.0**-19))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def trained_by_attacks(
    dtype: torch.dtype = torch.float32, steps: int = 6
) -> tuple[list[Tensor], list[Tensor]]:
    """Adversarial training: gradients of the inputs, a map of an inner tensor's, and the weights at the end."""
    net, x = a_net(dtype), torch.linspace(-1, 1, 48).reshape(6, 8).to(dtype)
    y, maps = torch.arange(6) % 4, []
    optimizer = torch.optim.SGD(net.parameters(), 2.0**-14)
    for _ in range(steps):
        delta = torch.zeros_like(x).requires_grad_()
        (nn.functional.cross_entropy(net(x + delta), y) * WEIGHT).backward()
        maps.append(delta.grad)
        hidden = net[:2](x + 0.01 * delta.grad.sign())
        hidden.retain_grad()
        optimizer.zero_grad()
        (nn.functional.cross_entropy(net[2](hidden), y) * WEIGHT).backward()
        maps.append(hidden.grad)
        optimizer.step()
    return maps, [p.detach() for p in net.parameters()]


def test_gradients_that_no_optimizer_uses_are_finite_beside_one(begin: Begin) -> None:
    """They overflow under 65536. Bounds as above; the weights are 6 steps of at most 24 roundings from the exact ones."""
    exact_maps, exact_weights = trained_by_attacks(torch.float64)
    takeover = begin("fp16")
    maps, weights = trained_by_attacks()
    assert takeover.steps == 6
    for ours, true in zip(maps, exact_maps, strict=True):
        assert (ours - true).norm() <= 24 * 2.0**-11 * true.norm()
    assert takeover.skipped == 0
    for ours, true in zip(weights, exact_weights, strict=True):
        assert (ours - true).norm() <= 6 * 24 * 2.0**-11 * true.norm()


def test_a_line_that_hands_out_gradients_later_does_so_from_its_first_overflow_on(begin: Begin) -> None:
    begin("fp16")
    net, x = a_net(), torch.ones(2, 8)
    torch.optim.SGD(net.parameters(), 0.1)
    found = []
    for asks in (False, True, True):
        x = torch.ones(2, 8, requires_grad=asks)
        (net(x).sum() * 1000.0).backward()
        found.append(asks and bool(x.grad.isfinite().all()))
    assert found == [False, False, True]


def test_passes_of_an_optimizers_weights_alone_are_made_once(begin: Begin) -> None:
    """What overflows there is skipped, as ever; bare tensors that it holds are weights, too."""
    takeover = begin("fp16")
    net, bare = a_net(), torch.ones(8, requires_grad=True)
    optimizer = torch.optim.SGD([*net.parameters(), bare], 0.1)
    calls = []
    bare.register_hook(lambda _: calls.append(1))
    for _ in range(3):
        optimizer.zero_grad()
        (net(torch.ones(2, 8) * bare).sum() * 1000.0).backward()
        optimizer.step()
    assert takeover.skipped > 0
    assert takeover.scaling.pass_scales._scales == {}
    assert len(calls) == 3


def test_gradients_add_up_in_the_same_tensors(begin: Begin) -> None:
    begin("fp16")
    net, x = a_net(), torch.ones(2, 8)
    (net(x).sum() * WEIGHT).backward()
    first = net[0].weight.grad
    once = first.clone()
    (net(x).sum() * WEIGHT).backward()
    assert net[0].weight.grad is first
    assert torch.equal(first, 2 * once)


@pytest.mark.parametrize("keep", [None, True])
def test_the_graph_is_kept_or_freed_as_in_plain_pytorch(begin: Begin, keep: bool | None) -> None:
    def again() -> str:
        loss = a_net()(torch.ones(2, 8)).square().sum() * WEIGHT
        loss.backward(retain_graph=keep)
        try:
            loss.backward()
        except RuntimeError as error:
            return str(error)
        return "kept"

    plain = again()
    begin("fp16")
    assert again() == plain


def in_place(recipe: str | None, begin: Begin) -> Any:
    if recipe is not None:
        begin(recipe)
    net = a_net()

    def update(p: Tensor) -> None:
        p.data.sub_(p.grad * 1e-6)

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(update)
    (net(torch.ones(2, 8)).sum() * WEIGHT).backward()
    return [p.detach() for p in net.parameters()]


def test_hooks_that_use_a_gradient_up_run_once(begin: Begin) -> None:
    plain = in_place(None, begin)
    for ours, theirs in zip(in_place("fp32:loss_scale=1024", begin), plain, strict=True):
        assert torch.equal(ours, theirs)


def test_reentrant_checkpointing_adds_once(begin: Begin) -> None:
    from torch.utils.checkpoint import checkpoint

    def gradients() -> list[Tensor]:
        net, x = a_net(), torch.linspace(-1, 1, 48).reshape(6, 8).requires_grad_()
        for _ in range(2):
            checkpoint(net, x, use_reentrant=True).square().mean().backward()
        return [x.grad, *(p.grad for p in net.parameters())]

    plain = gradients()
    begin("fp32:loss_scale=1024")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients(), plain, strict=True))


def a_penalised_loss(net: nn.Sequential, x: Tensor, of: str) -> Tensor:
    """With a penalty on gradients of the inputs (WGAN-GP), or of the weights."""
    middle = x.clone().requires_grad_()
    outputs = net(middle)
    if of == "inputs":
        (slope,) = torch.autograd.grad(outputs.sum(), middle, create_graph=True)
        penalty = 10 * (slope.norm(2, 1) - 1).square().mean()
    else:
        slopes = torch.autograd.grad(outputs.mean(), tuple(net.parameters()), create_graph=True)
        penalty = 1000 * sum(slope.square().sum() for slope in slopes)
    return net(x).square().mean() + penalty


@pytest.mark.parametrize("of", ["inputs", "weights"])
def test_a_gradient_that_overflows_inside_of_a_penalty_is_made_under_a_lower_scale(
    begin: Begin, of: str
) -> None:
    """BatchNorm's second derivative is in the unit of the first pass: no scale of the second makes it finite.

    Weights stay as they are (a rate of 0), so the exact gradients are those of the first step. Of 64 roundings on the
    way each is relative to the largest number.
    """

    def train(dtype: torch.dtype, steps: int) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.LeakyReLU(0.2), nn.Linear(32, 1)).to(
            dtype
        )
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        x = torch.randn(16, 4).to(dtype)
        for _ in range(steps):
            optimizer.zero_grad()
            a_penalised_loss(net, x, of).backward()
            optimizer.step()
        return [net[0].weight.grad, net[3].weight.grad]

    exact = train(torch.float64, 1)
    takeover = begin("fp16")
    for ours, true in zip(train(torch.float32, 12), exact, strict=True):
        assert (ours - true).norm() <= 64 * 2.0**-11 * true.norm()
    assert takeover.steps == 12
    assert takeover.skipped <= 8
