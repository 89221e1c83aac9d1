"""Quality against noise: compares each precision with the baseline on the same seeds, in every figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from halfstep.comparison.model.quality import (
    ALPHA,
    Difference,
    Direction,
    Diverged,
    FigureRow,
    FinalDifference,
    Kind,
    Quality,
    RunDifference,
    RunPart,
)
from halfstep.comparison.statistics import curves
from halfstep.comparison.statistics.curves import LOSS, Curve
from halfstep.comparison.statistics.paired import Band, band, holm, noise_margin, paired
from halfstep.comparison.statistics.ratios import spread
from halfstep.comparison.statistics.sequential import Levels, Margin, Pairs
from halfstep.comparison.statistics.sequential import difference as sequential
from halfstep.comparison.statistics.tolerance import Tolerance
from halfstep.trials import Outcome, diverged_from

Groups = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Figure:
    """One figure of one precision: the tests of its final values, and of its whole curve."""

    final: Difference
    run: Difference
    band: Band | None
    parts: list[tuple[int, int]]
    margin_from: str | None


@dataclass(frozen=True)
class Judged:
    """The verdicts on a precision's losses and logged figures, under the names of the fields of its row."""

    loss: FigureRow | None
    fall: float | None
    logged: Mapping[str, FigureRow]
    diverged: Diverged | None
    quality: Quality


def qualities(
    baseline: str | None, groups: Groups, tolerance: Tolerance, levels: Levels | None = None
) -> dict[str, Judged]:
    """The verdict on the quality of each precision.

    Args:
        baseline: the precision that the others are compared with; None if no trial ran to its end.
        groups: all trials of each precision; those that did not end with ``ok`` count for divergence only.
        tolerance: margins that the user gave.
        levels: the significance levels of repeated looks; None: there is one look.
    """
    ended = {p: [o for o in group if o.status == "ok"] for p, group in groups.items()}
    names = curves.names(list(ended.values()))
    by_seed = {name: {p: curves.by_seed(group, name) for p, group in ended.items()} for name in names}
    found = {} if baseline is None else _figures(baseline, by_seed, tolerance, levels)
    diverged = {p: _diverged(group) for p, group in groups.items()}
    return {
        p: _judged(p, baseline, by_seed, found.get(p, {}), diverged, len({o.trial.seed for o in ended[p]}))
        for p in groups
    }


def _figures(
    baseline: str,
    by_seed: Mapping[str, Mapping[str, Mapping[int, Curve]]],
    tolerance: Tolerance,
    levels: Levels | None,
) -> dict[str, dict[str, Figure]]:
    """precision -> name -> figure, with p values adjusted by Holm, or over all looks."""
    found: dict[str, dict[str, Figure]] = {}
    first = next(iter(by_seed), LOSS)
    for name, curves_of in by_seed.items():
        base = curves_of[baseline]
        others = {p: c for p, c in curves_of.items() if p != baseline and set(c) & set(base)}
        judge = _one_look(len(others)) if levels is None else _looks(levels, name == first, len(by_seed))
        for precision, ours in others.items():
            found.setdefault(precision, {})[name] = _figure(name, base, ours, tolerance, judge)
    return _with_holm(found, first) if levels is None else found


@dataclass(frozen=True)
class _Judge:
    """How one figure is tested: its final values, its whole curve, and the parts of the curve."""

    final: Callable[[Pairs, Margin], Difference]
    run: Callable[[Pairs, Margin], Difference]
    band: Callable[[Sequence[Sequence[float]]], Band | None]


def _one_look(comparisons: int) -> _Judge:
    """One look, when all trials have ended; ``comparisons``: how many precisions are compared."""

    def test(pairs: Pairs, margin: Margin) -> Difference:
        return paired([value for value, _ in pairs], margin(None, ALPHA), comparisons)

    return _Judge(test, test, band)


