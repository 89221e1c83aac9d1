"""The script's own scaler rests under a recipe; what it saves and loads is PyTorch's, and true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from halfstep.pytorch import GradScaler

from ..conftest import Begin


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


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16"])
def test_a_script_that_compares_scales_sees_which_steps_were_skipped(begin: Begin, recipe: str) -> None:
    """As PyTorch's examples keep a scheduler from a step; a recipe without a scale skips none."""
    factors = [1.0, float("inf"), 1.0, float("nan"), float("inf"), 1.0]

    def skipped(scaler: torch.amp.GradScaler) -> list[bool]:
        weight = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        seen = []
        for factor in factors:
            before = scaler.get_scale()
            scaler.scale((weight.detach() * 0 + weight * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            seen.append(scaler.get_scale() < before)
            optimizer.zero_grad()
        return seen

    expected = skipped(scaler())
    assert expected == [factor != 1.0 for factor in factors]
    begin(recipe)
    resting = scaler()
    assert skipped(resting) == (expected if recipe == "fp16" else [False] * len(factors))
    assert not resting.is_enabled()


def test_what_a_script_divides_by_the_scale_was_not_multiplied(begin: Begin) -> None:
    """The gradient penalty of PyTorch's examples: also right after a step that was skipped."""
    begin("fp16")
    ours = scaler()
    train(ours, [float("inf")])
    assert ours.get_scale() == 0.5
    x = torch.ones(3, requires_grad=True)
    (scaled,) = torch.autograd.grad(ours.scale((x * 3).sum()), x)
    assert (scaled / ours.get_scale()).tolist() == [3.0] * 3


def test_halfsteps_own_scaler_tells_what_the_recipe_has_skipped(begin: Begin) -> None:
    begin("fp16")
    ours = GradScaler("cpu")
    told = []
    for factors in ([1.0], [float("inf")], [1.0]):
        train(ours, factors)
        told.append((ours.last_step_skipped, ours.skipped_steps, ours.get_scale()))
    assert told == [(False, 0, 1.0), (True, 1, 0.5), (False, 1, 1.0)]
