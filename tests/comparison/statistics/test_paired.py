"""The statistics against SciPy's own tests, and on simulated data whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from halfstep.comparison.model.quality import ALPHA
from halfstep.comparison.statistics.paired import (
    POWER,
    band,
    holm,
    noise_margin,
    noncentrality,
    paired,
)

#: a share of N simulations may exceed its nominal value by three binomial deviations
N = 2000


def limit(nominal: float, n: int = N) -> float:
    return nominal + 3 * math.sqrt(nominal * (1 - nominal) / n)


@pytest.mark.parametrize("n", [2, 3, 5, 9, 30])
def test_the_paired_t_test_is_scipys(n: int) -> None:
    d = np.random.default_rng(n).normal(0.3, 1, n)
    found, expected = paired(list(d)), stats.ttest_1samp(d, 0)
    interval = expected.confidence_interval(0.95)
    assert found.value == pytest.approx(d.mean())
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("n", "margin"), [(3, 2.0), (5, 1.5), (12, 0.1)])
def test_equivalence_is_two_one_sided_tests_of_scipy(n: int, margin: float) -> None:
    d = np.random.default_rng(n).normal(0.1, 1, n)
    above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(d, margin, alternative="less").pvalue
    found = paired(list(d), margin)
    assert found.p_equivalence == pytest.approx(max(above, below))
    assert found.equivalent is (found.bound is not None and found.bound <= margin)


@pytest.mark.parametrize("n", [6, 8, 10])
def test_sign_flips_and_subset_means_against_all_of_them(n: int) -> None:
    """Hartigan's interval holds exactly those shifts that the sign-flip test does not reject."""
    d = np.random.default_rng(n).standard_t(2, n) + 0.7
    signs = np.array(list(itertools.product([1, -1], repeat=n)))

    def p_value(shift: float) -> float:
        moved = d - shift
        return float(np.mean(np.abs(signs @ moved) >= abs(moved.sum()) * (1 - 1e-12)))

    found = paired(list(d))
    assert found.exact_low is not None
    assert found.exact_high is not None
    assert found.p_exact == pytest.approx(p_value(0.0))
    step = 1e-6
    for end, inward in ((found.exact_low, step), (found.exact_high, -step)):
        assert p_value(end + inward) > ALPHA >= p_value(end - inward)


def test_below_six_seeds_no_sign_flip_can_reach_five_percent() -> None:
    assert paired([1.0] * 4 + [2.0]).p_exact is None
    assert paired([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]).p_exact == pytest.approx(2 / 64)


def test_one_difference_says_only_itself() -> None:
    found = paired([0.5], margin=1.0)
    assert (found.value, found.low, found.p, found.detectable) == (0.5, None, None, None)
    assert not found.different
    assert not found.equivalent


def test_differences_without_spread() -> None:
    same, shifted = paired([0.0] * 3), paired([0.1] * 3, margin=0.2)
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)
    assert shifted.p == 0.0
    assert shifted.different
    assert shifted.equivalent


@pytest.mark.parametrize("n", [3, 5])
def test_false_alarms_at_most_five_percent(n: int) -> None:
    d = np.random.default_rng(n).normal(0, 1, (N, n))
    assert np.mean([paired(row).different for row in d.tolist()]) <= limit(ALPHA)


def test_false_alarms_of_several_precisions_together() -> None:
    """Five precisions that share their baseline: one false alarm in the family at most in 5 % of comparisons."""
    random = np.random.default_rng(5)
    base, ours = random.normal(0, 1, (N, 1, 5)), random.normal(0, 1, (N, 5, 5))
    alarms = [
        min(p for p in holm([paired(d).p for d in each]) if p is not None) <= ALPHA
        for each in (ours - base).tolist()
    ]
    assert np.mean(alarms) <= limit(ALPHA)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_power_against_scipy_and_against_simulation(n: int, alpha: float) -> None:
    shift = noncentrality(n, alpha)
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    assert stats.nct.sf(critical, n - 1, shift) == pytest.approx(POWER, abs=1e-6)
    assert stats.nct.cdf(-critical, n - 1, shift) < 1e-5
    d = np.random.default_rng(n).normal(shift / math.sqrt(n), 1, (N, n))
    seen = np.mean(stats.ttest_1samp(d, 0, axis=1).pvalue <= alpha)
    assert abs(seen - POWER) <= 3 * math.sqrt(POWER * (1 - POWER) / N)


