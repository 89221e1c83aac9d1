"""What a meter gives back: a figure with its unit and origin, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reading:
    """A measured figure."""

    value: float  #: the figure, in ``unit``
    unit: str  #: ``s``, ``bytes`` or ``J``
    how: str  #: where it came from, as a phrase, e.g. ``VmHWM of /proc/self/status``
    #: for a peak of memory, whether it counts tensors only (an allocator's), not the whole process
    tensors_alone: bool = False


@dataclass(frozen=True)
class Absent:
    """What could not be measured, and why; never a zero and never a guess."""

    reason: str  #: in words
    #: how many times as long the window would have to be; 0 where a longer one would not help
    windows: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Kind:
    """What a meter can read on this machine: the unit, and where the figure would come from."""

    unit: str
    how: str
