"""Models and functions that TorchScript compiles, in every precision."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstep.record import Writer, read

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def program() -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """A model and a loss, of classes of their own: TorchScript keeps what it has compiled for a class."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 16)
            self.norm = nn.LayerNorm(16)
            self.batch_norm = nn.BatchNorm1d(16)
            self.recurrent = nn.GRU(16, 8, batch_first=True)
            self.last = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.batch_norm(self.norm(self.first(x))))
            h = h + torch.zeros(h.shape[0], 16, dtype=h.dtype) + 0.1 * torch.ones_like(h)
            sequence, _ = self.recurrent(h[:, None])
            return self.last(sequence[:, 0])

    def square(a: Tensor, b: Tensor) -> Tensor:
        return (
            F.mse_loss(a.float(), b.float()) + torch.zeros([1]).sum() + 0 * torch.isfinite(a).float().mean()
        )

    torch.manual_seed(0)
    return Net(), square


def trained(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> list[float]:
    """The losses of four steps."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    random = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(4):
        x = torch.randn(8, 8, generator=random)
        found = loss(net(x.to(dtype)), x[:, :2])
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
    return losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16:init_scale=1024", "bf16-true", "bf16-lean"])
def test_a_model_trains(begin, recipe: str, dtype: torch.dtype) -> None:
    net, loss = program()
    net.to(dtype)
    expected = trained(copy.deepcopy(net).float(), loss, torch.float32)
    begin(recipe)
    with torch.jit.optimized_execution(False):  # type: ignore[no-untyped-call]  # which fails for a second format
        found = trained(torch.jit.script(net), torch.jit.script(loss), dtype)
    exact = (recipe, dtype) == ("fp32", torch.float32)
    assert found == pytest.approx(expected, rel=1e-6 if exact else 0.02)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("bf16-true", torch.bfloat16),
        ("bf16-lean", torch.bfloat16),
    ],
)
def test_a_method_runs_in_the_recipe(
    begin, tmp_path: Path, recipe: str, dtype: torch.dtype, loaded: bool
) -> None:
    """Its layers are called in C++, where no call of a module is seen."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

        @torch.jit.export
        def encode(self, x: Tensor) -> tuple[Tensor, int]:
            out = self.layer(x)
            return out, out.element_size()

    begin(recipe)
    net, x = torch.jit.script(Encoder()), torch.randn(3, 8)
    if loaded:
        net.save(str(tmp_path / "net"))
        net = torch.jit.load(str(tmp_path / "net"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        out, size = net.encode(x)
        assert out.dtype is torch.float32
        assert size == dtype.itemsize
        (out @ out.T).mean().backward()
        optimizer.step()
    assert "self.layer" in net.encode.code


def test_a_skipped_step_leaves_its_running_statistics_as_they_were(begin) -> None:
    begin("fp16:init_scale=1024")
    net = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    buffers = list(net.buffers())
    before = [b.clone() for b in buffers]
    for x, kept in ((torch.full((3, 4), torch.inf), True), (torch.randn(3, 4), False)):
        optimizer.zero_grad()
        with torch.jit.optimized_execution(False):  # type: ignore[no-untyped-call]
            net(x).square().sum().backward()
        optimizer.step()
        assert all(map(torch.equal, before, buffers)) is kept


def test_a_compiled_model_is_watched(begin, tmp_path: Path) -> None:
    """Of the layers in it nothing is seen, but for their parameters and their gradients."""
    takeover = begin("bf16", Writer(tmp_path / "record"), watch=True)
    net, loss = program()
    with torch.jit.optimized_execution(False):  # type: ignore[no-untyped-call]
        trained(torch.jit.script(net), loss, torch.float32)
    takeover.close()
    found = read(tmp_path / "record")
    assert found.absent == {}
    assert {"first", "norm", "recurrent"} <= {event["module"] for event in found.watched if "module" in event}


def test_a_model_of_16_bits_trains_as_torchscript_optimizes_it(tmp_path: Path) -> None:
    """TorchScript casts by lists of its own, and differentiates by itself: once a process, as for one format alone."""
    net, loss = program()
    expected = trained(net, loss, torch.float32)
    (tmp_path / "p.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "import torch\nfrom tests.pytorch.test_torchscript import program, trained\n"
        "print(trained(*map(torch.jit.script, program()), torch.float32))\n"
    )
    command = (sys.executable, "-m", "halfstep", "run", "--precision", "bf16-true", "p.py")
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(expected, rel=0.02)
    assert re.search(r"ran as bf16(, products in fp32 units)?, weights bf16: 4 steps", done.stderr)
