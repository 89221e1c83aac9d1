"""The page's interactive plots, as plotly figures in plain dicts.

A colour is a name, "@p2" or "@ink", which the page replaces by a colour of its light or dark theme. Names from the
comparison are escaped, as plotly interprets some HTML in them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from halfstep.comparison.model.comparison import Comparison
from halfstep.report import traces, units
from halfstep.report.traces import Curve, Figure

SLOTS = 10
_KNOWN = ("fp32", "tf32", "bf16", "fp16", "bf16-true", "fp16-true", "fp8", "as-is", "bf16-lean", "bf16-sr")


def slots(names: Iterable[str]) -> dict[str, int]:
    """A colour slot for every name: known precisions have fixed ones, others get those left over."""
    wanted = list(dict.fromkeys(names))
    taken = {name: _KNOWN.index(name) for name in wanted if name in _KNOWN}
    free = [slot for slot in reversed(range(SLOTS)) if slot not in taken.values()]
    for n, name in enumerate(name for name in wanted if name not in taken):
        taken[name] = free[n % len(free)] if free else n % SLOTS
    return taken


def figures(comparison: Comparison, colours: dict[str, int]) -> dict[str, Figure]:
    """Every plot that the comparison has figures for, by name; a plot without any is left out."""
    drawn = {
        "loss": loss(comparison, colours),
        "run": over_run(comparison, colours),
        "steps": step_times(comparison, colours),
        "scale": loss_scale(comparison, colours),
    }
    for n, name in enumerate(logged_names(comparison)):
        drawn[f"logged-{n}"] = logged(comparison, colours, name)
    found = {name: figure for name, figure in drawn.items() if figure["data"]}
    traces.thin(found.values())
    return found


def logged_names(comparison: Comparison) -> list[str]:
    """What the script logged by name, in order, once."""
    return list(
        dict.fromkeys(name for trial in comparison.trials for name, points in trial.logged.items() if points)
    )


def names(figure: Figure, comparison: Comparison) -> list[str]:
    """The precisions that a figure's legend names, in order: those that have lines or dots in it."""
    drawn = {trace.get("legendgroup") for trace in figure["data"]}
    return [name for name in comparison.precisions if traces.plain(name) in drawn]


def loss(comparison: Comparison, colours: dict[str, int]) -> Figure:
    """The loss by step: the median of a precision's trials, and the band of its seeds; below, minus the baseline's."""
    baseline = comparison.baseline
    base = _losses(comparison, baseline)
    data: list[Figure] = _noise(base, baseline)
    # The baseline's median on each seed, and over all its seeds for one that it did not run with.
    over_all = median_curve([curve for _, curve in base])
    at_seed = {seed: median_curve([c for other, c in base if other == seed]) for seed, _ in base}
    for name in comparison.precisions:
        own = _losses(comparison, name)
        data += _curves(own, name, f"@p{colours[name]}")
        if name != baseline and base and own:
            gaps = [(seed, less(curve, at_seed.get(seed, over_all))) for seed, curve in own]
            data += _curves(gaps, name, f"@p{colours[name]}", axis="y2")
    two = any(trace.get("yaxis") == "y2" for trace in data)
    layout = traces.layout(height=508 if two else 348)
    layout["yaxis"] |= {"domain": [0.42, 1] if two else [0, 1]}
    layout["xaxis"] |= traces.title("step") | {"anchor": "y2" if two else "y"}
    longest = max((len(trial.losses) for trial in comparison.trials), default=0)
    layout["xaxis"] |= {"range": [0, max(longest - 1, 1)]}
    if two:
        layout["yaxis2"] = layout["yaxis"] | {"domain": [0, 0.31], "zeroline": True, "zerolinecolor": "@soft"}
        layout["annotations"] = [traces.caption("loss less the baseline's on the same seed", 0.31)]
    return {"data": data, "layout": layout}


def over_run(comparison: Comparison, colours: dict[str, int]) -> Figure:
    """The run in parts: in each a precision's mean difference of the loss with its band, over the grey margin."""
    over = {row.precision: row.loss.over_run for row in comparison.verdicts if row.loss and row.loss.over_run}
    rows = {name: run for name, run in over.items() if run.parts}
    last = max((part.last for run in rows.values() for part in run.parts), default=1.0)
    margin = next(
        (run.difference.margin for run in rows.values() if run.difference and run.difference.margin), None
    )
    edge = [-0.5, last + 0.5]
    data: list[Figure] = traces.margin(edge, margin) if margin is not None else []
    for place, (name, run) in enumerate(rows.items()):
        # Side by side within a part, not on top of one another.
        share = (place + 1) / (len(rows) + 1)
        at = [part.first - 0.5 + share * (part.last + 1 - part.first) for part in run.parts]
        data.append(traces.intervals(at, run.parts, name, f"@p{colours[name]}"))
    layout = traces.layout(height=248) | {"hovermode": "closest"}
    layout["xaxis"] |= traces.title("step") | {"range": edge}
    layout["yaxis"] |= {"zeroline": True, "zerolinecolor": "@soft"}
    return {"data": data if rows else [], "layout": layout}


#: each trial's seed and curve
Seeded = Sequence[tuple[int | None, Curve]]


def _losses(comparison: Comparison, name: str) -> Seeded:
    return [(t.seed, t.losses) for t in comparison.of(name) if any(x is not None for x in t.losses)]


