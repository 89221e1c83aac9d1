"""However weights became 16-bit, under a recipe with fp32 weights they train as those of an fp32 script do."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Weights = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self, **factory: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8, **factory)
        self.norm = nn.LayerNorm(8, **factory)
        self.hidden = nn.Linear(8, 8, **factory)
        self.head = nn.Linear(8, 16, bias=False, **factory)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.full((8,), 0.3, **factory))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embed(ids)) * self.scale.exp()
        return self.head(x + F.gelu(self.hidden(x)))


@functools.cache
def checkpoint(dtype: torch.dtype) -> Weights:
    """Made before a recipe is in force, as a file is."""
    torch.manual_seed(1)
    return {name: value.to(dtype) for name, value in Net().state_dict().items()}


def values(dtype: torch.dtype) -> Weights:
    return {name: value.clone() for name, value in checkpoint(dtype).items()}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def loaded(net: nn.Module, weights: Weights, **options: object) -> nn.Module:
    net.load_state_dict(weights, **options)
    return net


def from_meta(dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        net = Net(dtype=dtype)
    loaded(net.to_empty(device="cpu"), values(dtype))
    net.head.weight = net.embed.weight  # to_empty makes two of one
    return net


def by_default_dtype(dtype: torch.dtype) -> nn.Module:
    with default_dtype(dtype):
        net = Net()
    return loaded(net, values(dtype))


def by_assignment(dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        net = Net()
    loaded(net, values(dtype), assign=True)
    net.head.weight = net.embed.weight
    return net


def unpickled(dtype: torch.dtype) -> nn.Module:
    return pickle.loads(pickle.dumps(loaded(Net(dtype=dtype), values(dtype))))


def by_data(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    for parameter in net.parameters():
        parameter.data = parameter.data.to(dtype)
    return net


def from_files(dtype: torch.dtype) -> nn.Module:
    net = Net()
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        tensor.data = values(dtype)[name]
    return net


#: how a checkpoint in 16 bits comes into a program; its values are held exactly
LOADED: dict[str, Callable[[torch.dtype], nn.Module]] = {
    "factory arguments": lambda dtype: loaded(Net(dtype=dtype), values(dtype)),
    "set_default_dtype": by_default_dtype,
    "the meta device": from_meta,
    "load_state_dict(assign=True)": by_assignment,
    "a pickle": unpickled,
    "data of parameters": from_files,
}

#: how a program casts a model that is fp32; its values stay
CAST: dict[str, Callable[[nn.Module, torch.dtype], nn.Module]] = {
    "half or bfloat16": lambda net, dtype: net.half() if dtype is torch.float16 else net.bfloat16(),
    "to(dtype)": lambda net, dtype: net.to(dtype),
    "to(device, dtype)": lambda net, dtype: net.to("cpu", dtype),
    "to(tensor)": lambda net, dtype: net.to(torch.empty(0, dtype=dtype)),
    "type": lambda net, dtype: net.type(dtype),
    "_apply": lambda net, dtype: net._apply(lambda t: t.to(dtype)),
    "data of parameters": by_data,
    "layer by layer": lambda net, dtype: net.apply(lambda part: part.to(dtype)),
}


def train(net: nn.Module, amp: torch.dtype | None = None, scale: float = 1.0) -> tuple[list[float], Weights]:
    """Five steps of AdamW, under hand-written AMP and a constant loss scale where they are given."""
    torch.manual_seed(2)
    ids = torch.randint(0, 16, (6, 5))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        with nullcontext() if amp is None else torch.autocast("cpu", dtype=amp):
            out = net(ids)
        loss = F.cross_entropy(out.float().flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        (loss * scale).backward()
        for parameter in net.parameters():
            parameter.grad /= scale
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.clone() for name, value in net.state_dict().items()}


@functools.cache
def by_hand(dtype: torch.dtype, recipe: str) -> tuple[list[float], Weights]:
    """The same training by a script whose weights are fp32, with the values of a checkpoint, under hand-written AMP."""
    net = loaded(Net(), {name: value.float() for name, value in values(dtype).items()})
    return train(net, *AMP[recipe])


#: recipe -> the dtype of hand-written AMP, and its loss scale
AMP = {
    "fp32": (None, 1.0),
    "tf32": (None, 1.0),
    "bf16": (torch.bfloat16, 1.0),
    "fp16:loss_scale=1024": (torch.float16, 1024.0),
}


def expect(found: tuple[list[float], Weights], true: tuple[list[float], Weights]) -> None:
    """The same losses and weights to the bit, and every weight in fp32."""
    assert found[0] == true[0]
    assert {name: value.dtype for name, value in found[1].items()} == dict.fromkeys(true[1], torch.float32)
    assert all(torch.equal(found[1][name], value) for name, value in true[1].items())


@pytest.mark.parametrize("way", LOADED)
@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16:loss_scale=1024"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_checkpoint_trains_as_its_values_in_fp32_do(begin, way: str, recipe: str, dtype) -> None:
    true = by_hand(dtype, recipe)
    begin(recipe, products="native")
    expect(train(LOADED[way](dtype)), true)


@pytest.mark.parametrize("way", CAST)
@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_a_cast_of_a_model_is_not_applied(begin, way: str, recipe: str) -> None:
    true = by_hand(torch.float32, recipe)
    begin(recipe, products="native")
    net = CAST[way](loaded(Net(), values(torch.float32)), torch.float16)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    expect(train(net), true)
