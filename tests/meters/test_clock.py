"""The interval of the median: against scipy's binomial, and its coverage by simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.stats

from halfstep.meters import clock
from halfstep.meters.clock import Summary, interval_rank, summary


@pytest.mark.parametrize("n", [*range(6, 400), 1000, 1001, 65_536, 1_000_001])
def test_rank_is_the_largest_that_still_covers(n: int) -> None:
    k = interval_rank(n)
    below = scipy.stats.binom(n, 0.5).cdf
    assert below(k - 1) <= 0.025 < below(k)


def test_ranks_of_the_printed_tables() -> None:
    # Conover, Practical Nonparametric Statistics, table A3: the sign test's critical values at 0.025, plus 1.
    assert [interval_rank(n) for n in (6, 8, 9, 10, 15, 20)] == [1, 1, 2, 2, 4, 6]


@pytest.mark.parametrize("distribution", ["lognormal", "standard_cauchy", "exponential"])
@pytest.mark.parametrize("n", [6, 11, 40])
def test_coverage(distribution: str, n: int) -> None:
    rng = np.random.default_rng(7)
    draw = getattr(rng, distribution)
    true = {"lognormal": 1.0, "standard_cauchy": 0.0, "exponential": np.log(2.0)}[distribution]
    trials = 4000
    covered = 0
    for row in draw(size=(trials, n)):
        found = summary(row.tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= true <= found.high
    exact = 1 - 2 * scipy.stats.binom(n, 0.5).cdf(interval_rank(n) - 1)
    assert exact >= 0.95
    # five standard deviations of a binomial share
    assert covered / trials == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / trials))


def test_few_samples() -> None:
    assert summary([3.0, 1.0, 2.0]) == Summary(2.0, None, None)
    assert summary([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == Summary(3.5, 1.0, 6.0)


def test_now_is_the_monotonic_clock() -> None:
    assert clock.now is time.perf_counter
