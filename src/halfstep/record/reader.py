"""Reads a record back: complete, cut short, or damaged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from halfstep.errors import UsageError
from halfstep.files import opened, parsed
from halfstep.record.events import LONGEST, SCHEMA, Step, cleaned, fault
from halfstep.record.record import Record
from halfstep.words.plural import count

#: bytes of a line; no event is longer
_LONGEST_LINE = 2**22

#: the reason that a trial's guard process writes into its record when halfstep was killed
KILLED = "halfstep, which ran it, was killed"


def read(path: str | os.PathLike[str]) -> Record:
    """Read a record, complete or cut short; :attr:`Record.damage` says why no figure may be taken from it.

    A last line that is cut off is ignored, as a process that is killed leaves one. A record is damaged if another line
    is no event, if its steps are not numbered in order, or if it has fewer steps than its last event says.

    Raises:
        UsageError: no such file, or a schema that this version does not know.
    """
    reading = _Reading(Record(Path(path)))
    record = reading.record
    try:
        with opened(record.path) as file:
            while line := file.readline(_LONGEST_LINE):
                reading.take(line)
    except OSError as error:
        raise UsageError(
            f"Cannot read the record {str(path)!r} ({error.strerror}); give a record file."
        ) from None
    schema = record.start.get("schema")
    if schema not in (None, SCHEMA):
        raise UsageError(
            f"Record {str(path)!r} has schema {schema!r}; this version of halfstep reads {SCHEMA!r}."
        )
    record.damage = reading.damage()
    return record


class _Reading:
    """Reads a record line by line, and finds out whether a line is missing."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._damage = ""
        self._lines = 0
        self._broken = ""
        self._cut = False
        #: the next step of each framework that trains
        self._next: list[int] = []
        self._most = 0

    def take(self, line: bytes) -> None:
        """Read one line."""
        self._lines += 1
        if line.isspace():
            return
        event = _event(line)
        wrong = "no event" if event is None else fault(event)
        if event is None or wrong:
            self._damage = self._damage or self._broken
            self._broken = f"line {self._lines} of it is damaged: {wrong}"
            self._cut = not line.endswith(b"\n")
            return
        # A killed process may leave half a line; the line of its guard follows.
        if event.get("reason") != KILLED:
            self._damage = self._damage or self._broken
        self._broken = ""
        self._follow(event)
        self.record.add(event if _is_safe(line) else cleaned(event))

    def _follow(self, event: Mapping[str, object]) -> None:
        """Check that steps are numbered from 0 without a gap; each framework that trains counts its own steps."""
        if event["event"] == "restart":
            self._next, self._most = [], 0
        if event["event"] == "step":
            step = cast(Step, event)["step"]
            if step == 0:
                self._next.append(0)
            if step in self._next:
                self._next[self._next.index(step)] = step + 1
            else:
                expected = max((n for n in self._next if n < step), default=0)
                self._damage = self._damage or f"step {expected + 1} is missing from it"
                self._next.append(step + 1)
            self._most = max(self._most, step + 1)

    def damage(self) -> str:
        """Why no figure may be taken from the record, once all of it was read; empty where nothing is wrong."""
        record = self.record
        cut_short = self._cut and not record.end
        return record.damage or self._damage or ("" if cut_short else self._broken) or self._miscounted()

    def _miscounted(self) -> str:
        record, expected = self.record, self.record.end.get("steps")
        if not record.start and (record.steps or record.end):
            return "its first line is missing"
        if expected is None or "steps" in record.absent:
            return ""
        # A program that is ended in the middle of a step may have counted it already.
        missing, unfinished = expected - self._most, record.end.get("status") != "ok"
        if missing == 0 or (missing == 1 and unfinished):
            return ""
        return f"it has {count(self._most, 'step')}, and its end says {expected}"


def _is_safe(line: bytes) -> bool:
    """Whether no text of an event needs cleaning: the line is short, and printable ASCII without escapes.

    JSON has the characters below a space as escapes only.
    """
    return len(line) <= LONGEST and line.isascii() and b"\\" not in line and b"\x7f" not in line


def _event(line: bytes) -> dict[str, object] | None:
    """One line as an event; None where it is none, whatever it holds."""
    try:
        event = parsed(line.decode("utf-8"))
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
