"""Meters: clock, memory, energy. Each gives a Reading or says why it has none; none imports a framework."""

from __future__ import annotations

from halfstep.meters.clock import Summary as Summary
from halfstep.meters.clock import now as now
from halfstep.meters.clock import summary as summary
from halfstep.meters.counters import EnergyMeter as EnergyMeter
from halfstep.meters.energy import open_meters as open_meters
from halfstep.meters.memory import PeakMemory as PeakMemory
from halfstep.meters.memory import resident_bytes as resident_bytes
from halfstep.meters.reading import Absent as Absent
from halfstep.meters.reading import Kind as Kind
from halfstep.meters.reading import Reading as Reading
from halfstep.meters.run import RunMeters as RunMeters
from halfstep.meters.run import idle_watts as idle_watts


def available() -> list[tuple[str, Kind | Absent]]:
    """What can be measured on this machine and what cannot, by the meters' names."""
    clock = Kind("s", "time.perf_counter")
    return [
        ("step time", clock),
        ("peak memory", PeakMemory().kind()),
        *((meter.name, meter.kind()) for meter in open_meters()),
    ]
