"""The advice in one short sentence, for the top of a page."""

from __future__ import annotations

from halfstep.comparison.model import Comparison

#: rules that name no precision, or more than one; ``{}`` is the precision
_OF_RULE = {
    "nothing_ran": "No trial ran to its end",
    "unstable": "Stay with {} until the training is stable",
    "not_learning": "Debug in {} first",
    "continued": "No verdict",
}


def headline(comparison: Comparison) -> str:
    """``Use bf16``, ``Stay with fp32 for now``, ``Undecided``: what to do, without the reasons."""
    advice = comparison.recommendation
    if advice.rule in _OF_RULE:
        return _OF_RULE[advice.rule].format(advice.precision)
    if advice.precision is None:
        return "No precision to choose" if advice.rule == "ran_the_same" else "Undecided"
    if advice.precision == next((row.baseline for row in comparison.verdicts), None):
        what = f"Stay with {advice.precision}"
    else:
        what = "Keep what the script does" if advice.precision == "as-is" else f"Use {advice.precision}"
    return what if advice.decided else f"{what} for now"
