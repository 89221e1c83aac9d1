"""A figure with its interval, and a ratio of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Spread:
    """A median with its 95 % interval, or with the lowest and highest of a few values; a single value has no ends."""

    OMITTED: ClassVar = ("unit",)
    median: float
    low: float | None = None
    high: float | None = None
    unit: str | None = None

    @property
    def value(self) -> float:
        """The median."""
        return self.median


@dataclass(frozen=True)
class Ratio:
    """A ratio to the baseline with its 95 % interval."""

    OMITTED: ClassVar = ("runs", "disturbed")
    value: float
    low: float | None = None
    high: float | None = None
    significant: bool | None = None  #: whether the interval excludes 1
    words: str = ""  #: the same in words
    runs: tuple[int, ...] | None = None  #: how many runs it rests on, the baseline's first
    disturbed: bool | None = None  #: whether there is no interval because other work disturbed too many runs
