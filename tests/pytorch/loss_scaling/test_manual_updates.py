"""Programs without an optimizer: a step is a backward pass, counted, recorded, and harmless where it is bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from halfstep.record import Writer, read
from halfstep.takeover.base import EnoughSteps

from ..conftest import Begin

SCALED = "fp32:loss_scale=dynamic:init_scale=1024"
Differentiate = Callable[[nn.Module, Tensor], "list[Tensor]"]


def by_backward(net: nn.Module, loss: Tensor) -> list[Tensor]:
    net.zero_grad()
    loss.backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def by_grad(net: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


BOTH = pytest.mark.parametrize("differentiate", [by_backward, by_grad])


def a_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def train(net: nn.Module, differentiate: Differentiate, factors: list[float]) -> None:
    x = torch.linspace(-1, 1, 24).reshape(6, 4)
    for factor in factors:
        for p, g in zip(net.parameters(), differentiate(net, net(x).square().mean() * factor), strict=True):
            p.data.add_(g, alpha=-0.1)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


@BOTH
def test_a_scaled_run_updates_as_plain_pytorch_does(begin: Begin, differentiate: Differentiate) -> None:
    plain = a_net()
    train(plain, differentiate, [1.0] * 4)
    takeover = begin(SCALED)
    net = a_net()
    train(net, differentiate, [1.0] * 4)
    assert takeover.steps == 4
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in weights(net).items())


@BOTH
def test_a_bad_step_changes_nothing(begin: Begin, differentiate: Differentiate) -> None:
    takeover = begin(SCALED)
    net = a_net()
    train(net, differentiate, [1.0, 1.0])
    before = weights(net)
    train(net, differentiate, [float("inf")])
    assert all(torch.equal(value, before[name]) for name, value in weights(net).items())
    assert (takeover.steps, takeover.skipped, takeover.scaling.value) == (3, 1, 512.0)


@BOTH
def test_fp32_steps_as_plain_pytorch_does(begin: Begin, differentiate: Differentiate) -> None:
    begin("fp32")
    net = a_net()
    train(net, differentiate, [float("inf")])
    assert all(p.isnan().any() for p in net.parameters())


@BOTH
def test_steps_are_recorded_with_losses_and_memory(
    begin: Begin, differentiate: Differentiate, tmp_path: Path
) -> None:
    takeover = begin("fp32", Writer(tmp_path / "r.jsonl"))
    train(a_net(), differentiate, [1.0] * 5)
    takeover.close()
    record = read(tmp_path / "r.jsonl")
    assert len(record.losses) == 5
    assert all(loss is not None and loss > 0 for loss in record.losses)
    parameters = sum(p.numel() for p in a_net().parameters())
    assert record.sample["memory"]["weights"] == 4 * parameters
    assert record.warnings == ["the program has no optimizer of torch.optim: a step is a backward pass"]


@BOTH
def test_the_program_ends_after_as_many_steps_as_were_asked_for(
    begin: Begin, differentiate: Differentiate
) -> None:
    takeover = begin("fp32", steps=3)
    with pytest.raises(EnoughSteps):
        train(a_net(), differentiate, [1.0] * 10)
    assert takeover.steps == 3


def test_once_there_is_an_optimizer_its_steps_are_what_counts(begin: Begin) -> None:
    takeover = begin("fp32")
    net = a_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):  # accumulation
        net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert takeover.steps == 1


def test_a_gradient_that_is_part_of_a_graph_is_no_step(begin: Begin) -> None:
    takeover = begin("fp32")
    net, x = a_net(), torch.ones(2, 4, requires_grad=True)
    (force,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    by_backward(net, force.square().sum())
    assert takeover.steps == 1


def updated(net: nn.Linear, differentiate: Callable[[nn.Linear, Tensor], list[Tensor]], steps: int) -> float:
    """Least squares by gradient descent, without an optimizer: the weights after some steps."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        found = differentiate(net, x)
        with torch.no_grad():
            for p, g in zip(net.parameters(), found, strict=True):
                p -= 0.05 * g
    return net.weight.sum().item()


