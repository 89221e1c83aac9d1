"""The comparison as text for a terminal of any width: one row per precision, then warnings and advice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from halfstep.codec import clean
from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.processes import join_words
from halfstep.report import units
from halfstep.report.grid import grid
from halfstep.report.layout import Sheet, brief
from halfstep.report.progress import Progress as Progress
from halfstep.report.reading import budget_to_give, budget_words, offers_budget, read, run_command, unfinished
from halfstep.words.fit import did_not_fit

_INDENT = 4
#: a ratio without an interval that is below this is called slower
PLAINLY_SLOWER = 0.9
#: how many shares of a step are shown here; the page has them all
_SHARES = 3


@dataclass(frozen=True)
class Summary:
    """What `halfstep compare` prints at its end, as lines that fit the console."""

    comparison: Comparison
    page: Path | None = None
    next_command: str | None = None
    output: Path | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(Sheet(options.max_width, options.ascii_only))

    def lines(self, sheet: Sheet) -> Iterator[Text]:
        """The lines of the summary, each at most as wide as the sheet, except those to be copied."""
        yield from grid(self.comparison, sheet)
        yield from _fit(self.comparison, sheet)
        yield from _warnings(self.comparison, sheet)
        yield from _unfinished(self.comparison, sheet)
        yield from _budget(self.comparison, sheet)
        yield from _advice(self.comparison, sheet)
        yield from _reasons(self.comparison, sheet)
        yield from self._farewell(sheet)

    def _farewell(self, sheet: Sheet) -> Iterator[Text]:
        command = self._next() if self.next_command is None else self.next_command
        page = "" if self.page is None else str(self.page)
        output = "" if self.output is None else str(self.output)
        last = {"output": output, "page": page, "next": command}
        yield from [Text()] * any(last.values())
        for name, text in last.items():
            if text:
                yield sheet.whole(name, clean(text), "cyan")

    def _next(self) -> str:
        """The command to type next; in the folder that the comparison was started in, if that is another one."""
        directory = Path(self.comparison.program.cwd)
        elsewhere = directory.is_absolute() and directory.is_dir() and not directory.samefile(".")
        command = run_command(self.comparison)
        if self.page is not None and (self.comparison.missing or offers_budget(self.comparison)):
            folder = self.page.parent.absolute() if elsewhere else self.page.parent
            budget = [] if self.comparison.missing else ["--budget", budget_to_give(self.comparison)]
            command = join_words(["halfstep", "compare", "--resume", str(folder), *budget])
        return f"cd {join_words([str(directory)])} && {command}" if elsewhere and command else command


def table(
    comparison: Mapping[str, Any], page: Path | None = None, next_command: str | None = None
) -> Summary:
    """A rich renderable of the comparison: rows, what ran, advice, the page's path and the next command.

    If a trial failed, also the file with the output of the first such trial. Unless ``next_command`` is given, halfstep
    chooses it; an empty one is left out.
    """
    return Summary(
        read(comparison), page, next_command, None if page is None else _output(comparison, page.parent)
    )


def _output(comparison: Mapping[str, Any], folder: Path) -> Path | None:
    """The file with the output of the first trial that failed."""
    trials = comparison.get("trials")
    for trial in trials if isinstance(trials, list) else []:
        if isinstance(trial, dict) and trial.get("status") == "failed" and isinstance(trial.get("log"), str):
            return folder / str(trial["log"])
    return None


def _reasons(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    """Why a precision does not pay: the largest shares of its step, and the facts."""
    for row in comparison.verdicts:
        shares = [reason for reason in row.why_no_faster if reason.share is not None]
        facts = [reason for reason in row.why_no_faster if reason.share is None]
        if shares or facts:
            yield Text()
            yield from sheet.flow(sheet.words(why(row), "bold"))
        for reason in shares[:_SHARES]:
            lead = Text(f"{units.percent(reason.share or 0.0):>5}", "dim")
            yield from sheet.flow([lead, *sheet.words(reason.text)], _INDENT + 4, 2)
        for reason in facts:
            yield from sheet.flow([Text("    -"), *sheet.words(reason.text)], _INDENT + 4, 2)


def why(row: PrecisionRow) -> str:
    """The heading of the reasons why a precision does not pay."""
    speed = row.speed_ratio
    if speed is None or (speed.low is None and speed.value >= PLAINLY_SLOWER):
        said = "is not known to be faster"
    elif speed.low is None:
        said = "was slower"
    elif speed.significant is not True:
        said = "is not clearly faster"
    else:
        said = "gains little" if speed.value > 1 else "is slower"
    return f"Why {row.precision} {said}"


def _fit(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    """The largest batch that fits each precision."""
    fit = comparison.fit_batch
    if fit is None:
        return
    yield Text()
    limit = "" if fit.memory_limit_bytes is None else f" into {units.bytes_(fit.memory_limit_bytes)}"
    yield from sheet.flow(sheet.words(f"Largest batch that fits{limit}, by {fit.argument}", "bold"))
    widest = max((len(row.precision) for row in fit.rows), default=0)
    for row in fit.rows:
        ratio = "" if row.ratio is None or row is fit.rows[0] else f", {units.ratio(row.ratio)}"
        found = "none" if row.largest is None else f"{row.largest:,} {fit.name}{ratio}"
        failed = did_not_fit(row.fails_at) if row.fails_at and row.largest else ""
        why_not = "; ".join(part for part in (failed, row.reason) if part)
        lead = Text(sheet.spell(f"{row.precision:<{widest}} "))
        yield from sheet.flow(
            [lead, *sheet.words(found), *sheet.words(f"({why_not})" if why_not else "", "dim")], _INDENT, 2
        )


def _warnings(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    """Each warning once, with the precisions that it is about."""
    about: dict[str, list[str]] = {}
    for row in comparison.verdicts:
        for warning in row.warnings:
            about.setdefault(warning, []).append(row.precision)
    yield from [Text()] * bool(about)
    for warning, precisions in about.items():
        lead = [Text("warning:", "yellow"), *sheet.words(f"{', '.join(dict.fromkeys(precisions))}:", "bold")]
        yield from sheet.flow([*lead, *sheet.words(warning)], _INDENT)


def _unfinished(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    if comparison.missing:
        yield Text()
        yield from sheet.flow(sheet.words(unfinished(comparison.missing), "bold yellow"), _INDENT)


def _budget(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    """What was dropped and why, why a comparison with a budget ended, and what is open."""
    dropped = [(row.precision, row.reason) for row in comparison.verdicts if row.status == "dropped"]
    sentences = budget_words(comparison)
    yield from [Text()] * bool(sentences)
    for name, reason in dropped:
        yield from sheet.flow([*sheet.words(f"{name} dropped:", "bold"), *sheet.words(reason)], _INDENT)
    for words in sentences:
        yield from sheet.flow(sheet.words(words), _INDENT)


def _advice(comparison: Comparison, sheet: Sheet) -> Iterator[Text]:
    yield Text()
    advice = comparison.recommendation
    yield from sheet.flow(sheet.words(advice.text, "bold" if advice.decided else "bold yellow"))
    # The reasons why a precision is no faster are all listed below.
    for reason in advice.reasons:
        if reason.evidence.field != "why_no_faster":
            yield from sheet.flow([Text("-"), *sheet.words(brief(reason.text))], _INDENT, 2)
