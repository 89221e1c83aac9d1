"""Emulated products and convolutions, and their gradients, built from the operations of ``library``.

For c = a b, with f the forward format and g the gradients'::

    c = f(a) f(b)        da = g(dc) f(b)^T        db = f(a)^T g(dc)

where each operand is rounded along the axis over which *its* product sums. A rounded operand passes its gradient on
unchanged (straight through). A bias and its gradient are not rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halfstep.precisions.formats import BlockFormat, get
from halfstep.pytorch.emulation.forward import along, moving, point
from halfstep.pytorch.emulation.library import ops as _ops


@dataclass(frozen=True)
class Emulation:
    """The formats to which operands are rounded."""

    precision: str  #: the recipe's name
    forward: str  #: the format of operands in the forward pass; empty if they are already rounded
    gradients: str  #: the format of the gradients that products get in the backward pass

    @property
    def blocks(self) -> bool:
        """Whether scales belong to blocks, so that each product needs its own rounding of an operand."""
        return bool(self.forward) and isinstance(get(self.forward), BlockFormat)

    @property
    def rounded(self) -> Emulation:
        """The same for operands that are already rounded."""
        return Emulation(self.precision, "", self.gradients)

    def operand(self, x: Tensor, axis: int) -> Tensor:
        """x in the forward format; the gradient passes straight through."""
        return _straight_through(x, self.forward, axis) if self.forward else x

    def gradient(self, x: Tensor, axis: int) -> Tensor:
        """x in the gradients' format."""
        return _straight_through(x, self.gradients, axis, True)


