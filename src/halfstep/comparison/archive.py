"""A comparison's folder read back as trials: what ended, how, and what has not been run."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from halfstep.comparison.request import Request
from halfstep.errors import UsageError
from halfstep.files import json_text, read_json, write_whole
from halfstep.precisions.recipes import parse
from halfstep.record import LONGEST
from halfstep.trials import Outcome, Status, Trial, judge, records_at
from halfstep.words.plural import were_made
from halfstep.words.safe_text import clean

#: a trial that ended so is done; any other is run again
DONE = ("ok", "diverged", "out_of_memory", "failed", "timed_out", "unsupported")

#: every way in which a trial may have ended
_STATUSES: tuple[Status, ...] = get_args(Status)


def _end_of(request: Request, trial: Trial) -> Path:
    return request.job.record(trial).with_suffix(".end.json")


def forget(request: Request, trial: Trial) -> None:
    """Take away what an earlier run of the trial left; one that is still being ended writes to a file that is gone."""
    for path in _files(request, trial):
        path.unlink(missing_ok=True)


def _files(request: Request, trial: Trial) -> list[Path]:
    """All that a trial may have left, how it ended first."""
    return [_end_of(request, trial), *request.job.records(trial), request.job.log(trial)]


def has_ended(request: Request, trial: Trial) -> bool:
    """Whether an earlier run of the trial came to an end that counts."""
    ended = _ended(request, _end_of(request, trial))
    return ended is not None and ended.status in DONE


def beside(request: Request) -> Request:
    """The same request in a folder of its own: for a trial that is run again while what it left is kept."""
    return replace(request, folder=request.folder / "again")


def replace_trial(request: Request, outcome: Outcome) -> None:
    """Replace the earlier run of a trial by the one that was run :func:`beside`, if that came to an end that counts.

    At every moment one of the two is there to be read: a record whose end is missing is judged by its last line.
    """
    if outcome.status in DONE:
        record = request.job.record(outcome.trial)
        old_end, _, *old = _files(request, outcome.trial)
        end, *files = _files(beside(request), outcome.trial)
        old_end.unlink(missing_ok=True)
        for path in (*files, end):
            path.replace(record.with_name(path.name))
        for path in set(old) - {record.with_name(path.name) for path in files}:
            path.unlink()
        outcome.record.path = record
    for path in _files(beside(request), outcome.trial):
        path.unlink(missing_ok=True)
    for folder in (beside(request).folder / "trials", beside(request).folder):
        with contextlib.suppress(OSError):  # another trial is being run again there
            folder.rmdir()


def clear(request: Request) -> None:
    """Take away what a run :func:`beside` has left that ended before it counted."""
    shutil.rmtree(beside(request).folder, ignore_errors=True)


def keep(request: Request, outcome: Outcome) -> None:
    """Write how a trial ended beside its record: a record cannot tell the exit code of its own process."""
    trial = outcome.trial
    end = {
        "precision": trial.precision,
        "seed": trial.seed,
        "repeat": trial.repeat,
        "status": outcome.status,
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "seconds": outcome.seconds,
        "records": _digests(request.job.records(trial)),
    }
    write_whole(_end_of(request, trial), json_text(end))


def _digests(files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of a trial's records, by their files' names: whatever changes one later is noticed."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def outcomes(request: Request) -> list[Outcome]:
    """The trials that left anything behind, in the order of the plan; those without an end as interrupted."""
    folder = request.folder / "trials"
    ends = [o for path in sorted(folder.glob("*.end.json")) if (o := _ended(request, path)) is not None]
    known = {request.job.record(o.trial) for o in ends}
    left = [_unended(request, path) for path in sorted(folder.glob("*.jsonl")) if path not in known]
    found = [*ends, *(o for o in left if o is not None)]
    precisions = _order(request, found)
    return sorted(found, key=lambda o: (o.trial.repeat, o.trial.seed, precisions.index(o.trial.precision)))


def _order(request: Request, found: Sequence[Outcome]) -> list[str]:
    """The precisions as asked for, or else in the order in which their trials began; as-is comes last."""
    asked = list(request.recipes or ())
    began = sorted(found, key=lambda o: str(o.record.start.get("started", "~")))
    others = sorted((o.trial.precision for o in began), key=lambda name: name == "as-is")
    return list(dict.fromkeys([*asked, *others]))


def _ended(request: Request, path: Path) -> Outcome | None:
    """A trial whose end was written; None if the file is not whole."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        end = read_json(path)
        trial = _trial(end)
        if trial is None or end["status"] not in _STATUSES or path != _end_of(request, trial):
            return None
        record, ranks = records_at(request.job.record(trial))
        if "records" in end and end["records"] != _digests(request.job.records(trial)):
            record.damage = record.damage or "it is not what the trial wrote"
        exit_code = None if end["exit_code"] is None else int(end["exit_code"])
        reason, seconds = clean(end["reason"])[:LONGEST], float(end["seconds"])
        if math.isfinite(seconds):
            return Outcome(trial, end["status"], reason, exit_code, record, ranks, seconds).trusted()
    return None


def _trial(told: Mapping[str, Any]) -> Trial | None:
    """Which trial it is; None where the record does not say, or names nothing that can be run."""
    with contextlib.suppress(UsageError, TypeError, ValueError, AttributeError):
        precision = told.get("precision")
        if isinstance(precision, str) and parse(precision):
            return Trial(precision, int(told.get("seed") or 0), int(told.get("repeat") or 0))
    return None


def _unended(request: Request, path: Path) -> Outcome | None:
    """A trial whose end halfstep did not see: judged by its record's last line, interrupted without one."""
    record, ranks = records_at(path)
    trial = _trial(record.start)
    if trial is None or path != request.job.record(trial):
        return None
    if not record.end:
        reason = f"no end is recorded: killed, or still running; {were_made(len(record.steps))}"
        return Outcome(trial, "interrupted", reason, None, record, ranks).trusted()
    if record.end.get("status") == "interrupted":  # whatever its other ranks recorded
        return Outcome(
            trial, "interrupted", record.end.get("reason", ""), record.end.get("exit_code"), record, ranks
        ).trusted()
    status, reason = judge(request.job, record, ranks, record.end.get("exit_code"), None, "")
    return Outcome(trial, status, reason, record.end.get("exit_code"), record, ranks).trusted()


def done(outcomes: Sequence[Outcome], time_limit_raised: bool = False) -> list[Outcome]:
    """Those that need not be run again; a trial that ran out of time is, if it is given more."""
    wanted = [status for status in DONE if status != "timed_out" or not time_limit_raised]
    return [o for o in outcomes if o.status in wanted]
