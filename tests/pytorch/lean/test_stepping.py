"""Under every optimizer of torch.optim the masters are, bit for bit, those of a reference that keeps fp32 masters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.pytorch.lean import stepping as module
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.lean.memory import Memory
from halfstep.pytorch.lean.split import Parts, split
from halfstep.pytorch.lean.stepping import PER_PARAMETER, Stepping
from halfstep.pytorch.patches import Patches

Begin = Callable[..., Masters]
Make = Callable[[list[Tensor]], Optimizer]

#: more than one call's worth of numbers each (`SMALLEST` is made small), so that a step is made of several calls
SHAPES = [(7, 5), (6,), (12, 3), (4, 4), (1, 9), (9, 2)]
STEPS = 6


@pytest.fixture(params=[4, 0], ids=["whole", "by rows"])
def begin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """From its call on parameters that step are bf16 with masters; all that can be are stepped some rows at a time."""
    monkeypatch.setattr(module, "SMALLEST", 20 if request.param else 7)
    monkeypatch.setattr(module, "CUT", request.param)
    patches = Patches()

    def start(tell: Callable[[str], object] = lambda text: None) -> Masters:
        masters = Masters()
        Stepping(masters, tell=tell).install(patches)
        return masters

    yield start
    patches.undo()


def bf16(wide: Tensor) -> Tensor:
    """``wide`` rounded half away from zero."""
    parts = Parts.like(torch.empty_like(wide, dtype=torch.bfloat16))
    split([wide], [parts])
    return parts.weight


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def gradients(step: int, dtypes: list[torch.dtype]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(s, generator=generator).to(d) for s, d in zip(SHAPES, dtypes, strict=True)]


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("ASGD", {}),
    ("Adadelta", {}),
    ("Adafactor", {}),
    ("Adagrad", {"initial_accumulator_value": 0.1}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"fused": True}),
    ("AdamW", {"foreach": True}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("RMSprop", {"momentum": 0.9}),
    ("Rprop", {}),
    ("SGD", {"momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"foreach": True, "nesterov": True, "momentum": 0.9}),
]


def two_groups(name: str, options: dict[str, Any]) -> Make:
    cls = getattr(torch.optim, name)
    return lambda p: cls([{"params": p[:2]}, {"params": p[2:], "lr": 0.003}], lr=0.01, **options)


def trained(make: Make, masters: Masters | None, prepare: Callable[[Optimizer], Any] = lambda _: None) -> tuple[
    list[Tensor], Optimizer
]:  # fmt: skip
    """The fp32 weights after some steps, in bf16 with masters, or as fp32 with gradients that were bf16."""
    parameters = weights()
    if masters is not None:
        masters.hold(parameters)
    optimizer = make(list(parameters))
    prepare(optimizer)
    narrow = [torch.bfloat16 if p.ndim > 1 and p.shape[0] > 1 else torch.float32 for p in parameters]
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, gradients(step, narrow), strict=True):
            parameter.grad = gradient if masters is not None else gradient.float()
        optimizer.step()
        if masters is not None:
            for parameter, dtype in zip(parameters, narrow, strict=True):
                assert parameter.dtype is dtype
                assert parameter.grad is not None
                assert parameter.grad.dtype is dtype
    if masters is None:
        return [p.detach() for p in parameters], optimizer
    wide = [p.detach() if (m := masters.of(p)) is None else masters.wide(m) for p in parameters]
    for parameter, w in zip(parameters, wide, strict=True):
        if parameter.dtype is torch.bfloat16:
            assert torch.equal(parameter, bf16(w))
    return wide, optimizer


def held(masters: Masters, parameter: Tensor) -> Tensor:
    """Its fp32 numbers."""
    master = masters.of(parameter)
    assert master is not None
    return masters.wide(master)


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_every_optimizer_that_steps_by_groups_is_among_these() -> None:
    assert {cls.__name__ for cls in PER_PARAMETER} == {name for name, _ in OPTIMIZERS} | {
        "Muon",
        "SparseAdam",
    }


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_masters_and_state_are_those_of_fp32_weights(
    begin: Begin, name: str, options: dict[str, Any]
) -> None:
    expected, reference = trained(two_groups(name, options), None)
    found, optimizer = trained(two_groups(name, options), begin())
    assert_equal(found, expected)
    ours, theirs = optimizer.state_dict(), reference.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for number, state in theirs["state"].items():
        for key, value in state.items():
            assert not isinstance(value, Tensor) or value.dtype is ours["state"][number][key].dtype
            assert torch.equal(torch.as_tensor(ours["state"][number][key]), torch.as_tensor(value)), key


@pytest.mark.parametrize("name", ["AdamW", "Adafactor"])
def test_no_more_is_fp32_at_once_than_some_rows_of_a_large_weight(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """1000 rows of 16, 90 % of all numbers; 1/40 of all are 444, 27 rows. Adafactor has a number for each row."""
    sizes: list[int] = []
    start = Memory.start

    def noting(memory: Memory, parts: Any) -> None:
        held = list(parts)
        sizes.append(sum(part.weight.numel() for part in held))
        start(memory, held)

    monkeypatch.setattr(Memory, "start", noting)
    masters = begin()
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((1000, 16), (110, 16))]
    masters.hold(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    getattr(torch.optim, name)(parameters, lr=0.1).step()
    cut = name == "AdamW" and (module.CUT == 0 or module.CUT * 444 < 16000)
    assert max(sizes) == ((1760 if module.CUT else 27 * 16) if cut else 16000)


def muon(parameters: list[Tensor]) -> Optimizer:
    cls: Any = torch.optim.Muon
    return cls([p for p in parameters if p.ndim == 2 and p.shape[0] > 1], lr=0.01)  # type: ignore[no-any-return]


class GlobalNorm(Optimizer):
    """No optimizer of torch.optim: its step is as long as all gradients together, and it writes through ``.data``.

    It remembers parameters by itself, counts its calls, and scales the gradients that it is given in place.
    """

    def __init__(self, parameters: Any, lr: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr})
        self.known = [p for group in self.param_groups for p in group["params"]]
        self.calls = 0

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        self.calls += 1
        with torch.no_grad():
            norm = torch.stack([p.grad.double().norm() for p in self.known]).norm()
            for p in self.known:
                assert p.dtype is torch.float32
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad.mul_((1 / norm).float()), 0.1)
                p.data.add_(average.sign() + p.grad, alpha=-self.param_groups[0]["lr"])


def hooked(optimizer: Optimizer) -> None:
    """Hooks of the program's see all parameters at once, in fp32."""

    def look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(parameters) == len(SHAPES)
        assert {p.dtype for p in parameters} == {p.grad.dtype for p in parameters} == {torch.float32}
        for p in parameters:
            p.grad.mul_(0.5)

    optimizer.register_step_pre_hook(look)