def _looks(levels: Levels, first: bool, figures: int) -> _Judge:
    """Repeated looks at one of several figures, which may be the first; parts of its curve are not tested."""
    other = levels.of_other_figure(figures)
    own = levels.of_first_figure if first else other
    return _Judge(
        lambda pairs, margin: sequential(pairs, own, margin),
        lambda pairs, margin: sequential(pairs, other, margin),
        lambda curves: None,
    )


def _figure(
    name: str, base: Mapping[int, Curve], ours: Mapping[int, Curve], tolerance: Tolerance, judge: _Judge
) -> Figure:
    shared = sorted(set(base) & set(ours))
    differences = [curves.difference(ours[seed], base[seed]) for seed in shared]
    ends = [(curves.final(name, ours[seed]), curves.final(name, base[seed])) for seed in shared]
    finals = [x for c in base.values() if (x := curves.final(name, c)) is not None]
    means = [x for c in base.values() if (x := curves.area(c)) is not None]
    gaps = [(a - b, b) for a, b in ends if a is not None and b is not None]
    areas = [pair for seed, d in zip(shared, differences, strict=True) for pair in _areas(d, base[seed])]
    # If a seed changes nothing in the baseline, several seeds are one training, run several times.
    seeded = len(base) < 2 or len(set(finals)) > 1 or len(set(means)) > 1
    cut, means_of = curves.parts(differences)
    return Figure(
        _judged_pairs(judge.final, gaps, _margin(name, finals, tolerance), seeded),
        _judged_pairs(judge.run, areas, _margin(name, means, tolerance), seeded),
        judge.band(means_of) if seeded and cut else None,
        cut,
        _margin_from(name, finals, tolerance),
    )


def _areas(difference: Curve, base: Curve) -> list[tuple[float, float]]:
    """The mean difference, and the baseline's mean over the same steps; empty if nothing is finite."""
    over, theirs = curves.area(difference), curves.area(base.at(difference.steps))
    return [] if over is None or theirs is None else [(over, theirs)]


def _judged_pairs(
    judge: Callable[[Pairs, Margin], Difference],
    pairs: list[tuple[float, float]],
    margin: Margin,
    seeded: bool,
) -> Difference:
    if not pairs:
        return Difference(seeds=0)
    if not seeded:
        value, theirs = (math.fsum(side) / len(side) for side in zip(*pairs, strict=True))
        pairs = [(value, theirs)]
    return judge(pairs, margin)


def _margin(name: str, values: list[float], tolerance: Tolerance) -> Margin:
    def margin(first: int | None, alpha: float) -> float | None:
        some = values[:first]
        given = tolerance.margin(name, math.fsum(some) / len(some)) if some else None
        return noise_margin(some, alpha) if given is None else given

    return margin


def _margin_from(name: str, values: list[float], tolerance: Tolerance) -> str | None:
    if values and tolerance.margin(name, values[0]) is not None:
        return "tolerance"
    return "seeds" if len(values) > 1 else None


def _with_holm(found: dict[str, dict[str, Figure]], first: str) -> dict[str, dict[str, Figure]]:
    """Holm's adjustment; one family is the first figure's final value over the precisions, the other all else."""
    cells = [(p, name, part) for p, by_name in found.items() for name in by_name for part in ("final", "run")]
    primary = [cell for cell in cells if cell[1:] == (first, "final")]
    secondary = [cell for cell in cells if cell[1:] != (first, "final")]
    for family in (primary, secondary):
        ps = holm([getattr(found[p][name], part).p for p, name, part in family])
        for (p, name, part), p_holm in zip(family, ps, strict=True):
            figure = found[p][name]
            change: Any = {part: replace(getattr(figure, part), p_holm=p_holm)}
            found[p][name] = replace(figure, **change)
    return found


