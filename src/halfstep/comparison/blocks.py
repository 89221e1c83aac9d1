"""Who runs the trials: one after the other, or blocks side by side.

A block is one seed and repeat in all precisions. It runs in one place, so that its ratios are of the same device.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from halfstep.comparison.work import Work
from halfstep.trials import Job, Outcome, Trial
from halfstep.trials.place import Place, Stop
from halfstep.trials.run import OnStep, Signals, run_trial

#: seconds between two looks for signals, and for what threads have told
_POLL = 0.1


class InTurn:
    """One trial after the other, on the whole machine.

    Args:
        run: runs one.

    Attributes:
        interrupted: whether Ctrl-C, or what else ends a trial, came: in a trial, or between two.
    """

    def __init__(self, run: Callable[[Job, Trial, OnStep], Outcome]) -> None:
        self._run = run
        self.interrupted = False

    def run(self, pending: list[Trial], work: Work) -> Iterator[Outcome]:
        """Run what is pending, in its order, until one is interrupted; what is added meanwhile is run, too."""
        while pending:
            trial = pending.pop(0)
            outcome = self._run(work.begin(trial), trial, functools.partial(work.advance, trial))
            self.interrupted = outcome.status == "interrupted"
            # Ctrl-C now, while the verdicts are made and written, lets them be finished.
            with Signals() as signals:
                work.end(outcome)
                yield outcome
            self.interrupted = self.interrupted or bool(signals.came)
            if self.interrupted:
                return


Step = tuple[int, "float | None", "float | None"]
Told = tuple[int, "Outcome | Step | BaseException"]


class SideBySide:
    """Blocks side by side, each in a place of its own and in a thread that waits for its trials.

    Threads tell what happens through a queue; Ctrl-C and the display are this thread's.

    Attributes:
        interrupted: as :class:`InTurn` has it.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._told: queue.Queue[Told] = queue.Queue()
        self._stop = Stop()
        self.interrupted = False
        #: of each block, the index of its place
        self._at: dict[tuple[int, int], int] = {}

    def run(self, pending: list[Trial], work: Work) -> Iterator[Outcome]:
        """As :meth:`InTurn.run`, in the order in which trials end."""
        running: dict[int, tuple[Trial, threading.Thread]] = {}
        try:
            with Signals() as signals:
                while True:
                    for at in range(len(self._places)):
                        if (
                            at not in running
                            and not self.interrupted
                            and (trial := self._next(pending, at)) is not None
                        ):
                            running[at] = trial, self._start(at, work.begin(trial), trial)
                    if not running:
                        return
                    if (outcome := self._wait(running, work)) is not None:
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

    def _next(self, pending: list[Trial], at: int) -> Trial | None:
        """The next trial of a block that runs in this place; where there is none, of one that runs nowhere yet."""
        own = [t for t in pending if self._at.get((t.seed, t.repeat)) == at]
        free = [t for t in pending if (t.seed, t.repeat) not in self._at]
        if not own and not free:
            return None
        trial = (own or free)[0]
        self._at[trial.seed, trial.repeat] = at
        pending.remove(trial)
        return trial

    def _start(self, at: int, job: Job, trial: Trial) -> threading.Thread:
        place = self._places[at]

        def run() -> None:
            try:
                place.enter()
                told = run_trial(job, trial, lambda *step: self._told.put((at, step)), place, self._stop)
                self._told.put((at, told))
            except BaseException as error:  # raised where the comparison is run
                self._told.put((at, error))

        thread = threading.Thread(target=run, name=trial.label)
        thread.start()
        return thread

    def _wait(self, running: dict[int, tuple[Trial, threading.Thread]], work: Work) -> Outcome | None:
        """Take what a thread has told, if anything; the outcome of a trial that has ended."""
        try:
            at, told = self._told.get(timeout=_POLL)
        except queue.Empty:
            return None
        trial, thread = running[at]
        if isinstance(told, tuple):
            work.advance(trial, *told)
            return None
        thread.join()
        del running[at]
        if isinstance(told, BaseException):
            raise told
        work.end(told)
        return told


def in_order(outcomes: Sequence[Outcome], recipes: Sequence[str]) -> list[Outcome]:
    """Outcomes in the order in which the trials would have run one after the other."""
    known = {recipe: i for i, recipe in enumerate(recipes)}
    return sorted(
        outcomes, key=lambda o: (o.trial.repeat, o.trial.seed, known.get(o.trial.precision, len(known)))
    )
