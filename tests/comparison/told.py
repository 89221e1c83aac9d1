"""The advice as JSON has it, for rows as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halfstep import codec
from halfstep.comparison.model import Fit, PrecisionRow, Prefer
from halfstep.report.words import advice


def recommend(
    verdicts: Sequence[Mapping[str, Any]], prefer: Prefer = "speed", fit: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``recommendation`` of a comparison with these ``verdicts`` and this ``fit_batch``."""
    rows = [codec.read(PrecisionRow, verdict) for verdict in verdicts]
    batches = None if fit is None else codec.read(Fit, fit)
    found: dict[str, Any] = codec.write(advice.recommend(rows, prefer=prefer, fit=batches))
    return found
