"""A selective checkpoint refuses a second pass over its graph; passes that are repeated under a loss scale have one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ..conftest import Begin


def policy(ctx: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep the products, compute the rest anew."""
    return CheckpointPolicy.MUST_SAVE if "mm" in str(operation) else CheckpointPolicy.PREFER_RECOMPUTE


class Net(nn.Module):
    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.layers = (
            nn.Linear(8, 8),
            nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)),
        )
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.first, x, use_reentrant=True) if self.reentrant else self.first(x)
        contexts = functools.partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(self.layers, hidden, use_reentrant=False, context_fn=contexts)  # type: ignore[return-value]


def inputs() -> Tensor:
    return torch.linspace(-1, 1, 32).reshape(4, 8).requires_grad_()


def by_grad() -> Tensor:
    x = inputs()
    return torch.autograd.grad(Net()(x).square().sum() * 4096, x)[0]


def by_backward() -> Tensor:
    x = inputs()
    (Net()(x).square().sum() * 4096).backward()
    return x.grad


def by_backward_of_a_reentrant_checkpoint() -> Tensor:
    x = inputs()
    (Net(reentrant=True)(x).square().sum() * 4096).backward()
    return x.grad


def under_anomaly_mode() -> Tensor:
    x = inputs()
    net = Net()
    torch.optim.SGD([*net.parameters(), x], lr=0.1)
    with torch.autograd.detect_anomaly(check_nan=True):
        (net(x).square().sum() * 2.0**24).backward()
    return x.grad


@pytest.mark.usefixtures("followed")
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize(
    "gradient", [by_grad, by_backward, by_backward_of_a_reentrant_checkpoint, under_anomaly_mode]
)
def test_a_pass_that_is_repeated_recomputes_what_it_had_saved(
    begin: Begin, gradient: Callable[[], Tensor]
) -> None:
    plain = gradient()
    takeover = begin("fp16")
    found = gradient()
    if gradient is not under_anomaly_mode:  # there the step is skipped
        assert torch.allclose(found, plain, rtol=0.01, atol=0.01 * float(plain.abs().max()))
    assert takeover.scaling.selective_checkpoints._saved is None


def test_a_second_pass_of_the_scripts_own_is_refused_as_in_plain_pytorch(begin: Begin) -> None:
    begin("fp16")
    x = inputs()
    loss = Net()(x).square().sum()
    torch.autograd.grad(loss, x, retain_graph=True)
    with pytest.raises(RuntimeError, match="backward an extra time"):
        torch.autograd.grad(loss, x)
