"""Records of watched trials -> findings: what is wrong numerically, where it began, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

from halfstep.diagnosis.evidence import Case, Evidence
from halfstep.diagnosis.layers import layers, overall
from halfstep.diagnosis.model import SCHEMA as SCHEMA
from halfstep.diagnosis.model import FindingRow, LayerRow, OverallScale
from halfstep.diagnosis.rules import RULES
from halfstep.precisions.recipes import parse
from halfstep.record import Record


@dataclass(frozen=True)
class Diagnosed:
    """What was measured: findings, the worst first, layers, and the loss scales that serve them."""

    findings: tuple[FindingRow, ...]
    layers: tuple[LayerRow, ...]
    loss_scale: OverallScale | None


def diagnose(precision: str, tried: Record, reference: Record | None) -> Diagnosed:
    """What the watched trial of a precision shows, beside the same training in fp32 where that could be run."""
    case = Case(parse(precision), Evidence.of(tried), Evidence.of(reference) if reference else None)
    found = sorted((f for rule in RULES for f in rule(case)), key=lambda finding: -finding.severity)
    rows = layers(case)
    return Diagnosed(tuple(finding.row() for finding in found), tuple(rows), overall(case, rows))
