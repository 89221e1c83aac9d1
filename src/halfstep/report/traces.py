"""The lines, dots and axes that the page's plots are made of, as plotly's plain dicts."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence

from halfstep.codec import JsonObject
from halfstep.comparison.model.quality import RunPart

POINTS = 1500  # points that a line may have; of a longer one the lows and highs are drawn
FEWEST = 100  # points that a line may have however many lines there are
ALL = 48_000  # points that all lines of a page share: about 1 MB of it
DOTS = 300
_GOLDEN = 0.6180339887  # multiples of this, modulo 1, spread dots evenly over a band

Figure = JsonObject
Curve = Sequence[float | None]


def thinned(
    points: Sequence[tuple[float, float | None]], most: int = POINTS
) -> list[tuple[float, float | None]]:
    """At most ``most`` of the points, in order: the first, the last, and up to three of each part between them.

    A part keeps its lowest and highest point and, if one has no value, a gap.
    """
    if len(points) <= most:
        return list(points)
    inner = len(points) - 2
    stretch = -(-inner // ((most - 2) // 3))
    kept = {0, inner + 1}
    for start in range(1, inner + 1, stretch):
        part = range(start, min(start + stretch, inner + 1))
        known = {i: y for i in part if (y := points[i][1]) is not None}
        kept |= {pick(known, key=known.__getitem__) for pick in (min, max) if known}
        kept |= {next(i for i in part if i not in known)} if len(known) < len(part) else set()
    return [points[i] for i in sorted(kept)]


def thin(figures: Iterable[Figure]) -> None:
    """Reduce every long line to what a screen can show, in six digits; with more lines, each gets fewer points."""
    lines = [trace for figure in figures for trace in figure["data"] if trace["mode"] == "lines"]
    most = max(FEWEST, min(POINTS, ALL // max(len(lines), 1)))
    for trace in (trace for trace in lines if len(trace["x"]) > most):
        kept = thinned(list(zip(trace["x"], trace["y"], strict=True)), most)
        trace["x"] = [x for x, _ in kept]
        trace["y"] = [None if y is None else float(f"{y:.6g}") for _, y in kept]


def steps(curve: Curve) -> list[tuple[float, float | None]]:
    """A curve's points: step and value."""
    return list(enumerate(curve))


def _trace(mode: str, points: Sequence[tuple[float, float | None]], name: str) -> Figure:
    """What lines and dots of a precision have in common; a click on its name in the legend hides them."""
    named = {"name": plain(name), "legendgroup": plain(name)}
    return {
        "type": "scatter",
        "mode": mode,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        **named,
    }


def line(
    points: Sequence[tuple[float, float | None]], name: str, colour: str, thin: bool = False, axis: str = "y"
) -> Figure:
    """A line through the points; a thin one is a single trial, which the hover text leaves out."""
    return {
        **_trace("lines", points, name),
        "yaxis": axis,
        "line": {"color": colour, "width": 0.8 if thin else 2},
        "opacity": 0.4 if thin else 1,
        **({"hoverinfo": "skip"} if thin else {"hovertemplate": "%{y:.4g}"}),
    }


def band(low: Curve, high: Curve, name: str, colour: str, axis: str = "y", shade: str = "22") -> list[Figure]:
    """The area between two curves, where both have values; the hover text leaves it out.

    Args:
        low, high: by step.
        name: the precision, so that the area is hidden together with its line.
        colour: a colour's name.
        axis: the vertical axis.
        shade: the opacity in hexadecimal.
    """
    both = [
        (i, a, b) for i, (a, b) in enumerate(zip(low, high, strict=False)) if a is not None and b is not None
    ]
    common: Figure = {"type": "scatter", "mode": "lines", "x": [x for x, _, _ in both], "name": plain(name)}
    common |= {"legendgroup": plain(name), "yaxis": axis, "hoverinfo": "skip"}
    common |= {"line": {"width": 0, "color": colour}}
    lower, upper = {"y": [a for _, a, _ in both]}, {"y": [b for _, _, b in both]}
    return (
        [common | lower, common | upper | {"fill": "tonexty", "fillcolor": f"{colour}:{shade}"}]
        if both
        else []
    )


def margin(edge: Sequence[float], size: float) -> list[Figure]:
    """The area from -size to size over the whole width: differences that are too small to matter."""
    common: Figure = {"type": "scatter", "mode": "lines", "x": list(edge), "hoverinfo": "skip"}
    common |= {"line": {"width": 0, "color": "@soft"}}
    return [
        common | {"y": [-size, -size]},
        common | {"y": [size, size], "fill": "tonexty", "fillcolor": "@soft:2b"},
    ]


def intervals(at: Sequence[float], parts: Sequence[RunPart], name: str, colour: str) -> Figure:
    """One dot per part with its band; hollow if the band includes zero, so that no difference is seen."""
    arms = {"array": [p.high - p.value for p in parts], "arrayminus": [p.value - p.low for p in parts]}
    texts = [
        f"steps {p.first:,.0f} to {p.last:,.0f}: {p.value:+.3g} ({p.low:+.3g} to {p.high:+.3g})"
        for p in parts
    ]
    symbols = ["circle" if p.apart else "circle-open" for p in parts]
    return {
        **_trace("markers", [(x, p.value) for x, p in zip(at, parts, strict=True)], name),
        "text": texts,
        "hovertemplate": "%{text}",
        "error_y": arms | {"type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 0},
        "marker": {"size": 8, "color": colour, "symbol": symbols, "line": {"width": 2, "color": colour}},
    }


def holes(curve: Curve, name: str, colour: str) -> Figure:
    """A cross where the loss was not finite, at the height of the last finite loss."""
    at, last = [], 0.0
    for step, value in enumerate(curve):
        last = last if value is None else value
        if value is None:
            at.append((step, last))
    at = [*at[: -1 : -(-len(at) // DOTS)], at[-1]] if at else []
    return {
        **_trace("markers", at, name),
        "marker": {"symbol": "x-thin", "size": 9, "color": colour, "line": {"width": 2, "color": colour}},
        "hovertemplate": "not finite",
    }


def spread(name: str, values: list[float], place: float, colour: str, unit: str) -> list[Figure]:
    """Ordered values around one height: a dot each, a bar over the middle half, a mark at the median."""
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
    """The layout of all plots, `height` pixels high with `top` of them above the axes.

    The page has its own legend above the plot, as plotly's covers other things if there are many names.
    """
    lines = {"gridcolor": "@line", "zeroline": False, "linecolor": "@line"}
    axis = lines | {"tickfont": {"size": 12, "color": "@soft"}, "automargin": True}
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
    """The name of a vertical axis, written horizontally above it."""
    place = {"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": y, "yanchor": "bottom"}
    return place | {"yshift": 6, "text": text, "showarrow": False, "font": {"size": 12, "color": "@soft"}}


def title(text: str) -> Figure:
    """The name of a horizontal axis."""
    return {"title": {"text": text, "font": {"size": 12, "color": "@soft"}}}


def plain(text: str) -> str:
    """The text, escaped so that plotly shows it as it is."""
    return html.escape(text)


def lines(name: str) -> str:
    """A precision's name beside an axis, broken between its options: a phone has room for 20 letters."""
    broken = textwrap.wrap(name.replace(":", ": "), 20, max_lines=3, placeholder="…")
    return "<br>".join(plain(part.replace(": ", ":")) for part in broken)
