"""What a model returns is fp32 for the script, whatever it is wrapped in, and otherwise what the model returned."""

from __future__ import annotations

import collections
import dataclasses
import types
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.autocast.results import to_fp32

LOW = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class Output:
    loss: Tensor
    hidden: tuple[Tensor, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted(Output):
    extent: int = 3


class Boxes(list):
    """A list whose constructor wants more than items."""

    def __init__(self, items: list[Tensor], size: int) -> None:
        super().__init__(items)
        self.extent = size


class Corners(tuple):
    def __new__(cls, first: Tensor, second: Tensor) -> Corners:
        made = super().__new__(cls, (first, second))
        made.extent = 3
        return made


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in tensors(item)]
    if isinstance(value, tuple | list | collections.deque):
        return [t for item in value for t in tensors(item)]
    if dataclasses.is_dataclass(value):
        return tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
    return tensors(list(vars(value).values())) if hasattr(value, "__dict__") else []


@pytest.mark.parametrize(
    "value",
    [
        LOW,
        (LOW, 3),
        [LOW, [LOW]],
        {"a": LOW, "b": {"c": LOW.half()}},
        collections.OrderedDict(a=LOW),
        collections.defaultdict(list, a=[LOW]),
        Pair(LOW, "text"),
        Output(LOW, (LOW, LOW)),
        Slotted(LOW, (LOW, LOW)),
        collections.deque([LOW, LOW], maxlen=2),
        torch.max(LOW[None], dim=1),
        nn.utils.rnn.pack_sequence([LOW]),
        Boxes([LOW, LOW], size=3),
        Corners(LOW, LOW),
        types.SimpleNamespace(z=LOW, name="text"),
        torch.distributions.Normal(LOW, LOW),
        torch.distributions.Independent(torch.distributions.Normal(LOW, LOW), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sixteen_bit_tensors_are_widened_exactly(value: Any) -> None:
    widened = to_fp32(value)
    assert type(widened) is type(value)
    before, after = tensors(value), tensors(widened)
    assert len(before) == len(after) > 0
    assert not {t.dtype for t in after} & {torch.bfloat16, torch.float16}
    assert all(torch.equal(new.double(), old.double()) for new, old in zip(after, before, strict=True))
    assert getattr(widened, "extent", None) == getattr(value, "extent", None)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_what_is_not_16_bit_is_the_same_object(dtype: torch.dtype) -> None:
    value = {"a": [torch.ones(2).to(dtype)], "b": None, "c": "text"}
    assert to_fp32(value) is value


def test_what_the_model_keeps_is_not_changed() -> None:
    """A cache that a model returns stays what the model wrote, 16-bit, when the script has got its copy."""
    cache = {"keys": [LOW]}
    assert to_fp32(cache)["keys"][0].dtype is torch.float32
    assert cache["keys"][0] is LOW


def test_gradients_pass_through() -> None:
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    to_fp32({"x": x})["x"].sum().backward()
    assert torch.equal(x.grad, torch.ones(2, dtype=torch.bfloat16))


def test_outputs_of_transformers() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    value = outputs.CausalLMOutputWithPast(loss=LOW, logits=LOW, hidden_states=(LOW,))
    widened = to_fp32(value)
    assert type(widened) is type(value)
    assert widened.logits.dtype is widened["loss"].dtype is widened[2][0].dtype is torch.float32
    assert value.logits is LOW
