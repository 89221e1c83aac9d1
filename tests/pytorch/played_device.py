"""A GPU played by the CPU: its streams, events, pinned memory, memory with peaks, CUDA graphs, and tensors that must
not be read.

What is believed here of a GPU is written down in ``test_played_device.py``, whose tests run on a real one, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from halfstep.pytorch import devices
from halfstep.pytorch.loss_scaling import scale
from halfstep.pytorch.recording import recorder

aten = torch.ops.aten
#: on a GPU each of these waits for the device
READS = (aten._local_scalar_dense, aten.equal, aten.nonzero, aten.is_nonzero, aten.masked_select)


class Reads(TorchDispatchMode):
    """Counts the reads of values."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._overloadpacket in READS
        return func(*args, **(kwargs or {}))


class Stream:
    """A stream whose work is done when the test lets it, in order; streams do not wait for one another."""

    def __init__(self) -> None:
        self.recorded: list[Event] = []
        self.arrived = 0

    def finish(self) -> None:
        """All that was launched is done."""
        self.arrived = len(self.recorded)


class Event:
    """A CUDA event on a device that works when the test lets it.

    The class itself is the stream that the program is in; ``record`` may be given a :class:`Stream` beside it.
    """

    arrived = 0
    recorded: ClassVar[list[Event]] = []
    made: ClassVar[list[Event]] = []
    waits = 0

    def __init__(self, enable_timing: bool = False) -> None:
        self.timing = enable_timing
        self._of: Stream | type[Event] = Event

    def record(self, stream: Any = None) -> None:
        self.stream = stream
        self._of = stream if isinstance(stream, Stream) else Event
        self._of.recorded.append(self)
        self.made.append(self)

    def query(self) -> bool:
        if self not in self._of.recorded:  # the test is over, and the device put away
            return True
        return self._of.recorded.index(self) < self._of.arrived

    def synchronize(self) -> None:
        if Graph.capturing:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        if not self.query():
            Event.waits += 1
            self._of.arrived = self._of.recorded.index(self) + 1

    def elapsed_time(self, later: Event) -> float:
        assert self.timing
        assert later.timing
        if not (self.query() and later.query()):
            raise RuntimeError("CUDA error: device not ready")
        return 1000.0 * (self.made.index(later) - self.made.index(self))


class Memory:
    """What PyTorch's allocator tells of a GPU's memory: ``torch.cuda`` as far as it is asked for that.

    What is freed stays reserved. A graph has a pool of its own, and what it allocated while it was captured is free
    again for its replays, which use it uncounted.
    """

    def __init__(self, devices: int = 1) -> None:
        self._allocated, self._most = [0] * devices, [0] * devices
        self._reserved, self._most_reserved = [0] * devices, [0] * devices
        self._pools: list[tuple[int, int]] = [(0, 0)]

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return len(self._allocated)

    def allocate(self, size: int, device: int = 0) -> None:
        self._allocated[device] += size
        self._reserved[device] = max(self._reserved[device], self._allocated[device])
        self._note(device)

    def free(self, size: int, device: int = 0) -> None:
        self._allocated[device] -= size

    def capture(self, size: int, device: int = 0) -> None:
        """Capture a graph whose work needs ``size`` bytes."""
        self._pools.append((0, len(self._pools)))
        self._reserved[device] += size
        self._most[device] = max(self._most[device], self._allocated[device] + size)
        self._note(device)

    def replay(self) -> None:
        """Replay it: nothing is allocated."""

    def _note(self, device: int) -> None:
        self._most[device] = max(self._most[device], self._allocated[device])
        self._most_reserved[device] = max(self._most_reserved[device], self._reserved[device])

    def memory_allocated(self, device: int = 0) -> int:
        return self._allocated[device]

    def max_memory_allocated(self, device: int = 0) -> int:
        return self._most[device]

    def memory_reserved(self, device: int = 0) -> int:
        return self._reserved[device]

    def max_memory_reserved(self, device: int = 0) -> int:
        return self._most_reserved[device]

    def reset_peak_memory_stats(self, device: int = 0) -> None:
        self._most[device] = self._allocated[device]
        self._most_reserved[device] = self._reserved[device]

    def memory_snapshot(self) -> list[dict[str, Any]]:
        return [{"segment_pool_id": pool} for pool in self._pools]


class Graph:
    """A CUDA graph: what is captured writes to the same memory in every replay, and allocates nothing then."""

    capturing = False

    def __init__(self) -> None:
        self._work: list[Callable[[], Any]] = []
        self._results: list[Tensor] = []

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Nothing that would wait for the device is permitted inside."""
        Graph.capturing = True
        try:
            yield
        finally:
            Graph.capturing = False

    def launch(self, work: Callable[[], Tensor]) -> Tensor:
        """Launch ``work`` while capturing; its result is a tensor of the graph's."""
        self._work.append(work)
        self._results.append(work())
        return self._results[-1]

    def replay(self) -> None:
        """Run it again."""
        for work, result in zip(self._work, self._results, strict=True):
            result.copy_(work())


class Device(Tensor):
    """A tensor that says it is on a GPU; a read of its value fails."""

    is_cuda = True

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if Graph.capturing and name in ("item", "cpu", "numpy", "tolist"):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        assert name not in ("item", "__float__", "__bool__", "tolist", "cpu", "numpy", "equal"), name
        assert name != "copy_" or (kwargs or {}).get("non_blocking"), "this copy waits for the device"
        return super().__torch_function__(func, types, args, kwargs or {})


def play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the events and the pinned memory in place of CUDA's."""
    empty = torch.empty

    def pageable(*size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        return empty(*size, **options)

    monkeypatch.setattr(scale, "scaled_pass", lambda: None)  # which is for gradients on a CPU
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(devices, "capturing", lambda: Graph.capturing)
    monkeypatch.setattr(recorder, "capturing", lambda: Graph.capturing)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("stream of", device))
    monkeypatch.setattr(torch, "empty", pageable)
    monkeypatch.setattr(Event, "recorded", [])
    monkeypatch.setattr(Event, "made", [])
    monkeypatch.setattr(Event, "arrived", 0)
    monkeypatch.setattr(Event, "waits", 0)
