"""One row a layer: for weights, activations, gradients and updates, exponents and what the precision does."""

from __future__ import annotations

from typing import Any

from halfstep.diagnosis.evidence import KINDS, Case, Numbers
from halfstep.diagnosis.shares import counted, serving, shares
from halfstep.formats import BlockFormat, get
from halfstep.loss_scale import NoScale

#: kinds that a loss scale multiplies
SCALED = ("gradients", "weight_gradients")


def layers(case: Case) -> list[dict[str, Any]]:
    """A row for every module that has numbers, in the order of the forward pass."""
    order = dict.fromkeys([*case.tried.layers, *(case.reference.layers if case.reference else [])])
    return [_layer(case, module) for module in order]


def _layer(case: Case, module: str) -> dict[str, Any]:
    numbers = case.numbers
    row: dict[str, Any] = {"module": module, "type": case.tried.kinds.get(module, "")}
    for kind in KINDS:
        found = numbers.get((module, kind))
        row[kind] = None if found is None else _part(case, module, kind, found)
    row["loss_scale"] = _range(case, module)
    return row


def _part(case: Case, module: str, kind: str, numbers: Numbers) -> dict[str, Any]:
    rounding = case.tried.rounded.get((module, kind))
    format = case.format_of(module, kind) if rounding is None else rounding.format
    scale = case.tried.scale if kind in SCALED else 1.0
    found = shares(numbers, format, scale) if rounding is None else counted(rounding)
    return {
        "format": format,
        "scaled": rounding is not None and _has_scales(format),
        "scale": scale,
        "flushed": found.flushed,
        "subnormal": found.subnormal,
        "overflowing": found.overflowing,
        "lost": found.lost,
        "headroom": found.headroom,
        "largest": numbers.largest,
        "zeros": numbers.zeros,
        "exponents": {str(e): count for e, count in sorted(numbers.counts.items())},
        "elements": numbers.elements,
        "counted": numbers.counted,
    }


def _has_scales(format: str) -> bool:
    """Whether the format's scales follow the numbers, so that its range lies nowhere for good."""
    row = get(format)
    return isinstance(row, BlockFormat) or row.bits <= 8


def _range(case: Case, module: str) -> dict[str, float] | None:
    """The loss scales that serve this layer's gradients in the format they have.

    Those of its weights count, too: they are products, whose results are rounded to that format before they are stored.
    """
    format = case.format_of(module, "gradients")
    if format not in ("fp16", "bf16"):
        return None
    counted = [numbers for kind in SCALED if (numbers := case.numbers.get((module, kind))) is not None]
    found = [scales for numbers in counted if (scales := serving(numbers, format)) is not None]
    if not found:
        return None
    return {"low": max(low for low, _ in found), "high": min(high for _, high in found)}


def overall(case: Case, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The loss scale that serves every layer: a power of two below the highest that all bear, for growth."""
    ranges = [row["loss_scale"] for row in rows if row["loss_scale"]]
    if not ranges or (isinstance(case.recipe.loss_scale, NoScale) and case.recipe.compute != "fp16"):
        return None
    low, high = max(r["low"] for r in ranges), min(r["high"] for r in ranges)
    serves = low <= high
    return {"low": low, "high": high, "serves_all": serves, "advised": max(min(high / 2, 2.0**24), 2.0**-24)}
