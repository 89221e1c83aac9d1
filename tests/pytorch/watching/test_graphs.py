"""Compiled graphs are compared with the same graphs run eagerly, and the program does not notice it."""

from __future__ import annotations

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
    ),  # while Dynamo wraps tensors
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # PyTorch's own
]
Backend = Callable[[torch.fx.GraphModule, list[Tensor]], Callable[..., Any]]


def right(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    return graph.forward


def spoils_weights(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Compiled code that returns what it should, and writes NaN into the graph's weights."""

    def run(*args: Any) -> Any:
        found = graph(*args)
        with torch.no_grad():
            next(graph.parameters()).fill_(float("nan"))
        return found

    return run


def weights(backend: Backend, dtype: torch.dtype = torch.float32, steps: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    torch.compiler.reset()
    net = nn.Linear(8, 4).to(dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    step = torch.compile(optimizer.step, backend=backend)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.ones(4, 8, dtype=dtype)).float().square().mean().backward()
        step()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize(("recipe", "dtype"), [("fp32", torch.float32), ("bf16-true", torch.bfloat16)])
def test_a_compiled_optimizer_steps_once(
    begin: Begin, tmp_path: Path, recipe: str, dtype: torch.dtype
) -> None:
    plain = weights(right, dtype)
    begin(recipe, Writer(tmp_path / "record"), graphs=True)
    assert all(map(torch.equal, weights(right), plain))
    record = read(tmp_path / "record")
    assert not record.absent
    assert [event["error"] for event in record.watched if event["what"] == "graph"] == [0.0]


def test_nan_that_a_compiled_optimizer_writes_is_found(begin: Begin, tmp_path: Path) -> None:
    begin("fp32", Writer(tmp_path / "record"), graphs=True)
    weights(spoils_weights, steps=1)
    told = [float(event["error"]) for event in read(tmp_path / "record").watched if event["what"] == "graph"]
    assert told == [float("inf")]
