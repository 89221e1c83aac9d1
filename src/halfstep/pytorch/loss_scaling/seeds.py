"""What a scaled backward pass starts from: the gradients of its outputs, times the scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from halfstep.pytorch.unseen import unseen

#: the smallest power of two that is taken for a loss scale, where a loss is multiplied by it
OWN_SCALE = 2.0**10


def as_tuple(tensors: Any) -> tuple[Any, ...]:
    return (tensors,) if isinstance(tensors, Tensor | GradientEdge) else tuple(tensors)


def given_seeds(outputs: Sequence[Any], seeds: Any) -> list[Tensor | None]:
    """The gradients that the script gives, one an output; None where it leaves one to PyTorch."""
    return [None] * len(outputs) if seeds is None else list(as_tuple(seeds))


def scaled_seeds(outputs: Sequence[Any], given: Sequence[Tensor | None], scale: float) -> list[Tensor | None]:
    """The gradients that the pass starts from; None where PyTorch is to complain about its absence."""
    if len(given) != len(outputs):  # PyTorch's to complain about
        return list(given)
    return [
        _implicit(output, scale) if seed is None else seed * scale
        for output, seed in zip(outputs, given, strict=True)
    ]


def _implicit(output: Any, scale: float) -> Tensor | None:
    """``scale`` for a real scalar, from which a pass may start without being told a gradient."""
    if isinstance(output, GradientEdge):
        output = _described(output)
        output = torch.empty(output.shape, dtype=output.dtype, device=output.device, requires_grad=True)
    starts = output.requires_grad and output.numel() == 1 and output.is_floating_point()
    return torch.full_like(output, scale) if starts else None


def ceiling_of(outputs: Iterable[Any]) -> float:
    """The largest scale under which a pass may start from 1 in each of ``outputs``: 2^15 in fp16, up to 65504."""
    return 2.0**15 if any(_described(output).dtype is torch.float16 for output in outputs) else math.inf


def _described(output: Tensor | GradientEdge) -> Any:
    """What has the output's shape, dtype and device."""
    return output.node._input_metadata[output.output_nr] if isinstance(output, GradientEdge) else output


def scaled_by_script(outputs: Sequence[Any]) -> bool:
    """Whether the script has multiplied the loss by a scale of its own, a large power of two, just before the pass.

    Other factors are weights of a loss. Read without a synchronisation: of a factor on a GPU it is not known.
    """
    node: Any = outputs[0].grad_fn if len(outputs) == 1 and isinstance(outputs[0], Tensor) else None
    if type(node).__name__ != "MulBackward0":
        return False
    try:
        factor = node._saved_other
    except RuntimeError:  # freed: PyTorch complains about that itself
        return False
    if factor is None or not factor.is_cpu or factor.numel() != 1 or factor.requires_grad:
        return False
    with unseen():  # a mode of the script's would be handed a number in place of the tensor
        value = factor.item()
    return value >= OWN_SCALE and math.frexp(value)[0] == 0.5
