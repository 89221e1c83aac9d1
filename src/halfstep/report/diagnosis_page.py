"""A diagnosis as one self-contained HTML file: the findings, and heat maps of the layers by exponent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from halfstep.codec import read
from halfstep.diagnosis.events import NumberKind
from halfstep.diagnosis.model import Diagnosis, LayerPart, LayerRow
from halfstep.errors import UsageError
from halfstep.files import write_whole
from halfstep.precisions.formats import FORMATS, Format, get_scalar
from halfstep.precisions.loss_scale import scale_words
from halfstep.report import document, traces, units
from halfstep.report.diagnosis import OUTSIDE, headline, next_command, place, title, where
from halfstep.report.document import EMPTY_STYLE, asset, plotly_script, policy
from halfstep.report.secret_values import masked
from halfstep.words.module_names import shown

KINDS: dict[NumberKind, str] = {
    "gradients": "Gradients of activations, the loss scale on them",
    "weight_gradients": "Gradients of weights, the loss scale on them",
    "inputs": "Inputs of products",
    "activations": "Activations",
    "weights": "Weights",
    "updates": "Optimizer updates",
}
#: exponents below are drawn at the left edge, above at the right
_LOW, _HIGH = -60, 30
_SCALE = [[0.0, "rgba(90,125,245,0.06)"], [0.35, "rgba(90,125,245,0.45)"], [1.0, "rgba(90,125,245,1)"]]


def write(diagnosis: Mapping[str, Any], path: Path) -> Path:
    """Draw the object of ``halfstep diagnose --json`` into one HTML file; returns its path.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        write_whole(path, render(diagnosis))
    except OSError as error:
        raise UsageError(
            f"Cannot write the page {str(path)!r} ({error.strerror}); give a folder you may write.",
            see=path.parent,
        ) from None
    return path


def render(diagnosis: Mapping[str, Any]) -> str:
    """The page as text."""
    diagnosis = masked(diagnosis)
    found = read(Diagnosis, diagnosis)
    scripts, style = [plotly_script(), asset("page.js")], asset("page.css") + asset("diagnosis.css")
    return (
        templates()
        .get_template("diagnosis.html.j2")
        .render(
            d=found,
            figures=figures(found),
            raw=diagnosis,
            policy=policy(scripts, [style, EMPTY_STYLE]),
            style=Markup(style),
            scripts=[Markup(script) for script in scripts],
        )
    )


def figures(diagnosis: Diagnosis, prefix: str = "") -> dict[str, traces.Figure]:
    """The heat maps by name: ``prefix`` and the kind of numbers, ``gradients``."""
    return {prefix + kind: heat_map(diagnosis, kind) for kind in drawn(diagnosis)}


def templates() -> Environment:
    """The environment of the pages, with the functions that templates call for a diagnosis."""
    made = document.templates()
    made.filters["shown"] = shown
    used = (title, where, place, headline, next_command, kinds, drawn, scaled, cells)
    made.globals |= {function.__name__: function for function in used} | {"kind_words": KINDS}
    return made


def kinds(diagnosis: Diagnosis) -> list[NumberKind]:
    """The kinds of numbers that any layer has."""
    return [kind for kind in KINDS if any(row.part(kind) for row in diagnosis.layers)]


def drawn(diagnosis: Diagnosis) -> list[NumberKind]:
    """The kinds that have a heat map."""
    return [kind for kind in KINDS if _rows(diagnosis, kind)]


def scaled(diagnosis: Diagnosis) -> bool:
    """Whether a format has scales that follow the numbers."""
    parts = (row.part(kind) for row in diagnosis.layers for kind in KINDS)
    return any(part.scaled for part in parts if part)


def cells(row: LayerRow, kinds: Sequence[NumberKind]) -> list[str]:
    """A layer's row of the table: what its format does to its numbers, and the loss scales that serve it."""
    found = ["" if (part := row.part(kind)) is None else _cell(part) for kind in kinds]
    scales = row.loss_scale
    if scales is None:
        return [*found, ""]
    one = f"{scale_words(scales.low)} to {scale_words(scales.high)}"
    return [*found, one if scales.low <= scales.high else "no one scale"]


