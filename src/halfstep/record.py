"""What a trial leaves behind: JSON Lines, one event a line, flushed, so that a killed run is still readable.

Events, in the order in which they appear (every one has ``event`` and ``at``, seconds since the start):

- ``start``: schema, halfstep's version, precision, seed, repeat, rank, world size, command, environment
- ``takeover``: framework, version, device, seconds it took, ``ran_as`` (what was put into force, in words) and the same
  as values: ``asked`` and ``asked_weights`` (formats), ``described``, ``emulated``, ``fp32_units`` (kinds of product),
  ``lists`` (a device), ``software`` (a framework); later ones tell the framework that drives the training, where it is
  not PyTorch itself, and whether the script clips and accumulates
- ``own_amp``: the script has mixed precision of its own (``autocast``, ``GradScaler``, a framework's flag), and
  the format that its words ask for
- ``step``: index from 0, loss, seconds since the step before, skipped, loss_scale, sampled
- ``skip``: a step that was left out: step, scale, reason
- ``sample``: memory breakdown, FLOPs of matrix products by dtype, which kinds of product were computed in fp32 units,
  samples a step; a second one: shares of a step's time
- ``region``: where the precision holds: its ``kind`` is ``model``, ``layers``, ``parameters``, ``own`` or ``framework``
- ``stored``: what the sampled step held in memory, in bytes: ``weights``, ``gradients`` and ``optimizer``, each
  {format: bytes}, and ``absent`` {part: reason} for what could not be measured
- ``logged``: a figure of the script's own, by ``halfstep.log`` or the framework's logging
- ``watch``: what ``diagnose`` sees (:mod:`halfstep.pytorch.watching.watch`)
- ``nonfinite``: the first loss that is not finite, or the first step skipped: step, what, and in which module it
  began: module, operation, direction, words
- ``restart``: the steps before it were none of training, but a warm-up before there was an optimizer; nor is the
  warning that it ``drops`` true
- ``absent``: halfstep itself failed to look: ``look``, what the record lacks, and the reason; the program went on
- ``warning``: something the user should know, in words
- ``end``: status, exit code, reason, where it was raised, peak memory, energy and joules a step, other load, and in a
  trial of a comparison the files of the day that it read
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfstep.errors import UsageError
from halfstep.stored import Stored

SCHEMA = "halfstep/record/1"

#: made once: json.dumps would make an encoder for every line
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def plain(value: Any) -> Any:
    """``value`` with numbers that JSON cannot hold written as ``"nan"``, ``"inf"`` or ``"-inf"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _json(value: Any) -> str:
    """Numbers without the encoder: there are five in the line of every step."""
    kind = type(value)
    if (kind is float and math.isfinite(value)) or kind is int:
        return repr(value)
    return _ENCODE(plain(value))


def number(value: Any) -> float | None:
    """The inverse of :func:`plain` for one number; None stays None."""
    return None if value is None else float(value)


#: events of which the process itself keeps what they told, for its last words
KEPT = ("takeover", "sample", "stored", "region")


class Writer:
    """Appends events to a file, one line each, handed to the kernel at once: a SIGKILL loses nothing written.

    Attributes:
        kept: what events of :data:`KEPT` have told so far.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._zero = time.perf_counter()
        self._pid = os.getpid()
        self.kept = Record(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A bare descriptor: it stays open to the very end, which a file object would be warned for.
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        except OSError as error:
            raise UsageError(
                f"Cannot write the record {str(self.path)!r} ({error.strerror}); give a file in a folder you may write."
            ) from None

    def write(self, event: str, **fields: Any) -> None:
        """Write one event; in a forked child, nothing: the record is the parent's."""
        if os.getpid() != self._pid:
            return
        if event in KEPT:
            self.kept.add({"event": event, **fields})
        seconds = time.perf_counter() - self._zero
        try:
            line = f'{{"event":"{event}","at":{seconds:.6f}'
            for key, value in fields.items():
                line += f',"{key}":{_json(value)}'
            os.write(self._descriptor, (line + "}\n").encode())
        except (OSError, ValueError):  # a full disk must not end somebody's training
            return


class NullWriter:
    """The record that nobody asked for; it keeps what :attr:`Writer.kept` does."""

    def __init__(self) -> None:
        self.kept = Record(Path(os.devnull))

    def write(self, event: str, **fields: Any) -> None:
        """Write nothing."""
        if event in KEPT:
            self.kept.add({"event": event, **fields})


class StepLines:
    """Writes the line of each step, and, once, the event of the first loss that is not finite."""

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
        fields: dict[str, Any] = {"step": index, "loss": loss, "seconds": seconds, "skipped": skipped}
        if scale != 1.0:
            fields["loss_scale"] = scale
        if sampled:
            fields["sampled"] = True
        self._writer.write("step", **fields)
        if loss is not None and not math.isfinite(loss) and not self._nonfinite:
            self._nonfinite = True
            self._writer.write("nonfinite", step=index, what="loss", value=loss)


@dataclass
class Record:
    """A record read back. ``events`` by kind; steps in order; ``end`` is empty if the process was killed."""

    path: Path
    start: dict[str, Any] = field(default_factory=dict)
    takeover: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    sample: dict[str, Any] = field(default_factory=dict)
    stored: Stored = field(default_factory=Stored)
    region: dict[str, Any] = field(default_factory=dict)
    logged: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    nonfinite: dict[str, Any] = field(default_factory=dict)
    own_amp: list[str] = field(default_factory=list)
    own_asks: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    watched: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def losses(self) -> list[float | None]:
        """The loss at each step; NaN and infinities as they are, None where no loss was seen."""
        return [number(step.get("loss")) for step in self.steps]

    @property
    def step_seconds(self) -> list[float]:
        """Seconds of each step, in order, warm-up included."""
        return [step["seconds"] for step in self.steps if step.get("seconds") is not None]

    def add(self, line: dict[str, Any]) -> None:
        """Take one event in."""
        kind = line.get("event")
        if kind in ("start", "takeover", "sample", "region", "nonfinite", "end"):
            # A loss that is not finite says more than a skipped step, which may only have found the scale.
            if kind == "nonfinite" and self.nonfinite.get("what") in ("loss", line["what"]):
                return
            getattr(self, kind).update(line)
        elif kind == "step":
            self.steps.append(line)
        elif kind == "stored":
            self.stored = Stored.of(line)
        elif kind == "restart":
            self.steps, self.sample, self.nonfinite = [], {}, {}
            self.warnings = [text for text in self.warnings if text != line["drops"]]
        elif kind == "logged":
            self.logged.setdefault(line["name"], []).append((line["step"], float(line["value"])))
        elif kind == "watch":
            self.watched.append(line)
        elif kind == "own_amp":
            self.own_amp.append(line["what"])
            if "asks" in line:
                self.own_asks[line["what"]] = line["asks"]
        elif kind == "absent":
            self.absent.setdefault(str(line["look"]), str(line["reason"]))
        elif kind == "warning":
            self.warnings.append(line["text"])


def read(path: str | os.PathLike[str]) -> Record:
    """Read a record, complete or cut short; a last line that was cut off is passed over.

    Raises:
        UsageError: no such file, or a schema that this version does not know.
    """
    record = Record(Path(path))
    try:
        lines = record.path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(
            f"Cannot read the record {str(path)!r} ({error.strerror}); give a record file."
        ) from None
    for text in lines:
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict):
                record.add(line)
    schema = record.start.get("schema")
    if schema not in (None, SCHEMA):
        raise UsageError(
            f"Record {str(path)!r} has schema {schema!r}; this version of halfstep reads {SCHEMA!r}."
        )
    return record
