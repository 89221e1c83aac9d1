"""A comparison and a diagnosis in a notebook: HTML that fetches and runs nothing."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.figures import Ratio, Spread
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.report import plots, units
from halfstep.report.columns import COLUMNS, FINAL_LOSS
from halfstep.report.diagnosis import view
from halfstep.report.reading import loss_words, no_interval, read, unfinished
from halfstep.report.ticks import labels, ticks

#: Okabe and Ito's colours, which colour-blind readers can distinguish; readable on light and dark
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
WIDTH, HEIGHT = 640.0, 200.0
POINTS = 200
#: a notebook typesets text between dollar signs as formulas, except in elements of these classes
_PRE = (
    '<pre class="tex2jax_ignore mathjax_ignore" '
    'style="overflow-x: auto; line-height: 1.3; background: none; color: inherit">{code}</pre>'
)
#: the eight ANSI colours; rich draws dim text halfway between foreground and background
_ANSI = [
    (128, 128, 128),
    (213, 94, 0),
    (0, 158, 115),
    (184, 134, 11),
    (0, 114, 178),
    (204, 121, 167),
    (66, 150, 190),
]
_THEME = TerminalTheme((255, 255, 255), (0, 0, 0), [*_ANSI, (128, 128, 128)], [*_ANSI, (128, 128, 128)])
LETTER = 6.5  #: how wide a digit of the axes is, about

Point = tuple[float, float]

#: an option in a sentence, with its number
_OPTION = re.compile(r"--[a-z][a-z-]*( \d+)?")


def unbroken(text: str) -> Markup:
    """A sentence as HTML whose options stay on one line each: a browser breaks lines after hyphens."""
    return Markup(
        _OPTION.sub(lambda found: f'<span style="white-space: nowrap">{found[0]}</span>', escape(text))
    )


def render(comparison: Mapping[str, Any]) -> str:
    """A fragment of HTML: styles inline, every text escaped, no script."""
    found = read(comparison)
    made = Environment(
        loader=PackageLoader("halfstep.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters["unbroken"] = unbroken
    columns = (*COLUMNS, FINAL_LOSS)
    colours = {name: COLOURS[i % len(COLOURS)] for name, i in plots.slots(found.precisions).items()}
    return made.get_template("notebook.html.j2").render(
        c=found, advice=found.recommendation, unfinished=unfinished(found.missing), shown=figure, loss_words=loss_words,
        columns=columns, names=["precision", "status", *(column.name for column in columns), "against the baseline"],
        colours=colours, chart=chart(found), width=WIDTH, height=HEIGHT,
    )  # fmt: skip


def render_diagnosis(diagnosis: Mapping[str, Any]) -> str:
    """A fragment of HTML: what `halfstep diagnose` prints, in colours that are readable on light and dark."""
    console = Console(record=True, file=io.StringIO(), width=88, force_terminal=True, force_jupyter=False)
    console.print(view(diagnosis, commands=False))
    return console.export_html(theme=_THEME, inline_styles=True, code_format=_PRE)


def figure(row: PrecisionRow, value: Spread | Ratio | None, absent: str, unit: str) -> tuple[str, str]:
    """A figure, and the text below it: its interval, or why there is none. An absent figure is a dash."""
    if value is None:
        return "–", absent
    if value.low is None or value.high is None:
        return units.quantity(value.value, unit), no_interval(row, value)
    unsure = ", not significant" * (isinstance(value, Ratio) and value.significant is False)
    return units.quantity(value.value, unit), units.span(value.value, value.low, value.high, unit) + unsure


Band = tuple[list[Point], list[Point], list[Point]]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Chart:
    """The loss curves for an SVG."""

    #: for each precision the mean loss (``line``) and the range over its trials (``band``), as points
    curves: dict[str, dict[str, str]]
    steps: list[tuple[float, str]]  #: (place from the left, words) of the numbers below
    losses: list[tuple[float, str]]  #: (place from above, words) of the numbers at the side

    @property
    def left(self) -> float:
        """The width of the numbers at the side."""
        return 10 + LETTER * max(len(words) for _, words in self.losses)


def chart(comparison: Comparison) -> Chart | None:
    """The curves with the numbers at their axes; None without a loss."""
    drawn = {name: _band(comparison.of(name)) for name in comparison.precisions}
    flat = [point for band in drawn.values() for side in band for point in side]
    if not flat:
        return None
    box = (min(x for x, _ in flat), max(x for x, _ in flat), min(y for _, y in flat), max(y for _, y in flat))
    curves = {
        name: {"line": _points(mean, box), "band": _points([*low, *reversed(high)], box)}
        for name, (low, mean, high) in drawn.items()
        if mean
    }
    steps, losses = ticks(*box[:2]), ticks(*box[2:])
    across = [_place((step, box[2]), box)[0] for step in steps]
    upward = [_place((box[0], loss), box)[1] for loss in losses]
    return Chart(
        curves, list(zip(across, labels(steps), strict=True)), list(zip(upward, labels(losses), strict=True))
    )


def _band(trials: Sequence[TrialRow]) -> Band:
    """Lowest, mean and highest loss of the trials at each step."""
    losses = [trial.losses for trial in trials if trial.losses]
    length = max(map(len, losses), default=0)
    at = range(0, length, max(1, math.ceil(length / POINTS)))
    known = {step: [x[step] for x in losses if step < len(x) and x[step] is not None] for step in at}
    rows = [(float(step), [x for x in values if x is not None]) for step, values in known.items() if values]
    return (
        [(step, min(values)) for step, values in rows],
        [(step, math.fsum(values) / len(values)) for step, values in rows],
        [(step, max(values)) for step, values in rows],
    )


def _points(points: Sequence[Point], box: Box) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(point, box) for point in points))


def _place(point: Point, box: Box) -> Point:
    (x, y), (left, right, low, high) = point, box
    return WIDTH * (x - left) / ((right - left) or 1), HEIGHT * (1 - (y - low) / ((high - low) or 1))
