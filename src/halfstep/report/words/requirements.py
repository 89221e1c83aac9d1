"""Whether the requirements hold, one sentence each."""

from __future__ import annotations

from halfstep.comparison.advice.claims import ABSENT
from halfstep.comparison.advice.evidence import RATIOS
from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import Quality
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.requirements import NO_WORSE, Judged, Term
from halfstep.report import units
from halfstep.report.words.budget import MORE_TIME, not_run_words
from halfstep.report.words.ratios import ends, times


def requirement_words(judged: Judged, comparison: Comparison) -> str:
    """``bf16: speed >= 1.2 does not hold: it is 1.13× (95 % interval 1.08 to 1.18×).``"""
    asked = f"{judged.term.precision}: {_asked(judged.term)}"
    budget = comparison.budget
    if judged.evidence.table is None and judged.answer == "not_known" and budget is not None:
        return f"{asked} is not known to hold: {not_run_words(budget)}; {MORE_TIME}."
    if judged.evidence.table is None:
        return f"{asked} does not hold: {judged.term.precision} was not compared; name it in --precisions."
    row = comparison.verdicts[judged.evidence.row]
    said = {
        "holds": "holds",
        "fails": "does not hold",
        "not_known": "is not known to hold",
    }[judged.answer]
    return f"{asked} {said}: {_because(judged, row, budget is not None)}."


def _asked(term: Term) -> str:
    return NO_WORSE if term.what == NO_WORSE else f"{term.what} {term.sign} {term.bound:g}"


def _because(judged: Judged, row: PrecisionRow, by_budget: bool) -> str:
    if judged.evidence.field == "status":
        return f"it {units.status(row.status)}" + (f" ({row.reason})" if row.reason else "")
    if judged.term.what == NO_WORSE:
        return _quality(row.quality, by_budget)
    few = MORE_TIME if by_budget else "run with --repeats 6 or more"
    return _ratio(getattr(row, RATIOS[judged.term.what]), judged.term, row, few)


def _quality(quality: Quality, by_budget: bool) -> str:
    cure = f"; {MORE_TIME if by_budget else 'run with more --seeds'}, or name a --tolerance"
    return quality.words + (cure if quality.kind in ("one_seed", "no_difference_seen") else "")


def _ratio(ratio: Ratio | None, term: Term, row: PrecisionRow, few: str) -> str:
    if row.precision == row.baseline:
        return f"{row.precision} is the baseline"
    if ratio is None:
        why = getattr(row, ABSENT[term.what]) or "the baseline has no such figure"
        return f"it was not measured ({why})"
    if ratio.disturbed:
        return f"it is {times(ratio.value)}, but other work disturbed every trial"
    if ratio.low is None or ratio.high is None:
        return f"it is {times(ratio.value)}, of too few trials for an interval; {few}"
    return f"it is {times(ratio.value)} (95 % interval {ends(ratio.value, ratio.low, ratio.high)})"
