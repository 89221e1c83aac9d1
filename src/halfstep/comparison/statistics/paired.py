"""Tests of paired differences: one difference per seed, between a precision and the baseline on the same seed.

SciPy computes the distributions.

- difference: the paired t test and its 95 % interval (Student 1908)
- without assuming normal differences: all sign flips (Fisher 1935), and the interval of subset means (Hartigan 1969)
- equivalence: two one-sided t tests at 5 % (Schuirmann 1987)
- several precisions: Holm's step-down (1979)
- curves: a simultaneous band over the whole run, by the largest t of all sign flips (Westfall & Young 1993)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from halfstep.comparison.model.quality import ALPHA, Difference
from halfstep.comparison.statistics.intervals import t_quantile

#: the power for which a detectable difference is stated: it is seen in 4 of 5 cases
POWER = 0.8

#: numbers of seeds for which all sign flips are tried: with fewer no p value reaches 5 %; with more t is enough
EXACT_SEEDS = range(6, 15)

#: random sign flips of whole curves, where not all of them can be tried
FLIPS = 4096


def paired(differences: Sequence[float], margin: float | None = None, comparisons: int = 1) -> Difference:
    """The tests of these differences; with a single one only its value.

    Args:
        differences: ours minus the baseline's, one per seed.
        margin: a smaller difference does not matter; None: not known.
        comparisons: how many precisions are compared; the detectable difference takes them into account.
    """
    n, mean = len(differences), math.fsum(differences) / len(differences)
    if n < 2:
        return Difference(mean, seeds=n, margin=margin)
    error = _standard_error(differences, mean)
    half = t_quantile(n - 1, 1 - ALPHA / 2) * error
    found = Difference(
        mean,
        mean - half,
        mean + half,
        seeds=n,
        p=min(1.0, 2 * _upper_tail(abs(mean), error, n - 1)),
        detectable=error * noncentrality(n, ALPHA / max(1, comparisons)),
        power=POWER,
        bound=abs(mean) + t_quantile(n - 1, 1 - ALPHA) * error,
        margin=margin,
        p_equivalence=None if margin is None else _upper_tail(margin - abs(mean), error, n - 1),
    )
    return _with_exact(found, differences) if n in EXACT_SEEDS else found


def _standard_error(differences: Sequence[float], mean: float) -> float:
    n = len(differences)
    error = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    # If all differences are equal, this is only the rounding of their mean.
    return error if error > 1e-14 * abs(mean) else 0.0


def _upper_tail(value: float, error: float, freedom: int) -> float:
    """P(T >= value / error); 0, 1/2 or 1 if the error is 0."""
    from scipy.special import stdtr

    if error == 0:
        return 0.5 if value == 0 else float(value < 0)
    return float(stdtr(freedom, -value / error))


@functools.lru_cache
def noncentrality(n: int, alpha: float) -> float:
    """The difference, in standard errors, that a two-sided paired t test of ``n`` pairs sees at :data:`POWER`.

    To see it is to reject on the side where it is: at this power the other side is next to impossible.
    """
    from scipy.special import nctdtrinc

    return float(nctdtrinc(n - 1, 1 - POWER, t_quantile(n - 1, 1 - alpha / 2)))


def _with_exact(found: Difference, differences: Sequence[float]) -> Difference:
    """With the sign-flip test's p value, and the interval of the differences' means that it does not reject.

    Each gap between neighbours among the 2^n - 1 means of subsets holds the centre with probability 2^-n (Hartigan).
    """
    import numpy as np
    from scipy.stats import permutation_test

    n = len(differences)
    p = permutation_test(
        (np.asarray(differences),), np.mean, permutation_type="samples", vectorized=True, n_resamples=2**n
    ).pvalue
    sums, sizes = np.zeros(1), np.zeros(1)
    for difference in differences:
        sums, sizes = np.concatenate([sums, sums + difference]), np.concatenate([sizes, sizes + 1])
    means = np.sort(sums[1:] / sizes[1:])
    k = math.floor(ALPHA / 2 * 2**n)
    return replace(found, p_exact=float(p), exact_low=float(means[k - 1]), exact_high=float(means[-k]))


def noise_margin(values: Sequence[float], alpha: float = ALPHA) -> float | None:
    """The lower end of a one-sided interval (by default 95 %) of the baseline's standard deviation between seeds.

    sigma >= s sqrt((n - 1) / chi2(0.95, n - 1)). Few seeds estimate the deviation so loosely that with ``s`` itself as
    the margin, precisions exactly one deviation apart would be called equivalent in nearly half the cases.
    """
    n = len(values)
    if n < 2:
        return None
    from scipy.special import chdtri

    mean = math.fsum(values) / n
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return math.sqrt(variance * (n - 1) / float(chdtri(n - 1, alpha)))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values, in the order given; None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Band:
    """Mean differences of curves, one value per part of the run, with a simultaneous band for all parts."""

    mean: list[float]
    low: list[float]
    high: list[float]
    method: str

    @property
    def apart(self) -> list[int]:
        """The parts where the band excludes zero."""
        ends = zip(self.low, self.high, strict=True)
        return [i for i, (low, high) in enumerate(ends) if low > 0 or high < 0]


def band(curves: Sequence[Sequence[float]]) -> Band | None:
    """The band of difference curves, shape [seeds, parts]; None with fewer than two seeds.

    With 6 seeds or more the critical value is the 95 % quantile of the largest |t| over the parts when the signs of
    whole curves are flipped; with fewer no sign flip can reach 5 %, and it is Bonferroni's t.
    """
    import numpy as np

    d = np.asarray(curves, dtype=float)
    n, parts = d.shape
    if n < 2:
        return None
    mean, error = d.mean(axis=0), d.std(axis=0, ddof=1) / math.sqrt(n)
    if n < EXACT_SEEDS.start:
        critical, method = t_quantile(n - 1, 1 - ALPHA / 2 / parts), "paired t, Bonferroni"
    else:
        critical, method = _largest_t(d), "largest t of sign flips"
    return Band(mean.tolist(), (mean - critical * error).tolist(), (mean + critical * error).tolist(), method)


def _largest_t(d: Any) -> float:
    """The 95 % quantile of max |t| under sign flips of the rows of ``d``, shape [seeds, parts]."""
    import numpy as np

    n = len(d)
    if 2**n <= FLIPS:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(19931993).choice([-1.0, 1.0], size=(FLIPS, n))
    means = signs @ d / n
    # Flipping signs leaves the sum of squares as it is.
    errors = np.sqrt(np.maximum((d**2).mean(axis=0) - means**2, 0.0) / (n - 1))
    certain = np.where(means == 0, 0.0, np.inf)
    ts = np.divide(np.abs(means), errors, out=certain, where=errors > 0)
    return float(np.quantile(ts.max(axis=1), 1 - ALPHA, method="higher"))
