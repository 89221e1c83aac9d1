"""The leaves that the engine names are those that a walk of the graph finds, and their gradients are what they were."""

from __future__ import annotations

import gc
import random
import threading
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from halfstep.pytorch.loss_scaling import finite_cache as tested
from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.loss_scaling.scaled_pass import ScaledPass, scaled_pass

from ..conftest import compiled


@pytest.fixture(autouse=True)
def in_cpp() -> None:
    compiled(scaled_pass())


def nothing(_: bool | None) -> None:
    """Left to do as a pass begins."""


def ids(tensors: list[Tensor]) -> list[int]:
    return sorted(map(id, tensors))


def asked(output: Tensor, **options: bool) -> list[int]:
    """What the engine names at the pass's first node."""
    it = compiled(scaled_pass())
    told: list[bool | None] = []
    assert it.expect(output, 1.0, told.append, always=True)
    try:
        output.backward(**options)
        it.check()
        assert told == [True]
        return ids(it.leaves())
    finally:
        it.end()
        assert it.leaves() == []


def test_a_leaf_is_no_passs_beginning() -> None:
    assert not compiled(scaled_pass()).expect(torch.ones((), requires_grad=True), 1.0, nothing)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int) -> None:
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
    assert asked(output, retain_graph=True) == expected
    assert asked(output) == expected, "a second time through the same graph"


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, unused):  # type: ignore[no-untyped-def]
        return 2 * x

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return 2 * grad, None


def test_custom_functions_and_checkpoints() -> None:
    x, unused = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    output = Doubled.apply(x, unused).sum()
    assert asked(output) == ids(leaves_of([output])) == ids([x, unused])
    layer = nn.Linear(3, 3)
    output = checkpoint(layer, x, use_reentrant=False).sum()
    assert asked(output) == ids([x, *layer.parameters()])


def test_a_pass_inside_a_pass_has_leaves_of_its_own() -> None:
    """A reentrant checkpoint recomputes inside of the outer pass, whose graph does not know the layer's weights."""
    x, layer, it = torch.ones(3, requires_grad=True), nn.Linear(3, 3), compiled(scaled_pass())
    inner: list[list[int]] = []

    def run(x: Tensor) -> Tensor:
        y = layer(x)
        if y.grad_fn is not None:
            it.expect(y, 1.0, lambda _: inner.append(ids(it.leaves())), always=True)
        return y

    outer = checkpoint(run, x, use_reentrant=True).sum()
    assert asked(outer) == ids([x])
    assert len(inner) == 1
    assert set(ids([*layer.parameters()])) <= set(inner[0])


