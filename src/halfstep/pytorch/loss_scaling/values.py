"""Whether numbers are finite, and how large they are, also those of tensors inside ``torch.func`` transforms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from halfstep.pytorch.loss_scaling.gradients import all_finite, values_of

_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_unwrapped = torch._C._functorch.get_unwrapped
_level = torch._C._functorch.maybe_current_level


@torch.no_grad()
def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite. One synchronisation per device."""
    plain = [tensor.detach() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    if _level() is None:
        dense = [tensor for tensor in plain if tensor.layout is not torch.strided or tensor.is_contiguous()]
        others = [tensor for tensor in plain if tensor.layout is torch.strided and not tensor.is_contiguous()]
        # The multi-tensor kernel writes what it reads, which must not happen to an expanded tensor.
        return all_finite(dense) and all(bool(torch.isfinite(tensor).all()) for tensor in others)
    with torch._C._DisableFuncTorch():
        return all(bool(torch.isfinite(values_of(innermost(tensor))).all()) for tensor in plain)


def layers(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor, and one after the other what ``torch.func`` has wrapped in it."""
    yield tensor
    while _wrapped(tensor):
        tensor = _unwrapped(tensor)
        yield tensor


def innermost(tensor: Tensor) -> Tensor:
    """The tensor inside the wrappers of ``torch.func``."""
    while _wrapped(tensor):
        tensor = _unwrapped(tensor)
    return tensor


@torch.no_grad()
def largest(tensors: Iterable[Tensor]) -> float:
    """The largest magnitude of all numbers, which have to be finite.

    One synchronisation per device, or per tensor inside ``torch.func``.
    """
    plain = [tensor.detach() for tensor in tensors]
    with torch._C._DisableFuncTorch():
        values = (values_of(innermost(tensor)) for tensor in plain)
        norms = [torch.linalg.vector_norm(value, math.inf) for value in values if value.numel()]
        if _level() is None:
            devices = {norm.device for norm in norms}
            norms = [torch.stack([n for n in norms if n.device == device]).max() for device in devices]
        return max(map(float, norms), default=0.0)


def differentiated_further(outputs: Sequence[Tensor | GradientEdge]) -> bool:
    """Whether gradients of ``outputs`` may be differentiated again: ``torch.func`` always creates a graph of them."""
    if torch._C._functorch.maybe_current_level() is None:
        return True
    keys = [interpreter.key() for interpreter in torch._C._functorch.get_interpreter_stack() or ()]
    inner = [innermost(output) for output in outputs if isinstance(output, Tensor)]
    return keys.count(torch._C._functorch.TransformType.Grad) > 1 or any(t.requires_grad for t in inner)
