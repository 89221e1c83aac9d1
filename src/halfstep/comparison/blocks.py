"""Runs trials one after the other, or in blocks side by side.

A block is one seed and repeat in all precisions. It runs in one place, so that its ratios compare the same device.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from halfstep.comparison.work import Work
from halfstep.errors import HalfstepError
from halfstep.trials import Job, Outcome, Trial
from halfstep.trials.place import Place, Stop
from halfstep.trials.run import OnStep, Signals, run_trial

#: seconds between two looks for signals, and for messages of the threads
_POLL = 0.1

#: so often a block may lose the machine that it runs on
_MOST_LOSSES = 3


class InTurn:
    """One trial after the other, on the whole machine.

    Attributes:
        interrupted: whether Ctrl-C, or another signal that ends a trial, came during a trial or between two.
    """

    #: how many trials run when the next one is chosen
    running = 0

    def __init__(self, run: Callable[[Job, Trial, OnStep], Outcome]) -> None:
        self._run = run
        self.interrupted = False

    def run(self, pending: list[Trial], work: Work) -> Iterator[Outcome]:
        """Run the pending trials in order, until one is interrupted; trials added meanwhile are run, too."""
        while pending:
            trial = pending.pop(0)
            outcome = self._run(work.begin(trial), trial, functools.partial(work.advance, trial))
            self.interrupted = outcome.status == "interrupted"
            # If Ctrl-C comes now, while the verdicts are made and written, they are finished first.
            with Signals() as signals:
                work.end(outcome)
                yield outcome
            self.interrupted = self.interrupted or bool(signals.came)
            if self.interrupted:
                return


Step = tuple[int, "float | None", "float | None"]
#: (index of a place, what happened to its trial)
Message = tuple[int, "Outcome | Step | BaseException"]


class Runner(Protocol):
    """Runs the trials of blocks in one place, one at a time."""

    def run(self, job: Job, trial: Trial, on_step: OnStep, stop: Stop) -> Outcome:
        """As :func:`~halfstep.trials.run_trial`, in its own thread.

        Raises:
            PlaceLost: the machine is gone, and the trial with it.
        """


class PlaceLost(Exception):
    """The machine that ran a trial is gone; ``back``: whether another one has replaced it."""

    def __init__(self, back: bool) -> None:
        super().__init__()
        self.back = back


@dataclass(frozen=True)
class Here:
    """A part of this machine."""

    place: Place

    def run(self, job: Job, trial: Trial, on_step: OnStep, stop: Stop) -> Outcome:
        """As :meth:`Runner.run`; this machine is never lost."""
        self.place.enter()
        return run_trial(job, trial, on_step, self.place, stop)


class SideBySide:
    """Blocks side by side, each in its own place, and with a thread that waits for its trials.

    The threads report through a queue; this thread handles Ctrl-C and the display. A block whose place is lost is run
    again from its beginning in another place, so that all its trials run on one device.

    Attributes:
        interrupted: as in :class:`InTurn`.
    """

    def __init__(self, places: Sequence[Runner]) -> None:
        self._places = dict(enumerate(places))
        #: index of a place in use -> its trial, and the thread that waits for the trial
        self._running: dict[int, tuple[Trial, threading.Thread]] = {}
        self._messages: queue.Queue[Message] = queue.Queue()
        self._stop = Stop()
        self.interrupted = False
        #: block -> the index of its place, its trials that were begun there, how often it was lost
        self._at: dict[tuple[int, int], int] = {}
        self._begun: dict[tuple[int, int], list[Trial]] = {}
        self._losses: dict[tuple[int, int], int] = {}

    @property
    def running(self) -> int:
        """How many trials run."""
        return len(self._running)

    def run(self, pending: list[Trial], work: Work) -> Iterator[Outcome]:
        """As :meth:`InTurn.run`, in the order in which trials end; a trial of a lost block may end twice.

        Raises:
            HalfstepError: no place is left, or a block was lost too often.
        """
        running = self._running
        try:
            with Signals() as signals:
                while True:
                    for at in self._places:
                        if (
                            at not in running
                            and not self.interrupted
                            and (trial := self._next(pending, at)) is not None
                        ):
                            running[at] = trial, self._start(at, work.begin(trial), trial)
                    if not running:
                        self._check(pending)
                        return
                    if (outcome := self._wait(pending, work)) is not None:
                        self.interrupted = self.interrupted or outcome.status == "interrupted"
                        yield outcome
                    if signals.came:
                        self.interrupted = True
                        self._stop.tell(signals.came.pop(0))
        finally:
            if running:
                self._stop.tell("an error")
                for _, thread in running.values():
                    thread.join()
                running.clear()

    def _next(self, pending: list[Trial], at: int) -> Trial | None:
        """The next trial of a block that runs in this place; if there is none, of a block that runs nowhere yet."""
        own = [t for t in pending if self._at.get((t.seed, t.repeat)) == at]
        free = [t for t in pending if (t.seed, t.repeat) not in self._at]
        if not own and not free:
            return None
        trial = (own or free)[0]
        self._at[trial.seed, trial.repeat] = at
        self._begun.setdefault((trial.seed, trial.repeat), []).append(trial)
        pending.remove(trial)
        return trial

    def _check(self, pending: Sequence[Trial]) -> None:
        """Raise HalfstepError if trials are left and no place to run them."""
        if pending and not self._places and not self.interrupted:
            raise HalfstepError(
                f"All machines were lost before {pending[0].label} could run; go on with --resume."
            )

    def _start(self, at: int, job: Job, trial: Trial) -> threading.Thread:
        place = self._places[at]

        def run() -> None:
            try:
                outcome = place.run(job, trial, lambda *step: self._messages.put((at, step)), self._stop)
                self._messages.put((at, outcome))
            except BaseException as error:  # raised where the comparison is run
                self._messages.put((at, error))

        thread = threading.Thread(target=run, name=trial.label)
        thread.start()
        return thread

    def _wait(self, pending: list[Trial], work: Work) -> Outcome | None:
        """Handle one message of a thread, if there is one; returns the outcome of a trial that has ended."""
        try:
            at, message = self._messages.get(timeout=_POLL)
        except queue.Empty:
            return None
        trial, thread = self._running[at]
        if isinstance(message, tuple):
            work.advance(trial, *message)
            return None
        thread.join()
        del self._running[at]
        if isinstance(message, PlaceLost):
            self._lost(trial, at, message, pending, work)
            return None
        if isinstance(message, BaseException):
            raise message
        work.end(message)
        return message

    def _lost(self, trial: Trial, at: int, lost: PlaceLost, pending: list[Trial], work: Work) -> None:
        """Put the block of a trial whose place is lost back among the pending trials."""
        work.lose(trial)
        if not lost.back:
            del self._places[at]
        block = trial.seed, trial.repeat
        self._losses[block] = self._losses.get(block, 0) + 1
        if self._losses[block] == _MOST_LOSSES:
            raise HalfstepError(
                f"{trial.label} was lost {_MOST_LOSSES} times with the machine that ran it, the last time after "
                f"{trial.precision} had begun; look there for a lack of memory, then go on with --resume."
            )
        pending[:0] = self._begun.pop(block)
        for each in [b for b, where in self._at.items() if b == block or where not in self._places]:
            del self._at[each]


def in_order(outcomes: Sequence[Outcome], recipes: Sequence[str]) -> list[Outcome]:
    """Outcomes in the order in which the trials would have run one after the other."""
    known = {recipe: i for i, recipe in enumerate(recipes)}
    return sorted(
        outcomes, key=lambda o: (o.trial.repeat, o.trial.seed, known.get(o.trial.precision, len(known)))
    )
