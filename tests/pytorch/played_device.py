"""A GPU played by the CPU: its events, pinned memory, CUDA graphs, and tensors that must not be read.

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


class Event:
    """A CUDA event on a device that works when the test lets it."""

    arrived = 0
    recorded: ClassVar[list[Event]] = []
    waits = 0

    def __init__(self, enable_timing: bool = False) -> None:
        self.timing = enable_timing

    def record(self, stream: Any = None) -> None:
        self.stream = stream
        self.recorded.append(self)

    def query(self) -> bool:
        if self not in self.recorded:  # the test is over, and the device put away
            return True
        return self.recorded.index(self) < Event.arrived

    def synchronize(self) -> None:
        if Graph.capturing:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        if not self.query():
            Event.waits += 1
            Event.arrived = self.recorded.index(self) + 1

    def elapsed_time(self, later: Event) -> float:
        assert self.timing
        assert later.timing
        if not (self.query() and later.query()):
            raise RuntimeError("CUDA error: device not ready")
        return 1000.0 * (self.recorded.index(later) - self.recorded.index(self))


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
    monkeypatch.setattr(Event, "arrived", 0)
    monkeypatch.setattr(Event, "waits", 0)
