"""Runs a trial: one child process, one precision, watched until it ends, however it ends."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from halfstep.format_errors import FormatError, cure_words, format_error
from halfstep.plural import count, were_made
from halfstep.recipes import parse
from halfstep.record import Record, number, read

Status = Literal["ok", "diverged", "out_of_memory", "failed", "timed_out", "unsupported", "interrupted"]

#: seconds that a program is given to end by itself after SIGINT or SIGTERM, before SIGKILL
GRACE = 8.0
#: fewer skipped steps, or losses that are not finite, are no reason to call a training diverged
FEW = 8
#: share of the steps: a loss that is not finite so often
MANY_LOSSES = 0.1
#: share of the last quarter of a run that was skipped
MOST_SKIPPED = 0.5

_POLL = 0.1
_POLL_MEMORY = 0.02

#: what the guard's shell does: told that the trial has ended it goes; at the end of the pipe, without a word, it ends
#: the trial as `_end` does, and says so in its record, where a program that ends well on SIGTERM may have said "ok"
_GUARD = """\
read ended && exit
kill -s TERM -- "-$1"
waited=0
while kill -0 "$1" && [ "$waited" -lt "$2" ]; do sleep 1; waited=$((waited + 1)); done
kill -s KILL -- "-$1"
printf '\\n%s\\n' "$3"
"""
_KILLED = {"event": "end", "status": "interrupted", "reason": "halfstep, which ran it, was killed"}


@dataclass(frozen=True)
class Trial:
    """One run of the program: a precision, a seed and a repeat."""

    precision: str
    seed: int = 0
    repeat: int = 0

    @property
    def label(self) -> str:
        """A name for people and files, e.g. ``bf16-seed0-repeat1``."""
        return f"{safe(self.precision)}-seed{self.seed}-repeat{self.repeat}"


def safe(precision: str) -> str:
    """A recipe as a part of a file's name."""
    return "".join(c if c.isalnum() or c in "-=." else "_" for c in precision)


@dataclass(frozen=True)
class Job:
    """What every trial of a comparison has in common.

    Attributes:
        program: the program, as given.
        arguments: its own arguments.
        module: whether ``program`` is a module's name.
        folder: where records and logs go (absolute).
        steps: end each trial after this many steps; None to let it run to its end.
        time_limit: seconds that a trial may take; None for no limit.
        launch: a launcher such as ``torchrun --nproc-per-node 2``; empty for none.
        products: where 16-bit products are computed on a CPU.
        memory_limit: end a trial whose processes hold more bytes than this in physical memory; None for no limit.
        watch: look at every operation, for a diagnosis.
        emulate: whether precisions that have no units here are emulated.
        as_on: the device whose autocast lists are applied, or None.
    """

    program: str
    arguments: tuple[str, ...]
    module: bool
    folder: Path
    steps: int | None = None
    time_limit: float | None = None
    launch: str = ""
    products: str = "auto"
    memory_limit: int | None = None
    watch: bool = False
    emulate: bool = False
    as_on: str | None = None

    def command(self, trial: Trial) -> list[str]:
        """The command line of a trial."""
        launcher = [*shlex.split(self.launch), "-m"] if self.launch else [sys.executable, "-m"]
        ours = ["halfstep", "run", "--precision", trial.precision, "--seed", str(trial.seed)]
        ours += [
            "--repeat",
            str(trial.repeat),
            "--products",
            self.products,
            "--record",
            str(self.record(trial)),
        ]
        ours += ["--watch"] if self.watch else []
        if self.emulate:
            ours += ["--emulate"]
        if self.as_on is not None:
            ours += ["--as-on", self.as_on]
        if self.steps is not None:
            ours += ["--steps", str(self.steps)]
        return [*launcher, *ours, *(["-m"] if self.module else []), self.program, *self.arguments]

    def record(self, trial: Trial) -> Path:
        """Where the trial's record goes; other ranks' go beside it."""
        return self.folder / "trials" / f"{trial.label}.jsonl"

    def log(self, trial: Trial) -> Path:
        """Where the trial's stdout and stderr go."""
        return self.folder / "trials" / f"{trial.label}.log"

    def environment(self, trial: Trial) -> dict[str, str]:
        """The trial's environment: ours, and which trial it is, for scripts that want folders of their own."""
        told = {"precision": trial.precision, "seed": trial.seed, "repeat": trial.repeat}
        environment = dict(os.environ)
        environment.setdefault("PYTHONHASHSEED", "0")
        environment["PYTHONUNBUFFERED"] = "1"
        environment["HALFSTEP_TRIAL"] = json.dumps(told)
        return environment


@dataclass
class Outcome:
    """A trial that has ended: its status in one word and the reason in a sentence, and what it left behind."""

    trial: Trial
    status: Status
    reason: str
    exit_code: int | None
    record: Record
    ranks: list[Record] = field(default_factory=list)
    seconds: float = 0.0


