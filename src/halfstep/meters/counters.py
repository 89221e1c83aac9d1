"""Meters of energy by counters of the hardware that only rise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from halfstep.meters.clock import now
from halfstep.meters.reading import Absent, Kind, Reading

#: A counter that moves every u seconds is read over windows of 50 u or more: at most 2 % off at each end.
_FEWEST_UPDATES = 50


class EnergyMeter(ABC):
    """Joules used by one kind of device. ``start()`` opens the window, ``read()`` may be called repeatedly.

    The whole device is counted, not this process's share: other programs on it count too.
    """

    name: str

    @abstractmethod
    def start(self) -> None:
        """Open the window."""

    @abstractmethod
    def read(self) -> Reading | Absent:
        """Joules since ``start()``, or why they are not known."""

    @abstractmethod
    def kind(self) -> Kind | Absent:
        """What this meter reads, or why it reads nothing."""


class NoEnergyMeter(EnergyMeter):
    """The meter of a device without a counter: always absent, with the same reason."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._absent = Absent(reason)

    def start(self) -> None:
        """Do nothing."""

    def read(self) -> Absent:
        return self._absent

    def kind(self) -> Absent:
        return self._absent


class CounterMeter(EnergyMeter):
    """Sums counters that only rise.

    Args:
        name: what is metered, for people.
        how: the counters' origin, for people.
        counters: each returns its present value in joules, or raises OSError.
        update_seconds: how often the counters move.
    """

    def __init__(
        self,
        name: str,
        how: str,
        counters: Sequence[Callable[[], float]],
        update_seconds: float,
        clock: Callable[[], float] = now,
    ) -> None:
        self.name = name
        self._how = how
        self._counters = counters
        self._shortest = _FEWEST_UPDATES * update_seconds
        self._clock = clock
        self._began = 0.0
        self._at_start = 0.0
        self._fault: Absent | None = Absent(f"the {name} meter was not started")

    def _joules(self) -> float:
        """The counters' sum; a fault lasts until the next start, because energy may have been missed."""
        try:
            return sum(counter() for counter in self._counters)
        except OSError as error:
            self._fault = self._fault or Absent(f"the {self.name} counter cannot be read: {error}")
            return 0.0

    def start(self) -> None:
        self._fault = None
        self._at_start = self._joules()
        self._began = self._clock()

    def read(self) -> Reading | Absent:
        joules = self._joules()
        if self._fault:
            return self._fault
        seconds = self._clock() - self._began
        if seconds < self._shortest:
            return Absent(
                f"the window of {seconds:.2g} s is too short for the {self.name} counter; "
                f"run for {self._shortest:g} s or more",
                windows=self._shortest / seconds if seconds else 0.0,
            )
        return Reading(joules - self._at_start, "J", self._how)

    def kind(self) -> Kind:
        return Kind("J", self._how)
