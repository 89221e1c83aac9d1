"""``bf16-sr``: updates that bf16 cannot hold are right in the mean, and nothing else is random."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from halfstep.pytorch.lean import stepping
from halfstep.pytorch.raw_data import raw_data
from halfstep.pytorch.recording.stored import stored_in

from ..conftest import Begin
from .test_training import Model, adamw, assert_same, state, train


def test_small_updates_add_up_in_the_mean(begin: Begin) -> None:
    """200 updates of 1/64 of the distance of bf16 numbers below 1, 2**-8; rounded to nearest, none would be seen.

    Each moves a weight by one distance with probability p = 1/64. Bound: 5 standard deviations of a mean of n weights,
    each a sum of 200 such moves, of variance p (1 - p) at most: with as many weights, 0.09 % of the way.
    """
    begin("bf16-sr")
    steps, p, gap, n = 200, 1 / 64, 2.0**-8, 128 * 128
    linear = nn.Linear(128, 128, bias=False)
    optimizer = torch.optim.SGD(linear.parameters(), lr=p * gap)
    linear.weight.data.fill_(1.0)
    for _ in range(steps):
        linear(torch.ones(1, 128)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    found = linear.weight.detach().double()
    expected = 1 - steps * p * gap
    assert abs(found.mean().item() - expected) <= 5 * gap * (steps * p * (1 - p) / n) ** 0.5
    spread = gap * (steps * p * (1 - p)) ** 0.5  # of one weight: they are rounded apart from each other
    assert found.std().item() == pytest.approx(spread, rel=0.05)


def test_bytes_and_formats(begin: Begin) -> None:
    """Weights 2, gradients 2, moments 4: 8 per number of a weight that is rounded."""
    begin("bf16-sr:states=bf16")
    model = nn.Sequential(nn.Linear(32, 64, bias=False), nn.GELU(), nn.Linear(64, 32, bias=False))
    optimizer = adamw(model.parameters())
    model(torch.randn(3, 32)).sum().backward()
    optimizer.step()
    n = 2 * 32 * 64
    stored = stored_in(model.parameters(), [], [optimizer])
    counts = {"fp32": 2 * 4}  # the count of steps of each
    assert stored == {
        "weights": {"bf16": 2 * n},
        "gradients": {"bf16": 2 * n},
        "optimizer": {"bf16": 4 * n, **counts},
    }
    for value in model.state_dict().values():
        assert value.dtype is torch.float32
        assert torch.equal(value, value.bfloat16())


def looked_at(model: nn.Module, optimizer: Any) -> None:
    """As one process does that saves checkpoints, where others do not."""
    model.kept = list(model.state_dict().values())  # type: ignore[assignment]
    assert model.up.weight.data.sum().isfinite()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("after", [lambda model, optimizer: None, looked_at], ids=["again", "looked at"])
def test_the_same_training_is_rounded_alike(begin: Begin, after: Callable[..., None]) -> None:
    def trained(after: Callable[..., None]) -> tuple[list[float], Any]:
        takeover = begin("bf16-sr")
        model = Model(rounded=False)
        optimizer = adamw(model.parameters())
        found = train(model, optimizer, after=after), state(model, optimizer)
        vars(model).pop("kept", None)
        takeover.remove()
        return found

    expected = trained(lambda model, optimizer: None)
    found = trained(after)
    assert found[0] == expected[0]
    assert_same(found[1], expected[1])


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("recipe", ["bf16-sr", "bf16-sr:states=bf16"])
def test_killed_and_resumed_it_is_the_same_bit_for_bit(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, recipe: str, in_pieces: bool
) -> None:
    """The count of steps, from which random bits come, is the optimizer's."""
    if in_pieces:
        monkeypatch.setattr(stepping, "SMALLEST", 20)
        monkeypatch.setattr(stepping, "CUT", 1)

    def begun() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        takeover = begin(recipe)
        model = Model(rounded=False)
        return model, adamw(model.parameters()), takeover

    model, optimizer, takeover = begun()
    train(model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    losses, end = train(model, optimizer, range(3, 6)), state(model, optimizer)
    takeover.remove()
    again, resumed, _ = begun()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert train(again, resumed, range(3, 6)) == losses
    assert_same(state(again, resumed), end)


def test_the_programs_random_numbers_stay(begin: Begin) -> None:
    begin("bf16-sr:states=bf16")
    model = Model(rounded=False)
    optimizer = adamw(model.parameters())
    before = torch.get_rng_state()
    train(model, optimizer)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns_as_bf16_does(begin: Begin) -> None:
    def trained(recipe: str) -> list[float]:
        takeover = begin(recipe)
        model = Model(rounded=False)
        losses = train(model, adamw(model.parameters()), range(60))
        takeover.remove()
        return losses

    expected, found = trained("bf16"), trained("bf16-sr")
    assert abs(sum(found[-5:]) - sum(expected[-5:])) < 0.05 * sum(expected[:5])


def test_what_is_written_is_rounded_and_what_is_shown_follows(begin: Begin) -> None:
    begin("bf16-sr")
    linear = nn.Linear(64, 64)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.0)
    linear(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    shown = linear.weight.data
    shown.fill_(1 + 2.0**-9)
    linear(torch.ones(1, 64)).sum().backward()
    assert torch.equal(shown, raw_data(linear.weight).float())
    assert set(shown.unique().tolist()) == {1.0, 1 + 2.0**-7}
    assert shown.mean().item() == pytest.approx(1 + 2.0**-9, abs=5 * 2.0**-7 * (3 / 16) ** 0.5 / 64)
