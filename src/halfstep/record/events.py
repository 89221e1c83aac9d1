"""What each event of a record may hold; the reader of a record checks every event by this."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from halfstep.record.checks import Amount, Check, Figure, Integer, Whole, check_of, hints_of, unchecked
from halfstep.words.safe_text import clean

SCHEMA = "halfstep/record/1"

#: characters of a text in a record: an exception's message may be megabytes
LONGEST = 2000


def plain(value: Any) -> Any:
    """``value`` with numbers that JSON cannot hold written as ``"nan"``, ``"inf"`` or ``"-inf"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def number(value: Any) -> float | None:
    """The inverse of :func:`plain` for one number; None stays None."""
    return None if value is None else float(value)


#: how a program may have ended, as its own record says
Ending = Literal["ok", "failed", "interrupted", "unsupported", "diverged", "out_of_memory"]


class Start(TypedDict, total=False):
    """The program is about to run."""

    schema: str
    halfstep: str
    precision: str
    seed: Integer | None
    repeat: Whole
    rank: Whole
    world_size: Whole
    command: list[str]
    pid: Whole
    python: str
    started: str


class Takeover(TypedDict, total=False):
    """A recipe is in force in a framework."""

    framework: str
    version: str
    ran_as: str
    asked: str
    asked_weights: str
    described: str
    fp32_units: list[str]
    software: str | None
    software_formats: list[str]
    lists: str | None
    emulated: bool
    device: str
    threads: Whole
    backend: str
    backend_version: str
    seconds: Amount
    clipping: str | None
    passes: Whole
    loop: bool


class OwnAmp(TypedDict):
    """The script itself uses lower precision."""

    what: str


class Asked(OwnAmp, total=False):
    """The same, and the format that its words ask for."""

    asks: str


class _Numbered(TypedDict):
    step: Whole


class Step(_Numbered, total=False):
    """One optimizer step."""

    loss: Figure | None
    seconds: Amount | None
    skipped: bool
    loss_scale: Amount
    sampled: bool


class Profiled(TypedDict, total=False):
    """The step that was profiled."""

    seconds: Amount
    operations: Whole
    device: str
    median_operation_seconds: Amount | None


class Sample(TypedDict, total=False):
    """What the sampled step was seen to do."""

    memory: dict[str, Whole] | None
    memory_absent: dict[str, str]
    matmul_flops: dict[str, Amount] | None
    optimizer_flops: dict[str, Amount] | None
    reduced_bytes: dict[str, Amount] | None
    time_shares: dict[str, Amount] | None
    odd_flops: Amount | None
    samples: Whole | None
    fp32_units: list[str]
    sums: list[str]
    absent: str
    time_shares_absent: str
    profiled: Profiled


class Region(TypedDict, total=False):
    """Where the precision holds."""

    kind: str


class Stored(TypedDict, total=False):
    """What the sampled step held in memory, by format."""

    weights: dict[str, Whole] | None
    gradients: dict[str, Whole] | None
    optimizer: dict[str, Whole] | None
    absent: dict[str, str]


class Logged(TypedDict):
    """A figure of the script's own."""

    name: str
    value: Figure
    step: Whole


class _What(TypedDict):
    what: str


class Watched(_What, total=False):
    """What ``diagnose`` sees; :mod:`halfstep.diagnosis.events` reads the other fields."""

    step: Whole
    counted: Whole
    elements: Whole


class NonFinite(_What, total=False):
    """The first loss that is not finite, or the first step skipped."""

    step: Whole
    words: str
    module: str | None
    operation: str | None
    direction: str | None


class Restart(TypedDict):
    """The steps before this event were a warm-up, not training."""

    drops: str


class AbsentLook(TypedDict):
    """halfstep could not measure something."""

    look: str
    reason: str


class Warned(TypedDict):
    """Something that the user should know."""

    text: str


class Lost(TypedDict):
    """Lines that could not be written."""

    lines: Whole
    why: str


class RaisedAt(TypedDict, total=False):
    """Where the error was raised that ended the program."""

    place: str
    code: str
    modules: list[str]


class FileRead(TypedDict):
    """A file that the program read."""

    path: str
    modified: Figure
    rewritten: bool


class End(TypedDict, total=False):
    """The program is over."""

    status: Ending
    reason: str
    exit_code: Integer | None
    exception: str | None
    raised_at: RaisedAt
    files_read: list[FileRead]
    steps: Whole
    skipped_steps: Whole
    peak_memory_bytes: Whole | None
    peak_resident_bytes: Whole | None
    peak_memory_how: str
    peak_memory_absent: str
    peak_memory_of_tensors: bool
    energy_joules: Amount | None
    energy_steps: Whole
    energy_how: str
    energy_absent: str
    joules_per_step: Amount | None
    joules_per_step_absent: str
    load: dict[str, Amount] | None
    load_absent: str


_KINDS: dict[str, type] = {
    "start": Start, "takeover": Takeover, "own_amp": Asked, "step": Step, "sample": Sample, "region": Region,
    "stored": Stored, "logged": Logged, "watch": Watched, "nonfinite": NonFinite, "restart": Restart,
    "absent": AbsentLook, "warning": Warned, "lost": Lost, "end": End,
}  # fmt: skip


@functools.cache
def _known(event: str) -> tuple[dict[str, tuple[frozenset[type], Check]], tuple[str, ...]]:
    """For each field the classes whose values need no check, and the check; then the names of the required fields.

    Both are empty for an event that halfstep does not read.
    """
    kind: Any = _KINDS.get(event)
    if kind is None:
        return {}, ()
    checks = {name: (unchecked(hint), check_of(hint)) for name, hint in hints_of(kind).items()}
    return checks, tuple(name for name in checks if name in kind.__required_keys__)


def fault(event: Mapping[str, object]) -> str:
    """What is wrong with an event, in a few words; empty where nothing is, and for kinds that nobody reads."""
    kind = event.get("event")
    if not isinstance(kind, str):
        return "no event"
    checks, needed = _known(kind)
    for name in needed:
        if name not in event:
            return f"{kind} without {name}"
    for name, value in event.items():
        known = checks.get(name)
        if known is not None and type(value) not in known[0] and not known[1](value):
            return f"{kind} with another kind of {name}"
    return ""


def cleaned(value: Any) -> Any:
    """``value`` with every text in it safe to show, and of bounded length."""
    if isinstance(value, str):
        return clean(value, lines=True)[:LONGEST]
    if isinstance(value, dict):
        # Most values of a record are numbers, and these need no call.
        return {
            cleaned(key): cleaned(item) if isinstance(item, str | dict | list) else item
            for key, item in value.items()
        }
    return [cleaned(item) for item in value] if isinstance(value, list) else value
