"""The table in the terminal: one row per precision, each figure over its interval, at any width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.cells import cell_len
from rich.text import Text

from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.report import stored, units
from halfstep.report.columns import COLUMNS, ENERGY_COLUMNS, FINAL_LOSS, Column
from halfstep.report.layout import Cell, Sheet, brief, folded
from halfstep.report.reading import loss_words, no_interval
from halfstep.words.plural import count

_INDENT = 4
_UNSURE = "not significant"
#: columns that a precision's name may take beside the figures, at least, and as a share of the sheet's width
_NAME, _NAME_SHARE = 12, 4


def grid(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    """The lines of the table: as many columns as fit, the most important first; the rest of each row is below it."""
    if not comparison.verdicts:
        yield Text("No verdicts: the comparison holds no precision.")
        return
    notes: dict[str, int] = {}
    metered = any(row.energy for row in comparison.verdicts)
    rows = [[sheet.spelled(cell) for cell in cells_of(row, notes, metered)] for row in comparison.verdicts]
    names, *figures = zip(*rows, strict=True)
    widths = [_name_width(names, sheet), *map(_width, figures)]
    shown = sheet.fitting(widths)
    yield from sheet.row([Cell("", cell.label, "dim") for cell in rows[0][:shown]], widths[:shown])
    for row, cells in zip(comparison.verdicts, rows, strict=True):
        yield from _stacked(cells[:shown], widths[:shown], sheet)
        reason = [Cell("", brief(row.reason), words=True)] if row.reason else []
        below = [cell for cell in cells[shown:] if cell.text and not cell.of_column]
        yield from sheet.flow(sheet.pieces([*below, *reason]), _INDENT, _INDENT)
    yield from _notes(notes, sheet)
    yield from _no_energy(comparison, metered, sheet)


def _width(column: tuple[Cell, ...]) -> int:
    return max(cell_len(line) for cell in column for line in (cell.label, *cell.lines))


def _name_width(names: tuple[Cell, ...], sheet: Sheet) -> int:
    """The width of the first column; longer names get their own lines, so that the figures keep their room."""
    most = max(_NAME, sheet.width // _NAME_SHARE)
    return max(w for cell in names for w in (cell_len(cell.label), cell_len(cell.text)) if w <= most)


def _stacked(cells: list[Cell], widths: list[int], sheet: Sheet) -> Iterator[Text]:
    """A row of figures, with their intervals in the line below, and "not significant" below that."""
    name, *figures = cells
    if cell_len(name.text) > widths[0]:
        yield from folded(Text(name.text, name.style, no_wrap=True), sheet.width)
        cells = [Cell("", ""), *figures] if figures else []
    if not cells:
        return
    for depth in range(max(len(cell.lines) for cell in cells)):
        line = [
            Cell("", cell.lines[depth], "dim" if depth else cell.style)
            if depth < len(cell.lines)
            else Cell("", "")
            for cell in cells
        ]
        yield from sheet.row(line, widths)


def cells_of(row: PrecisionRow, notes: dict[str, int], metered: bool) -> list[Cell]:
    """The cells of a row, the most important first."""
    colour = {"ok": "green", "unsupported": "yellow", "dropped": "yellow"}.get(row.status, "red")
    skipped = "" if row.skipped_steps is None else count(row.skipped_steps, "step")
    return [
        Cell("precision", row.precision, "bold"),
        *(_cell(column, row, notes) for column in (*COLUMNS, *ENERGY_COLUMNS * metered)),
        Cell("status", units.status(row.status), colour, of_column=row.status == "ok"),
        _cell(FINAL_LOSS, row, notes),
        Cell("loss", loss_words(row), words=True),
        Cell("skipped", skipped, of_column=not row.skipped_steps),
        Cell("ran as", row.ran_as or "", words=True),
        Cell("stored", stored.words(row.held), words=True),
    ]


def _cell(column: Column, row: PrecisionRow, notes: dict[str, int]) -> Cell:
    return _ratio(column, row, notes) if column.is_ratio else _figure(column, row, notes)


def _figure(column: Column, row: PrecisionRow, notes: dict[str, int]) -> Cell:
    """A figure over its interval; an absent figure or interval has the number of a note with the reason."""
    figure, absent = column.figure(row), column.absent(row)
    if figure is None:
        below = absent == row.reason  # the row's reason is printed below it
        text = "absent" if below else f"absent [{_note(notes, absent or '')}]"
        return Cell(column.name, text, "dim", of_column=below)
    flat = units.pm(figure.value, figure.low, figure.high, column.unit)
    if figure.low is None or figure.high is None:
        return Cell(column.name, f"{flat} [{_note(notes, no_interval(row, figure))}]")
    interval = units.span(figure.value, figure.low, figure.high, column.unit)
    return Cell(column.name, flat, stack=(units.quantity(figure.value, column.unit), interval))


def _ratio(column: Column, row: PrecisionRow, notes: dict[str, int]) -> Cell:
    """A ratio to the baseline: coloured if it is significant; otherwise dim, and marked as not significant."""
    if row.is_baseline:
        return Cell(column.name, "baseline", "dim", of_column=True)
    cell, figure = _figure(column, row, notes), column.figure(row)
    if figure is None:
        return cell
    if not isinstance(figure, Ratio) or figure.significant is not True:
        # Without an interval nothing was tested; the note says why there is none.
        said = (_UNSURE,) * (figure.low is not None and figure.high is not None)
        return Cell(column.name, ", ".join([cell.text, *said]), "dim", stack=(*cell.lines, *said))
    better = figure.value > 1 if column.higher_is_better else figure.value < 1
    return Cell(column.name, cell.text, "green" if better else "red", stack=cell.stack)


def _note(notes: dict[str, int], reason: str) -> int:
    return notes.setdefault(reason, len(notes) + 1)


def _notes(notes: Mapping[str, int], sheet: Sheet) -> Iterator[Text]:
    yield from [Text()] * bool(notes)
    for reason, n in notes.items():
        yield from sheet.flow([Text(f"[{n}]", "dim"), *sheet.words(brief(reason), "dim")], _INDENT)


def _no_energy(comparison: Comparison, metered: bool, sheet: Sheet) -> Iterator[Text]:
    """If energy was not metered, there is no column for it, and one line says why."""
    reasons = (row.energy_absent for row in comparison.verdicts if row.energy is None and row.measured)
    reason = next(reasons, "")
    if reason and not metered:
        yield Text()
        yield from sheet.flow(sheet.words(f"energy not measured: {reason}", "dim"), _INDENT)