@pytest.mark.parametrize(
    ("make", "prepare"),
    [(muon, lambda _: None), (GlobalNorm, lambda _: None), (two_groups("AdamW", {}), hooked)],
    ids=["Muon", "a third party's", "with hooks"],
)
def test_an_optimizer_that_needs_all_at_once_has_them(begin: Begin, make: Make, prepare: Any) -> None:
    expected, _ = trained(make, None, prepare)
    found, optimizer = trained(make, begin(), prepare)
    assert_equal(found, expected)
    if isinstance(optimizer, GlobalNorm):
        assert optimizer.calls == STEPS
        assert [id(p) for p in optimizer.known] == [id(p) for p in optimizer.param_groups[0]["params"]]
        assert all(s["average"].dtype is torch.float32 for s in optimizer.state.values())


class Unknown(torch.optim.SGD):
    """Treats each parameter by itself, which nobody can know."""


@pytest.mark.parametrize(
    ("cls", "hooks", "why"),
    [
        (Unknown, [], "it is not known to treat each by itself"),
        (torch.optim.SGD, [lambda *_: None], "the program has hooks around its step"),
        (torch.optim.SGD, [], ""),
    ],
)
def test_what_stepping_at_once_costs_is_told_once(begin: Begin, cls: Any, hooks: list[Any], why: str) -> None:
    """The weights are fp32, 4 bytes for each of 2 x 2**18 numbers, and so are their gradients."""
    told: list[str] = []
    masters = begin(told.append)
    parameters = [nn.Parameter(torch.zeros(1024, 256)) for _ in range(2)]
    masters.hold(parameters)
    optimizer = cls(parameters, lr=0.1)
    for hook in hooks:
        optimizer.register_step_pre_hook(hook)
    for _ in range(3):
        for p in parameters:
            p.grad = torch.ones(1024, 256, dtype=torch.bfloat16)
        optimizer.step(None)  # is no closure
    sentence = (
        f"{cls.__name__} is called once for all weights, as {why}: for the time of its step these and their gradients "
        "are fp32, too, which takes "
    )
    assert told == ([f"{sentence}4 MiB more"] if why else [])


