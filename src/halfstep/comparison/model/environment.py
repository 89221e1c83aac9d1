"""The machine that a comparison ran on: its ``environment``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from halfstep.machine.support import Device
from halfstep.meters import Absent, Reading


@dataclass(frozen=True)
class Cluster:
    """The machines of a Ray cluster on which blocks ran."""

    machines: int | None = None  #: how many
    #: the names of those that were not used because they are of another kind
    other_machines: tuple[str, ...] = ()
    busy_machines: int | None = None  #: how many were not used because others used them


@dataclass(frozen=True)
class BlocksAtOnce:
    """How many blocks ran at the same time on a machine, and on how many cores each; None where each had a GPU."""

    blocks: int | None = None
    cores: int | None = None


@dataclass(frozen=True)
class Environment:
    """A machine, its devices and frameworks; JSON has the fields that are known."""

    halfstep: str | None = None  #: the version of halfstep
    python: str | None = None  #: the version of Python
    platform: str | None = None  #: the operating system
    cpu: str | None = None  #: the maker's name for the processor
    cpu_flags: tuple[str, ...] | None = None  #: its units for 16-bit numbers, and for vectors
    cores: int | None = None  #: how many
    memory_bytes: int | None = None  #: of the machine
    threads: int | None = None  #: that the framework uses
    frameworks: Mapping[str, str] | None = None  #: the version of each that is installed
    #: each with `device`, `name`, `capability` and what it can do in each of the `precisions`; the CPU first
    devices: tuple[Device, ...] = ()
    started: str | None = None  #: when the comparison began, by ISO 8601
    idle_watts: float | None = None  #: power of the machine while nothing trains
    idle_watts_absent: str | None = None  #: why there is none; both fields are missing if it was not tried
    idle_watts_how: str | None = None  #: which counters
    #: on a Ray cluster: how many `machines`, the names of `other_machines` left out, how many `busy_machines`
    cluster: Cluster | None = None
    #: where blocks ran at the same time on a machine: how many `blocks`, and on how many `cores` each
    side_by_side: BlocksAtOnce | None = None
    seconds: float | None = None  #: how long the comparison took

    @property
    def OMITTED(self) -> tuple[str, ...]:
        """What JSON has only where it is known: all fields but the two about the idle machine."""
        looked = self.idle_watts is not None or self.idle_watts_absent is not None
        kept = ("idle_watts", "idle_watts_absent") if looked else ()
        return tuple(field.name for field in fields(self) if field.name not in kept)

    def with_idle(self, found: Reading | Absent) -> Environment:
        """With the power of the idle machine."""
        if isinstance(found, Absent):
            return replace(self, idle_watts_absent=found.reason)
        return replace(self, idle_watts=found.value, idle_watts_how=found.how)

    @property
    def places(self) -> int:
        """About how many blocks run at the same time; machines of a cluster may differ."""
        here = self.side_by_side.blocks if self.side_by_side else None
        machines = self.cluster.machines if self.cluster else None
        return (here or 1) * (machines or 1)

    @property
    def shares_cores(self) -> bool:
        """Whether trials that ran at the same time shared processors, so that other processes may be other trials."""
        return self.side_by_side is not None and not self.side_by_side.cores
