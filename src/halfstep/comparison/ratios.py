"""Ratios to the baseline, with intervals: speed, memory and energy."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from halfstep.comparison.intervals import Interval, median_over_runs, ratio_of_means, ratio_of_medians
from halfstep.comparison.rows import measured, peak
from halfstep.meters import Absent, summary
from halfstep.trials import Outcome

#: how many times as fast as fp32 the fastest units for 16 bits or less compute products: tensor cores, AMX
FASTEST_UNITS = 16


def step_time(group: list[Outcome]) -> dict[str, Any] | None:
    """The median step with its interval, seconds: of one trial by order statistics, of several over their medians."""
    runs = [times for outcome in group if (times := measured(outcome))]
    if len(runs) > 1:
        over = median_over_runs(runs)
        return {"median": over.value, "low": over.low, "high": over.high, "unit": "s"}
    center = summary(runs[0]) if runs else None
    if center is None or isinstance(center, Absent):
        return None
    return {"median": center.median, "low": center.low, "high": center.high, "unit": "s"}


def speed_ratio(base: list[Outcome], group: list[Outcome]) -> dict[str, Any] | None:
    """How many times as fast as the baseline; None where either has no step to measure."""
    slow, fast = ([measured(o) for o in side if measured(o)] for side in (base, group))
    if not slow or not fast:
        return None
    ratio = ratio_of_medians(slow, fast)
    return _ratio_row(ratio, faster_words(ratio)) | {"runs": [len(slow), len(fast)]}


def speed_bound(base: Sequence[dict[str, Any]]) -> float | None:
    """How many times as fast as the baseline a precision can be at most; None where no trial was profiled.

    Amdahl's law: with a share p of the baseline's step in products, 1 / (p / 16 + (1 - p) / 2), as half the bytes make
    everything else twice as fast at most.
    """
    shares = [row["time_shares"].get("products", 0.0) for row in base if row.get("time_shares")]
    if not shares:
        return None
    products: float = sum(shares) / len(shares)
    return 1 / (products / FASTEST_UNITS + (1 - products) / 2)


def faster_words(ratio: Interval) -> str:
    """``1.90× faster``, ``1.20× slower`` or ``not significant``; without an interval nothing was tested."""
    if ratio.low is None:
        return "no interval"
    if not ratio.excludes_one:
        return "not significant"
    return f"{times(ratio.value)} faster" if ratio.value > 1 else f"{times(1 / ratio.value)} slower"


def times(ratio: float) -> str:
    """``1.43×``; of what is not one as many decimals, to four, as show it: ``1.003×``."""
    return f"{next((said for n in (2, 3) if float(said := f'{ratio:.{n}f}') != 1), f'{ratio:.4f}')}×"


def _ratio_row(ratio: Interval, words: str) -> dict[str, Any]:
    return {
        "value": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "significant": ratio.excludes_one,
        "words": words,
    }


def spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Median and range of the values that are known; of one value the range is not known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = (min(known), max(known)) if len(known) > 1 else (None, None)
    return {"median": median(known), "low": low, "high": high}


def _peaks(group: list[Outcome]) -> list[float]:
    rows = [peak([o.record, *o.ranks])["peak_memory_bytes"] for o in group]
    return [peak for peak in rows if peak]


def energy(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Joules a step over the trials: median and range; None where none were measured."""
    found = spread([row.get("joules_per_step") for row in rows])
    return None if found is None else found | {"unit": "J"}


def energy_ratio(base: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """This precision's joules a step over the baseline's, by :func:`ratio_of_means`."""
    theirs, ours = ([r["joules_per_step"] for r in side if r.get("joules_per_step")] for side in (base, rows))
    return _ratio_of_trials(ours, theirs, "energy")


def memory_ratio(base: list[Outcome], group: list[Outcome]) -> dict[str, Any] | None:
    """This precision's peak over the baseline's, by :func:`ratio_of_means`."""
    return _ratio_of_trials(_peaks(group), _peaks(base), "memory")


def _ratio_of_trials(ours: Sequence[float], theirs: Sequence[float], what: str) -> dict[str, Any] | None:
    if not ours or not theirs:
        return None
    ratio = ratio_of_means(ours, theirs)
    words = f"{times(ratio.value)} {what}" if ratio.excludes_one or ratio.low is None else "not significant"
    return _ratio_row(ratio, words)
