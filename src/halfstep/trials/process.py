"""The processes of a trial: finds all descendants of its first process, and ends them.

A launcher may start workers in new sessions, and a worker whose parent has ended has no parent to be found by. So
descendants are found in three ways: by their parents, by a mark in the environment that they inherit, and by their
session. The search is repeated while the trial runs. It misses only a process that starts a new session with a new
environment and whose parent ends at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import IO

import psutil

from halfstep.processes import ask_to_end, in_session_of, start_apart
from halfstep.record.reader import KILLED

#: seconds that a program has to end by itself after it was asked to, before it is killed
GRACE = 8.0

#: seconds after a trial's end in which processes that it left running may end by themselves
_LEFT = 1.0

#: seconds that a killed process may take to disappear
_GOING = 5.0

_POLL = 0.05

#: seconds between two looks at all processes: each reads some files per process
_LOOK = 5.0

#: the variable that marks the processes of one trial
MARK = "HALFSTEP_TRIAL_MARK"


def new_mark() -> str:
    """A mark that no other trial has."""
    return secrets.token_hex(8)


def start(
    command: list[str], environment: dict[str, str], log: IO[bytes], mark: str, folder: Path | None = None
) -> tuple[subprocess.Popen[bytes], Tree]:
    """Start a trial, detached from the terminal and without stdin, in ``folder`` or the current folder.

    Raises:
        OSError: it cannot be started.
    """
    child = start_apart(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        folder=folder,
        environment={**environment, MARK: mark},
    )
    return child, Tree(child.pid, mark, child)


class Tree:
    """A trial's process and all that descend from it.

    Args:
        pid: the trial's first process; None where it is not known, so that only the mark identifies the processes.
        mark: in the environment of all of them.
        child: the first process if this process started it, and so has to wait for it.
    """

    def __init__(self, pid: int | None, mark: str, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.mark = mark
        self._child = child
        self._known: set[psutil.Process] = set()
        self._looked = time.monotonic()
        if pid is not None:
            with contextlib.suppress(psutil.Error):
                self._known.add(psutil.Process(pid))

    def running(self) -> list[psutil.Process]:
        """All that run now, including those seen earlier whose parents have ended."""
        if self._child is not None:
            self._child.poll()
        self._looked = time.monotonic()
        self._forget_gone()
        self._find()
        self._forget_gone()
        return list(self._known)

    def _forget_gone(self) -> None:
        self._known = {process for process in self._known if _runs(process)}

    def _find(self) -> None:
        leaders = {process.pid for process in self._known} | ({self.pid} if self.pid is not None else set())
        children: defaultdict[int, list[psutil.Process]] = defaultdict(list)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                children[process.ppid()].append(process)
                if self._is_ours(process, leaders):
                    self._known.add(process)
        parents = list(self._known)
        while parents:
            new = [child for child in children[parents.pop().pid] if child not in self._known]
            self._known.update(new)
            parents += new

    def _is_ours(self, process: psutil.Process, leaders: set[int]) -> bool:
        if process.pid == os.getpid():
            return False
        return in_session_of(process.pid, leaders) or process.environ().get(MARK) == self.mark

    def look(self) -> None:
        """Search for running processes, if the last search was some seconds ago."""
        if time.monotonic() - self._looked > _LOOK:
            self.running()

    def resident(self) -> int:
        """Bytes that they hold in physical memory."""
        with contextlib.suppress(
            psutil.Error
        ):  # descendants by their parents only: quick, as this is called often
            self._known.update(psutil.Process(self.pid).children(recursive=True))
        total = 0
        for process in self._known:
            with contextlib.suppress(psutil.Error):
                total += int(process.memory_info().rss)
        return total

    def end(self, first: signal.Signals | None = None) -> None:
        """Ask all to end, and kill those that still run after :data:`GRACE` seconds.

        Args:
            first: the signal that asks them; None where the trial has ended by itself: processes that it left running
                first get a moment to end by themselves.
        """
        if first is None and self._gone_within(_LEFT):
            return
        ask_to_end(self.running(), self.pid, first or signal.SIGTERM)
        self._gone_within(GRACE)
        self.kill()

    def kill(self) -> None:
        """Kill all, without asking."""
        # A process that is being killed may just have started another one.
        by = time.monotonic() + _GOING
        while not self._gone_within(0) and time.monotonic() < by:
            for process in self.running():
                with contextlib.suppress(psutil.Error, OSError):
                    process.kill()
            time.sleep(_POLL)
        if self._child is not None:
            self._child.poll()

    def _gone_within(self, seconds: float) -> bool:
        by = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > by:
                return False
            time.sleep(_POLL)
        return True


def _runs(process: psutil.Process) -> bool:
    """Whether it runs; a zombie, which has ended and waits for its parent, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Guard:
    """A process that ends the trial if halfstep is killed (SIGKILL calls no handler).

    It starts before the trial, so that the trial never runs without it. It waits at a pipe that only this process
    holds: the system closes the pipe, however this process ends. It then writes that into the trial's record, where a
    program that ends well on SIGTERM may have written "ok".
    """

    def __init__(self, mark: str, record: Path) -> None:
        self._mark = mark
        self._record = record
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start the guard; where no process can be started, there is none."""
        with contextlib.suppress(OSError), open(self._record, "ab") as file:
            self._process = start_apart(
                [sys.executable, "-S", "-c", _GUARD, "\n".join(sys.path), self._mark],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.DEVNULL,
                outlives_console=True,
            )

    def tell(self, pid: int) -> None:
        """The trial has begun; ``pid`` is its first process."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(b"%d\n" % pid)
                self._process.stdin.flush()

    def close(self) -> None:
        """The trial has ended, and all its processes with it."""
        if self._process is not None:
            self._process.communicate(b"ended\n")


#: what the guard runs: its sys.path is this process's, so it imports nothing from the current folder
_GUARD = """\
import sys
pid = None
for line in sys.stdin.buffer:
    if line == b"ended\\n":
        sys.exit()
    pid = int(line)
sys.path[:] = sys.argv[1].splitlines()
from halfstep.trials.process import end_without_halfstep
end_without_halfstep(pid, sys.argv[2])
"""


def end_without_halfstep(pid: int | None, mark: str) -> None:
    """What a guard does: end the trial, and write the last line of its record to stdout."""
    Tree(pid, mark).end(signal.SIGTERM)
    event = {"event": "end", "status": "interrupted", "reason": KILLED}
    os.write(1, f"\n{json.dumps(event)}\n".encode())