def _judged(
    precision: str,
    baseline: str | None,
    by_seed: Mapping[str, Mapping[str, Mapping[int, Curve]]],
    figures: Mapping[str, Figure],
    diverged: Mapping[str, Diverged | None],
    seeds: int,
) -> Judged:
    rows: dict[str, FigureRow] = {}
    for name, curves_of in by_seed.items():
        base = curves_of.get(baseline or "", {})
        row = _row(name, curves_of[precision], figures.get(name), _fall(name, base))
        if row is not None:
            rows[name] = row
    loss = rows.pop(LOSS, None)
    of_all = ([(LOSS, loss)] if loss else []) + list(rows.items())
    judged = [row for _, row in of_all if row.kind is not None]
    quality = Quality(_kind(judged, precision == baseline, diverged[precision]), seeds=seeds)
    fall = _fall(LOSS, by_seed.get(LOSS, {}).get(precision, {}))
    return Judged(loss, fall, rows, diverged[precision], quality)


def _kind(judged: Sequence[FigureRow], is_baseline: bool, diverged: Diverged | None) -> Kind:
    """The verdict on a precision: the first figure's, unless it diverged or another figure is worse."""
    if diverged is not None:
        return "diverged"
    if is_baseline:
        return "baseline"
    kinds = [row.kind for row in judged if row.kind is not None]
    over = [row.over_run.kind for row in judged if row.over_run is not None]
    return "worse" if "worse" in (*kinds, *over) else kinds[0] if kinds else "not_known"


def _row(name: str, ours: Mapping[int, Curve], figure: Figure | None, fall: float | None) -> FigureRow | None:
    final = spread([curves.final(name, curve) for curve in ours.values()])
    if final is None:
        return None
    way = curves.direction(name) if name != LOSS else "lower"
    if figure is None or not figure.final.seeds:
        return FigureRow(final, way)
    kind = kind_of(figure.final, way)
    return FigureRow(
        final,
        way,
        FinalDifference(**vars(for_json(figure.final, figure.margin_from)), fall=fall),
        kind=kind,
        over_run=_over_run(figure, way),
    )


def _over_run(figure: Figure, way: Direction) -> RunDifference | None:
    run, over = figure.run, figure.band
    if not run.seeds:
        return None
    kind = kind_of(run, way)
    means = zip(figure.parts, over.mean, over.low, over.high, strict=True) if over else ()
    return RunDifference(
        for_json(run, figure.margin_from),
        kind,
        parts=tuple(RunPart(first, last, value, low, high) for (first, last), value, low, high in means),
        apart=tuple(figure.parts[i] for i in over.apart) if over else (),
        method=over.method if over else None,
    )


def kind_of(found: Difference, way: Direction) -> Kind:
    """The verdict on one figure."""
    if not found.seeds:
        return "not_known"
    if found.seeds == 1:
        return "one_seed"
    if found.equivalent or found.value == found.low == found.high == 0:
        return "equivalent"
    if not found.different:
        return "no_difference_seen"
    if way == "unknown":
        return "different"
    return "worse" if ((found.value or 0.0) > 0) == (way == "lower") else "better"


def for_json(found: Difference, margin_from: str | None) -> Difference:
    """The difference with two fields that JSON has: where its margin is from, and whether a difference was seen."""
    return replace(found, margin_from=margin_from, significant=found.different)


def _fall(name: str, base: Mapping[int, Curve]) -> float | None:
    """How far a loss fell over the run, the mean over the seeds; None for other figures."""
    known = [c for c in base.values() if c.steps] if name == LOSS else []
    ends = [(float(c.values[0]), curves.final(name, c)) for c in known]
    falls = [first - last for first, last in ends if last is not None and curves.countable(first)]
    return math.fsum(falls) / len(falls) if falls else None


def _diverged(group: Sequence[Outcome]) -> Diverged | None:
    """The trials of a precision that diverged; steps are counted from 1."""
    since = [(o.trial.seed, diverged_from(o.record)) for o in group if o.status == "diverged"]
    if not since:
        return None
    steps = tuple(step + 1 for _, step in since if step is not None)
    return Diverged(len(since), len(group), tuple(sorted({seed for seed, _ in since})), steps)