def _single_level(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` for use inside a kernel, where torch.func has unwrapped its level already."""
    from torch._functorch.utils import enable_single_level_autograd_function

    raw = super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def apply(*args: Any) -> Any:
        if not torch._C._are_functorch_transforms_active():
            return raw(*args)
        with enable_single_level_autograd_function():
            return raw(*args)

    return apply


def _trains(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


class _Straight(torch.autograd.Function):
    """Rounding whose gradient is that of x itself (Bengio et al. 2013, arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, format: str, axis: int, gradient: bool) -> Tensor:
        rounded: Tensor = _ops.round(x, format, axis, gradient)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0], None, None, None


_apply_straight = _single_level(_Straight)


def _straight_through(x: Tensor, format: str, axis: int, gradient: bool = False) -> Tensor:
    apply = _apply_straight if _trains(x) else _ops.round
    rounded: Tensor = apply(x, format, axis, gradient)
    return rounded


def product(
    e: Emulation, bias: Tensor | None, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1
) -> Tensor:
    """beta * bias + alpha * f(a) f(b): a of shape (m, k) or (batch, m, k), b (k, n) or (batch, k, n)."""
    if moving(bias, a, b):
        return along(
            (bias, a, b),
            lambda bias, a, b: product(e, bias, a, b, beta, alpha),
            (
                lambda t: (beta * t).expand(*a.shape[:-1], b.shape[-1]),
                lambda t: product(e, None, t, point(b), 1, alpha),
                lambda t: product(e, None, point(a), t, 1, alpha),
            ),
        )
    if not e.blocks:
        # one rounding serves the forward and the backward product
        a, b, e = e.operand(a, -1), e.operand(b, -2), e.rounded
    if _trains(bias, a, b):
        result: Tensor = _apply_product(bias, a, b, beta, alpha, e)
        return result
    return _forward_product(e, bias, a, b, beta, alpha)


def _forward_product(
    e: Emulation, bias: Tensor | None, a: Tensor, b: Tensor, beta: float, alpha: float
) -> Tensor:
    result: Tensor = _ops.product(bias, e.operand(a, -1), e.operand(b, -2), beta, alpha, e.precision)
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, bias: Tensor | None, a: Tensor, b: Tensor, beta: float, alpha: float, e: Emulation
    ) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.rest = (None if bias is None else bias.shape, beta, alpha, e)
        return _forward_product(e, bias, a, b, beta, alpha)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (a, b), (bias_shape, beta, alpha, e) = gradients, ctx.saved_tensors, ctx.rest
        for_bias, for_a, for_b = ctx.needs_input_grad[:3]
        bias = None if not for_bias else slope.sum_to_size(bias_shape)
        if bias is not None and beta != 1:
            bias = bias * beta
        if e.blocks:
            first = (
                product(e.rounded, None, e.gradient(slope, -1), e.operand(b.mT, -2), 1, alpha)
                if for_a
                else None
            )
            second = (
                product(e.rounded, None, e.operand(a.mT, -1), e.gradient(slope, -2), 1, alpha)
                if for_b
                else None
            )
            return bias, first, second, None, None, None
        rounded = e.gradient(slope, -1) if for_a or for_b else slope
        first = product(e, None, rounded, b.mT, 1, alpha) if for_a else None
        second = product(e, None, a.mT, rounded, 1, alpha) if for_b else None
        return bias, first, second, None, None, None


_apply_product = _single_level(_Product)


def convolution(e: Emulation, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """f(x) * f(weight) + bias, as ``aten::convolution``: x (batch, channels, …).

    Blocks run over channels, which lie side by side in matrix units, and for the weight's gradient over the batch.
    """
    if moving(x, weight, bias):
        return along(
            (x, weight, bias),
            lambda x, weight, bias: convolution(e, x, weight, bias, *geometry),
            (
                lambda t: convolution(e, t, point(weight), None, *geometry),
                lambda t: convolution(e, point(x), t, None, *geometry),
                lambda t: t.view(-1, *[1] * (x.dim() - 2)),
            ),
        )
    if not e.blocks:
        x, weight, e = e.operand(x, 1), e.operand(weight, 1), e.rounded
    if _trains(x, weight, bias):
        result: Tensor = _apply_convolution(x, weight, bias, geometry, e)
        return result
    return _forward_convolution(e, x, weight, bias, geometry)


def _weight_axes(geometry: Sequence[Any]) -> tuple[int, int]:
    """The weight's axes of input and output channels: (out, in, …), or (in, out, …) for a transposed convolution."""
    return (0, 1) if geometry[3] else (1, 0)


def _forward_convolution(
    e: Emulation, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[Any]
) -> Tensor:
    inputs, _ = _weight_axes(geometry)
    result: Tensor = _ops.convolution(
        e.operand(x, 1), e.operand(weight, inputs), bias, *geometry, e.precision
    )
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[Any], e: Emulation
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rest = (geometry, e)
        return _forward_convolution(e, x, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (x, weight), (geometry, e) = gradients, ctx.saved_tensors, ctx.rest
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        bias = slope.sum([0, *range(2, slope.dim())]) if for_bias else None
        if not e.blocks:
            found = _convolution_gradients(e, e.gradient(slope, 1), x, weight, geometry, for_x, for_weight)
            return (*found, bias, None, None)
        _, outputs = _weight_axes(geometry)
        first = second = None
        if for_x:
            rounded = e.gradient(slope, 1), x, e.operand(weight, outputs)
            first, _ = _convolution_gradients(e, *rounded, geometry, True, False)
        if for_weight:
            rounded = e.gradient(slope, 0), e.operand(x, 0), weight
            _, second = _convolution_gradients(e, *rounded, geometry, False, True)
        return first, second, bias, None, None


_apply_convolution = _single_level(_Convolution)


def _convolution_gradients(
    e: Emulation,
    slope: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Sequence[Any],
    for_x: bool,
    for_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Both gradients, of operands that are already rounded; None for one that is not wanted."""
    if not for_x and not for_weight:
        return None, None
    if _trains(
        slope, x, weight
    ):  # a second derivative: PyTorch's own formula, in which products are emulated again
        found = list(
            torch.ops.aten.convolution_backward(
                slope, x, weight, None, *geometry, [for_x, for_weight, False]
            )[:2]
        )
        return found[0], found[1]
    found = _ops.convolution_backward(slope, x, weight, *geometry, [for_x, for_weight], e.precision)
    return (found.pop(0) if for_x else None), (found.pop(0) if for_weight else None)
