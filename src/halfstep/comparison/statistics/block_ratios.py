"""Ratios to the baseline from pairs of trials, one pair per block, for comparisons with repeated looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import NamedTuple

from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.rows import measured
from halfstep.comparison.statistics.sequential import Levels, ratio
from halfstep.trials import Outcome


class JudgedTrial(NamedTuple):
    """A trial: its place in the comparison's list, how it ended, and its row."""

    place: int
    outcome: Outcome
    row: TrialRow


def speed_of_blocks(own: Iterable[JudgedTrial], base: Iterable[JudgedTrial], levels: Levels) -> Ratio | None:
    """How many times as fast as the baseline, from the median steps."""
    return ratio(_pairs(base, own, _step), levels.of_ratio("speed"))


def memory_of_blocks(own: Iterable[JudgedTrial], base: Iterable[JudgedTrial], levels: Levels) -> Ratio | None:
    """This precision's peak over the baseline's."""
    return ratio(_pairs(own, base, lambda trial: trial.row.peak_memory_bytes), levels.of_ratio("memory"))


def energy_of_blocks(own: Iterable[JudgedTrial], base: Iterable[JudgedTrial], levels: Levels) -> Ratio | None:
    """This precision's joules per step over the baseline's."""
    return ratio(_pairs(own, base, lambda trial: trial.row.joules_per_step), levels.of_ratio("energy"))


def _step(trial: JudgedTrial) -> float | None:
    """Seconds of the median step; None if no step counts."""
    times = measured(trial.outcome)
    return median(times) if times else None


def _pairs(
    upper: Iterable[JudgedTrial], lower: Iterable[JudgedTrial], figure: Callable[[JudgedTrial], float | None]
) -> list[tuple[float, float]]:
    """The figures of both trials of a block, for each block in which both have one, in the order of the blocks."""
    above, below = (_by_block(side, figure) for side in (upper, lower))
    return [(above[block], below[block]) for block in sorted(set(above) & set(below))]


def _by_block(
    trials: Iterable[JudgedTrial], figure: Callable[[JudgedTrial], float | None]
) -> dict[tuple[int, int], float]:
    found = {(t.outcome.trial.repeat, t.outcome.trial.seed): figure(t) for t in trials}
    return {block: value for block, value in found.items() if value}
