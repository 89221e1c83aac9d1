"""The progress of trials as values, for a program that shows it in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from halfstep.options import RunOptions


@dataclass(frozen=True)
class Progress:
    """Something that has happened in a comparison or a diagnosis.

    Attributes:
        what: ``plan``: the number of trials is known, or has changed; ``begin``: a trial begins; ``step``: it has made
            steps; ``end``: it has ended.
        trials: how many trials are planned.
        trial: the trial's name, e.g. ``bf16-seed0-repeat1``.
        step: how many steps it has made.
        steps: how many it will make; None where nobody knows.
        loss, seconds: of its last step; None where they are not known.
        status: how it ended: ``ok``, ``diverged``, ``failed`` …, as in the JSON.
        words: how it ended, for people.
    """

    what: Literal["plan", "begin", "step", "end"]
    trials: int = 0
    trial: str = ""
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    seconds: float | None = None
    status: str = ""
    words: str = ""


OnProgress = Callable[[Progress], object]


@dataclass(frozen=True, kw_only=True)
class CallOptions(RunOptions):
    """What a comparison and a diagnosis have in common.

    Attributes:
        args: the program's own arguments.
        module: ``program`` is a module's name, as for ``python -m``.
        progress: for a call from Python: True shows it on stderr as the command does; a function is called with it.
    """

    args: Sequence[str] = ()
    module: bool = False
    progress: bool | OnProgress = field(default=False, compare=False)


class TrialDisplay(Protocol):
    """Shows trials while they run; a trial is named by its label."""

    def begin(self, label: str, steps: int | None) -> None:
        """A trial begins; ``steps`` is how many it will make, if known."""

    def advance(self, label: str, step: int, loss: float | None, seconds: float | None) -> None:
        """It has made ``step`` steps; the last one had this loss and took so many seconds."""

    def finish(self, label: str, status: str, words: str) -> None:
        """It has ended, with a status of the JSON and a few words."""


class Announcer:
    """A display that calls a function with :class:`Progress` values; without a function it shows nothing."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self._on_progress = on_progress
        self._trials = 0
        self._steps: dict[str, int | None] = {}
        self._made: dict[str, int] = {}

    def plan(self, trials: Sequence[str]) -> None:
        """These trials are to be run (again, when one is added)."""
        self._trials = len(trials)
        self._tell(Progress("plan", self._trials))

    def begin(self, label: str, steps: int | None) -> None:
        """A trial begins; ``steps`` is how many it will make, if known."""
        self._steps[label], self._made[label] = steps, 0
        self._tell(Progress("begin", self._trials, label, steps=steps))

    def advance(self, label: str, step: int, loss: float | None, seconds: float | None) -> None:
        """It has made a step."""
        self._made[label] = step
        self._tell(Progress("step", self._trials, label, step, self._steps.get(label), loss, seconds))

    def finish(self, label: str, status: str, words: str) -> None:
        """It has ended."""
        made, steps = self._made.get(label, 0), self._steps.get(label)
        self._tell(Progress("end", self._trials, label, made, steps, status=status, words=words))

    def stand(self, budget: object, prefer: str) -> None:
        """Do nothing: what a comparison with a budget still has to find out is no event of a trial."""

    def _tell(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)
