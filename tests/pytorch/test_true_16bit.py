from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.exact = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor, options: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        made = torch.zeros(2)
        return self.norm(self.first(x)) * options["scale"], made


@pytest.mark.parametrize(
    ("recipe", "dtype"), [("bf16-true", torch.bfloat16), ("fp16-true:loss_scale=1", torch.float16)]
)
def test_weights_inputs_and_what_is_made_inside_are_16_bit(begin, recipe: str, dtype: torch.dtype) -> None:
    begin(recipe)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    held = net.first.weight
    out, made = net(torch.randn(4, 4), {"scale": torch.ones(1)})
    assert out.dtype is made.dtype is dtype
    assert net.first.weight is held, "an optimizer made before holds the converted parameter"
    assert net.first.weight.dtype is net.norm.running_mean.dtype is dtype
    assert net.norm.num_batches_tracked.dtype is torch.int64
    assert net.exact.dtype is torch.float64
    assert torch.get_default_dtype() is torch.float32
    out.sum().backward()
    optimizer.step()
    assert optimizer.state[held]["momentum_buffer"].dtype is dtype


def a_new_weight(net: nn.Module) -> None:
    net[2].bias = nn.Parameter(torch.full((1,), 1 / 3))


def other_data(net: nn.Module) -> None:
    net[2].bias.data = torch.full((1,), 1 / 3)


def loaded(net: nn.Module) -> None:
    net.load_state_dict({name: value.float() / 3 for name, value in net.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: None,
        lambda net: net.float(),
        lambda net: net.__setitem__(2, nn.Linear(8, 1)),
        a_new_weight,
        other_data,
        loaded,
    ],
    ids=["nothing", "cast", "layer", "weight", "data", "checkpoint"],
)
def test_the_same_numbers_as_converting_by_hand(begin, change: Callable[[nn.Module], object]) -> None:
    """Also where the script changes the weights in mid-training, and gives them fp32."""

    def losses(by_hand: bool) -> list[float]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        x = torch.randn(16, 4)
        if by_hand:
            net, x = net.bfloat16(), x.bfloat16()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        found = []
        for step in range(5):
            if step == 2:
                change(net)
            loss = (net.bfloat16() if by_hand else net)(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    expected = losses(by_hand=True)
    begin("bf16-true", products="native")
    assert losses(by_hand=False) == expected


def test_loaded_optimizer_state_follows_its_parameters(begin) -> None:
    """A resumed program loads its checkpoint before the model is called, and so converted, for the first time."""
    begin("bf16-true")
    x = torch.randn(4, 4)
    states = []
    for resumed in (False, True):
        net = nn.Linear(4, 4)
        optimizer = torch.optim.AdamW(net.parameters())
        if resumed:
            optimizer.load_state_dict(copy.deepcopy(states[0]))
        net(x).sum().backward()
        optimizer.step()
        states.append(copy.deepcopy(optimizer.state_dict()))
    first, second = (states[i]["state"][0] for i in range(2))
    assert first["exp_avg"].dtype is second["exp_avg"].dtype is torch.bfloat16
    assert first["step"].dtype is second["step"].dtype
    assert (first["step"], second["step"]) == (1, 2)
