"""A comparison's folder read back as trials: what ended, how, and what has not been run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from halfstep.comparison.request import Request
from halfstep.files import json_text, write_whole
from halfstep.plural import were_made
from halfstep.record import Record, read
from halfstep.trials import Outcome, Trial, judge

#: a trial that ended so is done; any other is run again
DONE = ("ok", "diverged", "out_of_memory", "failed", "timed_out", "unsupported")


def _end_of(request: Request, trial: Trial) -> Path:
    return request.job.record(trial).with_suffix(".end.json")


def forget(request: Request, trial: Trial) -> None:
    """Take away what an earlier run of the trial left; one that is only now being ended writes to no file of ours."""
    record = request.job.record(trial)
    for path in (
        _end_of(request, trial),
        request.job.log(trial),
        record,
        *record.parent.glob(record.name + ".rank*"),
    ):
        path.unlink(missing_ok=True)


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
    }
    write_whole(_end_of(request, trial), json_text(end))


def outcomes(request: Request) -> list[Outcome]:
    """The trials that left anything behind, in the order of the plan; those without an end as interrupted."""
    folder = request.folder / "trials"
    ends = [_ended(request, path) for path in sorted(folder.glob("*.end.json"))]
    known = {o.trial for o in ends if o is not None}
    open_ = [_unended(request, path) for path in sorted(folder.glob("*.jsonl"))]
    found = [o for o in (*ends, *open_) if o is not None and (o in ends or o.trial not in known)]
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
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        end = json.loads(path.read_text(encoding="utf-8"))
        trial = Trial(end["precision"], int(end["seed"]), int(end["repeat"]))
        record, ranks = _records(request.job.record(trial))
        return Outcome(
            trial, end["status"], end["reason"], end["exit_code"], record, ranks, float(end["seconds"])
        )
    return None


def _unended(request: Request, path: Path) -> Outcome | None:
    """A trial whose end halfstep did not see: judged by its record's last line, interrupted without one."""
    record, ranks = _records(path)
    start = record.start
    if "precision" not in start:
        return None
    trial = Trial(str(start["precision"]), int(start.get("seed") or 0), int(start.get("repeat") or 0))
    if path != request.job.record(trial):
        return None
    if not record.end:
        reason = f"no end is recorded: killed, or still running; {were_made(len(record.steps))}"
        return Outcome(trial, "interrupted", reason, None, record, ranks)
    if record.end.get("status") == "interrupted":  # whatever its other ranks came to say
        return Outcome(
            trial, "interrupted", record.end.get("reason", ""), record.end.get("exit_code"), record, ranks
        )
    status, reason = judge(request.job, record, ranks, record.end.get("exit_code"), None, "")
    return Outcome(trial, status, reason, record.end.get("exit_code"), record, ranks)


def _records(path: Path) -> tuple[Record, list[Record]]:
    record = read(path) if path.exists() else Record(path)
    return record, [read(p) for p in sorted(path.parent.glob(path.name + ".rank*"))]


def done(outcomes: Sequence[Outcome], time_limit_raised: bool = False) -> list[Outcome]:
    """Those that need not be run again; a trial that ran out of time is, if it is given more."""
    wanted = [status for status in DONE if status != "timed_out" or not time_limit_raised]
    return [o for o in outcomes if o.status in wanted]
