"""The page's interactive plots, as plotly figures in plain dicts.

A colour is a name, "@p2" or "@ink": the page puts in the colour of its light or dark theme. Names that came with
the comparison are escaped, for plotly reads a little HTML in them.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from halfstep.report import units
from halfstep.report.reading import Comparison

SLOTS = 10
POINTS = 1500  # a line longer than this is drawn from its lows and highs
DOTS = 300
_KNOWN = ("fp32", "tf32", "bf16", "fp16", "bf16-true", "fp16-true", "fp8", "as-is")
_GOLDEN = 0.6180339887  # steps of this spread dots evenly over a band, the same way every time

Figure = dict[str, Any]
Curve = Sequence[float | None]


def slots(names: Iterable[str]) -> dict[str, int]:
    """A colour slot for every name: a known precision has its own everywhere, others take those left over."""
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
        "steps": step_times(comparison, colours),
        "scale": loss_scale(comparison, colours),
    }
    for n, name in enumerate(logged_names(comparison)):
        drawn[f"logged-{n}"] = logged(comparison, colours, name)
    return {name: figure for name, figure in drawn.items() if figure["data"]}


def logged_names(comparison: Comparison) -> list[str]:
    """What the script logged by name, in order, once."""
    return list(
        dict.fromkeys(name for trial in comparison.trials for name, points in trial.logged.items() if points)
    )


def loss(comparison: Comparison, colours: dict[str, int]) -> Figure:
    """The loss by step, thick for the median of a precision's trials, thin for each; beneath, less the baseline's."""
    baseline = next((row.baseline for row in comparison.rows if row.baseline), "")
    reference = median_curve([trial.losses for trial in comparison.of(baseline)])
    data: list[Figure] = []
    for name in comparison.precisions:
        curves = [trial.losses for trial in comparison.of(name) if any(x is not None for x in trial.losses)]
        middle = median_curve(curves)
        colour = f"@p{colours[name]}"
        data += [_line(_steps(curve), name, colour, thin=True) for curve in curves if len(curves) > 1]
        data += [_line(_steps(middle), name, colour)] if curves else []
        data += [_holes(curve, name, colour) for curve in curves if None in curve]
        if reference and any(curves):
            gaps = [less(curve, reference) for curve in curves] if len(curves) > 1 else []
            data += [_line(_steps(gap), name, colour, thin=True, axis="y2") for gap in gaps]
            data += [_line(_steps(less(middle, reference)), name, colour, axis="y2")]
    two = any(trace.get("yaxis") == "y2" for trace in data)
    layout = _layout(height=520 if two else 380)
    layout["yaxis"] |= {"domain": [0.4, 1] if two else [0, 1]}
    layout["xaxis"] |= _title("step") | {"anchor": "y2" if two else "y"}
    longest = max((len(trial.losses) for trial in comparison.trials), default=0)
    layout["xaxis"] |= {"range": [0, max(longest - 1, 1)]}
    layout["annotations"] = [_caption("loss", 1.0)]
    if two:
        layout["yaxis2"] = layout["yaxis"] | {"domain": [0, 0.3], "zeroline": True, "zerolinecolor": "@soft"}
        layout["annotations"] += [_caption(f"loss less {_plain(baseline)}'s median", 0.3)]
    return {"data": data, "layout": layout}


def step_times(comparison: Comparison, colours: dict[str, int]) -> Figure:
    """Every step's time as a dot; a bar over the middle half, a mark at the median. Warm-up is left out."""
    times = {
        name: sorted(x for t in comparison.of(name) for x in t.step_times) for name in comparison.precisions
    }
    times = {name: values for name, values in times.items() if values}
    size, unit = units.scale(max((statistics.median(v) for v in times.values()), default=1.0), "s")
    data: list[Figure] = []
    for place, (name, values) in enumerate(times.items()):
        data += _spread(name, [x / size for x in values], -place, f"@p{colours[name]}", unit)
    layout = _layout(height=90 + 74 * len(times)) | {"hovermode": "closest", "showlegend": False}
    edge = max((_quantile(values, 0.99) for values in times.values()), default=1.0) / size
    layout["xaxis"] |= _title(f"time of one step, {unit}") | {"range": [0, 1.12 * edge], "showgrid": True}
    places = [-place for place in range(len(times))]
    layout["yaxis"] |= {"tickvals": places, "ticktext": [_plain(name) for name in times], "showgrid": False}
    layout["yaxis"] |= {
        "range": [0.6 - len(times), 0.6],
        "tickfont": {"size": 13, "color": "@ink"},
        "fixedrange": True,
    }
    return {"data": data, "layout": layout}


