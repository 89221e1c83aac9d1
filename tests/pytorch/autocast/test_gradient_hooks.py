"""Hooks that return fp32 gradients for 16-bit ones: the reference is a hook that casts by itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

MASK = torch.tensor([1.0, 0.0, 0.5, 2.0])


def masked(*gradients: Any) -> Any:
    """As fp32 code has it: of a tensor's gradient, or of those of a module's inputs or outputs."""
    if len(gradients) == 1:
        return gradients[0] * MASK
    return tuple(None if g is None else g * MASK for g in gradients[1])


class Net(nn.Module):
    def __init__(self, hook: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.one, self.two, self.hook = nn.Linear(4, 4), nn.Linear(4, 4), hook

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x)
        if self.hook is not None:
            hidden.register_hook(self.hook)
        return self.two(hidden)


def gradient(where: str, hook: Callable[..., Any]) -> Tensor:
    torch.manual_seed(0)
    net = Net(hook if where == "tensor" else None)
    if where != "tensor":
        getattr(net.two, where)(hook)
        net = copy.deepcopy(net)
    net(torch.randn(8, 4)).square().mean().backward()
    assert net.one.weight.grad is not None
    return net.one.weight.grad


@pytest.mark.parametrize("recipe", ["bf16", "fp16:loss_scale=1", "fp16:loss_scale=8"])
@pytest.mark.parametrize(
    "where", ["tensor", "register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_the_gradient_goes_on_in_its_dtype(begin, recipe: str, where: str) -> None:
    dtype = begin(recipe).regions.dtype

    def casting(*gradients: Any) -> Any:
        answer = masked(*gradients)
        return answer.to(dtype) if isinstance(answer, Tensor) else tuple(g.to(dtype) for g in answer)

    assert torch.equal(gradient(where, masked), gradient(where, casting))


def test_a_module_with_a_hook_is_pickled_with_the_scripts_own(begin) -> None:
    begin("bf16")
    layer = nn.Linear(4, 4)
    layer.register_full_backward_hook(masked)
    again = pickle.loads(pickle.dumps(layer))
    (hook,) = again._backward_hooks.values()
    assert hook.func is masked
