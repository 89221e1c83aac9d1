"""Ratios to the baseline, block by block: of trials that ran side by side, for comparisons that are looked at again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median

from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.rows import measured
from halfstep.comparison.statistics.sequential import Levels, ratio
from halfstep.trials import Outcome

#: a trial that ended well, and its row
Trial = tuple[Outcome, TrialRow]


def speed_of_blocks(own: Iterable[Trial], base: Iterable[Trial], levels: Levels) -> Ratio | None:
    """How many times as fast as the baseline, from the median steps."""
    return ratio(_pairs(base, own, _step), levels.of_ratio("speed"))


def memory_of_blocks(own: Iterable[Trial], base: Iterable[Trial], levels: Levels) -> Ratio | None:
    """This precision's peak over the baseline's."""
    return ratio(_pairs(own, base, lambda trial: trial[1].peak_memory_bytes), levels.of_ratio("memory"))


def energy_of_blocks(own: Iterable[Trial], base: Iterable[Trial], levels: Levels) -> Ratio | None:
    """This precision's joules per step over the baseline's."""
    return ratio(_pairs(own, base, lambda trial: trial[1].joules_per_step), levels.of_ratio("energy"))


def _step(trial: Trial) -> float | None:
    """Seconds of the median step; None of a trial that has no step to measure."""
    times = measured(trial[0])
    return median(times) if times else None


def _pairs(
    upper: Iterable[Trial], lower: Iterable[Trial], figure: Callable[[Trial], float | None]
) -> list[tuple[float, float]]:
    """The figures of both trials of each block in which both have one, in the order of the blocks."""
    above, below = (_by_block(side, figure) for side in (upper, lower))
    return [(above[block], below[block]) for block in sorted(set(above) & set(below))]


def _by_block(
    trials: Iterable[Trial], figure: Callable[[Trial], float | None]
) -> dict[tuple[int, int], float]:
    found = {(o.trial.repeat, o.trial.seed): figure((o, row)) for o, row in trials}
    return {block: value for block, value in found.items() if value}