OnStep = Callable[[int, "float | None", "float | None"], None]


def run_trial(job: Job, trial: Trial, on_step: OnStep) -> Outcome:
    """Run a trial to its end. Never raises on account of the program.

    Args:
        job: what to run.
        trial: in which precision, seed and repeat.
        on_step: called with (steps so far, last loss, seconds of the last step) now and then.
    """
    job.record(trial).parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    stopped: Status | None = None
    by = "Ctrl-C"
    guard = None
    with open(job.log(trial), "wb") as log:
        child = subprocess.Popen(
            job.command(trial),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=job.environment(trial),
            start_new_session=True,
        )
        try:
            with _told_to_end():
                guard = _guard(child.pid, job.record(trial))
                stopped = _watch(child, job, _Tail(job.record(trial), on_step), started)
        except KeyboardInterrupt as told:
            stopped, by = "interrupted", str(told) or by
            _end(child, signal.SIGINT)
        finally:
            if child.poll() is None:
                _end(child, signal.SIGKILL)
            if guard is not None:
                guard.communicate(b"ended\n")
    outcome = _outcome(job, trial, child.returncode, stopped, by)
    outcome.seconds = time.monotonic() - started
    return outcome


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM and SIGHUP (a batch system's, a closed terminal's) end a trial as Ctrl-C does: it has a session of its
    own, and would live on alone. Only in the main thread, and only where nobody else handles them."""

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
        before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _guard(trial: int, record: Path) -> subprocess.Popen[bytes] | None:
    """A shell that outlives this process and ends the trial if this one is killed, which no handler can see.

    It waits at a pipe that only this process holds: the kernel closes that, however this process ends. It ends the
    process group, launchers and all, and the trial knows nothing of it. None where no shell can be started.
    """
    with contextlib.suppress(OSError), open(record, "ab") as file:
        return subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "halfstep-guard", str(trial), f"{GRACE:.0f}", json.dumps(_KILLED)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return None


def _watch(child: subprocess.Popen[bytes], job: Job, tail: _Tail, started: float) -> Status | None:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_POLL if job.memory_limit is None else _POLL_MEMORY)
            tail.read()
            return None
        tail.read()
        if job.memory_limit is not None and _resident(child.pid) > job.memory_limit:
            _end(child, signal.SIGKILL)
            return "out_of_memory"
        if job.time_limit is not None and time.monotonic() - started > job.time_limit:
            _end(child, signal.SIGTERM)
            return "timed_out"


def _resident(pid: int) -> int:
    """Bytes that a process and its children hold in physical memory."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += int(one.memory_info().rss)
    return total


