"""What runs on a machine of a cluster: one trial at a time. What it writes is sent on as it comes."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from halfstep import codec
from halfstep.comparison.environment import this_machine
from halfstep.trials import Job, Outcome, Trial, run_trial
from halfstep.trials.outcome import Status
from halfstep.trials.place import ANYWHERE, Stop

#: seconds for which :meth:`Node.news` waits for news
WAIT = 0.5

#: bytes of a file that are sent at once, at most
_MOST = 2**24


@dataclass(frozen=True)
class Written:
    """Bytes that a trial wrote into the file ``name`` of its folder, from ``offset`` on."""

    name: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Ended:
    """How a trial ended, as :class:`~halfstep.trials.Outcome` has it."""

    status: Status
    reason: str
    exit_code: int | None
    seconds: float


@dataclass(frozen=True)
class News:
    """What happened since the last news: the last step with its loss and seconds, what was written, and the end."""

    step: tuple[int, float | None, float | None] | None = None
    written: tuple[Written, ...] = ()
    ended: Ended | None = None


class Node:
    """A machine, or a share of one, that runs the trials of a block."""

    def __init__(self) -> None:
        self._stop = Stop()
        self._thread: threading.Thread | None = None
        self._folder = Path()
        self._told: dict[str, int] = {}
        self._steps: queue.Queue[tuple[int, float | None, float | None]] = queue.Queue()
        self._outcome: Outcome | BaseException | None = None

    def about(self) -> object:
        """This machine as the ``environment`` of a comparison's JSON, which another version of halfstep reads, too."""
        return codec.write(this_machine())

    def begin(self, job: Job, trial: Trial) -> None:
        """Run a trial in a thread.

        Args:
            job: its folder is of the machine that asks: what is written goes to a temporary one of this machine.
            trial: which one.
        """
        self._stop, self._outcome, self._told = Stop(), None, {}
        self._folder = Path(tempfile.mkdtemp(prefix="halfstep-"))
        here = replace(job, folder=self._folder)

        def run() -> None:
            try:
                self._outcome = run_trial(here, trial, lambda *s: self._steps.put(s), ANYWHERE, self._stop)
            except BaseException as error:  # raised by :meth:`news`, where the trial was asked for
                self._outcome = error

        self._thread = threading.Thread(target=run, name=trial.label)
        self._thread.start()

    def stop(self, by: str) -> None:
        """Ask the trial to end; at the second call, end it at once."""
        self._stop.tell(by)

    def news(self) -> News:
        """What happened since the last call; after its end the trial's folder is gone.

        Raises:
            BaseException: what the run of the trial raised, which is a fault of halfstep.
        """
        assert self._thread is not None
        self._thread.join(WAIT)
        if self._thread.is_alive():
            return News(self._last_step(), self._written())
        step, written = self._last_step(), self._written()
        if any(len(each.data) == _MOST for each in written):
            return News(step, written)  # there is more to send before the end
        shutil.rmtree(self._folder, ignore_errors=True)
        if not isinstance(self._outcome, Outcome):
            assert self._outcome is not None
            raise self._outcome
        o = self._outcome
        return News(step, written, Ended(o.status, o.reason, o.exit_code, o.seconds))

    def _last_step(self) -> tuple[int, float | None, float | None] | None:
        step = None
        while not self._steps.empty():
            step = self._steps.get()
        return step

    def _written(self) -> tuple[Written, ...]:
        found = []
        for path in sorted((self._folder / "trials").glob("*")):
            told, size = self._told.get(path.name, 0), path.stat().st_size
            if path.name in self._told and size == told:
                continue
            offset = told if size >= told else 0  # it was written anew
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(_MOST)
            self._told[path.name] = offset + len(data)
            found.append(Written(path.name, offset, data))
        return tuple(found)
