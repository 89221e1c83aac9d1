"""A precision's step time: what its ratio is made of, with an interval that knows that runs differ."""

from __future__ import annotations

import numpy as np
import pytest

from halfstep.comparison.statistics.ratios import speed_ratio, step_time
from halfstep.trials import Outcome
from tests.comparison.simulated import outcome


def runs(
    precision: str, medians: list[float], steps: int = 40, spread: float = 0.01, seed: int = 0
) -> list[Outcome]:
    random = np.random.default_rng(seed)
    return [
        outcome(precision, [1.0] * steps, 0, i, list(median * np.exp(spread * random.standard_normal(steps))))
        for i, median in enumerate(medians)
    ]


def test_the_ratio_is_that_of_the_step_times_beside_it() -> None:
    slow, fast = runs("fp32", [0.10, 0.11, 0.30]), runs("bf16", [0.05, 0.20, 0.21], seed=1)
    base, own, ratio = step_time(slow), step_time(fast), speed_ratio(slow, fast)
    assert base is not None
    assert own is not None
    assert ratio is not None
    assert base.median / own.median == pytest.approx(ratio.value, rel=1e-12)


def test_its_interval_holds_the_truth_although_runs_differ() -> None:
    """19 in 20 of 400 draws of three runs that differ by 10 %, within three standard errors of a share (0.011)."""
    random = np.random.default_rng(3)
    hits = 0
    for i in range(400):
        found = step_time(runs("fp32", list(0.1 * np.exp(0.1 * random.standard_normal(3))), 30, seed=i))
        assert found is not None
        hits += found.low <= 0.1 <= found.high
    assert hits / 400 >= 0.95 - 3 * 0.011


def test_of_one_run_it_is_the_median_by_order_statistics() -> None:
    one = runs("fp32", [0.1])
    times = sorted(step["seconds"] for step in one[0].record.steps[5:])
    found = step_time(one)
    assert found is not None
    # P(Binomial(35, 1/2) < 12) = 0.0205 and < 13 = 0.0448: the 12th from either end.
    assert (found.median, found.low, found.high) == (times[17], times[11], times[23])


def test_without_a_step_that_counts_there_is_no_step_time_and_no_ratio() -> None:
    none, some = runs("fp32", [0.1], steps=2), runs("bf16", [0.1, 0.2])
    assert step_time(none) is None
    assert step_time([]) is None
    assert speed_ratio(none, some) is None
    assert speed_ratio(some, none) is None
    ratio = speed_ratio([*none, *some], some[:1])
    assert ratio is not None
    assert (ratio.runs, ratio.low, ratio.significant) == ((2, 1), None, False)


def test_of_two_runs_it_is_already_the_geometric_mean_of_their_medians() -> None:
    found = step_time(
        [outcome("fp32", [1.0] * 20, 0, i, [seconds] * 20) for i, seconds in enumerate((0.1, 0.4))]
    )
    assert found is not None
    assert (found.median, found.unit) == (pytest.approx(0.2, rel=1e-12), "s")
