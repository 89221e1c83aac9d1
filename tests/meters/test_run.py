"""Joules a step and idle watts against counters and a clock set by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from halfstep.meters.counters import CounterMeter, NoEnergyMeter
from halfstep.meters.reading import Absent, Reading
from halfstep.meters.run import RunMeters, idle_watts


class Machine:
    """A clock, and a counter that rises by ``watts`` a second."""

    def __init__(self, watts: float) -> None:
        self.seconds = 100.0
        self.watts = watts

    def clock(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def meter(self, name: str = "GPU energy", update: float = 0.1) -> CounterMeter:
        return CounterMeter(name, name, [lambda: self.seconds * self.watts], update, self.clock)


def run(machine: Machine, steps: int, step_seconds: float, meters: list[Any]) -> dict[str, Any]:
    meter = RunMeters(meters, machine.clock)
    machine.sleep(30)  # imports and warm-up are not counted
    meter.warm()
    for _ in range(steps):
        machine.sleep(step_seconds)
        meter.tick()
    machine.sleep(7)  # an evaluation at the end is no step
    return meter.read()


def test_joules_a_step_are_those_between_ends_of_steps() -> None:
    machine = Machine(watts=200)
    found = run(machine, 40, 0.25, [machine.meter()])
    assert found["joules_per_step"] == pytest.approx(200 * 0.25, rel=1e-12)
    assert found["energy_joules"] == pytest.approx(200 * (40 * 0.25 + 7), rel=1e-12)
    assert found["energy_steps"] == 40


def test_a_counter_that_wraps_is_read_often_enough() -> None:
    """The CPU's counter may wrap every 262 s: an hour of steps is read once a second."""
    machine = Machine(watts=200)
    reads: list[float] = []

    def counter() -> float:
        reads.append(machine.seconds)
        return machine.seconds * machine.watts

    run(machine, 7200, 0.5, [CounterMeter("CPU energy", "RAPL", [counter], 1e-3, machine.clock)])
    gaps = [later - sooner for sooner, later in itertools.pairwise(reads)]
    assert max(gaps) <= 7.0
    assert len(reads) < 2 * 3600  # and not at every step


def test_a_run_that_is_too_short_for_the_counter_says_so() -> None:
    machine = Machine(watts=200)
    machine.seconds = 0
    meter = RunMeters([machine.meter()], machine.clock)
    meter.warm()
    machine.sleep(1)
    meter.tick()
    found = meter.read()
    assert found["energy_absent"] == (
        "the window of 1 s is too short for the GPU energy counter; run for 5 s or more (about 5 steps)"
    )
    assert "joules_per_step" not in found


def test_joules_are_of_all_counters_or_of_none() -> None:
    """The CPU's counter needs 0.05 s, the GPU's 5 s: what the CPU alone took is not the step's energy."""
    machine = Machine(watts=200)
    both = [machine.meter(), machine.meter("CPU energy", 1e-3)]
    found = run(machine, 8, 0.5, both)  # 4 s of steps, 11 s in all
    assert found["energy_joules"] == pytest.approx(2 * 200 * 11, rel=1e-12)
    assert "joules_per_step" not in found
    assert found["joules_per_step_absent"] == (
        "the window of 4 s is too short for the GPU energy counter; run for 5 s or more (about 10 steps)"
    )
    meter = RunMeters(both, machine.clock)
    meter.warm()
    machine.sleep(2)
    assert meter.read()["energy_absent"] == (
        "the window of 2 s is too short for the GPU energy counter; run for 5 s or more"
    )


def test_what_has_no_counter_costs_no_reading_and_gives_its_reason() -> None:
    machine = Machine(watts=200)
    found = run(
        machine, 3, 1, [NoEnergyMeter("GPU energy", "no GPU"), NoEnergyMeter("CPU energy", "no RAPL")]
    )
    assert found["energy_absent"] == "no GPU; no RAPL"


def test_a_program_that_ends_early_has_no_energy() -> None:
    assert RunMeters([], lambda: 0.0).read()["energy_absent"] == (
        "the program ended before the meters were started, in its third step"
    )


def test_idle_watts() -> None:
    machine = Machine(watts=60)
    found = idle_watts(
        6, machine.sleep, [machine.meter(), NoEnergyMeter("CPU energy", "no RAPL")], machine.clock
    )
    assert found == Reading(pytest.approx(60, rel=1e-12), "W", "GPU energy")


def test_without_a_counter_nobody_waits() -> None:
    machine = Machine(watts=60)
    found = idle_watts(6, machine.sleep, [NoEnergyMeter("CPU energy", "no RAPL")], machine.clock)
    assert found == Absent("no RAPL")
    assert machine.seconds == 100.0
