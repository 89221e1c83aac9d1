from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from halfstep.intervals import mean_difference, ratio_of_medians


def runs(random: np.random.Generator, center: float, count: int = 3, steps: int = 60) -> list[list[float]]:
    """Step times that hang together (AR(1), 0.5) around a run's own level, 2 % apart between runs."""
    found = []
    for _ in range(count):
        level = center * np.exp(0.02 * random.standard_normal())
        noise = np.zeros(steps)
        for i in range(1, steps):
            noise[i] = 0.5 * noise[i - 1] + 0.05 * random.standard_normal()
        found.append(list(level * np.exp(noise)))
    return found


def test_the_ratio_is_that_of_the_medians() -> None:
    ratio = ratio_of_medians([[2.0] * 20, [2.0] * 20], [[1.0] * 20])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert ratio.excludes_one


def test_too_few_steps_have_no_interval() -> None:
    ratio = ratio_of_medians([[2.0] * 7], [[1.0] * 20])
    assert (ratio.value, ratio.low, ratio.high) == (2.0, None, None)
    assert not ratio.excludes_one


def test_false_alarms_and_power() -> None:
    """200 comparisons of three runs each: equal speeds are called different seldom, 15 % is seen nearly always.

    Three runs are few for a percentile bootstrap: its alarms are nearer 10 than 5 %. Binomial bound at 200 draws of
    0.12: below 0.12 + 3 * sqrt(0.12 * 0.88 / 200) = 0.19.
    """
    random = np.random.default_rng(1)
    alarms = sum(ratio_of_medians(runs(random, 1.0), runs(random, 1.0)).excludes_one for _ in range(200))
    seen = sum(ratio_of_medians(runs(random, 1.15), runs(random, 1.0)).excludes_one for _ in range(50))
    assert alarms / 200 < 0.19
    assert seen / 50 > 0.9


def test_paired_differences_against_scipy() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal(6), random.standard_normal(6)
    ours = mean_difference(list(zip(a, b, strict=True)))
    theirs = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert ours.value == pytest.approx(float(np.mean(b - a)))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert mean_difference([(1.0, 2.0)]).low is None