def _end(child: subprocess.Popen[bytes], first: signal.Signals) -> None:
    """Ask the whole process group to end; insist after a while."""
    for sign in (first, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
            break
    # Children of the program (data loaders) may have outlived it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


class _Tail:
    """Reads a growing record for the progress display."""

    def __init__(self, path: Path, on_step: OnStep) -> None:
        self._path = path
        self._on_step = on_step
        self._offset = 0
        self._steps = 0

    def read(self) -> None:
        with contextlib.suppress(OSError):
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in self._steps_in(whole):
                self._steps += 1
                self._on_step(self._steps, number(line.get("loss")), line.get("seconds"))

    @staticmethod
    def _steps_in(text: bytes) -> Iterator[dict[str, Any]]:
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == "step":
                    yield event


def _outcome(job: Job, trial: Trial, exit_code: int | None, stopped: Status | None, by: str) -> Outcome:
    path = job.record(trial)
    record = read(path) if path.exists() else Record(path)
    ranks = [read(p) for p in sorted(path.parent.glob(path.name + ".rank*"))]
    status, reason = judge(job, record, ranks, exit_code, stopped, by)
    if status == "failed" and not record.start:
        reason = _last_line(job.log(trial)) or reason
    return Outcome(trial, status, reason, exit_code, record, ranks)


def judge(
    job: Job, record: Record, ranks: list[Record], exit_code: int | None, stopped: Status | None, by: str
) -> tuple[Status, str]:
    """The trial's status and the reason in words, from its record and the way its process ended."""
    steps = len(record.steps)
    if stopped == "timed_out":
        return "timed_out", f"ran longer than the time limit of {job.time_limit:g} s; {were_made(steps)}"
    if stopped == "out_of_memory":
        return "out_of_memory", f"its resident memory passed the limit of {job.memory_limit:,} bytes"
    if stopped == "interrupted":
        return "interrupted", f"interrupted by {by} after {count(steps, 'step')}"
    for one in ranks:
        if one.end.get("status") not in (None, "ok") or (not one.end and record.end.get("status") != "ok"):
            return _of_rank(one, exit_code)
    status, reason = record.end.get("status"), record.end.get("reason", "")
    since = diverged_from(record)
    if status in (None, "ok") and since is not None:
        return "diverged", f"the loss was {record.losses[since]} from step {since + 1} on{began(record)}"
    astray = astray_words(record)
    if status in (None, "ok") and astray:
        return "diverged", f"{astray}{began(record)}"
    if status is None:
        return _without_an_end(exit_code, steps)
    if status == "ok" and exit_code not in (0, None):
        return "failed", f"exit code {exit_code}"
    if status == "failed":
        hint = _hint(record)
        reason = f"{reason.rstrip('.')}{hint}" if hint else reason
    return status, f"{reason}{began(record)}" if status == "diverged" else reason


def _hint(record: Record) -> str:
    """What the words of an exception leave unsaid, as the end of a sentence."""
    if record.end.get("exception") == "EOFError":
        return "; a comparison gives a program nothing to read on stdin"
    raised = record.end.get("raised_at")
    at = raised if isinstance(raised, dict) else {}
    place = at["place"] if isinstance(at.get("place"), str) else ""
    if "unsupported ScalarType BFloat16" in record.end.get("reason", ""):
        where = f" at {place}" if place else ""
        return f"; NumPy has no bf16, so the program has to write .float().numpy(){where}"
    precision = str(record.start.get("precision") or "fp32")
    recipe = parse(precision)
    error = caused_by_format(record)
    if error is None:
        return ""
    return f"; {cure_words(error, precision, place, modules_to_keep(record), can_keep=not recipe.keep)}"


def caused_by_format(record: Record) -> FormatError | None:
    """The error that ended a trial in 16 bits, where a format caused it."""
    computes_in = parse(str(record.start.get("precision") or "fp32")).compute
    return format_error(str(record.end.get("reason") or "")) if computes_in in ("bf16", "fp16") else None


def modules_to_keep(record: Record) -> tuple[str, ...]:
    """The modules whose results the line worked with that ended a trial."""
    raised = record.end.get("raised_at")
    names = raised.get("modules") if isinstance(raised, dict) else ()
    return tuple(name for name in names or () if isinstance(name, str))


def _of_rank(record: Record, exit_code: int | None) -> tuple[Status, str]:
    rank = record.start.get("rank", "?")
    if record.end:
        return record.end["status"], f"rank {rank}: {record.end.get('reason', '')}"
    status, reason = _without_an_end(exit_code, len(record.steps))
    return status, f"rank {rank}: {reason}"


def _without_an_end(exit_code: int | None, steps: int) -> tuple[Status, str]:
    """The record has no last line: the process was killed, or left by ``os._exit``."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; the kernel does that when memory runs out" if name == "SIGKILL" else ""
        return "failed", f"killed by {name} after {count(steps, 'step')}{hint}"
    if exit_code == 0 and steps:
        return "ok", ""
    if exit_code == 0:
        return "failed", "ended without an optimizer step"
    return (
        "failed",
        f"ended at once with exit code {exit_code} after {count(steps, 'step')} (os._exit or a crash)",
    )


def began(record: Record) -> str:
    """In which module it began, as the end of a sentence; empty where that is not known."""
    words = record.nonfinite.get("words")
    return f"; began {words}" if words else ""


def diverged_from(record: Record) -> int | None:
    """The step (from 0) from which on every loss is NaN or infinite; None if the last one is finite."""
    losses = [(i, x) for i, x in enumerate(record.losses) if x is not None]
    since = None
    for index, loss in reversed(losses):
        if loss - loss == 0:  # finite
            break
        since = index
    return since


def astray_words(record: Record) -> str:
    """Why a training that ran to its end is none: its loss was often not finite, or most steps were skipped.

    Often is :data:`MANY_LOSSES` of the steps, and :data:`FEW` of them at least. Skips count where at least
    :data:`MOST_SKIPPED` of the run's last quarter were skipped, and :data:`FEW` steps in all: those with which a loss
    scale is found at the start do not count. Empty where neither is so.
    """
    steps = len(record.steps)
    bad = sum(loss is not None and not math.isfinite(loss) for loss in record.losses)
    if bad >= max(FEW, MANY_LOSSES * steps):
        return f"the loss was not finite in {bad} of {steps} steps"
    late = [bool(step.get("skipped")) for step in record.steps[-max(4, steps // 4) :]]
    skipped = sum(bool(step.get("skipped")) for step in record.steps)
    if skipped >= FEW and sum(late) >= MOST_SKIPPED * len(late):
        return (
            f"{skipped} of {steps} steps were skipped as their gradients were not finite, {sum(late)} of the last "
            f"{len(late)} among them"
        )
    return ""


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""
