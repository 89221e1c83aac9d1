"""Runs a trial: one child process, in one precision, watched until it ends, however it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from halfstep.files import opened
from halfstep.processes import ENDING
from halfstep.record import Record, number
from halfstep.record.events import Step, fault
from halfstep.trials.fresh import fresh_folder
from halfstep.trials.job import Job, Trial
from halfstep.trials.outcome import Outcome, Status, outcome_of
from halfstep.trials.place import ANYWHERE, Place, Stop
from halfstep.trials.process import Guard, Tree, new_mark, start

_POLL = 0.1
_POLL_MEMORY = 0.02

OnStep = Callable[[int, "float | None", "float | None"], None]


def run_trial(
    job: Job, trial: Trial, on_step: OnStep, place: Place = ANYWHERE, stop: Stop | None = None
) -> Outcome:
    """Run a trial to its end, and leave no process of it running. Whatever the program does, this raises nothing.

    Args:
        on_step: called with (steps so far, last loss, seconds of the last step) now and then.
        place: where it runs; this thread runs there already.
        stop: ends it, where it does not run in the main thread.
    """
    started = time.monotonic()
    stopped: Status | None = None
    by = "Ctrl-C"
    stop = stop or Stop()
    try:
        job.record(trial).parent.mkdir(parents=True, exist_ok=True)
        for earlier in job.records(trial):  # else they would count as this run's, if it wrote none
            earlier.unlink(missing_ok=True)
        log = open(job.log(trial), "wb")  # noqa: SIM115
    except OSError as error:
        reason = f"it was not run, as its folder cannot be written ({error.strerror})"
        return Outcome(trial, "damaged", reason, None, Record(job.record(trial)))
    with contextlib.ExitStack() as ended, log, Signals() as signals:
        mark = new_mark()
        guard = Guard(mark, job.record(trial))
        guard.begin()
        try:
            folder = ended.enter_context(fresh_folder(job.fresh, job.folder))
            child, tree = start(
                job.command(trial, folder), place.around(job.environment(trial)), log, mark, folder
            )
        except OSError as error:
            guard.close()
            reason = f"it could not be started ({error.strerror})"
            return Outcome(trial, "failed", reason, None, Record(job.record(trial)))
        guard.tell(child.pid)
        stop.begin(mark)
        try:
            with signals.raised():
                stopped = _watch(child, tree, job, _Tail(job.record(trial), on_step), started, stop)
                tree.end()
        except KeyboardInterrupt as interrupt:
            stopped, by = "interrupted", str(interrupt) or by
            with contextlib.suppress(KeyboardInterrupt), signals.raised():
                tree.end(signal.SIGINT)
        finally:
            tree.kill()
            guard.close()
            stop.ended(mark)
        if signals.came and stopped is None:
            stopped, by = "interrupted", signals.came[0]
    outcome = outcome_of(job, trial, child.returncode, stopped, by)
    outcome.seconds = time.monotonic() - started
    return outcome


class Signals:
    """Lets Ctrl-C, and the other signals of :data:`~halfstep.processes.ENDING`, end a trial.

    The terminal's signals do not reach the trial itself, which would go on alone. While a trial is being started or
    ended the signals wait; they interrupt only :meth:`raised`. In other threads than the main one, and for signals that
    have another handler, this does nothing.

    Attributes:
        came: the names of the signals that came and were not raised yet.
    """

    def __init__(self) -> None:
        self.came: list[str] = []
        self._open = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            ours = (signal.SIG_DFL, signal.default_int_handler)
            self._before = {n: h for n in ENDING if (h := signal.getsignal(n)) in ours}
            for which in self._before:
                signal.signal(which, self._come)
        return self

    def __exit__(self, *exception: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _come(self, which: int, frame: Any) -> None:
        self.came.append("Ctrl-C" if which == signal.SIGINT else signal.Signals(which).name)
        if self._open:
            self._raise()

    def _raise(self) -> None:
        self._open = False
        raise KeyboardInterrupt(self.came.pop())

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Within this context a signal, also one that came before, raises KeyboardInterrupt with its name, once."""
        self._open = True
        try:
            if self.came:
                self._raise()
            yield
        finally:
            self._open = False


def _watch(
    child: subprocess.Popen[bytes], tree: Tree, job: Job, tail: _Tail, started: float, stop: Stop
) -> Status | None:
    while True:
        stop.check()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_POLL if job.memory_limit is None else _POLL_MEMORY)
            tail.read()
            return None
        tail.read()
        tree.look()
        if job.memory_limit is not None and tree.resident() > job.memory_limit:
            tree.kill()
            return "out_of_memory"
        if job.time_limit is not None and time.monotonic() - started > job.time_limit:
            tree.end(signal.SIGTERM)
            return "timed_out"


class _Tail:
    """Reads a growing record for the progress display."""

    def __init__(self, path: Path, on_step: OnStep) -> None:
        self._path = path
        self._on_step = on_step
        self._offset = 0
        self._steps = 0

    def read(self) -> None:
        with contextlib.suppress(OSError):
            with opened(self._path) as file:
                file.seek(self._offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in self._steps_in(whole):
                self._steps += 1
                self._on_step(self._steps, number(line.get("loss")), line.get("seconds"))

    @staticmethod
    def _steps_in(text: bytes) -> Iterator[Step]:
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == "step" and not fault(event):
                    yield cast(Step, event)
