"""The leaves that the engine names are those that a walk of the graph finds."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from halfstep.pytorch.loss_scaling.graph_task import leaves_under_way
from halfstep.pytorch.loss_scaling.leaves import leaves_of

from .conftest import compiled

Ask = Callable[[], "list[Tensor] | None"]


@pytest.fixture
def ask() -> Ask:
    return compiled(leaves_under_way())


def ids(tensors: list[Tensor] | None) -> list[int]:
    assert tensors is not None
    return sorted(map(id, tensors))


def asked(ask: Ask, output: Tensor, **options: bool) -> list[int]:
    """What the engine names at the pass's first node."""
    named: list[list[int]] = []
    assert output.grad_fn is not None
    handle = output.grad_fn.register_prehook(lambda _: named.append(ids(ask())))
    output.backward(**options)
    handle.remove()
    assert len(named) == 1
    return named[0]


def test_outside_of_a_pass_there_are_none(ask: Ask) -> None:
    assert ask() is None


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(ask: Ask, seed: int) -> None:
    """Leaves of several dtypes, used once, often, or not at all; detached parts; views; parts without gradients."""
    draw = random.Random(seed)
    leaves = [
        torch.randn(3, dtype=draw.choice([torch.float32, torch.float64]), requires_grad=draw.random() < 0.8)
        for _ in range(draw.randint(1, 12))
    ]
    values: list[Tensor] = list(leaves)
    for _ in range(draw.randint(1, 40)):
        a, b = draw.choice(values), draw.choice(values)
        operation = draw.choice(["add", "mul", "detach", "view", "cast", "cat"])
        made = {
            "add": lambda a=a, b=b: a + b,
            "mul": lambda a=a, b=b: a * b,
            "detach": lambda a=a: a.detach(),
            "view": lambda a=a: a[:2].repeat(2)[:3],
            "cast": lambda a=a: a.to(torch.bfloat16).float(),
            "cat": lambda a=a, b=b: torch.cat([a, b])[:3],
        }[operation]()
        values.append(made)
    output = torch.stack([v.double().sum() for v in draw.sample(values, min(4, len(values)))]).sum()
    if not output.requires_grad:
        output = output + torch.zeros((), requires_grad=True)
    expected = ids(leaves_of([output]))
    assert asked(ask, output, retain_graph=True) == expected
    assert asked(ask, output) == expected, "a second time through the same graph"


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, unused):  # type: ignore[no-untyped-def]
        return 2 * x

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return 2 * grad, None


def test_custom_functions_and_checkpoints(ask: Ask) -> None:
    x, unused = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    output = Doubled.apply(x, unused).sum()
    assert asked(ask, output) == ids(leaves_of([output])) == ids([x, unused])
    layer = nn.Linear(3, 3)
    output = checkpoint(layer, x, use_reentrant=False).sum()
    assert asked(ask, output) == ids([x, *layer.parameters()])


def test_a_pass_inside_a_pass_has_leaves_of_its_own(ask: Ask) -> None:
    """A reentrant checkpoint recomputes inside of the outer pass, whose graph does not know the layer's weights."""
    x, layer = torch.ones(3, requires_grad=True), nn.Linear(3, 3)
    inner: list[list[int]] = []

    def run(x: Tensor) -> Tensor:
        y = layer(x)
        if y.grad_fn is not None:
            y.grad_fn.register_prehook(lambda _: inner.append(ids(ask())))
        return y

    outer = checkpoint(run, x, use_reentrant=True).sum()
    assert asked(ask, outer) == ids([x])
    assert len(inner) == 1
    assert set(ids([*layer.parameters()])) <= set(inner[0])


def test_each_thread_is_told_of_its_own_pass(ask: Ask) -> None:
    nets = [nn.Linear(4, 4) for _ in range(4)]
    wrong: list[int] = []

    def train(net: nn.Module) -> None:
        for _ in range(100):
            if asked(ask, net(torch.randn(2, 4)).sum()) != ids([*net.parameters()]):
                wrong.append(1)

    threads = [threading.Thread(target=train, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_named_stays_no_longer_than_it_would(ask: Ask) -> None:
    x = torch.ones(3, requires_grad=True)
    asked(ask, (x * 2).sum())
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None
