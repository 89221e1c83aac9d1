"""State in bf16: rounded at random without bias, the same in every run, and training comes to the same end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.lean import stepping, stochastic
from halfstep.pytorch.lean.stochastic import kernel, round_stochastically
from halfstep.pytorch.recording.stored import stored_in

from ..conftest import Begin, compiled
from .test_training import Model, adamw, assert_same, state, train


def rounded(wide: Tensor, salt: Tensor, seed: int = 7) -> Tensor:
    result = torch.empty_like(wide, dtype=torch.bfloat16)
    round_stochastically(wide, salt, result, seed)
    return result


def neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    """The bf16 numbers towards zero and away from it, in float64, of numbers that lie between two."""
    low = (x.view(torch.int32) & -0x10000).view(torch.float32)
    return low.double(), (low.view(torch.int32) + 0x10000).view(torch.float32).double()


@pytest.mark.parametrize("shape", [(3, 100_001), (0, 4), (5, 7)])
def test_with_and_without_a_compiler_the_numbers_are_the_same(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    """Of random bits, with NaN and infinities among them; the largest takes several chunks."""
    compiled(kernel())
    wide, salt = (torch.randint(-(2**31), 2**31, shape).to(torch.int32).view(torch.float32) for _ in range(2))
    for x, s in ((wide, salt), (wide.t(), salt.t())):
        found = rounded(x, s)
        with monkeypatch.context() as patch:
            patch.setattr(stochastic, "kernel", lambda: None)
            assert torch.equal(rounded(x, s).view(torch.int16), found.view(torch.int16))
        assert torch.equal(found.isnan(), x.isnan())
        finite = x.isfinite()
        low, high = neighbours(x[finite])
        assert ((found[finite] == low) | (found[finite] == high)).all()
        assert torch.equal(found[x.isinf()].float(), x[x.isinf()])
    gaps = torch.randn(6, 8)[:, ::2]  # has no kernel; and what bf16 can hold stays
    assert torch.equal(rounded(gaps.bfloat16().float(), gaps), gaps.bfloat16())


@pytest.mark.parametrize("share", [1 / 256, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("scale", [1.0, -(2.0**-100), 3.0])
def test_the_mean_of_many_roundings_is_the_number(share: float, scale: float) -> None:
    """At many places, and at one place with a weight that moves. Bound: 5 standard deviations of a mean of n."""
    n = 1 << 16
    x = torch.full((n,), scale * (1 + share * 2.0**-7))
    low, high = neighbours(x[:1])
    gap = (high - low).abs().item()
    exact = x[0].double().item()
    p = abs(exact - low.item()) / gap
    bound = 5 * gap * (p * (1 - p) / n) ** 0.5
    still, moving = torch.full((n,), 0.3), torch.linspace(0.3, 0.4, n)
    assert abs(rounded(x, still).double().mean().item() - exact) <= bound
    at_one_place = torch.stack([rounded(x[i : i + 1], moving[i : i + 1])[0] for i in range(0, n, 64)])
    assert abs(at_one_place.double().mean().item() - exact) <= bound * 8


def test_a_slow_average_does_not_stand_still() -> None:
    """0.999 of it and 0.001 of 1: in bf16, rounded to nearest, it stops where 0.001 of the way is half a last place."""
    generator = torch.Generator().manual_seed(0)
    average, nearest, weight = torch.zeros(512), torch.zeros(512), torch.zeros(512)
    exact = 0.0
    for _ in range(3000):
        weight -= 1e-3 * torch.rand(512, generator=generator)
        average = rounded(average.mul(0.999).add_(0.001), weight).float()
        nearest = nearest.mul(0.999).add_(0.001).bfloat16().float()
        exact = 0.999 * exact + 0.001
    assert abs(average.double().mean().item() - exact) < 0.005
    assert abs(nearest.double().mean().item() - exact) > 0.3


def test_state_is_stored_in_bf16_and_training_comes_to_the_same_end(begin: Begin) -> None:
    def trained(recipe: str) -> tuple[list[float], nn.Module, torch.optim.Optimizer]:
        takeover = begin(recipe)
        model = Model(rounded=False)
        optimizer = adamw(model.parameters())
        losses = train(model, optimizer, range(60))
        stored = stored_in(model.parameters(), [], [optimizer])
        held = stored["weights"]["bf16"]
        expected = {"fp32"} if recipe == "bf16-lean" else {"bf16", "fp32"}
        assert set(stored["optimizer"]) == expected
        assert stored["optimizer"].get("bf16", 2 * held) == 2 * held
        takeover.remove()
        return losses, model, optimizer

    expected, _, _ = trained("bf16-lean")
    found, _, optimizer = trained("bf16-lean:states=bf16")
    assert sum(expected[-5:]) < 0.5 * sum(expected[:5])
    assert abs(sum(found[-5:]) - sum(expected[-5:])) < 0.05 * sum(expected[:5])
    again, _, same = trained("bf16-lean:states=bf16")
    assert again == found
    assert_same(same.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("recipe", ["bf16-lean:states=bf16", "bf16-sr", "bf16-sr:states=bf16"])
def test_by_rows_the_numbers_are_rounded_as_whole(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    def trained() -> tuple[list[float], Any]:
        takeover = begin(recipe)
        model = Model(rounded=False)
        optimizer = adamw(model.parameters())
        losses = train(model, optimizer, range(4))
        found = losses, state(model, optimizer)
        takeover.remove()
        return found

    expected = trained()
    monkeypatch.setattr(stepping, "SMALLEST", 20)
    monkeypatch.setattr(stepping, "CUT", 1)
    found = trained()
    assert found[0] == expected[0]
    assert_same(found[1], expected[1])


class Third(torch.optim.AdamW):
    """Is called once for all its weights."""


@pytest.mark.parametrize(
    ("cls", "in_pieces"),
    [(torch.optim.AdamW, False), (torch.optim.AdamW, True), (Third, False), (torch.optim.Adagrad, False)],
)
def test_killed_and_resumed_it_is_the_same_bit_for_bit(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, cls: type[torch.optim.AdamW], in_pieces: bool
) -> None:
    if in_pieces:
        monkeypatch.setattr(stepping, "SMALLEST", 20)
        monkeypatch.setattr(stepping, "CUT", 1)
    begin("bf16-lean:states=bf16")
    model = Model(rounded=False)
    optimizer = cls(model.parameters(), lr=1e-2)
    train(model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert torch.bfloat16 in {
        value.dtype for of_one in saved[1]["state"].values() for value in of_one.values()
    }
    expected = train(model, optimizer, range(3, 6))
    again = Model(rounded=False)
    resumed = cls(again.parameters(), lr=1e-2)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert train(again, resumed, range(3, 6)) == expected
    assert_same(state(again, resumed), state(model, optimizer))


def test_taken_off_again_the_training_goes_on_with_fp32_state(begin: Begin) -> None:
    takeover = begin("bf16-lean:states=bf16")
    model = Model(rounded=False)
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(3))
    narrow = copy.deepcopy(optimizer.state_dict()["state"])
    takeover.remove()
    found = optimizer.state_dict()["state"]
    assert {value.dtype for of_one in found.values() for value in of_one.values()} == {torch.float32}
    assert_same(found, {n: {k: v.float() for k, v in of_one.items()} for n, of_one in narrow.items()})
    train(model, optimizer, range(3, 4))
