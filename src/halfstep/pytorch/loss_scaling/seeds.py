"""The gradients that a scaled backward pass starts from: those of its outputs, multiplied by the scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge


def as_tuple(tensors: Any) -> tuple[Any, ...]:
    return (tensors,) if isinstance(tensors, Tensor | GradientEdge) else tuple(tensors)


def given_seeds(outputs: Sequence[Any], seeds: Any) -> list[Tensor | None]:
    """The gradients that the script gives, one per output; None where PyTorch is to make one."""
    return [None] * len(outputs) if seeds is None else list(as_tuple(seeds))


def scaled_seeds(outputs: Sequence[Any], given: Sequence[Tensor | None], scale: float) -> list[Tensor | None]:
    """The gradients that the pass starts from; None where PyTorch has to raise because one is missing."""
    if len(given) != len(outputs):  # PyTorch will raise
        return list(given)
    return [
        _implicit(output, scale) if seed is None else seed * scale
        for output, seed in zip(outputs, given, strict=True)
    ]


def _implicit(output: Any, scale: float) -> Tensor | None:
    """``scale`` as the gradient of a real scalar, for which the script need not give one."""
    if isinstance(output, GradientEdge):
        output = _described(output)
        output = torch.empty(output.shape, dtype=output.dtype, device=output.device, requires_grad=True)
    starts = output.requires_grad and output.numel() == 1 and output.is_floating_point()
    return torch.full_like(output, scale) if starts else None


def ceiling_of(outputs: Iterable[Any]) -> float:
    """The largest scale under which a pass may start from 1 in each of ``outputs``: 2^15 in fp16, up to 65504."""
    return 2.0**15 if any(_described(output).dtype is torch.float16 for output in outputs) else math.inf


def _described(output: Tensor | GradientEdge) -> Any:
    """A tensor, or its description, with the output's shape, dtype and device."""
    return output.node._input_metadata[output.output_nr] if isinstance(output, GradientEdge) else output
