"""How a trial ended: its status in one word, the reason in a sentence, and its records."""

from __future__ import annotations

import functools
import math
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from halfstep.errors import UsageError
from halfstep.processes import exit_words
from halfstep.record import Record, read
from halfstep.trials.hints import hint
from halfstep.trials.job import Job, Trial, record_files
from halfstep.words.plural import count, were_made
from halfstep.words.safe_text import clean

P = ParamSpec("P")
T = TypeVar("T")

Status = Literal[
    "ok", "diverged", "out_of_memory", "failed", "timed_out", "unsupported", "interrupted", "damaged"
]

#: a training has not diverged if fewer steps than this were skipped or had a loss that is not finite
FEW = 8
#: a training has diverged if the loss is not finite in this share of its steps
MANY_LOSSES = 0.1
#: a training has diverged if this share of the last quarter of its steps was skipped
MOST_SKIPPED = 0.5

#: bytes at the end of a log in which its last line is looked for, and characters of that line that are shown
_END_OF_LOG = 2**14
_LONGEST_LINE = 300


@dataclass
class Outcome:
    """A trial that has ended: its status in one word, the reason in a sentence, and its records."""

    trial: Trial
    status: Status
    reason: str
    exit_code: int | None
    record: Record
    ranks: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    #: what was computed from it, see :func:`once`
    kept: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def trusted(self) -> Outcome:
        """The same; where a part of a record is missing without any figure, so that the trial is run again."""
        damage = next((r.damage for r in (self.record, *self.ranks) if r.damage), "")
        if not damage and self.status != "damaged":
            return self
        status: Status = "interrupted" if self.status == "interrupted" else "damaged"
        keeps = not damage or status == "interrupted"
        reason = self.reason if keeps else f"its record cannot be used: {damage}"
        return replace(self, status=status, reason=reason, record=self.record.without_figures(), ranks=[])


def once(function: Callable[Concatenate[Outcome, P], T]) -> Callable[Concatenate[Outcome, P], T]:
    """A function of an outcome: computed once and kept with the outcome, as its record does not change."""

    @functools.wraps(function)
    def kept(outcome: Outcome, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (function, *args, *kwargs.items())
        if key not in outcome.kept:
            outcome.kept[key] = function(outcome, *args, **kwargs)
        found: T = outcome.kept[key]
        return found

    return kept


def outcome_of(job: Job, trial: Trial, exit_code: int | None, stopped: Status | None, by: str) -> Outcome:
    """How a trial ended, once its process is gone.

    Args:
        exit_code: of the process, as ``subprocess`` gives it.
        stopped: why halfstep ended it; None where it ended by itself.
        by: who interrupted it.
    """
    record, ranks = records_at(job.record(trial))
    status, reason = judge(job, record, ranks, exit_code, stopped, by)
    if stopped is None and exit_code == 0 and not record.path.exists():  # each run begins one
        status, reason = "damaged", "its record is gone: the program, or somebody else, has removed it"
    if status == "failed" and not record.start:
        reason = _last_line(job.log(trial)) or reason
    elif status == record.end.get("status") == "failed" and exit_code and not record.end.get("exception"):
        # It ended by sys.exit, as argparse does: what it said last tells why.
        line = _last_line(job.log(trial), by_program=True)
        reason = f"{reason}; it said last: {line}" if line else reason
    return Outcome(trial, status, reason, exit_code, record, ranks).trusted()


def records_at(path: Path) -> tuple[Record, list[Record]]:
    """The record of a trial, empty where there is none, and those of its other ranks."""
    record = _read(path) if path.exists() else Record(path)
    return record, [_read(rank) for rank in record_files(path)[1:]]


def _read(path: Path) -> Record:
    try:
        return read(path)
    except UsageError as error:
        return Record(path, damage=clean(str(error)).rstrip("."))


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
    diverged = divergence_words(record)
    if status in (None, "ok") and diverged:
        return "diverged", f"{diverged}{_origin(record)}"
    if status is None:
        return _without_an_end(exit_code, steps)
    if status == "ok" and exit_code not in (0, None):
        return "failed", f"exit code {exit_code}"
    if status == "failed":
        reason = f"{reason.rstrip('.')}{words}" if (words := hint(record)) else reason
    return status, f"{reason}{_origin(record)}" if status == "diverged" else reason


def _of_rank(record: Record, exit_code: int | None) -> tuple[Status, str]:
    rank = record.start.get("rank", "?")
    if record.end:
        return record.end["status"], f"rank {rank}: {record.end.get('reason', '')}"
    status, reason = _without_an_end(exit_code, len(record.steps))
    return status, f"rank {rank}: {reason}"


def _without_an_end(exit_code: int | None, steps: int) -> tuple[Status, str]:
    """The record has no last line: the process was killed, or left by ``os._exit``."""
    if exit_code is not None and exit_code < 0:
        name = _signal_name(-exit_code)
        why = "; the kernel does that when memory runs out" if name == "SIGKILL" else ""
        return "failed", f"killed by {name} after {count(steps, 'step')}{why}"
    if exit_code == 0 and steps:
        return "ok", ""
    if exit_code == 0:
        return "failed", "ended without an optimizer step"
    return (
        "failed",
        f"ended at once with {exit_words(exit_code)} after {count(steps, 'step')} (os._exit or a crash)",
    )


def _signal_name(number: int) -> str:
    """``SIGKILL``; a real-time signal by its number."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _origin(record: Record) -> str:
    """In which module the first value that is not finite arose, as the end of a sentence; empty where not known."""
    words = record.nonfinite.get("words") if record.nonfinite else None
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


def divergence_words(record: Record) -> str:
    """Why a training has diverged; empty if it has not.

    Its loss was not finite from some step on; or in :data:`MANY_LOSSES` of the steps or more, and in at least
    :data:`FEW`; or at least :data:`FEW` steps were skipped, and :data:`MOST_SKIPPED` of the run's last quarter: skips
    at the start only find the loss scale.
    """
    steps, since = len(record.steps), diverged_from(record)
    if since is not None:
        return f"the loss was {record.losses[since]} from step {since + 1} on"
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


def _last_line(path: Path, by_program: bool = False) -> str:
    """The last line of a log that is not blank, safe to show.

    Args:
        by_program: leave out what halfstep said.
    """
    with suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - _END_OF_LOG))
        lines = [clean(line).strip() for line in file.read().decode(errors="replace").splitlines()]
        said = [line for line in lines if line and not (by_program and line.startswith("halfstep: "))]
        return said[-1][:_LONGEST_LINE] if said else ""
    return ""
