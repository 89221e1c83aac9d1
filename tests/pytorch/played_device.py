"""A GPU played by the CPU: its events, pinned memory, tensors that must not be read, and a count of the reads."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from halfstep.pytorch.loss_scaling import scale

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
        if not self.query():
            Event.waits += 1
            Event.arrived = self.recorded.index(self) + 1

    def elapsed_time(self, later: Event) -> float:
        assert self.timing
        assert later.timing
        return 1000.0 * (self.recorded.index(later) - self.recorded.index(self))


class Device(Tensor):
    """A tensor that says it is on a GPU; a read of its value fails."""

    is_cuda = True

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
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
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("stream of", device))
    monkeypatch.setattr(torch, "empty", pageable)
    monkeypatch.setattr(Event, "recorded", [])
    monkeypatch.setattr(Event, "arrived", 0)
    monkeypatch.setattr(Event, "waits", 0)
