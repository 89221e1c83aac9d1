"""Ratios to the baseline, with intervals: speed, memory and energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from halfstep.comparison.model.figures import Ratio, Spread
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.rows import measured
from halfstep.comparison.statistics.intervals import (
    Interval,
    median_over_runs,
    ratio_of_means,
    ratio_of_medians,
)
from halfstep.meters import summary
from halfstep.trials import Outcome

#: how many times as fast as fp32 the fastest units for 16 bits or less compute products: tensor cores, AMX
FASTEST_UNITS = 16


def step_time(group: Sequence[Outcome]) -> Spread | None:
    """The median step in seconds with its interval: by order statistics for one trial, by the medians for several."""
    runs = [times for outcome in group if (times := measured(outcome))]
    if len(runs) > 1:
        over = median_over_runs(runs)
        return Spread(over.value, over.low, over.high, "s")
    if not runs:
        return None
    center = summary(runs[0])
    return Spread(center.median, center.low, center.high, "s")


def speed_ratio(base: Sequence[Outcome], group: Sequence[Outcome]) -> Ratio | None:
    """How many times as fast as the baseline; None if either has no step that counts."""
    slow, fast = ([measured(o) for o in side if measured(o)] for side in (base, group))
    if not slow or not fast:
        return None
    ratio = ratio_of_medians(slow, fast)
    return replace(_ratio_row(ratio), runs=(len(slow), len(fast)))


def speed_bound(base: Sequence[TrialRow]) -> float | None:
    """How many times as fast as the baseline a precision can be at most; None if no trial was profiled.

    Amdahl's law: if products take a share p of the baseline's step, 1 / (p / 16 + (1 - p) / 2). Everything else becomes
    at most twice as fast, as it reads and writes half the bytes.
    """
    shares = [row.time_shares.get("products", 0.0) for row in base if row.time_shares]
    if not shares:
        return None
    products: float = sum(shares) / len(shares)
    return 1 / (products / FASTEST_UNITS + (1 - products) / 2)


def _ratio_row(ratio: Interval) -> Ratio:
    return Ratio(ratio.value, ratio.low, ratio.high, ratio.excludes_one)


def spread(values: Sequence[float | None], unit: str | None = None) -> Spread | None:
    """Median and range of the known values; a single value has no range."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = (min(known), max(known)) if len(known) > 1 else (None, None)
    return Spread(median(known), low, high, unit)


def energy(rows: Sequence[TrialRow]) -> Spread | None:
    """Joules per step over the trials: median and range; None if none were measured."""
    return spread([row.joules_per_step for row in rows], "J")


def energy_ratio(base: Sequence[TrialRow], rows: Sequence[TrialRow]) -> Ratio | None:
    """This precision's joules per step over the baseline's, by :func:`ratio_of_means`."""
    return _ratio_of_trials(rows, base, lambda row: row.joules_per_step)


def memory_ratio(base: Sequence[TrialRow], rows: Sequence[TrialRow]) -> Ratio | None:
    """This precision's peak over the baseline's, by :func:`ratio_of_means`."""
    return _ratio_of_trials(rows, base, lambda row: row.peak_memory_bytes)


def _ratio_of_trials(
    rows: Sequence[TrialRow], base: Sequence[TrialRow], figure: Callable[[TrialRow], float | None]
) -> Ratio | None:
    ours, theirs = ([x for row in side if (x := figure(row))] for side in (rows, base))
    return _ratio_row(ratio_of_means(ours, theirs)) if ours and theirs else None
