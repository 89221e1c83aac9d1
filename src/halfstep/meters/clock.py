"""Step times: a monotonic clock, and a median with an interval that assumes no distribution."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

#: Seconds on a monotonic clock of the finest resolution; only differences mean anything.
now = time.perf_counter

CONFIDENCE = 0.95

#: With fewer samples even (minimum, maximum) covers the median with less than 95 %: 1 - 2 / 2^5 = 0.9375.
FEWEST_FOR_INTERVAL = 6


class Summary(NamedTuple):
    """Step times in seconds: the median, and its 95 % confidence interval (None below 6 samples)."""

    median: float
    low: float | None
    high: float | None


def summary(step_times: Sequence[float]) -> Summary:
    """The median of step times, one at least, with its 95 % confidence interval.

    The interval is [x_(k), x_(n-k+1)], order statistics with the largest k such that
    P(Binomial(n, 1/2) < k) <= 0.025; it holds for any distribution of independent steps.
    Below 6 samples no such interval exists, and low and high are None.

    Example: six steps give (median, smallest, largest), which covers with 1 - 2/2^6 = 96.9 %.

    Source: Hahn & Meeker, Statistical Intervals, Wiley 1991, section 5.2.
    """
    import statistics  # it imports `random`, which may be a module of the program's own

    times = sorted(step_times)
    median = statistics.median(times)
    if len(times) < FEWEST_FOR_INTERVAL:
        return Summary(median, None, None)
    k = interval_rank(len(times))
    return Summary(median, times[k - 1], times[-k])


def interval_rank(n: int) -> int:
    """The largest k >= 1 with P(Binomial(n, 1/2) < k) <= 0.025, for n >= 6."""
    from scipy.special import bdtrik

    return math.ceil(float(bdtrik((1.0 - CONFIDENCE) / 2.0, n, 0.5)))
