"""Reads a comparison's folder back as trials: how each ended; and writes, replaces and removes their files."""

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
    """Remove what an earlier run of the trial left; a process of it that still runs writes into a removed file."""
    for path in _files(request, trial):
        path.unlink(missing_ok=True)


def _files(request: Request, trial: Trial) -> list[Path]:
    """All files that a trial may have left; the one that says how it ended comes first."""
    return [_end_of(request, trial), *request.job.records(trial), request.job.log(trial)]


def has_ended(request: Request, trial: Trial) -> bool:
    """Whether an earlier run of the trial came to an end that counts."""
    ended = _ended(request, _end_of(request, trial))
    return ended is not None and ended.status in DONE


def beside(request: Request) -> Request:
    """The same request in another folder: for a trial that is run again while the files of its earlier run are kept."""
    return replace(request, folder=request.folder / "again")


def replace_trial(request: Request, outcome: Outcome) -> None:
    """Replace the earlier run of a trial by the one that ran in the folder :func:`beside`, if that ended well enough.

    At every moment one of the two can be read: a trial without a file for its end is judged by its record's last line.
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
    """Remove what an unfinished run in the folder :func:`beside` has left."""
    shutil.rmtree(beside(request).folder, ignore_errors=True)


def keep(request: Request, outcome: Outcome) -> None:
    """Write how a trial ended beside its record, which cannot hold the exit code of its own process."""
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
    """SHA-256 of a trial's records, by their files' names, so that a later change is noticed."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def outcomes(request: Request) -> list[Outcome]:
    """The trials that left any file, in the order of the plan; one without an end counts as interrupted."""
    folder = request.folder / "trials"
    ends = [o for path in sorted(folder.glob("*.end.json")) if (o := _ended(request, path)) is not None]
    known = {request.job.record(o.trial) for o in ends}
    left = [_unended(request, path) for path in sorted(folder.glob("*.jsonl")) if path not in known]
    found = [*ends, *(o for o in left if o is not None)]
    precisions = _order(request, found)
    return sorted(found, key=lambda o: (o.trial.repeat, o.trial.seed, precisions.index(o.trial.precision)))


def _order(request: Request, found: Sequence[Outcome]) -> list[str]:
    """The precisions in the order that was asked for, or else in which their trials began; as-is comes last."""
    asked = list(request.recipes or ())
    began = sorted(found, key=lambda o: str(o.record.start.get("started", "~")))
    others = sorted((o.trial.precision for o in began), key=lambda name: name == "as-is")
    return list(dict.fromkeys([*asked, *others]))


def _ended(request: Request, path: Path) -> Outcome | None:
    """A trial whose end was written; None if that file is damaged."""
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


def _trial(raw: Mapping[str, Any]) -> Trial | None:
    """Which trial it is; None if the fields are missing, or name no precision."""
    with contextlib.suppress(UsageError, TypeError, ValueError, AttributeError):
        precision = raw.get("precision")
        if isinstance(precision, str) and parse(precision):
            return Trial(precision, int(raw.get("seed") or 0), int(raw.get("repeat") or 0))
    return None


def _unended(request: Request, path: Path) -> Outcome | None:
    """A trial whose end halfstep did not see: judged by its record's last event; without one, interrupted."""
    record, ranks = records_at(path)
    trial = _trial(record.start)
    if trial is None or path != request.job.record(trial):
        return None
    if not record.end:
        reason = f"no end is recorded: killed, or still running; {were_made(len(record.steps))}"
        return Outcome(trial, "interrupted", reason, None, record, ranks).trusted()
    exit_code, reason = record.end.get("exit_code"), record.end.get("reason", "")
    status: Status = "interrupted"  # whatever its other ranks recorded
    if record.end.get("status") != "interrupted":
        status, reason = judge(request.job, record, ranks, exit_code, None, "")
    return Outcome(trial, status, reason, exit_code, record, ranks).trusted()


def done(outcomes: Sequence[Outcome], time_limit_raised: bool = False) -> list[Outcome]:
    """Those that need not be run again; a trial that ran out of time is run again if the limit was raised."""
    wanted = [status for status in DONE if status != "timed_out" or not time_limit_raised]
    return [o for o in outcomes if o.status in wanted]
