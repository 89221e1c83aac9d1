"""Energy meters against recorded counter directories and a module with NVML's functions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halfstep.meters import energy
from halfstep.meters.counters import CounterMeter, EnergyMeter
from halfstep.meters.energy import open_meters
from halfstep.meters.reading import Absent, Kind, Reading

RANGE_UJ = 262_143_328_850


class Clock:
    """Seconds set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for cls in (CounterMeter, energy._RaplCounter):
        monkeypatch.setattr(cls.__init__, "__defaults__", (made,))
    return made


def domain(root: Path, directory: str, name: str, microjoules: int = 0, wrap: int = RANGE_UJ) -> Path:
    path = root / directory
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{wrap}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path


def advance(path: Path, microjoules: int) -> None:
    old = int((path / "energy_uj").read_text())
    (path / "energy_uj").write_text(f"{(old + microjoules) % RANGE_UJ}\n")


def rapl(root: Path) -> EnergyMeter:
    return open_meters(powercap_root=root, nvml=nvml([]))[1]


def test_two_packages_and_memory_are_summed_once(tmp_path: Path, clock: Clock) -> None:
    first = domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    core = domain(tmp_path, "intel-rapl:0:0", "core", 1)
    memory = domain(tmp_path, "intel-rapl:0:1", "dram", 7)
    second = domain(tmp_path, "intel-rapl:1", "package-1", 9_000_000)
    system = domain(tmp_path, "intel-rapl:2", "psys", 100)
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    meter = rapl(tmp_path)
    meter.start()
    for path, joules in ((first, 30), (core, 20), (memory, 4), (second, 50), (system, 200)):
        advance(path, joules * 1_000_000)
    clock.seconds = 10.0
    assert meter.read() == Reading(84.0, "J", "RAPL, package-0 + dram + package-1")


def test_wrap_around(tmp_path: Path, clock: Clock) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 1_000_000)
    meter = rapl(tmp_path)
    meter.start()
    total = 0
    for second in range(1, 2000, 200):  # 10 readings, the counter wraps four times
        advance(package, 100_000_000_000)
        total += 100_000
        clock.seconds = second
        reading = meter.read()
        assert isinstance(reading, Reading)
        assert reading.value == pytest.approx(total, rel=1e-12)


def test_a_gap_in_which_it_may_wrap_twice_is_absent(tmp_path: Path, clock: Clock) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0")
    meter = rapl(tmp_path)
    meter.start()
    advance(package, 1_000_000)
    clock.seconds = 300.0
    assert meter.read() == Absent(
        "the CPU energy counter cannot be read: "
        "it may have wrapped more than once in the 300 s since it was last read"
    )
    clock.seconds = 301.0  # a wrap that may have been missed stays so until the next start
    assert isinstance(meter.read(), Absent)
    meter.start()
    advance(package, 2_000_000)
    clock.seconds = 302.0
    assert meter.read() == Reading(pytest.approx(2.0), "J", "RAPL, package-0")


def test_short_window(tmp_path: Path, clock: Clock) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0")
    meter = rapl(tmp_path)
    assert meter.read() == Absent("the CPU energy meter was not started")
    meter.start()
    clock.seconds = 0.01
    assert meter.read() == Absent(
        "the window of 0.01 s is too short for the CPU energy counter; run for 0.05 s or more"
    )


def test_missing(tmp_path: Path) -> None:
    why = (
        "this kernel was built without it, or the container hides it"
        if sys.platform == "linux"
        else "Linux alone has it"
    )
    assert rapl(tmp_path / "powercap").kind() == Absent(
        f"no RAPL counter: there is no {tmp_path}/powercap ({why})"
    )
    (tmp_path / "powercap").mkdir()
    meter = rapl(tmp_path / "powercap")
    meter.start()
    assert meter.read() == Absent(
        f"no RAPL counter: {tmp_path}/powercap has no intel-rapl package (virtual machines seldom do)"
    )


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = domain(tmp_path, "intel-rapl:0", "package-0") / "energy_uj"
    counter.chmod(0)
    real = Path.read_text

    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if self == counter:  # the superuser reads files of mode 0 too
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert rapl(tmp_path).kind() == Absent(
        f"{counter} is not readable by this user; ask an administrator for read permission"
    )


