"""The table as Markdown, for the summary of a CI job, a pull request, or notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halfstep.codec import clean
from halfstep.report.columns import COLUMNS, ENERGY_COLUMNS, FINAL_LOSS
from halfstep.report.grid import cells_of
from halfstep.report.reading import read

#: columns of the table that Markdown leaves out, as it has their ratios
_LEFT_OUT = ("peak memory", "energy per step")
_FIGURES = [column.name for column in (*COLUMNS, *ENERGY_COLUMNS, FINAL_LOSS) if column.name not in _LEFT_OUT]
_COLUMNS = ("precision", "status", *_FIGURES, "loss", "ran as")


def markdown(comparison: Mapping[str, Any]) -> str:
    """The headline, the table and its notes."""
    found = read(comparison)
    notes: dict[str, int] = {}
    metered = any(row.energy for row in found.verdicts)
    rows = [{cell.label: cell.text for cell in cells_of(row, notes, metered)} for row in found.verdicts]
    shown = [name for name in _COLUMNS if any(row.get(name) for row in rows)]
    lines = [
        f"**{_plain(found.recommendation.headline or '')}**",
        "",
        _row(shown),
        _row("---" for _ in shown),
        *(_row(row.get(name, "") for name in shown) for row in rows),
    ]
    if notes:
        lines += ["", *(f"[{n}] {_plain(reason)}  " for reason, n in notes.items())]
    return "\n".join(lines)


def _row(texts: Any) -> str:
    return f"| {' | '.join(_plain(text) for text in texts)} |"


def _plain(text: str) -> str:
    """The text, escaped so that Markdown shows it as it is, within one cell."""
    text = clean(text).replace("\n", " ")
    text = "".join(f"\\{c}" if c in "\\`*_{}[]<>|#&~$@" else c for c in text)
    # What looks like an address becomes a link by itself.
    return text.replace("://", "\\://").replace("www.", "www\\.")
