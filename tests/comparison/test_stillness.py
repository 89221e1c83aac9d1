"""A loss that stands still while the baseline's falls, and the constants that a format loses, by exact rounding."""

from __future__ import annotations

import numpy as np
import pytest

from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow, StandsStill
from halfstep.comparison.rows import trial_row
from halfstep.comparison.stillness import stands_still
from halfstep.record.stored import Stored
from halfstep.report.words import warnings

from .simulated import outcome
from .told import recommend, told_rows


def told(still: StandsStill, stored: Stored) -> str:
    row = PrecisionRow("bf16-true", "fp32", steps=60, stored=stored.as_json())
    return warnings.stands_still(still, row)


FALLING = list(2 * 0.95 ** np.arange(60))


def rows(*losses: list[float]) -> list[TrialRow]:
    return [TrialRow(losses=tuple(each)) for each in losses]


@pytest.mark.parametrize(
    ("own", "base", "still"),
    [
        ([2.0] * 60, FALLING, True),
        (list(2 + 0.1 * np.random.default_rng(0).standard_normal(60)), FALLING, True),
        (FALLING, FALLING, False),
        (list(2 * 0.99 ** np.arange(60)), FALLING, False),
        ([2.0] * 60, [2.0] * 60, False),
        ([2.0] * 60, list(2 + 0.1 * np.random.default_rng(1).standard_normal(60)), False),
        ([2.0] * 9, FALLING[:9], False),
        ([2.0] * 10, FALLING[:10], True),
    ],
)
def test_only_a_loss_that_falls_elsewhere_stands_still(
    own: list[float], base: list[float], still: bool
) -> None:
    assert (stands_still(rows(own), rows(base)) is not None) == still


def test_a_trial_with_too_few_steps_to_tell_leaves_all_open() -> None:
    assert stands_still(rows([2.0] * 60, [2.0] * 5), rows(FALLING)) is None


def test_noise_before_the_last_half_does_not_count() -> None:
    noisy = [loss + 3.0 * (i % 2) * (20 <= i < 30) for i, loss in enumerate(FALLING)]
    assert stands_still(rows([2.0] * 60), rows(noisy)) is not None


@pytest.mark.parametrize(
    ("format", "named", "kept"),
    [("bf16", "beta_2 = 0.999 is 1", "1e-08"), ("fp16", "eps = 1e-08 is 0", "beta_2")],
)
def test_the_constants_that_a_format_loses_are_named(format: str, named: str, kept: str) -> None:
    """In bf16 neighbours below 1 are 1/256 apart, so 0.999 is 1; fp16 has 0.999, and no 1e-8."""
    words = told(StandsStill(0.0, 1.9), Stored(optimizer={format: 8}))
    assert named in words
    assert kept not in words
    assert "Adam" not in told(StandsStill(0.0, 1.9), Stored({"fp32": 8}))


def test_a_precision_whose_loss_stands_still_is_not_advised() -> None:
    """However fast it is: bf16-true with Adam's defaults was 2.76 times as fast, as none of its weights moved."""
    trials = [
        outcome(precision, losses, repeat=repeat, seconds=[seconds * (1 + 0.001 * repeat)] * 60)
        for repeat in range(2)
        for precision, losses, seconds in (("fp32", FALLING, 0.276), ("bf16-true", [2.0] * 60, 0.1))
    ]
    found = told_rows(trials, [trial_row(each, (), "") for each in trials])
    advice = recommend(found)
    assert found[1]["speed_ratio"]["significant"]
    assert found[1]["warnings"][-1].startswith("the loss did not move in 60 steps")
    assert (advice["precision"], advice["rule"]) == ("fp32", "gains_but_worse")


def falling(by: float, noise: float = 0.0, steps: int = 40) -> TrialRow:
    """Losses that fall evenly from 3, every other one higher by ``noise``; the last five are alike."""
    fall = [3 - by * min(i, steps - 5) / (steps - 5) for i in range(steps)]
    return TrialRow(losses=tuple(loss + noise * (i % 2) for i, loss in enumerate(fall)))


@pytest.mark.parametrize(("own", "still"), [(0.049, True), (0.051, False), (-1.0, True)])
def test_less_than_a_twentieth_of_the_baselines_fall_is_none(own: float, still: bool) -> None:
    assert (stands_still([falling(own)], [falling(1.0)]) is not None) is still


def test_a_fall_says_something_where_it_is_three_times_what_neighbours_differ_by() -> None:
    """Neighbours that differ by d = 0.5 in turns: a deviation of d / sqrt(2) = 0.354, less what falls; times 3: 1.06."""
    assert stands_still([falling(0.0)], [falling(1.6, noise=0.5)]) is not None
    assert stands_still([falling(0.0)], [falling(0.9, noise=0.5)]) is None
