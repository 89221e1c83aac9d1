"""Shows trials while they run: as bars on a terminal, elsewhere as one line at the start and the end of each."""

from __future__ import annotations

from collections.abc import Sized
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from halfstep.codec import clean
from halfstep.comparison.model.budget import Budget
from halfstep.comparison.model.recommendation import Prefer
from halfstep.report import units
from halfstep.report.layout import brief
from halfstep.report.words.budget import open_words
from halfstep.words.plural import count

#: a terminal with so many columns has room for a bar and the time left, or for everything
_WIDE, _WIDEST = 80, 110


class _Display(Protocol):
    """How progress is shown: as bars, or as lines."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def plan(self, trials: int) -> None: ...
    def begin(self, label: str, steps: int | None) -> None: ...
    def advance(self, label: str, step: int, said: str) -> None: ...
    def finish(self, label: str, status: str, words: str) -> None: ...
    def note(self, words: str) -> None: ...


class Progress:
    """Shows trials as they run; a context manager.

    On a console that is not a terminal it prints a line when a trial begins and one when it ends, and no bars.
    """

    def __init__(self, console: Console) -> None:
        self._display: _Display = Live(console) if console.is_terminal else Lines(console)
        self._open = ""

    def __enter__(self) -> Progress:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def plan(self, trials: int | Sized) -> None:
        """Set how many trials there are, by number or as a list; again when one is added."""
        self._display.plan(trials if isinstance(trials, int) else len(trials))

    def begin(self, trial_label: str, steps: int | None) -> None:
        """A trial begins; `steps` is how many it will make, None if that is not known."""
        self._display.begin(clean(trial_label), steps)

    def advance(self, label: str, step: int, loss: float | None, seconds: float | None) -> None:
        """A trial has made `step` steps; the last had this loss and took so many seconds."""
        said = "" if loss is None else f"loss {units.number(loss)}"
        if seconds is not None:
            said += f"{'  ' if said else ''}{units.seconds(seconds)} per step"
        self._display.advance(clean(label), step, said)

    def finish(self, label: str, status: str, words: str) -> None:
        """A trial has ended, with its status and a few words."""
        self._display.finish(clean(label), clean(status), brief(clean(words)))

    def stand(self, budget: Budget, prefer: Prefer) -> None:
        """Show what is still open, if that has changed."""
        words = open_words(budget, prefer)
        if words and words != self._open:
            self._display.note(clean(words))
        self._open = words


def _ending(label: str, status: str, words: str) -> Text:
    style = "green" if status == "ok" else "yellow" if status == "unsupported" else "red"
    said = Text.assemble((units.status(status), style), f"  {label}", no_wrap=True, overflow="fold")
    return said.append(f": {words}", "dim") if words else said


class Lines:
    """Progress for a pipe or a file: whole lines, in order, nothing redrawn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._trials = 0
        self._begun = 0

    def start(self) -> None:
        """Nothing to set up."""

    def stop(self) -> None:
        """Nothing to take down."""

    def plan(self, trials: int) -> None:
        """Remember how many trials there are."""
        self._trials = trials

    def begin(self, label: str, steps: int | None) -> None:
        """Print that a trial begins."""
        self._begun += 1
        # The plan does not count the trials that search the largest batch.
        planned = self._begun <= self._trials
        number = f"{self._begun} of {self._trials}" if planned else f"{self._begun}"
        self._say(f"trial {number}: {label}" + ("" if steps is None else f", {count(steps, 'step')}"))

    def advance(self, label: str, step: int, said: str) -> None:
        """Print nothing: a log wants no line per step."""

    def finish(self, label: str, status: str, words: str) -> None:
        """Print how a trial ended."""
        self._say(_ending(label, status, words).plain)

    def note(self, words: str) -> None:
        """Print what is said between trials."""
        self._say(words)

    def _say(self, line: str) -> None:
        encoding = self._console.encoding
        shown = line.encode(encoding, "replace").decode(encoding)
        self._console.print(Text(shown), soft_wrap=True)


class Live:
    """Progress for a terminal: a bar for all trials and one for the trial that runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # A narrow terminal gets fewer columns instead of truncated ones.
        wide, widest = console.width >= _WIDE, console.width >= _WIDEST
        label = Column(no_wrap=True, overflow="ellipsis", max_width=max(20, console.width // 4))
        self._bars = Bars(
            SpinnerColumn("line" if console.options.ascii_only else "dots"),
            TextColumn("{task.description}", markup=False, table_column=label),
            *([BarColumn(bar_width=24 if widest else 8)] if wide else []),
            TextColumn("{task.fields[said]}", markup=False, style="dim"),
            *([TimeElapsedColumn()] if widest else []),
            *([TimeRemainingColumn()] if wide else []),
            console=console,
            transient=True,
        )
        self._all: TaskID | None = None
        self._running: dict[str, tuple[TaskID, int | None]] = {}
        self._finished = 0
        self._trials = 0

    def start(self) -> None:
        """Begin drawing."""
        self._bars.start()

    def stop(self) -> None:
        """End drawing; the bars leave the screen, the lines of finished trials stay."""
        self._bars.stop()

    def plan(self, trials: int) -> None:
        """Draw the bar for all trials, or draw it longer."""
        self._trials = trials
        if self._all is None:
            self._all = self._bars.add_task("trials", total=trials, said="")
        self._bars.update(self._all, total=trials, said=f"{self._finished} of {trials}")

    def begin(self, label: str, steps: int | None) -> None:
        """Draw the bar of a trial; it pulses where the number of steps is not known."""
        self._running[label] = (self._bars.add_task(label, total=steps, said="starting"), steps)

    def advance(self, label: str, step: int, said: str) -> None:
        """Move a trial's bar, and the bar for all by the same part of a trial."""
        if label not in self._running:
            return
        task, steps = self._running[label]
        total = "" if steps is None else f"/{steps}"
        self._bars.update(task, completed=step, said=f"{step}{total}  {said}")
        if self._all is not None and steps:
            self._bars.update(self._all, completed=self._finished + min(step / steps, 1.0))

    def finish(self, label: str, status: str, words: str) -> None:
        """Take a trial's bar away and leave a line in its place."""
        if label in self._running:
            self._bars.remove_task(self._running.pop(label)[0])
        self._finished += 1
        if self._all is not None:
            said = f"{self._finished} of {max(self._trials, self._finished)}"
            self._bars.update(self._all, completed=self._finished, said=said)
        self._console.print(_ending(label, status, words))

    def note(self, words: str) -> None:
        """Leave a line above the bars."""
        self._console.print(Text(words, "dim"))