def loss_of(net: nn.Linear, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return (torch.func.functional_call(net, parameters, (x,)) - 30 * x.sum(1, keepdim=True)).square().mean()


def in_a_graph(net: nn.Linear, x: Tensor) -> list[Tensor]:
    loss = loss_of(net, dict(net.named_parameters()), x)
    return list(torch.autograd.grad(loss, list(net.parameters()), create_graph=True))


def by_func(net: nn.Linear, x: Tensor) -> list[Tensor]:
    detached = {name: p.detach() for name, p in net.named_parameters()}
    return list(torch.func.grad(lambda p: loss_of(net, p, x))(detached).values())


def by_func_of_parameters(net: nn.Linear, x: Tensor) -> list[Tensor]:
    return list(torch.func.grad(lambda p: loss_of(net, p, x))(dict(net.named_parameters())).values())


def by_sample(net: nn.Linear, x: Tensor) -> list[Tensor]:
    """Per-sample gradients: a pass for each of 64, as one."""
    detached = {name: p.detach() for name, p in net.named_parameters()}
    one = torch.func.grad(lambda p, row: loss_of(net, p, row[None]))
    return [g.mean(0) for g in torch.vmap(one, in_dims=(None, 0))(detached, x).values()]


def by_ensemble(net: nn.Linear, x: Tensor) -> list[Tensor]:
    """Two models of the same weights, as one."""
    stacked = {name: torch.stack([p.detach()] * 2) for name, p in net.named_parameters()}
    return [g[0] for g in torch.vmap(torch.func.grad(lambda p: loss_of(net, p, x)))(stacked).values()]


def adapted(net: nn.Linear, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """The loss after one step on it: the gradients inside are no step of the program."""
    inner = torch.func.grad(lambda p: loss_of(net, p, x))(parameters)
    return loss_of(net, {name: p - 1e-4 * inner[name] for name, p in parameters.items()}, x)


def by_learning_to_learn(net: nn.Linear, x: Tensor) -> list[Tensor]:
    detached = {name: p.detach() for name, p in net.named_parameters()}
    return list(torch.func.grad(lambda p: adapted(net, p, x))(detached).values())


def by_tasks(net: nn.Linear, x: Tensor) -> list[Tensor]:
    """Two tasks at once."""
    detached = {name: p.detach() for name, p in net.named_parameters()}
    losses = lambda p: torch.vmap(lambda task: adapted(net, p, task))(torch.stack([x, x]))  # noqa: E731
    return list(torch.func.grad(lambda p: losses(p).mean())(detached).values())


@pytest.mark.parametrize(
    "differentiate",
    [in_a_graph, by_func, by_func_of_parameters, by_sample, by_ensemble, by_learning_to_learn, by_tasks],
)
@pytest.mark.parametrize("recipe", ["fp32", "fp16"])
def test_updates_by_gradients_that_are_part_of_a_graph_are_steps(
    begin: Begin, tmp_path: Path, differentiate: Callable[[nn.Linear, Tensor], list[Tensor]], recipe: str
) -> None:
    """They are about 60, and infinite in fp16 under 65536."""

    def a_linear() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(4, 1)

    plain = updated(a_linear(), differentiate, 8)
    takeover = begin(recipe, Writer(tmp_path / "r.jsonl"))
    ours = updated(a_linear(), differentiate, 8)
    takeover.close()
    record = read(tmp_path / "r.jsonl")
    assert (takeover.steps, takeover.skipped) == (8, 0)
    assert abs(ours - plain) <= 8 * 4 * 2.0**-10 * abs(plain)  # 8 steps of at most 4 roundings each way
    losses = [loss for loss in record.losses if loss is not None]
    assert len(losses) == 8
    assert losses == sorted(losses, reverse=True)
    assert set(record.sample["matmul_flops"]) == {recipe}
    assert set(record.stored.weights or ()) == {"fp32"}


@pytest.mark.parametrize("differentiate", [in_a_graph, by_func, by_sample])
def test_such_a_program_ends_after_as_many_steps_as_were_asked_for(
    begin: Begin, differentiate: Callable[[nn.Linear, Tensor], list[Tensor]]
) -> None:
    takeover = begin("fp32", steps=6)
    with pytest.raises(EnoughSteps):
        updated(nn.Linear(4, 1), differentiate, 20)
    assert takeover.steps == 6


def test_passes_before_there_is_an_optimizer_are_no_steps(begin: Begin, tmp_path: Path) -> None:
    """A gradcheck, of which no pass counts at all, and a warm-up, whose passes count until the optimizer is made."""

    def train() -> list[float]:
        losses = []
        net = nn.Linear(4, 1)
        net(torch.ones(2, 4)).sum().backward()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(10):
            optimizer.zero_grad()
            loss = net(torch.full((2, 4), 1.0 + step)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    takeover = begin("fp32", Writer(tmp_path / "r.jsonl"), steps=4)
    x = torch.rand(3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(torch.sigmoid, x)
    assert torch.autograd.gradgradcheck(torch.sigmoid, x)
    assert takeover.steps == 0
    with pytest.raises(EnoughSteps):
        train()
    takeover.close()
    record = read(tmp_path / "r.jsonl")
    assert takeover.steps == len(record.losses) == 4
    assert record.warnings == []
