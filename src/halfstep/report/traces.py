"""The lines, dots and axes that the page's plots are made of, as plotly's plain dicts."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

from halfstep.comparison.model import RunPart

POINTS = 1500  # a line longer than this is drawn from its lows and highs
DOTS = 300
_GOLDEN = 0.6180339887  # steps of this spread dots evenly over a band, the same way every time

Figure = dict[str, Any]
Curve = Sequence[float | None]


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


def steps(curve: Curve) -> list[tuple[float, float | None]]:
    """A curve's points: step and value."""
    return [(float(step), value) for step, value in enumerate(curve)]


def line(
    points: Sequence[tuple[float, float | None]], name: str, colour: str, thin: bool = False, axis: str = "y"
) -> Figure:
    """A line through the points; a thin one is a single trial's and stays out of the hover."""
    kept = thinned(points)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in kept],
        "y": [y for _, y in kept],
        "name": plain(name),
        "legendgroup": plain(name),
        "yaxis": axis,
        "line": {"color": colour, "width": 0.8 if thin else 2},
        "opacity": 0.4 if thin else 1,
        **({"hoverinfo": "skip"} if thin else {"hovertemplate": "%{y:.4g}"}),
    }


def band(low: Curve, high: Curve, name: str, colour: str, axis: str = "y", shade: str = "22") -> list[Figure]:
    """The area between two curves, where both are there; it stays out of the hover.

    Args:
        low, high: by step.
        name: of the precision, so that the area leaves with its line.
        colour: a colour's name; ``shade`` is its opacity in hexadecimal.
        axis: the vertical axis.
        shade: how dense.
    """
    both = [
        (float(i), a, b)
        for i, (a, b) in enumerate(zip(low, high, strict=False))
        if a is not None and b is not None
    ]
    kept = both[:: -(-len(both) // POINTS)] if both else []
    common: Figure = {"type": "scatter", "mode": "lines", "x": [x for x, _, _ in kept], "name": plain(name)}
    common |= {"legendgroup": plain(name), "yaxis": axis, "hoverinfo": "skip"}
    common |= {"line": {"width": 0, "color": colour}}
    lower, upper = {"y": [a for _, a, _ in kept]}, {"y": [b for _, _, b in kept]}
    return (
        [common | lower, common | upper | {"fill": "tonexty", "fillcolor": f"{colour}:{shade}"}]
        if kept
        else []
    )


def margin(edge: Sequence[float], size: float) -> list[Figure]:
    """The area from -size to size, the whole plot wide: what is too little to matter."""
    common: Figure = {"type": "scatter", "mode": "lines", "x": list(edge), "hoverinfo": "skip"}
    common |= {"line": {"width": 0, "color": "@soft"}}
    return [
        common | {"y": [-size, -size]},
        common | {"y": [size, size], "fill": "tonexty", "fillcolor": "@soft:2b"},
    ]


def intervals(at: Sequence[float], parts: Sequence[RunPart], name: str, colour: str) -> Figure:
    """A dot a part with its band; hollow where the band holds zero: no difference is seen there."""
    arms = {"array": [p.high - p.value for p in parts], "arrayminus": [p.value - p.low for p in parts]}
    told = [
        f"steps {p.first:,.0f} to {p.last:,.0f}: {p.value:+.3g} ({p.low:+.3g} to {p.high:+.3g})"
        for p in parts
    ]
    symbols = ["circle" if p.apart else "circle-open" for p in parts]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(at),
        "y": [p.value for p in parts],
        "name": plain(name),
        "legendgroup": plain(name),
        "text": told,
        "hovertemplate": "%{text}",
        "error_y": arms | {"type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 0},
        "marker": {"size": 8, "color": colour, "symbol": symbols, "line": {"width": 2, "color": colour}},
    }


def holes(curve: Curve, name: str, colour: str) -> Figure:
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
        "name": plain(name),
        "legendgroup": plain(name),
        "marker": {"symbol": "x-thin", "size": 9, "color": colour, "line": {"width": 2, "color": colour}},
        "hovertemplate": "not finite",
    }


def spread(name: str, values: list[float], place: float, colour: str, unit: str) -> list[Figure]:
    """Ordered values about one height: a dot each, a bar over the middle half, a mark at the median."""
    shown = values[:: -(-len(values) // DOTS)]
    lower, middle, upper = (quantile(values, q) for q in (0.25, 0.5, 0.75))
    common: Figure = {"type": "scatter", "name": plain(name)}
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


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of ordered values, between two neighbours on a straight line (numpy's default)."""
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def layout(height: int, top: int = 12) -> Figure:
    """What all plots look like, `height` pixels high with `top` of them above the axes.

    The legend is the page's own, above the plot: plotly's is set over what else stands there where names are many.
    """
    axis = {
        "gridcolor": "@line",
        "zeroline": False,
        "linecolor": "@line",
        "tickfont": {"size": 12, "color": "@soft"},
    }
    axis |= {"automargin": True}
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": top, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12, "color": "@soft"},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@line", "font": {"size": 12, "color": "@ink"}},
        "showlegend": False,
        "xaxis": dict(axis, showgrid=False, ticks="outside", tickcolor="@line"),
        "yaxis": dict(axis),
    }


def caption(text: str, y: float) -> Figure:
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


def title(text: str) -> Figure:
    """The name of a horizontal axis."""
    return {"title": {"text": text, "font": {"size": 12, "color": "@soft"}}}


def plain(text: str) -> str:
    """The text as plotly shows it letter by letter."""
    return html.escape(text)


def lines(name: str) -> str:
    """A precision's name beside an axis, where a phone has room for 20 letters: broken between its options."""
    broken = textwrap.wrap(name.replace(":", ": "), 20, max_lines=3, placeholder="…")
    return "<br>".join(plain(part.replace(": ", ":")) for part in broken)
