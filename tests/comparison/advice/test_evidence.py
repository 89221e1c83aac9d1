"""What the rules of advice ask of a row, at the very figures where the answer changes."""

from __future__ import annotations

from typing import Any

import pytest

from halfstep.comparison.advice import evidence
from halfstep.comparison.advice.evidence import AS_GOOD, BEYOND, CLOSE, LEARNING_STEPS, PLAIN_GAIN
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import FigureRow, FinalDifference, Quality
from halfstep.comparison.model.verdicts import PrecisionRow, StandsStill
from halfstep.record.ran import Ran


def row(ratio: Ratio | None = None, name: str = "speed_ratio", **fields: Any) -> PrecisionRow:
    return PrecisionRow("bf16", "fp32", "ok", **{name: ratio}, **fields)


def judged(
    kind: str, value: float | None = None, high: float | None = None, fall: float | None = 1.0, **of: Any
) -> PrecisionRow:
    difference = FinalDifference(value, high=high, fall=fall, **of)
    return row(loss=FigureRow(difference=difference), quality=Quality(kind))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "low", "significant", "prefer", "gains"),
    [
        (1.2, 1.1, True, "speed", True),
        (1.2, 1.1, True, "accuracy", True),
        (1.2, 0.9, False, "speed", False),
        (0.8, 0.7, True, "speed", False),
        (1.004, 1.003, True, "speed", False),
        (1.006, 1.005, True, "speed", True),
        (1.2, None, False, "speed", False),
        (0.8, 0.7, True, "memory", True),
        (0.8, 0.7, False, "memory", False),
        (1.2, 1.1, True, "memory", False),
        (0.9, None, False, "memory", True),
        (0.91, None, False, "memory", False),
        (0.8, 0.7, True, "energy", True),
        (0.8, None, False, "energy", False),
    ],
)
def test_a_gain_is_more_than_noise(
    value: float, low: float | None, significant: bool, prefer: Any, gains: bool
) -> None:
    high = None if low is None else value + 0.1
    found = row(Ratio(value, low, high, significant), evidence.ratio_name(prefer))
    assert evidence.is_gain(found, prefer) is gains
    assert evidence.gain(found, prefer) == (value if prefer in ("speed", "accuracy") else 1 / value)
    assert evidence.gain(row(), prefer) == 1
    assert not evidence.is_gain(row(), prefer)


def test_speed_that_no_unit_can_give_is_none() -> None:
    fast = Ratio(3.0, 2.6, 3.4, True)
    for bound, beyond in ((2.6 / BEYOND, False), (2.6 / BEYOND - 1e-9, True), (None, False)):
        found = row(fast, speed_bound=bound)
        assert evidence.beyond_units(found) is beyond
        assert evidence.units_can_gain(found) is not beyond
        assert evidence.is_gain(found, "speed") is not beyond
        assert evidence.measured_faster(found)
    assert evidence.beyond_units(row(Ratio(3.0), speed_bound=2.0))
    assert not evidence.beyond_units(row(Ratio(2.5), speed_bound=2.0))
    assert not evidence.measured_faster(row(Ratio(3.0, None, None, False)))
    assert not evidence.measured_faster(row(Ratio(0.5, 0.4, 0.6, True)))
    emulating = row(fast, ran=Ran(fp32_units=("product",)))
    assert not evidence.units_can_gain(emulating)
    assert not evidence.is_gain(emulating, "speed")


