"""State in 8 bits: as torchao rounds it between steps of an optimizer that computes in fp32, bit for bit."""

from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstep.errors import UsageError
from halfstep.pytorch.lean import stepping
from halfstep.pytorch.lean.eight_bit import MOMENTS
from halfstep.pytorch.recording.stored import stored_in

from ..conftest import Begin
from .test_training import RoundedEmbedding, RoundedLinear, assert_same, state

RECIPE = "bf16-lean:states=8bit"
LARGE, SMALL = 64 * 96, 8 * 96
Optimize = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimize] = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, amsgrad=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
}


@pytest.fixture
def kind() -> Any:
    """torchao's class for 8-bit state."""
    return pytest.importorskip("torchao.optim.subclass_8bit").OptimState8bit


class Model(nn.Module):
    """Two weights of 64 rows, whose state is 8-bit; one of 8 rows and a bias, whose state stays fp32."""

    def __init__(self, rounded: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        linear, embedding = (RoundedLinear, RoundedEmbedding) if rounded else (nn.Linear, nn.Embedding)
        self.rows = embedding(64, 96)
        self.up = linear(96, 64)
        self.small = linear(96, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rows(x)
        small: Tensor = self.up(x) + self.small(x).mean(-1, keepdim=True)
        return small


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: range,
    after: Callable[[], object] = lambda: None,
) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(step))
        loss = F.cross_entropy(model(x).flatten(0, 1), ((3 * x + 1) % 64).flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after()
        losses.append(loss.item())
    return losses


def nothing() -> None:
    """What happens after a step."""


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_that_of_fp32_weights_whose_state_torchao_rounds(
    begin: Begin, kind: Any, name: str
) -> None:
    takeover = begin("bf16")
    reference = Model(rounded=True)
    optimizer = OPTIMIZERS[name](reference.parameters())
    rounded = set()

    def by_torchao() -> None:
        for parameter, of_one in optimizer.state.items():
            for key, value in of_one.items():
                if key in MOMENTS and parameter.numel() == LARGE:
                    rounded.add(key)
                    of_one[key] = kind.zeros(value.shape, MOMENTS[key], 256).copy_(value).dequantize()

    expected = train(reference, optimizer, range(6), by_torchao)
    assert rounded
    takeover.remove()
    begin(RECIPE)
    model = Model()
    found = OPTIMIZERS[name](model.parameters())
    assert train(model, found, range(6)) == expected
    assert_same(state(model, found), state(reference, optimizer))


def test_large_moments_are_stored_in_a_byte(begin: Begin, kind: Any) -> None:
    begin(RECIPE)
    model = Model()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    train(model, optimizer, range(2))
    assert {type(optimizer.state[model.up.weight][key]) for key in ("exp_avg", "exp_avg_sq")} == {kind}
    stored = stored_in(model.parameters(), [], [optimizer])["optimizer"]
    scales, tables, counts = 4 * LARGE // 256, 4 * 256, 4
    small = 2 * 4 * (SMALL + 64 + 8)
    assert stored == {"uint8": 2 * 2 * LARGE, "fp32": 2 * 2 * (scales + tables) + small + 5 * counts}


def test_by_rows_the_numbers_are_rounded_as_whole(
    begin: Begin, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of 8 rows, as 3 blocks have 768 numbers."""

    def trained() -> Any:
        takeover = begin(RECIPE)
        model = Model()
        optimizer = OPTIMIZERS["AdamW"](model.parameters())
        losses = train(model, optimizer, range(4))
        assert isinstance(optimizer.state[model.up.weight]["exp_avg"], kind)
        found = {"losses": losses, **state(model, optimizer)}
        takeover.remove()
        return found

    expected = trained()
    monkeypatch.setattr(stepping, "SMALLEST", 800)
    monkeypatch.setattr(stepping, "CUT", 1)
    assert_same(trained(), expected)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_killed_and_resumed_it_is_the_same_bit_for_bit(
    begin: Begin, kind: Any, monkeypatch: pytest.MonkeyPatch, in_pieces: bool
) -> None:
    """What is saved has fp32 numbers, which are read without torchao's classes."""
    if in_pieces:
        monkeypatch.setattr(stepping, "SMALLEST", 800)
        monkeypatch.setattr(stepping, "CUT", 1)
    begin(RECIPE)
    model = Model()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    assert b"torchao" not in file.getvalue()
    assert isinstance(optimizer.state[model.up.weight]["exp_avg"], kind)
    expected = train(model, optimizer, range(3, 6))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = Model()
    resumed = OPTIMIZERS["AdamW"](again.parameters())
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert train(again, resumed, range(3, 6)) == expected
    assert_same(state(again, resumed), state(model, optimizer))
    assert isinstance(resumed.state[again.up.weight]["exp_avg"], kind)


def test_a_copy_of_an_optimizer_has_the_same_state(begin: Begin, kind: Any) -> None:
    begin(RECIPE)
    model = Model()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    train(model, optimizer, range(2))
    again = copy.deepcopy(optimizer)
    assert_same(again.state_dict()["state"], optimizer.state_dict()["state"])


def test_taken_off_again_the_training_goes_on(begin: Begin, kind: Any) -> None:
    takeover = begin(RECIPE)
    model = Model()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    train(model, optimizer, range(2))
    expected = copy.deepcopy(optimizer.state_dict()["state"])
    takeover.remove()
    assert_same(optimizer.state_dict()["state"], expected)
    train(model, optimizer, range(2, 3))


def test_without_torchao_it_is_refused(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs torchao, which is not installed; run pip install torchao"):
        begin(RECIPE)