def _curves(own: Seeded, name: str, colour: str, axis: str = "y") -> list[Figure]:
    """The median as a line, with the range of the seeds, or with each trial if there is only one seed."""
    curves = [curve for _, curve in own]
    several = len({seed for seed, _ in own}) > 1
    data = traces.band(*extent(curves), name, colour, axis) if several else []
    if len(curves) > 1 and not several:
        data += [traces.line(traces.steps(c), name, colour, thin=True, axis=axis) for c in curves]
    data += [traces.line(traces.steps(median_curve(curves)), name, colour, axis=axis)] if curves else []
    if axis == "y":
        data += [traces.holes(curve, name, colour) for curve in curves if None in curve]
    return data


def _noise(base: Seeded, baseline: str) -> list[Figure]:
    """The range of the baseline's seeds around their median: a difference within it is noise."""
    if len({seed for seed, _ in base}) < 2:
        return []
    middle = median_curve([curve for _, curve in base])
    low, high = extent([less(curve, middle) for _, curve in base])
    return traces.band(low, high, baseline, "@soft", axis="y2", shade="2b")


def extent(curves: Sequence[Curve]) -> tuple[list[float | None], list[float | None]]:
    """The lowest and the highest finite value of the curves at every step."""
    columns = [[x for x in column if x is not None] for column in zip_longest(*curves)]
    return [min(c, default=None) for c in columns], [max(c, default=None) for c in columns]


def step_times(comparison: Comparison, colours: dict[str, int]) -> Figure:
    """Every step's time as a dot; a bar over the middle half, a mark at the median. Warm-up is left out."""
    times = {
        name: sorted(x for t in comparison.of(name) for x in t.step_times) for name in comparison.precisions
    }
    times = {name: values for name, values in times.items() if values}
    size, unit = units.scale(max((statistics.median(v) for v in times.values()), default=1.0), "s")
    data: list[Figure] = []
    for place, (name, values) in enumerate(times.items()):
        data += traces.spread(name, [x / size for x in values], -place, f"@p{colours[name]}", unit)
    layout = traces.layout(height=58 + 74 * len(times)) | {"hovermode": "closest"}
    edge = max((traces.quantile(values, 0.99) for values in times.values()), default=1.0) / size
    layout["xaxis"] |= traces.title(f"time of one step, {unit}") | {
        "range": [0, 1.12 * edge],
        "showgrid": True,
    }
    places = [-place for place in range(len(times))]
    layout["yaxis"] |= {
        "tickvals": places,
        "ticktext": [traces.lines(name) for name in times],
        "showgrid": False,
    }
    layout["yaxis"] |= {
        "range": [0.6 - len(times), 0.6],
        "tickfont": {"size": 13, "color": "@ink"},
        "fixedrange": True,
    }
    return {"data": data, "layout": layout}


def loss_scale(comparison: Comparison, colours: dict[str, int]) -> Figure:
    """The loss scale by step, one line per trial, on a scale of powers of two."""
    data = []
    for trial in comparison.trials:
        if any(scale > 0 for _, scale in trial.loss_scale):
            points = [point for point in trial.loss_scale if point[1] > 0]
            points += (
                [(trial.steps - 1, points[-1][1])] if trial.steps and trial.steps - 1 > points[-1][0] else []
            )
            line = traces.line(points, trial.label, f"@p{colours[trial.precision]}")
            line |= {"line": line["line"] | {"shape": "hv"}, "hovertemplate": "%{y:,} at step %{x}"}
            data.append(line | {"legendgroup": traces.plain(trial.precision)})
    layout = traces.layout(height=228) | {"hovermode": "closest"}
    layout["xaxis"] |= traces.title("step")
    powers = sorted({2.0 ** round(math.log2(y)) for trace in data for y in trace["y"]})
    ends = [math.log10(end) for end in (powers[0] / 1.5, powers[-1] * 1.5)] if powers else [0.0, 1.0]
    ticks = powers[:: -(-len(powers) // 8)] if powers else []
    layout["yaxis"] |= {
        "type": "log",
        "range": ends,
        "tickvals": ticks,
        "ticktext": [f"{tick:,.6g}" for tick in ticks],
    }
    return {"data": data, "layout": layout}


def logged(comparison: Comparison, colours: dict[str, int], name: str) -> Figure:
    """A figure of the script's own by step, one line per trial."""
    data = [
        traces.line(trial.logged[name], trial.precision, f"@p{colours[trial.precision]}")
        for trial in comparison.trials
        if trial.logged.get(name)
    ]
    layout = traces.layout(height=248)
    layout["xaxis"] |= traces.title("step")
    return {"data": data, "layout": layout}


def median_curve(curves: Sequence[Curve]) -> list[float | None]:
    """The median of the finite values of the curves at every step; None if there is none."""
    if len({len(curve) for curve in curves}) == 1 and not any(None in curve for curve in curves):
        import numpy as np

        with np.errstate(over="ignore"):
            found: list[float | None] = np.median(np.array(curves), axis=0).tolist()
        return found
    columns = [[x for x in column if x is not None] for column in zip_longest(*curves)]
    return [statistics.median(column) if column else None for column in columns]


def less(curve: Curve, reference: Curve) -> list[float | None]:
    """curve - reference, step by step; None where either is missing."""
    return [
        x - y if x is not None and y is not None else None for x, y in zip(curve, reference, strict=False)
    ]
