"""Shows each trial of a comparison, and keeps what it wrote on disk, wherever the trial runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from halfstep.comparison import archive
from halfstep.comparison.model.budget import Budget
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.request import Request
from halfstep.trials import Job, Outcome, Trial
from halfstep.trials.progress import TrialDisplay
from halfstep.words.plural import count


class Display(TrialDisplay, Protocol):
    """Shows the progress of a comparison."""

    def plan(self, trials: Sequence[str]) -> None:
        """These trials are to be run; called again when one is added."""

    def stand(self, budget: Budget, prefer: Prefer) -> None:
        """With a budget, before each trial but the first: what is open, and how long that will take."""


class Disk:
    """Writes files; a missing folder or a full disk is reported once, and does not end the comparison."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._reported = ""

    def keep(self, write: Callable[..., object], *args: Any) -> None:
        """Call ``write(*args)``; the trials go on if it fails."""
        try:
            write(*args)
        except OSError as error:
            why = error.strerror or type(error).__name__
            if why != self._reported:
                self._reported = why
                self._display.finish(
                    "the folder", "not written", f"{why}; make room, then go on with --resume"
                )


class Work:
    """Shows each trial, and keeps what it wrote.

    Args:
        pending: the trials that have not begun.
        display, disk: where they are shown and kept.
        known_steps: how many steps a trial will make; None if that is not known.
    """

    def __init__(
        self,
        request: Request,
        pending: Sequence[Trial],
        display: Display,
        disk: Disk,
        known_steps: int | None = None,
    ) -> None:
        self._request, self._pending, self._display, self._disk = request, pending, display, disk
        self.known_steps = known_steps or request.options.steps
        #: how many further trials will certainly be added to the pending ones
        self.more = 0
        self._begun: list[str] = []
        self._where: dict[Trial, Request] = {}

    def begin(self, trial: Trial) -> Job:
        """The trial is about to run; the files of an earlier run of it are kept until this one has ended."""
        self._begun.append(trial.label)
        self._display.plan([*self._begun, *(t.label for t in self._pending), *[""] * self.more])
        self._display.begin(trial.label, self.known_steps)
        again = archive.has_ended(self._request, trial)
        where = self._where[trial] = archive.beside(self._request) if again else self._request
        self._disk.keep(archive.forget, where, trial)
        return where.job

    def stand(self, budget: Budget) -> None:
        """Show what is open of a comparison with a budget."""
        self._display.stand(budget, self._request.prefer)

    def advance(self, trial: Trial, step: int, loss: float | None, seconds: float | None) -> None:
        """It has made a step."""
        self._display.advance(trial.label, step, loss, seconds)

    def lose(self, trial: Trial) -> None:
        """The machine that ran it is gone; it will be run again."""
        del self._where[trial]
        self._begun.remove(trial.label)
        self._display.finish(trial.label, "lost", "the machine that ran it is gone; its block is run again")

    def end(self, outcome: Outcome) -> None:
        """It has ended."""
        where = self._where.pop(outcome.trial)
        self._disk.keep(archive.keep, where, outcome)
        if where is not self._request:
            self._disk.keep(archive.replace_trial, self._request, outcome)
        if outcome.status == "ok":
            self.known_steps = len(outcome.record.steps)
        words = outcome.reason or f"{count(len(outcome.record.steps), 'step')} in {outcome.seconds:.0f} s"
        self._display.finish(outcome.trial.label, outcome.status, words)