def test_the_detectable_difference_is_centred_on_the_true_one() -> None:
    """It is stated from an estimated deviation: its median over comparisons is the true one within 10 %."""
    n = 5
    d = np.random.default_rng(3).normal(0, 1, (N, n)).tolist()
    stated = np.median([paired(row).detectable for row in d])
    assert stated == pytest.approx(noncentrality(n, ALPHA) / math.sqrt(n), rel=0.1)


@pytest.mark.parametrize("n", [3, 6])
def test_intervals_cover_as_they_say(n: int) -> None:
    """Student's for normal differences; Hartigan's for a heavy-tailed distribution, too (3 degrees of freedom)."""
    d = np.random.default_rng(n).normal(0.4, 1, (N, n)).tolist()
    missed = np.mean([not f.low <= 0.4 <= f.high for f in map(paired, d)])  # type: ignore[operator]
    assert missed <= limit(0.05)
    assert missed >= 0.05 - (limit(0.05) - 0.05)


def test_hartigans_interval_covers_heavy_tails() -> None:
    few = 600
    d = (np.random.default_rng(8).standard_t(3, (few, 6)) + 0.4).tolist()
    missed = np.mean([not f.exact_low <= 0.4 <= f.exact_high for f in map(paired, d)])  # type: ignore[operator]
    assert missed <= limit(2 / 64, few)  # its own level: 1 - 2/2^6


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("own", [0.01, 0.3, 1.0])
def test_equivalence_is_claimed_wrongly_at_most_in_five_percent(seeds: int, own: float) -> None:
    """Precisions exactly one seed-to-seed deviation apart, whatever their own noise; the margin is estimated."""
    random = np.random.default_rng(seeds)
    base = random.normal(0, 1, (N, seeds)).tolist()
    gaps = random.normal(1.0, own, (N, seeds)).tolist()
    wrong = np.mean([paired(d, noise_margin(b)).equivalent for d, b in zip(gaps, base, strict=True)])
    assert wrong <= limit(ALPHA)


def test_equivalence_is_found_where_it_holds() -> None:
    random = np.random.default_rng(1)
    base, gaps = random.normal(0, 1, (N, 5)).tolist(), random.normal(0, 0.1, (N, 5)).tolist()
    assert np.mean([paired(d, noise_margin(b)).equivalent for d, b in zip(gaps, base, strict=True)]) > 0.95


def test_the_margin_is_the_lower_end_of_the_deviation() -> None:
    """It exceeds the true deviation in 5 % of cases."""
    values = np.random.default_rng(2).normal(0, 1, (N, 4)).tolist()
    above = np.mean([noise_margin(v) > 1 for v in values])  # type: ignore[operator]
    assert abs(above - 0.05) <= limit(0.05) - 0.05
    assert noise_margin([1.0]) is None


def test_holm_against_its_definition() -> None:
    """Holm 1979: the smallest of m times m, the next times m - 1, never less than the one before."""
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("n", [4, 8])
def test_a_band_leaves_zero_out_somewhere_in_five_percent(n: int) -> None:
    """Curves whose ten parts hang together; both ends of the run count, so a band must hold for all at once."""
    random = np.random.default_rng(n)
    few = 1000
    noise = random.normal(0, 1, (few, n, 10)) + random.normal(0, 1, (few, n, 1))
    alarms = np.mean([bool(b.apart) for b in map(band, noise.tolist()) if b is not None])
    assert alarms <= limit(ALPHA, few)


def test_a_band_finds_where_curves_part() -> None:
    random = np.random.default_rng(0)
    curves = random.normal(0, 0.1, (8, 10)) + np.array([0.0] * 7 + [0.5] * 3)
    found = band(curves.tolist())
    assert found is not None
    assert found.apart == [7, 8, 9]
    assert band([[0.1, 0.2]]) is None


def test_the_band_of_few_seeds_is_bonferronis() -> None:
    curves = np.random.default_rng(3).normal(0.2, 1, (4, 5))
    found = band(curves.tolist())
    assert found is not None
    half = stats.t.ppf(1 - ALPHA / 2 / 5, 3) * stats.sem(curves)
    assert np.subtract(found.high, found.mean) == pytest.approx(half)
    assert np.subtract(found.mean, found.low) == pytest.approx(half)


@pytest.mark.parametrize("n", [10, 40])
def test_flipped_signs_of_one_part_give_students_t(n: int) -> None:
    """All flips of few seeds, and drawn ones of many: with one part the largest |t| is that of the paired test."""
    curve = np.random.default_rng(n).normal(0, 1, (n, 1))
    found = band(curve.tolist())
    assert found is not None
    half = stats.t.ppf(1 - ALPHA / 2, n - 1) * stats.sem(curve)[0]
    assert found.high[0] - found.mean[0] == pytest.approx(half, rel=0.1)
