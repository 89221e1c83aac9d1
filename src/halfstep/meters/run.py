"""Memory, energy and other load of one training run, from the end of its warm-up on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from halfstep.meters.clock import now
from halfstep.meters.counters import EnergyMeter
from halfstep.meters.energy import open_meters
from halfstep.meters.load import LoadMeter
from halfstep.meters.memory import PeakMemory
from halfstep.meters.reading import Absent, Reading

#: seconds between two readings of the counters while the program trains; well within the time in which one may wrap
TICK_SECONDS = 1.0


class RunMeters:
    """Peak memory and joules until the program's end; joules per step and other load until the end of a step.

    Args:
        energy: the energy meters; None opens this machine's.
    """

    def __init__(self, energy: Sequence[EnergyMeter] | None = None, clock: Callable[[], float] = now) -> None:
        self._memory = PeakMemory()
        self._memory.start()
        self._load = LoadMeter()
        self._energy = open_meters() if energy is None else list(energy)
        self._counts = any(not isinstance(meter.kind(), Absent) for meter in self._energy)
        self._clock = clock
        self._warm = False
        self._steps = 0
        self._next = 0.0
        self._at_tick: tuple[float, int] | None = None
        self._tick_absent = "no step ended while the counters were read"

    def warm(self) -> None:
        """The warm-up is over: restart the windows."""
        self._memory.mark()
        self._load.start()
        for meter in self._energy:
            meter.start()
        self._warm = True
        self._next = self._clock() + TICK_SECONDS

    def tick(self) -> None:
        """A step has ended; once in a while, read the counters."""
        self._steps += 1
        if self._clock() >= self._next:
            self._load.mark()
            if self._counts:
                self._read_counters()
            self._next = self._clock() + TICK_SECONDS

    def _read_counters(self) -> None:
        joules, _, self._tick_absent = _sum(self._energy, self._steps)
        if joules is not None:
            self._at_tick = joules, self._steps

    def read(self) -> dict[str, object]:
        """The readings as fields of the record's ``end``; what is absent with its reason."""
        return self._peak() | self._joules() | self._load.read()

    def _peak(self) -> dict[str, object]:
        peak = self._memory.read()
        if isinstance(peak, Absent):
            return {"peak_memory_absent": peak.reason}
        resident = self._memory.resident()
        return {
            "peak_memory_bytes": int(peak.value),
            "peak_memory_how": peak.how,
            "peak_memory_of_tensors": peak.tensors_alone,
            "peak_resident_bytes": None if isinstance(resident, Absent) else int(resident.value),
        }

    def _joules(self) -> dict[str, object]:
        if not self._warm:
            return {"energy_absent": "the program ended before the meters were started, in its third step"}
        joules, how, reason = _sum(self._energy, self._steps)
        if joules is None:
            return {"energy_absent": reason}
        fields: dict[str, object] = {"energy_joules": joules, "energy_how": how}
        if self._at_tick is None:
            return fields | {"joules_per_step_absent": self._tick_absent}
        at_tick, steps = self._at_tick
        return fields | {"joules_per_step": at_tick / steps, "energy_steps": steps}


def _sum(meters: Sequence[EnergyMeter], steps: int = 0) -> tuple[float | None, str, str]:
    """(joules of all meters with a counter, or None; where they came from; why there are none).

    Args:
        steps: made while they were read; 0 where there were none.

    Where a meter has a counter but no reading there is no sum: the others alone are not what the training took.
    """
    counting = [meter for meter in meters if not isinstance(meter.kind(), Absent)]
    readings = [meter.read() for meter in counting or meters]
    known = [reading for reading in readings if isinstance(reading, Reading)]
    reasons = "; ".join(_why(reading, steps) for reading in readings if isinstance(reading, Absent))
    how = "; ".join(reading.how for reading in known)
    return (sum(reading.value for reading in known) if known and not reasons else None), how, reasons


def _why(absent: Absent, steps: int) -> str:
    if not (absent.windows and steps):
        return absent.reason
    return f"{absent.reason} (about {math.ceil(absent.windows * steps)} steps)"


def idle_watts(
    seconds: float,
    sleep: Callable[[float], None],
    energy: Sequence[EnergyMeter] | None = None,
    clock: Callable[[], float] = now,
) -> Reading | Absent:
    """Watts of this machine while nothing trains, over at least ``seconds``; returns at once without a counter."""
    meters = open_meters() if energy is None else list(energy)
    reasons = [kind.reason for meter in meters if isinstance(kind := meter.kind(), Absent)]
    if len(reasons) == len(meters):
        return Absent("; ".join(reasons))
    began = clock()
    for meter in meters:
        meter.start()
    sleep(seconds)
    joules, how, reason = _sum(meters)
    if joules is None:
        return Absent(reason)
    return Reading(joules / (clock() - began), "W", how)