def loss_scale(comparison: Comparison, colours: dict[str, int]) -> Figure:
    """The loss scale by step, a line a trial, on a scale of powers of two."""
    data = []
    for trial in comparison.trials:
        if any(scale > 0 for _, scale in trial.loss_scale):
            points = [point for point in trial.loss_scale if point[1] > 0]
            line = _line(points, trial.label, f"@p{colours[trial.precision]}")
            data.append(
                line | {"line": line["line"] | {"shape": "hv"}, "hovertemplate": "%{y:,} at step %{x}"}
            )
    layout = _layout(height=260) | {"hovermode": "closest"}
    layout["xaxis"] |= _title("step")
    powers = sorted({2.0 ** round(math.log2(y)) for trace in data for y in trace["y"]})
    ends = [math.log10(end) for end in (powers[0] / 1.5, powers[-1] * 1.5)] if powers else [0.0, 1.0]
    ticks = powers[:: -(-len(powers) // 8)] if powers else []
    layout["yaxis"] |= {
        "type": "log",
        "range": ends,
        "tickvals": ticks,
        "ticktext": [f"{tick:,.6g}" for tick in ticks],
    }
    layout["annotations"] = [_caption("loss scale", 1.0)]
    return {"data": data, "layout": layout}


def logged(comparison: Comparison, colours: dict[str, int], name: str) -> Figure:
    """A figure of the script's own by step, a line a trial."""
    trials = [trial for trial in comparison.trials if trial.logged.get(name)]
    first: set[str] = set()
    data = []
    for trial in trials:
        line = _line(trial.logged[name], trial.precision, f"@p{colours[trial.precision]}")
        data.append(line | {"showlegend": trial.precision not in first})
        first.add(trial.precision)
    layout = _layout(height=280)
    layout["xaxis"] |= _title("step")
    layout["annotations"] = [_caption(_plain(name), 1.0)]
    return {"data": data, "layout": layout}


def median_curve(curves: Sequence[Curve]) -> list[float | None]:
    """The median over the curves at every step, of those that are finite there; None where none is."""
    columns = [[x for x in column if x is not None] for column in zip_longest(*curves)]
    return [statistics.median(column) if column else None for column in columns]


def less(curve: Curve, reference: Curve) -> list[float | None]:
    """curve - reference, step by step; None where either is missing."""
    return [
        x - y if x is not None and y is not None else None for x, y in zip(curve, reference, strict=False)
    ]


def thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most POINTS of the points, in order: each stretch keeps its lowest and its highest."""
    if len(points) <= POINTS:
        return list(points)
    stretch = -(-len(points) // (POINTS // 2))
    kept: list[tuple[float, float | None]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        rising = sorted(range(len(part)), key=[y or 0.0 for _, y in part].__getitem__)
        kept += [part[i] for i in sorted({rising[0], rising[-1]})]
    return kept


def _steps(curve: Curve) -> list[tuple[float, float | None]]:
    return [(float(step), value) for step, value in enumerate(curve)]


def _line(
    points: Sequence[tuple[float, float | None]], name: str, colour: str, thin: bool = False, axis: str = "y"
) -> Figure:
    kept = thinned(points)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in kept],
        "y": [y for _, y in kept],
        "name": _plain(name),
        "legendgroup": _plain(name),
        "showlegend": not thin and axis == "y",
        "yaxis": axis,
        "line": {"color": colour, "width": 0.8 if thin else 2},
        "opacity": 0.4 if thin else 1,
        **({"hoverinfo": "skip"} if thin else {"hovertemplate": "%{y:.4g}"}),
    }


def _holes(curve: Curve, name: str, colour: str) -> Figure:
    """A cross where the loss was not finite, at the height of the last loss that was."""
    at, last = [], 0.0
    for step, value in enumerate(curve):
        last = last if value is None else value
        if value is None:
            at.append((step, last))
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for x, _ in at],
        "y": [y for _, y in at],
        "name": _plain(name),
        "legendgroup": _plain(name),
        "showlegend": False,
        "marker": {"symbol": "x-thin", "size": 9, "color": colour, "line": {"width": 2, "color": colour}},
        "hovertemplate": "not finite",
    }


def _spread(name: str, values: list[float], place: float, colour: str, unit: str) -> list[Figure]:
    shown = values[:: -(-len(values) // DOTS)]
    lower, middle, upper = (_quantile(values, q) for q in (0.25, 0.5, 0.75))
    common: Figure = {"type": "scatter", "name": _plain(name)}
    jitter = [place + 0.5 * ((i * _GOLDEN) % 1 - 0.5) for i in range(len(shown))]
    dots: Figure = {"mode": "markers", "x": shown, "y": jitter, "opacity": 0.35}
    dots |= {"marker": {"color": colour, "size": 5}, "hovertemplate": f"%{{x:.4g}} {unit}"}
    bar: Figure = {"mode": "lines", "x": [lower, upper], "y": [place, place], "hoverinfo": "skip"}
    bar |= {"line": {"color": colour, "width": 5}}
    mark: Figure = {
        "mode": "markers",
        "x": [middle],
        "y": [place],
        "hovertemplate": f"median %{{x:.4g}} {unit}",
    }
    mark |= {"marker": {"symbol": "line-ns", "size": 30, "line": {"width": 2.5, "color": "@ink"}}}
    return [common | part for part in (dots, bar, mark)]


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of ordered values, between two neighbours on a straight line (numpy's default)."""
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _layout(height: int) -> Figure:
    axis = {
        "gridcolor": "@line",
        "zeroline": False,
        "linecolor": "@line",
        "tickfont": {"size": 12, "color": "@soft"},
    }
    axis |= {"automargin": True}
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 44, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12, "color": "@soft"},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@line", "font": {"size": 12, "color": "@ink"}},
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"},
        "xaxis": dict(axis, showgrid=False, ticks="outside", tickcolor="@line"),
        "yaxis": dict(axis),
    }


def _caption(text: str, y: float) -> Figure:
    """The name of a vertical axis, level above it."""
    place = {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "yref": "paper",
        "y": y,
        "yanchor": "bottom",
        "yshift": 6,
    }
    return place | {"text": text, "showarrow": False, "font": {"size": 12, "color": "@soft"}}


def _title(text: str) -> Figure:
    return {"title": {"text": text, "font": {"size": 12, "color": "@soft"}}}


def _plain(text: str) -> str:
    """The text as plotly shows it letter by letter."""
    return html.escape(text)
