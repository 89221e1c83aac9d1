"""Writes a record: one line per event, handed to the kernel at once."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfstep.errors import UsageError
from halfstep.files import out_of_reach
from halfstep.record.events import LONGEST, plain
from halfstep.record.record import Record

#: made once: json.dumps would make an encoder for every line
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def _json(value: Any) -> str:
    """Numbers without the encoder: there are five in the line of every step."""
    kind = type(value)
    if (kind is float and math.isfinite(value)) or kind is int:
        return repr(value)
    return _ENCODE(_bounded(plain(value)))


def _bounded(value: Any) -> Any:
    """``value`` with every text cut to :data:`~halfstep.record.events.LONGEST` characters."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"
    if isinstance(value, dict):
        return {_bounded(key): _bounded(item) for key, item in value.items()}
    return [_bounded(item) for item in value] if isinstance(value, list | tuple) else value


#: events whose fields the process itself keeps, for its last line on stderr
KEPT = ("takeover", "sample", "stored", "region")


class Writer:
    """Appends events to a file, one line each, handed to the kernel at once: a SIGKILL loses nothing written.

    Attributes:
        kept: the fields of the events of :data:`KEPT` so far.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._zero = time.perf_counter()
        self._pid = os.getpid()
        self.kept = Record(self.path)
        self._lost = 0
        self._why = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A bare descriptor: it stays open to the very end, which a file object would be warned for.
            self._descriptor = out_of_reach(os.open(self.path, _APPEND | os.O_CREAT | os.O_TRUNC, 0o644))
            self._identity = _identity(self._descriptor)
        except OSError as error:
            raise UsageError(
                f"Cannot write the record {str(self.path)!r} ({error.strerror}); give a file in a folder you may write."
            ) from None

    def write(self, event: str, **fields: Any) -> None:
        """Write one event; in a forked child, nothing: the record is the parent's.

        Lines that a full disk does not take are counted; their number is written as soon as there is room again. If the
        last line finds no room, the record is emptied for it: with lines missing it could not be used anyway.
        """
        if os.getpid() != self._pid:
            return
        if event in KEPT:
            self.kept.add({"event": event, **fields})
        try:
            line = self._line(event, fields)
        except ValueError:
            return
        if not self._put(self._lost_line() + line) and event == "end":
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                self._put(self._lost_line() + line)

    def _line(self, event: str, fields: Mapping[str, Any]) -> str:
        seconds = time.perf_counter() - self._zero
        written = "".join(f',"{key}":{_json(value)}' for key, value in fields.items())
        return f'{{"event":"{event}","at":{seconds:.6f}{written}}}\n'

    def _lost_line(self) -> str:
        """The line that reports missing lines; it begins with a line break, as part of the last line may be there."""
        return "\n" + self._line("lost", {"lines": self._lost, "why": self._why}) if self._lost else ""

    def _put(self, text: str) -> bool:
        """Hand the whole text to the kernel; a file that the script has put in the record's place is not written."""
        left = text.encode()
        try:
            self._check_descriptor()
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:  # a full disk must not end somebody's training
            self._lost += 1
            self._why = error.strerror or type(error).__name__
            return False
        return True

    def _check_descriptor(self) -> None:
        """Open the record again where the script has closed its descriptor, whatever that number stands for now.

        Raises:
            OSError: the record is not there any more.
        """
        with contextlib.suppress(OSError):
            if _identity(self._descriptor) == self._identity:
                return
        opened = os.open(self.path, _APPEND)
        if _identity(opened) != self._identity:
            os.close(opened)
            raise OSError(errno.ENOENT, "another file has taken its place")
        self._descriptor = out_of_reach(opened)


_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)


def _identity(descriptor: int) -> tuple[int, int]:
    """Which file it is: device and inode."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


class NullWriter:
    """Where no record was asked for: writes nothing; ``kept`` is as :attr:`Writer.kept`."""

    def __init__(self) -> None:
        self.kept = Record(Path(os.devnull))

    def write(self, event: str, **fields: Any) -> None:
        """Write nothing."""
        if event in KEPT:
            self.kept.add({"event": event, **fields})


class StepLines:
    """Writes the line of each step, and once the event of the first loss that is not finite."""

    def __init__(self, writer: Writer | NullWriter) -> None:
        self._writer = writer
        self._nonfinite = False

    def write(
        self,
        index: int,
        loss: float | None,
        seconds: float | None,
        skipped: bool,
        scale: float,
        sampled: bool,
    ) -> None:
        """Write the line of step ``index``, counted from 0."""
        fields: dict[str, object] = {"step": index, "loss": loss, "seconds": seconds, "skipped": skipped}
        if scale != 1.0:
            fields["loss_scale"] = scale
        if sampled:
            fields["sampled"] = True
        self._writer.write("step", **fields)
        if loss is not None and not math.isfinite(loss) and not self._nonfinite:
            self._nonfinite = True
            self._writer.write("nonfinite", step=index, what="loss", value=loss)
