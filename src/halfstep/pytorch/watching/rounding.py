"""Counts what an emulated format does to the operands of products, number by number, at their actual scales."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch
from torch import Tensor

from halfstep.precisions.formats import BlockFormat, Format, get
from halfstep.pytorch.emulation.operands import needs_scale, scale_exponent
from halfstep.pytorch.rounding.blocks import in_blocks
from halfstep.record.watched import OperandCounts


class Rounded(OperandCounts):
    """Counts of the operands of one kind in one module during the sampled step."""

    def add(self, x: Tensor, format: str, axis: int) -> None:
        """Add an operand; ``axis`` as in :func:`halfstep.pytorch.emulation.operands.round_operand`."""
        self.format = format
        y, element = in_units(x, get(format), axis)
        x = torch.where(torch.isfinite(x), x, 0).double().abs()
        y = torch.where(torch.isfinite(y), y, 0).double().abs()
        flushed = (x > 0) & (y <= float(element.flush_threshold))
        end = float(element.overflow_threshold)
        over = (y >= end) if element.overflows_at_threshold else (y > end)
        gone = torch.where(flushed, x, 0)
        self.nonzero += int((x > 0).sum())
        self.flushed += int(flushed.sum())
        self.subnormal += int(((y > 0) & (y < element.smallest_normal) & ~flushed).sum())
        self.overflowing += int(over.sum())
        self.magnitude += float(x.sum())
        self.lost += float(gone.sum())
        self.clamped += float(torch.where(over, x * (1 - element.largest / y), 0).sum())
        self._vectors(x, gone, axis)

    def _vectors(self, x: Tensor, gone: Tensor, axis: int) -> None:
        whole, part = _over_vectors(x, axis), _over_vectors(gone, axis)
        self.vectors += int((whole > 0).sum())
        self.emptied += float((part / whole.where(whole > 0, 1)).sum())

    def fields(self) -> dict[str, object]:
        """The fields of the record's event."""
        return asdict(self)


def in_units(x: Tensor, fmt: Format | BlockFormat, axis: int) -> tuple[Tensor, Format]:
    """x divided by the scales that the format gives it, in x's shape; and the format of the scaled numbers."""
    if isinstance(fmt, BlockFormat):
        elements, _ = in_blocks(x, fmt, axis)
        rows = elements.flatten(-2)[..., : x.shape[axis]]
        return rows.movedim(-1, axis), fmt.element
    if not needs_scale(fmt):
        return x, fmt
    top = torch.where(torch.isfinite(x), x, 0).abs().amax().item()
    return x.double() * math.ldexp(1.0, scale_exponent(top, fmt)), fmt


def _over_vectors(x: Tensor, axis: int) -> Tensor:
    """Sums over the numbers behind one result: a product's vectors (axis -1, -2), samples or filters otherwise."""
    if axis < 0:
        return x.sum(axis)
    return x.sum([d for d in range(x.dim()) if d != (0 if axis == 1 else 1)])
