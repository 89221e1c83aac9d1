"""Energy of AMD GPUs, read by ``amdsmi``, the library of their driver (part of ROCm). Untested on such a GPU."""

from __future__ import annotations

import os
from typing import Any

from halfstep.meters.counters import CounterMeter, EnergyMeter, NoEnergyMeter

_NAME = "GPU energy"
#: AMD publishes no figure; this is how often the counters of NVIDIA GPUs move
_UPDATE_SECONDS = 0.1


def open_amd(amdsmi: Any) -> EnergyMeter:
    """The meter of the GPUs that this process sees."""
    try:
        amdsmi.amdsmi_init()
        handles = _visible(list(amdsmi.amdsmi_get_processor_handles()))
        counters = [_Counter(amdsmi, handle) for handle in handles]
        for counter in counters:
            counter.joules()
    except (amdsmi.AmdSmiException, OSError) as error:
        return NoEnergyMeter(_NAME, f"no energy counter by amdsmi: {error}")
    if not counters:
        return NoEnergyMeter(_NAME, "no AMD GPU is visible to this process")
    how = f"amdsmi energy counter, {len(counters)} GPU{'s' * (len(counters) > 1)}"
    return CounterMeter(_NAME, how, [counter.joules for counter in counters], _UPDATE_SECONDS)


class _Counter:
    """``amdsmi_get_energy_count``: a count, each of ``counter_resolution`` microjoules."""

    def __init__(self, amdsmi: Any, handle: Any) -> None:
        self._amdsmi = amdsmi
        self._handle = handle

    def joules(self) -> float:
        """Joules since some fixed point. Raises OSError if the driver does not tell."""
        try:
            found = self._amdsmi.amdsmi_get_energy_count(self._handle)
            return float(found["energy_accumulator"]) * float(found["counter_resolution"]) / 1e6
        except (self._amdsmi.AmdSmiException, KeyError, ValueError) as error:
            raise OSError(f"the driver does not tell ({error})") from error


def _visible(handles: list[Any]) -> list[Any]:
    """The GPUs that HIP_VISIBLE_DEVICES lists by number; those after the first invalid number are invisible."""
    listed = os.environ.get("HIP_VISIBLE_DEVICES")
    if listed is None:
        return handles
    chosen: list[Any] = []
    for entry in listed.split(","):
        if not (entry.strip().isdigit() and int(entry) < len(handles)):
            break
        chosen.append(handles[int(entry)])
    return chosen
