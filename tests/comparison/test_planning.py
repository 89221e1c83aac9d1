"""What a comparison with a budget runs next: states in, trials out; nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import FigureRow, FinalDifference, Quality
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.planning import Next, PlanEnd, State, Wave, order, plan, wave
from halfstep.comparison.standing import stand
from halfstep.comparison.statistics.sequential import LOOKS, Levels, critical, level

NAMES = ("fp32", "bf16", "fp16")
LEVELS = Levels(2)
BASE = PrecisionRow("fp32", "fp32", "ok", quality=Quality("baseline"))


def row(
    name: str = "bf16",
    speed: tuple[float, float] | None = None,
    quality: str = "no_difference_seen",
    pairs: int = 3,
    **more: Any,
) -> PrecisionRow:
    """A precision after so many pairs; ``speed``: the interval of its ratio."""
    low, high = speed or (None, None)
    value = 1.0 if low is None or high is None else math.sqrt(low * high)
    difference = FinalDifference(0.0, -0.5, 0.5, seeds=pairs, margin=0.01)
    return PrecisionRow(
        **{
            "precision": name,
            "baseline": "fp32",
            "status": "ok",
            "speed_ratio": Ratio(value, low, high, runs=(pairs, pairs)),
            "loss": FigureRow(difference=difference),
            "quality": Quality(quality, seeds=pairs),  # type: ignore[arg-type]
            **more,
        }
    )


def state(rows: Sequence[PrecisionRow], blocks: int = 3, left: float = 1e6, **more: Any) -> State:
    ran = {(name, block) for block in range(blocks) for name in NAMES}
    known: dict[str, Any] = {"ran": ran, "seconds": dict.fromkeys(NAMES, 10.0), **more}
    return State(precisions=NAMES, rows=rows, levels=LEVELS, prefer="speed", left=left, **known)


FASTER = row("bf16", (1.5, 1.7), "equivalent")
SLOWER = row("fp16", (0.5, 0.6))
OPEN = row("fp16", (0.9, 1.9))


def test_a_block_runs_every_precision_in_a_random_order_that_is_always_the_same() -> None:
    orders = [tuple(order(NAMES, block)) for block in range(600)]
    assert orders == [tuple(order(NAMES, block)) for block in range(600)]
    # Of the six orders each is expected 100 times, with a deviation of 9.
    assert all(60 < times < 140 for times in Counter(orders).values())
    assert len(set(orders)) == 6
    assert order(NAMES[:2], 5) == [name for name in order(NAMES, 5) if name in NAMES[:2]]


@pytest.mark.parametrize(
    ("pairs", "places", "left", "blocks"),
    [
        (3, 2, 1e6, 2),  # to the look after five
        (3, 4, 1e6, 3),  # to that after six: there is none after seven
        (3, 8, 1e6, 7),  # one place stays idle: the look after ten is the last that eight of them reach
        (6, 1, 1e6, 2),  # to the look after eight, one after the other
        (8, 8, 1e6, 2),  # as many as are needed
        (13, 3, 1e6, 3),  # no look is in reach: on the way to that after 17
        (3, 8, 15.0, "time"),  # a block of two precisions takes 20 seconds
        (3, 8, 20.0, 7),
    ],
)
def test_a_wave_ends_at_a_look_where_there_are_places(
    pairs: int, places: int, left: float, blocks: int | str
) -> None:
    """Two precisions of which one is open, after so many blocks."""
    rows = [BASE, replace(FASTER, quality=Quality("no_difference_seen", seeds=pairs), loss=_far(pairs))]
    found = wave(replace(state(rows, pairs, left), precisions=NAMES[:2], places=places, members=NAMES[:2]))
    if isinstance(blocks, str):
        assert found == PlanEnd(blocks)  # type: ignore[arg-type]
        return
    assert isinstance(found, Wave)
    assert [block for _, block in found.trials] == [pairs + i for i in range(blocks) for _ in range(2)]


def _far(pairs: int) -> FigureRow:
    """A loss whose noise leaves half an interval of just below the margin after ten pairs."""

    def half(n: int) -> float:
        return critical(n, level(n, LEVELS.of_first_figure)) / math.sqrt(n)

    width = 0.02 * half(pairs) / half(10) * 0.99
    return FigureRow(difference=FinalDifference(0.0, -width, width, seeds=pairs, margin=0.02))


def test_the_first_block_runs_all_of_them() -> None:
    ran: set[tuple[str, int]] = set()
    for _ in NAMES:
        step = plan(state([], blocks=0, ran=ran, seconds={}))
        assert isinstance(step, Next)
        assert step.block == 0
        ran.add((step.precision, 0))
    assert ran == {(name, 0) for name in NAMES}


def test_what_certainly_loses_is_not_run_again_and_the_rest_is_run_to_its_next_look() -> None:
    step = plan(state([BASE, row("bf16", (0.95, 1.3)), SLOWER]))
    assert isinstance(step, Next)
    assert (step.block, set(step.members), step.more) == (3, {"fp32", "bf16"}, 1)


@pytest.mark.parametrize(
    ("left", "end"), [(1e6, "certain"), (0.0, "certain")], ids=["time left", "no time left"]
)
def test_it_ends_when_every_verdict_is_certain(left: float, end: str) -> None:
    assert plan(state([BASE, FASTER, SLOWER], left=left)) == PlanEnd("certain")


def test_it_ends_where_the_time_does_not_reach_the_next_look() -> None:
    assert plan(state([BASE, FASTER, OPEN], left=19.0)) == PlanEnd("time")
    assert plan(state([BASE, FASTER, OPEN], left=0.0)) == PlanEnd("time")
    assert isinstance(plan(state([BASE, FASTER, OPEN], left=10_000.0)), Next)


def test_it_ends_where_what_is_open_is_out_of_reach_of_the_time_or_of_the_plan() -> None:
    noisy = row("fp16", (0.001, 1000.0), loss=FigureRow(difference=FinalDifference(0.0, -9.0, 9.0, seeds=3)))
    assert plan(state([BASE, FASTER, noisy])) == PlanEnd("out_of_reach")
    # Some pairs would do, but more than there is time for.
    close = row("fp16", (0.05, 30.0), loss=noisy.loss)
    needed = stand([BASE, close], LEVELS, "speed", {})[0].hope
    assert needed is not None
    assert needed > 5
    assert plan(state([BASE, FASTER, close], left=20.0 * (needed - 3) - 1)) == PlanEnd("out_of_reach")


def test_it_ends_where_the_largest_plan_is_spent() -> None:
    most = LOOKS[-1]
    assert plan(state([BASE, FASTER, row("fp16", (0.9, 1.9), pairs=most)], blocks=most)) == PlanEnd("plan")


def test_a_block_that_was_begun_is_ended_with_its_own_members() -> None:
    ran = {(name, block) for block in range(3) for name in NAMES} | {("fp16", 3)}
    step = plan(state([BASE, row("bf16", (0.9, 1.3)), OPEN], ran=ran, members=("fp32", "fp16")))
    assert isinstance(step, Next)
    assert (step.precision, step.block) == ("fp32", 3)


def test_a_precision_that_failed_runs_no_more_and_the_baseline_not_alone() -> None:
    failed = [replace(row(name, pairs=0), status="failed") for name in ("bf16", "fp16")]
    ran = {("bf16", 0), ("fp16", 0), ("fp32", 0)}
    assert plan(state([BASE, *failed], ran=ran)) == PlanEnd("certain")
