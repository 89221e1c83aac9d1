"""PyTorch's anomaly mode under a loss scale that is being found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ..conftest import Begin
from .test_gradient_pass import times

pytestmark = [
    pytest.mark.usefixtures("followed"),
    pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning"),
    pytest.mark.filterwarnings("ignore:Error detected in:UserWarning"),
]


@pytest.fixture(autouse=True)
def anomaly_mode() -> Iterator[None]:
    with torch.autograd.set_detect_anomaly(True):
        yield


def train(steps: int) -> tuple[list[float], list[str]]:
    """Losses; inputs of about 30 overflow in the backward pass of fp16 under 65536, to NaN in the norm."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))
    optimizer, x, seen = torch.optim.SGD(net.parameters(), 1e-6), torch.randn(64, 8) * 30, []
    net[0].weight.register_hook(lambda _: seen.append("hook"))
    losses = []
    for _ in range(steps):
        loss = (net(x) - x.sum(1, keepdim=True) * 3).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    return losses, seen


def test_nan_of_the_scale_ends_no_program(begin: Begin) -> None:
    takeover = begin("fp16")
    scales: list[float] = []
    takeover.recorder.write = lambda event, **told: scales.append(told["scale"]) if event == "skip" else None
    losses, seen = train(12)
    assert takeover.skipped > 0, "the control: the scale was too high"
    assert min(scales) > 1, "of the passes, not of the looks for NaN"
    assert losses[-1] < losses[0]
    assert len(seen) == 12, "a hook runs once per pass"
    assert torch.is_anomaly_check_nan_enabled()


def root(x: Tensor) -> Tensor:
    """NaN at 0: infinity times 0."""
    return (x.sqrt() * 0).sum()


@pytest.mark.parametrize("recipe", ["fp16", "fp32:loss_scale=1024"])
@pytest.mark.parametrize("by_grad", [False, True])
def test_nan_of_the_script_raises_pytorchs_error(begin: Begin, recipe: str, by_grad: bool) -> None:
    def outcome() -> str:
        x = torch.zeros(3, requires_grad=True)
        with pytest.raises(RuntimeError) as told:
            if by_grad:
                torch.autograd.grad(root(x), x)
            else:
                root(x).backward()
        return str(told.value)

    plain = outcome()
    assert "returned nan values" in plain
    begin(recipe)
    assert outcome() == plain


def test_autograd_grad_lowers_its_scale(begin: Begin) -> None:
    begin("fp16")
    x = torch.ones(8, requires_grad=True)
    hidden = times(x, 8192)
    (found,) = torch.autograd.grad((hidden - hidden.mean()).square().sum() + hidden.sum(), x)
    assert torch.equal(found, torch.full((8,), 8192.0))
