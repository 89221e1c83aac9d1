"""Recording leaves compiled programs compiled: as many calls and compilations, the same numbers, FLOPs of what ran."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halfstep.record import Writer, read

from ..conftest import Begin

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor:UserWarning"
    ),  # while dynamo wraps tensors
    pytest.mark.filterwarnings(
        "ignore:.*torch.jit:DeprecationWarning"
    ),  # PyTorch's own, on import of inductor
]
STEPS = 6


class Counting:
    """A backend that runs each graph as it is, and notes what was compiled and called.

    Attributes:
        calls: of its graphs, per step.
        compiled: its graphs so far, at the end of each step.
    """

    def __init__(self) -> None:
        self.calls, self.compiled, self._called, self._graphs = [], [], 0, 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self._graphs += 1

        def run(*args: Any) -> Any:
            self._called += 1
            return graph(*args)

        return run

    def stepped(self) -> None:
        self.calls.append(self._called)
        self.compiled.append(self._graphs)
        self._called = 0


Program = Callable[[Counting], list[float]]


def one_model(backend: Counting) -> list[float]:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return trained(net, torch.compile(net, backend=backend), backend, lambda step: torch.ones(4, 8))


def changing_shapes(backend: Counting) -> list[float]:
    """The sampled step, and the one after it, compile anew: first static, then dynamic."""
    net = nn.Linear(8, 4)
    return trained(net, torch.compile(net, backend=backend), backend, lambda step: torch.ones(2 + step, 8))


def with_a_graph_break(backend: Counting) -> list[float]:
    first, second = nn.Linear(8, 8), nn.Linear(8, 4)

    def run(x: Tensor) -> Tensor:
        hidden = first(x)
        torch._dynamo.graph_break()
        return second(hidden.relu())

    both = nn.ModuleList([first, second])
    return trained(both, torch.compile(run, backend=backend), backend, lambda step: torch.ones(4, 8))


def several_models(backend: Counting) -> list[float]:
    first, second = nn.Linear(8, 8), nn.Linear(8, 4)
    one, two = torch.compile(first, backend=backend), torch.compile(second, backend=backend, fullgraph=True)
    both = nn.ModuleList([first, second])
    return trained(both, lambda x: two(one(x).relu()), backend, lambda step: torch.ones(4, 8))


def many_modules(backend: Counting) -> list[float]:
    """Ten of ten classes, each compiled by itself: two more than Dynamo compiles anew what is one function."""
    net = nn.Sequential(*(scaled_linear(float(factor)) for factor in range(1, 11)))
    for part in net:
        part.compile(backend=backend)
    return trained(net, net, backend, lambda step: torch.ones(4, 8))


def one_function_for_many_models(backend: Counting) -> list[float]:
    """A graph takes the weights of each as its inputs."""
    nets = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(10))
    run = torch.compile(lambda net, x: net(x), backend=backend)
    return trained(
        nets,
        lambda x: torch.stack([run(net, x) for net in nets]),
        backend,
        lambda step: torch.ones(4, 8),
    )


def scaled_linear(factor: float) -> nn.Module:
    """Of a class whose ``forward`` is a function of its own."""
    names: dict[str, Any] = {"nn": nn}
    exec(
        f"class Scaled(nn.Linear):\n    def forward(self, x):\n        return super().forward(x) / {factor}",
        names,
    )
    made: nn.Module = names["Scaled"](8, 8)
    return made


def a_compiled_optimizer(backend: Counting) -> list[float]:
    net = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step = torch.compile(optimizer.step, backend=backend)
    return trained(net, net, backend, lambda step: torch.ones(4, 8), step)


def a_clipped_step(backend: Counting) -> list[float]:
    net = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    @torch.compile(backend=backend)
    def step() -> None:
        nn.utils.clip_grad_norm_(net.parameters(), 0.01)
        nn.utils.clip_grad_value_(net.parameters(), 0.01)
        optimizer.step()

    return trained(net, net, backend, lambda step: torch.ones(4, 8), step)


def a_fused_update(backend: Counting) -> list[float]:
    net = nn.Linear(8, 4)

    @torch.compile(backend=backend, fullgraph=True, dynamic=False)
    def update(weight: Tensor, gradient: Tensor) -> None:
        weight.sub_(0.01 * gradient.sign())

    class Sign(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    update(p, p.grad)

    return trained(net, net, backend, lambda step: torch.ones(4, 8), Sign(net.parameters(), {}).step)


def a_whole_step(backend: Counting) -> list[float]:
    net = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    @torch.compile(backend=backend)
    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for _ in range(STEPS):
        losses.append(step(torch.ones(4, 8)).item())
        backend.stepped()
    return losses


def trained(
    net: nn.Module,
    run: Callable[[Tensor], Tensor],
    backend: Counting,
    batch: Callable[[int], Tensor],
    step: Callable[[], None] | None = None,
) -> list[float]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for index in range(STEPS):
        loss = run(batch(index)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        (step or optimizer.step)()
        losses.append(loss.item())
        backend.stepped()
    return losses


def run_program(program: Program) -> tuple[list[float], Counting]:
    torch.manual_seed(0)
    torch.compiler.reset()
    backend = Counting()
    return program(backend), backend


@pytest.mark.parametrize(
    "program",
    [
        one_model,
        changing_shapes,
        with_a_graph_break,
        several_models,
        many_modules,
        one_function_for_many_models,
        a_compiled_optimizer,
        a_clipped_step,
        a_fused_update,
        a_whole_step,
    ],
)
def test_as_many_calls_and_compilations_as_under_python(
    begin: Begin, tmp_path: Path, program: Program
) -> None:
    losses, plain = run_program(program)
    begin("fp32", Writer(tmp_path / "record"))
    ours, backend = run_program(program)
    assert ours == losses
    assert backend.calls == plain.calls
    assert backend.compiled == plain.compiled
    record = read(tmp_path / "record")
    assert record.losses == losses
    # 4 samples, 8 inputs and 4 outputs at least: forward and the weight's gradient
    assert record.sample["matmul_flops"]["fp32"] >= 2 * 2 * 3 * 8 * 4
    assert record.sample["time_shares"]


@pytest.mark.parametrize("recipe", ["bf16", "fp16:init_scale=256"])
@pytest.mark.parametrize(
    "program", [one_model, many_modules, one_function_for_many_models, a_compiled_optimizer, a_clipped_step]
)
def test_as_many_calls_in_sixteen_bits(begin: Begin, tmp_path: Path, program: Program, recipe: str) -> None:
    _, plain = run_program(program)
    begin(recipe, Writer(tmp_path / "record"))
    _, backend = run_program(program)
    assert backend.calls == plain.calls
    assert set(read(tmp_path / "record").sample["matmul_flops"]) == {recipe[:4]}


def trained_by(
    run: Callable[[nn.Module, Tensor], Tensor], backend: Counting | None, dtype: torch.dtype
) -> list[float]:
    """Losses of a model that is loaded in ``dtype``; ``run`` is compiled unless there is no backend."""
    torch.manual_seed(0)
    torch.compiler.reset()
    net = nn.Linear(8, 4).to(dtype)
    call = run if backend is None else torch.compile(run, backend=backend)
    return trained(
        net,
        lambda x: call(net, x).float(),
        backend or Counting(),
        lambda step: torch.full((2 + step, 8), 1.0 + step, dtype=dtype),
    )


def by_a_number(net: nn.Module, x: Tensor) -> Tensor:
    """Dynamo gives a number that changes to its graphs by ``torch.as_tensor``."""
    found: Tensor = net(x)
    return found * found.detach().float().mean().item()


def test_a_program_in_16_bits_has_the_graphs_of_one_in_fp32(begin: Begin) -> None:
    plain, backend = Counting(), Counting()
    losses = trained_by(by_a_number, plain, torch.float32)
    begin("fp32")
    assert trained_by(by_a_number, backend, torch.bfloat16) == losses
    assert backend.calls == plain.calls
    assert backend.compiled == plain.compiled


def test_a_cast_of_a_model_in_compiled_code_is_not_applied(begin: Begin) -> None:
    def losses(dtype: torch.dtype) -> list[float]:
        def run(net: nn.Module, x: Tensor) -> Tensor:
            found = net(x)
            torch._dynamo.graph_break()
            net.to(dtype)
            return found + net(x)

        return trained_by(run, Counting(), dtype)

    plain = losses(torch.float32)
    begin("fp32")
    assert losses(torch.bfloat16) == plain


def test_weights_with_a_remainder_are_copied_between_two_graphs(begin: Begin) -> None:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        other = copy.deepcopy(net)
        found: Tensor = net(x) + other(x).detach()
        return found

    begin("bf16-lean")
    assert trained_by(run, Counting(), torch.float32) == trained_by(run, None, torch.float32)


def test_where_nan_began_in_compiled_code_is_told_by_graph(begin: Begin, tmp_path: Path) -> None:
    """A compiled graph is one node: its parameters tell which part of the model it is."""
    torch.compiler.reset()
    begin("fp32", Writer(tmp_path / "record"))
    net = nn.Sequential()
    net.add_module("first", nn.Linear(4, 8))
    net.add_module("middle", nn.Sequential(nn.Linear(8, 8), nn.LogSigmoid()))
    net.add_module("last", nn.Linear(8, 1))
    part = net.get_submodule("middle")
    middle = torch.compile(
        lambda x: (part(x) * 1e30).square().log().sqrt() + part(x) / 0, backend="aot_eager"
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(2, 4))
    net.last(middle(net.first(torch.ones(2, 4)))).sum().backward()
    optimizer.step()
    found = read(tmp_path / "record").nonfinite
    assert (found["module"], found["operation"]) == ("middle.0", "compiled_function")
