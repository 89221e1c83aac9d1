"""The comparison as text: a row a precision, whole figures at any width, plain words on any terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from halfstep.report import units
from halfstep.report.layout import Cell, Sheet
from halfstep.report.parts import STATUS_WORDS, Absent, Comparison, Figure, Row
from halfstep.report.plain import clean
from halfstep.report.progress import Progress as Progress
from halfstep.report.reading import read

_INDENT = 4
#: what needs its column to be read; beneath a row it is left out
_SAYS_NOTHING = ("", "baseline", "absent", "0 steps")


@dataclass(frozen=True)
class Summary:
    """What `halfstep compare` prints at its end; rich asks it for lines that fit the console."""

    comparison: Comparison
    page: Path | None = None
    next_command: str | None = None
    output: Path | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(Sheet(options.max_width, options.ascii_only))

    def lines(self, sheet: Sheet) -> Iterator[Text]:
        """The lines of the summary, each at most as wide as the sheet."""
        yield from _rows(self.comparison, sheet)
        yield from _warnings(self.comparison, sheet)
        yield from _advice(self.comparison, sheet)
        yield from self._farewell(sheet)

    def _farewell(self, sheet: Sheet) -> Iterator[Text]:
        command = self.comparison.run_command if self.next_command is None else self.next_command
        page = "" if self.page is None else str(self.page)
        output = "" if self.output is None else str(self.output)
        told = [
            (name, said) for name, said in (("output", output), ("page", page), ("next", command)) if said
        ]
        yield from [Text()] * bool(told)
        for name, said in told:
            yield from sheet.flow([Text(name, "dim"), *sheet.words(clean(said), "cyan")], _INDENT + 1)


def table(
    comparison: Mapping[str, Any], page: Path | None = None, next_command: str | None = None
) -> Summary:
    """A rich renderable of the comparison: rows, what ran, advice, the page's path and the next command.

    Where a trial failed, also the file that holds what the first such trial printed. The next command is, unless
    given, the program in the advised precision; an empty one is left out.
    """
    return Summary(
        read(comparison), page, next_command, None if page is None else _output(comparison, page.parent)
    )


def _output(comparison: Mapping[str, Any], folder: Path) -> Path | None:
    """What the first trial that failed has printed."""
    trials = comparison.get("trials")
    for trial in trials if isinstance(trials, list) else []:
        if isinstance(trial, dict) and trial.get("status") == "failed" and isinstance(trial.get("log"), str):
            return folder / str(trial["log"])
    return None


def _rows(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    """The table: as many columns as fit, the weightiest first; the rest of each row flows beneath it."""
    if not comparison.rows:
        yield Text("No verdicts: the comparison holds no precision.")
        return
    notes: dict[str, int] = {}
    grid = [[sheet.spelled(cell) for cell in _cells(row, notes)] for row in comparison.rows]
    columns = list(zip(*grid, strict=True))
    widths = [
        max(cell_len(word) for cell in column for word in (cell.label, cell.text)) for column in columns
    ]
    shown = sheet.fitting(widths)
    yield from sheet.row([Cell("", cell.label, "bold") for cell in grid[0][:shown]], widths[:shown])
    for row, cells in zip(comparison.rows, grid, strict=True):
        yield from sheet.row(cells[:shown], widths[:shown])
        reason = [Cell("", row.reason, words=True)] if row.reason else []
        beneath = [cell for cell in cells[shown:] if cell.text not in _SAYS_NOTHING]
        yield from sheet.flow(sheet.pieces([*beneath, *reason]), _INDENT, _INDENT)
    yield from _notes(notes, sheet)


def _cells(row: Row, notes: dict[str, int]) -> list[Cell]:
    """The figures of a row, the weightiest first."""
    return [
        Cell("precision", row.precision, "bold"),
        Cell("step time", *_figure(row, row.step_time, "s", notes)),
        Cell("speed", *_ratio(row, row.speed, notes, better=lambda x: x > 1)),
        Cell("status", *_status(row)),
        Cell("peak memory", *_figure(row, row.peak_memory, "B", notes)),
        Cell("memory ratio", *_ratio(row, row.memory_ratio, notes, better=lambda x: x < 1)),
        Cell("final loss", *_figure(row, row.final_loss, "", notes)),
        Cell("loss", row.loss_words, words=True),
        Cell("skipped", "" if row.skipped is None else units.count(row.skipped, "step")),
        Cell("ran as", row.ran_as, words=True),
    ]


def _figure(row: Row, figure: Figure | Absent, unit: str, notes: dict[str, int]) -> tuple[str, str]:
    """A figure and its style; what is absent, or has no interval, points to a note with the reason."""
    if isinstance(figure, Absent):
        told_beneath = figure.reason == row.reason
        return "absent" if told_beneath else f"absent [{_note(notes, figure.reason)}]", "dim"
    shown = units.pm(figure.value, figure.low, figure.high, unit)
    if figure.low is None or figure.high is None:
        why = "no interval: one trial" if row.trials == 1 else "no interval is recorded"
        return f"{shown} [{_note(notes, why)}]", ""
    return shown, ""


def _ratio(
    row: Row, figure: Figure | Absent, notes: dict[str, int], better: Callable[[float], bool]
) -> tuple[str, str]:
    if row.is_baseline:
        return "baseline", "dim"
    shown, style = _figure(row, figure, "×", notes)
    if isinstance(figure, Absent):
        return shown, style
    if figure.significant is not True:
        return f"{shown}, not significant", "dim"
    return shown, "green" if better(figure.value) else "red"


def _note(notes: dict[str, int], reason: str) -> int:
    return notes.setdefault(reason, len(notes) + 1)


def _status(row: Row) -> tuple[str, str]:
    words = STATUS_WORDS.get(row.status, row.status)
    return words, {"ok": "green", "unsupported": "yellow"}.get(row.status, "red")


def _notes(notes: Mapping[str, int], sheet: Sheet) -> Iterator[Text]:
    yield from [Text()] * bool(notes)
    for reason, n in notes.items():
        yield from sheet.flow([Text(f"[{n}]", "dim"), *sheet.words(reason, "dim")], _INDENT)


def _warnings(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    """Each warning once, with the precisions that it is about."""
    told: dict[str, list[str]] = {}
    for row in comparison.rows:
        for warning in row.warnings:
            told.setdefault(warning, []).append(row.precision)
    yield from [Text()] * bool(told)
    for warning, precisions in told.items():
        lead = [Text("warning:", "yellow"), *sheet.words(f"{', '.join(dict.fromkeys(precisions))}:", "bold")]
        yield from sheet.flow([*lead, *sheet.words(warning)], _INDENT)


def _advice(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    yield Text()
    yield from sheet.flow(sheet.words(comparison.advice, "bold"))
    for reason, _ in comparison.reasons:
        yield from sheet.flow([Text("-"), *sheet.words(reason)], _INDENT, 2)
