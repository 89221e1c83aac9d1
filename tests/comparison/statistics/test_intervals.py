from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from halfstep.comparison.statistics.intervals import (
    DRAWS,
    Interval,
    Times,
    median_over_runs,
    ratio_of_means,
    ratio_of_medians,
    runs_to_tell,
)


def runs(random: np.random.Generator, center: float, count: int = 3, steps: int = 60) -> list[Times]:
    """Step times that hang together (AR(1), 0.5) around a run's own level, 2 % apart between runs."""
    found = []
    for _ in range(count):
        level = center * np.exp(0.02 * random.standard_normal())
        noise = np.zeros(steps)
        for i in range(1, steps):
            noise[i] = 0.5 * noise[i - 1] + 0.05 * random.standard_normal()
        found.append(Times(level * np.exp(noise)))
    return found


def alike(*lengths: int, seconds: float) -> list[Times]:
    """Runs of so many steps that all take as long."""
    return [Times([seconds] * length) for length in lengths]


def test_the_ratio_is_that_of_the_medians() -> None:
    ratio = ratio_of_medians(alike(20, 20, seconds=2.0), alike(20, 20, seconds=1.0))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert ratio.excludes_one


def test_one_run_on_a_side_has_no_interval() -> None:
    """However many steps it made: all of them may have been slowed by the same other load."""
    for slow, fast in (((500,), (20,) * 5), ((20,) * 5, (500,))):
        ratio = ratio_of_medians(alike(*slow, seconds=2.0), alike(*fast, seconds=1.0))
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, None, None))
        assert not ratio.excludes_one


def test_too_few_steps_have_no_interval() -> None:
    ratio = ratio_of_medians(alike(7, 20, seconds=2.0), alike(20, 20, seconds=1.0))
    assert (ratio.value, ratio.low, ratio.high) == (2.0, None, None)
    assert not ratio.excludes_one
    assert ratio_of_medians(alike(8, 20, seconds=2.0), alike(8, 20, seconds=1.0)).low is not None


@pytest.mark.parametrize("count", [2, 5])
def test_false_alarms_and_power(count: int) -> None:
    """Equal speeds are called different in at most 5 % of 100 comparisons (three binomial deviations: 0.115).

    A difference of 15 % between runs that differ by 2 % is seen nearly always from three runs on.
    """
    random = np.random.default_rng(1)
    alarms = sum(
        ratio_of_medians(runs(random, 1.0, count), runs(random, 1.0, count)).excludes_one for _ in range(100)
    )
    seen = sum(
        ratio_of_medians(runs(random, 1.15, count), runs(random, 1.0, count)).excludes_one for _ in range(20)
    )
    assert alarms / 100 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)
    assert seen / 20 > (0.5 if count == 2 else 0.9)


def test_two_runs_that_happen_to_agree_are_not_certain() -> None:
    """The interval is never narrower than the steps within the runs allow."""
    random = np.random.default_rng(3)
    run = Times(np.exp(0.1 * random.standard_normal(30)))
    ratio = ratio_of_medians([run, run], [run, run])
    assert ratio.value == 1
    assert ratio.high is not None
    assert ratio.high > 1.03


@pytest.mark.parametrize(
    ("value", "s", "runs"), [(1.43, 0.2, 2), (1.11, 0.23, 5), (0.98, 0.07, 5), (1.0, 0.05, 2)]
)
def test_enough_runs_tell_and_one_fewer_does_not(value: float, s: float, runs: int) -> None:
    """Against SciPy's t: the runs asked for leave out 1, or a gain of ``worth``; one fewer leaves out neither."""
    worth = 1.05

    def interval(n: int) -> Interval:
        half = stats.t.ppf(0.975, 2 * n - 2) * s / np.sqrt(n)
        return Interval(value, value * np.exp(-half), value * np.exp(half))

    def tells(n: int) -> bool:
        found = interval(n)
        assert found.high is not None
        return found.excludes_one or found.high < worth

    enough = runs_to_tell(interval(runs), runs, worth)
    assert enough is not None
    assert enough > runs
    assert tells(enough)
    assert enough == runs + 1 or not tells(enough - 1)


def test_what_no_number_of_runs_would_tell_is_not_asked_for() -> None:
    assert runs_to_tell(Interval(1.025, 0.4, 2.6), 3, 1.05) is None


def test_enough_runs_are_more_than_there_were() -> None:
    assert runs_to_tell(Interval(2.0, 1.9, 2.1), 4, 1.05) == 5


def test_the_median_over_runs_has_students_interval_of_their_logarithms() -> None:
    """Steps that are all alike add nothing to how the runs differ."""
    medians = [1.0, 1.1, 1.3]
    found = median_over_runs([Times([median] * 20) for median in medians])
    logs = np.log(medians)
    low, high = stats.t.interval(0.95, 2, logs.mean(), logs.std(ddof=1) / np.sqrt(3))
    assert (found.value, found.low, found.high) == pytest.approx(tuple(np.exp([logs.mean(), low, high])))


def test_the_ratio_of_medians_has_students_interval_of_both_sides() -> None:
    sides = [[2.0, 2.2, 2.3], [1.0, 1.05]]
    found = ratio_of_medians(*([Times([median] * 20) for median in side] for side in sides))
    ours, theirs = map(np.log, sides)
    error = np.hypot(ours.std(ddof=1) / np.sqrt(3), theirs.std(ddof=1) / np.sqrt(2))
    ends = stats.t.interval(0.95, 3, ours.mean() - theirs.mean(), error)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(ends)))


@pytest.mark.parametrize(
    ("ours", "theirs"), [([1.0, 1.1, 1.3], [2.0, 2.1]), ([5.0, 9.0], [4.0, 4.1, 4.2, 4.0])]
)
def test_the_ratio_of_means_has_welchs_interval(ours: list[float], theirs: list[float]) -> None:
    test = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False)
    found = ratio_of_means(ours, theirs)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(test.confidence_interval(0.95))))


@pytest.mark.parametrize("n", [7, 16, 30, 301])
def test_each_resample_has_as_many_steps_as_the_run(n: int) -> None:
    """Blocks need not fit into a run: the last is cut. Of an even number of steps the median is a mean of two."""
    run = np.exp(np.random.default_rng(n).normal(0, 0.1, n)).round(2)  # some steps take as long as others
    length = round(math.sqrt(n))
    starts = np.random.default_rng(20180131).integers(n - length + 1, size=(DRAWS, math.ceil(n / length)))
    medians = [
        statistics.median(np.concatenate([run[s : s + length] for s in of_one])[:n]) for of_one in starts
    ]
    expected = np.log(medians).std()
    assert Times(run).error == pytest.approx(expected, rel=1e-12)
