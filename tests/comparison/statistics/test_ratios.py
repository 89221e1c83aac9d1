"""Memory and energy of a precision by the baseline's: geometric means, with Welch's interval from SciPy beside it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gmean, ttest_ind

from halfstep.comparison.model.figures import Ratio, Spread
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.statistics.intervals import ratio_of_means
from halfstep.comparison.statistics.ratios import energy, energy_ratio, memory_ratio, speed_bound
from halfstep.report.words.ratios import ratio_words


def rows(*joules: float | None) -> list[TrialRow]:
    return [TrialRow(joules_per_step=x) for x in joules]


def test_the_energy_is_the_median_with_its_range() -> None:
    assert energy(rows(3.0, 1.0, 2.0)) == Spread(2.0, 1.0, 3.0, "J")
    assert energy(rows(None)) is None


def test_one_trial_has_no_range() -> None:
    assert energy(rows(None, 2.0)) == Spread(2.0, None, None, "J")


@pytest.mark.parametrize(
    ("base", "own"),
    [((10.0, 8.0, 9.0), (4.0, 5.0)), ((10.0, 10.5), (9.9, 9.8, 10.1, 10.0)), ((8.0, 8.1), (4.0, 5.0, 6.0))],
)
def test_the_ratio_is_welchs_of_the_logarithms(base: tuple[float, ...], own: tuple[float, ...]) -> None:
    ratio = energy_ratio(rows(*base), rows(*own))
    assert ratio is not None
    theirs = ttest_ind(np.log(own), np.log(base), equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert ratio.value == pytest.approx(gmean(own) / gmean(base), rel=1e-12)
    assert [ratio.low, ratio.high] == pytest.approx([np.exp(interval.low), np.exp(interval.high)], rel=1e-9)
    assert ratio.significant == bool(theirs.pvalue < 0.05)


def test_its_interval_holds_the_truth_as_often_as_it_says() -> None:
    """19 in 20 of 2000 draws of three trials a side, within three standard errors of a share (0.0049)."""
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        base, own = (np.exp(sd * random.standard_normal(3)) for sd in (0.05, 0.1))
        found = ratio_of_means(list(0.5 * own), list(base))
        hits += found.low is not None and found.high is not None and found.low <= 0.5 <= found.high
    assert hits / 2000 >= 0.95 - 3 * 0.0049


def test_trials_that_agree_leave_no_doubt() -> None:
    ratio = energy_ratio(rows(10.0, 10.0), rows(5.0, 5.0))
    assert ratio is not None
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx([0.5, 0.5, 0.5], rel=1e-12)
    assert (ratio.significant, ratio_words(ratio, "energy_ratio")) == (True, "0.50× energy")


def test_one_trial_on_a_side_has_no_interval() -> None:
    ratio = energy_ratio(rows(10.0, 8.0), rows(5.0))
    assert ratio is not None
    assert (ratio.low, ratio.high, ratio.significant) == (None, None, False)


def test_what_noise_may_be_is_not_significant() -> None:
    ratio = energy_ratio(rows(10.0, 8.0), rows(9.0, 9.5))
    assert ratio is not None
    assert (ratio.significant, ratio_words(ratio, "energy_ratio")) == (False, "not significant")


def test_what_was_not_measured_has_no_ratio() -> None:
    assert energy_ratio(rows(None), rows(4.0)) is None
    assert energy_ratio(rows(4.0), rows(None)) is None


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (1.9, "1.90× faster"),
        (1 / 1.2, "1.20× slower"),
        (1 / 1.0034, "1.003× slower"),
        (1.00012, "1.0001× faster"),
    ],
)
def test_a_difference_that_is_there_is_not_written_as_none(ratio: float, said: str) -> None:
    found = Ratio(ratio, ratio * 0.99999, ratio * 1.00001, True)
    assert ratio_words(found, "speed_ratio") == said


def profiled(*products: float | None) -> list[TrialRow]:
    return [TrialRow(time_shares=None if p is None else {"products": p, "other": 1 - p}) for p in products]


@pytest.mark.parametrize(
    ("shares", "bound"),
    [
        ((0.0,), 2.0),
        ((1.0,), 16.0),
        ((0.5,), 1 / (0.5 / 16 + 0.5 / 2)),
        ((0.2, None, 0.6), 1 / (0.4 / 16 + 0.6 / 2)),
    ],
)
def test_no_precision_gains_more_than_amdahls_law_leaves(
    shares: tuple[float | None, ...], bound: float
) -> None:
    """The fastest units compute products 16 times as fast, and half the bytes make all else twice as fast."""
    assert speed_bound(profiled(*shares)) == pytest.approx(bound, rel=1e-12)


def test_without_a_profiled_trial_there_is_no_bound() -> None:
    assert speed_bound(profiled(None)) is None
    assert speed_bound([TrialRow(time_shares={"other": 1.0})]) == 2.0


def test_the_memory_is_that_of_the_peaks() -> None:
    peaks = [[TrialRow(peak_memory_bytes=x) for x in side] for side in ((100, 110), (50, 55, None))]
    ratio = memory_ratio(*peaks)
    assert ratio is not None
    assert ratio.value == pytest.approx(0.5, rel=1e-12)
    assert memory_ratio(peaks[0], [TrialRow(peak_memory_bytes=0)]) is None
