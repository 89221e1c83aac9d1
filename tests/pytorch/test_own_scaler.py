"""The script's own scaler rests under a recipe; what it saves and loads is PyTorch's, and true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from .conftest import Begin


def train(scaler: torch.amp.GradScaler, factors: list[float]) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for factor in factors:
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()


def scaler(**options: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", **options)


def test_it_saves_the_scale_that_the_recipe_is_at(begin: Begin) -> None:
    """One overflow and three finite steps: as PyTorch's own scaler, which does the same without halfstep."""
    factors = [1.0, float("inf"), 1.0, 1.0, 1.0]
    plain = scaler(growth_interval=100)
    train(plain, factors)
    takeover = begin("fp16")
    ours = scaler(growth_interval=100)
    train(ours, factors)
    saved = ours.state_dict()
    assert saved == plain.state_dict()
    takeover.remove()
    again = scaler()
    again.load_state_dict(saved)
    assert again.get_scale() == 2.0**15


@pytest.mark.parametrize("saved", [4096.0, 5000.0])
def test_the_recipe_goes_on_from_what_pytorch_has_saved(begin: Begin, saved: float) -> None:
    state = {**scaler(init_scale=saved).state_dict(), "_growth_tracker": 7}
    takeover = begin("fp16")
    resumed = scaler()
    resumed.load_state_dict(state)
    assert (takeover.scaling.value, takeover.scaling.loss_scale.finite_steps) == (4096.0, 7)  # type: ignore[attr-defined]
    assert resumed.state_dict() == {**state, "scale": 4096.0}


def test_under_a_recipe_without_a_scale_it_saves_what_it_has(begin: Begin) -> None:
    state = {**scaler(init_scale=512.0).state_dict(), "_growth_tracker": 7}
    begin("bf16")
    fresh = scaler(init_scale=1024.0)
    assert fresh.state_dict()["scale"] == 1024.0
    fresh.load_state_dict(state)
    train(fresh, [1.0])
    assert fresh.state_dict() == state
    fresh.load_state_dict({})  # of a scaler that was switched off
    assert fresh.state_dict() == state


def test_one_that_the_script_has_switched_off_saves_nothing_as_in_pytorch(begin: Begin) -> None:
    begin("fp16")
    assert scaler(enabled=False).state_dict() == {}
