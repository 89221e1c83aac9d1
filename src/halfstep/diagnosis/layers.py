"""One row per layer: the exponents of its weights, activations, gradients and updates, and what the precision does."""

from __future__ import annotations

from collections.abc import Sequence

from halfstep.diagnosis.events import KINDS, SIXTEEN_BIT, NumberKind
from halfstep.diagnosis.evidence import Case, Numbers
from halfstep.diagnosis.model import LayerPart, LayerRow, OverallScale, ScaleRange
from halfstep.diagnosis.shares import counted, serving, shares
from halfstep.precisions.formats import BlockFormat, get
from halfstep.precisions.loss_scale import NoScale

#: kinds that a loss scale multiplies
SCALED: tuple[NumberKind, ...] = ("gradients", "weight_gradients")


def layers(case: Case) -> list[LayerRow]:
    """A row for every module that has numbers, in the order of the forward pass."""
    order = dict.fromkeys([*case.tried.layers, *(case.reference.layers if case.reference else [])])
    return [_layer(case, module) for module in order]


def _layer(case: Case, module: str) -> LayerRow:
    numbers = case.numbers
    parts = {
        kind: _part(case, module, kind, numbers[module, kind]) for kind in KINDS if (module, kind) in numbers
    }
    return LayerRow(module, case.tried.kinds.get(module, ""), **parts, loss_scale=_range(case, module))


def _part(case: Case, module: str, kind: NumberKind, numbers: Numbers) -> LayerPart:
    rounding = case.tried.rounded.get((module, kind))
    format = case.format_of(module, kind) if rounding is None else rounding.format
    scale = case.tried.scale if kind in SCALED else 1.0
    found = shares(numbers, format, scale) if rounding is None else counted(rounding)
    return LayerPart(
        format=format,
        scaled=rounding is not None and _has_scales(format),
        scale=scale,
        **vars(found),
        largest=numbers.largest,
        zeros=numbers.zeros,
        exponents=dict(sorted(numbers.counts.items())),
        elements=numbers.elements,
        counted=numbers.counted,
    )


def _has_scales(format: str) -> bool:
    """Whether the format's scales follow the numbers, so that its range is not fixed."""
    row = get(format)
    return isinstance(row, BlockFormat) or row.bits <= 8


def _range(case: Case, module: str) -> ScaleRange | None:
    """The loss scales that serve this layer's gradients in the format they have.

    The gradients of its weights count, too: products give them, whose results are rounded to that format first.
    """
    format = case.format_of(module, "gradients")
    if format not in SIXTEEN_BIT:
        return None
    counted = [numbers for kind in SCALED if (numbers := case.numbers.get((module, kind))) is not None]
    found = [scales for numbers in counted if (scales := serving(numbers, format)) is not None]
    if not found:
        return None
    return ScaleRange(max(low for low, _ in found), min(high for _, high in found))


def overall(case: Case, rows: Sequence[LayerRow]) -> OverallScale | None:
    """The loss scale that serves every layer: half of the highest that all of them bear, so that it can grow."""
    ranges = [row.loss_scale for row in rows if row.loss_scale]
    if not ranges or (isinstance(case.recipe.loss_scale, NoScale) and case.recipe.compute != "fp16"):
        return None
    low, high = max(r.low for r in ranges), min(r.high for r in ranges)
    return OverallScale(low, high, low <= high, max(min(high / 2, 2.0**24), 2.0**-24))
