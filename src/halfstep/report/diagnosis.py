"""A diagnosis as text: the findings in plain words, then the layers that matter with their exponents."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from halfstep.module_names import shown
from halfstep.report import units
from halfstep.report.diagnosis_spark import LEGEND, ruler, spark
from halfstep.report.layout import Sheet
from halfstep.report.plain import clean, finite, integer, table, tables, text, texts

_INDENT = 3
#: layers shown at most; all are in the JSON
_SHOWN = 14
KIND_WORDS = {
    "overflow": "overflow",
    "underflow": "underflow",
    "nan_source": "NaN begins",
    "domain_error": "outside its domain",
    "epsilon_lost": "epsilon lost",
    "lost_update": "lost updates",
    "saturated_sum": "a sum that stops growing",
    "scale_collapse": "loss scale collapses",
}
PARTS = {
    "inputs": "inputs of products", "activations": "activations", "gradients": "gradients", "weights": "weights",
    "updates": "updates",
}  # fmt: skip
Raw = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """What ``halfstep diagnose`` prints at its end."""

    diagnosis: Raw
    page: Path | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(Sheet(options.max_width, options.ascii_only))

    def lines(self, sheet: Sheet) -> Iterator[Text]:
        """The lines, each at most as wide as the sheet."""
        yield from _heading(self.diagnosis, sheet)
        for number, finding in enumerate(tables(self.diagnosis, "findings"), start=1):
            yield Text()
            yield from _finding(number, finding, sheet)
        yield from _layers(self.diagnosis, sheet)
        yield from _notes(self.diagnosis, sheet)
        yield from self._farewell(sheet)

    def _farewell(self, sheet: Sheet) -> Iterator[Text]:
        yield Text()
        page = "" if self.page is None else str(self.page)
        for name, said in (("page", page), ("next", next_command(self.diagnosis))):
            if said:
                yield from sheet.flow([Text(name, "dim"), *sheet.words(clean(said), "cyan")], 5)


def view(diagnosis: Raw, page: Path | None = None) -> View:
    """A rich renderable of the object that ``halfstep diagnose --json`` writes."""
    return View(diagnosis, page)


def headline(diagnosis: Raw) -> str:
    """The outcome in a sentence."""
    count, steps = len(tables(diagnosis, "findings")), integer(diagnosis, "steps") or 0
    precision = text(diagnosis, "precision")
    if not count:
        return f"Nothing wrong was found with the numbers of {units.count(steps, 'step')} in {precision}."
    skipped = integer(diagnosis, "skipped_steps") or 0
    rest = f", {skipped} of them skipped" if skipped else ""
    return f"{units.count(count, 'finding')} in {units.count(steps, 'step')} in {precision}{rest}, the worst first."


def _heading(diagnosis: Raw, sheet: Sheet) -> Iterator[Text]:
    yield from sheet.flow(sheet.words(headline(diagnosis), "bold"))


def _finding(number: int, raw: Raw, sheet: Sheet) -> Iterator[Text]:
    mine = raw.get("fault") == "precision"
    yield from sheet.flow(
        [
            Text(f"{number} "),
            Text(title(raw), "bold red" if mine else "bold yellow"),
            *sheet.words(where(raw)),
        ],
        _INDENT,
    )
    lines = [
        (raw_line, style)
        for raw_line, style in ((place(raw), "dim"), (text(raw, "evidence"), ""))
        if raw_line
    ]
    for said, style in lines:
        yield from sheet.flow(sheet.words(said, style), _INDENT, _INDENT)
    also = texts(raw, "also")
    if also:
        more = f"also in {', '.join(map(shown, also[:4]))}{', …' if len(also) > 4 else ''}"
        yield from sheet.flow(sheet.words(more, "dim"), _INDENT, _INDENT)
    for way in tables(raw, "remedies"):
        yield from sheet.flow(_way(way, sheet), _INDENT + 2, _INDENT)


def title(raw: Raw) -> str:
    """The kind of a finding in words."""
    return KIND_WORDS.get(text(raw, "kind"), text(raw, "kind"))


def where(raw: Raw) -> str:
    """``in blocks.3.attn, bmm, forward, step 12``."""
    step = integer(raw, "step")
    module = text(raw, "where")
    parts = [
        f"in {shown(module)}" if module else "outside of modules",
        text(raw, "operation"),
        text(raw, "direction"),
    ]
    return ", ".join([part for part in parts if part] + ([] if step is None else [f"step {step + 1}"]))


def place(raw: Raw) -> str:
    """The line of the program, and its text."""
    source, code = text(raw, "source"), text(raw, "code")
    return f"{source}  {code}" if source else ""


def _way(raw: Raw, sheet: Sheet) -> list[Text]:
    works = raw.get("works")
    mark = {True: Text("works:", "green"), False: Text("fails:", "red")}.get(works, Text("remedy:", "green"))  # type: ignore[arg-type]
    recipe = text(raw, "recipe")
    found = [mark, *sheet.words(text(raw, "text") + (":" if recipe else ""))]
    if recipe:
        found += [Text(f"--precision {recipe}", "cyan")]
    return found + sheet.words(f"({text(raw, 'outcome')})" if text(raw, "outcome") else "", "dim")


def _layers(diagnosis: Raw, sheet: Sheet) -> Iterator[Text]:
    rows = chosen(diagnosis)
    if not rows:
        return
    names = max(min(max(cell_len(text(row, "module")) for row in rows), sheet.width // 3), 6)
    width = 16 if sheet.width < 100 else 24
    kinds = [kind for kind in PARTS if kind != "inputs" or any(table(row, kind) for row in rows)]
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
    hidden = len(tables(diagnosis, "layers")) - len(rows)
    more = f"{units.count(hidden, 'layer')} more in the page and the JSON. " if hidden > 0 else ""
    yield from sheet.flow(sheet.words(more + LEGEND, "dim"))
    yield from _scale(diagnosis, sheet)


def _cut(line: Text, sheet: Sheet) -> Text:
    line.rstrip()
    line.truncate(sheet.width)
    return line


def _layer(row: Raw, kinds: Sequence[str], names: int, width: int, sheet: Sheet) -> Text:
    name = text(row, "module") or "(outside)"
    name = name if cell_len(name) <= names else sheet.spell("…") + name[-(names - 1) :]
    line = Text(name.ljust(names + 2))
    for kind in kinds:
        part = table(row, kind)
        line.append_text(spark(part, width, sheet.ascii_only))
        lost = (finite(part.get("flushed")) or 0.0) + (finite(part.get("overflowing")) or 0.0)
        line.append(f" {units.percent(lost):>5}  " if lost else " " * 8, "red" if lost > 0.01 else "dim")
    return line


def chosen(diagnosis: Raw) -> list[Raw]:
    """The layers that matter: those of findings, then those nearest to the edges of their format; in their order."""
    rows = tables(diagnosis, "layers")
    named = {m for f in tables(diagnosis, "findings") for m in (text(f, "where"), *texts(f, "also"))}

    def edge(row: Raw) -> tuple[bool, float]:
        parts = [table(row, kind) for kind in PARTS]
        lost = max(
            (finite(part.get(k)) or 0.0 for part in parts for k in ("flushed", "overflowing")), default=0.0
        )
        return text(row, "module") not in named, -lost

    kept = sorted(range(len(rows)), key=lambda n: edge(rows[n]))[:_SHOWN]
    return [rows[n] for n in sorted(kept)]


def _scale(diagnosis: Raw, sheet: Sheet) -> Iterator[Text]:
    scale = table(diagnosis, "loss_scale")
    low, high, advised = (finite(scale.get(key)) for key in ("low", "high", "advised"))
    if low is None or high is None or advised is None:
        return
    if scale.get("serves_all"):
        said = (
            f"Loss scale: {units.loss_scale(low)} to {units.loss_scale(high)} serves every layer; "
            f"{units.loss_scale(advised)} leaves room for growth."
        )
    else:
        said = (
            f"Loss scale: no one scale serves every layer fully; up to {units.loss_scale(high)} none overflows, and "
            f"{units.loss_scale(low)} would be needed by the one with the smallest gradients."
        )
    yield from sheet.flow(sheet.words(said))


def _notes(diagnosis: Raw, sheet: Sheet) -> Iterator[Text]:
    reference = table(diagnosis, "reference")
    told = list(texts(diagnosis, "notes"))
    if reference and integer(reference, "steps"):
        told.insert(0, "shares are of the numbers as fp32 has them, before this precision rounds them")
    ran_as = text(diagnosis, "ran_as")
    if told or ran_as:
        said = "; ".join([*([f"ran as {ran_as}"] if ran_as else []), *told])
        yield from sheet.flow(sheet.words(said[:1].upper() + said[1:] + ".", "dim"))


def next_command(diagnosis: Raw) -> str:
    """What to type next: the remedy that works, a trial of the remedies, or a comparison."""
    program, precision = list(texts(table(diagnosis, "program"), "command")), text(diagnosis, "precision")
    ways = [
        way for f in tables(diagnosis, "findings")[:1] for way in tables(f, "remedies") if text(way, "recipe")
    ]
    works = next((text(way, "recipe") for way in ways if way.get("works")), "")
    here = ["--emulate"] * bool(diagnosis.get("emulated"))
    here += ["--as-on", as_on] if (as_on := text(diagnosis, "as_on")) else []
    if works:
        return shlex.join(["halfstep", "compare", *here, "--precisions", f"fp32,{works}", *program])
    if ways and all(way.get("works") is None for way in ways):
        return shlex.join(
            ["halfstep", "diagnose", *here, "--precision", precision, "--try-remedies", *program]
        )
    if tables(diagnosis, "findings"):
        return ""
    chosen = [] if precision == "fp32" else ["--precisions", f"fp32,{precision}"]
    return shlex.join(["halfstep", "compare", *here, *chosen, *program])