def test_counter_that_vanishes_while_running(tmp_path: Path, clock: Clock) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0")
    meter = rapl(tmp_path)
    meter.start()
    (package / "energy_uj").unlink()
    clock.seconds = 1.0
    reading = meter.read()
    assert isinstance(reading, Absent)
    assert reading.reason.startswith("the CPU energy counter cannot be read: [Errno 2]")


# --- NVIDIA GPUs -------------------------------------------------------------------------------------------


class NVMLError(Exception):
    pass


class Gpu(SimpleNamespace):
    name: str
    uuid: str
    millijoules: int | None


def gpus(*names: str) -> list[Gpu]:
    return [Gpu(name=name, uuid=f"GPU-{i}abc", millijoules=1000 * i) for i, name in enumerate(names)]


def nvml(devices: list[Gpu], init_error: str = "") -> Any:
    def init() -> None:
        if init_error:
            raise NVMLError(init_error)

    def energy_of(gpu: Gpu) -> int:
        if gpu.millijoules is None:
            raise NVMLError("Not Supported")
        return int(gpu.millijoules)

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlDeviceGetCount=lambda: len(devices),
        nvmlDeviceGetHandleByIndex=lambda i: devices[i],
        nvmlDeviceGetName=lambda gpu: gpu.name,
        nvmlDeviceGetUUID=lambda gpu: gpu.uuid,
        nvmlDeviceGetTotalEnergyConsumption=energy_of,
    )


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


@pytest.mark.parametrize(
    ("visible", "used"),
    [(None, [0, 1, 2]), ("1", [1]), ("2,0", [0, 2]), ("GPU-1", [1]), ("0,-1,1", [0]), ("0,7,1", [0])],
)
def test_gpus_visible_to_this_process(
    visible: str | None, used: list[int], clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    devices = gpus("H100", "H100", "H100")
    meter = open_meters(tmp_path, nvml(devices))[0]
    meter.start()
    for i, device in enumerate(devices):
        device.millijoules += 10**i * 1000
    clock.seconds = 6.0
    plural = "s" if len(used) > 1 else ""
    expected = float(sum(10**i for i in used))
    assert meter.read() == Reading(expected, "J", f"NVML total-energy counter, {len(used)} GPU{plural}")


def test_gpus_that_the_program_does_not_use_are_not_metered(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PyTorch numbers the GPUs as CUDA does, NVML otherwise: their UUIDs are the same."""
    devices = gpus("H100", "H100", "H100")
    tensors: list[int] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 3,
        max_memory_allocated=lambda device: 100 * (device in tensors),
        get_device_properties=lambda device: SimpleNamespace(uuid=f"{2 - device}abc"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    meter = open_meters(tmp_path, nvml(devices))[0]
    for used, joules in (([0], 100.0), ([0, 2], 101.0), ([], 111.0)):  # none: it is not known which
        tensors[:] = used
        meter.start()
        for i, device in enumerate(devices):
            device.millijoules += 10**i * 1000
        clock.seconds += 6.0
        count = len(used) or 3
        how = f"NVML total-energy counter, {count} GPU{'s' * (count > 1)}"
        assert meter.read() == Reading(joules, "J", how)


def test_gpu_window_of_under_five_seconds(clock: Clock, tmp_path: Path) -> None:
    meter = open_meters(tmp_path, nvml(gpus("H100")))[0]
    meter.start()
    clock.seconds = 4.9
    assert meter.read() == Absent(
        "the window of 4.9 s is too short for the GPU energy counter; run for 5 s or more"
    )


def test_gpu_reasons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def reason(module: Any) -> str:
        absent = open_meters(tmp_path, module)[0].kind()
        assert isinstance(absent, Absent)
        return absent.reason

    no_counter = "no NVML energy counter (Volta GPUs and later have one): "
    assert reason(nvml([], "Driver Not Loaded")) == no_counter + "Driver Not Loaded"
    old = gpus("GTX 1080")
    old[0].millijoules = None
    assert reason(nvml(old)) == no_counter + "Not Supported"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert reason(nvml(gpus("H100"))) == "no NVIDIA GPU is visible to this process"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-12")
    assert reason(nvml(gpus("H100"))) == ("a MIG slice has no energy counter, only the whole GPU has one")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    mixed = nvml(gpus("H100", "T4"))
    assert "set CUDA_DEVICE_ORDER=PCI_BUS_ID" in reason(mixed)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert open_meters(tmp_path, mixed)[0].kind() == Kind("J", "NVML total-energy counter, 1 GPU")
