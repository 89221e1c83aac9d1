"""What runs on a machine of a cluster: one trial at a time; its files are sent back while it runs."""

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
    """Bytes that a trial wrote into the file ``name`` of its folder, starting at ``offset``."""

    name: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Ended:
    """How a trial ended: the fields of :class:`~halfstep.trials.Outcome`."""

    status: Status
    reason: str
    exit_code: int | None
    seconds: float


@dataclass(frozen=True)
class News:
    """What happened since the last news: (last step, its loss, its seconds), what was written, and the end."""

    step: tuple[int, float | None, float | None] | None = None
    written: tuple[Written, ...] = ()
    ended: Ended | None = None


class Node:
    """A machine, or a share of one, that runs the trials of a block."""

    def __init__(self) -> None:
        self._stop = Stop()
        self._thread: threading.Thread | None = None
        self._folder = Path()
        self._sent: dict[str, int] = {}
        self._steps: queue.Queue[tuple[int, float | None, float | None]] = queue.Queue()
        self._outcome: Outcome | BaseException | None = None

    def about(self) -> object:
        """This machine as JSON of a comparison's ``environment``: another version of halfstep may read it."""
        return codec.write(this_machine())

    def begin(self, job: Job, trial: Trial) -> None:
        """Run a trial in a thread.

        Args:
            job: what to run; its folder is on the other machine, so a temporary folder of this one is used.
        """
        self._stop, self._outcome, self._sent = Stop(), None, {}
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
        """What happened since the last call; once the trial has ended, its folder is removed.

        Raises:
            BaseException: halfstep itself failed while it ran the trial.
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
            sent, size = self._sent.get(path.name, 0), path.stat().st_size
            if path.name in self._sent and size == sent:
                continue
            offset = sent if size >= sent else 0  # a smaller file is a new one
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(_MOST)
            self._sent[path.name] = offset + len(data)
            found.append(Written(path.name, offset, data))
        return tuple(found)
