"""What is open of a precision in a comparison with a budget, what is dropped, and how many pairs an answer needs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from halfstep.comparison.model.budget import Standing
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import FigureRow, FinalDifference, Quality
from halfstep.comparison.model.verdicts import PrecisionRow, StandsStill
from halfstep.comparison.standing import stand
from halfstep.comparison.statistics.sequential import LOOKS, critical, level
from halfstep.precisions.recipes import parse
from halfstep.record.ran import EVERY_PRODUCT, Ran

from .test_planning import BASE, FASTER, LEVELS, row


@pytest.mark.parametrize(
    ("ratio", "more"), [(Ratio(1.0, runs=(4, 4), disturbed=True), 3), (Ratio(1.0, runs=(1, 1)), 2)]
)
def test_pairs_that_others_disturbed_tell_nothing_of_speed(ratio: Ratio, more: int) -> None:
    """All four, or all but one: the first look at it needs three that nobody disturbed."""
    disturbed = row("bf16", None, "equivalent", pairs=4, speed_ratio=ratio)
    (found,) = stand([BASE, disturbed], LEVELS, "speed", {"fp32": 10.0, "bf16": 10.0})
    assert found.open == ("gain",)
    assert (found.pairs, found.needed, found.hope) == (4, 4 + more, 4 + more)
    assert found.seconds == 20.0 * more


@pytest.mark.parametrize(
    ("about", "prefer", "drop"),
    [
        (row(speed=(0.5, 0.6)), "speed", "loses"),
        (row(speed=(0.99, 1.04)), "speed", "no_gain"),
        (row(speed=(0.99, 1.04)), "accuracy", None),
        (row(speed=(0.9, 1.3)), "speed", None),
        (row(quality="worse", speed=(1.5, 1.6)), "speed", "worse"),
        (row(stands_still=StandsStill(0.0, 1.0)), "speed", "stands_still"),
        (row(ran=Ran(asked="fp16", fp32_units=(EVERY_PRODUCT,))), "speed", "no_units"),
        (row(ran=Ran(asked="fp16", fp32_units=(EVERY_PRODUCT,))), "memory", None),
        (row(memory_ratio=Ratio(1.1, 1.05, 1.2, True, runs=(3, 3))), "memory", "loses"),
        (row(memory_ratio=Ratio(0.8, 0.8, 0.8, True, runs=(3, 3))), "memory", None),
    ],
)  # fmt: skip
def test_why_a_precision_is_dropped(about: PrecisionRow, prefer: Any, drop: str | None) -> None:
    assert stand([BASE, about], LEVELS, prefer, {})[0].drop == drop


def test_one_that_another_certainly_beats_is_dropped() -> None:
    little = row("fp16", (1.1, 1.3))
    found = {s.precision: s.drop for s in stand([BASE, FASTER, little], LEVELS, "speed", {})}
    assert found == {"bf16": None, "fp16": "beaten"}
    unsure = replace(FASTER, quality=Quality("no_difference_seen", seeds=3))
    assert [s.drop for s in stand([BASE, unsure, little], LEVELS, "speed", {})] == [None, None]


@pytest.mark.parametrize("recipe", ["bf16"])
def test_nothing_is_open_of_one_that_ran_the_same_or_was_not_to_be_judged(recipe: str) -> None:
    assert parse(recipe)
    same = row(recipe, same_as_baseline="no_products")
    assert stand([BASE, same], LEVELS, "speed", {}) == [Standing(recipe, pairs=3)]
    # Seeds that change nothing leave one training, however many there are.
    unseeded = row(recipe, (1.2, 1.3), "one_seed", loss=FigureRow(difference=FinalDifference(0.1, seeds=1)))
    assert stand([BASE, unseeded], LEVELS, "speed", {})[0].open == ()


def test_what_is_needed_is_told_from_the_noise() -> None:
    """A speed-up of e^0.1 with a deviation of 0.1: half the interval has to be below 0.1."""
    alpha, n = LEVELS.of_ratio("speed"), 3
    half = critical(n, level(n, alpha)) * 0.1 / math.sqrt(n)
    open_ = row(speed=(math.exp(0.1 - half), math.exp(0.1 + half)), quality="equivalent")
    found = stand([BASE, open_], LEVELS, "speed", {"fp32": 10.0, "bf16": 6.0})[0]
    enough = next(k for k in LOOKS if critical(k, level(k, alpha)) * 0.1 / math.sqrt(k) < 0.1)
    assert (found.open, found.needed, found.pairs) == (("gain",), enough, 3)
    assert found.hope is not None
    assert found.hope <= enough
    assert found.seconds == (enough - 3) * 16.0
