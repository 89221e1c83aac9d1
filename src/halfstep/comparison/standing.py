"""The standings of a comparison with ``--budget``: what is open about each precision, and how many pairs it needs.

A precision is dropped if it certainly loses, gains too little, is worse, cannot win here, or is beaten by another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from halfstep.comparison.advice.evidence import AS_GOOD, gains, ratio_name, ratio_of
from halfstep.comparison.model.budget import Drop, Question, Standing
from halfstep.comparison.model.quality import Difference
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.statistics.sequential import LOOKS, Levels, critical, level

#: few pairs estimate the noise loosely: something is out of reach only if it is so even at this quantile of the noise
_HOPE = 0.7

_CLOSED = ("equivalent", "better", "different")


def _pairs(row: PrecisionRow) -> int:
    """How many pairs it has: those of its ratios or of its quality, whichever are more, as a figure may be absent."""
    found = [min(ratio.runs) for ratio in (row.speed_ratio, row.memory_ratio) if ratio and ratio.runs]
    return max([*found, row.quality.seeds if row.quality.kind != "not_known" else 0], default=0)


def stand(
    rows: Sequence[PrecisionRow],
    levels: Levels,
    prefer: Prefer,
    seconds: Mapping[str, float],
    places: int = 1,
) -> list[Standing]:
    """The standing of every precision but the baseline.

    Args:
        rows, levels, prefer: as in :class:`~halfstep.comparison.planning.State`.
        seconds: how long a trial of each takes.
        places: how many blocks run side by side.
    """
    others = [row for row in rows if not row.is_baseline]
    found = {row.precision: _alone(row, levels, prefer) for row in others}
    best = max((_gain(row, prefer)[0] for row in others if _has_won(row, found[row.precision])), default=0.0)
    standings = [_beside(found[row.precision], row, best, prefer) for row in others]
    return [
        replace(_timed(standing, row, seconds, places), pairs=_pairs(row))
        for standing, row in zip(standings, others, strict=True)
    ]


def _timed(standing: Standing, row: PrecisionRow, seconds: Mapping[str, float], places: int) -> Standing:
    """With the time that the pairs it needs would take, including the baseline's trials."""
    one = [seconds[name] for name in (row.precision, row.baseline or "") if name in seconds]
    if not standing.open or standing.needed is None or len(one) < 2:
        return standing
    return replace(standing, seconds=math.ceil(max(0, standing.needed - _pairs(row)) / places) * sum(one))


def _alone(row: PrecisionRow, levels: Levels, prefer: Prefer) -> Standing:
    """The standing without a look at the others; nothing is open if it failed, or ran the same as the baseline."""
    name = row.precision
    if not row.ended_well or row.went_on or row.same_as_baseline or row.baseline is None:
        return Standing(name)
    if row.stands_still:
        return Standing(name, drop="stands_still")
    if row.quality.kind == "worse":
        return Standing(name, drop="worse")
    lost = _lost(row, prefer)
    if lost is not None:
        return Standing(name, drop=lost)
    # The gain is open only if the objective was measured.
    needed: dict[Question, tuple[int | None, int | None]] = {}
    if not row.emulated and ratio_of(row, prefer) is not None and _gain(row, prefer)[0] <= 1:
        needed["gain"] = _pairs_for_gain(row, levels, prefer)
    if not _quality_is_closed(row):
        needed["quality"] = _pairs_for_quality(row, levels)
    hopes = [hope for _, hope in needed.values() if hope is not None]
    return Standing(
        name, tuple(needed), needed=_all([n for n, _ in needed.values()]), hope=min(hopes, default=None)
    )


def _all(needed: Sequence[int | None]) -> int | None:
    """The largest of them; None if one is None, as then no number of pairs would be enough."""
    known = [n for n in needed if n is not None]
    return None if len(known) < len(needed) else max(known, default=None)


def _lost(row: PrecisionRow, prefer: Prefer) -> Drop | None:
    """Why it cannot win by the objective; None if it still may, or if the objective is accuracy."""
    if prefer == "accuracy" or row.emulated:
        return None
    if prefer == "speed" and row.ran.without_units:
        return "no_units"
    high = _gain(row, prefer)[1]
    return "loses" if high < 1 else "no_gain" if high < 1 / AS_GOOD else None


