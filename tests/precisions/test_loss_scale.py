from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halfstep.errors import UsageError
from halfstep.precisions.loss_scale import (
    DynamicScale,
    LossScale,
    NoScale,
    Skip,
    Skips,
    StaticScale,
    scale_words,
)

D = DynamicScale


@pytest.mark.parametrize(
    ("scale", "finite", "after"),
    [
        (NoScale(), True, NoScale()),
        (NoScale(), False, NoScale()),
        (StaticScale(8.0), True, StaticScale(8.0)),
        (StaticScale(8.0), False, StaticScale(8.0)),
        (D(8.0, interval=3), True, D(8.0, interval=3, finite_steps=1)),
        (D(8.0, interval=3, finite_steps=2), True, D(16.0, interval=3)),
        (D(8.0, interval=3, finite_steps=2), False, D(4.0, interval=3)),
        (D(2.0**-4), True, D(2.0**-4, finite_steps=1)),
        (D(2.0, floor=2.0), False, D(2.0, floor=2.0)),
        (D(2.0, floor=2.0, backoff=0.25), False, D(2.0, floor=2.0, backoff=0.25)),
        (D(16.0, ceiling=16.0, interval=1), True, D(16.0, ceiling=16.0, interval=1)),
        (D(8.0, growth=4.0, ceiling=16.0, interval=1), True, D(16.0, growth=4.0, ceiling=16.0, interval=1)),
    ],
)
def test_transitions(scale: LossScale, finite: bool, after: LossScale) -> None:
    assert scale.next(finite) == after


def moved(scale: DynamicScale, verdicts: str) -> list[float]:
    """log2 of the scale after each step: ``-`` overflowed, ``+`` was finite."""
    found = []
    for verdict in verdicts:
        scale = scale.next(verdict == "+")
        found.append(math.log2(scale.value))
    return found


def test_a_scale_that_is_being_found_falls_faster_and_regains_what_it_fell_too_far() -> None:
    assert moved(D(), "-------") == [15, 14, 13, 12, 10, 6, -2]
    assert moved(D(), "------" + "+++++") == [15, 14, 13, 12, 10, 6, 7, 8, 9, 9, 9]
    assert moved(D(), "------" + "+-+") == [15, 14, 13, 12, 10, 6, 7, 6, 6], "found: what overflows halves it"
    assert moved(D(), "-" * 12)[-1] == -24


def test_once_found_it_falls_by_halves_as_pytorchs_does() -> None:
    reference = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scale = D()
    for verdict in "--+-----------+--":
        reference.scale(torch.ones(()))
        reference._per_optimizer_states[0]["found_inf_per_device"] = {
            "cpu": torch.tensor(float(verdict == "-"))
        }
        reference.update()
        scale = scale.next(verdict == "+")
        assert scale.value == reference.get_scale()


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 5))
def test_a_dynamic_scale_stays_a_power_of_two_between_its_bounds(steps: list[bool], interval: int) -> None:
    scale = DynamicScale(2.0**4, interval=interval, floor=2.0**-2, ceiling=2.0**8)
    for finite in steps:
        scale = scale.next(finite)
        assert scale.floor <= scale.value <= scale.ceiling
        assert scale.value.hex().startswith("0x1.0000000000000p")


@pytest.mark.parametrize("value", [0.0, -2.0, 3.0, float("inf"), float("nan")])
def test_only_powers_of_two(value: float) -> None:
    with pytest.raises(UsageError, match="it must be a (positive )?power of two"):
        StaticScale(value)


@pytest.mark.parametrize(("value", "near"), [(3.0, "2 or 4"), (1000.0, "512 or 1024"), (0.3, "0.25 or 0.5")])
def test_the_nearest_powers_of_two_are_named(value: float, near: str) -> None:
    with pytest.raises(UsageError, match=f"must be a power of two, for example {near}"):
        StaticScale(value)


def test_scales_outside_their_bounds_are_refused() -> None:
    with pytest.raises(UsageError, match="must lie between the floor 4 and the ceiling"):
        DynamicScale(2.0, floor=4.0)
    with pytest.raises(UsageError, match="growth must be above 1, backoff below 1"):
        DynamicScale(growth=1.0)


ONE, TWO = (
    Skip(3, 1024.0, "2 of 4 gradients are not finite"),
    Skip(4, 512.0, "1 of 4 gradients is not finite"),
)


@pytest.mark.parametrize(
    ("skips", "skip", "after", "count"),
    [
        (Skips(), None, Skips(), 0),
        (Skips(), ONE, Skips(since=(ONE,)), 1),
        (Skips(since=(ONE,)), TWO, Skips(since=(ONE, TWO)), 2),
        (Skips(since=(ONE, TWO)), None, Skips(since=(ONE, TWO)), 2),
        (Skips(before=5), ONE, Skips(before=5, since=(ONE,)), 6),
    ],
)
def test_skips_tell_how_many_when_and_why(skips: Skips, skip: Skip | None, after: Skips, count: int) -> None:
    assert skips.next(skip) == after
    assert after.count == count


@pytest.mark.parametrize(
    ("scale", "words"), [(2.0**24, "16,777,216"), (0.0, "0"), (1.0, "1"), (0.5, "2^-1"), (2.0**-24, "2^-24")]
)
def test_a_scale_is_written_in_full_or_as_a_power(scale: float, words: str) -> None:
    assert scale_words(scale) == words


@pytest.mark.parametrize("interval", [1, 2, 3, 5])
@pytest.mark.parametrize("skipped_first", [False, True])
def test_it_grows_in_the_very_step_that_ends_the_interval(interval: int, skipped_first: bool) -> None:
    """As torch.amp.GradScaler: after ``growth_interval`` finite steps in a row, and a skip begins the row anew."""
    scale = DynamicScale(value=8.0, interval=interval, falls=None)
    for _ in range(interval - 1):
        scale = scale.next(True)
        assert scale.value == 8
    if skipped_first:
        scale = scale.next(False)
        assert (scale.value, scale.finite_steps) == (4, 0)
        for _ in range(interval - 1):
            scale = scale.next(True)
    before = scale.value
    scale = scale.next(True)
    assert (scale.value, scale.finite_steps) == (2 * before, 0)


def test_what_scales_guards_the_step_and_only_the_floor_is_the_floor() -> None:
    assert (NoScale().guards, StaticScale(1024.0).guards, D().guards) == (False, True, True)
    assert [D(2.0**n, floor=0.5).at_floor for n in (-1, 0, 16)] == [True, False, False]


def test_an_interval_of_no_step_is_refused() -> None:
    DynamicScale(interval=1)
    for interval in (0, -1):
        with pytest.raises(UsageError, match=f"growth_interval is {interval}; it must be 1 step or more."):
            DynamicScale(interval=interval)
    for name in ("growth", "backoff"):
        with pytest.raises(UsageError, match="growth must be above 1, backoff below 1"):
            DynamicScale(**{name: 1.0})


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 4))
def test_inside_of_a_graph_a_scale_moves_by_the_same_rule(steps: list[bool], interval: int) -> None:
    """From a scale that has been found, NumPy's arrays and the value itself go the same way."""
    scale = replace(DynamicScale(2.0**4, interval=interval, floor=2.0**-2, ceiling=2.0**8), falls=None)
    value, count = np.float64(scale.value), np.int64(0)
    for finite in steps:
        value, count = scale.next_of(np, value, count, finite)
        scale = scale.next(finite)
        assert (float(value), int(count)) == (scale.value, scale.finite_steps)
