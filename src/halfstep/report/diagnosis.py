"""A diagnosis as text: the findings in plain words, then the layers that matter with their exponents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from halfstep.codec import clean, read
from halfstep.diagnosis.events import NumberKind
from halfstep.diagnosis.model import Diagnosis, Finding, LayerPart, LayerRow, Remedy
from halfstep.precisions.loss_scale import scale_words
from halfstep.processes import join_words
from halfstep.report import units
from halfstep.report.diagnosis_spark import LEGEND, ruler, spark
from halfstep.report.layout import Sheet
from halfstep.report.words.diagnosis import KIND_WORDS
from halfstep.words.module_names import shown
from halfstep.words.plural import capitalized, count

_INDENT = 3
#: layers shown at most; all are in the JSON
_SHOWN = 14
#: the name of what was computed outside of every module
OUTSIDE = "(outside)"

PARTS: dict[NumberKind, str] = {
    "inputs": "inputs of products", "activations": "activations", "gradients": "gradients", "weights": "weights",
    "updates": "updates",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """What ``halfstep diagnose`` prints at its end."""

    diagnosis: Diagnosis  #: what was found
    page: Path | None = None  #: where it is drawn
    commands: bool = True  #: whether to print the next command to type

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(Sheet(options.max_width, options.ascii_only))

    def lines(self, sheet: Sheet) -> Iterator[Text]:
        """The lines, each at most as wide as the sheet, except those to be copied."""
        yield from sheet.flow(sheet.words(headline(self.diagnosis), "bold"))
        for number, finding in enumerate(self.diagnosis.findings, start=1):
            yield Text()
            yield from _finding(number, finding, sheet)
        yield from _layers(self.diagnosis, sheet)
        yield from _notes(self.diagnosis, sheet)
        yield from self._farewell(sheet)

    def _farewell(self, sheet: Sheet) -> Iterator[Text]:
        yield Text()
        page = "" if self.page is None else str(self.page)
        command = next_command(self.diagnosis) if self.commands else ""
        for name, said in (("page", page), ("next", command)):
            if said:
                yield sheet.whole(name, clean(said), "cyan")


def view(diagnosis: Mapping[str, Any], page: Path | None = None, commands: bool = True) -> View:
    """A rich renderable of the object that ``halfstep diagnose --json`` writes."""
    return View(read(Diagnosis, diagnosis), page, commands)


def headline(diagnosis: Diagnosis) -> str:
    """The outcome in a sentence."""
    found, steps = len(diagnosis.findings), count(diagnosis.steps or 0, "step")
    if not found:
        return f"Nothing wrong was found with the numbers of {steps} in {diagnosis.precision}."
    rest = f", {diagnosis.skipped_steps} of them skipped" if diagnosis.skipped_steps else ""
    return f"{count(found, 'finding')} in {steps} in {diagnosis.precision}{rest}, the worst first."


def _finding(number: int, row: Finding, sheet: Sheet) -> Iterator[Text]:
    style = "bold red" if row.fault == "precision" else "bold yellow"
    lead = [Text(f"{number} "), Text(title(row), style), *sheet.words(where(row))]
    yield from sheet.flow(lead, _INDENT)
    for said, style in ((place(row), "dim"), (row.evidence, "")):
        if said:
            yield from sheet.flow(sheet.words(said, style), _INDENT, _INDENT)
    if row.also:
        more = f"also in {', '.join(map(shown, row.also[:4]))}{', …' if len(row.also) > 4 else ''}"
        yield from sheet.flow(sheet.words(more, "dim"), _INDENT, _INDENT)
    for way in row.remedies:
        yield from sheet.flow(_way(way, sheet), _INDENT + 2, _INDENT)


def title(row: Finding) -> str:
    """The kind of a finding in words."""
    return KIND_WORDS.get(row.kind, row.kind)


def where(row: Finding) -> str:
    """``in blocks.3.attn, bmm, forward, step 12``."""
    parts = [f"in {shown(row.where)}" if row.where else "outside of modules", row.operation, row.direction]
    step = [] if row.step is None else [f"step {row.step + 1}"]
    return ", ".join([part for part in parts if part] + step)


def place(row: Finding) -> str:
    """The line of the program, and its text."""
    return f"{row.source}  {row.code}" if row.source else ""


def _way(way: Remedy, sheet: Sheet) -> list[Text]:
    mark = {True: Text("works:", "green"), False: Text("fails:", "red"), None: Text("remedy:", "green")}
    found = [mark[way.works], *sheet.words(way.text + (":" if way.recipe else ""))]
    if way.recipe:
        found += [Text(f"--precision {way.recipe}", "cyan")]
    return found + sheet.words(f"({way.outcome})" if way.outcome else "", "dim")


def _layers(diagnosis: Diagnosis, sheet: Sheet) -> Iterator[Text]:
    rows = chosen(diagnosis)
    if not rows:
        return
    names = max(min(max(cell_len(row.module or OUTSIDE) for row in rows), sheet.width // 3), 6)
    width = 16 if sheet.width < 100 else 24
    kinds = [kind for kind in PARTS if kind != "inputs" or any(row.inputs for row in rows)]
    kinds = kinds[: max(1, min(4, (sheet.width - names) // (width + 10)))]
    yield Text()
    head = Text("layer".ljust(names + 2), "dim")
    for kind in kinds:
        head.append(f"{PARTS[kind]:<{width + 8}}", "dim")
    yield _cut(head, sheet)
    axis = Text(" " * (names + 2), "dim")
    for _ in kinds:
        axis.append(ruler(width).ljust(width + 8), "dim")
    yield _cut(axis, sheet)
    for row in rows:
        yield _cut(_layer(row, kinds, names, width, sheet), sheet)
    hidden = len(diagnosis.layers) - len(rows)
    more = f"{count(hidden, 'layer')} more in the page and the JSON. " if hidden > 0 else ""
    yield from sheet.flow(sheet.words(more + LEGEND, "dim"))
    yield from _scale(diagnosis, sheet)


def _cut(line: Text, sheet: Sheet) -> Text:
    line.rstrip()
    line.truncate(sheet.width)
    return line


def _layer(row: LayerRow, kinds: Sequence[NumberKind], names: int, width: int, sheet: Sheet) -> Text:
    name = row.module or OUTSIDE
    name = name if cell_len(name) <= names else sheet.spell("…") + name[-(names - 1) :]
    line = Text(name.ljust(names + 2))
    for kind in kinds:
        part = row.part(kind) or LayerPart()
        line.append_text(spark(part, width, sheet.ascii_only))
        lost = part.gone
        line.append(f" {units.percent(lost):>5}  " if lost else " " * 8, "red" if lost > 0.01 else "dim")
    return line


def chosen(diagnosis: Diagnosis) -> list[LayerRow]:
    """The layers to show: those of findings, then those whose formats lose most numbers; in their own order."""
    rows = diagnosis.layers
    named = {module for f in diagnosis.findings for module in (f.where, *f.also)}

    def edge(row: LayerRow) -> tuple[bool, float]:
        parts = [part for kind in PARTS if (part := row.part(kind)) is not None]
        lost = max((x or 0.0 for part in parts for x in (part.flushed, part.overflowing)), default=0.0)
        return row.module not in named, -lost

    kept = sorted(range(len(rows)), key=lambda n: edge(rows[n]))[:_SHOWN]
    return [rows[n] for n in sorted(kept)]


def _scale(diagnosis: Diagnosis, sheet: Sheet) -> Iterator[Text]:
    scale = diagnosis.loss_scale
    if scale is None or scale.advised is None:
        return
    low, high = scale_words(scale.low), scale_words(scale.high)
    if scale.serves_all:
        said = (
            f"Loss scale: {low} to {high} serves every layer; "
            f"{scale_words(scale.advised)} leaves room for growth."
        )
    else:
        said = (
            f"Loss scale: no one scale serves every layer fully; up to {high} none overflows, and "
            f"{low} would be needed by the one with the smallest gradients."
        )
    yield from sheet.flow(sheet.words(said))


def _notes(diagnosis: Diagnosis, sheet: Sheet) -> Iterator[Text]:
    notes = [f"ran as {diagnosis.ran_as}"] if diagnosis.ran_as else []
    if diagnosis.reference and diagnosis.reference.steps:
        notes.append("shares are of the numbers as fp32 has them, before this precision rounds them")
    if notes := [*notes, *diagnosis.notes]:
        yield from sheet.flow(sheet.words(capitalized("; ".join(notes)) + ".", "dim"))


def next_command(diagnosis: Diagnosis) -> str:
    """What to type next: a comparison with the remedy that works, a trial of the remedies, or a comparison."""
    program, precision = diagnosis.program.command, diagnosis.precision
    ways = [way for f in diagnosis.findings[:1] for way in f.remedies if way.recipe]
    works = next((way.recipe for way in ways if way.works), "")
    here = ["--emulate"] * diagnosis.emulated
    here += ["--as-on", diagnosis.as_on] if diagnosis.as_on else []
    if works:
        return join_words(["halfstep", "compare", *here, "--precisions", f"fp32,{works}", *program])
    if ways and all(way.works is None for way in ways):
        return join_words(
            ["halfstep", "diagnose", *here, "--precision", precision, "--try-remedies", *program]
        )
    if diagnosis.findings:
        return ""
    chosen = [] if precision == "fp32" else ["--precisions", f"fp32,{precision}"]
    return join_words(["halfstep", "compare", *here, *chosen, *program])