def test_each_thread_is_told_of_its_own_pass() -> None:
    nets = [nn.Linear(4, 4) for _ in range(4)]
    wrong: list[int] = []

    def train(net: nn.Module) -> None:
        for _ in range(100):
            if asked(net(torch.randn(2, 4)).sum()) != ids([*net.parameters()]):
                wrong.append(1)

    threads = [threading.Thread(target=train, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_named_stays_no_longer_than_it_would() -> None:
    x = torch.ones(3, requires_grad=True)
    asked((x * 2).sum())
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


def passed(it: ScaledPass, output: Tensor, scale: float = 1.0) -> list[bool | None]:
    """A pass from ``output`` that starts from ``scale``; returns what was left to Python."""
    told: list[bool | None] = []
    it.expect(output, scale, told.append)
    output.backward(torch.full_like(output, scale))
    it.check()
    return told


def weights(*gradients: Tensor | None) -> list[Tensor]:
    made = [torch.full((n,), float(n), requires_grad=True) for n in range(2, 2 + len(gradients))]
    for weight, gradient in zip(made, gradients, strict=True):
        weight.grad = gradient
    return made


def loss_of(tensors: list[Tensor]) -> Tensor:
    return torch.stack([3 * x.sum() for x in tensors]).sum()


def test_gradients_are_brought_to_the_pass_and_back() -> None:
    """Those that are there already, too, each once although two leaves share it."""
    it, shared = compiled(scaled_pass()), torch.full((3,), 7.0)
    a, b, c = weights(None, shared, torch.full((4,), 7.0))
    d = torch.zeros(3, requires_grad=True)
    d.grad = shared
    assert passed(it, loss_of([a, b, c, d]), 64.0) == []
    assert it.unscale(1 / 64)
    it.end()
    assert [x.grad.tolist() for x in (a, b, c)] == [[3.0] * 2, [7.0 + 3 + 3] * 3, [10.0] * 4]
    assert b.grad is d.grad is shared


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("where", [0, 1])
def test_what_is_not_finite_is_held_by_nobody(bad: float, where: int) -> None:
    it, tensors = compiled(scaled_pass()), weights(None, None)
    with torch.no_grad():
        tensors[where][-1] = bad
    assert passed(it, torch.stack([x.square().sum() for x in tensors]).sum()) == []
    assert it.unscale(1.0)
    assert not it.unchanged()
    assert not it.holds([x.grad for x in tensors])
    assert not it.holds([tensors[1 - where].grad]), "which of them it is was not asked"


def test_gradients_are_held_until_they_are_written_to_or_others() -> None:
    it, tensors = compiled(scaled_pass()), weights(None, None)
    optimizer = torch.optim.SGD(tensors, lr=0.1)
    passed(it, loss_of(tensors))
    assert not it.unchanged(), "they have not been tested yet"
    it.unscale(1.0)
    first, second = (x.grad for x in tensors)
    assert it.unchanged()
    assert it.holds([first, second])
    assert it.holds([second])
    assert it.holds_of(optimizer)
    assert not it.holds([first.clone()])
    assert not it.holds([first], [first.untyped_storage()])
    assert it.holds([first], [second.untyped_storage()])
    first.mul_(0.5)
    assert not it.unchanged()
    assert not it.holds([first])
    assert it.holds([second])
    it.written()
    assert it.holds_of(optimizer)
    tensors[0].grad = torch.ones(2)
    assert not it.holds_of(optimizer)
    tensors[0].grad = None
    assert it.holds_of(optimizer), "none is as good as finite"
    it.forget()
    assert not it.holds([second])


def test_a_new_gradient_in_the_place_of_an_old_one_is_not_taken_for_it() -> None:
    it, tensors = compiled(scaled_pass()), weights(*[None] * 50)
    passed(it, loss_of(tensors))
    it.unscale(1.0)
    for x in tensors:
        x.grad = None
    gc.collect()
    others = [torch.full_like(x, torch.inf) for x in tensors]
    assert not any(it.holds([other]) for other in others)


def test_a_sum_over_passes_is_held_as_a_whole() -> None:
    """What the first pass found of a gradient is superseded by the second, which brought it further."""
    it, tensors = compiled(scaled_pass()), weights(None, None)
    for scale in (4.0, 8.0):
        assert passed(it, loss_of(tensors), scale) == []
        assert it.unscale(1 / scale)
        it.end()
    assert it.holds([x.grad for x in tensors])
    assert [x.grad.tolist() for x in tensors] == [[6.0] * 2, [6.0] * 3]
    passed(it, tensors[0].sum() * torch.inf)
    it.unscale(1.0)
    it.end()
    assert not it.holds([tensors[1].grad])


class Own(Tensor):
    """Somebody's kind of tensor, which dispatches by itself."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


OTHERS = {
    "sparse": lambda: torch.ones(2).to_sparse(),
    "in a graph": lambda: torch.ones(2, requires_grad=True) * 2,
    "somebody's": lambda: torch.ones(2).as_subclass(Own),
    "apart": lambda: torch.ones(4)[::2],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_gradients_are_left_to_python(kind: str) -> None:
    """With nothing done to any, when they are there as the pass begins and when it ends."""
    it, gradient = compiled(scaled_pass()), OTHERS[kind]()
    plain, other = torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)
    plain.grad, other.grad = torch.ones(3), gradient
    told: list[tuple[bool | None, list[float], list[int]]] = []

    def rest(brought: bool | None) -> None:
        told.append((brought, plain.grad.tolist(), ids(it.leaves())))
        other.grad = None

    output = plain.sum() + other.sum()
    it.expect(output, 2.0, rest)
    output.backward()
    it.check()
    assert told == [(False, [1.0] * 3, ids([plain, other]))]
    other.grad = gradient
    assert not it.unscale(0.5)
    assert plain.grad.tolist() == [2.0] * 3
    it.end()


def test_an_error_at_the_beginning_is_told_after_the_pass() -> None:
    it = compiled(scaled_pass())

    def rest(_: bool | None) -> None:
        raise ValueError("at the beginning")

    it.expect(loss := torch.ones(3, requires_grad=True).sum(), 1.0, rest, always=True)
    loss.backward()
    with pytest.raises(ValueError, match="at the beginning"):
        it.check()
    it.end()
    it.check()


def test_other_hooks_of_the_first_node_run_beside_ours() -> None:
    """What is left to Python is done while PyTorch goes through the node's hooks."""
    it, weight = compiled(scaled_pass()), torch.ones(3, requires_grad=True)
    weight.grad = torch.ones(3).to_sparse()
    loss, seen = (weight * 2).sum(), list[str]()
    loss.grad_fn.register_prehook(lambda _: seen.append("before"))

    def rest(_: bool | None) -> None:
        seen.append("ours")
        weight.grad = None
        it.leave()

    it.expect(loss, 1.0, rest)
    loss.grad_fn.register_prehook(lambda _: seen.append("after"))
    loss.backward(retain_graph=True)
    it.end()
    assert seen == ["before", "after", "ours"], "Python's hooks are one to PyTorch"
    loss.backward()
    assert seen == ["before", "after", "ours", "before", "after"]


def test_nothing_stays_on_a_graph_that_is_used_again() -> None:
    it, told = compiled(scaled_pass()), list[bool | None]()
    loss = torch.ones(3, requires_grad=True).sum()
    for _ in range(2):
        it.expect(loss, 1.0, told.append, always=True)
        loss.backward(retain_graph=True)
        it.end()
    loss.backward()
    assert told == [True, True]


def test_gradients_of_a_program_that_makes_no_steps_are_not_kept() -> None:
    """Each pass has new gradients; those of the passes before are gone."""
    it = compiled(scaled_pass())
    gone = []
    for _ in range(20):
        tensors = weights(*[None] * 5)
        passed(it, loss_of(tensors))
        it.unscale(1.0)
        it.end()
        gone.append(weakref.ref(tensors[0]))
    assert it.holds([x.grad for x in tensors])
    assert sum(ref() is not None for ref in gone) == 1


def test_memory_that_collectives_write_to_is_not_held_on_to() -> None:
    """An evaluation reduces figures as often as it likes; only what has been tested can have changed since."""
    it, tensors = compiled(scaled_pass()), weights(None)
    found, figure = tested.FiniteCache(it), torch.ones(3)
    memory = weakref.ref(figure.untyped_storage())
    found.written([figure])
    del figure
    assert memory() is None
    passed(it, loss_of(tensors))
    it.unscale(1.0)
    assert found.finite([tensors[0].grad])
    found.written([tensors[0].grad])
    assert not it.holds([tensors[0].grad], found._may_have_changed())