@pytest.mark.parametrize(
    ("ratio", "prefer", "may", "little"),
    [
        (Ratio(1.2, 1.1, 1.3, True), "speed", False, True),
        (Ratio(1.0, 0.9, 1 / AS_GOOD, False), "speed", True, True),
        (Ratio(1.0, 0.9, 1 / AS_GOOD - 1e-9, False), "speed", False, True),
        (Ratio(0.9, 0.8, 1.0, False), "speed", False, False),
        (Ratio(0.9, 0.8, 1.2, True), "speed", False, True),
        (Ratio(0.95), "speed", True, False),
        (Ratio(1 / PLAIN_GAIN), "speed", False, False),
        (Ratio(1 / PLAIN_GAIN + 1e-9), "speed", True, False),
        (Ratio(0.5, disturbed=True), "speed", True, False),
        (Ratio(1.0, AS_GOOD, 1.1, False), "memory", True, True),
        (Ratio(1.0, AS_GOOD + 1e-9, 1.1, False), "memory", False, True),
        (Ratio(1.1, 1.0, 1.2, False), "energy", False, False),
    ],
)
def test_a_gain_is_open_where_the_interval_holds_none_and_one_worth_having(
    ratio: Ratio, prefer: Any, may: bool, little: bool
) -> None:
    found = row(ratio, evidence.ratio_name(prefer))
    assert evidence.may_gain(found, prefer) is may
    assert evidence.may_gain_little(found, prefer) is little
    assert not evidence.may_gain(row(), prefer)


@pytest.mark.parametrize(
    ("found", "stands"),
    [
        (judged("worse"), "bad"),
        (judged("diverged"), "bad"),
        (judged("equivalent"), "good"),
        (judged("better"), "good"),
        (judged("no_difference_seen", 0.01, CLOSE), "good"),
        (judged("no_difference_seen", CLOSE, CLOSE + 1e-9), "close"),
        (judged("no_difference_seen", CLOSE + 1e-9, 1.0), "unknown"),
        (judged("no_difference_seen", 0.01, None), "close"),
        (judged("one_seed", CLOSE, 0.0), "close"),
        (judged("one_seed", CLOSE + 1e-9), "unknown"),
        (judged("one_seed", None), "unknown"),
        (judged("one_seed", 0.0, fall=0.0), "unknown"),
        (judged("one_seed", 0.0, fall=None), "unknown"),
        (judged("one_seed", 0.3, fall=None, margin=0.3, margin_from="tolerance"), "close"),
        (judged("one_seed", 0.3, fall=None, margin=0.3, margin_from="seeds"), "unknown"),
        (judged("different", 0.0), "unknown"),
        (row(quality=Quality("not_known")), "unknown"),
        (row(quality=Quality("equivalent"), stands_still=StandsStill(0.0, 1.0)), "bad"),
    ],
)
def test_how_the_quality_stands(found: PrecisionRow, stands: str) -> None:
    assert evidence.standing(found) == stands


def test_a_loss_is_lower_by_more_than_is_close() -> None:
    assert not evidence.lower(judged("better", -CLOSE))
    assert evidence.lower(judged("better", -CLOSE - 1e-9))
    assert not evidence.lower(judged("better", None))
    assert not evidence.lower(judged("better", -9.0, fall=None))


def test_a_loss_that_had_time_to_fall_and_did_not() -> None:
    assert evidence.does_not_fall(row(fall=0.0, steps=LEARNING_STEPS))
    assert not evidence.does_not_fall(row(fall=0.0, steps=LEARNING_STEPS - 1))
    assert not evidence.does_not_fall(row(fall=1e-9, steps=LEARNING_STEPS))
    assert not evidence.does_not_fall(row(fall=None, steps=LEARNING_STEPS))


def test_how_many_repeats_would_tell() -> None:
    """One run a side: three at least; runs of several seeds are so many repeats."""
    assert evidence.enough_repeats(row(Ratio(1.1), trials=1), "speed") == 3
    assert evidence.enough_repeats(row(Ratio(1.1, runs=(4, 5)), trials=5), "speed") == 5
    assert evidence.enough_repeats(row(Ratio(1.0, 0.999, 1.001, False, runs=(4, 4))), "speed") == 5
    seeds = row(Ratio(1.0, 0.999, 1.001, False, runs=(4, 4)), quality=Quality("equivalent", seeds=2))
    assert evidence.enough_repeats(seeds, "speed") == 3
    assert evidence.enough_repeats(row(Ratio(1.0, 0.3, 3.0, False, runs=(2, 2))), "speed") is None