def _beside(standing: Standing, row: PrecisionRow, best: float, prefer: Prefer) -> Standing:
    """The same compared with the others: it is dropped if the best of them certainly gains more."""
    if standing.open and prefer != "accuracy" and _gain(row, prefer)[1] < AS_GOOD * best:
        return Standing(standing.precision, drop="beaten")
    return standing


def _has_won(row: PrecisionRow, standing: Standing) -> bool:
    return not standing.open and standing.drop is None and row.quality.kind in ("equivalent", "better")


def _gain(row: PrecisionRow, prefer: Prefer) -> tuple[float, float]:
    """The interval of its gain by the objective; from 0 to infinity if the data cannot tell."""
    ratio = ratio_of(row, prefer)
    if ratio is None or ratio.low is None or ratio.high is None or ratio.disturbed:
        return 0.0, math.inf
    found = gains(ratio, prefer)
    return found.low or 0.0, found.high or math.inf


def _quality_is_closed(row: PrecisionRow) -> bool:
    """Whether its verdict is certain, or more seeds cannot make it so: seeds change nothing, or there is no figure."""
    first = _first(row)
    unseeded = first is not None and first.seeds == 1 and row.quality.seeds > 1
    return row.quality.kind in _CLOSED or unseeded or first is None


def _first(row: PrecisionRow) -> Difference | None:
    """The difference that the verdict on the quality rests on; None if there is none."""
    figures = [figure for figure in (row.loss, *row.logged.values()) if figure is not None]
    return next((f.difference for f in figures if f.difference is not None), None)


# --- how many pairs it needs -------------------------------------------------------------------------------


def _pairs_for_gain(row: PrecisionRow, levels: Levels, prefer: Prefer) -> tuple[int | None, int | None]:
    ratio = ratio_of(row, prefer)
    own = 0 if ratio is None or ratio.runs is None or ratio.disturbed else min(ratio.runs)
    n = _looked(own)
    if ratio is None or ratio.low is None or ratio.high is None or n is None:
        return _of_the_row(row, own, LOOKS[0], LOOKS[0])
    alpha = levels.of_ratio(ratio_name(prefer).removesuffix("_ratio"))
    found = gains(ratio, prefer)
    half, value = math.log(ratio.high / ratio.low) / 2, math.log(found.value)
    return _of_the_row(row, own, *_both(n, half, alpha, max(abs(value), math.log(1 / AS_GOOD) - value)))


def _pairs_for_quality(row: PrecisionRow, levels: Levels) -> tuple[int | None, int | None]:
    found = _first(row)
    own = 0 if found is None else found.seeds or 0
    n = _looked(own)
    if found is None or n is None or found.value is None or found.low is None:
        return _of_the_row(row, own, LOOKS[0], LOOKS[0])
    margin = (found.margin or 0.0) - abs(found.value)
    return _of_the_row(
        row, own, *_both(n, found.half_width, levels.of_first_figure, max(abs(found.value), margin))
    )


def _of_the_row(
    row: PrecisionRow, own: int, needed: int | None, hope: int | None
) -> tuple[int | None, int | None]:
    """The same in pairs of the row, which may be more than the figure has: disturbed trials do not count for it."""
    lacking = max(0, _pairs(row) - own)
    return None if needed is None else needed + lacking, None if hope is None else hope + lacking


def _looked(pairs: int) -> int | None:
    return max((n for n in LOOKS if n <= pairs), default=None)


def _both(n: int, half: float, alpha: float, enough: float) -> tuple[int | None, int | None]:
    """After how many pairs half the interval is below ``enough``: at the noise s of ``n`` pairs, and at the least.

    Half the interval of n pairs is t * s / sqrt(n); the least noise is s sqrt((n - 1) / chi2(0.7, n - 1)).
    """
    from scipy.special import chdtri

    noise = half / critical(n, level(n, alpha)) * math.sqrt(n)
    least = noise * math.sqrt((n - 1) / float(chdtri(n - 1, 1 - _HOPE)))
    later = [k for k in LOOKS if k > n]

    def enough_at(s: float) -> int | None:
        return next((k for k in later if critical(k, level(k, alpha)) * s / math.sqrt(k) < enough), None)

    return enough_at(noise), enough_at(least)
