"""The advice as JSON has it, for rows as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halfstep import codec
from halfstep.comparison.advice import recommend as advice
from halfstep.comparison.model.fit import Fit
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.statistics.tolerance import Tolerance
from halfstep.comparison.verdicts import verdicts
from halfstep.report.words.advice import worded
from halfstep.report.words.comparison import worded_rows
from halfstep.trials import Outcome


def recommend(
    verdicts: Sequence[Mapping[str, Any]],
    prefer: Prefer = "speed",
    fit: Mapping[str, Any] | None = None,
    by_budget: bool = False,
) -> dict[str, Any]:
    """``recommendation`` of a comparison with these ``verdicts`` and this ``fit_batch``, perhaps one with a budget."""
    rows = [codec.read(PrecisionRow, verdict) for verdict in verdicts]
    batches = None if fit is None else codec.read(Fit, fit)
    told = advice.recommend(rows, prefer=prefer, fit=batches)
    found: dict[str, Any] = codec.write(worded(told, advice.advise(rows, prefer, batches, by_budget)))
    return found


def told_rows(
    outcomes: Sequence[Outcome], rows: Sequence[TrialRow], tolerance: Tolerance | None = None
) -> list[dict[str, Any]]:
    """The verdicts on trials, with their words, as JSON has them."""
    found: list[dict[str, Any]] = codec.write(worded_rows(verdicts(outcomes, rows, tolerance), rows))
    return found
