"""Medians and ratios of step times, with honest intervals.

Step times within a run are correlated (other work slows several steps in a row), and runs differ from one another. The
spread within a run is estimated by a moving-block bootstrap (Künsch 1989; Davison & Hinkley 1997, section 3.8), which
draws blocks of consecutive steps; the spread between runs by Student's t of the runs' medians, as a few runs are too
few for a bootstrap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

#: resamples of a run: 200 are enough for a standard error (Efron & Tibshirani 1993, section 6.4)
DRAWS = 250
LEVEL = 0.95

#: the fewest steps of a run after its warm-up for a bootstrap
FEWEST_STEPS = 8

#: advice never asks for more runs than this
MOST_RUNS = 30


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval; the ends are None if there is no interval."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def around(cls, value: float, half: float) -> Interval:
        """``half`` on either side of the value's logarithm."""
        return cls(value, value * math.exp(-half), value * math.exp(half))

    @property
    def excludes_one(self) -> bool:
        """For a ratio: whether it differs from 1."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


class Times(tuple[float, ...]):
    """Seconds of the steps of one run; its statistics, which need at least one step, are computed once."""

    @functools.cached_property
    def log_median(self) -> float:
        """The logarithm of the median."""
        return math.log(median(self))

    @functools.cached_property
    def error(self) -> float:
        """The standard error of :attr:`log_median`, by ``DRAWS`` moving-block resamples."""
        import numpy as np

        n = len(self)
        length = max(1, round(n ** (1 / 2)))
        starts = np.random.default_rng(20180131).integers(n - length + 1, size=(DRAWS, math.ceil(n / length)))
        # Ranks instead of values: small integers are drawn and partitioned several times as fast.
        values = np.array(self)
        order = np.argsort(values)
        ranks = np.empty(n, np.uint16 if n <= 2**16 else np.uint32)
        ranks[order] = np.arange(n)
        middle = [(n - 1) // 2, n // 2]
        blocks = np.lib.stride_tricks.sliding_window_view(ranks, length)
        drawn = blocks[starts].reshape(DRAWS, -1)[:, :n]
        drawn.partition(middle, axis=1)
        return float(np.log(values[order][drawn[:, middle]].mean(axis=1)).std())


def ratio_of_medians(numerator: Sequence[Times], denominator: Sequence[Times]) -> Interval:
    """The ratio of two median step times, each over the steps of several runs.

    Args:
        numerator, denominator: the runs of each side, warm-up left out.

    Returns:
        The ratio of the geometric means of the runs' medians, with its 95 % interval, computed on the logarithm: by t
        of the runs' medians, and never narrower than the bootstrap within the runs gives. There is no interval with
        one run on a side, as then it is not known how runs differ (other load may have slowed a whole run), or with
        fewer than :data:`FEWEST_STEPS` steps in any run.
    """
    value = _center(numerator) / _center(denominator)
    too_few = min(len(run) for run in (*numerator, *denominator)) < FEWEST_STEPS
    if too_few or min(len(numerator), len(denominator)) < 2:
        return Interval(value, None, None)
    within = math.hypot(_error_of_steps(numerator), _error_of_steps(denominator))
    error = max(within, math.hypot(_error_of_runs(numerator), _error_of_runs(denominator)))
    return Interval.around(value, t_quantile(len(numerator) + len(denominator) - 2) * error)


def median_over_runs(runs: Sequence[Times]) -> Interval:
    """The step time of two or more runs: the geometric mean of their medians, so that ratios are quotients of these.

    Its 95 % interval is as in :func:`ratio_of_medians`, with one degree of freedom less than runs.
    """
    value = _center(runs)
    if min(map(len, runs)) < FEWEST_STEPS:
        return Interval(value, None, None)
    error = max(_error_of_steps(runs), _error_of_runs(runs))
    return Interval.around(value, t_quantile(len(runs) - 1) * error)


def ratio_of_means(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """The ratio of two geometric means of positive figures, one per trial, with its 95 % interval.

    Welch's unpooled t interval (1947) of the difference of the mean logarithms:
    freedom = (a + b)^2 / (a^2 / (n - 1) + b^2 / (m - 1)), a and b the squared standard errors of n and m trials.
    Figures without any spread have an interval of width 0; with one trial on a side there is no interval.

    Example: (2, 2) over (1, 1) is 2, from 2 to 2.
    """
    sides = [[math.log(x) for x in side] for side in (numerator, denominator)]
    means = [math.fsum(side) / len(side) for side in sides]
    value = math.exp(means[0] - means[1])
    if min(map(len, sides)) < 2:
        return Interval(value, None, None)
    errors = [
        math.fsum((x - mean) ** 2 for x in side) / (len(side) - 1) / len(side)
        for side, mean in zip(sides, means, strict=True)
    ]
    # Equal logarithms may differ by their rounding: that is no spread.
    if sum(errors) < 1e-28:
        return Interval(value, value, value)
    parts = [error**2 / (len(side) - 1) for error, side in zip(errors, sides, strict=True)]
    half = t_quantile(sum(errors) ** 2 / sum(parts)) * math.sqrt(sum(errors))
    return Interval.around(value, half)


def runs_to_tell(ratio: Interval, runs: int, worth: float) -> int | None:
    """How many runs per side would show that a ratio is above 1, or that it is below ``worth``.

    Half the interval of the logarithm is t(2n - 2) * s / sqrt(n) for n runs per side; s and the ratio are assumed to
    stay the same.

    Args:
        ratio: a ratio with an interval.
        runs: how many runs it rests on, per side, 2 or more.
        worth: the least ratio that matters, above 1.

    Returns:
        The least such number above ``runs``; None if that is more than :data:`MOST_RUNS`.
    """
    if ratio.low is None or ratio.high is None:
        raise ValueError("the ratio has no interval that shows the spread")
    half = math.log(ratio.high / ratio.low) / 2
    spread = half / t_quantile(2 * runs - 2) * math.sqrt(runs)
    value = math.log(ratio.value)
    enough = max(abs(value), math.log(worth) - value)
    return next(
        (n for n in range(runs + 1, MOST_RUNS + 1) if t_quantile(2 * n - 2) * spread / math.sqrt(n) < enough),
        None,
    )


def t_quantile(freedom: float, q: float = (1 + LEVEL) / 2) -> float:
    """The quantile ``q`` of Student's t; by default that of the upper end of a two-sided interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, q))


def _center(runs: Sequence[Times]) -> float:
    return math.exp(fmean(run.log_median for run in runs))


def _error_of_runs(runs: Sequence[Times]) -> float:
    """The standard error of the mean log median, from how the runs differ."""
    return stdev(run.log_median for run in runs) / math.sqrt(len(runs))


def _error_of_steps(runs: Sequence[Times]) -> float:
    """The standard error of the mean log median, from the steps within the runs."""
    return math.hypot(*(run.error for run in runs)) / len(runs)
