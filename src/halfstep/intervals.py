"""Medians and ratios of step times, with intervals that own up to what they cover.

Step times of one run hang together (a neighbour on the machine slows several in a row), and runs differ from one
another. So ratios get a hierarchical moving-block bootstrap: runs are drawn with replacement, and within each run
blocks of consecutive steps (Künsch 1989; Davison & Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval; the ends are None where the data cannot tell."""

    value: float
    low: float | None
    high: float | None

    @property
    def excludes_one(self) -> bool:
        """For a ratio: whether it differs from 1."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


def ratio_of_medians(
    numerator: Sequence[Sequence[float]], denominator: Sequence[Sequence[float]]
) -> Interval:
    """The ratio of two median step times, each over the steps of several runs.

    Args:
        numerator, denominator: one sequence of seconds a run, warm-up left out; no run empty.

    Returns:
        The ratio of the geometric means of the runs' medians, with its bootstrap percentile interval. With fewer
        than 8 steps in any run there is no interval.
    """
    import numpy as np

    value = _center(numerator) / _center(denominator)
    if min(len(run) for run in (*numerator, *denominator)) < 8:
        return Interval(value, None, None)
    random = np.random.default_rng(20180131)
    logs = _draws(numerator, random) - _draws(denominator, random)
    low, high = np.exp(np.quantile(logs, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Interval(value, float(min(low, value)), float(max(high, value)))


def _center(runs: Sequence[Sequence[float]]) -> float:
    import numpy as np

    return math.exp(float(np.mean([np.log(np.median(run)) for run in runs])))


def _draws(runs: Sequence[Sequence[float]], random: np.random.Generator) -> np.ndarray:  # type: ignore[name-defined] # noqa: F821
    """``DRAWS`` bootstrap values of the log of the center, shape [DRAWS]."""
    import numpy as np

    medians = np.stack([_block_medians(np.asarray(run), random) for run in runs])
    chosen = random.integers(len(runs), size=(len(runs), DRAWS))
    return np.log(medians[chosen, np.arange(DRAWS)]).mean(axis=0)


def _block_medians(run: np.ndarray, random: np.random.Generator) -> np.ndarray:  # type: ignore[name-defined] # noqa: F821
    """Medians of ``DRAWS`` moving-block resamples of one run, shape [DRAWS]."""
    import numpy as np

    n = len(run)
    length = max(1, round(n ** (1 / 2)))
    starts = random.integers(n - length + 1, size=(DRAWS, math.ceil(n / length)))
    indices = (starts[:, :, None] + np.arange(length)).reshape(DRAWS, -1)[:, :n]
    return np.median(run[indices], axis=1)


def mean_difference(pairs: Sequence[tuple[float, float]]) -> Interval:
    """The mean of ``b - a`` over pairs, with its paired-t interval; a single pair has none."""
    differences = [b - a for a, b in pairs]
    n = len(differences)
    mean = sum(differences) / n
    if n < 2:
        return Interval(mean, None, None)
    from scipy.stats import t

    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)
