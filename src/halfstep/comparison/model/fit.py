"""The largest batch that fits each precision: ``fit_batch``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitTrial:
    """One batch that was tried: its size, how the trial ended, and its peaks."""

    size: int
    status: str = ""
    reason: str = ""
    samples: int | None = None
    peak_memory_bytes: int | None = None
    peak_resident_bytes: int | None = None
    seconds: float | None = None
    log: str = ""


@dataclass(frozen=True)
class FitRow:
    """The largest batch that fitted a precision, and the smallest that did not; None if there was none."""

    precision: str = ""
    largest: int | None = None
    fails_at: int | None = None
    reason: str = ""  #: why there is no answer
    trials: tuple[FitTrial, ...] = ()
    ratio: float | None = None  #: the largest over the first precision's


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The largest batches; ``name`` is what is counted, ``argument`` the program's option for it.

    Without ``memory_limit_bytes`` the limit is the GPU's own memory.
    """

    name: str = "batch"
    argument: str = ""
    steps: int | None = None
    memory_limit_bytes: int | None = None
    rows: tuple[FitRow, ...]
