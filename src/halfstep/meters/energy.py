"""Energy from hardware counters: NVML for NVIDIA GPUs, RAPL through the kernel's powercap files for CPUs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from halfstep.meters.clock import now
from halfstep.meters.counters import CounterMeter, EnergyMeter, NoEnergyMeter
from halfstep.meters.energy_amd import open_amd
from halfstep.meters.memory import cuda_in_use, devices_used
from halfstep.meters.reading import Absent
from halfstep.processes import NO_POWERCAP

_POWERCAP = Path("/sys/class/powercap")


def open_meters(powercap_root: Path = _POWERCAP, nvml: Any = None) -> list[EnergyMeter]:
    """One meter for the GPUs and one for the CPUs; a device without a counter gets one that says so.

    Args:
        powercap_root: the kernel's powercap class directory.
        nvml: a module with NVML's functions; None imports nvidia-ml-py's.
    """
    return [_open_gpus(nvml), _open_rapl(powercap_root)]


# --- NVIDIA GPUs -------------------------------------------------------------------------------------------

_GPU = "GPU energy"
_NVML_UPDATE_SECONDS = 0.1


def _open_gpus(nvml: Any) -> EnergyMeter:
    amd = _open_amd() if nvml is None else None
    if amd is not None and not isinstance(amd.kind(), Absent):
        return amd
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError:
        return amd or NoEnergyMeter(_GPU, "nvidia-ml-py is not installed; pip install 'halfstep[nvidia]'")
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        visible = _visible(nvml, handles)
        if isinstance(visible, Absent):
            return NoEnergyMeter(_GPU, visible.reason)
        counters = [_NvmlCounter(nvml, handle) for handle in visible]
        for counter in counters:
            counter.joules()
    except (nvml.NVMLError, OSError) as error:
        return NoEnergyMeter(_GPU, f"no NVML energy counter (Volta GPUs and later have one): {error}")
    if not counters:
        return NoEnergyMeter(_GPU, "no NVIDIA GPU is visible to this process")
    return _Gpus(counters)


def _open_amd() -> EnergyMeter | None:
    """The meter of AMD's GPUs; None where their driver's library is not installed."""
    try:
        amdsmi = importlib.import_module("amdsmi")
    except ImportError:
        return None
    except Exception as error:  # the package looks for the driver at its import
        return NoEnergyMeter(_GPU, f"amdsmi cannot be used: {error}")
    return open_amd(amdsmi)


class _Gpus(CounterMeter):
    """The GPUs that the program uses when the window opens; all that it sees where that is not known."""

    def __init__(self, visible: Sequence[_NvmlCounter]) -> None:
        self._visible = visible
        super().__init__(_GPU, "", [], _NVML_UPDATE_SECONDS)
        self._choose(visible)

    def start(self) -> None:
        used = _uuids_in_use()
        self._choose([gpu for gpu in self._visible if gpu.uuid in used] or self._visible)
        super().start()

    def _choose(self, gpus: Sequence[_NvmlCounter]) -> None:
        self._how = f"NVML total-energy counter, {len(gpus)} GPU{'s' * (len(gpus) > 1)}"
        self._counters = [gpu.joules for gpu in gpus]


def _uuids_in_use() -> set[str]:
    """The UUIDs, as NVML writes them, of the GPUs on which PyTorch has had tensors; empty where it uses none."""
    cuda = cuda_in_use()
    return {f"GPU-{cuda.get_device_properties(index).uuid}" for index in devices_used(cuda)}


class _NvmlCounter:
    """nvmlDeviceGetTotalEnergyConsumption: millijoules since the driver was loaded."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self.uuid = _text(nvml.nvmlDeviceGetUUID(handle))

    def joules(self) -> float:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from error


def _visible(nvml: Any, handles: list[Any]) -> list[Any] | Absent:
    """The GPUs that CUDA_VISIBLE_DEVICES names; NVML itself ignores that variable."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return handles
    entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
    if any(entry.startswith("MIG") for entry in entries):
        return Absent("a MIG slice has no energy counter, only the whole GPU has one")
    numbered = any(not entry.startswith("GPU-") for entry in entries)
    models = {_text(nvml.nvmlDeviceGetName(handle)) for handle in handles}
    if numbered and len(models) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return Absent(
            "CUDA and NVML number GPUs of different models differently; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    return _take_until_invalid(entries, handles, uuids)


def _take_until_invalid(entries: list[str], handles: list[Any], uuids: list[str]) -> list[Any]:
    """CUDA's rule: devices after the first invalid entry are invisible; a UUID may be shortened."""
    chosen: list[Any] = []
    for entry in entries:
        if entry.startswith("GPU-"):
            index = next((i for i, uuid in enumerate(uuids) if uuid.startswith(entry)), -1)
        else:
            index = int(entry) if entry.isdigit() else -1
        if not 0 <= index < len(handles):
            break
        chosen.append(handles[index])
    return chosen


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


# --- CPUs --------------------------------------------------------------------------------------------------

_CPU = "CPU energy"
_RAPL_UPDATE_SECONDS = 1e-3

#: No package draws more, so a counter cannot wrap twice within range / 1 kW (262 s for the usual 262 kJ).
_MOST_WATTS = 1000.0


def _open_rapl(root: Path) -> EnergyMeter:
    if not root.is_dir():
        return NoEnergyMeter(_CPU, f"no RAPL counter: there is no {root} ({NO_POWERCAP})")
    domains = [domain for domain in sorted(root.glob("intel-rapl:*")) if _counted(domain)]
    if not domains:
        return NoEnergyMeter(
            _CPU, f"no RAPL counter: {root} has no intel-rapl package (virtual machines seldom do)"
        )
    try:
        counters = [_RaplCounter(domain) for domain in domains]
    except PermissionError as error:
        return NoEnergyMeter(
            _CPU, f"{error.filename} is not readable by this user; ask an administrator for read permission"
        )
    except (OSError, ValueError) as error:
        return NoEnergyMeter(_CPU, f"the RAPL counter cannot be read: {error}")
    how = "RAPL, " + " + ".join(_name(domain) for domain in domains)
    return CounterMeter(_CPU, how, [counter.joules for counter in counters], _RAPL_UPDATE_SECONDS)


def _name(domain: Path) -> str:
    try:
        return (domain / "name").read_text().strip()
    except OSError:
        return ""


def _counted(domain: Path) -> bool:
    """Packages and memory: core and uncore are parts of a package, psys contains the packages."""
    name = _name(domain)
    return name.startswith("package") or name == "dram"


class _RaplCounter:
    """energy_uj made monotonic: it starts again from 0 after max_energy_range_uj."""

    def __init__(self, domain: Path, clock: Callable[[], float] = now) -> None:
        self._file = domain / "energy_uj"
        self._range = int((domain / "max_energy_range_uj").read_text()) / 1e6
        self._clock = clock
        self._wrapped = 0.0
        self._last = self._read()
        self._last_at = clock()

    def _read(self) -> float:
        return int(self._file.read_text()) / 1e6

    def joules(self) -> float:
        """Joules since some fixed point.

        Raises:
            OSError: the file cannot be read, or was not read for so long that it may have wrapped twice.
        """
        value, at = self._read(), self._clock()
        gap = at - self._last_at
        if value < self._last:
            self._wrapped += self._range
        self._last, self._last_at = value, at
        if gap > self._range / _MOST_WATTS:
            raise OSError(f"it may have wrapped more than once in the {gap:.0f} s since it was last read")
        return self._wrapped + value
