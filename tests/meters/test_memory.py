"""Peak memory: the real one of this process, recorded status files, and an allocator's figures."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from halfstep import meters
from halfstep.meters import memory
from halfstep.meters.memory import PeakMemory, resident_bytes
from halfstep.meters.reading import Absent, Kind, Reading

from ..pytorch.played_device import Memory

MIB = 2**20


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cuda_in_use", lambda: None)


def touch(mebibytes: int) -> None:
    """Make so much memory resident, and give it back."""
    with mmap.mmap(-1, mebibytes * MIB) as block:
        block[::4096] = b"x" * (mebibytes * MIB // 4096)


def test_resident_bytes_is_what_psutil_says() -> None:
    assert resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.usefixtures("no_torch")
def test_a_peak_is_seen_and_forgotten_by_mark() -> None:
    meter = PeakMemory()
    meter.start()
    touch(200)
    peak = meter.read()
    assert isinstance(peak, Reading)
    assert peak.how == "VmHWM of /proc/self/status over the start"
    assert 195 * MIB <= peak.value <= 260 * MIB
    meter.mark()
    touch(50)
    peak = meter.read()
    assert isinstance(peak, Reading)
    assert 45 * MIB <= peak.value <= 110 * MIB


def recorded(proc: Path, resident_kib: int, mark_kib: int) -> Path:
    (proc / "status").write_text(f"Name:\tpython\nVmHWM:\t{mark_kib:8} kB\nVmRSS:\t{resident_kib:8} kB\n")
    return proc


@pytest.mark.usefixtures("no_torch")
def test_recorded_status(tmp_path: Path) -> None:
    meter = PeakMemory(recorded(tmp_path, 1000, 5000))
    meter.start()
    assert (tmp_path / "clear_refs").read_text() == "5"
    recorded(tmp_path, 1500, 4000)
    assert meter.read() == Reading(3000 * 1024.0, "bytes", "VmHWM of /proc/self/status over the start")


@pytest.mark.usefixtures("no_torch")
def test_mark_that_cannot_be_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clear_refs").mkdir()  # writing to it fails for the superuser too
    largest = 5 * MIB
    monkeypatch.setattr(memory, "largest_resident_bytes", lambda: largest)
    meter = PeakMemory(recorded(tmp_path, 1024, 5 * 1024))
    meter.start()
    assert meter.read() == Absent(
        "this system cannot reset a process's memory high-water mark, "
        "and an earlier peak of 5 MiB was not exceeded"
    )
    largest = 6 * MIB
    assert meter.read() == Reading(
        5.0 * MIB, "bytes", "ru_maxrss, the process's largest resident set over the start"
    )


@pytest.mark.usefixtures("no_torch")
def test_system_without_procfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = PeakMemory(tmp_path)
    assert meter.kind() == Kind("bytes", "ru_maxrss, the process's largest resident set")
    meter.start()
    began = psutil.Process().memory_info().rss
    monkeypatch.setattr(memory, "largest_resident_bytes", lambda: 10**12)
    peak = meter.read()
    assert isinstance(peak, Reading)
    assert peak.value == pytest.approx(10**12 - began, rel=0.01)


def test_cuda_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Memory(devices=3)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    meter = PeakMemory()
    for size, device in ((3 * MIB, 0), (5 * MIB, 2)):
        cuda.allocate(size, device)
        cuda.free(size, device)
    assert meter.read() == Reading(8.0 * MIB, "bytes", "torch.cuda.max_memory_allocated, 2 devices", True)
    meter.start()
    cuda.allocate(MIB, 2)
    assert meter.read() == Reading(1.0 * MIB, "bytes", "torch.cuda.max_memory_allocated, 1 device", True)


def test_what_the_replays_of_a_cuda_graph_use_is_in_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Memory()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    meter = PeakMemory()
    cuda.allocate(MIB)
    cuda.capture(4 * MIB)
    meter.start()  # when the graph has been captured: its replays allocate nothing
    cuda.replay()
    how = (
        "torch.cuda.max_memory_reserved, 1 device; CUDA graphs replay in memory that is reserved and not counted as "
        "allocated"
    )
    assert meter.read() == Reading(5.0 * MIB, "bytes", how, True)


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, halfstep.meters as m; m.available(); p = m.PeakMemory(); p.start(); p.read();"
        "print(sorted({'torch', 'keras', 'numpy', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_available_names_every_meter() -> None:
    found = meters.available()
    assert [name for name, _ in found] == ["step time", "peak memory", "GPU energy", "CPU energy"]
    assert found[0][1] == Kind("s", "time.perf_counter")
    assert all(isinstance(kind, Kind) or kind.reason for _, kind in found)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library's heap is GNU's")
def test_what_was_freed_before_the_window_is_not_in_its_peak() -> None:
    """Small blocks that are free, under one that is not, stay in the heap: looks at early steps leave such."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    meter = PeakMemory()
    meter.start()
    blocks = [libc.malloc(ctypes.c_size_t(2**16)) for _ in range(1024)]
    for block in blocks:
        ctypes.memset(block, 1, 2**16)
    for block in blocks[:-1]:
        libc.free(block)
    meter.mark()
    found = meter.read()
    libc.free(blocks[-1])
    assert isinstance(found, Reading)
    assert found.value < 2**25, "half of what was freed"


@pytest.mark.parametrize("name", ["xpu", "mps"])
def test_on_other_accelerators_the_peak_is_absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [0]
    tell = "driver_allocated_memory" if name == "mps" else "max_memory_allocated"
    device = SimpleNamespace(is_available=lambda: True, **{tell: lambda: held[0]})
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(**{name: device}))
    meter = PeakMemory()
    meter.start()
    assert isinstance(meter.read(), Reading), "the program uses the CPU"
    held[0] = 1
    assert meter.read() == Absent(
        f"the peak of memory on {name} is not read: untested, as halfstep has not run there"
    )
