"""Records of watched trials -> findings: what is wrong numerically, where it began, and what mends it."""

from __future__ import annotations

from halfstep.diagnosis.evidence import Case, Evidence
from halfstep.diagnosis.layers import layers, overall
from halfstep.diagnosis.model import SCHEMA as SCHEMA
from halfstep.diagnosis.model import Diagnosis
from halfstep.diagnosis.rules import RULES
from halfstep.precisions.recipes import parse
from halfstep.record import Record


def diagnose(precision: str, tried: Record, reference: Record | None) -> Diagnosis:
    """What the watched trial of a precision shows, beside the same training in fp32 where that could be run.

    Findings, the worst first, layers, and the loss scales that serve them; the rest of the diagnosis is left empty.
    """
    case = Case(parse(precision), Evidence.of(tried), Evidence.of(reference) if reference else None)
    found = sorted((f for rule in RULES for f in rule(case)), key=lambda finding: -finding.severity)
    rows = layers(case)
    return Diagnosis(
        precision=precision, findings=tuple(found), layers=tuple(rows), loss_scale=overall(case, rows)
    )
