"""Drift against SciPy's Kendall test, its false alarms, and what is said of it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from halfstep import codec
from halfstep.comparison.running import plan
from halfstep.comparison.statistics import drift
from halfstep.comparison.statistics.drift import trend
from halfstep.report.words import warnings
from halfstep.trials import Outcome

from ..simulated import outcome


def speed_drift(outcomes: list[Outcome]) -> dict[str, Any]:
    found = drift.speed_drift(outcomes)
    told: dict[str, Any] = codec.write(replace(found, words=warnings.drift(found, several=True)))
    return told


@pytest.mark.parametrize("n", [2, 4, 7])
def test_one_stratum_is_kendalls_exact_test(n: int) -> None:
    values = np.random.default_rng(n).lognormal(0, 0.1, n)
    found = trend([values.tolist()])
    assert found is not None
    assert found.p == pytest.approx(stats.kendalltau(range(n), values, method="exact").pvalue)
    slope = stats.theilslopes(np.log(values), range(n)).slope
    assert found.rise == pytest.approx(math.expm1(slope * (n - 1)))


def test_strata_against_all_orders() -> None:
    """Three of three values each, all rising: one order in 6^3 rises everywhere, and one falls everywhere."""
    found = trend([[1.0, 1.1, 1.2]] * 3)
    assert found is not None
    assert found.p == pytest.approx(2 / 6**3)
    assert found.rise == pytest.approx(0.2, abs=1e-3)
    assert found.significant
    assert trend([[1.0], [2.0]]) is None
    assert trend([[], [1.0]]) is None
    assert trend([[1.0, 1.1, 1.2], [], [3.0]]) == trend([[1.0, 1.1, 1.2]])


def trials(
    slowdown: float, inside: float = 0.0, seed: int = 0, repeats: int = 4, steps: int = 66
) -> list[Outcome]:
    """Three precisions interleaved; steps hang together (AR(1), 0.5), slower by ``slowdown`` at the last trial."""
    random = np.random.default_rng(seed)
    order = plan(["fp32", "bf16", "fp16"], repeats, 1)
    found = []
    for i, trial in enumerate(order):
        noise = np.zeros(steps)
        for k in range(1, steps):
            noise[k] = 0.5 * noise[k - 1] + 0.03 * random.standard_normal()
        pace = 1 + slowdown * i / (len(order) - 1) + inside * np.arange(steps) / steps
        found.append(
            outcome(trial.precision, [1.0] * steps, 0, trial.repeat, seconds=list(0.1 * pace * np.exp(noise)))
        )
    return found


def test_drift_from_trial_to_trial_is_said() -> None:
    found = speed_drift(trials(0.3))
    assert found["across_trials"]["significant"]
    assert 0.15 < found["across_trials"]["rise"] < 0.35
    assert "% slower from the first trials to the last (p = " in found["words"]


def test_drift_within_trials_is_said() -> None:
    found = speed_drift(trials(0.0, inside=-0.2))
    assert found["within_trials"]["significant"]
    assert found["within_trials"]["rise"] < -0.1
    assert "% faster within the trials of all precisions (p = " in found["words"]


def test_no_drift_is_seldom_said() -> None:
    count = 150
    alarms = sum(
        bool(speed_drift(trials(0.0, seed=seed))["across_trials"]["significant"]) for seed in range(count)
    )
    assert alarms / count <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)


def test_one_trial_tells_nothing_of_the_others() -> None:
    found = speed_drift([outcome("fp32", [1.0] * 4)])
    assert found == {"across_trials": None, "within_trials": None, "words": ""}


def test_values_that_are_alike_neither_rise_nor_fall() -> None:
    found = trend([[1.0, 1.0, 1.0, 1.0]])
    assert found is not None
    assert (found.rise, found.p) == (0.0, pytest.approx(1.0))


def test_a_trial_shows_a_trend_within_it_from_six_steps_that_count_on() -> None:
    """Of 8 steps the first two are warm-up."""
    for steps, told in ((7, False), (8, True)):
        trials = [
            outcome("fp32", [1.0] * steps, 0, i, [0.1 + 0.01 * s for s in range(steps)]) for i in range(2)
        ]
        found = drift.speed_drift(trials)
        assert (found.within_trials is not None) is told
        assert (found.across_trials is not None) is told


def test_a_large_rise_that_chance_may_make_is_not_significant() -> None:
    found = trend([[1.0, 1.1, 1.2]])
    assert found is not None
    assert found.p == pytest.approx(1 / 3)
    assert found.rise == pytest.approx(0.2, abs=1e-3)
    assert not found.significant


def test_within_a_trial_the_medians_of_sixths_are_compared() -> None:
    """Of 16 steps four are warm-up; of the others each sixth has two."""
    seconds = np.random.default_rng(0).lognormal(0, 0.5, 16)
    times, ends = seconds[4:], [2 * i for i in range(7)]
    medians = [float(np.median(times[a:b])) for a, b in itertools.pairwise(ends)]
    trial = outcome("fp32", [1.0] * 16, seconds=list(seconds))
    assert drift.speed_drift([trial]).within_trials == trend([medians])
