"""Records of watched trials -> findings: what is wrong numerically, where it began, and what mends it."""

from __future__ import annotations

from typing import Any

from halfstep.diagnosis.evidence import Case, Evidence
from halfstep.diagnosis.layers import layers, overall
from halfstep.diagnosis.model import SCHEMA as SCHEMA
from halfstep.diagnosis.rules import RULES
from halfstep.recipes import parse
from halfstep.record import Record


def diagnose(precision: str, tried: Record, reference: Record | None) -> dict[str, Any]:
    """What the watched trial of a precision shows, beside the same training in fp32 where that could be run.

    Returns:
        ``findings``, worst first, ``layers`` and ``loss_scale``: the part of ``diagnose --json`` that is measured.
    """
    case = Case(parse(precision), Evidence.of(tried), Evidence.of(reference) if reference else None)
    found = sorted((f for rule in RULES for f in rule(case)), key=lambda finding: -finding.severity)
    rows = layers(case)
    return {
        "findings": [finding.row() for finding in found],
        "layers": rows,
        "loss_scale": overall(case, rows),
    }
