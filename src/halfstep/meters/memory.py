"""Peak memory of this process: the resident set's high-water mark, or the CUDA allocator's."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from halfstep.meters.reading import Absent, Kind, Reading
from halfstep.processes import RESIDENT_PEAK, largest_resident_bytes

_PROC = Path("/proc/self")


def resident_bytes() -> int:
    """Bytes of this process in physical memory now."""
    return _status_bytes(_PROC, "VmRSS") or _psutil_bytes("rss")


class PeakMemory:
    """The most memory used since a point in time.

    On a CUDA device: bytes in tensors at the allocator's peak, summed over the devices used.
    Otherwise: the resident set's peak over the baseline, the resident set at ``start()``.
    """

    def __init__(self, proc: Path = _PROC) -> None:
        self._resident = _Procfs(proc) if _status_bytes(proc, "VmHWM") else _Rusage()
        self._baseline = 0

    def start(self) -> None:
        """Take the baseline and open the window."""
        self.mark()
        self._baseline = self._resident.now()

    def mark(self) -> None:
        """Open the window anew; the baseline stays."""
        self._resident.reset()
        _reset_cuda()

    def read(self) -> Reading | Absent:
        """The window's peak, in bytes."""
        return _cuda_peak() or _other_peak() or self._resident_peak()

    def resident(self) -> Reading | Absent:
        """The largest resident set of the window, in bytes, the start included."""
        peak = self._resident.peak()
        return peak if isinstance(peak, Absent) else Reading(float(peak), "bytes", self._resident.how)

    def kind(self) -> Kind:
        """Where a reading would come from, for a program on the CPU."""
        return Kind("bytes", self._resident.how)

    def _resident_peak(self) -> Reading | Absent:
        peak = self._resident.peak()
        if isinstance(peak, Absent):
            return peak
        return Reading(float(max(peak - self._baseline, 0)), "bytes", f"{self._resident.how} over the start")


class _Rusage:
    """getrusage's ru_maxrss, which cannot be reset: the window's peak is known only if it is a new maximum."""

    how = f"{RESIDENT_PEAK}, the process's largest resident set"

    def __init__(self) -> None:
        self._at_reset = 0

    def now(self) -> int:
        return _psutil_bytes("rss")

    def reset(self) -> None:
        self._at_reset = largest_resident_bytes()

    def peak(self) -> int | Absent:
        peak = largest_resident_bytes()
        if peak > self._at_reset:
            return peak
        return Absent(
            "this system cannot reset a process's memory high-water mark, and an earlier peak "
            f"of {self._at_reset / 2**20:.0f} MiB was not exceeded"
        )


class _Procfs(_Rusage):
    """Linux: VmHWM, lowered to the present resident set by writing 5 to clear_refs (Linux 4.0 and later)."""

    def __init__(self, proc: Path) -> None:
        super().__init__()
        self._proc = proc
        self._resettable = True

    @property
    def how(self) -> str:  # type: ignore[override]  # read-only: it depends on what the kernel allowed
        return "VmHWM of /proc/self/status" if self._resettable else _Rusage.how

    def now(self) -> int:
        return _status_bytes(self._proc, "VmRSS") or _psutil_bytes("rss")

    def reset(self) -> None:
        super().reset()
        _trim_heap()
        try:
            (self._proc / "clear_refs").write_text("5")
            self._resettable = True
        except OSError:
            self._resettable = False

    def peak(self) -> int | Absent:
        peak = _status_bytes(self._proc, "VmHWM") if self._resettable else None
        return super().peak() if peak is None else peak


def _trim_heap() -> None:
    """Return free memory of the C library's heap to the system: sampling the first steps leaves tens of MiB there."""
    import ctypes  # here: a program that is only run has no need of it

    with contextlib.suppress(OSError, AttributeError):  # a C library other than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(proc: Path, field: str) -> int | None:
    """A field of ``status`` in bytes (the kernel writes KiB), or None where there is none."""
    try:
        lines = (proc / "status").read_text().splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    kib = next(found, None)
    return None if kib is None else int(kib) * 1024


def _psutil_bytes(field: str) -> int:
    import psutil  # here, because it costs start-up time and Linux seldom needs it

    return int(getattr(psutil.Process().memory_info(), field))


def cuda_in_use() -> Any:
    """torch.cuda if the program has loaded torch and used a device, else None."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    initialized = getattr(cuda, "is_initialized", None)
    return cuda if initialized is not None and initialized() else None


def _other_peak() -> Absent | None:
    """Why the peak is not read on an accelerator without CUDA that the program has used; None where it used none."""
    torch = sys.modules.get("torch")
    for name in ("xpu", "mps"):
        device = getattr(torch, name, None)
        if device is not None and device.is_available() and _allocated(device):
            return Absent(
                f"the peak of memory on {name} is not read: untested, as halfstep has not run there"
            )
    return None


def _allocated(device: Any) -> bool:
    tell = getattr(device, "driver_allocated_memory", None) or device.max_memory_allocated
    return bool(tell())


def _reset_cuda() -> None:
    cuda = cuda_in_use()
    for device in range(cuda.device_count() if cuda else 0):
        cuda.reset_peak_memory_stats(device)


def _cuda_peak() -> Reading | None:
    cuda = cuda_in_use()
    used = devices_used(cuda)
    if not used:
        return None
    graphs = _has_graphs(cuda)
    peak = cuda.max_memory_reserved if graphs else cuda.max_memory_allocated
    name = "max_memory_reserved" if graphs else "max_memory_allocated"
    how = f"torch.cuda.{name}, {len(used)} device{'s' * (len(used) > 1)}"
    if graphs:
        how += "; CUDA graphs replay in memory that is reserved and not counted as allocated"
    return Reading(float(sum(peak(device) for device in used)), "bytes", how, tensors_alone=True)


def devices_used(cuda: Any) -> list[int]:
    """The CUDA devices on which this process has had tensors; ``cuda`` is ``torch.cuda``, or None."""
    return [
        device for device in range(cuda.device_count() if cuda else 0) if cuda.max_memory_allocated(device)
    ]


def _has_graphs(cuda: Any) -> bool:
    """Whether there is memory of CUDA graphs, which use separate pools."""
    return any(tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0) for segment in cuda.memory_snapshot())
