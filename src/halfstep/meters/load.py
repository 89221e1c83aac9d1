"""What else the machine did while a program trained: processor time of other processes, and waits of the program.

Linux only: ``/proc/stat`` has the processors' busy time, and ``schedstat`` how long each thread stood ready to run
while another ran (``run_delay`` in Documentation/scheduler/sched-stats of the kernel).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from halfstep.meters.reading import Absent
from halfstep.processes import allowed_cores, clock_ticks, involuntary_switches

_PROC = Path("/proc")

#: the columns of /proc/stat that are no work: idle, and waiting for a disk
_IDLE = (3, 4)


@dataclass(frozen=True)
class Load:
    """Seconds since some moment of the past; only differences mean anything."""

    wall: float  #: on a monotonic clock
    busy: float  #: of all processors that this process may run on, summed
    own: float  #: processor time of this process, all threads
    children: float  #: processor time of the processes that it has started, and theirs
    waited: float  #: how long its threads stood ready while other work ran, summed over threads
    switches: int  #: how often a thread lost its processor although it had work to do


class LoadMeter:
    """What other processes took of the machine between :meth:`start` and the last :meth:`mark`."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._cores = allowed_cores()
        self._first: Load | Absent = Absent(
            "the program ended before the meters were started, in its third step"
        )
        self._last: Load | Absent = self._first

    def start(self) -> None:
        """The warm-up is over."""
        self._first = self._last = self._now()

    def mark(self) -> None:
        """A step has ended: what happens after the last step does not count."""
        if isinstance(self._first, Load):
            self._last = self._now()

    def read(self) -> dict[str, object]:
        """The fields of the record's ``end``: ``load``, in seconds, or ``load_absent``."""
        if self._last is self._first:
            self.mark()  # it trained for less than a second
        first, last = self._first, self._last
        if isinstance(first, Absent) or isinstance(last, Absent):
            return {"load_absent": next(x.reason for x in (first, last) if isinstance(x, Absent))}
        own, children = last.own - first.own, max(0.0, last.children - first.children)
        return {
            "load": {
                "wall_seconds": last.wall - first.wall,
                "cores": len(self._cores) or os.cpu_count() or 1,
                "own_seconds": own,
                "children_seconds": children,
                "others_seconds": max(0.0, last.busy - first.busy - own - children),
                "waited_seconds": max(0.0, last.waited - first.waited),  # a thread takes its waits along
                "involuntary_switches": last.switches - first.switches,
            }
        }

    def _now(self) -> Load | Absent:
        try:
            busy = self._busy((self._proc / "stat").read_text()) / clock_ticks()
            waited, switches = self._of_threads()
        except FileNotFoundError:
            return Absent("only Linux reports what other processes take")
        except (OSError, ValueError, KeyError) as error:
            return Absent(f"this system does not report what other processes take ({error})")
        return Load(time.perf_counter(), busy, time.process_time(), self._of_children(), waited, switches)

    def _busy(self, stat: str) -> int:
        """Clock ticks of work on the processors that this process may run on; work on other processors does not count.

        The first line sums all processors, each further line is one processor. User time includes the time of virtual
        machines, so only the first eight columns are summed.
        """
        lines = {name: columns for name, *columns in map(str.split, filter(None, stat.splitlines()))}
        own = [f"cpu{core}" for core in self._cores]
        some = own and len(own) < sum(name[:3] == "cpu" for name in lines) - 1
        return sum(
            int(x)
            for name in (own if some else ["cpu"])
            for i, x in enumerate(lines[name][:8])
            if i not in _IDLE
        )

    def _of_threads(self) -> tuple[float, int]:
        """(seconds waited, involuntary switches) of all threads that this process has now."""
        waited = 0.0
        for thread in (self._proc / "self" / "task").iterdir():
            try:
                waited += int((thread / "schedstat").read_text().split()[1]) / 1e9
            except FileNotFoundError:  # it has just ended
                continue
        return waited, involuntary_switches()

    def _of_children(self) -> float:
        """Processor time of the processes that this one has started, including those that have ended."""
        times = os.times()
        ticks = sum(map(self._ticks, self._started_by("self")))
        return times.children_user + times.children_system + ticks / clock_ticks()

    def _started_by(self, pid: str) -> list[str]:
        """The processes that ``pid`` has started, and theirs; faster than a look at all processes."""
        try:
            lists = [
                (thread / "children").read_text().split() for thread in (self._proc / pid / "task").iterdir()
            ]
        except OSError:  # it has just ended, or this kernel has no such list
            return []
        started = [child for each in lists for child in each]
        return [*started, *(further for child in started for further in self._started_by(child))]

    def _ticks(self, pid: str) -> int:
        """Processor time of one process in clock ticks: columns 14 and 15, which follow a name that may hold spaces."""
        try:
            columns = (self._proc / pid / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return int(columns[11]) + int(columns[12])