def _cell(part: LayerPart) -> str:
    shares = [(part.flushed, "to zero"), (part.subnormal, "subnormal"), (part.overflowing, "overflow")]
    parts = [f"{units.percent(share)} {words}" for share, words in shares if share]
    if part.headroom is not None:
        parts.append(f"headroom 2^{part.headroom:.1f}")
    return ", ".join(parts)


def _rows(diagnosis: Diagnosis, kind: NumberKind) -> list[tuple[LayerRow, LayerPart]]:
    """The layers that have such numbers."""
    return [(row, part) for row in diagnosis.layers if (part := row.part(kind)) and part.exponents]


def heat_map(diagnosis: Diagnosis, kind: NumberKind) -> traces.Figure:
    """One row per layer, exponents to the right, the share of the layer's numbers as colour; with the format's range.

    As figure 3 of Micikevicius et al., Mixed Precision Training (ICLR 2018).
    """
    rows = _rows(diagnosis, kind)
    exponents = list(range(_LOW, _HIGH + 1))
    depth = [_shares(part, exponents) for _, part in rows]
    names = [traces.plain(row.module or OUTSIDE) for row, _ in rows]
    data = {
        "type": "heatmap",
        "x": exponents,
        "y": list(range(len(rows))),
        "z": [[math.sqrt(share) for share in line] for line in depth],
        "customdata": [[100 * share for share in line] for line in depth],
        "text": [[name] * len(exponents) for name in names],
        "hovertemplate": "%{text}<br>2^%{x}: %{customdata:.2f} % of its numbers<extra></extra>",
        "colorscale": _SCALE,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    layout = traces.layout(height=130 + 20 * len(rows), top=44) | {"hovermode": "closest"}
    layout["xaxis"] |= traces.title("binary exponent") | {"range": [_LOW - 0.5, _HIGH + 0.5], "dtick": 10}
    shown = [name if len(name) <= 28 else "…" + name[-27:] for name in names]
    layout["yaxis"] |= {
        "tickvals": list(range(len(rows))),
        "ticktext": shown,
        "range": [len(rows) - 0.5, -0.5],
        "showgrid": False,
        "fixedrange": True,
    }
    layout["shapes"], layout["annotations"] = _range([part for _, part in rows])
    return {"data": [data], "layout": layout}


def _shares(part: LayerPart, exponents: list[int]) -> list[float]:
    """The share of the numbers at each exponent, the loss scale included."""
    shift = round(math.log2(part.scale)) if part.scale and part.scale > 0 else 0
    counts = dict.fromkeys(exponents, 0.0)
    for exponent, count in part.exponents.items():
        if -127 < exponent < 128:
            counts[min(max(exponent + shift, _LOW), _HIGH)] += count
    whole = sum(counts.values()) or 1.0
    return [max(count / whole, 0.0) for count in counts.values()]


def _range(parts: list[LayerPart]) -> tuple[list[traces.Figure], list[traces.Figure]]:
    """The edges of the most common format, as lines with their names above."""
    names = [part.format for part in parts if not part.scaled and part.format in FORMATS]
    if not names:
        return [], []
    most = get_scalar(max(sorted(set(names)), key=names.count))
    edges = [each for each in _edges(most) if _LOW <= each[0] <= _HIGH]
    shapes: list[traces.Figure] = []
    notes = []
    for edge, words, loses in edges:
        line = {"color": "@bad" if loses else "@mild", "width": 1.5}
        shapes.append(
            {"type": "line", "x0": edge, "x1": edge, "y0": 0, "y1": 1, "yref": "paper", "line": line}
        )
        note = {"x": edge, "y": 1, "yref": "paper", "yanchor": "bottom", "text": f"{most.name}: {words}"}
        font = {"size": 11, "color": "@soft"}
        notes.append(note | {"showarrow": False, "font": font, "yshift": 2 if loses else 16})
    return shapes, notes


def _edges(format: Format) -> list[tuple[float, str, bool]]:
    """(edge between two bins, words, whether numbers beyond it are lost): zero, normal numbers, overflow."""
    return [
        (format.min_exponent - format.fraction_bits - 1.5, "zero below", True),
        (format.min_exponent - 0.5, "normal from here", False),
        (format.max_exponent + 0.5, "overflow beyond", True),
    ]
