from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from halfstep.errors import UsageError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner[0](x)
        out = self.head(hidden)
        self.seen = [hidden.dtype, out.dtype]
        return out


def step(net: nn.Module) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.randn(3, 4)).float().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_kept_modules_compute_in_fp32(begin, recipe: str) -> None:
    low = begin(f"{recipe}:keep=head").regions.dtype
    net = Net()
    step(net)
    assert net.seen == [low, torch.float32]


def test_kept_modules_of_16_bit_weights_keep_fp32_weights(begin) -> None:
    begin("bf16-true:keep=head")
    net = Net()
    step(net)
    assert net.head.weight.dtype is torch.float32
    assert net.inner[0].weight.dtype is torch.bfloat16
    assert net.seen == [torch.bfloat16, torch.bfloat16], "what they hand on is 16-bit again"


def test_a_kept_model_can_be_pickled_and_copied(begin) -> None:
    begin("bf16:keep=inner.*")
    net = Net()
    step(net)
    for twin in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        twin(torch.randn(3, 4))
        assert twin.seen == [torch.float32, torch.bfloat16]


def test_a_pattern_that_matches_nothing_is_said(begin) -> None:
    begin("bf16:keep=*.norm,head")
    with pytest.raises(UsageError) as caught:
        step(Net())
    assert str(caught.value) == (
        "keep=*.norm matches no module of this program; its modules are inner, inner.0, inner.1, head."
    )


def test_it_is_said_once_where_the_program_goes_on(begin) -> None:
    takeover = begin("bf16:keep=*.norm")
    net = Net()
    with pytest.raises(UsageError):
        step(net)
    step(net)
    step(net)
    assert takeover.steps == 2