class Rounded(torch.autograd.Function):
    """What the reference's model computes with: the fp32 weight, rounded half away; its gradient, in bf16."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor) -> Tensor:
        return bf16(wide)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.float()


CLOSURES = [("LBFGS", {"line_search_fn": "strong_wolfe"}), ("LBFGS", {}), ("SGD", {"lr": 0.05}), ("Adam", {})]


@pytest.mark.parametrize(("name", "options"), CLOSURES)
def test_a_closure_computes_with_bf16_weights_inside_of_a_step(
    begin: Begin, name: str, options: dict[str, Any]
) -> None:
    def run(masters: Masters | None) -> Tensor:
        torch.manual_seed(0)
        weight, x, y = nn.Parameter(torch.randn(4, 3)), torch.randn(8, 3).bfloat16(), torch.randn(8, 4)
        if masters is not None:
            masters.hold([weight])
        optimizer = getattr(torch.optim, name)([weight], **options)

        def closure() -> Tensor:
            optimizer.zero_grad()
            used = weight if masters is not None else Rounded.apply(weight)
            assert used.dtype is torch.bfloat16
            loss = (nn.functional.linear(x, used).float() - y).square().mean()
            loss.backward()
            return loss

        for _ in range(STEPS):
            optimizer.step(closure)
        return weight.detach() if masters is None else held(masters, weight)

    assert torch.equal(run(None), run(begin()))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", ["SparseAdam", "SGD", "Adagrad"])
def test_sparse_gradients(begin: Begin, name: str) -> None:
    def run(masters: Masters | None) -> Tensor:
        torch.manual_seed(0)
        weight, index = nn.Parameter(torch.randn(9, 4)), torch.tensor([[1, 5, 7]])
        if masters is not None:
            masters.hold([weight])
        optimizer = getattr(torch.optim, name)([weight], lr=0.1)
        for _ in range(STEPS):
            values = torch.randn(3, 4).bfloat16()
            values = values if masters is not None else values.float()
            weight.grad = torch.sparse_coo_tensor(index, values, (9, 4), is_coalesced=True)
            optimizer.step()
            assert weight.grad.is_sparse
        return weight.detach() if masters is None else held(masters, weight)

    assert torch.equal(run(None), run(begin()))


def test_state_is_found_by_the_programs_own_parameters_and_loads(begin: Begin) -> None:
    masters, parameters = begin(), weights()
    masters.hold(parameters)
    optimizer = torch.optim.Adam(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    groups = optimizer.param_groups[0]["params"]
    assert all(p is q and p in optimizer.state for p, q in zip(groups, parameters, strict=True))
    again = torch.optim.Adam(parameters)
    again.load_state_dict(optimizer.state_dict())
    for p in parameters:
        for key in ("exp_avg", "exp_avg_sq"):
            assert again.state[p][key].dtype is torch.float32
            assert torch.equal(again.state[p][key], optimizer.state[p][key])


def test_a_step_that_raises_leaves_bf16_weights_and_the_gradients(begin: Begin) -> None:
    masters, parameters = begin(), weights()
    masters.hold(parameters)

    def refuse(*_: Any) -> None:
        raise KeyError("no")

    optimizer = torch.optim.SGD(parameters, lr=0.1)
    optimizer.register_step_pre_hook(refuse)
    masters.flush()
    before = [p.detach().clone() for p in parameters]
    gradients = [torch.ones_like(p) for p in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    with pytest.raises(KeyError):
        optimizer.step()
    for parameter, gradient, was in zip(parameters, gradients, before, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(parameter, was)
