"""Runs the command, and plain python, as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from halfstep.record import read

PROGRAMS = Path(__file__).parent.parent / "programs"
Done = subprocess.CompletedProcess[str]


def halfstep(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
    """Run the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "halfstep", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )


def kill_in_training(
    record: Path, steps: int, *arguments: str, cwd: Path, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Kill ``halfstep compare`` when ``record`` has this many steps, and see its process end."""
    with subprocess.Popen([sys.executable, "-m", "halfstep", "compare", *arguments], cwd=cwd) as child:
        while not record.exists() or len(read(record).steps) < steps:
            time.sleep(0.05)
            assert child.poll() is None
        try:
            meanwhile()
        finally:
            child.send_signal(signal.SIGKILL)
    trial = read(record).start["pid"]
    ended_by = time.monotonic() + 30
    while runs(trial) or "was killed" not in record.read_text():
        assert time.monotonic() < ended_by, f"process {trial} runs on"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether the process is there, and not only waits for its parent to notice that it has ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def python(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
    """Run plain python."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=300,
        check=False,
    )
