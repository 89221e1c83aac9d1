"""Intervals that may be looked at again and again, against SciPy's t tests and drawn noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from halfstep.comparison.statistics.paired import noise_margin
from halfstep.comparison.statistics.quality import kind_of
from halfstep.comparison.statistics.sequential import (
    LOOKS,
    SHARES,
    Levels,
    difference,
    level,
    looks,
    next_look,
    ratio,
)


def pairs_of(values: np.ndarray, base: np.ndarray | None = None) -> list[tuple[float, float]]:
    """Differences beside a baseline that spreads by itself."""
    base = np.linspace(1.0, 2.0, len(values)) if base is None else base
    return list(zip(values.tolist(), base.tolist(), strict=True))


@pytest.mark.parametrize("prefer", ["speed", "memory", "energy", "accuracy"])
@pytest.mark.parametrize("figures", [1, 2, 7])
def test_the_levels_of_a_comparison_sum_to_five_percent(prefer: str, figures: int) -> None:
    levels = Levels(3, prefer)  # type: ignore[arg-type]
    of_one = (
        sum(levels.of_ratio(measure) for measure in ("speed", "memory", "energy")) + levels.of_first_figure
    )
    of_one += (2 * figures - 1) * levels.of_other_figure(figures)
    assert 3 * of_one == pytest.approx(0.05, abs=1e-12)
    assert sum(SHARES) == pytest.approx(1.0)


def test_all_looks_together_keep_the_level_of_their_figure() -> None:
    """Of 400,000 figures without a difference no more than ``alpha`` are seen at any look, nor half of them on one side."""
    random, looked = np.random.default_rng(4), np.array(LOOKS)
    ts = np.concatenate([_ts(random.standard_normal((50_000, LOOKS[-1])), looked) for _ in range(8)])
    for alpha in (0.05, 0.03, 0.0175, 0.00583, 0.0008):
        critical = t.ppf(1 - np.array([level(n, alpha) for n in LOOKS]) / 2, looked - 1)
        for seen, most in (((abs(ts) > critical), alpha), (ts > critical, alpha / 2)):
            share = seen.any(axis=1).mean()
            assert share < most + 3 * math.sqrt(most / len(ts)), alpha
            assert share > 0.9 * most - 3 * math.sqrt(most / len(ts)), (
                alpha
            )  # nor much less, which would cost trials


def _ts(differences: np.ndarray, looked: np.ndarray) -> np.ndarray:
    """The t statistics of the first so many differences, shape [figures, looks]."""
    means = differences.cumsum(axis=1)[:, looked - 1] / looked
    squares = (differences**2).cumsum(axis=1)[:, looked - 1] - looked * means**2
    return np.asarray(means / np.sqrt(squares / (looked - 1) / looked))


def test_a_look_is_a_paired_t_test_at_its_level() -> None:
    values = np.random.default_rng(5).normal(0.2, 1.0, 10)
    found = looks(pairs_of(values), 0.05)
    assert [look.pairs for look in found] == [3, 4, 5, 6, 8, 10]
    for look in found:
        some = values[: look.pairs]
        half = t.ppf(1 - look.level / 2, look.pairs - 1) * some.std(ddof=1) / math.sqrt(look.pairs)
        assert look.value == pytest.approx(some.mean(), rel=1e-12)
        assert look.half == pytest.approx(half, rel=1e-9)
    tested = difference(pairs_of(values), 0.05, lambda first, alpha: None)
    assert tested.p == pytest.approx(ttest_1samp(values, 0.0).pvalue, rel=1e-9)


def test_the_interval_is_what_all_looks_have_in_common() -> None:
    found = looks(pairs_of(np.random.default_rng(1).normal(0.0, 1.0, 30)), 0.05)
    for before, after in itertools.pairwise(found):
        assert before.low <= after.low <= after.high <= before.high


def test_nothing_is_said_before_the_first_look_nor_of_one_figure() -> None:
    found = ratio([(2.0, 1.0), (2.2, 1.0)], 0.01)
    assert found is not None
    assert (found.low, found.high, found.significant) == (None, None, None)
    assert found.value == pytest.approx(math.sqrt(4.4))
    assert found.runs == (2, 2)
    assert ratio([], 0.01) is None
    early = difference([(0.1, 1.0), (0.2, 1.1)], 0.01, lambda first, alpha: 1.0)
    assert (early.low, early.different, early.equivalent) == (None, False, False)


def test_figures_without_spread_are_decided_by_equality() -> None:
    found = ratio([(90.0, 100.0)] * 3, 1e-6)
    assert found is not None
    assert found.value == found.low == found.high == pytest.approx(0.9)
    assert found.significant
    same = difference([(0.0, 1.5)] * 3, 1e-6, lambda first, alpha: noise_margin([1.5] * 3, alpha))
    assert kind_of(same, "lower") == "equivalent"
    assert not same.different


def test_equal_differences_of_coarse_figures_are_no_certainty() -> None:
    """Accuracies of 0.90, 0.91 and 0.92 beside others one hundredth higher: a plain t test has no error there."""
    found = difference([(0.01, 0.90), (0.01, 0.91), (0.01, 0.92)], 0.0175, lambda first, alpha: None)
    assert not found.different
    assert found.low is not None
    assert found.low < 0 < (found.high or 0.0)


def test_equivalence_needs_a_margin_that_is_itself_certain() -> None:
    random = np.random.default_rng(2)
    base = random.normal(2.0, 0.05, 10)
    pairs = pairs_of(random.normal(0.0, 0.001, 10), base)
    found = difference(pairs, 0.0175, lambda first, alpha: noise_margin(base[:first].tolist(), alpha))
    assert found.equivalent
    assert not found.different
    assert (found.bound or 0.0) < (found.margin or 0.0) < 0.05
    far = difference(pairs_of(random.normal(0.05, 0.001, 10), base), 0.0175, lambda first, alpha: 0.02)
    assert far.different
    assert not far.equivalent
    assert kind_of(far, "lower") == "worse"


def test_looks_are_ever_later_and_end() -> None:
    assert [next_look(n) for n in (0, 3, 6, 29, 30)] == [3, 4, 8, 30, None]
