"""Finds trials that continued from what an earlier trial had saved, and so did not train from the beginning."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import datetime

from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import WentOn
from halfstep.record import Record


def files_of_earlier_trials(records: Sequence[Record], fresh: bool = False) -> list[list[str]]:
    """For each trial the names of the files that it continued from; none if it trained from the beginning.

    A trial continued from a file if the file was written after the first trial began and before this one did, and this
    one read it; and if it then either wrote the file again, as one does with a checkpoint, or made fewer steps than
    another trial. A cache of data, which is written once, does not count.

    Args:
        fresh: whether each trial ran in a copy of the folder; the files then lie outside of it, and are named by paths.
    """
    starts = [begun for record in records if (begun := _begun(record)) is not None]
    first = min(starts, default=math.inf)
    most = max((len(record.steps) for record in records), default=0)
    return [_went_on_from(record, first, most, fresh) for record in records]


def _begun(record: Record) -> float | None:
    try:
        return datetime.fromisoformat(str(record.start.get("started"))).timestamp()
    except ValueError:
        return None


def _went_on_from(record: Record, first: float, most: int, fresh: bool) -> list[str]:
    shorter = len(record.steps) < most
    return [
        file["path"] if fresh else os.path.basename(file["path"])
        for file in record.end.get("files_read", [])
        if float(file["modified"]) >= first and (file["rewritten"] or shorter)
    ]


def went_on(rows: Sequence[TrialRow], most: int) -> WentOn | None:
    """The same for a precision: the files, the fewest steps of its trials, and the most steps of any trial."""
    files = dict.fromkeys(name for row in rows if row.disturbed for name in row.disturbed.files or ())
    if not files:
        return None
    return WentOn(tuple(files), min(row.steps or 0 for row in rows), most)
