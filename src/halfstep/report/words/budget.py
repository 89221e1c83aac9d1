"""A comparison with ``--budget`` in words: what is open, why it ended, why a precision was dropped."""

from __future__ import annotations

from dataclasses import replace

from halfstep.comparison.advice.evidence import ratio_of
from halfstep.comparison.model.budget import Budget, Drop, End, Standing
from halfstep.comparison.model.recommendation import Prefer, Recommendation
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.report import units
from halfstep.report.words.ratios import ends, times
from halfstep.words.plural import count

#: what to do where a comparison with a budget leaves something open
MORE_TIME = "go on with --resume and --budget"

_ENDS: dict[End, str] = {
    "certain": "every verdict is certain",
    "time": "the time is used up, or too short for the next look",
    "out_of_reach": "the open questions would take more time than is left",
    "plan": "the largest plan is used up",
    "interrupted": "interrupted; the verdicts before that hold",
}


def drop_words(row: PrecisionRow, drop: Drop, prefer: Prefer) -> str:
    """Why a precision was not run again, with the figure that shows it."""
    if drop == "worse":
        return f"certainly worse ({row.quality.words})"
    if drop == "stands_still":
        return "its loss stands still while the baseline's falls"
    if drop == "no_units":
        return f"cannot be faster: its products are computed in {'software' if row.ran.software else 'fp32 units'} here"
    said = {
        "loses": "certainly loses",
        "no_gain": "certainly gains too little to matter",
        "beaten": "certainly gains less than another precision that is as good",
    }
    return f"{said[drop]} ({_interval(row, prefer)})"


def _interval(row: PrecisionRow, prefer: Prefer) -> str:
    name = "speed" if prefer == "accuracy" else prefer
    ratio = ratio_of(row, prefer)
    if ratio is None or ratio.low is None or ratio.high is None:
        return f"{name} not measured"
    if ratio.low == ratio.high:
        return f"{times(ratio.value)} {name} in every trial"
    return f"{times(ratio.value)} {name}, from {ends(ratio.value, ratio.low, ratio.high)}"


def standing_words(standing: Standing, prefer: Prefer) -> str:
    """What is open about a precision, and how long it would take; empty if nothing is."""
    if not standing.open:
        return ""
    gain = "speed" if prefer == "accuracy" else prefer
    what = " and ".join(gain if question == "gain" else "quality" for question in standing.open)
    if standing.needed is None:
        return f"{standing.precision}: {what} open, and at this noise the largest plan is not enough"
    more = standing.needed - standing.pairs
    lasts = "" if standing.seconds is None else f" ({units.duration(standing.seconds)})"
    return f"{standing.precision}: {what} open, about {count(more, 'more pair')} of trials{lasts}"


def open_words(budget: Budget, prefer: Prefer) -> str:
    """What is open, in one line; empty until every precision has run, as the baseline may still be missing."""
    standings = () if budget.not_run else budget.standings
    return "; ".join(said for s in standings if (said := standing_words(s, prefer)))


def end_words(budget: Budget) -> str:
    """Why the comparison ended, in a sentence."""
    why = "the time is used up" if budget.not_run and budget.end == "time" else _ENDS[budget.end]
    return f"Stopped: {why}."


def not_run_words(budget: Budget) -> str:
    """``fp32 and fp16 have not run yet``."""
    return f"{' and '.join(budget.not_run)} {'has' if len(budget.not_run) == 1 else 'have'} not run yet"


def no_verdict(recommendation: Recommendation, budget: Budget) -> Recommendation:
    """The recommendation if a precision, which may be the baseline, has not run: no verdict."""
    head, why = "No verdict", f"{not_run_words(budget)}."
    return replace(recommendation, text=f"{head}: {why}", headline=head, because=why)


def more_time(budget: Budget) -> float | None:
    """Seconds after which nothing would be open at the noise seen; None if that is not known, or never."""
    if budget.not_run:
        return None
    known = [s.seconds for s in budget.standings if s.open and s.seconds]
    return max(known, default=None)


def steps_words(steps: int, cut: bool) -> str:
    """For how many steps the verdicts hold; if ``--steps`` cut the program short, also how to compare later steps."""
    later = "; for later ones, start the program from a checkpoint by its own option, and compare from there"
    return f"The verdicts hold for the first {count(steps, 'step')}{later * cut}."
